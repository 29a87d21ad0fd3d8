"""What a run says: a progress bar, one parseable line per evaluation, TensorBoard events.

The lines are Python dict literals, the form that SageMaker metric definitions for transformers
models already match: ``{'eval_loss': 0.41, 'eval_accuracy': 0.83, …, 'epoch': 1.0, 'step': 108}``.
The last one has the metrics of the model that is kept, ``{'best_eval_accuracy': 0.85, …}``, once: a
tuner that reads logs then need not guess which evaluation counts.
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
            if start:
                print(f"going on from step {start} of {total}", flush=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
                from torch.utils.tensorboard import SummaryWriter

                self.events = SummaryWriter(str(folder))

    def line(self, values: dict[str, float]) -> None:
        """Print ``values`` and draw them at their ``step``."""
        if not self.is_main:
            return
        tqdm.write(str(values))
        for name, value in values.items():
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            if name != "step":
                self.events.add_scalar(tag, value, values["step"])

    def best(self, metrics: dict[str, Any], step: int) -> None:
        """Print the dev metrics of the model that is kept."""
        if self.is_main:
            named = {f"best_eval_{name}": value for name, value in numbers(metrics).items()}
            print({**named, "best_step": step}, flush=True)

    def close(self) -> None:
        self.bar.close()
        if self.events is not None:
            self.events.close()


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those of ``values`` that are numbers, as they are printed: six digits after the point, not
    counting zeros."""
    found = {k: v for k, v in values.items() if isinstance(v, (int, float))}
    return {k: round(v, 6) if abs(v) >= 1 else float(f"{v:.6g}") for k, v in found.items()}
