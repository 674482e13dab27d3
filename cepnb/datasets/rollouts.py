"""Episodes stepped together until there are enough rows: how agents and ants make local data."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.envs.base import Episodes
from cepnb.progress import progress_bar

BATCH = 20  # episodes stepped together
KEYS = ("observations", "actions", "next_observations", "rewards", "terminals", "timeouts")


def collect_rows(
    label: str, transitions: int, batch: Callable[[int, int], list[dict[str, Array]]]
) -> dict[str, Array]:
    """Join batches of episodes to `transitions` rows, the last episode cut, in D4RL's layout.

    `batch(i, rows)` returns the episodes of batch i when `rows` rows are missing. The end by the
    cut is a timeout.
    """
    parts: list[dict[str, Array]] = []
    rows, batches = 0, 0
    with progress_bar(total=transitions, desc=label, leave=False) as bar:
        while rows < transitions:
            parts += batch(batches, transitions - rows)
            batches += 1
            rows = sum(len(part["rewards"]) for part in parts)
            bar.update(min(rows, transitions) - bar.n)
    arrays = {key: np.concatenate([part[key] for part in parts])[:transitions] for key in parts[0]}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays


def step_together(
    env: Episodes,
    states: Float[Array, "n ds"],
    act: Callable[[Array, Array], Float[Array, "n da"]],
    rows: int | float = np.inf,
    cut: Callable[[Array], Bool[Array, "n"]] | None = None,
) -> list[dict[str, Array]]:
    """Step the episodes of `env` from `states` and return each one's rows in D4RL's layout.

    `act(states, alive)` samples actions; rows that are not alive do not matter. `cut(states)` tells
    after each step which episodes end by a timeout, in addition to the environment's. Stops early
    once the episodes up to the first that still runs have `rows` rows.
    """
    steps, alive, lengths = [], np.ones(env.count, dtype=bool), np.zeros(env.count, dtype=int)
    while alive.any() and lengths[: alive.argmax() + 1].sum() < rows:
        actions = act(states, alive)
        next_states, rewards, terminals, truncated = env.step(actions)
        if cut:
            truncated = truncated | cut(next_states)
        timeouts = truncated & ~terminals
        steps.append((states, actions, next_states, rewards, terminals, timeouts, alive.copy()))
        lengths += alive
        alive &= ~(terminals | truncated)
        states = next_states
    *columns, alive = (np.stack(column) for column in zip(*steps))
    types = [np.float32] * 4 + [bool] * 2
    arrays = {key: column.astype(kind) for key, column, kind in zip(KEYS, columns, types)}
    return [{key: arrays[key][alive[:, row], row] for key in KEYS} for row in range(env.count)]
