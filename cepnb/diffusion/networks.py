"""The networks: noise prediction ε_θ, energy f_φ and action values Q_i."""

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cepnb.diffusion.features import TIME_DIM, PlaceFeatures, PlaneFeatures, TimeFeatures
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError


class JointLinear(nn.Module):
    """Linear layer of several concatenated inputs: W [x; y] + b, computed as W_x x + W_y y + b.

    The leading axes of the inputs must broadcast: states (batch, 1, ds) with actions (batch, K, da)
    cost one product a state, not K. Pass None for an input of width 0. Raises `CepnbError` on an
    input of another width.
    """

    def __init__(self, widths_in: tuple[int, ...], width_out: int) -> None:
        super().__init__()
        self.widths_in = widths_in
        bound = 1 / math.sqrt(sum(widths_in))
        self.weight = nn.Parameter(torch.empty(width_out, sum(widths_in)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width_out).uniform_(-bound, bound))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        products, bias, weights = [], self.bias, self.weight.split(self.widths_in, dim=1)
        for value, weight, width in zip(inputs, weights, self.widths_in, strict=True):
            if width == 0:
                continue
            if value is None or value.shape[-1] != width:
                found = "is missing" if value is None else f"has width {value.shape[-1]}"
                raise CepnbError(f"network input {found}; pass one of width {width}")
            products.append(F.linear(value, weight, bias))
            bias = None
        # Smallest first, so that the sums of shared products are broadcast to K rows only once.
        return reduce(torch.add, sorted(products, key=torch.numel))


