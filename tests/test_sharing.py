"""What a step depends on, as it says itself while it runs; and files that are taken over only where all of that agrees."""

import os
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from cepnb.datasets.registry import load_task
from cepnb.experiments.step_reuse import STEPS, files_of, reuse_steps, rounds, settings_of
from cepnb.qgpo.pipeline import Steps, configuration_of
from cepnb.qgpo.settings import Settings, qgpo_settings
from cepnb.storage.files import load_tensors, read_json, write_json
from cepnb.storage.runs import Run

TINY = dict(
    transitions=300,
    sampler_steps=2,
    behaviour_steps=20,
    q_steps=20,
    energy_steps=20,
    energy_states=100,
    episodes=1,
    best_of=2,
)
NAME, PLACE = "local/maze2d-umaze", "maze2d-umaze"
NAMES = {field.name for field in fields(Settings)}


class Watched(Settings):
    """Settings that remember which of them are read."""

    def __getattribute__(self, name: str) -> object:
        if name in NAMES:
            object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return object.__getattribute__(self, name)

    def begin(self) -> set[str]:
        self.__dict__["read"] = set()
        return self.__dict__["read"]


def watched(**changes: object) -> Watched:
    return Watched(**asdict(qgpo_settings("ci", **TINY | changes)))


def test_the_table_is_what_the_steps_read(tmp_path: Path) -> None:
    """Each step is made from nothing, with all that it needs, and asks for its settings meanwhile."""
    read: dict[str, set[str]] = {}
    for index, changes in enumerate(
        ({}, {"energy_states": 0, "energy_K": 4}, {"training": "joint"})
    ):
        chosen = watched(guidance=("cep", "mse", "exp_mse", "dps"), **changes)
        seen = chosen.begin()
        dataset = load_task(NAME, PLACE, chosen.transitions, chosen.data_seed)
        Steps(dataset, chosen, 0, Run(tmp_path), progress=False)
        data = read["data"] = set(seen)
        makes = {
            "behaviour": lambda s: s.eps,
            "support": lambda s: s.support,
            "critic": lambda s: s.q,
            "joint": lambda s: s.q,
            "energy_support": lambda s: s.contrast_actions,
        }
        for step in files_of(chosen) if index == 0 else files_of(chosen)[-1:]:
            make = makes.get(step, lambda s: s.energy(step.removeprefix("energy_")))
            seen = chosen.begin()
            make(Steps(dataset, chosen, 0, Run(tmp_path / f"{index}-{step}"), progress=False))
            unforeseen = seen - settings_of(step)
            assert not unforeseen, f"{step} depends on {unforeseen}, which the table does not say"
            read[step] = read.get(step, set(data)) | seen
    assert set(read) == set(STEPS) - {"evaluation"}
    for step, names in read.items():
        assert names == settings_of(step), f"{step} does not depend on {settings_of(step) - names}"


def test_every_setting_is_in_the_table() -> None:
    assert set().union(*(own for own, _ in STEPS.values())) == NAMES
    assert settings_of("evaluation") == NAMES


def test_rounds_make_what_is_shared_once() -> None:
    base = qgpo_settings("ci")
    options = {
        name: qgpo_settings("ci", **changes)
        for name, changes in {
            "base": {},
            "beta": {"beta": 3.0},
            "K": {"K": 8},
            "K_beta": {"K": 8, "beta": 3.0},
            "scales": {"scales": (1.0, 2.0, 3.0)},
            "other data": {"data_seed": 1},
            "other data and beta": {"data_seed": 1, "beta": 3.0},
        }.items()
    }
    assert rounds(options) == [
        ["base", "other data"],
        ["beta", "K", "scales", "other data and beta"],
        ["K_beta"],
    ]
    assert rounds({"base": base}) == [["base"]] and rounds({}) == []


def begun(folder: Path, seed: int = 0, **changes: object) -> tuple[Run, Settings]:
    chosen = qgpo_settings("ci", **TINY | changes)
    return Run(
        folder,
        configuration_of(
            load_task(NAME, PLACE, chosen.transitions, chosen.data_seed), PLACE, chosen, "ci", seed
        ),
    ), chosen


