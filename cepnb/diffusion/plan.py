"""The length and the learning rates of a training."""

import math
from dataclasses import dataclass

from cepnb.errors import CepnbError


@dataclass(frozen=True)
class Plan:
    """Length and learning rates of a training. Raises `CepnbError` on values out of range."""

    steps: int
    learning_rate: float  # of Adam, with cosine decay
    final_fraction: float = 1.0  # last learning rate / first learning rate; 1 for a constant rate
    record_every: int = 100  # steps whose mean loss makes one point of the history
    checkpoint_every: int = 1000  # steps between checkpoints, a multiple of record_every

    def __post_init__(self) -> None:
        for name in ("steps", "record_every"):
            if getattr(self, name) < 1:
                raise CepnbError(f"{name} {getattr(self, name)}: use at least 1")
        if not 0 <= self.learning_rate < math.inf:
            raise CepnbError(f"learning_rate {self.learning_rate}: use a finite number, 0 or more")
        if self.checkpoint_every < 1 or self.checkpoint_every % self.record_every:
            fix = f"use a multiple of record_every, {self.record_every}"
            raise CepnbError(f"checkpoint_every {self.checkpoint_every}: {fix}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0 ≤ step < steps."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)
