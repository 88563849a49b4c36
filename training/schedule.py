"""Training against the clock: a stage is given minutes, and its learning rate follows the share that has passed."""

from __future__ import annotations

import math
import time

import torch


def learning_rate(share: float, peak: float, step: int, warmup: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up over `warmup` steps, then a half cosine from `peak` to `floor`·peak over the time budget.

    share: of the budget that has passed, 0 to 1.
    """
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
    return peak * cosine * min(1.0, (step + 1) / warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


class Clock:
    """Seconds of training, going on from `spent` of an earlier run, against a budget in minutes."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.budget = minutes * 60
        self.start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds trained so far, earlier runs included."""
        return time.monotonic() - self.start

    @property
    def share(self) -> float:
        """Share of the budget that has passed; above 1 the stage is over."""
        return self.spent / self.budget