def trained(folder: Path, **changes: object) -> Path:
    """The folder, with all steps but the evaluation."""
    run, chosen = begun(folder, **changes)
    assert Steps(
        load_task(NAME, PLACE, chosen.transitions, chosen.data_seed), chosen, 0, run, progress=False
    ).energies
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("finished"))


def test_the_files_of_a_run_are_those_that_can_be_shared(finished: Path) -> None:
    assert sorted(path.stem for path in finished.glob("*.safetensors")) == sorted(
        files_of(qgpo_settings("ci", **TINY))
    )


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"scales": (1.0, 2.0, 3.0)},
            ["behaviour", "support", "energy_support", "critic", "energy_cep", "energy_mse"],
        ),
        (
            {"guidance": ("mse", "exp_mse", "dps")},
            ["behaviour", "support", "energy_support", "critic", "energy_mse"],
        ),
        ({"beta": 3.0}, ["behaviour", "support", "energy_support", "critic"]),
        ({"labels": "state_value"}, ["behaviour", "support", "energy_support", "critic"]),
        ({"energy_states": 0, "energy_K": 4}, ["behaviour", "support", "critic"]),
        ({"training": "joint"}, ["behaviour", "support", "energy_support"]),
        ({"K": 5}, ["behaviour", "energy_support"]),
        ({"state_jitter": 0.1}, ["behaviour"]),
        ({"behaviour_rate": 1e-4}, []),
        ({"transitions": 700}, []),
    ],
)
def test_what_is_taken_over(
    finished: Path, tmp_path: Path, changes: dict, expected: list[str]
) -> None:
    run, chosen = begun(tmp_path / "run", **changes)
    assert reuse_steps(run, chosen, [tmp_path / "not begun", finished]) == expected
    assert sorted(path.stem for path in run.folder.glob("*.safetensors")) == sorted(expected)
    assert run.seconds == {step: Run(finished).seconds[step] for step in expected}
    assert reuse_steps(run, chosen, [finished]) == []


def test_another_seed_takes_nothing_over(finished: Path, tmp_path: Path) -> None:
    assert reuse_steps(*begun(tmp_path, seed=1), [finished]) == []


def test_steps_on_what_was_taken_over_are_the_steps_without(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {path.name: path.read_bytes() for path in finished.glob("*.safetensors")}
    alone = trained(tmp_path / "alone", beta=3.0)
    for name in ("linked", "copied"):
        if name == "copied":
            monkeypatch.setattr(
                os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no hard links here"))
            )
        reuse_steps(*begun(tmp_path / name, beta=3.0), [finished])
        assert os.path.samefile(
            tmp_path / name / "critic.safetensors", finished / "critic.safetensors"
        ) == (name == "linked")
        trained(tmp_path / name, beta=3.0)
        assert Run(tmp_path / name).seconds.keys() == Run(alone).seconds.keys()
        for step in files_of(qgpo_settings("ci")):
            found, expected = (
                load_tensors(folder / f"{step}.safetensors")[0]
                for folder in (tmp_path / name, alone)
            )
            assert all(torch.equal(found[key], expected[key]) for key in expected), step
    assert kept == {path.name: path.read_bytes() for path in finished.glob("*.safetensors")}
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_of_other_settings_is_no_source(finished: Path, tmp_path: Path) -> None:
    """What counts is what a folder says of itself, not which run it was meant to be."""
    other = tmp_path / "other"
    other.mkdir()
    for path in finished.glob("*.safetensors"):
        os.link(path, other / path.name)
    configuration = read_json(finished / "settings.json")
    write_json(
        other / "settings.json",
        configuration | {"settings": configuration["settings"] | {"q_rate": 1e-5}},
    )
    run, chosen = begun(tmp_path / "run")
    assert reuse_steps(run, chosen, [other]) == ["behaviour", "support", "energy_support"]
