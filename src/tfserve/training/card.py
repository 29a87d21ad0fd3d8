"""The model card: ``README.md`` of the model directory, in the hub's format
(https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tfserve.artifact import CARD, REPORT, Manifest
from tfserve.evaluation import Evaluation
from tfserve.files import storing, write_text
from tfserve.tallies import figure
from tfserve.tasks.common import named

MOST_LABELS = 100

CAVEAT = (
    "Dev chose the checkpoint, the temperatures and the thresholds: its figures are somewhat too "
    "good."
)
REFITTED = (
    "Temperatures and thresholds were fitted to the rows of `calibration`, after the training: "
    "their figures are somewhat too good."
)

TEXT = """\
# {title}

{base} fine-tuned for `{task}` with tfserve {version}.

## Intended use

*To be filled in by whoever trained it: what it is for, for whom, and what it must not be used for.*

## Labels

{labels}

## Data

| split | rows | fingerprint (the first 16 digits of a sha256 over the rows, in any order) |
| --- | --- | --- |
{data}

## Metrics

Each with its 95% interval (bootstrap over rows). {caveat}

| metric | {splits} |
| --- |{rule}
{metrics}

{calibration}

## How to call it

```python
import tfserve

predictor = tfserve.load("path/of/this/directory")
print(predictor.predict([{example}]))
```

`tfserve serve path/of/this/directory` answers over HTTP. The directory loads with transformers too
(`{auto_model}.from_pretrained`), but only tfserve windows long texts, aligns words and applies
temperatures and thresholds.

Limits: it reads {max_length} tokens at a time; a longer text is {long_text}.

Before this directory is shared: `tfserve.json` holds {golden} texts of {chosen_on} with their
answers, by which a server checks itself{report}.
"""


def write(
    model_dir: Path, manifest: Manifest, found: Mapping[str, Evaluation], *, reported: bool
) -> None:
    """Write the card of a model directory. Raises StorageError."""
    file = model_dir / CARD
    with storing(file):
        write_text(file, text(manifest, found, reported=reported))


def text(manifest: Manifest, found: Mapping[str, Evaluation], *, reported: bool) -> str:
    """The whole card; ``reported`` says that reports lie beside it."""
    task = next(iter(found.values())).task
    data = ModelCardData(
        base_model=manifest.base_model,
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["tfserve", task.name],
        model_name="model",
        eval_results=[
            EvalResult(
                task_type=task.pipeline_tag, dataset_type="table",
                dataset_name=split, dataset_split=split, metric_type=name,
                metric_value=float(f"{one.metrics[name]:.4g}"),
            )
            for split, one in found.items() for name in task.metric_names
        ],
    )  # fmt: skip
    body = TEXT.format(
        title=f"A model for {task.name}",
        base=f"`{manifest.base_model}`"
        if manifest.base_model
        else f"An encoder of the family `{manifest.model_type}`",
        task=task.name,
        version=manifest.versions.get("tfserve", ""),
        labels=_labels(manifest),
        data="\n".join(
            f"| {name} | {told['rows']:,} | `{told['fingerprint'][:16]}` |"
            for name, told in manifest.data.items()
        ),
        splits=" | ".join(found),
        rule=" --- |" * len(found),
        metrics="\n".join(
            f"| {name} | " + " | ".join(_metric(one, name) for one in found.values()) + " |"
            for name in task.metric_names
        ),
        calibration=_calibration(found),
        caveat=(REFITTED if "calibration" in found else CAVEAT)
        + (" Test is what to go by." if "test" in found else ""),
        example=_example(manifest),
        auto_model=task.auto_model,
        max_length=manifest.max_length,
        golden=len(manifest.golden),
        chosen_on="calibration" if "calibration" in found else "dev",
        report=f", and `{REPORT}/` shows texts of {' and '.join(found)}" if reported else "",
        long_text="read in overlapping windows"
        if task.per_word or manifest.long_text == "window"
        else "truncated, and the answer says so",
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _labels(manifest: Manifest) -> str:
    counts: dict[str, Any] = manifest.data.get("train", {}).get("labels", {})
    lines = [
        f"- {_code(named(name))}: " + (f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
        for name, value in counts.items()
    ]
    more = len(lines) - MOST_LABELS
    return "\n".join([*lines[:MOST_LABELS], *([f"- … {more} more"] if more > 0 else [])])


def _code(text: str) -> str:
    """A code span, whatever backticks and line breaks stand in it (CommonMark, section 6.1)."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _metric(found: Evaluation, name: str) -> str:
    low, high = found.intervals[name]
    return f"{figure(found.metrics[name])} ({figure(low)} to {figure(high)})"


def _calibration(found: Mapping[str, Evaluation]) -> str:
    errors = [
        f"{one.metrics['ece']:.3f} on {name} ({one.metrics['ece_chance']:.3f} would be chance)"
        for name, one in found.items()
        if "ece" in one.metrics
    ]
    answered = [
        f"{one.metrics['coverage']:.1%} of {name} answered, of these "
        f"{one.metrics['accuracy_answered']:.1%} right"
        for name, one in found.items()
        if "coverage" in one.metrics
    ]
    said = []
    if errors:
        said.append(f"Expected calibration error of its probabilities: {', '.join(errors)}.")
    if answered:
        said.append(f"It gives no label where it is too unsure: {', '.join(answered)}.")
    return " ".join(said)


def _example(manifest: Manifest) -> str:
    if not manifest.use_bbox:
        return '"A text."'
    return '{"words": ["Total", "4.20"], "bbox": [[70, 80, 160, 95], [300, 80, 360, 95]]}'
