"""Where the work is done: this machine's processor, or a GPU."""

import torch

from cepnb.errors import CepnbError

DEVICES = ("cpu", "cuda")


def device_named(name: str) -> torch.device:
    """The device of a name of `DEVICES`; of several GPUs the current one. Raises `CepnbError` on another name, or without a GPU."""
    if name not in DEVICES:
        raise CepnbError(f"--device {name}: expected {' or '.join(DEVICES)}")
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise CepnbError(
            f"--device {name}: torch {torch.__version__} finds no GPU on this machine, expected one"
        )
    return torch.device(name, torch.cuda.current_device())
