"""The networks: broadcasting changes the cost, not the result."""

import numpy as np
import pytest
import torch

from cepnb.diffusion.networks import (
    EnergyNet,
    EpsNet,
    JointLinear,
    QEnsemble,
    QNet,
    parameter_count,
)
from cepnb.errors import CepnbError


def test_paper_size() -> None:
    """The reference settings: 1.63 M parameters at 17 state and 6 action dimensions."""
    assert parameter_count(EpsNet(dim=6, condition_dim=17)) == pytest.approx(1.63e6, rel=0.01)


def test_joint_linear_is_a_linear_layer_of_the_concatenation() -> None:
    layer, x, y = JointLinear((2, 3), 4), torch.randn(5, 2), torch.randn(5, 3)
    expected = torch.nn.functional.linear(torch.cat([x, y], dim=1), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, y), expected)


@pytest.mark.parametrize(
    "net",
    [EpsNet(2, 4, (16, 8)), EnergyNet(2, 4, 16, 2), EnergyNet(2, 4, 16, 2, place_frequencies=3)],
    ids=["eps", "energy", "energy with frequencies"],
)
def test_shared_states_and_times_equal_repeated_ones(net: torch.nn.Module) -> None:
    x, t, s = torch.randn(6, 5, 2), torch.rand(6) * 0.9 + 0.05, torch.randn(6, 4)
    shared = net(x, t, s.unsqueeze(1))
    repeated = net(x.reshape(30, 2), t.repeat_interleave(5), s.repeat_interleave(5, dim=0))
    torch.testing.assert_close(shared.reshape(repeated.shape), repeated, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        net(x[:, 0], t[0], s), net(x[:, 0], t[:1].expand(6), s), rtol=1e-4, atol=1e-5
    )


def test_without_a_condition() -> None:
    x, t = torch.randn(7, 2), torch.rand(7) * 0.9 + 0.05
    assert EpsNet(2, 0, (8, 8))(x, t).shape == (7, 2) and EnergyNet(2, 0, 8, 2)(x, t).shape == (7,)


@pytest.mark.parametrize("count", [2, 5])
def test_an_ensemble_is_the_minimum_of_different_networks(count: int) -> None:
    q, s, a = QEnsemble(4, 2, 16, 2, count=count), torch.randn(6, 1, 4), torch.randn(6, 5, 2)
    values = [net(s, a) for net in q.nets]
    assert len(values) == count and values[0].shape == (6, 5)
    assert not torch.allclose(values[0], values[-1])
    torch.testing.assert_close(q(s, a), torch.tensor([v.tolist() for v in values]).amin(dim=0))


@pytest.mark.parametrize(
    ("number", "count", "rows"), [(2, 2, 7), (2, 3, 7), (2, 5, 7), (2, 5, 3), (3, 4, 9), (4, 4, 9)]
)
def test_targets_use_some_networks_of_an_ensemble(number: int, count: int, rows: int) -> None:
    """Part i of the rows has the minimum of networks i, i − 1, …."""
    q, s, a = QEnsemble(4, 2, 16, 2, count=count), torch.randn(rows, 1, 4), torch.randn(rows, 5, 2)
    values, expected = q.each(s, a), torch.empty(rows, 5)
    for i, part in enumerate(np.array_split(np.arange(rows), count)):
        used = (i - np.arange(number)) % count
        expected[part] = values[used][:, part].amin(dim=0)
    torch.testing.assert_close(q.least_of(number, s, a), expected)


