"""Texts per second: ``Predictor`` against ``transformers.pipeline`` called one text at a time.

One text at a time is how the HuggingFace inference toolkit calls its pipeline. All variants answer
the same texts with the same fine-tuned MiniLM, in turn, several rounds; medians and ratios count.
Prints also that the answers are the pipeline's (the largest difference of a probability in fp32,
the share of equal labels in bf16), and the share of the processor's peak in matrix products that
the products of the linear layers reach in fp32, padding not counted: what is left to gain.

    python benchmarks/prediction.py [--rounds 3] [--model DIR]
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from common import classifier, machine, parser, spread, table, texts

import tfserve
from tfserve.engines.torch import TorchEngine
from tfserve.records import Record

SETS = ("banking77", "mix", "newsgroups20")
COUNT = {"banking77": 2000, "mix": 1000, "newsgroups20": 300}
PIPELINE_COUNT = {"banking77": 300, "mix": 200, "newsgroups20": 60}


def load_texts(name: str) -> list[str]:
    """The texts of a set; the mix is 70% banking77, 20% goemotions, 10% newsgroups20."""
    rng = np.random.default_rng(0)
    if name != "mix":
        return [str(text) for text in rng.permutation(texts(name))[: COUNT[name]]]
    shares = {"banking77": 0.7, "goemotions": 0.2, "newsgroups20": 0.1}
    parts = [
        rng.choice(texts(part), int(COUNT["mix"] * share), replace=False)
        for part, share in shares.items()
    ]
    return [str(text) for text in rng.permutation(np.concatenate(parts))]


def rate(answer: Callable[[list[str]], Any], sample: list[str]) -> float:
    """Texts per second."""
    started = time.perf_counter()
    answer(sample)
    return len(sample) / (time.perf_counter() - started)


def peak() -> float:
    """Operations per second of a matrix product in fp32 of this model's shape."""
    tokens, weights = torch.randn(512, 384), torch.randn(384, 1536)
    best = min(timeit.repeat(lambda: tokens @ weights, number=20, repeat=20))
    return 2 * 512 * 384 * 1536 * 20 / best


def work(predictor: tfserve.Predictor, sample: list[str]) -> float:
    """Operations of the linear layers for a text of ``sample``."""
    engine = predictor.engine
    assert isinstance(engine, TorchEngine)
    layers = [
        m for m in engine.model.base_model.encoder.modules() if isinstance(m, torch.nn.Linear)
    ]
    records = [Record(text) for text in sample]
    tokens = sum(len(w) for e in predictor.encoder.encode(records) for w in e.windows)
    return 2 * sum(layer.weight.numel() for layer in layers) * tokens / len(sample)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    folder = classifier(options.model, num_train_epochs=1)
    pipeline = transformers.pipeline(
        "text-classification", model=str(folder), truncation=True, max_length=512
    )
    ours = {p: tfserve.load(folder, precision=p) for p in ("fp32", "bf16")}

    def one_at_a_time(sample: list[str]) -> list[Any]:
        return [pipeline(text)[0] for text in sample]

    rows = []
    for name in SETS:
        sample = load_texts(name)
        short = sample[: PIPELINE_COUNT[name]]
        one_at_a_time(short[:10])
        for predictor in ours.values():
            predictor.predict(sample[:200])
        rates: dict[str, list[float]] = {"pipeline": [], "fp32": [], "bf16": []}
        for _ in range(options.rounds):
            rates["pipeline"].append(rate(one_at_a_time, short))
            for precision, predictor in ours.items():
                rates[precision].append(rate(predictor.predict, sample))
        reference = one_at_a_time(short)
        exact, native = (ours[p].predict(short) for p in ("fp32", "bf16"))
        off = max(abs(a["score"] - b["proba"]) for a, b in zip(reference, exact, strict=True))
        same = np.mean([a["label"] == b["pred"] for a, b in zip(reference, native, strict=True)])
        base = statistics.median(rates["pipeline"])
        reached = statistics.median(rates["fp32"]) * work(ours["fp32"], sample) / peak()
        rows.append([
            name,
            *(spread(rates[kind], 0) for kind in rates),
            *(f"{statistics.median(rates[kind]) / base:.1f}" for kind in ("fp32", "bf16")),
            f"{reached:.0%}",
            f"{off:.1e}",
            f"{same:.2%}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    print(f"\n{machine()}\nmedian (range) of {options.rounds} rounds, texts per second\n")
    header = ["texts", "pipeline", "tfserve fp32", "tfserve bf16", "fp32 ratio", "bf16 ratio",
              "fp32 of peak", "fp32 off by", "bf16 labels equal"]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
