"""Several seeds in one model learn what each learns alone, from the same draws."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cepnb.diffusion.batched import Stacked, apart, together
from cepnb.diffusion.networks import EnergyNet, EpsNet, QNet
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.streams import Streams
from cepnb.diffusion.training import Record, seeded, train, training
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net, behaviour_plan, train_behaviour
from cepnb.qgpo.critic import critic_loss, critic_net, critic_plan, polyak_update, train_critic
from cepnb.qgpo.energy import batch_loss, energy_net, energy_plan, train_energy
from cepnb.qgpo.seeds import Fit, behaviour_fit, critic_fit, energy_fit
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.transitions import Transitions

SCHEDULE, SEEDS = VPSchedule(), (3, 0, 8)
CHOSEN = qgpo_settings(
    "ci",
    behaviour_steps=100,
    q_steps=100,
    energy_steps=100,
    energy_states=0,
    K=8,
    energy_K=8,
    checkpoint_every=100,
)
CHOSEN = replace(CHOSEN, behaviour_batch=64, q_batch=64, energy_batch=16)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """In float64 rounding, which batched products do in another order, cannot grow into a difference within these steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def examples(n: int = 300) -> tuple[Transitions, list[Tensor], list[Tensor]]:
    """Data that all seeds share, and for each a support set and its Q."""
    g = seeded(0, "batched")
    distinct = torch.randn(n + 1, 5, generator=g)
    data = Transitions(
        states=distinct[:n],
        actions=torch.rand(n, 2, generator=g),
        rewards=torch.randn(n, generator=g),
        terminals=torch.rand(n, generator=g) < 0.1,
        next_row=torch.arange(1, n + 1),
        distinct=distinct,
    )
    return (
        data,
        [2 * torch.rand(n + 1, CHOSEN.K, 2, generator=g) - 1 for _ in SEEDS],
        [torch.randn(n + 1, CHOSEN.K, generator=g) for _ in SEEDS],
    )


def behaviours() -> tuple[Fit, Callable[[int, int], tuple[nn.Module, list[Record]]]]:
    data, _, _ = examples()

    def alone(index: int, seed: int) -> tuple[nn.Module, list[Record]]:
        net = behaviour_net(5, 2, CHOSEN, SCHEDULE, seed)
        loss = behaviour_loss(net, data.states, data.actions, CHOSEN, SCHEDULE)
        return net, train(
            loss, {"net": net}, behaviour_plan(CHOSEN), seeded(seed, "behaviour"), progress=False
        )

    return behaviour_fit(data.states, data.actions, CHOSEN, SCHEDULE, SEEDS), alone


def critics() -> tuple[Fit, Callable[[int, int], tuple[nn.Module, list[Record]]]]:
    data, supports, _ = examples()

    def alone(index: int, seed: int) -> tuple[nn.Module, list[Record]]:
        q, target = (
            critic_net(data, CHOSEN, seed),
            critic_net(data, CHOSEN, seed).requires_grad_(False),
        )
        loss, after = (
            critic_loss(q, target, data, supports[index], CHOSEN),
            polyak_update(q, target, CHOSEN.target_rate),
        )
        return target, train(
            loss,
            {"q": q, "target": target},
            critic_plan(CHOSEN),
            seeded(seed, "critic"),
            after_step=after,
            progress=False,
        )

    return critic_fit(data, supports, CHOSEN, SEEDS), alone


def energies(
    method: str, labels: str
) -> tuple[Fit, Callable[[int, int], tuple[nn.Module, list[Record]]]]:
    chosen, (data, supports, values) = replace(CHOSEN, labels=labels), examples()

    def alone(index: int, seed: int) -> tuple[nn.Module, list[Record]]:
        net = energy_net(5, 2, chosen, SCHEDULE, seed)
        loss = batch_loss(
            method, net, data.distinct, supports[index], values[index], chosen, SCHEDULE
        )
        return net, train(
            loss, {"net": net}, energy_plan(chosen), seeded(seed, "energy"), progress=False
        )

    return energy_fit(method, data.distinct, supports, values, chosen, SCHEDULE, SEEDS), alone


