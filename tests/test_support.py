"""The support set on disk: resumed bit for bit, memory-mapped, and smaller in half precision."""

import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import kills_until_done
from torch import Tensor

from cepnb.diffusion.networks import EpsNet
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.diffusion.training import initialised, seeded
from cepnb.qgpo import support
from cepnb.qgpo.critic import support_values, train_critic
from cepnb.qgpo.energy import train_energy
from cepnb.qgpo.joint import train_joint
from cepnb.qgpo.policy import sample_actions
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions

SCHEDULE, K, DIM = VPSchedule(), 4, 2
CHOSEN = qgpo_settings(
    "ci", K=K, energy_K=K, energy_states=0, q_steps=30, energy_steps=30, sampler_steps=3
)


def eps() -> EpsNet:
    net = initialised(0, "support test", lambda: EpsNet(DIM, 3, (16, 8), embedding=8))
    return net.requires_grad_(False)


def states(n: int = 50) -> Tensor:
    return torch.randn(n, 3, generator=seeded(0, "support states"))


def sampled(path: Path | None, **changes: object) -> Tensor:
    chosen = replace(CHOSEN, **changes)
    return sample_support(eps(), states(), K, chosen, 0, path, progress=False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the 50 states into seven chunks, the last of two states."""
    monkeypatch.setattr(support, "CHUNK", 8 * K)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_set_on_disk_is_the_set_in_memory(
    tmp_path: Path, small_chunks: None, storage: str
) -> None:
    path = tmp_path / "set.npy"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = sampled(path, support_storage=storage)
    in_memory = sampled(None, support_storage=storage)
    assert mapped.dtype == in_memory.dtype == getattr(torch, storage)
    assert torch.equal(mapped, in_memory)
    assert np.array_equal(np.load(path), in_memory.numpy())  # any reader of .npy files can load it
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


def _sample_until_killed(path: Path, chunks: int) -> None:
    """Die by SIGKILL while chunk number `chunks` of this process is sampled."""
    torch.set_num_threads(1)
    support.CHUNK, count = 8 * K, 0

    def sample(*args: object) -> Tensor:
        nonlocal count
        count += 1
        if count == chunks:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample_actions(*args)

    support.sample_actions = sample
    sampled(path)


def test_a_killed_set_resumes_to_the_same_bytes(tmp_path: Path, small_chunks: None) -> None:
    whole, path = tmp_path / "whole.npy", tmp_path / "killed.npy"
    sampled(whole)

    def check_partial() -> None:
        assert not path.exists() and len(list(tmp_path.iterdir())) > 1

    kills = kills_until_done(_sample_until_killed, (path, 4), 5, check_partial)
    assert kills >= 2 and path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.npy", "whole.npy"]


def transitions(n: int = 50) -> Transitions:
    g = seeded(0, "support data")
    return Transitions(
        states=states(n),
        actions=2 * torch.rand(n, DIM, generator=g) - 1,
        rewards=torch.randn(n, generator=g),
        terminals=torch.zeros(n, dtype=torch.bool),
        next_row=torch.arange(n).roll(-1),
        distinct=states(n),
    )


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_training_on_a_mapped_set_gives_the_same_numbers(
    tmp_path: Path, small_chunks: None, storage: str
) -> None:
    """For float16 compare with the rounded set in float32: all computations are in float32."""
    data, chosen = transitions(), replace(CHOSEN, training="joint", guidance=("cep",))

    def trained(actions: Tensor) -> list[Tensor]:
        q = train_critic(data, actions, CHOSEN, 0, progress=False)
        values = support_values(q, data.distinct, actions)
        assert values.dtype == torch.float32
        f = train_energy("cep", data.distinct, actions, values, CHOSEN, 0, progress=False)
        joint = train_joint(data, actions, data.distinct, actions, chosen, 0, progress=False)
        return [values, *(p for net in (q, f, joint) for p in net.state_dict().values())]

    mapped = sampled(tmp_path / "set.npy", support_storage=storage)
    in_memory = sampled(None).to(mapped.dtype).float()
    pairs = zip(trained(mapped), trained(in_memory), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


def test_float16_moves_actions_by_far_less_than_the_solver_does() -> None:
    """Two narrow modes whose means depend on the state, with exact ε; the reference is 300 evaluations."""

    def modes(at: Tensor, t: Tensor, state: Tensor) -> Tensor:
        alpha, sigma = expand_as(SCHEDULE.alpha(t), at), expand_as(SCHEDULE.sigma(t), at)
        variance = alpha**2 * 0.05**2 + sigma**2
        offsets = torch.stack(
            [at - alpha * (0.3 * state[..., :DIM].tanh() + sign * 0.4) for sign in (-1, 1)]
        )
        weights = (-0.5 * (offsets**2).sum(-1, keepdim=True) / variance).softmax(0)
        return sigma / variance * (weights * offsets).sum(0)

    def actions(steps: int) -> Tensor:
        chosen = replace(CHOSEN, sampler_steps=steps)
        return sample_actions(modes, states(500), DIM, chosen, seeded(0, "modes"), K)

    usual, exact = actions(15), actions(300)
    rounding, error = usual.half().float() - usual, (usual - exact).square().mean().sqrt()
    deviation = rounding.square().mean().sqrt()
    print(f"solver {error:.1e}, rounding {deviation:.1e}, at most {rounding.abs().max():.1e}")
    assert 0 < rounding.abs().max() <= 2**-12  # half a unit of the eleventh bit below 1
    assert deviation < error / 20
