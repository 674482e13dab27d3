"""One training loop for every loss, with checkpoints that resume bit for bit."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam

from cepnb.diffusion.devices import captured
from cepnb.diffusion.plan import Plan
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.storage.global_state import unchanged_globals
from cepnb.storage.tensors import load_module, load_tensors, save_tensors, under
from cepnb.storage.validation import check_seed

Module = TypeVar("Module", bound=nn.Module)
Modules = dict[str, nn.Module]
StepLoss = Callable[[Generator], Tensor]  # draws a batch and returns one loss per example


class Record(NamedTuple):
    """One point of the history: finished steps, and the mean loss since the last point."""

    step: int
    loss: float


def training(
    step_loss: StepLoss,
    modules: Modules,
    plan: Plan,
    generator: Generator,
    *,
    after_step: Callable[[], None] | None = None,
    checkpoint: Path | None = None,
    label: str = "training",
    progress: bool = True,
    capture: bool = True,
) -> Iterator[Record]:
    """Train the parameters of `modules` by the mean of `step_loss`; yield the history.

    `step_loss` must draw all random numbers from `generator`. Modules and data are on its device.
    `after_step` runs after each step. List a target network in `modules` so that it is saved.
    `checkpoint` stores weights, optimiser, history and random state every `plan.checkpoint_every`
    steps. A later call with the same arguments yields the stored records again and resumes, bit for
    bit on the same machine and thread count. Steps on a GPU are `captured` unless `capture` is off.
    Raises `CepnbError` if a loss or a final weight is not finite, or if a checkpoint does not match
    modules and plan.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimiser = _adam(parameters, plan, generator.device)
    history: list[Record] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, modules, optimiser, generator, plan)
        yield from history
    recorded = history[-1].step if history else 0
    loss_sum = torch.zeros((), device=generator.device)
    learning_rate = optimiser.param_groups[0]["lr"]

    def step_once() -> None:
        loss = step_loss(generator).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if after_step is not None:
            after_step()
        loss_sum.add_(loss.detach())

    take_step = captured(step_once, generator.device, generator) if capture else step_once
    bar = progress_bar(
        desc=label, total=plan.steps, initial=recorded, disable=not progress, leave=False
    )
    with bar:
        for done in range(recorded + 1, plan.steps + 1):
            learning_rate.fill_(plan.rate(done - 1))
            take_step()
            if done % plan.record_every and done < plan.steps:
                continue
            record = Record(done, float(loss_sum) / (done - recorded))
            ends = done == plan.steps
            saved = checkpoint is not None and (done % plan.checkpoint_every == 0 or ends)
            problem = "" if math.isfinite(record.loss) else f"loss is {record.loss}"
            # The loss of a step is that of the weights before it.
            if not problem and (saved or ends):
                finite = all(bool(p.isfinite().all()) for p in parameters)
                problem = "" if finite else "weights are not finite"
            if problem:
                fix = "lower the learning rate or beta"
                raise CepnbError(f"{label}: {problem} after step {done}; {fix}")
            history.append(record)
            bar.update(done - recorded)
            bar.set_postfix(loss=f"{record.loss:.4g}", refresh=False)
            recorded = done
            loss_sum.zero_()
            if saved:
                metadata = {"plan": repr(plan), "history": json.dumps(history)}
                save_tensors(checkpoint, _state(modules, optimiser, generator), metadata)
            yield record


def train(
    step_loss: StepLoss,
    modules: Modules,
    plan: Plan,
    generator: Generator,
    *,
    after_step: Callable[[], None] | None = None,
    checkpoint: Path | None = None,
    label: str = "training",
    progress: bool = True,
    capture: bool = True,
) -> list[Record]:
    """Run `training` to its end and return the history."""
    options = {"after_step": after_step, "checkpoint": checkpoint, "label": label}
    options |= {"progress": progress, "capture": capture}
    return list(training(step_loss, modules, plan, generator, **options))


def seeded(seed: int, purpose: str, device: torch.device | str = "cpu") -> Generator:
    """Return an independent random stream for each (seed, purpose) and type of device.

    Raises `CepnbError` unless the seed is an integer from 0 to 2147483647.
    """
    digest = hashlib.sha256(f"{check_seed(seed)}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def initialised(seed: int, purpose: str, build: Callable[[], Module]) -> Module:
    """Build a network whose initial weights depend on (seed, purpose) only."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds GPUs, too.
        torch.default_generator.manual_seed(seeded(seed, f"{purpose} weights").initial_seed())
        return build()


def draw(generator: Generator, count: int, *pools: Tensor) -> tuple[Tensor, ...]:
    """Draw `count` rows with replacement, the same of every pool; return them `unpacked`."""
    rows = torch.randint(len(pools[0]), (count,), generator=generator, device=generator.device)
    return tuple(unpacked(pool[rows]) for pool in pools)


def unpacked(values: Tensor) -> Tensor:
    """Convert float16, the type of some stored pools, to float32; return other types unchanged."""
    return values.float() if values.dtype == torch.float16 else values


def _adam(parameters: list[nn.Parameter], plan: Plan, device: torch.device) -> Adam:
    """Build Adam with a tensor as learning rate, which the loop fills; float64 on the CPU."""
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    rate = torch.tensor(plan.learning_rate, dtype=dtype, device=device)
    with unchanged_globals():  # the first optimiser imports torch's compiler
        return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=device.type == "cuda")


def _state(modules: Modules, optimiser: Adam, generator: Generator) -> dict[str, Tensor]:
    """Collect the tensors of a checkpoint."""
    tensors = {"random_state": generator.get_state()}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
    return tensors


def _restore(
    path: Path, modules: Modules, optimiser: Adam, generator: Generator, plan: Plan
) -> list[Record]:
    """Load a checkpoint into the modules, the optimiser and the generator; return the history."""
    tensors, metadata = load_tensors(path, "delete it to train from the first step")
    if metadata.get("plan") != repr(plan):
        stored = metadata.get("plan")
        raise CepnbError(f"{path}: saved under {stored}, now {plan!r}; use another folder")
    for name, module in modules.items():
        load_module(module, under(tensors, f"{name}."), path)
    saved = optimiser.state_dict()
    for index in saved["param_groups"][0]["params"]:
        saved["state"][index] = under(tensors, f"adam.{index}.")
    optimiser.load_state_dict(saved)
    generator.set_state(tensors["random_state"])
    return [Record(*point) for point in json.loads(metadata["history"])]