CASES = {
    "behaviour": behaviours,
    "critic": critics,
    "cep": lambda: energies("cep", "self_normalised"),
    "cep, state value": lambda: energies("cep", "state_value"),
    "mse": lambda: energies("mse", "self_normalised"),
    "exp_mse": lambda: energies("exp_mse", "state_value"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_seed_learns_what_it_learns_alone(case: str) -> None:
    fit, alone = CASES[case]()
    history = fit.train(progress=False)
    nets, histories = zip(*(alone(index, seed) for index, seed in enumerate(SEEDS)))
    sums = [
        sum(records) for records in zip(*([record.loss for record in own] for own in histories))
    ]
    assert [record.loss for record in history] == pytest.approx(sums, rel=1e-9)
    for net, found in zip(nets, fit.result(), strict=True):
        assert type(net) is type(found)
        for name, tensor in net.state_dict().items():
            # CEP does not depend on a constant in f: the gradient of the last bias is rounding, of which Adam makes some 1e-6.
            free = case.startswith("cep") and name == "out.bias"
            torch.testing.assert_close(
                found.state_dict()[name], tensor, rtol=1e-7, atol=1e-5 if free else 1e-9
            )


def test_training_of_each_step_is_what_is_batched() -> None:
    """One seed alone, through the functions that the pipeline calls: the same bits."""
    data, (support, *_), (values, *_) = examples()
    pairs = [
        (
            behaviour_fit(data.states, data.actions, CHOSEN, SCHEDULE, [5]),
            train_behaviour(data.states, data.actions, CHOSEN, SCHEDULE, 5, progress=False),
        ),
        (
            critic_fit(data, [support], CHOSEN, [5]),
            train_critic(data, support, CHOSEN, 5, progress=False),
        ),
        (
            energy_fit("cep", data.distinct, [support], [values], CHOSEN, SCHEDULE, [5]),
            train_energy(
                "cep", data.distinct, support, values, CHOSEN, SCHEDULE, 5, progress=False
            ),
        ),
    ]
    for fit, expected in pairs:
        fit.train(progress=False)
        (found,) = fit.result()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor), name


def test_several_seeds_resume_bit_for_bit(tmp_path: Path) -> None:
    data, supports, _ = examples()

    def fit(seeds: tuple[int, ...]) -> Fit:
        made = critic_fit(data, supports, CHOSEN, seeds)
        return replace(made, plan=replace(made.plan, record_every=20, checkpoint_every=20))

    whole, broken = fit(SEEDS), fit(SEEDS)
    expected = whole.train(progress=False)
    for _ in training(
        broken.loss,
        broken.modules,
        broken.plan,
        broken.streams,
        after_step=broken.after_step,
        checkpoint=tmp_path / "c",
        progress=False,
    ):
        break  # after the first checkpoint
    again = fit((9, 9, 9))  # other first weights and draws: all must come from the checkpoint
    assert again.train(tmp_path / "c", progress=False) == expected
    for net, found in zip(whole.result(), again.result(), strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(net.state_dict().values(), found.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    "make, shapes",
    [
        (lambda: EpsNet(2, 5, (16, 8), embedding=8), ((9, 4, 2), (9,), (9, 1, 5))),
        (lambda: EpsNet(2, 0, (16, 8), embedding=8), ((9, 2), (9,))),
        (lambda: EnergyNet(2, 5, 16, 2), ((9, 4, 2), (9,), (9, 1, 5))),
        (lambda: QNet(5, 2, 16, 2), ((9, 1, 5), (9, 4, 2))),
        (lambda: QNet(5, 2, 16, 2, 3), ((9, 1, 5), (9, 4, 2))),
    ],
)
def test_a_stack_is_its_networks_side_by_side(
    make: Callable[[], nn.Module], shapes: tuple[tuple[int, ...], ...]
) -> None:
    nets, inputs = (
        [make() for _ in range(3)],
        [0.1 + 0.8 * torch.rand(3, *shape) for shape in shapes],
    )
    stack = together(nets)
    expected = torch.stack(
        [net(*(value[index] for value in inputs)) for index, net in enumerate(nets)]
    )
    torch.testing.assert_close(stack(*inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(stack(*inputs), expected)
    assert isinstance(stack, Stacked) and set(stack.net.state_dict()) == set(nets[0].state_dict())
    for net, part in zip(nets, apart(stack), strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(net.state_dict().values(), part.state_dict().values(), strict=True)
        )
    assert together(nets[:1]) is nets[0] and apart(nets[0]) == nets[:1]


def test_streams_go_back_to_where_they_were() -> None:
    streams = Streams([seeded(seed, "streams") for seed in SEEDS])
    kept = streams.get_state()
    first = [torch.rand(3, generator=generator) for generator in streams]
    streams.set_state(kept)
    assert all(
        torch.equal(a, torch.rand(3, generator=generator))
        for a, generator in zip(first, streams, strict=True)
    )
    assert len(kept) == 3 and streams.device == torch.device("cpu")
