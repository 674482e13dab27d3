"""Tensors as safetensors files, written atomically. Nothing is unpickled."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cepnb.errors import CepnbError
from cepnb.storage.files import atomic_path, check_utf8, unreadable


def save_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors and string metadata as one safetensors file, atomically."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(stored, str(temporary), metadata=metadata)


def load_tensors(
    path: str | Path, fix: str = "restore or remake it"
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read (tensors, metadata) from a safetensors file; raise `CepnbError` if it is damaged."""
    check_utf8(path)
    try:
        with safe_open(str(path), framework="pt") as stored:
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "safetensors", error, fix) from error


def under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Select the tensors whose names start with `prefix`, and strip the prefix."""
    selected = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in selected}


def load_module(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Load weights into `module`; raise `CepnbError` on a missing or misshapen tensor."""
    weights = module.state_dict()
    for name, tensor in weights.items():
        shape = tuple(tensor.shape)
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            problem = "is missing" if found is None else f"has shape {found}"
            raise CepnbError(f"{source}: tensor '{name}' {problem}; use weights of shape {shape}")
    module.load_state_dict({name: tensors[name] for name in weights})
