"""Step 2: the support set D^{μ_θ}, K actions of the behaviour model for every distinct state, sampled once."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cepnb.diffusion.networks import EpsNet, in_bfloat16
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import seeded
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import Settings
from cepnb.storage.arrays import mapped_tensor, write_pieces

# Actions sampled together; each chunk has its own random stream, so a resumed set is the same set. A GPU is given more at a
# time, so that it is not kept waiting for the next small piece of work.
CHUNK, GPU_CHUNK = 24_576, 262_144


def sample_support(
    net: EpsNet,
    states: Float[Tensor, "n ds"],
    K: int,
    settings: Settings,
    schedule: VPSchedule,
    seed: int,
    path: Path | None = None,
    progress: bool = True,
    name: str = "support",
) -> Float[Tensor, "n K da"]:
    """K actions â ~ μ_θ(·|s) for each state, stored as `settings.support_storage` says. Sets of another `name` have random
    numbers of their own.

    With `path` chunk by chunk into that safetensors file, and read from there by memory map, so that neither needs memory
    for the whole; a set that was begun is gone on with, to the same bits. Without, it is where states and network are.
    float16 takes half the room: it moves an action in [-1, 1] by at most 2⁻¹² = 2.4e-4, a small part of what the solver leaves
    with 15 evaluations, which the tests measure. In bfloat16 ε_θ alone is rounded, by half a percent; the solver around it stays
    as exact as it was. That moves actions by a fraction of the solver's error, which the tests measure too; with many more
    evaluations it is no longer so.
    """
    on_cpu = states.device.type == "cpu"
    dtype, rows = (
        getattr(torch, settings.support_storage),
        max(1, (CHUNK if on_cpu else GPU_CHUNK) // K),
    )

    def chunks(first: int) -> Iterator[Float[Tensor, "rows K da"]]:
        eps, starts = (
            in_bfloat16(net) if settings.support_precision == "bfloat16" else net,
            range(0, len(states), rows),
        )
        for index in tqdm(
            range(first, len(starts)),
            "support set",
            initial=first,
            total=len(starts),
            disable=not progress,
            leave=False,
        ):
            part, generator = (
                states[starts[index] : starts[index] + rows],
                seeded(seed, f"{name} {index}", states.device),
            )
            yield sample_actions(
                eps,
                part,
                net.out.out_features,
                settings,
                schedule,
                generator,
                K,
                BLOCK if on_cpu else None,
            ).to(dtype)

    if path is None:
        return torch.cat(list(chunks(0)))
    write_pieces(path, "actions", (len(states), K, net.out.out_features), dtype, rows, chunks)
    return mapped_tensor(path, "actions")
