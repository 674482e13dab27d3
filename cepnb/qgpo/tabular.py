"""Small Markov decision processes that are solved exactly, and a maze as one of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cepnb.densities.mixtures import GaussianMixture
from cepnb.envs.maze import layout
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite, check_same_shape

DIRECTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # four moves


@dataclass(frozen=True)
class TabularMDP:
    """Finite Markov decision process with deterministic moves and a behaviour policy μ > 0; float64."""

    next_state: Int[Tensor, "S A"]
    reward: Float[Tensor, "S A"]
    behaviour: Float[Tensor, "S A"]  # μ(a|s)
    discount: float

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise CepnbError(f"discount {self.discount}: use a number in [0, 1)")
        parts = {"reward": self.reward, "next_state": self.next_state, "behaviour": self.behaviour}
        check_same_shape(**parts)
        check_finite("reward", self.reward, "use finite rewards")
        total = self.behaviour.sum(1)
        if not bool((self.behaviour > 0).all()) or not torch.allclose(total, total.new_ones(())):
            raise CepnbError("behaviour: use positive probabilities that sum to one in every state")

    def value(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S"]:
        """Solve V^π = (I − γ P_π)⁻¹ r_π, the value E[Σ_k γ^k r_k] under π(a|s)."""
        check_same_shape(behaviour=self.behaviour, policy=policy)
        identity = torch.eye(len(policy), dtype=policy.dtype)
        transition = (policy.unsqueeze(2) * identity[self.next_state]).sum(1)
        reward = (policy * self.reward).sum(1)
        return torch.linalg.solve(identity - self.discount * transition, reward)

    def action_value(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
        """Compute Q^π(s, a) = r(s, a) + γ V^π(s')."""
        return self.reward + self.discount * self.value(policy)[self.next_state]

    def tilted(self, q: Float[Tensor, "S A"], beta: float) -> Float[Tensor, "S A"]:
        """Tilt the behaviour: π = μ e^{βQ}/Z (Section 4), the maximiser of E_π[Q] − KL(π‖μ)/β."""
        check_same_shape(behaviour=self.behaviour, Q=q)
        return (self.behaviour.log() + beta * q).softmax(dim=1)

    def in_support_q(
        self, beta: float, step: float = 0.2, sweeps: int = 20_000
    ) -> Float[Tensor, "S A"]:
        """Iterate to a fixed point of Eq. 22: Q = r + γ Σ_a' π_Q(a'|s') Q(s', a'), π_Q = `tilted`.

        β = 0 gives Q^μ, β → ∞ the best value within the support. The softmax mean is not a
        contraction (Littman & Szepesvári 1996; Asadi & Littman 2017): full steps (`step` 1) can
        cycle; partial steps, as of a slow target network, converge far more often. Raises
        `CepnbError` if they do not.
        """
        q = torch.zeros_like(self.reward)
        for _ in range(sweeps):
            soft_value = (self.tilted(q, beta) * q).sum(1)
            change = self.reward + self.discount * soft_value[self.next_state] - q
            q = q + step * change
            if change.abs().max() < 1e-10:
                return q
        found = (
            f"Q has not settled after {sweeps} sweeps, still changing by {change.abs().max():.2g}"
        )
        raise CepnbError(f"beta {beta:g}: {found}; use smaller steps or a smaller beta")


def maze_mdp(name: str, discount: float) -> tuple[TabularMDP, list[tuple[int, int]]]:
    """Return the walk over the free cells of a maze, and the cells in the order of the states.

    Each of four actions moves to the neighbour in one of `DIRECTIONS`, or nowhere at a wall.
    Reaching the target or staying there has reward 1. The behaviour walks at random and takes the
    first two directions three times as often.
    """
    maze = layout(name)
    cells = maze.cells
    state_of = {cell: state for state, cell in enumerate(cells)}
    target = state_of[tuple(map(int, maze.target))]
    rows = []
    for i, j in cells:
        neighbours = [(i + int(dx), j + int(dy)) for dx, dy in DIRECTIONS.tolist()]
        rows.append([state_of.get(cell, state_of[i, j]) for cell in neighbours])
    next_state = torch.tensor(rows)
    reward = (next_state == target).double()
    behaviour = torch.tensor([0.375, 0.375, 0.125, 0.125], dtype=torch.float64)
    return TabularMDP(next_state, reward, behaviour.expand(len(cells), 4), discount), cells


def action_density(behaviour: Float[Tensor, "A"], q: Float[Tensor, "A"]) -> GaussianMixture:
    """Represent one state's actions as a mixture in the plane, with weights μ(a|s) and energies −Q.

    Each action is a Gaussian around one of `DIRECTIONS`. Tilting the mixture by β changes its weights
    exactly as `TabularMDP.tilted` changes the four probabilities.
    """
    return GaussianMixture(
        log_weights=behaviour.log().float(),
        means=DIRECTIONS.clone(),
        deviations=torch.full((len(DIRECTIONS),), 0.15),
        energies=-q.float(),
    )


def nearest_direction(actions: Float[Tensor, "n 2"]) -> Int[Tensor, "n"]:
    """Return the index of the closest of `DIRECTIONS` for each finite action in the plane."""
    check_finite("actions", actions, "use finite actions")
    return torch.cdist(actions, DIRECTIONS).argmin(dim=1)
