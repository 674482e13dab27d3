"""Exact energy-guided diffusion sampling by contrastive energy prediction (arXiv:2304.12824).

The public API, imported when it is first used:

- a guided density: `fit_guidance`, `own_density`
- the parts: `VPSchedule`, `EpsNet`, `EnergyNet`, `QEnsemble`, `noise_prediction`, `cep`,
  `cep_self_normalised`, `softmax_q_target`, `guided`, `dpm_solver_pp`
- policies: `run_qgpo`, `load_policy`
"""

from importlib import import_module

__version__ = "0.2.0"

_MODULES = {
    "VPSchedule": "cepnb.diffusion.schedule",
    "EpsNet": "cepnb.diffusion.networks",
    "EnergyNet": "cepnb.diffusion.networks",
    "QEnsemble": "cepnb.diffusion.networks",
    "noise_prediction": "cepnb.diffusion.losses",
    "cep": "cepnb.diffusion.losses",
    "cep_self_normalised": "cepnb.diffusion.losses",
    "softmax_q_target": "cepnb.diffusion.losses",
    "guided": "cepnb.diffusion.guidance",
    "dpm_solver_pp": "cepnb.diffusion.samplers",
    "own_density": "cepnb.densities.own",
    "fit_guidance": "cepnb.densities.own",
    "run_qgpo": "cepnb.qgpo.pipeline",
    "load_policy": "cepnb.qgpo.pretrained",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import cepnb` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cepnb' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for completion in notebooks."""
    return sorted(__all__)
