"""The five steps in one folder: killed runs resume to the same numbers, and misfits are refused."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import kills_until_done

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.registry import load_dataset
from cepnb.envs.base import Episodes
from cepnb.envs.registry import episodes_of
from cepnb.errors import CepnbError
from cepnb.experiments.report import scores_text
from cepnb.experiments.scores import rows_of
from cepnb.qgpo import evaluation, pipeline
from cepnb.qgpo.pipeline import Steps, configuration_of, evaluate_run, run_qgpo
from cepnb.qgpo.pretrained import load_networks
from cepnb.qgpo.record import cached_run, read_metrics
from cepnb.qgpo.settings import Settings, coerce, qgpo_settings
from cepnb.storage.files import read_json, write_json
from cepnb.storage.runs import Run
from cepnb.storage.tensors import load_tensors, save_tensors

NAME = "local/maze2d-umaze"


def ci(**changes: object) -> Settings:
    return qgpo_settings("ci", **changes)


def dataset(chosen: Settings) -> OfflineDataset:
    return load_dataset(NAME, chosen.transitions, chosen.data_seed)


def run(folder: Path, **changes: object) -> dict:
    chosen = ci(**changes)
    return run_qgpo(dataset(chosen), "maze2d-umaze", chosen, "ci", 0, folder, progress=False)


def copy_files(source: Path, target: Path, *names: str) -> None:
    """Copy the files of the named steps, or of all steps."""
    for path in (*source.glob("*.safetensors"), *source.glob("*.npy")):
        if not names or path.stem in names:
            shutil.copy(path, target)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, run(folder)


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the evaluation, for tests that do not compare its returns."""

    def short(*args: object) -> Episodes:
        env = episodes_of(*args)
        env.max_steps = 10
        return env

    monkeypatch.setattr(evaluation, "episodes_of", short)


def _run_until_killed(folder: Path, writes: int) -> None:
    """Run, and die by SIGKILL during write number `writes`, with the temporary file half written."""
    import cepnb.storage.tensors

    torch.set_num_threads(1)
    whole, count = cepnb.storage.tensors.save_file, 0

    def save_file(tensors: dict, path: str, metadata: dict | None = None) -> None:
        nonlocal count
        count += 1
        whole(tensors, path, metadata=metadata)
        if count == writes:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    cepnb.storage.tensors.save_file = save_file
    run(folder)


