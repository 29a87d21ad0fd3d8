"""Do boxes help? A small LayoutLM, trained from scratch on sroie with its boxes and with zeros.

Boxes are rounded to multiples of 50: some 540 receipts are too few to learn an embedding for each
of 1,001 positions from scratch, which a pretrained LayoutLM brings along.

    python benchmarks/boxes.py [--epochs 8] [--seeds 3]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import transformers
from common import DATA, machine, minilm, spread, table

import tfserve
from tfserve.samples import read_samples

GRID = 50


def scratch(folder: Path) -> Path:
    """A LayoutLM of four layers and 128 dimensions with random weights, MiniLM's tokenizer."""
    config = transformers.LayoutLMConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    transformers.set_seed(0)
    transformers.LayoutLMModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(Path(minilm()) / name, folder / name)
    return folder


def rewritten(folder: Path, change: Callable[[float], int]) -> Path:
    """The sroie tables with every number of a box changed."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        lines = ["text\tbbox\tlabels"]
        for _, row in read_samples(DATA / "sroie" / f"{split}.csv"):
            numbers = row["bbox"].replace(",", " ").split()
            boxes = " ".join(str(change(float(number))) for number in numbers)
            lines.append(f"{row['text']}\t{boxes}\t{row['labels']}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def main() -> None:
    """Train both, with several seeds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    model = scratch(work / "model")
    kinds = {
        "boxes": rewritten(work / "rounded", lambda number: round(number / GRID) * GRID),
        "boxes zeroed": rewritten(work / "zeroed", lambda _: 0),
    }
    scores: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(options.seeds):
        for kind, data in kinds.items():
            hparams = {"task_name": "ner", "model_name": str(model), "use_bbox": True,
                       "num_train_epochs": options.epochs, "learning_rate": 1e-3,
                       "layer_decay": 1, "dropout": 0.2, "seed": seed}  # fmt: skip
            metrics = tfserve.train(hparams, train_dir=data, model_dir=work / "trained")
            scores[kind].append(metrics["test"]["f1"])
            print(kind, seed, f"{scores[kind][-1]:.3f}", flush=True)
    shutil.rmtree(work)
    print(f"\n{machine()}\n{options.epochs} epochs, {options.seeds} seeds, median (range)\n")
    print(table(["sroie", "entity F1"], [[kind, spread(v, 3)] for kind, v in scores.items()]))


if __name__ == "__main__":
    main()
