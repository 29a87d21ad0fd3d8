"""What might make models better: each is tfserve with one thing changed.

What is a hyperparameter is given as one; the rest is put in place here, since what did not pay has
no place in the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import Method, Result
from methods import MOST, TASKS, tfserve_with
from torch import nn

from tfserve.tasks import Task, get
from tfserve.training import optimization, plan
from tfserve.training.loop import Loop
from tfserve.training.pretrained import Pretrained

SETS = ("banking77", "goemotions", "wnut17", "emobank_valence")
"""One of each task, of short texts."""

LONG = ("sroie", "docbank_samples", "litbank_long", "newsgroups20")

MEANT = {
    "head at frequencies": ("banking77",),
    "head at zero": ("goemotions", "wnut17", "litbank", *LONG[:3]),
    **dict.fromkeys(("label smoothing", "focal loss", "class weights"), SETS[:3]),
    **dict.fromkeys(("128 tokens", "windows of 128 tokens"), LONG[-1:]),
    "batches of 4": tuple(name for name in LONG if name != "docbank_samples"),  # has them anyway
    "LoRA at 3e-3": SETS[:2],
}
"""Sets of the variants that are not for those."""


def focal(name: str, seed: int) -> Result:
    """Lin et al., "Focal loss for dense object detection", 2017: each row's loss times
    (1 - p)^2, where p is what the model gives to the truth."""

    def loss_sum(self: Task, logits: Any, targets: Any, weights: Any) -> Any:
        if self.name == "multilabel-classif":
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, targets, reduction="none"
            )
        else:
            losses = nn.functional.cross_entropy(
                logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=-100
            )
        return (losses * (1 - torch.exp(-losses)) ** 2).sum()

    get(TASKS[name]).loss_sum = loss_sum  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def smoothed(name: str, seed: int) -> Result:
    """Szegedy et al., "Rethinking the Inception architecture", 2016: a tenth of the target is
    spread over all labels."""

    def loss_sum(self: Task, logits: Any, targets: Any, weights: Any) -> Any:
        if self.name == "multilabel-classif":
            return nn.functional.binary_cross_entropy_with_logits(
                logits, targets * 0.9 + 0.05, reduction="sum"
            )
        return nn.functional.cross_entropy(
            logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=-100,
            label_smoothing=0.1,
        )  # fmt: skip

    get(TASKS[name]).loss_sum = loss_sum  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def one_rate(name: str, seed: int) -> Result:
    """One learning rate for the layers and for the head, as the example scripts have it."""
    optimization.HEAD_RATE = 1.0
    return tfserve_with(layer_decay=1)(name, seed)


def slow_head(name: str, seed: int) -> Result:
    """The head learns as fast as the encoder's top."""
    optimization.HEAD_RATE = 1.0
    return tfserve_with()(name, seed)


def fast_head(name: str, seed: int) -> Result:
    """The head learns 20 times as fast as the encoder's top."""
    optimization.HEAD_RATE = 20.0
    return tfserve_with()(name, seed)


def head_first(name: str, seed: int) -> Result:
    """The head learns alone for 60 steps; the rate then rises again, for 60 more."""
    plain_step = Loop._step

    def step(self: Loop, group: Any, rate: float) -> Any:
        both = self.state.step - 60
        for parameter in self.accelerator.unwrap_model(self.model).base_model.parameters():
            parameter.requires_grad_(both >= 0)
        return plain_step(self, group, rate * (min(1.0, (both + 1) / 60) if both >= 0 else 1.0))

    Loop._step = step  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def cosine(name: str, seed: int) -> Result:
    """After warm-up the rate falls as half a wave of a cosine does."""
    plain_init = Loop.__init__

    def init(self: Loop, *args: Any, **options: Any) -> None:
        plain_init(self, *args, **options)
        line, rising = self.schedule, round(self.hp.warmup_ratio * self.plan.steps)
        self.schedule = lambda step: (
            line(step) if step < rising else (1 - math.cos(math.pi * line(step))) / 2
        )

    Loop.__init__ = init  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def altered(change: Callable[[Any, Task], Any], **hparams: Any) -> Method:
    """The defaults with a model that ``change`` was done to."""

    def method(name: str, seed: int) -> Result:
        plain = Pretrained.model

        def model(self: Pretrained, task: Task, **options: Any) -> Any:
            made = plain(self, task, **options)
            return change(made, task) or made

        Pretrained.model = model  # type: ignore[method-assign]
        return tfserve_with(**hparams)(name, seed)

    return method


