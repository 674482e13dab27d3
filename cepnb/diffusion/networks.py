"""The networks: noise prediction ε_θ, energy f_φ and twin Q. A state shared by K actions is embedded once."""

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cepnb.diffusion.features import PlaceFeatures, PlaneFeatures, TimeFeatures
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError


class JointLinear(nn.Module):
    """Linear layer of several inputs side by side: W [x; y] + b computed as W_x x + W_y y + b.

    The inputs may have different leading axes as long as they broadcast, so a state of shape (batch, 1, ds) beside
    actions of shape (batch, K, da) costs one product a state and not K. An input of width 0 is passed as None.
    """

    def __init__(self, widths_in: tuple[int, ...], width_out: int) -> None:
        super().__init__()
        self.widths_in = widths_in
        bound = 1 / math.sqrt(sum(widths_in))
        self.weight = nn.Parameter(torch.empty(width_out, sum(widths_in)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width_out).uniform_(-bound, bound))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        products, bias = [], self.bias
        for value, part, width in zip(
            inputs, self.weight.split(self.widths_in, dim=1), self.widths_in, strict=True
        ):
            if width == 0:
                continue
            if value is None or value.shape[-1] != width:
                found = "nothing" if value is None else f"width {value.shape[-1]}"
                raise CepnbError(f"network input: found {found}, expected width {width}")
            products.append(F.linear(value, part, bias))
            bias = None
        # The smallest first: what is shared by K actions meets their K rows once, and once on the way back.
        return reduce(torch.add, sorted(products, key=torch.numel))


class ResidualBlock(nn.Module):
    """Two SiLU layers with the embedding of (t, s) added between them, and a skip (a projection if widths differ)."""

    def __init__(self, width_in: int, width_out: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, width_out)
        self.second = nn.Linear(width_out, width_out)
        self.embed = nn.Linear(embedding, width_out)
        self.skip = nn.Linear(width_in, width_out) if width_in != width_out else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        inner = _silu(self.first(h)).add_(self.embed(embedding))
        return _silu(self.second(inner)).add_(self.skip(h))


