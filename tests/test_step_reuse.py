"""The settings that each step reads while it runs, and the reuse of step files where all of these agree."""

import os
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from cepnb.datasets.registry import load_task
from cepnb.experiments.step_reuse import (
    STEPS,
    reuse_steps,
    saved_steps,
    settings_of,
    step_path,
    training_rounds,
)
from cepnb.qgpo.pipeline import Steps, configuration_of
from cepnb.qgpo.settings import Settings, qgpo_settings
from cepnb.storage.files import read_json, write_json
from cepnb.storage.runs import Run
from cepnb.storage.tensors import load_tensors

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
    """Settings that record which of them are read."""

    def __getattribute__(self, name: str) -> object:
        if name in NAMES:
            object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return object.__getattribute__(self, name)

    def record(self) -> set[str]:
        self.__dict__["read"] = set()
        return self.__dict__["read"]


def watched(**changes: object) -> Watched:
    return Watched(**asdict(qgpo_settings("ci", **TINY | changes)))


def test_the_table_is_what_the_steps_read(tmp_path: Path) -> None:
    """Each step runs in an empty folder, together with the steps that it needs."""
    read: dict[str, set[str]] = {}
    for index, changes in enumerate(
        ({}, {"energy_states": 0, "energy_K": 4}, {"training": "joint"})
    ):
        settings = watched(guidance=("cep", "mse", "exp_mse", "dps"), **changes)
        seen = settings.record()
        dataset = load_task(NAME, PLACE, settings.transitions, settings.data_seed)
        Steps(dataset, settings, 0, Run(tmp_path), progress=False)
        data = read["data"] = set(seen)
        run_step = {
            "behaviour": lambda s: s.eps,
            "support": lambda s: s.support,
            "critic": lambda s: s.q,
            "joint": lambda s: s.q,
            "energy_support": lambda s: s.contrast_actions,
        }
        for step in saved_steps(settings) if index == 0 else saved_steps(settings)[-1:]:
            run = run_step.get(step, lambda s: s.energy(step.removeprefix("energy_")))
            seen = settings.record()
            run(Steps(dataset, settings, 0, Run(tmp_path / f"{index}-{step}"), progress=False))
            missing = seen - settings_of(step)
            assert not missing, f"{step} reads {missing}, which its entry lacks"
            read[step] = read.get(step, set(data)) | seen
    assert set(read) == set(STEPS) - {"evaluation"}
    for step, names in read.items():
        assert names == settings_of(step), f"{step} does not read {settings_of(step) - names}"


def test_every_setting_is_in_the_table() -> None:
    assert set().union(*(names.split() for names, _ in STEPS.values())) == NAMES
    assert settings_of("evaluation") == NAMES


def test_rounds_train_shared_steps_once() -> None:
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
    assert training_rounds(options) == {
        **dict.fromkeys(["base", "other data"], 0),
        **dict.fromkeys(["beta", "K", "scales", "other data and beta"], 1),
        "K_beta": 2,
    }
    assert training_rounds({"base": base}) == {"base": 0} and training_rounds({}) == {}


def new_run(folder: Path, seed: int = 0, **changes: object) -> tuple[Run, Settings]:
    settings = qgpo_settings("ci", **TINY | changes)
    return Run(
        folder,
        configuration_of(
            load_task(NAME, PLACE, settings.transitions, settings.data_seed),
            PLACE,
            settings,
            "ci",
            seed,
        ),
    ), settings


def trained(folder: Path, **changes: object) -> Path:
    """Run all steps but the evaluation in a folder."""
    run, settings = new_run(folder, **changes)
    assert Steps(
        load_task(NAME, PLACE, settings.transitions, settings.data_seed),
        settings,
        0,
        run,
        progress=False,
    ).energies
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("finished"))


def step_files(folder: Path) -> list[Path]:
    """The files of finished steps; the observation scaling is no step."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.npy")])
    return [path for path in files if path.stem != "scaling"]


def test_every_step_of_a_run_has_a_file(finished: Path) -> None:
    steps = saved_steps(qgpo_settings("ci", **TINY))
    assert step_files(finished) == sorted(step_path(finished, step) for step in steps)


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
        ({"labels": "self_normalised"}, ["behaviour", "support", "energy_support", "critic"]),
        ({"energy_states": 0, "energy_K": 4}, ["behaviour", "support", "critic"]),
        ({"energy_jitter": 0.1}, ["behaviour", "support", "critic"]),
        ({"training": "joint"}, ["behaviour", "support", "energy_support"]),
        ({"K": 5}, ["behaviour", "energy_support"]),
        ({"state_jitter": 0.1}, ["behaviour"]),
        ({"reward_reach": 0.1}, ["behaviour", "support", "energy_support"]),
        ({"behaviour_rate": 1e-4}, []),
        ({"transitions": 700}, []),
    ],
)
def test_which_steps_are_reused(
    finished: Path, tmp_path: Path, changes: dict, expected: list[str]
) -> None:
    run, settings = new_run(tmp_path / "run", **changes)
    assert reuse_steps(run, settings, [tmp_path / "empty", finished]) == expected
    assert sorted(path.stem for path in step_files(run.folder)) == sorted(expected)
    assert run.seconds == {step: Run(finished).seconds[step] for step in expected}
    assert reuse_steps(run, settings, [finished]) == []


def test_another_seed_reuses_nothing(finished: Path, tmp_path: Path) -> None:
    assert reuse_steps(*new_run(tmp_path, seed=1), [finished]) == []


def test_steps_after_reused_ones_are_the_same_bit_for_bit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in step_files(finished)}
    alone = trained(tmp_path / "alone", beta=3.0)
    for name in ("linked", "copied"):
        if name == "copied":
            monkeypatch.setattr(
                os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no hard links here"))
            )
        reuse_steps(*new_run(tmp_path / name, beta=3.0), [finished])
        assert os.path.samefile(
            tmp_path / name / "critic.safetensors", finished / "critic.safetensors"
        ) == (name == "linked")
        trained(tmp_path / name, beta=3.0)
        assert Run(tmp_path / name).seconds.keys() == Run(alone).seconds.keys()
        for step in saved_steps(qgpo_settings("ci")):
            found, expected = (step_path(folder, step) for folder in (tmp_path / name, alone))
            if found.suffix == ".npy":
                assert found.read_bytes() == expected.read_bytes(), step
                continue
            found, expected = load_tensors(found)[0], load_tensors(expected)[0]
            assert all(torch.equal(found[key], expected[key]) for key in expected), step
    assert before == {path.name: path.read_bytes() for path in step_files(finished)}
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_counts_by_its_recorded_settings(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in step_files(finished):
        os.link(path, other / path.name)
    configuration = read_json(finished / "settings.json")
    write_json(
        other / "settings.json",
        configuration | {"settings": configuration["settings"] | {"q_rate": 1e-5}},
    )
    run, settings = new_run(tmp_path / "run")
    assert reuse_steps(run, settings, [other]) == ["behaviour", "support", "energy_support"]