class ResidualBlock(nn.Module):
    """Two SiLU layers with the embedding of (t, s) added between them, and a skip connection."""

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
    """Noise prediction ε_θ(x_t, t[, s]): a U-shaped residual MLP, the paper's behaviour network.

    Blocks of falling `widths`, a middle block, and rising blocks that also take the falling blocks'
    outputs. `state_width` units embed the condition before it joins the time. Shapes: x (*batch,
    dim), t any leading axes of x, condition broadcastable to (*batch, condition_dim) → (*batch, dim).
    Raises `CepnbError` if a condition is missing.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        widths: tuple[int, ...] = (512, 256, 128),
        embedding: int = 128,
        schedule: VPSchedule = VPSchedule(),
        state_width: int = 32,
    ) -> None:
        super().__init__()
        state_width = state_width if condition_dim else 0
        self.time = TimeFeatures(schedule)
        self.state = nn.Linear(condition_dim, state_width) if condition_dim else None
        self.join = JointLinear((TIME_DIM, state_width), embedding)
        self.joined = nn.Linear(embedding, embedding)
        falling = pairwise((dim, *widths))
        self.down = nn.ModuleList(ResidualBlock(a, b, embedding) for a, b in falling)
        self.middle = ResidualBlock(widths[-1], widths[-1], embedding)
        rising = pairwise(widths[::-1])
        self.up = nn.ModuleList(ResidualBlock(2 * a, b, embedding) for a, b in rising)
        self.out = nn.Linear(2 * widths[0], dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        state = None
        if self.state is not None:
            if condition is None:
                raise CepnbError("condition is missing; pass the states")
            state = _silu(self.state(condition))
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
    """Intermediate energy f_φ(x_t, t[, s]) ≈ E_t(x_t) up to a constant in x_t: a SiLU MLP.

    Shapes as in `EpsNet`, but (*batch, dim) → (*batch,). `plane` replaces the input x_t by its
    features and multiplies the output by α_t m/√v, v = α_t² m² + σ_t², because E_t flattens as x_t
    says less about x_0. `place_frequencies` > 0 adds that many `PlaceFeatures` of the condition, a
    state. The defaults are the paper's.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        width: int = 256,
        depth: int = 4,
        schedule: VPSchedule = VPSchedule(),
        plane: PlaneFeatures | None = None,
        place_frequencies: int = 0,
    ) -> None:
        super().__init__()
        self.time, self.plane = TimeFeatures(schedule), plane
        self.place, condition_width = _place(condition_dim, place_frequencies)
        self.first = JointLinear((plane.width if plane else dim, TIME_DIM, condition_width), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.place and condition is not None:
            condition = self.place(condition)
        h = _silu(self.first(self.plane(x, t) if self.plane else x, self.time(t, x), condition))
        for layer in self.hidden:
            h = _silu(layer(h))
        f = self.out(h).squeeze(-1)
        return f * self.plane.signal(t, x).squeeze(-1) if self.plane else f


class PlaneEpsNet(nn.Module):
    """Noise prediction ε_θ(x_t, t) of a toy density: an MLP of `PlaneFeatures`, preconditioned.

    ε_θ = σ_t x_t/v + (α_t m/√v) F(x_t, t) with v = α_t² m² + σ_t² (Karras et al. 2022). The first
    term is exact for a Gaussian of deviation m; the MLP F learns the rest at unit scale. Near t = 1,
    x̂_0 multiplies an error of a plain ε_θ by 1/α_t = 150, but an error of F by at most m.
    """

    def __init__(self, plane: PlaneFeatures, width: int, depth: int) -> None:
        super().__init__()
        self.plane, self.time = plane, TimeFeatures(plane.schedule)
        self.first = JointLinear((plane.width, TIME_DIM), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, plane.dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        h = _silu(self.first(self.plane(x, t), self.time(t, x)))
        for layer in self.hidden:
            h = _silu(layer(h))
        _, sigma = self.plane.schedule.coefficients(t, x)
        return sigma / self.plane.variance(t, x) * x + self.plane.signal(t, x) * self.out(h)


class QNet(nn.Module):
    """Action value Q_ψ(s, a): a ReLU MLP, with the paper's defaults.

    `place_frequencies` > 0 adds that many `PlaceFeatures` of the state. `layer_norm` normalises the
    input of each ReLU (Ba et al. 2016; for offline critics ReBRAC, Tarasov et al. 2023). Shapes:
    (*batch, ds), (*batch, da) → (*batch,); leading axes broadcast.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        width: int = 256,
        depth: int = 3,
        place_frequencies: int = 0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.place, state_width = _place(state_dim, place_frequencies)
        self.first = JointLinear((state_width, action_dim), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        norm = (lambda: nn.LayerNorm(width)) if layer_norm else nn.Identity
        self.norms = nn.ModuleList(norm() for _ in range(depth))
        self.out = nn.Linear(width, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        h = self.first(self.place(state) if self.place else state, action)
        for norm, layer in zip(self.norms, [*self.hidden, self.out]):
            h = layer(F.relu_(norm(h)))
        return h.squeeze(-1)


class QEnsemble(nn.Module):
    """`count` independent Q networks; the module returns their minimum, `each` all of their values.

    With two networks this is clipped double Q-learning (Fujimoto et al. 2018). Other arguments and
    shapes as in `QNet`: states (batch, 1, ds) and actions (batch, K, da) give (batch, K), and
    (count, batch, K) of `each`.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        width: int = 256,
        depth: int = 3,
        place_frequencies: int = 0,
        layer_norm: bool = False,
        count: int = 2,
    ) -> None:
        super().__init__()
        sizes = state_dim, action_dim, width, depth, place_frequencies, layer_norm
        self.nets = nn.ModuleList(QNet(*sizes) for _ in range(count))

    def each(self, state: Tensor, action: Tensor) -> Float[Tensor, "count *batch"]:
        return torch.stack([net(state, action) for net in self.nets])

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.each(state, action).amin(dim=0)

    def least_of(self, number: int, state: Tensor, action: Tensor) -> Tensor:
        """Return the minimum of `number` networks, other ones in other rows (Chen et al. 2021, REDQ).

        Part i of `count` equal parts of the batch uses networks i, i − 1, …. A batch of random rows
        so meets random groups of networks, and only `number` of them are evaluated in a row.
        """
        count = len(self.nets)
        if number == count:
            return self(state, action)
        least = []
        for i, (s, a) in enumerate(zip(state.tensor_split(count), action.tensor_split(count))):
            values = [self.nets[i - j](s, a) for j in range(number)]
            least.append(torch.stack(values).amin(dim=0))
        return torch.cat(least)


def in_bfloat16(net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a network's matrix products in bfloat16; weights and outputs keep their type."""

    def rounded(x: Tensor, *others: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return net(x, *others).to(x.dtype)

    return rounded


def parameter_count(module: nn.Module) -> int:
    """Count the parameters, frozen ones included (buffers are not parameters)."""
    return sum(p.numel() for p in module.parameters())


def _place(state_dim: int, count: int) -> tuple[PlaceFeatures | None, int]:
    """Return features of the state's position, or None without any, and the width of all inputs."""
    place = PlaceFeatures(state_dim, count) if count else None
    return place, place.width if place else state_dim


def _silu(h: Tensor) -> Tensor:
    """SiLU of a temporary, in place unless the gradient needs that value."""
    return F.silu(h, inplace=not torch.is_grad_enabled())
