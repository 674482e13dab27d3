"""One training loop for every loss: progress, history, atomic checkpoints and exact resume after a kill."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cepnb.diffusion.capture import captured
from cepnb.diffusion.streams import Streams
from cepnb.errors import CepnbError
from cepnb.storage.files import load_module, load_tensors, save_tensors, under

Module = TypeVar("Module", bound=nn.Module)
Examples = Callable[
    [torch.Generator], tuple[Tensor, ...]
]  # draws a batch: all of a step that is random
StepLoss = Callable[
    [torch.Generator], Tensor
]  # draws a batch from the generator, returns one loss per example


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train: Adam with a cosine fall of the learning rate (constant if final_fraction is 1)."""

    steps: int
    learning_rate: float
    final_fraction: float = 1.0  # learning rate at the last step, as a fraction of the first
    record_every: int = 100  # steps whose mean loss makes one point of the history
    checkpoint_every: int = 1000  # steps between checkpoints, a multiple of record_every

    def __post_init__(self) -> None:
        for name in ("steps", "record_every"):
            if getattr(self, name) < 1:
                raise CepnbError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.checkpoint_every < 1 or self.checkpoint_every % self.record_every:
            raise CepnbError(
                f"checkpoint_every {self.checkpoint_every}: expected a multiple of record_every, "
                f"{self.record_every}"
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0 ≤ step < steps."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


@dataclass
class Record:
    """What `training` yields: the number of steps done and the mean loss since the record before."""

    step: int
    loss: float


def training(
    step_loss: StepLoss,
    modules: dict[str, nn.Module],
    plan: Plan,
    generator: torch.Generator | Streams,
    *,
    after_step: Callable[[], None] | None = None,
    checkpoint: Path | None = None,
    label: str = "training",
    progress: bool = True,
    capture: bool = True,
) -> Iterator[Record]:
    """Minimise the mean of `step_loss` over the trainable parameters of `modules`; yield a `Record` as it goes.

    Every random draw must come from `generator`. `after_step` runs after each step (a target network goes there, and
    into `modules`, so that it is saved). With `checkpoint`, weights, optimiser, history and random state are saved
    every `plan.checkpoint_every` steps and at the end, and a later call with the same arguments goes on from there to
    the same numbers, bit for bit on the same machine and thread count; records passed before are yielded again.
    All is done on the device of the generator, where modules and data must be. Between two records nothing of it is read,
    so that a GPU never waits for the host; there steps are `captured` as well, unless `capture` is off for what cannot be.
    Raises `CepnbError` if a loss is not finite or a checkpoint belongs to other modules or another plan.
    """
    optimiser = _adam(
        [p for module in modules.values() for p in module.parameters() if p.requires_grad],
        plan,
        generator.device,
    )
    history: list[Record] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, modules, optimiser, generator, plan)
        yield from history
    first = history[-1].step if history else 0
    since, total = first, torch.zeros((), device=generator.device)
    (group,) = optimiser.param_groups

    def step_once() -> None:
        loss = step_loss(generator).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if after_step is not None:
            after_step()
        total.add_(loss.detach())

    streams = generator if isinstance(generator, Streams) else [generator]
    take_step = captured(step_once, generator.device, streams) if capture else step_once
    with tqdm(
        total=plan.steps,
        initial=first,
        desc=label,
        disable=not progress,
        leave=False,
        mininterval=0.5,
    ) as bar:
        for step in range(first, plan.steps):
            group["lr"].fill_(plan.rate(step))
            take_step()
            done = step + 1
            if done % plan.record_every and done < plan.steps:
                continue
            record = Record(done, float(total) / (done - since))
            if not math.isfinite(record.loss):
                raise CepnbError(
                    f"{label}: the loss is {record.loss} after step {done}, expected a finite number"
                )
            history.append(record)
            bar.update(done - since)
            bar.set_postfix(loss=f"{record.loss:.4g}", refresh=False)
            since = done
            total.zero_()
            if checkpoint is not None and (done % plan.checkpoint_every == 0 or done == plan.steps):
                _save(checkpoint, modules, optimiser, generator, plan, history)
            yield record


def train(*args, **kwargs) -> list[Record]:
    """Run `training` to its end and return the history."""
    return list(training(*args, **kwargs))


def seeded(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random stream of its own for each (seed, purpose), so that stages do not depend on each other's draws.

    Draws are made on `device`; those of a GPU are other numbers than those of a processor.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def initialised(seed: int, purpose: str, build: Callable[[], Module]) -> Module:
    """Build a network whose first weights depend on (seed, purpose) alone; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(seed, f"{purpose} weights").initial_seed())
        return build()


def draw(generator: torch.Generator, count: int, *pools: Tensor) -> tuple[Tensor, ...]:
    """`count` rows drawn with replacement, the same rows of every pool, `unpacked`."""
    rows = torch.randint(len(pools[0]), (count,), generator=generator, device=generator.device)
    return tuple(unpacked(pool[rows]) for pool in pools)


def unpacked(values: Tensor) -> Tensor:
    """What is kept in half precision as float32, which all is computed in; anything else as it is."""
    return values.float() if values.dtype == torch.float16 else values


def _adam(parameters: list[nn.Parameter], plan: Plan, device: torch.device) -> torch.optim.Adam:
    """Adam whose learning rate is a tensor that can be filled: on a processor of float64, which is what a number is there."""
    rate = torch.tensor(
        plan.learning_rate,
        dtype=torch.float64 if device.type == "cpu" else torch.float32,
        device=device,
    )
    return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=device.type == "cuda")


def _save(
    path: Path,
    modules: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator | Streams,
    plan: Plan,
    history: list[Record],
) -> None:
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for index, state in optimiser.state_dict()["state"].items():
        tensors.update({f"adam.{index}.{key}": value for key, value in state.items()})
    tensors["random_state"] = generator.get_state()
    points = [[record.step, record.loss] for record in history]
    save_tensors(path, tensors, {"plan": repr(plan), "history": json.dumps(points)})


def _restore(
    path: Path,
    modules: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator | Streams,
    plan: Plan,
) -> list[Record]:
    tensors, metadata = load_tensors(path)
    if metadata.get("plan") != repr(plan):
        raise CepnbError(
            f"{path}: saved under {metadata.get('plan')}, expected {plan!r}; use another folder"
        )
    for name, module in modules.items():
        load_module(module, under(tensors, f"{name}."), path)
    saved = optimiser.state_dict()
    for index in range(len(optimiser.param_groups[0]["params"])):
        saved["state"][index] = under(tensors, f"adam.{index}.")
    optimiser.load_state_dict(saved)
    generator.set_state(tensors["random_state"])
    return [Record(step, loss) for step, loss in json.loads(metadata["history"])]
