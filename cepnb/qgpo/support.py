"""Step 2: the support set D^{μ_θ}: K actions of the behaviour model for every distinct state."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.networks import EpsNet, in_bfloat16
from cepnb.diffusion.training import seeded
from cepnb.progress import progress_bar
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import Settings
from cepnb.storage.arrays import open_array, write_array
from cepnb.storage.validation import check_finite

# Actions per chunk. Each chunk has its own random stream, so a partial set resumes bit for bit.
CHUNK, GPU_CHUNK = 24_576, 262_144


def sample_support(
    net: EpsNet,
    states: Float[Tensor, "n ds"],
    K: int,
    settings: Settings,
    seed: int,
    path: str | Path | None = None,
    progress: bool = True,
    name: str = "support",
) -> Float[Tensor, "n K da"]:
    """Sample K actions â ~ μ_θ(·|s) per state, in the type of `settings.support_storage`.

    With `path` the set is written to that .npy file chunk by chunk and returned memory-mapped, so
    it may exceed memory; a partial set resumes bit for bit. Without `path` it stays on the device.
    `name` selects the random numbers. float16 and bfloat16 cause smaller errors than the solver does
    with 15 evaluations. Raises `CepnbError` on actions that are not finite in that type.
    """
    on_cpu = states.device.type == "cpu"
    eps = in_bfloat16(net) if settings.support_precision == "bfloat16" else net
    dtype = getattr(torch, settings.support_storage)
    action_dim, block = net.out.out_features, BLOCK if on_cpu else None
    rows = max(1, (CHUNK if on_cpu else GPU_CHUNK) // K)
    parts = states.split(rows)

    def chunks(first: int) -> Iterator[Float[Tensor, "rows K da"]]:
        numbers, bar = range(first, len(parts)), dict(initial=first, total=len(parts), leave=False)
        for index in progress_bar(numbers, "support set", disable=not progress, **bar):
            s, generator = parts[index], seeded(seed, f"{name} {index}", states.device)
            actions = sample_actions(eps, s, action_dim, settings, generator, K, block).to(dtype)
            fix = "train the behaviour model again, or set clip_actions"
            check_finite(f"{name}: chunk {index} of the actions", actions, fix)
            yield actions

    if path is None:
        return torch.cat(list(chunks(0)))
    write_array(path, (len(states), K, action_dim), dtype, rows, chunks)
    return open_array(path)
