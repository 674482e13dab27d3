"""The networks: broadcasting must change the cost and not the answer."""

import pytest
import torch

from cepnb.errors import CepnbError
from cepnb.networks import EnergyNet, EpsNet, JointLinear, TwinQ, parameter_count


def test_paper_size() -> None:
    """1.63 M parameters at 17 state and 6 action dimensions, as the reference settings say."""
    assert parameter_count(EpsNet(dim=6, condition_dim=17)) == pytest.approx(1.63e6, rel=0.01)


def test_joint_linear_is_a_linear_layer_of_the_concatenation() -> None:
    layer, x, y = JointLinear((2, 3), 4), torch.randn(5, 2), torch.randn(5, 3)
    expected = torch.nn.functional.linear(torch.cat([x, y], dim=1), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, y), expected)


@pytest.mark.parametrize("net", [EpsNet(2, 4, (16, 8)), EnergyNet(2, 4, 16, 2)], ids=["eps", "energy"])
def test_a_shared_state_and_time_are_the_same_as_repeated_ones(net: torch.nn.Module) -> None:
    x, t, s = torch.randn(6, 5, 2), torch.rand(6) * 0.9 + 0.05, torch.randn(6, 4)
    shared = net(x, t, s.unsqueeze(1))
    repeated = net(x.reshape(30, 2), t.repeat_interleave(5), s.repeat_interleave(5, dim=0))
    torch.testing.assert_close(shared.reshape(repeated.shape), repeated, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[:, 0], t[0], s), net(x[:, 0], t[:1].expand(6), s), rtol=1e-4, atol=1e-5)


def test_without_a_condition() -> None:
    x, t = torch.randn(7, 2), torch.rand(7) * 0.9 + 0.05
    assert EpsNet(2, 0, (8, 8))(x, t).shape == (7, 2) and EnergyNet(2, 0, 8, 2)(x, t).shape == (7,)


def test_twin_q_is_the_smaller_of_two_different_networks() -> None:
    q, s, a = TwinQ(4, 2, 16, 2), torch.randn(6, 1, 4), torch.randn(6, 5, 2)
    one, two = q.both(s, a)
    assert one.shape == (6, 5) and not torch.allclose(one, two)
    torch.testing.assert_close(q(s, a), torch.minimum(one, two))


def test_wrong_inputs_are_named() -> None:
    x, t = torch.randn(3, 2), torch.rand(3) * 0.9 + 0.05
    with pytest.raises(CepnbError, match="found None"):
        EpsNet(2, 4, (8, 8))(x, t)
    with pytest.raises(CepnbError, match="expected width 4"):
        EnergyNet(2, 4, 8, 2)(x, t, torch.randn(3, 5))
