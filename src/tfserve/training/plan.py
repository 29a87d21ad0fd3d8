"""How long a run is: the rows of a step, the steps of an epoch and of the run, its evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.batching import plan_epoch
from tfserve.hparams import HParams

EPOCHS, SMALL_TABLE_STEPS, MAX_EPOCHS = 3, 600, 20
"""By default a table gets 3 epochs, a small one as many as make 600 steps, at most 20."""

EVAL_STEPS = 500

STEP_TOKENS, LEAST_ROWS, MOST_ROWS = 2048, 4, 16
"""A step is 16 rows of 128 tokens, or fewer of more: what a row costs grows with its length, what a
step teaches hardly does (docs/quality.md)."""

WINDOWS_TOKENS = 8192
"""Of the windows of long rows that a device computes at once: what 16 of 512 tokens hold."""


@dataclass(frozen=True)
class Plan:
    """The length of a run.

    Attributes
    ----------
    batch_size : rows of a batch, over all devices
    windows : that a device computes at once
    steps_per_epoch, steps : optimizer steps of an epoch, and of the run
    eval_steps : steps between evaluations
    """

    batch_size: int
    windows: int
    steps_per_epoch: int
    steps: int
    eval_steps: int

    @classmethod
    def of(cls, hp: HParams, lengths: Sequence[int], longest: int, world_size: int) -> Plan:
        """The plan for rows of so many tokens, whose longest window has ``longest``."""
        rows = hp.per_device_train_batch_size or usual_batch(lengths)
        batches = plan_epoch(lengths, rows * world_size, np.random.default_rng(0))
        steps_per_epoch = math.ceil(len(batches) / hp.gradient_accumulation_steps)
        passes = hp.num_train_epochs or usual_epochs(steps_per_epoch)
        steps = hp.max_steps or math.ceil(passes * steps_per_epoch)
        return cls(
            batch_size=rows * world_size,
            windows=hp.per_device_train_batch_size or max(rows, WINDOWS_TOKENS // longest),
            steps_per_epoch=steps_per_epoch,
            steps=steps,
            eval_steps=hp.eval_steps or min(steps_per_epoch, EVAL_STEPS),
        )


def usual_epochs(steps_per_epoch: int) -> int:
    """Passes over a table of so many steps."""
    enough = math.ceil(SMALL_TABLE_STEPS / steps_per_epoch)
    return min(MAX_EPOCHS, max(EPOCHS, enough))


def usual_batch(lengths: Sequence[int]) -> int:
    """Rows of a step, of rows of so many tokens: long ones are a step's work in smaller number."""
    return min(MOST_ROWS, max(LEAST_ROWS, round(STEP_TOKENS / statistics.fmean(lengths))))
