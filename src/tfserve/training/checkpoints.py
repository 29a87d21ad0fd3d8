"""Checkpoints: a training job that was killed goes on where it was, bit for bit.

A checkpoint is a folder ``checkpoint-<step>`` with ``model.safetensors``, ``optimizer.safetensors``
and ``state.json``; nothing is pickled. It is written under another name and renamed, so that it is
there whole or not at all, and the digests in its state tell when a file was damaged afterwards:
then the one before it is used. The order of the data and all random numbers follow from the seed
and the step, so there is no more state than this.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from tfserve.files import sha256, storing

KEPT = 2
"""The newest checkpoints that stay: one, and one to fall back to; what was best then stays too."""


@dataclass
class State:
    """Where a run stands.

    Attributes
    ----------
    step : optimizer steps done
    evaluated : the last step with an evaluation
    best, best_step : sort key of the best evaluation (higher is better) and its step
    waiting : evaluations since the best
    history : what was logged at each evaluation
    line : loss, learning rate and speed since the last evaluation, for its line in the log
    loss_scale : of fp16
    """

    step: int = 0
    evaluated: int = 0
    best: list[float] | None = None
    best_step: int = 0
    waiting: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    line: dict[str, float] = field(default_factory=dict)
    loss_scale: dict[str, float] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run in one folder.

    Parameters
    ----------
    folder : made when the first checkpoint is saved
    fingerprint : of hyperparameters and data; checkpoints of another run are not resumed from
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, state: State, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint and remove those that are no longer needed."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
            try:
                save_model(model, str(partial / "model.safetensors"))
                save_file(optimizer_state(optimizer), str(partial / "optimizer.safetensors"))
                files = {file.name: sha256(file) for file in sorted(partial.iterdir())}
                content = {"fingerprint": self.fingerprint, "files": files, **asdict(state)}
                sealed = {"sha256": _digest(content), "content": content}
                (partial / "state.json").write_text(json.dumps(sealed), "utf-8")
                final = self.path(state.step)
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._prune(state)

    def resume(self, model: Any, optimizer: torch.optim.Optimizer) -> State:
        """Load the newest intact checkpoint of this run; a fresh state where there is none."""
        for _, folder in reversed(self._found()):
            if (content := self._intact(folder)) is None:
                continue
            load_model(model, str(folder / "model.safetensors"))
            put_optimizer_state(optimizer, load_file(str(folder / "optimizer.safetensors")))
            return State(**content)
        return State()

    def load_weights(self, step: int, model: Any) -> None:
        """Put the weights of the checkpoint at ``step`` into ``model``."""
        load_model(model, str(self.path(step) / "model.safetensors"))

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def _found(self) -> list[tuple[int, Path]]:
        folders = self.folder.glob("checkpoint-*") if self.folder.is_dir() else []
        numbered = [(path.name.removeprefix("checkpoint-"), path) for path in folders]
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())

    def _intact(self, folder: Path) -> dict[str, Any] | None:
        """The state in a checkpoint of this run, if its files and those of its best are whole."""
        content = self._read(folder)
        try:
            if content is None:
                return None
            del content["fingerprint"]
            if any(
                sha256(folder / name) != digest for name, digest in content.pop("files").items()
            ):
                return None
        except OSError:
            return None
        best = content["best_step"]
        if best not in (0, content["step"]) and self._intact(self.path(best)) is None:
            return None
        return content

    def _read(self, folder: Path) -> dict[str, Any] | None:
        """What ``state.json`` holds, if it is whole and of this run."""
        try:
            sealed = json.loads((folder / "state.json").read_text("utf-8"))
            content: dict[str, Any] = sealed["content"]
            whole = sealed["sha256"] == _digest(content)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content if whole and content["fingerprint"] == self.fingerprint else None

    def _prune(self, state: State) -> None:
        """Remove what this run no longer needs; another run's checkpoints are not ours."""
        read = ((step, folder, self._read(folder)) for step, folder in self._found())
        ours = [(step, folder, content) for step, folder, content in read if content]
        kept = {state.best_step, state.step}
        for step, _, content in ours[-KEPT:]:
            kept |= {step, content["best_step"]}  # without which one cannot be fallen back to
        for step, folder, _ in ours:
            if step not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        for leftover in self.folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state as named tensors: ``<parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{parameter}.{name}": value.contiguous()
        for parameter, values in state.items()
        for name, value in values.items()
    }


def put_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put what ``optimizer_state`` gave into ``optimizer``."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
