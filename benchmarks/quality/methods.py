"""Three ways to train on a table: tfserve, transformers' example scripts, and words alone.

Each gives the processor's seconds for its job, without imports, and the metrics on test.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import Method, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import DATA, minilm
from trainer import fine_tune

if TYPE_CHECKING:
    from tfserve.predictor import Predictor

TASKS = {
    "hate_vicomtech": "classif",
    "banking77": "classif",
    "stackoverflow20_titles": "classif",
    "newsgroups20": "classif",
    "goemotions": "multilabel-classif",
    "wnut17": "ner",
    "litbank": "ner",
    "litbank_long": "ner",
    "sroie": "ner",
    "docbank_samples": "ner",
    "emobank_valence": "regression",
}


MOST = {"train": 3200, "dev": 500, "test": 2000}
"""Rows of a split, drawn anew by every seed where a set has more: of train so many as the 600 steps
of a small table see three times."""

MOST_LONG = {"train": 1200, "dev": 300, "test": 1000}
"""Those of `newsgroups20`, of which each is a page and takes many times as long."""

FIXED = {"report": False, "precision": "fp32"}
"""What takes time and says nothing of quality, and what the example scripts compute in; what `auto`
takes depends on how busy the machine is."""


def part(name: str, seed: int, folder: str) -> Path:
    """Some rows of each split of a set, written into ``folder``."""
    for split, most in (MOST_LONG if name == "newsgroups20" else MOST).items():
        text = (DATA / name / f"{split}.csv").read_text("utf-8")
        header, *rows = text.removesuffix("\n").split("\n")
        kept = random.Random(seed).sample(rows, min(most, len(rows)))
        (Path(folder) / f"{split}.csv").write_text("\n".join([header, *kept, ""]), "utf-8")
    return Path(folder)


def tfserve_with(**changed: Any) -> Method:
    """Nothing chosen but the task, the encoder, and what ``changed`` holds.

    Besides the metrics on test: ``f1_micro_at_half``, with one threshold of 0.5 for all labels.
    """

    def method(name: str, seed: int) -> Result:
        import tfserve
        import tfserve.training

        hparams = {**FIXED, "task_name": TASKS[name], "model_name": minilm(), "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            rows = part(name, seed, folder)
            started = time.process_time()
            metrics = tfserve.train(
                {**hparams, **changed}, train_dir=rows, model_dir=f"{folder}/model"
            )
            seconds = time.process_time() - started
            model = tfserve.load(f"{folder}/model")
            return seconds, {**metrics["test"], **at_half(model, rows / "test.csv")}

    return method


def at_half(predictor: Predictor, file: Path) -> dict[str, float]:
    """What a model of several labels would be without thresholds."""
    from tfserve.tables import read_table

    task = predictor.task
    if task.name != "multilabel-classif":
        return {}
    test = read_table(file, type(task))
    answers = predictor.predict(test.records, {"threshold": 0.5})
    return {"f1_micro_at_half": task.metrics(test.labels, answers)["f1_micro"]}


def example_scripts(name: str, seed: int) -> Result:
    """The defaults of run_glue.py and run_ner.py: 3 epochs, batches of 8, a rate of 5e-5 that falls
    in a line, 128 tokens of a text and 512 where words have tags; padded to the longest of a
    batch, which changes the time and nothing else."""
    length = 512 if TASKS[name] == "ner" else 128
    with tempfile.TemporaryDirectory() as folder:
        return fine_tune(
            part(name, seed, folder), TASKS[name], epochs=3, rate=5e-5, batch=8, seed=seed,
            max_length=length, clock=time.process_time,
        )  # fmt: skip


def words_alone(name: str, seed: int) -> Result:
    """TF-IDF of words and pairs with a linear model, for several labels with tfserve's thresholds;
    for tags what stands at a word and beside."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    from tfserve import tasks
    from tfserve.calibration import Aim, thresholds
    from tfserve.tables import read_table
    from tfserve.tasks.ner import to_iob2

    kind = tasks.get(TASKS[name])
    with tempfile.TemporaryDirectory() as folder:
        rows = part(name, seed, folder)
        splits = ("train", "dev", "test")
        train, dev, test = (read_table(rows / f"{split}.csv", kind) for split in splits)
    started = time.process_time()
    task = kind.fit(train.labels)
    texts, tried, asked = ([r.text for r in table.records] for table in (train, dev, test))
    tfidf = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    logistic = LogisticRegression(max_iter=1000, random_state=seed)
    if task.per_word:
        tagger = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed)
        model = make_pipeline(CountVectorizer(analyzer=list, binary=True), tagger)
        words = [word for record in train.records for word in features(record.words)]
        model.fit(words, [tag for tags in train.labels for tag in tags])
        said: Sequence[Any] = [
            to_iob2(model.predict(features(record.words)).tolist()) for record in test.records
        ]
    elif task.name == "regression":
        said = make_pipeline(tfidf, Ridge()).fit(texts, train.labels).predict(asked).tolist()
    elif task.name == "multilabel-classif":
        model = make_pipeline(tfidf, OneVsRestClassifier(logistic))
        truth = [np.stack([task.target(label) for label in t.labels]) > 0 for t in (train, dev)]
        model.fit(texts, truth[0].astype(int))
        least = thresholds(model.predict_proba(tried), truth[1], Aim("f1_micro"))
        labels = np.array(task.labels)
        said = [labels[row >= least].tolist() for row in model.predict_proba(asked)]
    else:
        said = make_pipeline(tfidf, logistic).fit(texts, train.labels).predict(asked).tolist()
    metrics = task.metrics(test.labels, [{"pred": pred} for pred in said])
    return time.process_time() - started, metrics


def features(words: Sequence[str]) -> list[list[str]]:
    """Of each word: itself, its ends, its shape, and its neighbours."""
    padded = ["<s>", *words, "</s>"]
    return [
        [
            f"word {word.lower()}", f"prefix {word[:3]}", f"suffix {word[-3:]}",
            f"title {word.istitle()}", f"upper {word.isupper()}",
            f"digit {any(c.isdigit() for c in word)}",
            f"before {before.lower()}", f"after {after.lower()}",
        ]
        for before, word, after in zip(padded, words, padded[2:], strict=False)
    ]  # fmt: skip


METHODS: dict[str, Method] = {
    "words": words_alone,
    "tfserve": tfserve_with(),
    "example": example_scripts,
}
