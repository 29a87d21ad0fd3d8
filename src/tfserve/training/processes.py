"""Several processes that train one model: what they agree on, and what the main one gives them.

torchrun and accelerate start a process per GPU, on one host or several; a run without them is the
case of one process. The main process alone evaluates and writes files, so that the others need to
see neither its disk nor its results, and a decision that must be the same everywhere is its own.
"""

from __future__ import annotations

import datetime
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
)

from tfserve.engines.torch import resolve_precision
from tfserve.errors import HParamsError
from tfserve.training.checkpoints import optimizer_state, put_optimizer_state

LONGEST_WAIT = datetime.timedelta(hours=3)
"""The others wait for the main process while it evaluates, which takes longer than a step."""

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
T = TypeVar("T")


class Processes:
    """The processes of a run, as one of them sees them.

    Attributes
    ----------
    precision : of the matrix products, ``auto`` resolved
    accelerator : accelerate's, for that precision
    world, rank : how many processes there are, and the number of this one
    is_main : whether this process evaluates, logs and writes
    """

    def __init__(self, precision: str) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_cpu = device.type == "cpu"
        if precision == "fp16" and on_cpu:
            raise HParamsError(
                "hparams.value", "precision: fp16 needs a GPU; expected auto or bf16"
            )
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
        PartialState(cpu=on_cpu, **InitProcessGroupKwargs(timeout=LONGEST_WAIT).to_kwargs())
        self.precision = self.from_main(resolve_precision(precision, device))
        # Some models have parts that a task makes no use of: they get no gradient.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            mixed_precision=MIXED[self.precision], cpu=on_cpu, kwargs_handlers=[unused]
        )
        self.device = self.accelerator.device
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.is_main = self.accelerator.is_main_process

    def from_main(self, value: T) -> T:
        """The main process's ``value``."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return bool(self._sum(float(flag))) if self.world > 1 else flag

    def mean(self, value: float) -> float:
        """The mean of all processes' ``value``."""
        return self._sum(value) / self.world if self.world > 1 else value

    def share(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Give all processes the main one's weights and optimizer state."""
        if self.world == 1:
            return
        state = optimizer_state(optimizer)
        kinds = self.from_main([(name, t.shape, t.dtype) for name, t in state.items()])
        received = {
            name: (state[name] if self.is_main else torch.empty(shape, dtype=dtype)).to(self.device)
            for name, shape, dtype in kinds
        }
        for tensor in [*model.state_dict().values(), *received.values()]:
            torch.distributed.broadcast(tensor, 0)
        if not self.is_main and received:
            put_optimizer_state(optimizer, received)

    def loss_scale(self) -> dict[str, float]:
        """Where the scaling of losses in fp16 stands; empty in other precisions."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def put_loss_scale(self, scale: dict[str, float]) -> None:
        """Go on from what ``loss_scale`` gave."""
        if scale and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scale)

    def close(self) -> None:
        """Leave the group, when all is done."""
        self.accelerator.end_training()

    def _sum(self, value: float) -> float:
        tensor = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(tensor)
        return float(tensor)
