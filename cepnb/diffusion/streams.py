"""Random streams side by side, one a seed, so that what is trained together draws what it would draw alone."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor


class Streams:
    """Several generators of one device in the place of one: saved and restored together, drawn from one by one."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = tuple(generators)

    def __iter__(self) -> Iterator[torch.Generator]:
        return iter(self.generators)

    @property
    def device(self) -> torch.device:
        """Where they draw."""
        return self.generators[0].device

    def get_state(self) -> UInt8[Tensor, "streams bytes"]:
        """The state of each, as `torch.Generator` gives it."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def set_state(self, states: UInt8[Tensor, "streams bytes"]) -> None:
        """Back to where `get_state` was called."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(
                state.clone()
            )  # torch reads from the beginning of the memory, whatever row this is
