"""Step 2: the support set D^{μ_θ}, K actions of the behaviour model for every distinct state, sampled once."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cepnb.errors import CepnbError
from cepnb.files import load_tensors, save_tensors
from cepnb.networks import EpsNet, in_bfloat16
from cepnb.offline.policy import BLOCK, sample_actions
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule
from cepnb.training import seeded

CHUNK = 24_576  # actions sampled together; each chunk has its own random stream, so a resumed set is the same set


def sample_support(net: EpsNet, states: Float[Tensor, "n ds"], K: int, settings: Settings, schedule: VPSchedule, seed: int,
                   folder: Path | None = None, progress: bool = True, name: str = "support") -> Float[Tensor, "n K da"]:
    """K actions â ~ μ_θ(·|s) for each state. With `folder`, finished chunks are kept there and not sampled again.

    Sets of another `name` have random numbers of their own. In bfloat16 ε_θ alone is rounded, by half a percent; the solver
    around it stays as exact as it was. That moves actions by a fraction of what 15 evaluations leave of the solver's own error,
    which the tests measure; with many more evaluations it is no longer so.
    """
    eps = in_bfloat16(net) if settings.support_precision == "bfloat16" else net
    chunks = []
    rows = max(1, CHUNK // K)
    starts = range(0, len(states), rows)
    for index, start in enumerate(tqdm(starts, desc="support set", disable=not progress, leave=False)):
        part = states[start:start + rows]
        path = folder / f"{index:05d}.safetensors" if folder is not None else None
        if path is not None and path.exists():
            chunk = load_tensors(path)[0].get("actions", torch.empty(0))
            if chunk.shape[:2] != (len(part), K):
                wanted = (len(part), K)
                raise CepnbError(f"{path}: actions of shape {tuple(chunk.shape)}, expected {wanted} and an action axis")
        else:
            generator = seeded(seed, f"{name} {index}")
            chunk = sample_actions(eps, part, net.out.out_features, settings, schedule, generator, K, BLOCK)
            if path is not None:
                save_tensors(path, {"actions": chunk})
        chunks.append(chunk)
    return torch.cat(chunks)