def test_a_run_killed_several_times_ends_with_the_same_numbers(
    tmp_path: Path, unbroken: tuple[Path, dict]
) -> None:
    assert kills_until_done(_run_until_killed, (tmp_path, 5), 10) >= 3
    folder, expected = unbroken
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["scores"] == expected["scores"] and found["q_mean"] == expected["q_mean"]
    for path in folder.glob("*.safetensors"):
        stored, again = load_tensors(path)[0], load_tensors(tmp_path / path.name)[0]
        assert all(torch.equal(stored[name], again[name]) for name in stored), path.name
    for path in folder.glob("*.npy"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_numbers_of_a_run(unbroken: tuple[Path, dict]) -> None:
    folder, metrics = unbroken
    assert metrics == json.loads((folder / "metrics.json").read_text())
    chosen = ci()
    guided = [(method, scale) for method in ("cep", "mse") for scale in chosen.scales]
    expected = [("behaviour", 0.0), *guided, ("best_of_k", None)]
    assert [(record["method"], record["scale"]) for record in metrics["scores"]] == expected
    for record in metrics["scores"]:
        assert set(record) == {
            "method",
            "scale",
            "episodes",
            "return_mean",
            "return_se",
            "normalised",
            "normalised_se",
        }
        assert record["episodes"] == chosen.episodes and 0 <= record["return_mean"] <= 300
        assert record["normalised"] == pytest.approx(
            100 * (record["return_mean"] - 23.85) / (161.86 - 23.85)
        )
        assert record["normalised_se"] == pytest.approx(
            100 * record["return_se"] / (161.86 - 23.85)
        )
    assert set(metrics["seconds"]) == {
        "behaviour",
        "support",
        "critic",
        "energy_support",
        "energy_cep",
        "energy_mse",
        "evaluation",
    }
    assert [(record["method"], record["scale"]) for record in metrics["gains"]] == [
        ("reweighted", None),
        ("reweighted", None),
        ("summed", 1.0),
        ("summed", 1.0),
        *guided,
    ]
    assert (
        metrics["settings"]["beta"] == chosen.beta
        and metrics["seed"] == 0
        and "torch" in metrics["versions"]
    )
    assert not list(folder.rglob("*.part")) and not list(folder.glob("*.checkpoint.*"))
    lines = scores_text(metrics["scores"]).splitlines()
    assert len(lines) == 1 + len(expected) and all(len(line) < 80 for line in lines)


def test_a_finished_run_is_returned_and_not_repeated(
    unbroken: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, metrics = unbroken
    monkeypatch.setattr(pipeline, "Steps", None)
    assert run(folder) == metrics


def test_two_processes_share_a_folder_and_the_last_step_runs_all_before_it(
    unbroken: tuple[Path, dict], tmp_path: Path
) -> None:
    chosen = ci()
    data = dataset(chosen)
    configuration = pipeline.configuration_of(data, "maze2d-umaze", chosen, "ci", 0)
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(
            target=lambda: (
                Steps(data, chosen, 0, Run(tmp_path, configuration), progress=False).energies
            )
        )
        for _ in range(2)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    files = {path.name for path in unbroken[0].iterdir() if path.suffix in (".safetensors", ".npy")}
    assert len(files) == 7
    for name in files:
        assert (tmp_path / name).read_bytes() == (unbroken[0] / name).read_bytes()
    assert set(Run(tmp_path, configuration).seconds) == set(unbroken[1]["seconds"]) - {"evaluation"}


def test_without_guidance_only_the_behaviour_model_is_trained(
    unbroken: tuple[Path, dict], tmp_path: Path, short_episodes: None
) -> None:
    """Imitation alone scores the same as the behaviour of a whole run, and can be loaded."""
    found = run(tmp_path, guidance=(), best_of=0)
    names = {path.name for path in tmp_path.iterdir()}
    assert "behaviour.safetensors" in names and not names & {"support.npy", "critic.safetensors"}
    (score,) = found["scores"]
    assert score["method"] == "behaviour" and "gains" not in found
    networks = load_networks(tmp_path)
    assert networks.q is None and networks.methods == ["behaviour"]
    assert torch.equal(networks.eps.out.bias, load_networks(unbroken[0]).eps.out.bias)


def test_other_energies_reuse_the_same_models(
    unbroken: tuple[Path, dict], tmp_path: Path, short_episodes: None
) -> None:
    """Behaviour, support set and critic do not depend on how the policy is guided."""
    copy_files(unbroken[0], tmp_path, "behaviour", "support", "critic", "energy_support")
    changes = dict(labels="self_normalised", q_in_energy=False, episodes=2)
    found = run(tmp_path, guidance=("cep", "exp_mse", "dps"), **changes)
    assert [record["method"] for record in found["scores"]] == [
        "behaviour",
        "cep",
        "cep",
        "exp_mse",
        "exp_mse",
        "dps",
        "dps",
        "best_of_k",
    ]
    assert {"energy_cep", "energy_exp_mse"} <= set(found["seconds"]) and "critic" not in found[
        "seconds"
    ]
    assert not (tmp_path / "energy_dps.safetensors").exists()
    gain = {
        record["method"]: record["gain"]
        for record in found["gains"]
        if record["scale"] in (None, 1.0)
    }
    assert set(gain) == {"reweighted", "summed", "cep", "exp_mse", "dps"} and gain["reweighted"] > 0


def test_without_best_of_k_the_other_scores_stay(
    unbroken: tuple[Path, dict], tmp_path: Path
) -> None:
    copy_files(unbroken[0], tmp_path)
    assert run(tmp_path, best_of=0)["scores"] == unbroken[1]["scores"][:-1]


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"beta": 3.0}, r"settings.json: made with beta 60.0, now 3.0; use another folder"),
        ({"transitions": 3_000}, r"settings.json: made with rows \d+, now \d+; use another folder"),
        (
            {"scales": (1.0, 2.0, 3.0)},
            r"settings.json: made with scales \[1.0, 3.0\], now \[1.0, 2.0, 3.0\]; use another folder",
        ),
    ],
)
def test_another_setting_in_the_same_folder_is_refused(
    unbroken: tuple[Path, dict], changes: dict, complaint: str
) -> None:
    with pytest.raises(CepnbError, match=complaint):
        run(unbroken[0], **changes)


