"""Minari datasets, loaded through minari itself."""

import warnings
from json import JSONDecodeError

import numpy as np
from numpy import ndarray as Array

from cepnb.datasets.dataset import (
    OfflineDataset,
    as_vector,
    check_shapes,
    check_values,
    dataset_of,
)
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import not_read

GOAL_TASK = {"observation", "desired_goal"}  # keys of the observations of a goal task


def load_minari(name: str) -> OfflineDataset:
    """Load a Minari dataset such as mujoco/hopper/medium-v0, downloaded at first use.

    An episode of T steps has T + 1 observations, so every step gives a transition. Terminations are
    terminal, truncations are not. Raises `CepnbError` on a failed download, unreadable files, and
    observations or actions that are not vectors.
    """
    label = f"dataset 'minari/{name}'"
    import minari
    from minari.storage.local import get_dataset_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of environments, which are not used here
        try:
            stored = minari.load_dataset(name, download=True)
            _check_vectors(stored.action_space, f"{label}: actions")
            _check_vectors(stored.observation_space, f"{label}: observations")
            episodes = list(stored.iterate_episodes())
        except CepnbError:
            raise
        except Exception as error:  # minari, its storage and the network raise many types
            folder, remedy = get_dataset_path(name), "check the name and the connection"
            file = folder / "data/main_data.hdf5"
            if file.exists() and (refusal := not_read(file, error)):
                raise refusal from error
            if isinstance(error, ImportError):
                remedy = "install what is missing"
            elif (folder / "data").exists():
                damaged = isinstance(error, (OSError, KeyError, RuntimeError, JSONDecodeError))
                damaged = damaged or "No data found" in str(error)
                again = f"delete {folder} to download or store it again"
                remedy = again if damaged else "upgrade minari or store the dataset again"
            raise CepnbError(f"{label}: not loaded ({in_a_line(error)}); {remedy}") from error
    parts = []
    for episode in episodes:
        path, steps = _vectors(episode.observations), len(episode)
        if len(path) != steps + 1:
            problem = f"{len(path)} observations for {steps} steps"
            raise CepnbError(f"{label}: episode {episode.id} has {problem}; store {steps + 1}")
        rewards, terminals = map(as_vector, (episode.rewards, episode.terminations))
        parts.append((path[:-1], _vectors(episode.actions), rewards, path[1:], terminals))
    if not sum(map(len, episodes)):
        raise CepnbError(f"{label}: has no steps; use another dataset")
    keys = ("observations", "actions", "rewards", "next_observations", "terminals")
    arrays = {key: np.concatenate(column) for key, column in zip(keys, zip(*parts))}
    check_shapes(label, arrays)
    check_values(label, arrays)
    returns = np.array([np.sum(episode.rewards, dtype=np.float64) for episode in episodes])
    has_goal = _has_goal(stored.observation_space)
    return dataset_of(f"minari/{name}", arrays | {"episode_returns": returns}, has_goal)


def _check_vectors(space: "gymnasium.Space", label: str) -> None:
    """Raise `CepnbError` unless a space holds vectors or dictionaries of vectors."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for part in _parts(space.spaces):
            _check_vectors(part, label)
    elif not isinstance(space, spaces.Box) or len(space.shape) != 1:
        text = " ".join(str(space).split())
        raise CepnbError(f"{label} have the space {text}; use vectors (a Box with one axis)")


def _has_goal(space: "gymnasium.Space") -> bool:
    """Return whether a dictionary, or one inside it, has a part named as a goal."""
    parts = getattr(space, "spaces", {}).items()
    return any("goal" in key.lower() or _has_goal(part) for key, part in parts)


def _vectors(values: Array | dict) -> Array:
    """Join an array of rows, or a dictionary of them, into one array (rows, size)."""
    if isinstance(values, dict):
        return np.concatenate([_vectors(part) for part in _parts(values)], axis=1)
    return np.asarray(values)


def _parts(values: dict) -> list:
    """Return observation and desired goal of a goal task, else all parts in order of name."""
    names = ("observation", "desired_goal") if GOAL_TASK <= set(values) else sorted(values)
    return [values[name] for name in names]
