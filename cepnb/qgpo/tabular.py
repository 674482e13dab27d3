"""Decision problems small enough to be solved exactly: a table of states and actions, and the walk through a maze as one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cepnb.densities.mixtures import GaussianMixture
from cepnb.envs.maze import layout
from cepnb.errors import CepnbError

DIRECTIONS = torch.tensor(
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
)  # as actions in the plane


@dataclass(frozen=True)
class TabularMDP:
    """A finite Markov decision process with deterministic moves and a behaviour policy μ > 0; all in float64."""

    next_state: Int[Tensor, "S A"]
    reward: Float[Tensor, "S A"]
    behaviour: Float[Tensor, "S A"]  # μ(a|s)
    discount: float

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise CepnbError(f"discount {self.discount}: expected a number in [0, 1)")
        if not bool((self.behaviour > 0).all()) or not torch.allclose(
            self.behaviour.sum(1), torch.ones_like(self.behaviour[:, 0])
        ):
            raise CepnbError(
                "behaviour: expected positive probabilities that sum to one in every state"
            )

    def value(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S"]:
        """V^π(s) = E[Σ_k γ^k r_k] under π(a|s), by one linear system: V = (I − γ P_π)⁻¹ r_π."""
        states = torch.eye(len(policy), dtype=policy.dtype)
        moves = (policy.unsqueeze(2) * states[self.next_state]).sum(1)
        return torch.linalg.solve(states - self.discount * moves, (policy * self.reward).sum(1))

    def action_value(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
        """Q^π(s, a) = r(s, a) + γ V^π(s')."""
        return self.reward + self.discount * self.value(policy)[self.next_state]

    def tilted(self, q: Float[Tensor, "S A"], beta: float) -> Float[Tensor, "S A"]:
        """π(a|s) = μ(a|s) e^{βQ(s,a)}/Z(s): the maximum of E_π[Q] − KL(π‖μ)/β (Section 4 of arXiv:2304.12824)."""
        return (self.behaviour.log() + beta * q).softmax(dim=1)

    def in_support_q(
        self, beta: float, step: float = 0.2, tolerance: float = 1e-10, sweeps: int = 20_000
    ) -> Float[Tensor, "S A"]:
        """A fixed point of Eq. 22 with all of the support: Q = r + γ Σ_a' π_Q(a'|s') Q(s', a'), π_Q = `tilted`(Q, β).

        It is the action value of the policy that it tilts to. β = 0 gives Q^μ, β → ∞ the best value within the
        support. The softmax mean is not a contraction (Littman & Szepesvári 1996; Asadi & Littman 2017): repeated as
        it stands, step = 1, it can run in a cycle. Steps of a part of the way, as a slow target network takes them,
        settle far more often. Raises `CepnbError` if they do not.
        """
        q = torch.zeros_like(self.reward)
        for _ in range(sweeps):
            change = (
                self.reward + self.discount * (self.tilted(q, beta) * q).sum(1)[self.next_state] - q
            )
            q = q + step * change
            if change.abs().max() < tolerance:
                return q
        raise CepnbError(
            f"beta {beta:g}: Q has not settled after {sweeps} sweeps, still changing by {change.abs().max():.2g}"
        )


def maze_mdp(
    name: str = "umaze", discount: float = 0.9
) -> tuple[TabularMDP, list[tuple[int, int]]]:
    """The walk over the free cells of a maze, and the cells in the order of the states.

    Four actions move to the neighbour in one of `DIRECTIONS`, or nowhere if a wall is there. Arriving at the target, or
    staying in it, is worth 1. The behaviour walks at random, three times as fond of the first two directions.
    """
    maze = layout(name)
    cells = maze.cells
    number, goal = {cell: i for i, cell in enumerate(cells)}, tuple(int(c) for c in maze.target)
    after = [
        [number.get((i + int(dx), j + int(dy)), number[i, j]) for dx, dy in DIRECTIONS.tolist()]
        for i, j in cells
    ]
    next_state = torch.tensor(after)
    reward = (next_state == number[goal]).double()
    behaviour = torch.tensor([0.375, 0.375, 0.125, 0.125], dtype=torch.float64).expand(
        len(cells), 4
    )
    return TabularMDP(next_state, reward, behaviour, discount), cells


def action_density(
    behaviour: Float[Tensor, "A"], q: Float[Tensor, "A"], deviation: float = 0.15
) -> GaussianMixture:
    """One state's actions as points of the plane: a Gaussian about each of `DIRECTIONS` with weight μ(a|s) and energy −Q.

    A diffusion model of the behaviour sees such points. Tilting it by β moves weight between the Gaussians exactly as
    `TabularMDP.tilted` does between the four actions.
    """
    return GaussianMixture(
        log_weights=behaviour.log().float(),
        means=DIRECTIONS.clone(),
        deviations=torch.full((len(DIRECTIONS),), deviation),
        energies=-q.float(),
    )


def nearest_direction(actions: Float[Tensor, "n 2"]) -> Int[Tensor, "n"]:
    """Which of the four moves an action in the plane means."""
    return torch.cdist(actions, DIRECTIONS).argmin(dim=1)
