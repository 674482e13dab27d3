"""Test the benchmark, and what no machine changes: operations, evaluations, bytes."""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cepnb.cli import main
from cepnb.diffusion.guidance import energy_gradient, guided
from cepnb.diffusion.networks import EnergyNet, EpsNet
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.qgpo.behaviour import behaviour_loss, train_behaviour
from cepnb.qgpo.policy import guided_policy, sample_actions
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench import rows
from cepnb.tools.bench.inputs import ACTION_DIM, EPISODES, STATE_DIM, Inputs
from cepnb.tools.bench.rows import ROWS
from cepnb.tools.bench.timing import in_turns, median_ratio, operations

SMALL = replace(
    Settings(), behaviour_widths=(32, 16), behaviour_embedding=16, energy_width=16, sampler_steps=5
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink the rows to a second each; networks and batches keep the paper's sizes."""
    monkeypatch.setattr(rows, "SETTINGS", replace(rows.SETTINGS, transitions=3_000))
    for name, value in (("SUPPORT_STATES", 8), ("EPISODES", 2), ("MAZE_ROWS", 50)):
        monkeypatch.setattr(rows, name, value)


@pytest.fixture
def eps() -> EpsNet:
    return EpsNet(ACTION_DIM, STATE_DIM, SMALL.behaviour_widths, embedding=16)


def batch_sizes(module: nn.Module, call: Callable[[], object]) -> list[int]:
    """Return the batch size of each forward pass of a module during `call`."""
    sizes: list[int] = []
    hook = module.register_forward_hook(
        lambda module, inputs, output: sizes.append(output[..., 0].numel())
    )
    call()
    hook.remove()
    return sizes


def support_of(eps: EpsNet) -> Tensor:
    """Sample 4 support actions for each of 10 states."""
    return sample_support(eps, torch.randn(10, STATE_DIM), 4, SMALL, 0, progress=False)


def test_the_command_measures_all_rows(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--repeats", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in record["rows"]] == list(ROWS)
    assert record["threads"] == torch.get_num_threads()
    for row in record["rows"]:
        assert all(row[key] > 0 for key in ("seconds", "per_second", "work", "share"))
        assert row["ratio"] is None
    copied = {row["row"] for row in record["rows"] if row["limit"] == "bytes"}
    assert copied == {"loading", "maze", "frames"}


def test_the_command_keeps_the_global_random_state(small: None) -> None:
    before = torch.random.get_rng_state()
    assert main(["bench", "--repeats", "1", "--rows", "toy"]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_command_prints_a_table(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--repeats", "2", "--rows", "toy", "frames"]) == 0
    header, _, toy, frames, empty, machine = capsys.readouterr().out.splitlines()
    assert header.startswith("| row | size |") and not empty
    assert f"threads: {torch.get_num_threads()}," in machine
    assert toy.startswith("| toy | K = 2048, width 512 |") and "of matrix products" in toy
    assert frames.startswith("| frames |") and "of copying" in frames


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--rows", "behavior"], f"row 'behavior' is unknown; choose from {', '.join(ROWS)}"),
        (["--repeats", "0"], "--repeats 0 is too small; use at least 1"),
        (
            ["--peer", "nowhere"],
            "nowhere: Offline_RL_2D/diffusion_SDE/schedule.py is missing; give a checkout of the paper's code",
        ),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], expected: str, small: None, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"cepnb: error: {expected}\n")


def test_another_version_of_the_papers_code_is_rejected(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in (
        "diffusion_SDE/schedule",
        "diffusion_SDE/loss",
        "diffusion_SDE/model",
        "diffusion_SDE/unconditional_model",
        "dataset/dataset",
    ):
        path = tmp_path / f"Offline_RL_2D/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    assert main(["bench", "--rows", "toy", "--peer", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        f"cepnb: error: {tmp_path}: not the supported version of the paper's code ("
    )


def test_calls_alternate() -> None:
    order: list[str] = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3 and [len(times) for times in seconds.values()] == [3, 3]
    assert median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == 3.0


def test_operations_of_a_behaviour_step(small: None, tmp_path: Path) -> None:
    """A weight takes 2 forward, 2 for its gradient, and 2 for its input's unless that is data."""
    inputs = Inputs(tmp_path, rows.SETTINGS)
    batch = inputs.settings.behaviour_batch
    counted = operations(ROWS["behaviour"](inputs).call)
    weights = sum(p.numel() for p in inputs.eps.parameters() if p.ndim == 2)
    # Noised actions, states and Fourier features need no gradient.
    data_weights = 2 * ACTION_DIM * 512 + STATE_DIM * 32 + 32 * 128
    assert counted == 2 * batch * (3 * weights - data_weights)


def test_a_support_action_takes_one_evaluation_per_sampler_step(eps: EpsNet) -> None:
    assert batch_sizes(eps.out, lambda: support_of(eps)) == [40] * SMALL.sampler_steps


def test_a_state_is_embedded_once_for_its_actions(eps: EpsNet) -> None:
    blocks = [block.embed for block in (*eps.down, eps.middle, *eps.up)]
    for module in (eps.state, eps.joined, *blocks):
        assert set(batch_sizes(module, lambda: support_of(eps))) == {10}
    assert batch_sizes(eps.time, lambda: support_of(eps)) == [1] * SMALL.sampler_steps


def test_guidance_at_scale_0_is_not_evaluated(eps: EpsNet) -> None:
    calls = []

    def energy(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        calls.append(xt.shape)
        return xt.sum(dim=-1)

    states = torch.randn(3, STATE_DIM)
    off = guided_policy(eps, energy, 0.0, ACTION_DIM, SMALL)(states, seeded(0, "off"))
    assert not calls
    plain = sample_actions(eps, states, ACTION_DIM, SMALL, seeded(0, "off")).squeeze(1)
    assert torch.equal(off, plain)
    guided_policy(eps, energy, 1.0, ACTION_DIM, SMALL)(states, seeded(0, "on"))
    assert len(calls) == SMALL.sampler_steps
    assert guided(eps, energy_gradient(energy), VPSchedule(), 0.0) is eps


def test_all_scales_share_a_batch_with_the_behaviour_policy(eps: EpsNet) -> None:
    """A solver step evaluates the network once; scale 0 gives the behaviour policy."""
    unclipped = replace(SMALL, clip_actions=False)
    inputs = Inputs(Path("nowhere"), unclipped)
    inputs.__dict__ |= {
        "data": Namespace(states=torch.randn(EPISODES, STATE_DIM)),
        "eps": eps,
        "energy": EnergyNet(ACTION_DIM, STATE_DIM, SMALL.energy_width),
    }
    sizes = batch_sizes(eps.out, ROWS["evaluation"](inputs).call)
    assert sizes == [(1 + len(SMALL.scales)) * EPISODES] * SMALL.sampler_steps

    states, scales = torch.randn(6, STATE_DIM), torch.tensor([0.0, 1.0, 8.0]).repeat_interleave(2)
    policy = guided_policy(eps, inputs.energy, scales, ACTION_DIM, unclipped)
    actions = policy(states, seeded(0, "scales"))
    plain = sample_actions(eps, states, ACTION_DIM, unclipped, seeded(0, "scales")).squeeze(1)
    torch.testing.assert_close(actions[:2], plain[:2], rtol=1e-4, atol=1e-4)
    assert (actions[2:] - plain[2:]).abs().max() > 1e-3


def test_blocks_draw_the_same_actions(eps: EpsNet) -> None:
    states, K = torch.randn(10, STATE_DIM), 4

    def sample(block: int | None) -> Tensor:
        return sample_actions(eps, states, ACTION_DIM, SMALL, seeded(0, "blocks"), K, block)

    # Products of other shapes round differently.
    torch.testing.assert_close(sample(3 * K), sample(None), rtol=1e-4, atol=1e-4)
    sizes = batch_sizes(eps.out, lambda: sample(3 * K))
    assert sum(sizes) == 10 * K * SMALL.sampler_steps and max(sizes) == 3 * K


SHORT = replace(
    SMALL, behaviour_steps=500, behaviour_batch=256, behaviour_rate=2e-3, sampler_steps=15
)
HALF = 4_000  # pairs for training, and as many held out


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """States, and actions of two narrow modes whose means depend on the state."""
    generator, count = seeded(0, "modes"), 2 * HALF
    states = torch.randn(count, STATE_DIM, generator=generator)
    sign = 2.0 * torch.randint(2, (count, 1), generator=generator) - 1
    noise = 0.05 * torch.randn(count, ACTION_DIM, generator=generator)
    return states, 0.4 * sign + 0.3 * states[:, :ACTION_DIM].tanh() + noise


def trained(pairs: tuple[Tensor, Tensor], **changes: object) -> EpsNet:
    states, actions = (values[:HALF] for values in pairs)
    return train_behaviour(states, actions, replace(SHORT, **changes), 0, progress=False)


@pytest.fixture(scope="module")
def trained_eps(pairs: tuple[Tensor, Tensor]) -> EpsNet:
    return trained(pairs)


def test_training_in_bfloat16_predicts_noise_as_well(
    pairs: tuple[Tensor, Tensor], trained_eps: EpsNet
) -> None:
    """Rounding changes the held-out loss by less than half of what 500 further steps improve it."""
    states, actions = (values[HALF:] for values in pairs)
    all_at_once = replace(SHORT, behaviour_batch=HALF)

    @torch.no_grad()
    def held_out(eps: EpsNet) -> float:
        assert all(p.dtype == torch.float32 for p in eps.parameters())
        loss = behaviour_loss(eps, states, actions, all_at_once)
        return loss(seeded(0, "held out")).mean().item()

    usual = held_out(trained_eps)
    rounded = held_out(trained(pairs, behaviour_precision="bfloat16"))
    longer = held_out(trained(pairs, behaviour_steps=1_000))
    print(f"float32 {usual:.4f}, bfloat16 {rounded:.4f}, float32 for 1,000 steps {longer:.4f}")
    assert rounded != usual and abs(rounded - usual) < (usual - longer) / 2


def test_bfloat16_moves_actions_by_less_than_the_solver_does(
    pairs: tuple[Tensor, Tensor], trained_eps: EpsNet
) -> None:
    """The reference for the solver's error takes 300 evaluations."""
    states, _ = pairs

    def support(**changes: object) -> Tensor:
        settings = replace(SHORT, **changes)
        return sample_support(trained_eps, states[:200], 8, settings, 0, progress=False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean().sqrt()

    exact = support(sampler_steps=300)
    usual, rounded = support(), support(support_precision="bfloat16")
    error, rounding = distance(usual, exact), distance(rounded, usual)
    print(f"solver {error:.4f}, rounding {rounding:.4f}")
    assert 0 < rounding < error / 2
    assert distance(rounded, exact) < 1.2 * error


def test_a_support_set_stores_its_actions_only(eps: EpsNet) -> None:
    assert support_of(eps).untyped_storage().nbytes() == 4 * 10 * 4 * ACTION_DIM


def test_a_full_disk_stops_the_random_support_set(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped write to a full disk would kill the process."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    inputs = Inputs(tmp_path, rows.SETTINGS)
    assert len(inputs.data.distinct)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CepnbError, match=r"support-.*.npy: could not be written \(No space left"):
        inputs.support  # noqa: B018
    assert not list(tmp_path.glob("support*"))
