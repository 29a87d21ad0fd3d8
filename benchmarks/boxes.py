"""Do boxes help? A small LayoutLM, trained from scratch on sroie with its boxes and with zeros.

python benchmarks/boxes.py [--epochs 15] [--seeds 3]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import transformers
from common import DATA, machine, minilm, spread, table

import tfserve
from tfserve.tables import read_samples


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


def without_boxes(folder: Path) -> Path:
    """The sroie tables with every box zeroed."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        lines = ["text\tbbox\tlabels"]
        for _, row in read_samples(DATA / "sroie" / f"{split}.csv"):
            zeros = " ".join("0" * len(row["text"].split()) * 4)
            lines.append(f"{row['text']}\t{zeros}\t{row['labels']}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def main() -> None:
    """Train both, with several seeds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    model = scratch(work / "model")
    kinds = {"boxes": DATA / "sroie", "boxes zeroed": without_boxes(work / "zeroed")}
    scores: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(options.seeds):
        for kind, data in kinds.items():
            hparams = {"task_name": "ner", "model_name": str(model), "use_bbox": True,
                       "num_train_epochs": options.epochs, "learning_rate": 1e-3,
                       "seed": seed}  # fmt: skip
            metrics = tfserve.train(hparams, train_dir=data, model_dir=work / "trained")
            scores[kind].append(metrics["test"]["f1"])
            print(kind, seed, f"{scores[kind][-1]:.3f}", flush=True)
    shutil.rmtree(work)
    print(f"\n{machine()}\n{options.epochs} epochs, {options.seeds} seeds, median (range)\n")
    print(table(["sroie", "entity F1"], [[kind, spread(v, 3)] for kind, v in scores.items()]))


if __name__ == "__main__":
    main()
