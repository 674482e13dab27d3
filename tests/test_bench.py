"""The benchmark runs, and what does not depend on the machine is held: operations, evaluations, bytes."""

import json
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
from cepnb.diffusion.training import seeded
from cepnb.qgpo.behaviour import behaviour_loss, train_behaviour
from cepnb.qgpo.policy import guided_policy, sample_actions
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench import rows
from cepnb.tools.bench.rows import ACTION_DIM, EPISODES, ROWS, SCHEDULE, STATE_DIM, Inputs
from cepnb.tools.bench.turns import in_turns, median_ratio, operations

SMALL = replace(
    Settings(), behaviour_widths=(32, 16), behaviour_embedding=16, energy_width=16, sampler_steps=5
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows at sizes of a second; the networks and batches stay the paper's."""
    for name, value in (
        ("TRANSITIONS", 3_000),
        ("SUPPORT_STATES", 8),
        ("EPISODES", 2),
        ("MAZE_ROWS", 50),
    ):
        monkeypatch.setattr(rows, name, value)


@pytest.fixture
def eps() -> EpsNet:
    return EpsNet(ACTION_DIM, STATE_DIM, SMALL.behaviour_widths, embedding=16, schedule=SCHEDULE)


def rows_seen(module: nn.Module, call: Callable[[], object]) -> list[int]:
    """How many rows each call of a module has during `call`."""
    seen: list[int] = []
    hook = module.register_forward_hook(
        lambda module, inputs, output: seen.append(output[..., 0].numel())
    )
    call()
    hook.remove()
    return seen


def test_the_command_gives_all_rows(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--repeats", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in record["rows"]] == list(ROWS) and record[
        "threads"
    ] == torch.get_num_threads()
    for row in record["rows"]:
        assert (
            row["seconds"] > 0
            and row["per_second"] > 0
            and row["work"] > 0
            and row["share"] > 0
            and row["ratio"] is None
        )
    assert {row["row"] for row in record["rows"] if row["limit"] == "bytes"} == {
        "loading",
        "maze",
        "frames",
    }


def test_the_command_prints_a_table(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--repeats", "2", "--rows", "toy", "frames"]) == 0
    header, _, toy, frames, empty, machine = capsys.readouterr().out.splitlines()
    assert (
        header.startswith("| row | size |")
        and not empty
        and f"threads: {torch.get_num_threads()}," in machine
    )
    assert toy.startswith("| toy | K = 2048, width 512 |") and "of matrix products" in toy
    assert frames.startswith("| frames |") and "of copying" in frames


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--rows", "behavior"], f"row 'behavior': expected some of {', '.join(ROWS)}"),
        (["--repeats", "0"], "--repeats 0: expected at least 1"),
        (
            ["--peer", "nowhere"],
            "nowhere: no Offline_RL_2D/diffusion_SDE/schedule.py, expected a checkout of the paper's code",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: str, small: None, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"cepnb: error: {expected}\n")


def test_other_code_in_the_place_of_the_papers_is_named(
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
        path.write_text("")
    assert main(["bench", "--rows", "toy", "--peer", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        f"cepnb: error: {tmp_path}: not the version of the paper's code that is known here ("
    )


def test_calls_take_turns() -> None:
    order: list[str] = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3 and [len(times) for times in seconds.values()] == [3, 3]
    assert median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == 3.0


def test_operations_of_a_behaviour_step(small: None, tmp_path: Path) -> None:
    """2 a weight and example forwards, 2 for its gradient, and 2 for that of its input unless this is data."""
    inputs = Inputs(tmp_path)
    batch = inputs.settings.behaviour_batch
    counted = operations(ROWS["behaviour"](inputs).call)
    weights = sum(p.numel() for p in inputs.eps.parameters() if p.ndim == 2)
    # Of noised actions, states and Fourier features no gradient is taken.
    of_data = 2 * ACTION_DIM * 512 + STATE_DIM * 32 + 32 * 128
    assert counted == 2 * batch * (3 * weights - of_data)


def test_a_support_action_takes_so_many_evaluations_and_no_more(eps: EpsNet) -> None:
    states, K = torch.randn(10, STATE_DIM), 4
    evaluations = rows_seen(
        eps.out, lambda: sample_support(eps, states, K, SMALL, SCHEDULE, 0, progress=False)
    )
    assert evaluations == [10 * K] * SMALL.sampler_steps


def test_a_state_is_embedded_once_for_its_actions(eps: EpsNet) -> None:
    states, K = torch.randn(10, STATE_DIM), 4
    for module in (
        eps.state,
        eps.joined,
        *(block.embed for block in (*eps.down, eps.middle, *eps.up)),
    ):
        seen = rows_seen(
            module, lambda: sample_support(eps, states, K, SMALL, SCHEDULE, 0, progress=False)
        )
        assert set(seen) == {10}
    times = rows_seen(
        eps.time, lambda: sample_support(eps, states, K, SMALL, SCHEDULE, 0, progress=False)
    )
    assert times == [1] * SMALL.sampler_steps


def test_guidance_that_is_off_is_not_evaluated(eps: EpsNet) -> None:
    calls = []

    def energy(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        calls.append(xt.shape)
        return xt.sum(dim=-1)

    states = torch.randn(3, STATE_DIM)
    off = guided_policy(eps, energy, 0.0, ACTION_DIM, SMALL, SCHEDULE)(states, seeded(0, "off"))
    assert not calls
    plain = sample_actions(eps, states, ACTION_DIM, SMALL, SCHEDULE, seeded(0, "off")).squeeze(1)
    assert torch.equal(off, plain)
    guided_policy(eps, energy, 1.0, ACTION_DIM, SMALL, SCHEDULE)(states, seeded(0, "on"))
    assert len(calls) == SMALL.sampler_steps
    assert guided(eps, energy_gradient(energy), SCHEDULE, 0.0) is eps


def test_all_scales_are_one_batch_the_behaviour_among_them(eps: EpsNet) -> None:
    """A step of the solver asks the network once for all of them, and s = 0 acts as the behaviour does."""
    chosen = replace(SMALL, clip_actions=False)
    inputs = Inputs(Path("nowhere"), chosen)
    inputs.__dict__ |= {
        "data": Namespace(states=torch.randn(EPISODES, STATE_DIM)),
        "eps": eps,
        "energy": EnergyNet(ACTION_DIM, STATE_DIM, SMALL.energy_width, schedule=SCHEDULE),
    }
    seen = rows_seen(eps.out, ROWS["evaluation"](inputs).call)
    assert seen == [(1 + len(SMALL.scales)) * EPISODES] * SMALL.sampler_steps

    states, scales = torch.randn(6, STATE_DIM), torch.tensor([0.0, 1.0, 8.0]).repeat_interleave(2)
    actions = guided_policy(eps, inputs.energy, scales, ACTION_DIM, chosen, SCHEDULE)(
        states, seeded(0, "scales")
    )
    plain = sample_actions(eps, states, ACTION_DIM, chosen, SCHEDULE, seeded(0, "scales")).squeeze(
        1
    )
    torch.testing.assert_close(actions[:2], plain[:2], rtol=1e-4, atol=1e-4)
    assert (actions[2:] - plain[2:]).abs().max() > 1e-3


def test_blocks_draw_the_same_actions(eps: EpsNet) -> None:
    states, K = torch.randn(10, STATE_DIM), 4
    whole, blocks = (
        sample_actions(eps, states, ACTION_DIM, SMALL, SCHEDULE, seeded(0, "blocks"), K, block)
        for block in (None, 3 * K)
    )
    torch.testing.assert_close(
        blocks, whole, rtol=1e-4, atol=1e-4
    )  # but for the rounding of products of other shapes
    seen = rows_seen(
        eps.out,
        lambda: sample_actions(
            eps, states, ACTION_DIM, SMALL, SCHEDULE, seeded(0, "blocks"), K, 3 * K
        ),
    )
    assert sum(seen) == 10 * K * SMALL.sampler_steps and max(seen) == 3 * K


FEW_STEPS = replace(SMALL, behaviour_steps=500, behaviour_batch=256, behaviour_rate=2e-3)


def two_modes(count: int) -> tuple[Tensor, Tensor]:
    """States, and actions of a behaviour of two narrow modes, whose means follow the state."""
    generator = seeded(0, "modes")
    states = torch.randn(count, STATE_DIM, generator=generator)
    sign = 2.0 * torch.randint(2, (count, 1), generator=generator) - 1
    return states, 0.4 * sign + 0.3 * states[:, :ACTION_DIM].tanh() + 0.05 * torch.randn(
        count, ACTION_DIM, generator=generator
    )


def test_training_in_bfloat16_predicts_noise_as_well() -> None:
    """On pairs held back, all at the same times and noise: what rounding adds is far below what 500 steps leave to learn."""
    states, actions = two_modes(8_000)

    def held_back(**changes: object) -> float:
        chosen = replace(FEW_STEPS, **changes)
        eps = train_behaviour(states[:4_000], actions[:4_000], chosen, SCHEDULE, 0, progress=False)
        assert all(p.dtype == torch.float32 for p in eps.parameters())
        with torch.no_grad():
            return (
                behaviour_loss(
                    eps,
                    states[4_000:],
                    actions[4_000:],
                    replace(FEW_STEPS, behaviour_batch=4_000),
                    SCHEDULE,
                )(seeded(0, "held back"))
                .mean()
                .item()
            )

    usual, rounded, longer = (
        held_back(),
        held_back(behaviour_precision="bfloat16"),
        held_back(behaviour_steps=1_000),
    )
    print(f"float32 {usual:.4f}, bfloat16 {rounded:.4f}, float32 for 1,000 steps {longer:.4f}")
    assert rounded != usual and abs(rounded - usual) < (usual - longer) / 2


def test_bfloat16_moves_actions_by_less_than_the_solver_does() -> None:
    """The solver's own error is against 300 evaluations."""
    chosen, (states, actions) = replace(FEW_STEPS, sampler_steps=15), two_modes(4_000)
    eps = train_behaviour(states, actions, chosen, SCHEDULE, 0, progress=False)

    def support(**changes: object) -> Tensor:
        return sample_support(
            eps, states[:200], 8, replace(chosen, **changes), SCHEDULE, 0, progress=False
        )

    exact = support(sampler_steps=300)
    usual, rounded = support(), support(support_precision="bfloat16")
    error, rounding = (
        (usual - exact).square().mean().sqrt(),
        (rounded - usual).square().mean().sqrt(),
    )
    print(f"solver {error:.4f}, rounding {rounding:.4f}")
    assert 0 < rounding < error / 2
    assert (rounded - exact).square().mean().sqrt() < 1.2 * error


def test_a_support_set_holds_its_actions_and_nothing_else(eps: EpsNet) -> None:
    states, K = torch.randn(10, STATE_DIM), 4
    actions = sample_support(eps, states, K, SMALL, SCHEDULE, 0, progress=False)
    assert actions.untyped_storage().nbytes() == 4 * 10 * K * ACTION_DIM
