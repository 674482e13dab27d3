"""Minari datasets, read through minari itself."""

import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset
from cepnb.errors import CepnbError, in_a_line

NAME = r"([-\w]+/)*[-\w]+-v\d+"  # of a dataset; another would be the folder of many, or one above


def load_minari(name: str) -> OfflineDataset:
    """A Minari dataset such as mujoco/hopper/medium-v0, downloaded by minari if it is not there.

    An episode of T steps has T + 1 observations, so that s' of its last step is known and all T transitions are kept;
    a termination is terminal, a truncation is not. A dictionary of observations becomes one vector: of a goal task the
    parts "observation" and "desired_goal" in this order, of another all parts in order of name. Raises `CepnbError` on a
    name without a version, on a dataset that is neither here nor to be had, and on observations or actions other than
    vectors of numbers.
    """
    label = f"dataset 'minari/{name}'"
    if not re.fullmatch(NAME, name):
        raise CepnbError(
            f"{label}: no name of a Minari dataset, expected one with a version, such as "
            "minari/mujoco/hopper/medium-v0"
        )
    import minari  # here, since it takes long
    from minari.storage.local import get_dataset_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions of environments, which are not made here
        try:
            stored = minari.load_dataset(name, download=True)
        except Exception as error:  # minari's own, its storage's or the line's: anything
            folder = get_dataset_path(name)
            advice = (
                f"; delete {folder} to have it downloaded again"
                if (folder / "data").exists()
                else ""
            )
            raise CepnbError(
                f"{label}: neither here nor downloaded ({in_a_line(error)}){advice}"
            ) from error
        _check_vectors(stored.action_space, f"{label}: actions")
        _check_vectors(stored.observation_space, f"{label}: observations")
        states, actions, rewards, after, terminals, totals = [], [], [], [], [], []
        for episode in _episodes(stored, label):
            path = _vectors(episode.observations)
            if len(path) != len(episode) + 1:
                raise CepnbError(
                    f"{label}: episode {episode.id} has {len(path)} observations, expected {len(episode) + 1}"
                )
            states.append(path[:-1])
            after.append(path[1:])
            actions.append(_vectors(episode.actions))
            rewards.append(episode.rewards)
            terminals.append(episode.terminations)
            totals.append(np.sum(episode.rewards, dtype=np.float64))
    if not sum(map(len, rewards)):
        raise CepnbError(f"{label}: has no step, expected at least one")
    columns = {
        "observations": states,
        "actions": actions,
        "rewards": rewards,
        "next_observations": after,
    }
    found = {
        key: torch.from_numpy(np.concatenate(parts).astype(np.float32))
        for key, parts in columns.items()
    }
    for key, value in found.items():
        if not all(value.shape[1:]):
            raise CepnbError(f"{label}: '{key}' has no columns, expected at least one")
        if not torch.isfinite(value).all():
            raise CepnbError(
                f"{label}: '{key}' has values that are not finite, expected finite numbers"
            )
    return OfflineDataset(
        f"minari/{name}",
        **found,
        terminals=torch.from_numpy(np.concatenate(terminals).astype(bool)),
        episode_returns=torch.tensor(np.array(totals), dtype=torch.float32),
    )


def _episodes(stored: object, label: str) -> Iterator:
    """The episodes of a Minari dataset; raises `CepnbError` on files that cannot be read, as of a download that broke off."""
    try:
        yield from stored.iterate_episodes()
    except Exception as error:  # its storage's: anything
        folder = stored.storage.data_path.parent
        raise CepnbError(
            f"{label}: not whole ({in_a_line(error)}); delete {folder} to have it downloaded again"
        ) from error


def _check_vectors(space: object, label: str) -> None:
    """Raises `CepnbError` unless the values of a gymnasium space are vectors, or dictionaries of such."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for part in _parts(space.spaces):
            _check_vectors(part, label)
    elif not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise CepnbError(
            f"{label} of the space {' '.join(str(space).split())}, expected vectors of numbers (a Box with one axis)"
        )


def _vectors(values: Array | dict) -> Array:
    """(rows, size) of an array of rows or a dictionary of such."""
    return (
        np.concatenate([_vectors(part) for part in _parts(values)], axis=1)
        if isinstance(values, dict)
        else np.asarray(values)
    )


def _parts(values: dict) -> list:
    names = (
        ("observation", "desired_goal")
        if {"observation", "desired_goal"} <= set(values)
        else sorted(values)
    )
    return [values[name] for name in names]