class EpsNet(nn.Module):
    """Noise prediction ε_θ(x_t, t[, s]): a U-shaped residual MLP, after the reference settings of arXiv:2304.12824.

    Widths fall through `widths`, pass a middle block, and rise again with the falling half concatenated. With
    widths (512, 256, 128), 17 state and 6 action dimensions it has the 1.6 M parameters of the paper.
    Shapes: x (*batch, dim), t any leading axes of x, condition broadcastable to (*batch, condition_dim) → (*batch, dim).
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        widths: tuple[int, ...] = (512, 256, 128),
        time_dim: int = 32,
        embedding: int = 128,
        schedule: VPSchedule = VPSchedule(),
    ) -> None:
        super().__init__()
        self.time = TimeFeatures(schedule, time_dim)
        self.state = nn.Linear(condition_dim, 32) if condition_dim else None
        self.join = JointLinear((time_dim, 32 if condition_dim else 0), embedding)
        self.joined = nn.Linear(embedding, embedding)
        self.down = nn.ModuleList(
            ResidualBlock(a, b, embedding) for a, b in pairwise((dim, *widths))
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], embedding)
        rising = widths[:0:-1]  # the narrowest width first, the widest left to the output layer
        self.up = nn.ModuleList(
            ResidualBlock(2 * w, up, embedding)
            for w, up in zip(rising, widths[-2::-1], strict=True)
        )
        self.out = nn.Linear(2 * widths[0], dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        state = None if self.state is None else _silu(self.state(_present(condition)))
        embedding = _silu(self.joined(_silu(self.join(self.time(t, x), state))))
        falling, h = [], x
        for block in self.down:
            h = block(h, embedding)
            falling.append(h)
        h = self.middle(h, embedding)
        for block in self.up:
            h = block(torch.cat([falling.pop(), h], dim=-1), embedding)
        return self.out(torch.cat([falling.pop(), h], dim=-1))


class EnergyNet(nn.Module):
    """Intermediate energy f_φ(x_t, t[, s]) ≈ E_t(x_t) up to a constant in x_t: a SiLU MLP (the paper's is 4 × 256).

    Shapes as `EpsNet`, but the value is a scalar: (*batch, dim) → (*batch,). Low where p_t is favoured over q_t.
    With `plane`, x_t enters through these features.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        width: int = 256,
        depth: int = 4,
        time_dim: int = 32,
        schedule: VPSchedule = VPSchedule(),
        plane: PlaneFeatures | None = None,
    ) -> None:
        super().__init__()
        self.time, self.plane = TimeFeatures(schedule, time_dim), plane
        self.first = JointLinear((plane.width if plane else dim, time_dim, condition_dim), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        h = _silu(self.first(self.plane(x, t) if self.plane else x, self.time(t, x), condition))
        for layer in self.hidden:
            h = _silu(layer(h))
        return self.out(h).squeeze(-1)


class PlaneEpsNet(nn.Module):
    """Noise prediction for a density in the plane: an MLP of `PlaneFeatures`, preconditioned (Karras et al. 2022).

    ε_θ = σ_t x_t/v + (α_t m/√v) F(x_t, t) with v = α_t² m² + σ_t²: the answer for a Gaussian of deviation m, and a
    network of unit targets for the rest. Near t = 1, where x̂_0 = (x_t − σ_t ε_θ)/α_t would magnify every error by
    1/α_t = 150, it is then wrong by no more than m times that of F. Shapes as `EpsNet`, without a condition.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        deviation: float,
        features: int,
        scale: float = 2.0,
        time_dim: int = 32,
        schedule: VPSchedule = VPSchedule(),
    ) -> None:
        super().__init__()
        self.plane = PlaneFeatures(schedule, dim, features, scale, deviation)
        self.time = TimeFeatures(schedule, time_dim)
        self.first = JointLinear((self.plane.width, time_dim), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        h = _silu(self.first(self.plane(x, t), self.time(t, x)))
        for layer in self.hidden:
            h = _silu(layer(h))
        schedule, variance = self.plane.schedule, self.plane.variance(t, x)
        alpha, sigma = (expand_as(c, x) for c in (schedule.alpha(t), schedule.sigma(t)))
        return sigma / variance * x + alpha * self.plane.deviation / variance.sqrt() * self.out(h)


class QNet(nn.Module):
    """Action value Q_ψ(s, a): a ReLU MLP (the paper's is 3 × 256). Shapes (*batch, ds), (*batch, da) → (*batch,).

    With `place_frequencies` above 0 the state enters with its `PlaceFeatures` of so many frequencies.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        width: int = 256,
        depth: int = 3,
        place_frequencies: int = 0,
    ) -> None:
        super().__init__()
        self.place = PlaceFeatures(state_dim, place_frequencies) if place_frequencies else None
        self.first = JointLinear((self.place.width if self.place else state_dim, action_dim), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        h = F.relu_(self.first(self.place(state) if self.place else state, action))
        for layer in self.hidden:
            h = F.relu_(layer(h))
        return self.out(h).squeeze(-1)


class TwinQ(nn.Module):
    """Two independent Q networks; `both` gives each, calling the module gives the smaller (clipped double Q-learning,
    Fujimoto et al. 2018). States may broadcast against actions: (batch, 1, ds) with (batch, K, da) → (batch, K)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        width: int = 256,
        depth: int = 3,
        place_frequencies: int = 0,
    ) -> None:
        super().__init__()
        self.q1 = QNet(state_dim, action_dim, width, depth, place_frequencies)
        self.q2 = QNet(state_dim, action_dim, width, depth, place_frequencies)

    def both(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.q1(state, action), self.q2(state, action)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.minimum(*self.both(state, action))


def in_bfloat16(net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same network with its products of matrices in bfloat16, forwards and backwards; weights and results are as before."""

    def rounded(x: Tensor, *others: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return net(x, *others).to(x.dtype)

    return rounded


def _silu(h: Tensor) -> Tensor:
    """SiLU of a fresh value, in its own memory where no gradient will ask for that value again."""
    return F.silu(h, inplace=not torch.is_grad_enabled())


def _present(condition: Tensor | None) -> Tensor:
    if condition is None:
        raise CepnbError(
            "condition: found None, expected the states that this network was built for"
        )
    return condition


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, frozen ones included (buffers are not parameters)."""
    return sum(p.numel() for p in module.parameters())