def dropout(model: Any, task: Task) -> None:
    """A tenth of each layer's output is dropped, but no attention: torch would leave its fused one
    on CPUs."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "attention.self" not in name:
            module.p = 0.1


class MultiDropout(nn.Linear):
    """A head behind the mean of five dropout masks: like Inoue, "Multi-sample dropout for
    accelerated training and better generalization", 2019, who averages the losses."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if self.training:
            input = torch.stack([nn.functional.dropout(input, 0.3) for _ in range(5)]).mean(0)
        return super().forward(input)


def multi_dropout(model: Any, task: Task) -> None:
    """Another forward of the same head."""
    model.classifier.__class__ = MultiDropout


def low_rank(name: str, seed: int, rate: float = 1e-3) -> Result:
    """Hu et al., "LoRA", 2021: matrices of rank 16 beside every linear layer, and the head, all at
    one rate, since all begin from nothing."""
    import peft

    optimization.HEAD_RATE = 1.0
    plain_init, plain_write = Loop.__init__, Loop.write_weights
    adapted: list[Any] = []

    def change(model: Any, task: Task) -> None:
        heads = r"(?!.*classifier).*(query|key|value|dense)"
        config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=heads)
        adapted.append(peft.LoraModel(model, config, "default"))

    def init(self: Loop, *args: Any, **options: Any) -> None:
        plain_init(self, *args, **options)
        model = self.accelerator.unwrap_model(self.model)
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in parameter_name or "classifier" in parameter_name)

    def write(self: Loop, folder: Path) -> None:
        adapted[0].merge_and_unload()
        plain_write(self, folder)

    Loop.__init__, Loop.write_weights = init, write  # type: ignore[method-assign]
    return altered(change, learning_rate=rate, layer_decay=1)(name, seed)


def at_frequencies(name: str, seed: int) -> Result:
    """The bias of the head begins with the frequencies of the labels, as that of tags does."""

    def head_bias(self: Task, labels: Any) -> Any:
        counts = np.bincount([self.target(label) for label in labels], minlength=len(self.labels))
        return np.log(counts / counts.sum()).clip(-9).astype(np.float32)

    get(TASKS[name]).head_bias = head_bias  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def at_zero(name: str, seed: int) -> Result:
    """The bias of the head begins at zero, as transformers has it."""
    get(TASKS[name]).head_bias = lambda self, labels: None  # type: ignore[method-assign]
    return tfserve_with()(name, seed)


def longer(name: str, seed: int) -> Result:
    """Twice the epochs of the defaults."""
    steps = -(-MOST["train"] // plan.MOST_ROWS)
    return tfserve_with(num_train_epochs=2 * plan.usual_epochs(steps))(name, seed)


VARIANTS: dict[str, Method] = {
    "rate 1e-4": tfserve_with(learning_rate=1e-4),
    "rate 4e-4": tfserve_with(learning_rate=4e-4),
    "head at frequencies": at_frequencies,
    "head at zero": at_zero,
    "class weights": tfserve_with(class_weights="balanced"),
    "focal loss": focal,
    "twice the epochs": longer,
    "one learning rate": one_rate,
    "head's rate x 1": slow_head,
    "head's rate x 20": fast_head,
    "layer_decay 1": tfserve_with(layer_decay=1),
    "layer_decay 0.7": tfserve_with(layer_decay=0.7),
    "layer_decay 0.9": tfserve_with(layer_decay=0.9),
    "label smoothing": smoothed,
    "dropout 0.1": altered(dropout),
    "multi-dropout": altered(multi_dropout),
    "head first": head_first,
    "LoRA": low_rank,
    "LoRA at 3e-3": partial(low_rank, rate=3e-3),
    "cosine": cosine,
    "batches of 4": tfserve_with(per_device_train_batch_size=4),
    "128 tokens": tfserve_with(max_length=128),
    "windows of 128 tokens": tfserve_with(max_length=128, long_text="window"),
}
