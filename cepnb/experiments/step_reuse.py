"""Steps of QGPO that several runs share: which settings each step depends on, and how a run reuses finished steps."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from cepnb.experiments.scores import DEFAULTS
from cepnb.qgpo.energy import TRAINED_ENERGIES
from cepnb.qgpo.settings import Settings
from cepnb.storage.files import atomic_path, read_json, write_json
from cepnb.storage.runs import Run

_SAMPLING = "sampler_steps clip_actions"
_STORING = "state_jitter support_precision support_storage"
_BEHAVIOUR = (
    "behaviour_widths behaviour_embedding behaviour_state_width behaviour_steps behaviour_batch "
    "behaviour_rate behaviour_final behaviour_precision checkpoint_every"
)
_CRITIC = (
    "training reward_reach beta_q discount q_width q_depth q_layer_norm q_networks target_networks "
    "place_frequencies target_actions q_steps q_batch q_rate q_final target_rate checkpoint_every"
)
_ENERGY = "beta q_pessimism labels q_in_energy contrasted energy_width energy_depth energy_batch"
_ENERGY_STEPS = tuple(f"energy_{method}" for method in TRAINED_ENERGIES)
# For each step: the settings that it reads, and the steps that it depends on. A test records what each step reads.
STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("transitions data_seed reward_tuning heading_frame", ()),
    "behaviour": (_BEHAVIOUR, ("data",)),
    "support": (f"K {_STORING} {_SAMPLING}", ("behaviour",)),
    "energy_support": (
        f"energy_states energy_jitter energy_K {_STORING} {_SAMPLING}",
        ("behaviour",),
    ),
    "critic": (_CRITIC, ("support",)),
    **dict.fromkeys(
        _ENERGY_STEPS,
        (f"{_ENERGY} energy_steps energy_rate energy_final", ("critic", "energy_support")),
    ),
    "joint": (f"{_CRITIC} {_ENERGY} guidance", ("support", "energy_support")),
    "evaluation": (
        f"scales headline_scale best_of q_pessimism episodes {_SAMPLING}",
        ("joint", *_ENERGY_STEPS),
    ),
}


def settings_of(step: str) -> frozenset[str]:
    """Return the names of all settings that a step depends on, directly or through earlier steps."""
    names, earlier_steps = STEPS[step]
    return frozenset(names.split()).union(*map(settings_of, earlier_steps))


def saved_steps(settings: Settings) -> list[str]:
    """Return the steps of a run that write a file, in order."""
    if not settings.needs_critic:
        return ["behaviour"]
    steps = ["behaviour", "support"]
    if settings.energy_states:
        steps.append("energy_support")
    if settings.training == "joint":
        return [*steps, "joint"]
    methods = [method for method in settings.guidance if method in TRAINED_ENERGIES]
    return [*steps, "critic", *(f"energy_{method}" for method in methods)]


def step_path(folder: Path, step: str) -> Path:
    """Return the file of a step in a run's folder."""
    return folder / (f"{step}.npy" if step.endswith("support") else f"{step}.safetensors")


def training_rounds(options: dict[str, Settings]) -> dict[str, int]:
    """Number the round of each option, such that later rounds reuse every shared step instead of training it again."""
    trained_in: dict[tuple, int] = {}  # a step and its settings → the round that trains it
    numbers = {}
    for option, settings in options.items():
        steps = [
            (step, *(getattr(settings, name) for name in sorted(settings_of(step))))
            for step in saved_steps(settings)
        ]
        numbers[option] = 1 + max(trained_in.get(step, -1) for step in steps)
        for step in steps:
            trained_in.setdefault(step, numbers[option])
    return numbers


def reuse_steps(run: Run, settings: Settings, others: Iterable[Path]) -> list[str]:
    """Link the files of finished steps from other runs' folders into that of `run`; return these steps.

    A step comes from the first folder with the same dataset, seed and device whose settings agree wherever the step
    depends on them. Training the step in `run` would give the same file, bit for bit with the same number of threads.
    The step's seconds are copied too. Steps that `run` has already are left unchanged.
    """
    others, reused = list(others), []
    wanted = read_json(run.folder / "settings.json")
    for step in saved_steps(settings):
        path = step_path(run.folder, step)
        for other in others:
            source = step_path(other, step)
            if path.exists() or not source.exists():
                continue
            if _same_result(step, wanted, read_json(other / "settings.json")):
                seconds = Run(other).seconds
                if step in seconds:
                    write_json(run.folder / "seconds.json", run.seconds | {step: seconds[step]})
                _link(source, path)
                reused.append(step)
    return reused


def _same_result(step: str, wanted: dict, found: dict) -> bool:
    keys = ("dataset", "rows", "digest", "seed", "device")
    if any(wanted.get(key) != found.get(key) for key in keys):
        return False
    ours, theirs = DEFAULTS | wanted["settings"], DEFAULTS | found["settings"]
    return all(ours[name] == theirs[name] for name in settings_of(step))


def _link(source: Path, path: Path) -> None:
    """Hard-link a file, or copy it. A link is safe, because files are replaced and never changed in place."""
    try:
        os.link(source, path)
    except OSError:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
