"""Which settings each step of QGPO depends on, so that runs which differ in later ones only share the files of the others."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from cepnb.qgpo.energy import TRAINED_ENERGIES
from cepnb.qgpo.settings import Settings, completed
from cepnb.storage.files import atomic_path, read_json, write_json
from cepnb.storage.runs import Run

# Of each step the settings that it reads itself, and the steps whose results it takes. The test of this table has every
# step say what it reads, and wants every setting to be somewhere here.
_SAMPLING = {"sampler_steps", "clip_actions"}
_STORING = {"support_precision", "support_storage"}
_CRITIC = {
    "training",
    "beta_q",
    "discount",
    "q_width",
    "q_depth",
    "place_frequencies",
    "q_steps",
    "q_batch",
    "q_rate",
    "q_final",
    "target_rate",
    "checkpoint_every",
}
_ENERGY = {"beta", "labels", "energy_width", "energy_depth", "energy_batch"}
STEPS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "data": ({"transitions", "data_seed", "reward_tuning"}, ()),
    "behaviour": (
        {
            "behaviour_widths",
            "behaviour_embedding",
            "behaviour_steps",
            "behaviour_batch",
            "behaviour_rate",
            "behaviour_final",
            "behaviour_precision",
            "checkpoint_every",
        },
        ("data",),
    ),
    "support": ({"K", "state_jitter"} | _STORING | _SAMPLING, ("behaviour",)),
    "energy_support": (
        {"energy_states", "energy_K", "state_jitter"} | _STORING | _SAMPLING,
        ("behaviour",),
    ),
    "critic": (_CRITIC, ("support",)),
    **{
        f"energy_{method}": (
            _ENERGY | {"energy_steps", "energy_rate", "energy_final"},
            ("critic", "energy_support"),
        )
        for method in TRAINED_ENERGIES
    },
    "joint": (_CRITIC | _ENERGY | {"guidance"}, ("support", "energy_support")),
    "evaluation": (
        {"scales", "headline_scale", "best_of", "episodes"} | _SAMPLING,
        ("joint", *(f"energy_{method}" for method in TRAINED_ENERGIES)),
    ),
}


def settings_of(step: str) -> frozenset[str]:
    """All settings on which the result of a step depends, by itself or through the steps before it."""
    own, before = STEPS[step]
    return frozenset(own).union(*(settings_of(earlier) for earlier in before))


def files_of(settings: Settings) -> list[str]:
    """The steps of a run of which a file is kept."""
    support = ["behaviour", "support", *(["energy_support"] if settings.energy_states else [])]
    if settings.training == "joint":
        return [*support, "joint"]
    return [
        *support,
        "critic",
        *(f"energy_{method}" for method in settings.guidance if method in TRAINED_ENERGIES),
    ]


def rounds(options: dict[str, Settings]) -> list[list[str]]:
    """The names of the options in rounds: what two of them share is made in one round, and there in later ones."""
    made: dict[tuple, int] = {}  # a step under its settings → the round of the option that makes it
    ordered: list[list[str]] = []
    for name, chosen in options.items():
        keys = [
            (step, *(getattr(chosen, field) for field in sorted(settings_of(step))))
            for step in files_of(chosen)
        ]
        index = max((made[key] + 1 for key in keys if key in made), default=0)
        for key in keys:
            made.setdefault(key, index)
        ordered.extend([] for _ in range(index + 1 - len(ordered)))
        ordered[index].append(name)
    return ordered


def reuse_steps(run: Run, settings: Settings, others: Iterable[Path]) -> list[str]:
    """Link the files of finished steps from other runs' folders into that of `run`; returns the steps.

    A step is taken from the first folder whose run has the same dataset, seed and device, and the same settings as far as the
    step depends on them: its file is then the one that `run` would make, to the bit if by as many threads. The seconds
    that it took are taken over with it. Steps that `run` has are left as they are.
    """
    wanted, taken = read_json(run.folder / "settings.json"), []
    for step in files_of(settings):
        path = run.folder / f"{step}.safetensors"
        for other in others:
            if (
                not path.exists()
                and (other / path.name).exists()
                and _agree(step, wanted, read_json(other / "settings.json"))
            ):
                seconds = {
                    name: value for name, value in Run(other).seconds.items() if name == step
                }
                write_json(run.folder / "seconds.json", run.seconds | seconds)
                _link(other / path.name, path)
                taken.append(step)
    return taken


def _agree(step: str, wanted: dict, found: dict) -> bool:
    if any(
        wanted.get(key) != found.get(key) for key in ("dataset", "rows", "digest", "seed", "device")
    ):
        return False
    ours, theirs = (completed(configuration["settings"]) for configuration in (wanted, found))
    return all(ours.get(name) == theirs.get(name) for name in settings_of(step))


def _link(source: Path, path: Path) -> None:
    """One file under two names, which is safe because files are replaced and never written into; else a copy."""
    try:
        os.link(source, path)
    except OSError:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
