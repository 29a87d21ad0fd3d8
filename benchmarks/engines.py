"""What each engine is worth: texts per second, a text that comes alone, the first answer, memory.

All answer the same texts with the same MiniLM, fine-tuned on banking77, in turn, several rounds;
medians and ratios count. Those with a graph are exported without weights, and int8 is calibrated on
banking77's dev table; whether `tfserve export --int8` would keep it is said. The first answer is
that of a process of its own, from its start.

    python benchmarks/engines.py [--rounds 3] [--model DIR]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DATA, classifier, machine, parser, spread, table
from prediction import SETS, load_texts, rate

import tfserve
from tfserve import quantization
from tfserve.errors import ModelError
from tfserve.export import export

LONE = 100
FIRST = """
import re, sys, tfserve
model = tfserve.load(sys.argv[1], engine=sys.argv[2], precision=sys.argv[3])
model.predict(["where is my card?"])
# Not ru_maxrss: that begins with what the process was forked from.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1000, flush=True)
"""


def first(folder: Path, engine: str, precision: str) -> tuple[float, float]:
    """Seconds to the first answer of a new process, and its megabytes."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(folder), engine, precision]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        size = float(process.stdout.readline())
        return time.perf_counter() - started, size


def lone(predictor: tfserve.Predictor, texts: list[str]) -> float:
    """Milliseconds of a text that comes alone: the median."""
    took = []
    for text in texts:
        started = time.perf_counter()
        predictor.predict([text])
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    model = classifier(options.model, num_train_epochs=2)
    scratch = Path(tempfile.mkdtemp())
    for engine in ("openvino", "onnx"):
        export(model, engine, output=scratch / engine)
    try:
        _, told = export(model, "openvino", output=scratch / "int8", dev=DATA / "banking77/dev.csv")
        print(told)
    except ModelError as refused:
        print(refused)
        quantization.MOST_LOST = 1.0
        export(model, "openvino", output=scratch / "int8", dev=DATA / "banking77/dev.csv")
    variants = {
        ("torch", "fp32"): model,
        ("torch", "bf16"): model,
        ("onnx", "fp32"): scratch / "onnx",
        ("openvino", "fp32"): scratch / "openvino",
        ("openvino", "bf16"): scratch / "openvino",
        ("openvino", "int8"): scratch / "int8",
    }
    asked = {key: "auto" if key[1] == "int8" else key[1] for key in variants}
    loaded = {k: tfserve.load(v, engine=k[0], precision=asked[k]) for k, v in variants.items()}
    texts = {name: load_texts(name) for name in SETS}
    found: dict[tuple[tuple[str, str], str], list[float]] = {}
    for _ in range(options.rounds):
        for key, predictor in loaded.items():
            predictor.predict(texts["banking77"][:200])
            for name in SETS:
                found.setdefault((key, name), []).append(rate(predictor.predict, texts[name]))
            found.setdefault((key, "lone"), []).append(lone(predictor, texts["banking77"][:LONE]))
            seconds, size = first(variants[key], key[0], asked[key])
            found.setdefault((key, "first"), []).append(seconds)
            found.setdefault((key, "size"), []).append(size)
            print(key, {name: f"{found[key, name][-1]:.4g}" for name in (*SETS, "lone", "first")},
                  flush=True)  # fmt: skip
    labels = {
        key: [answer["pred"] for name in SETS for answer in predictor.predict(texts[name][:300])]
        for key, predictor in loaded.items()
    }
    rows = [
        [
            *key,
            *(spread(found[key, name]) for name in SETS),
            spread(found[key, "lone"], 1),
            f"{sum(map(str.__eq__, labels[key], labels['torch', 'fp32'])) / len(labels[key]):.1%}",
            spread(found[key, "first"], 1),
            spread(found[key, "size"]),
        ]
        for key in variants
    ]
    print(f"\n{machine()}\nmedian (range) of {options.rounds} rounds\n")
    header = ["engine", "precision", *SETS, "ms alone", "labels equal", "s to the first", "MB"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
