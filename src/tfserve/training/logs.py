"""What a run says: a progress bar, one parseable line per evaluation, TensorBoard events.

The lines are Python dict literals, the form that SageMaker metric definitions for transformers
models already match: ``{'eval_loss': 0.41, 'eval_accuracy': 0.83, …, 'epoch': 1.0, 'step': 108}``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Logs:
    """Bar, lines and events (in ``folder``) of one run; silent but in the main process."""

    def __init__(self, folder: Path, *, total: int, start: int, is_main: bool) -> None:
        self.is_main = is_main
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=None if is_main else True, leave=False
        )
        self.events: Any = None
        if is_main:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
                from torch.utils.tensorboard import SummaryWriter

                self.events = SummaryWriter(str(folder))

    def line(self, values: dict[str, Any]) -> None:
        """Print the numbers of ``values`` and draw them at their ``step``."""
        if not self.is_main:
            return
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        tqdm.write(str({k: round(v, 6) for k, v in numbers.items()}))
        for name, value in numbers.items():
            split, _, metric = name.rpartition("eval_")
            tag = f"eval/{metric}" if name.startswith("eval_") else f"train/{split or metric}"
            if name != "step":
                self.events.add_scalar(tag, value, values["step"])

    def close(self) -> None:
        self.bar.close()
        if self.events is not None:
            self.events.close()
