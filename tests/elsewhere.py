"""A second device emulated on the CPU: its tensors report the device "meta" and refuse CPU tensors.

torch knows no other device name without a GPU. Here, tensors on "meta" hold numbers.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

PLACE = torch.device("meta")
BETWEEN = {"_to_copy", "copy_"}  # operations that accept tensors of both devices


class Elsewhere(Tensor):
    """A tensor on the emulated device; a CPU tensor holds its numbers."""

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=PLACE,
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


def dispatched(function, args: tuple, kwargs: dict) -> object:
    """Run an operation on the CPU tensors; wrap results that belong on the emulated device."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    name = function._overloadpacket.__name__
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    stray = [
        x for x in tensors if not isinstance(x, Elsewhere) and x.ndim
    ]  # a GPU accepts CPU scalars
    if there and stray and name not in BETWEEN:
        raise RuntimeError(
            f"{name}: tensors of two devices, shapes {[tuple(x.shape) for x in there]} and {[tuple(x.shape) for x in stray]}"
        )
    device = kwargs.get("device", PLACE if there else None)
    if name == "copy_":
        device = PLACE if isinstance(args[0], Elsewhere) else None
    args_here, kwargs_here = tree_map(
        lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs)
    )
    if kwargs.get("device") is not None:
        kwargs_here["device"] = "cpu"
    result = function(*args_here, **kwargs_here)
    if device is None or torch.device(device).type != PLACE.type:
        return result
    wrapped = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


class Played(TorchDispatchMode):
    """Emulate the device inside the block and count the operations on it."""

    def __init__(self) -> None:
        super().__init__()
        self.there = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = dispatched(function, args, kwargs or {})
        self.there += any(isinstance(x, Elsewhere) for x in tree_leaves(result))
        return result


class Streams(torch.Generator):
    """Generators on either device."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Streams":
        there = torch.device(device).type == PLACE.type
        generator = super().__new__(cls, "cpu" if there else device)
        generator.there = there
        return generator

    @property
    def device(self) -> torch.device:
        """The device of the generator."""
        return PLACE if self.there else torch.device("cpu")
