"""Time and test metric of fine-tuning: tfserve against the transformers ``Trainer``.

The same MiniLM, tables, epochs, batch size and learning rate three times:

    padded    as the example scripts of transformers do by default: padding to 128 tokens, fp32
    dynamic   Trainer with padding to the batch's longest, in bf16 where that is the faster here
    tfserve   with its defaults otherwise

Times are those of the whole job, without imports: reading, encoding, training, testing and saving;
tfserve's also hold an evaluation and a checkpoint per epoch, which the Trainer's do not. A step of
the padded run always costs the same, so by default only ``--padded_steps`` of them are run and
the time of all is computed from those; ``--full`` runs all and shows the metric too.

    python benchmarks/training.py [--sets hate_vicomtech …] [--full]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from common import DATA, machine, minilm, table
from trainer import fine_tune

# Name → task, epochs, learning rate, metric shown. After one epoch with the usual rate both predict
# no label at all on goemotions.
SETS: dict[str, tuple[str, int, float, str]] = {
    "hate_vicomtech": ("classif", 2, 5e-5, "accuracy"),
    "banking77": ("classif", 2, 5e-5, "accuracy"),
    "goemotions": ("multilabel-classif", 1, 2e-4, "f1_micro"),
    "wnut17": ("ner", 2, 5e-5, "f1"),
    "emobank_valence": ("regression", 1, 5e-5, "pearson"),
}
BATCH = 16


def run_tfserve(name: str) -> dict[str, Any]:
    """One tfserve job."""
    import tfserve
    import tfserve.training

    task_name, epochs, rate, _ = SETS[name]
    with tempfile.TemporaryDirectory() as folder:
        hparams = {"task_name": task_name, "model_name": minilm(), "num_train_epochs": epochs,
                   "learning_rate": rate, "per_device_train_batch_size": BATCH}  # fmt: skip
        started = time.perf_counter()
        metrics = tfserve.train(hparams, train_dir=DATA / name, model_dir=f"{folder}/model")
        return {"seconds": time.perf_counter() - started, "metrics": metrics["test"]}


def run_trainer(name: str, kind: str, steps: int | None) -> dict[str, Any]:
    """One Trainer job; with ``steps``, its time is scaled up from that many."""
    task_name, epochs, rate, _ = SETS[name]
    seconds, metrics = fine_tune(
        DATA / name, task_name, epochs=epochs, rate=rate, batch=BATCH, padded=kind == "padded",
        bf16=kind == "dynamic", steps=steps,
    )  # fmt: skip
    return {"seconds": seconds, "metrics": metrics}


def measure(name: str, kind: str, steps: int | None) -> dict[str, Any]:
    """One job in a process of its own."""
    command = [sys.executable, __file__, "--job", name, kind, str(steps or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--padded_steps", type=int, default=30)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        name, kind, steps = options.job
        job = run_tfserve(name) if kind == "tfserve" else run_trainer(name, kind, int(steps))
        print(json.dumps(job))
        return
    rows = []
    for name in options.sets:
        padded = measure(name, "padded", None if options.full else options.padded_steps)
        dynamic, ours = (measure(name, kind, None) for kind in ("dynamic", "tfserve"))
        _, epochs, _, metric = SETS[name]
        scores = [
            f"{job['metrics'][metric]:.3f}" if job["metrics"] else "-"
            for job in (padded, dynamic, ours)
        ]
        times = [job["seconds"] for job in (padded, dynamic, ours)]
        rows.append([
            f"{name} ({epochs} epochs)", metric, *scores, *(f"{t:.0f}" for t in times),
            f"{times[2] / times[0]:.2f}", f"{times[2] / times[1]:.2f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    how = "all steps run" if options.full else f"padded: from {options.padded_steps} steps"
    print(f"\n{machine()}; {how}\n")
    header = ["set", "metric", "padded", "dynamic", "tfserve", "padded s", "dynamic s",
              "tfserve s", "of padded", "of dynamic"]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
