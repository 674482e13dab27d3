"""Exact energy-guided diffusion sampling by contrastive energy prediction (arXiv:2304.12824).

The public API, imported when it is first used:

- a guided density: `fit_guidance`, `own_density`
- the parts: `VPSchedule`, `EpsNet`, `EnergyNet`, `QEnsemble`, `noise_prediction`, `cep`,
  `cep_self_normalised`, `softmax_q_target`, `guided`, `dpm_solver_pp`
- policies: `run_qgpo`, `load_policy`
"""

import sys
from collections.abc import Callable
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


def lazy_names(package: str, sources: dict[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package; `sources` has the module or package of each name.

    A name that is a module itself is imported from its package. Each value is kept in `package`.
    """

    def get(name: str) -> object:
        if name not in sources:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = import_module(sources[name])
        if not hasattr(module, name):
            import_module(f"{module.__name__}.{name}")  # sets the attribute
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get


__getattr__ = lazy_names(__name__, _MODULES)  # so that `import cepnb` stays fast


def __dir__() -> list[str]:
    """List the public names, for completion in notebooks."""
    return sorted(__all__)
