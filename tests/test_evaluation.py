"""Environments that fail during an evaluation: the fault names them, and other scores are kept."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cepnb.cli import main
from cepnb.envs.maze import MazeEnv
from cepnb.errors import CepnbError
from cepnb.experiments.report import scores_text
from cepnb.notebook.score_plots import score_figure
from cepnb.qgpo import evaluation
from cepnb.qgpo.evaluation import PolicyBatch, evaluate, rollout, score_record
from cepnb.qgpo.transitions import Scaling
from cepnb.storage.files import read_json

SCALING = Scaling(torch.zeros(4), torch.ones(4))
FAULTS = {
    "observations": "maze2d-umaze: step 3 gives observations that are not finite; fix its simulator",
    "rewards": "maze2d-umaze: step 3 gives rewards that are not finite; fix its simulator",
    "raises": "maze2d-umaze: step 3 failed (RuntimeError: unstable)",
}


class Failing(MazeEnv):
    """The small maze, which fails at its third step."""

    max_steps = 5

    def __init__(self, way: str, *args: int) -> None:
        super().__init__("umaze", *args)
        self.way, self.max_steps = way, Failing.max_steps

    def reset(self) -> np.ndarray:
        states = super().reset()
        return states * np.nan if self.way == "reset" else states

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        observations, rewards, terminated, truncated = super().step(actions)
        if self._elapsed == 3:
            with self.simulating("step 3"):
                if self.way == "raises":
                    raise RuntimeError("unstable")
            observations[0, 1] = np.inf if self.way == "observations" else observations[0, 1]
            rewards[0] = np.nan if self.way == "rewards" else rewards[0]
        return observations, rewards, terminated, truncated


def push(scales: torch.Tensor):
    return lambda states, generator: scales[:, None].expand(-1, 2) / 10


@pytest.mark.parametrize("way", FAULTS)
def test_a_rollout_names_the_environment_and_the_step_that_fail(way: str) -> None:
    with pytest.raises(CepnbError) as caught:
        rollout(
            lambda rows: push(torch.ones(len(rows))),
            Failing(way, 2, 0),
            SCALING,
            torch.Generator(),
            progress=False,
        )
    assert str(caught.value) == FAULTS[way]
    with pytest.raises(
        CepnbError,
        match="^maze2d-umaze: reset gives observations that are not finite; fix its simulator$",
    ):
        rollout(
            lambda rows: push(torch.ones(len(rows))),
            Failing("reset", 2, 0),
            SCALING,
            torch.Generator(),
            progress=False,
        )


@pytest.mark.parametrize("way", FAULTS)
def test_other_batches_keep_their_scores(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the second of three batches fails: the fault names its policies."""

    def scored(ways: list[str]) -> tuple[list[dict], list[str]]:
        remaining = iter(ways)
        monkeypatch.setattr(
            evaluation, "episodes_of", lambda _, *args: Failing(next(remaining), *args)
        )
        generator = torch.Generator()
        return evaluate(batches, "maze2d-umaze", 2, SCALING, 0, generator, progress=False)

    batches = [
        PolicyBatch([("behaviour", 0.0)], push),
        PolicyBatch([("cep", 1.0), ("cep", 3.0)], push),
        PolicyBatch([("mse", 1.0)], push),
    ]
    whole, faults = scored(["well"] * 3)
    assert len(whole) == 4 and not faults
    records, faults = scored(["well", way, "well"])
    assert records == [whole[0], whole[3]]
    assert faults == [f"cep at s = 1, cep at s = 3: {FAULTS[way]}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run of few steps, and its command."""
    folder = tmp_path_factory.mktemp("trained")
    settings = dict(
        transitions=300,
        sampler_steps=2,
        behaviour_steps=100,
        q_steps=100,
        energy_steps=100,
        energy_states=100,
        episodes=1,
        best_of=2,
    )
    command = [
        "qgpo",
        "--dataset",
        "local/maze2d-umaze",
        "--profile",
        "ci",
        *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
        "--out",
    ]
    assert main([*command, str(folder)]) == 0
    return folder, command


def copy_steps(folder: Path, target: Path) -> None:
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.npy"), folder / "settings.json"):
        shutil.copy(file, target)


def test_a_run_keeps_the_scores_from_before_a_failure(
    trained: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, command = trained
    made, path = [], tmp_path / "metrics.json"
    copy_steps(folder, tmp_path)

    def episodes_of(environment: str, *args: int) -> Failing:
        made.append(environment)
        return Failing("rewards" if len(made) == 2 else "well", *args)

    monkeypatch.setattr(evaluation, "episodes_of", episodes_of)
    for _ in range(2):
        assert main([*command, str(tmp_path)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"cepnb: error: {path}: mse at s = 1, mse at s = 3: {FAULTS['rewards']}; all other scores are there"
        )
    found = read_json(path)
    assert [record["method"] for record in found["scores"]] == [
        "behaviour",
        "cep",
        "cep",
        "best_of_k",
    ] and len(made) == 3
    path.unlink()
    assert main([*command, str(tmp_path)]) == 0  # the environment works again
    assert len(read_json(path)["scores"]) == 6


def test_a_value_that_is_not_finite_is_a_fault_and_keeps_the_scores(
    trained: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, command = trained
    copy_steps(folder, tmp_path)
    monkeypatch.setattr(
        "cepnb.qgpo.pipeline.support_values",
        lambda q, states, actions: torch.full(actions.shape[:2], math.nan),
    )
    assert main([*command, str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "metrics.json: q_mean: not finite; beta_times_q_spread: not finite; all other scores are there"
        in line
    )
    found = read_json(tmp_path / "metrics.json")
    assert len(found["scores"]) == 6 and not {"q_mean", "beta_times_q_spread"} & set(found)


def test_one_episode_has_no_standard_error() -> None:
    one = score_record("cep", 3.0, torch.tensor([10.0]), "maze2d-umaze")
    assert "return_se" not in one and "normalised_se" not in one
    assert one["return_mean"] == 10.0 and one["normalised"] == pytest.approx(-10.035, abs=1e-3)
    line = scores_text([one]).splitlines()[1]
    assert line.split() == ["cep", "3", "1", "10.0", "±", "–", "-10.0", "±", "–"]
    two = score_record("cep", 3.0, torch.tensor([10.0, 12.0]), "maze2d-umaze")
    assert two["return_se"] == pytest.approx(1.0) and "± 1.0 " in scores_text([two])
    assert score_figure([one, two]).axes


def test_actions_and_rewards_of_another_shape_are_refused() -> None:
    """A policy's column of actions would fill both coordinates."""
    column = lambda states, generator: states[:, :1]
    env, g = Failing("well", 2, 0), torch.Generator()
    with pytest.raises(CepnbError, match=r"actions of the policy: shape is \(2, 1\); use \(2, 2\)"):
        rollout(lambda rows: column, env, SCALING, g, progress=False)
    step = env.step
    env.step = lambda actions: (step(actions)[0], np.zeros((2, 1)), *step(actions)[2:])
    with pytest.raises(CepnbError, match=r"step 1 gives rewards: shape is \(2, 1\); use \(2,\)"):
        rollout(lambda rows: push(torch.ones(len(rows))), env, SCALING, g, progress=False)
