"""Networks that come with the package: what a run has written, whole, and a policy that is better than its behaviour."""

import shutil
from pathlib import Path

import pytest
import torch

from cepnb.datasets.registry import load_dataset
from cepnb.diffusion.schedule import VPSchedule
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.errors import CepnbError
from cepnb.qgpo.evaluation import rollout
from cepnb.qgpo.pipeline import Steps, configuration_of
from cepnb.qgpo.policy import behaviour_policy, guided_policy
from cepnb.qgpo.pretrained import keep, main, read_learned, shipped_networks
from cepnb.qgpo.settings import qgpo_settings
from cepnb.storage.files import load_tensors, read_json, save_tensors, write_json
from cepnb.storage.runs import Run

NAME = "local/maze2d-umaze"
CHOSEN = qgpo_settings(
    "ci", transitions=2_000, behaviour_steps=10, q_steps=10, energy_steps=10, energy_states=50
)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    dataset = load_dataset(NAME, CHOSEN.transitions, CHOSEN.data_seed)
    run = Run(
        tmp_path_factory.mktemp("run"), configuration_of(dataset, "maze2d-umaze", CHOSEN, "ci", 3)
    )
    trained = Steps(dataset, CHOSEN, 3, run, progress=False)
    trained.energy("cep")
    return trained


def test_what_is_kept_are_the_networks_of_the_run(steps: Steps, tmp_path: Path) -> None:
    keep(steps.run.folder, tmp_path / "kept.safetensors")
    found = read_learned(tmp_path / "kept.safetensors")
    assert found.settings == CHOSEN
    assert torch.equal(found.scaling.mean, steps.scaling.mean) and torch.equal(
        found.scaling.deviation, steps.scaling.deviation
    )
    generator = torch.Generator().manual_seed(0)
    a, s, t = (
        torch.randn(5, 2, generator=generator),
        torch.randn(5, 4, generator=generator),
        torch.full((5,), 0.3),
    )
    for ours, theirs in ((found.eps, steps.eps), (found.energy, steps.energy("cep"))):
        assert torch.equal(ours(a, t, s), theirs(a, t, s)) and not any(
            p.requires_grad for p in ours.parameters()
        )


def test_what_is_no_run_or_of_other_data_is_named(
    steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, path = tmp_path / "run", tmp_path / "kept.safetensors"
    shutil.copytree(steps.run.folder, run)
    stored = read_json(run / "settings.json")
    write_json(run / "settings.json", stored | {"digest": "another"})
    with pytest.raises(CepnbError, match="made with digest another"):
        keep(run, path)
    write_json(run / "settings.json", stored)
    (run / "energy_cep.safetensors").unlink()
    assert main([str(run), str(path)]) == 2
    said = capsys.readouterr().err
    assert "energy_cep.safetensors" in said and said.count("\n") == 1 and not path.exists()


def test_another_file_or_name_is_named(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(CepnbError, match="expected the networks of a run"):
        read_learned(steps.run.folder / "behaviour.safetensors")
    path = tmp_path / "kept.safetensors"
    keep(steps.run.folder, path)
    tensors, metadata = load_tensors(path)
    save_tensors(
        path,
        {name: value for name, value in tensors.items() if name != "energy_cep.out.bias"},
        metadata,
    )
    with pytest.raises(CepnbError, match="tensor 'out.bias' is missing"):
        read_learned(path)
    with pytest.raises(CepnbError, match="networks of 'ant': expected one of hopper-medium-replay"):
        shipped_networks("ant")


def test_the_shipped_policy_hops_farther_than_its_behaviour() -> None:
    of, schedule, returns = shipped_networks("hopper-medium-replay"), VPSchedule(), {}
    for name, policy in (
        ("behaviour", behaviour_policy(of.eps, 3, of.settings, schedule)),
        ("guided", guided_policy(of.eps, of.energy, 1.0, 3, of.settings, schedule)),
    ):
        returns[name], _ = rollout(
            lambda rows: policy,
            LocomotionEnv("hopper", 16, seed=5),
            of.scaling,
            torch.Generator().manual_seed(0),
            progress=False,
        )
    assert returns["guided"].mean() > 1.4 * returns["behaviour"].mean()