def test_frequencies_of_the_position_in_q_and_energy() -> None:
    """The first layer takes s and the waves of its first two coordinates, by hand."""
    s, a, t = torch.randn(6, 4), torch.randn(6, 2), torch.full((6,), 0.3)
    for net in (QNet(4, 2, 16, 2, 3), EnergyNet(2, 4, 16, 2, place_frequencies=3)):
        phase = s[:, :2] @ net.place.frequencies
        waves = torch.cat([s, phase.sin(), phase.cos()], dim=1)
        before = (waves, a) if isinstance(net, QNet) else (a, net.time(t, a), waves)
        expected = net.first(*before)
        kept = []
        hook = net.first.register_forward_hook(lambda *call: kept.append(call[2].clone()))
        net(s, a) if isinstance(net, QNet) else net(a, t, s)
        hook.remove()
        torch.testing.assert_close(kept[0], expected)


def test_layer_norm_of_the_critic() -> None:
    """Normalised inputs of the ReLUs, by hand; then the scale of a layer's input has no effect."""
    q, s, a = QNet(4, 2, 16, 2, layer_norm=True), torch.randn(6, 4), torch.randn(6, 2)

    def normalised(h: torch.Tensor) -> torch.Tensor:
        centred = h - h.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    h = normalised(q.first(s, a)).relu()
    expected = q.out(normalised(q.hidden[0](h)).relu()).squeeze(-1)
    found = q(s, a)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        for parameter in q.hidden[0].parameters():
            parameter *= 100
    torch.testing.assert_close(q(s, a), found, rtol=1e-3, atol=1e-4)
    assert len(QNet(4, 2, 16, 2).state_dict()) == 6  # without it, the paper's layers alone


@pytest.mark.parametrize("frequencies", [0, 3])
def test_place_features_of_the_critic(frequencies: int) -> None:
    """The state is unchanged; sin and cos of its first two coordinates are appended."""
    q, s, a = QNet(4, 2, 16, 2, frequencies), torch.randn(6, 1, 4), torch.randn(6, 5, 2)
    assert q(s, a).shape == (6, 5)
    if not frequencies:
        assert q.place is None and q.first.widths_in == (4, 2)
        return
    features = q.place(s)
    assert features.shape == (6, 1, 10) and torch.equal(features[..., :4], s)
    phase = s[..., :1] * q.place.frequencies[0] + s[..., 1:2] * q.place.frequencies[1]
    torch.testing.assert_close(features[..., 4:], torch.cat([phase.sin(), phase.cos()], dim=-1))
    assert "place.frequencies" in q.state_dict() and not q.place.frequencies.requires_grad
    with pytest.raises(
        CepnbError, match="state width 1: use states with a position, at least 2 wide"
    ):
        QNet(1, 2, 16, 2, frequencies)


def test_place_features_fit_a_value_that_jumps_at_walls() -> None:
    """Eight cells along a line with values 0, 1, 0, ...: the mean squared error after 400 steps."""
    place = torch.linspace(-1, 1, 400)
    states = torch.stack([place, torch.zeros(400), torch.zeros(400), torch.zeros(400)], dim=1)
    actions, value = torch.zeros(400, 2), ((place * 4).floor() % 2)
    errors = []
    for frequencies in (0, 32):
        torch.manual_seed(0)
        q = QNet(4, 2, 64, 2, frequencies)
        optimiser = torch.optim.Adam(q.parameters(), 1e-3)
        for _ in range(400):
            loss = (q(states, actions) - value).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append(loss.item())
    assert errors[1] < 0.05 < 0.15 < errors[0]


def test_wrong_inputs_are_named() -> None:
    x, t = torch.randn(3, 2), torch.rand(3) * 0.9 + 0.05
    with pytest.raises(CepnbError, match="condition is missing"):
        EpsNet(2, 4, (8, 8))(x, t)
    with pytest.raises(CepnbError, match="network input has width 5; pass one of width 4"):
        EnergyNet(2, 4, 8, 2)(x, t, torch.randn(3, 5))


def test_times_of_another_count_than_the_points_raise() -> None:
    for net in (EpsNet(2, 0, (8, 8)), EnergyNet(2, 0, 8, 2)):
        with pytest.raises(CepnbError, match="times or scales have shape"):
            net(torch.randn(1, 2), torch.rand(3))
