"""Check that a dataset has the coordinates of an environment, not only as many of them."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset
from cepnb.envs.base import Episodes
from cepnb.envs.maze import MazeEnv
from cepnb.envs.quiet import quiet
from cepnb.envs.registry import episodes_of, family_of
from cepnb.errors import CepnbError
from cepnb.storage.tensors import load_tensors, save_tensors

REPLAYED = 64  # rows whose steps are compared with the simulator's
TOLERANCE = 0.4  # error of a replayed step over a typical change; engines differ slightly


def check_coordinates(dataset: OfflineDataset, environment: str) -> None:
    """Raise `CepnbError` if observations have the environment's width but other coordinates.

    Observations with a goal do: no environment here has one. In mazes and locomotion tasks, up to
    `REPLAYED` rows are stepped again from their observations, and half of them must end near their
    next observations. That fails for another order, other units and another task. In AntMaze, some
    start states must be in the data's range in each coordinate, widened on both sides by its length.
    """
    label, observations = f"dataset '{dataset.name}'", dataset.observations.double().numpy()
    remedy = "use the environment's coordinates, order and units"
    if dataset.has_goal:
        problem = f"observations include a goal, but those of {environment} do not"
        raise CepnbError(f"{label}: {problem}; train with --no-evaluation and no --environment")
    rows = _rows(dataset)
    env = episodes_of(environment, len(rows), seed=0)
    if (observations.shape[1], dataset.actions.shape[1]) != (env.state_dim, env.action_dim):
        return  # training names other widths
    if family_of(environment) != "antmaze":
        share = _wrong_share(env, dataset, rows)
        if share > 0.5:
            problem = f"in {share:.0%} of the rows tried, {environment} steps to another state"
            raise CepnbError(f"{label}: {problem} than next_observations; {remedy}")
        return
    low, high, starts = observations.min(axis=0), observations.max(axis=0), env.reset()
    margin = np.maximum(high - low, np.ptp(starts, axis=0))
    near = (low - margin <= starts) & (starts <= high + margin)
    if len(far := np.flatnonzero(~near.any(axis=0))):
        i = far[0]
        problem = f"coordinates {', '.join(map(str, far))} of observations do not fit {environment}"
        ranges = f"{i} is in [{low[i]:.3g}, {high[i]:.3g}]"
        ranges += f", but starts are in [{starts[:, i].min():.3g}, {starts[:, i].max():.3g}]"
        raise CepnbError(f"{label}: {problem} ({ranges}); {remedy}")


def _wrong_share(env: Episodes, dataset: OfflineDataset, rows: Int[Array, "n"]) -> float:
    """Return the share of rows whose replayed step differs by `TOLERANCE` of a typical change."""
    columns = dataset.observations, dataset.actions, dataset.next_observations
    states, actions, after = (column[rows].double().numpy() for column in columns)
    if isinstance(env, MazeEnv) and env.layout.in_walls(states[:, :2]).any():
        return 1.0
    change = np.sqrt(np.square(after - states).mean(axis=0))
    try:
        with quiet():
            env.set_state(states)
            replayed, *_ = env.step(actions)
    except CepnbError:  # the simulation is unstable: these are no states of this environment
        return 1.0
    return float((np.abs(replayed - after) > TOLERANCE * change + 1e-3).any(axis=1).mean())


def save_examples(dataset: OfflineDataset, path: Path) -> None:
    """Write the rows that `check_coordinates` replays, for a run without an environment."""
    rows = _rows(dataset)
    names = ("observations", "actions", "next_observations", "rewards", "terminals")
    columns = {name: getattr(dataset, name)[rows] for name in names}
    save_tensors(path, columns, {"has_goal": str(dataset.has_goal)})


def load_examples(path: Path, name: str) -> OfflineDataset:
    """Read the rows that `save_examples` wrote of the dataset `name`."""
    columns, metadata = load_tensors(path)
    returns, has_goal = torch.zeros(1), metadata.get("has_goal") == "True"
    return OfflineDataset(name, **columns, episode_returns=returns, has_goal=has_goal)


def _rows(dataset: OfflineDataset) -> Int[Array, "n"]:
    return np.unique(np.linspace(0, len(dataset.observations) - 1, REPLAYED).astype(int))
