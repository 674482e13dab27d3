"""Step 2: the support set D^{μ_θ}, K actions of the behaviour model for every distinct state, sampled once."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cepnb.errors import CepnbError
from cepnb.files import load_tensors, save_tensors
from cepnb.guidance import EpsFunction
from cepnb.networks import EpsNet
from cepnb.offline.policy import BLOCK, sample_actions
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule
from cepnb.training import seeded

# Actions sampled together; each chunk has its own random stream, so a resumed set is the same set. A GPU is given more at a
# time, so that it is not kept waiting for the next small piece of work.
CHUNK, GPU_CHUNK = 24_576, 262_144


def sample_support(net: EpsNet, states: Float[Tensor, "n ds"], K: int, settings: Settings, schedule: VPSchedule, seed: int,
                   folder: Path | None = None, progress: bool = True, name: str = "support") -> Float[Tensor, "n K da"]:
    """K actions â ~ μ_θ(·|s) for each state. With `folder`, finished chunks are kept there and not sampled again.

    Sets of another `name` have random numbers of their own. All is done where states and network are.
    """
    on_cpu = states.device.type == "cpu"
    eps = in_bfloat16(net) if settings.support_precision == "bfloat16" else net
    chunks = []
    rows = max(1, (CHUNK if on_cpu else GPU_CHUNK) // K)
    starts = range(0, len(states), rows)
    for index, start in enumerate(tqdm(starts, desc="support set", disable=not progress, leave=False)):
        part = states[start:start + rows]
        path = folder / f"{index:05d}.safetensors" if folder is not None else None
        if path is not None and path.exists():
            chunk = load_tensors(path)[0].get("actions", torch.empty(0)).to(states.device)
            if chunk.shape[:2] != (len(part), K):
                wanted = (len(part), K)
                raise CepnbError(f"{path}: actions of shape {tuple(chunk.shape)}, expected {wanted} and an action axis")
        else:
            generator = seeded(seed, f"{name} {index}", states.device)
            chunk = sample_actions(eps, part, net.out.out_features, settings, schedule, generator, K, BLOCK if on_cpu else None)
            if path is not None:
                save_tensors(path, {"actions": chunk})
        chunks.append(chunk)
    return torch.cat(chunks)


def in_bfloat16(eps: EpsFunction) -> EpsFunction:
    """The same network with its products of matrices in bfloat16; the solver around it stays as exact as it was.

    A rounding of ε_θ by half a percent moves actions by a fraction of what 15 evaluations leave of the solver's own error,
    which the tests measure. With many more evaluations that is no longer so.
    """

    def rounded(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        with torch.autocast(xt.device.type, dtype=torch.bfloat16):
            return eps(xt, t, condition).to(xt.dtype)

    return rounded