def test_metrics_of_another_setting_are_refused_without_a_settings_file(
    unbroken: tuple[Path, dict], tmp_path: Path
) -> None:
    shutil.copy(unbroken[0] / "metrics.json", tmp_path)
    with pytest.raises(
        CepnbError, match=r"metrics.json: made with beta 60.0, now 3.0; use another folder"
    ):
        run(tmp_path, beta=3.0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert run(tmp_path) == unbroken[1]


def test_other_data_under_the_same_name_is_refused(unbroken: tuple[Path, dict]) -> None:
    other = dataset(ci())
    other.rewards[7] += 1
    with pytest.raises(
        CepnbError, match=r"settings.json: made with digest \w{16}, now \w{16}; use another folder"
    ):
        run_qgpo(other, "maze2d-umaze", ci(), "ci", 0, unbroken[0], progress=False)


def test_a_setting_missing_in_an_older_run_has_its_default(
    unbroken: tuple[Path, dict], tmp_path: Path
) -> None:
    """The finished run is returned, and refused for another value of that setting."""
    later = ("behaviour_precision", "support_precision", "support_storage", "place_frequencies")
    for name in ("settings.json", "metrics.json"):
        older = read_json(unbroken[0] / name)
        for setting in later:
            older["settings"].pop(setting)
        older.pop("digest")
        write_json(tmp_path / name, older)
    assert run(tmp_path)["scores"] == unbroken[1]["scores"]
    row = rows_of(read_json(tmp_path / "metrics.json"))[0]
    assert all(row[setting] == getattr(Settings(), setting) for setting in later)
    with pytest.raises(CepnbError, match="made with support_precision float32, now bfloat16"):
        run(tmp_path, support_precision="bfloat16")


def test_a_cached_run_is_shared_by_callers_of_the_same_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CEPNB_CACHE", str(tmp_path))
    chosen = ci()
    configuration, other = (
        configuration_of(dataset(chosen), "maze2d-umaze", s, "ci", 0)
        for s in (chosen, ci(beta=3.0))
    )
    folder = cached_run(configuration).folder
    assert (
        folder
        == cached_run(json.loads(json.dumps(configuration))).folder
        != cached_run(other).folder
    )
    assert (
        folder.name.startswith("maze2d-umaze-ci-seed0-")
        and read_json(folder / "settings.json")["settings"]["beta"] == 60.0
    )


def test_weights_of_another_shape_are_refused(unbroken: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = unbroken
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    tensors, metadata = load_tensors(folder / "behaviour.safetensors")
    save_tensors(
        tmp_path / "behaviour.safetensors", tensors | {"out.bias": torch.zeros(3)}, metadata
    )
    with pytest.raises(
        CepnbError,
        match=r"behaviour.safetensors: tensor 'out.bias' has shape \(3,\); use weights of shape \(2,\)",
    ):
        run(tmp_path)


def test_an_energy_that_is_not_finite_loses_only_its_own_scores(
    unbroken: tuple[Path, dict], tmp_path: Path, short_episodes: None
) -> None:
    copy_files(unbroken[0], tmp_path)
    tensors, metadata = load_tensors(tmp_path / "energy_cep.safetensors")
    save_tensors(
        tmp_path / "energy_cep.safetensors",
        tensors | {"out.bias": torch.zeros(1), "out.weight": tensors["out.weight"] * math.nan},
        metadata,
    )
    for _ in range(2):  # the second call reads the stored metrics
        with pytest.raises(
            CepnbError,
            match=r"metrics.json: cep at s = 1: actions that are not finite; .*; all other scores are there$",
        ):
            run(tmp_path)
    found = read_json(tmp_path / "metrics.json")
    assert (
        {record["method"] for record in found["scores"]}
        == {"behaviour", "mse", "best_of_k"}
        == {record["method"] for record in found["gains"]} - {"reweighted", "summed"}
        | {"behaviour", "best_of_k"}
    )


def test_a_full_disk_is_one_line_and_keeps_finished_files(
    unbroken: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = unbroken
    for name in ("settings.json", "behaviour.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cepnb.storage.tensors.save_file", full)
    with pytest.raises(
        CepnbError, match=r"could not be written \(No space left on device\)"
    ) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "behaviour.safetensors").read_bytes() == (
        folder / "behaviour.safetensors"
    ).read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_constant_rewards_and_other_widths_are_refused(tmp_path: Path) -> None:
    data = dataset(ci())
    flat = OfflineDataset(
        "flat",
        data.observations,
        data.actions,
        torch.ones_like(data.rewards),
        data.next_observations,
        data.terminals,
        data.episode_returns,
    )
    with pytest.raises(
        CepnbError, match="flat: all rewards are 1; use data with rewards that differ"
    ):
        run_qgpo(flat, "maze2d-umaze", ci(), "ci", 0, tmp_path, progress=False)
    wide = OfflineDataset(
        "wide",
        data.observations.repeat(1, 2),
        data.actions,
        data.rewards,
        data.next_observations.repeat(1, 2),
        data.terminals,
        data.episode_returns,
    )
    with pytest.raises(
        CepnbError,
        match=r"wide: states and actions have widths \(8, 2\), those of maze2d-umaze have \(4, 2\)",
    ):
        run_qgpo(wide, "maze2d-umaze", ci(), "ci", 0, tmp_path, progress=False)
    with pytest.raises(CepnbError, match="^checkpoint_every 150: use a multiple of 100$"):
        run(tmp_path, checkpoint_every=150)
    with pytest.raises(CepnbError, match="environment 'maze2d-tiny': use one of maze2d-umaze"):
        run_qgpo(data, "maze2d-tiny", ci(), "ci", 0, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_critic_and_energies_trained_together(
    unbroken: tuple[Path, dict], tmp_path: Path, short_episodes: None
) -> None:
    """The networks of joint training are scored, and another energy trains from their Q."""
    copy_files(unbroken[0], tmp_path, "behaviour", "support", "energy_support")
    changes = dict(training="joint", q_in_energy=False, episodes=2)
    found = run(tmp_path, guidance=("cep", "mse", "dps"), **changes)
    assert set(found["seconds"]) == {"joint", "evaluation"}
    assert [record["method"] for record in found["scores"]][1:-1] == [
        "cep",
        "cep",
        "mse",
        "mse",
        "dps",
        "dps",
    ]
    assert not (tmp_path / "critic.safetensors").exists()
    steps = Steps(
        dataset(ci()),
        ci(guidance=("cep", "mse", "dps"), **changes),
        0,
        Run(tmp_path),
        progress=False,
    )
    again = steps.energy("exp_mse")  # not in `guidance`: trained afterwards
    assert (tmp_path / "energy_exp_mse.safetensors").exists() and again is not steps.energy("cep")


def test_a_trained_folder_is_scored_later_without_its_data(
    unbroken: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished steps are not repeated, training needs no environment, and scores are those of one call."""
    copy_files(unbroken[0], tmp_path)
    for step in ("train_behaviour", "sample_support", "train_critic", "train_energy"):
        monkeypatch.setattr(pipeline, step, lambda *_, name=step, **__: pytest.fail(f"{name} ran"))
    chosen, data = ci(), dataset(ci())

    def trained(environment: str | None = None) -> dict:
        return run_qgpo(
            data, environment, chosen, "ci", 0, tmp_path, progress=False, evaluation=False
        )

    with pytest.raises(CepnbError, match="has no metrics.json; finish the training first"):
        evaluate_run(tmp_path, "maze2d-umaze", progress=False)
    metrics = trained()
    assert metrics["scores"] == [] and "environment" not in metrics
    assert metrics["gains"] == unbroken[1]["gains"] and metrics == trained()
    with pytest.raises(CepnbError, match="has no score; evaluate the run first"):
        read_metrics(tmp_path / "metrics.json")
    with pytest.raises(CepnbError, match=r"widths \(4, 2\), those of hopper have \(11, 3\)"):
        evaluate_run(tmp_path, "hopper", progress=False)
    with pytest.raises(CepnbError, match="rows tried, maze2d-large steps to another state"):
        evaluate_run(tmp_path, "maze2d-large", progress=False)
    with pytest.raises(CepnbError, match="environment is missing"):
        run_qgpo(data, None, chosen, "ci", 0, tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "Steps", None)
        found = evaluate_run(tmp_path, "maze2d-umaze", progress=False)
    assert found["scores"] == unbroken[1]["scores"] and list(found["seconds"]) == ["evaluation"]
    assert found.keys() == unbroken[1].keys()
    assert found["environment"] == read_json(tmp_path / "settings.json")["environment"]
    monkeypatch.setattr(pipeline, "score", None)  # later calls read the stored scores
    assert evaluate_run(tmp_path, "maze2d-umaze", progress=False) == found
    assert run(tmp_path) == found == trained() == trained("maze2d-umaze")
    with pytest.raises(CepnbError, match="trained for maze2d-umaze, not maze2d-medium"):
        evaluate_run(tmp_path, "maze2d-medium", progress=False)
    metrics = read_json(tmp_path / "metrics.json")
    for damage, reason in (
        ({"seed": "0"}, "seed: expected `int`, got `str`"),
        ({"gains": [{"method": "cep"}]}, r"gains\[0\]: object missing required field `scale`"),
        ({"q_mean": math.inf}, "q_mean: expected `float` <= .*"),
    ):
        (tmp_path / "metrics.json").write_text(json.dumps(metrics | damage))
        expected = f"metrics.json: {reason}; use the metrics.json of a finished run"
        with pytest.raises(CepnbError, match=expected):
            run(tmp_path)


def test_every_second_state_of_step_4_is_moved_off_the_data(tmp_path: Path) -> None:
    """The states themselves are those without jitter, which runs of an earlier version drew."""
    data, states = load_dataset("local/maze2d-umaze", 300, 0), {}
    for jitter in (0.0, 0.5):
        chosen = qgpo_settings("ci", energy_states=2_000, energy_jitter=jitter, transitions=300)
        run = Run(tmp_path / str(jitter), {})
        states[jitter] = Steps(data, chosen, 0, run, progress=False).contrast_states
    moved = states[0.5] - states[0.0]
    assert (moved[::2] == 0).all()
    torch.testing.assert_close(moved[1::2].std(0), torch.full((4,), 0.5), rtol=0.1, atol=0)
    known = Steps(data, chosen, 0, run, progress=False).seen.distinct
    assert (torch.cdist(states[0.0][:20], known).amin(1) < 1e-3).all()


def test_settings_of_files_and_the_command_line_are_converted() -> None:
    found = coerce({"scales": [1, 3.0], "beta": 3, "K": 5, "guidance": ["cep"], "labels": "x"})
    assert found == {"scales": (1.0, 3.0), "beta": 3.0, "K": 5, "guidance": ("cep",), "labels": "x"}
    assert type(found["beta"]) is float and type(found["scales"][0]) is float
    for changes, reason in (
        ({"beta": "3"}, "^beta: expected `float`, got `str`; write True or False"),
        ({"K": True}, "^K: expected `int`, got `bool`; write True or False"),
        (
            {"scales": [1, True]},
            r"^scales: \[1\]: expected `float`, got `bool`; write True or False",
        ),
        ({"betta": 3}, "^setting 'betta': use one of beta"),
    ):
        with pytest.raises(CepnbError, match=reason):
            coerce(changes)
    with pytest.raises(CepnbError, match="^environment 'maze3d': use one of maze2d-umaze"):
        qgpo_settings("ci", "maze3d")
    assert qgpo_settings("ci") == qgpo_settings("ci", "maze2d-umaze")
    assert qgpo_settings("ci", "hopper") == qgpo_settings("ci", "locomotion")


def test_settings_of_numpy_and_torch_become_plain(as_users_call_it: None) -> None:
    found = Settings(
        beta=np.float32(3), K=np.int64(16), scales=np.array([1.0, 2.0]), guidance=["cep"]
    )
    assert found == Settings(beta=3.0, scales=(1.0, 2.0), guidance=("cep",))
    assert Settings(beta=torch.tensor(2.0), best_of=torch.tensor(0)).beta == 2.0
    kinds = (found.beta, found.K, found.scales, found.scales[0])
    assert [type(value) for value in kinds] == [float, int, tuple, float]
    json.dumps(asdict(found))
    assert type(Settings(beta=5).beta) is float and ci(q_rate=np.float64(1e-3)).q_rate == 1e-3


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"K": True}, "K: expected `int`, got `bool`; write True or False, 3"),
        ({"q_rate": np.bool_(True)}, "q_rate: expected `float`, got `bool`; write"),
        ({"clip_actions": 1}, "clip_actions: expected `bool`, got `int`; write"),
        ({"K": 4.5}, "K: expected `int`, got `float`; write"),
        ({"beta": "3"}, "beta: expected `float`, got `str`; write"),
        ({"beta": np.ones(2)}, "beta: expected `float`, got `array`; write"),
        ({"beta": np.float32("nan")}, "beta nan: use a finite number above 0"),
        ({"beta": 1e38}, r"beta 1e\+38: use at most 1e\+30"),
        ({"beta_q": 1e31}, r"beta_q 1e\+31: use at most 1e\+30"),
        ({"target_rate": 1.5}, "target_rate 1.5: use at most 1.0"),
        ({"q_steps": 10**400}, "q_steps 10+: use at most 2147483647"),
        ({"q_steps": 2**31}, "q_steps 2147483648: use at most 2147483647"),
        ({"scales": (1.0, 1.0, 3.0)}, r"scales \(1.0, 1.0, 3.0\): use each value once"),
        ({"guidance": ("cep", "cep")}, r"guidance \('cep', 'cep'\): use each value once"),
    ],
)
def test_settings_from_python_are_checked_as_those_of_files(
    changes: dict, reason: str, as_users_call_it: None
) -> None:
    for build in (Settings, ci):
        with pytest.raises(CepnbError, match=f"^{reason}"):
            build(**changes)
    assert Settings(behaviour_widths=(64, 64)).behaviour_widths == (64, 64)


def test_a_run_takes_plain_arguments_and_refuses_others(
    unbroken: tuple[Path, dict], tmp_path: Path, as_users_call_it: None
) -> None:
    folder, metrics = unbroken
    data, chosen = dataset(ci()), ci()
    task = data, "maze2d-umaze", chosen
    options = {"progress": False, "device": "cpu"}
    assert run_qgpo(*task, "ci", np.int64(0), str(folder), **options) == metrics
    assert evaluate_run(str(folder), "maze2d-umaze", **options) == metrics
    for profile, seed, device, reason in (
        ("zz", 0, "cpu", "profile 'zz' is unknown; use one of ci, laptop, desktop, paper"),
        ("ci", -1, "cpu", "seed -1: use an integer from 0 to 2147483647"),
        ("ci", 0, "tpu", "--device tpu: use cpu or cuda"),
    ):
        with pytest.raises(CepnbError, match=reason):
            run_qgpo(*task, profile, seed, tmp_path / "new", progress=False, device=device)
    if not torch.cuda.is_available():
        with pytest.raises(CepnbError, match="finds no GPU; use --device cpu"):
            evaluate_run(folder, "maze2d-umaze", device=torch.device("cuda"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["scores", "simulator", "rights", "space", "packages"])
def test_a_run_checks_before_training_what_it_needs_at_its_end(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/nobody/.d4rl")

    settings, data = ci(), dataset(ci())
    home = r"maze2d-umaze: cannot be evaluated here \(PermissionError: .*d4rl'\); set HOME"
    if broken == "scores":
        monkeypatch.setattr(pipeline, "normalised_score", fail)
    elif broken == "simulator":
        monkeypatch.setattr(pipeline, "episodes_of", fail)
    elif broken == "rights":
        monkeypatch.setattr("cepnb.storage.files.tempfile.TemporaryFile", fail)
    elif broken == "packages":
        monkeypatch.setattr(pipeline, "version", fail)
    else:
        settings = ci(K=2**30, energy_K=8)
    reason = {
        "scores": home,
        "simulator": home,
        "rights": r"written \(Permission denied\); allow writing or use another folder",
        "space": r"settings.json: needs .* GB, but .* GB are free; free space, use another folder",
        "packages": "Permission denied",
    }[broken]
    monkeypatch.setattr(pipeline, "Steps", lambda *_: pytest.fail("training starts"))
    with pytest.raises((CepnbError, PermissionError), match=reason):
        run_qgpo(data, "maze2d-umaze", settings, "ci", 0, tmp_path / "run", progress=False)
    assert broken == "packages" or not list(tmp_path.iterdir())


def test_an_evaluation_checks_its_folder_and_environment_first(
    unbroken: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {key: value for key, value in unbroken[1].items() if key != "environment"}
    seconds = {key: value for key, value in metrics["seconds"].items() if key != "evaluation"}
    write_json(tmp_path / "metrics.json", metrics | {"scores": [], "seconds": seconds})
    monkeypatch.setattr(pipeline, "load_networks", lambda *_: pytest.fail("networks are loaded"))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "normalised_score", lambda *_: 1 / 0)
        with pytest.raises(CepnbError, match=r"cannot be evaluated here \(ZeroDivisionError: "):
            evaluate_run(tmp_path, "maze2d-umaze", progress=False)
    (tmp_path / "seconds.json").mkdir()
    with pytest.raises(CepnbError, match="seconds.json: could not be written .*; a folder has"):
        evaluate_run(tmp_path, "maze2d-umaze", progress=False)


def test_data_that_do_not_fit_the_settings_leave_no_folder(tmp_path: Path) -> None:
    """Otherwise the advised setting would be refused as another run's."""
    chosen = ci(reward_tuning="return_range")
    equal = replace(dataset(chosen), episode_returns=torch.ones(3))
    with pytest.raises(CepnbError, match="use another reward_tuning than return_range"):
        run_qgpo(equal, None, chosen, "ci", 0, tmp_path / "run", False, evaluation=False)
    assert not (tmp_path / "run").exists()


def test_only_a_refused_folder_is_blamed_on_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no renderer")

    monkeypatch.setattr(pipeline, "normalised_score", fail)
    expected = "RuntimeError: no renderer.; repair the installation$"
    with pytest.raises(CepnbError, match=expected):
        pipeline.check_evaluation("maze2d-umaze")


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "place, value, message",
    [
        (0, "local/maze2d-umaze", "dataset of type str: load it by load_task"),
        (1, 3, "environment '3': use one of maze2d-umaze"),
        (2, None, "settings of type NoneType: use those of qgpo_settings"),
        (2, {}, "settings of type dict: use those of qgpo_settings"),
        (2, "ci", "settings of type str: use those of qgpo_settings"),
        (5, None, "folder None: use a path"),
        (5, "", "folder '': use a path"),
        (7, torch.device("meta"), "--device meta: use cpu or cuda"),
    ],
)
def test_arguments_of_another_type_are_refused(
    place: int, value: object, message: str, tmp_path: Path
) -> None:
    arguments = [dataset(ci()), "maze2d-umaze", ci(), "ci", 0, tmp_path / "new", False, "cpu"]
    arguments[place] = value
    with pytest.raises(CepnbError, match=f"^{re.escape(message)}"):
        run_qgpo(*arguments)
    assert not (tmp_path / "new").exists()
