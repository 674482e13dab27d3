"""Minari datasets, loaded through minari itself."""

import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset, check_arrays
from cepnb.errors import CepnbError, in_a_line

NAME = r"([-\w]+/)*[-\w]+-v\d+"  # with a version; a name without one is a folder of datasets


def load_minari(name: str) -> OfflineDataset:
    """Load a Minari dataset such as mujoco/hopper/medium-v0, downloaded at first use.

    An episode of T steps has T + 1 observations, so every step gives a transition. Terminations are
    terminal, truncations are not. A dictionary of observations becomes one vector: "observation"
    and "desired_goal" for a goal task, else all parts in order of name. Raises `CepnbError` on a
    name without a version, a failed download, and observations or actions that are not vectors.
    """
    label = f"dataset 'minari/{name}'"
    if not re.fullmatch(NAME, name):
        example = "minari/mujoco/hopper/medium-v0"
        raise CepnbError(f"{label}: the name has no version; use a name such as {example}")
    import minari
    from minari.storage.local import get_dataset_path

    parts, returns = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of environments, which are not used here
        try:
            stored = minari.load_dataset(name, download=True)
        except Exception as error:  # minari, its storage and the network raise many types
            folder = get_dataset_path(name)
            partial = (folder / "data").exists()
            remedy = f"; delete {folder} to download it again" if partial else ""
            raise CepnbError(f"{label}: not downloaded ({in_a_line(error)}){remedy}") from error
        _check_vectors(stored.action_space, f"{label}: actions")
        _check_vectors(stored.observation_space, f"{label}: observations")
        for episode in _episodes(stored, label):
            path, steps = _vectors(episode.observations), len(episode)
            if len(path) != steps + 1:
                problem = f"{len(path)} observations for {steps} steps"
                raise CepnbError(f"{label}: episode {episode.id} has {problem}; expected one more")
            part = {
                "observations": path[:-1],
                "actions": _vectors(episode.actions),
                "rewards": episode.rewards,
                "next_observations": path[1:],
                "terminals": episode.terminations,
            }
            parts.append(part)
            returns.append(np.sum(episode.rewards, dtype=np.float64))
    if not any(len(part["rewards"]) for part in parts):
        raise CepnbError(f"{label}: has no steps; expected at least one")
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    check_arrays(label, arrays)
    terminal = torch.from_numpy(arrays.pop("terminals").astype(bool))
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in arrays.items()}
    totals = torch.tensor(np.array(returns), dtype=torch.float32)
    return OfflineDataset(f"minari/{name}", **tensors, terminals=terminal, episode_returns=totals)


def _episodes(stored: "minari.MinariDataset", label: str) -> Iterator["minari.EpisodeData"]:
    """Iterate over episodes; raises `CepnbError` on unreadable files, as after a cut download."""
    try:
        yield from stored.iterate_episodes()
    except Exception as error:  # minari's storage raises many types
        problem, folder = in_a_line(error), stored.storage.data_path.parent
        remedy = f"delete {folder} to download it again"
        raise CepnbError(f"{label}: files are incomplete ({problem}); {remedy}") from error


def _check_vectors(space: "gymnasium.Space", label: str) -> None:
    """Raise `CepnbError` unless a space holds vectors or dictionaries of vectors."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for part in _parts(space.spaces):
            _check_vectors(part, label)
    elif not isinstance(space, spaces.Box) or len(space.shape) != 1:
        text = " ".join(str(space).split())
        raise CepnbError(f"{label} have the space {text}; expected vectors (a Box with one axis)")


def _vectors(values: Array | dict) -> Array:
    """Join an array of rows, or a dictionary of them, into one array (rows, size)."""
    if isinstance(values, dict):
        return np.concatenate([_vectors(part) for part in _parts(values)], axis=1)
    return np.asarray(values)


def _parts(values: dict) -> list:
    """Order the parts of an observation: those of a goal task, else by name."""
    goal_task = {"observation", "desired_goal"} <= set(values)
    names = ("observation", "desired_goal") if goal_task else sorted(values)
    return [values[name] for name in names]
