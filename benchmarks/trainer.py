"""Fine-tuning with the transformers ``Trainer``, as its example scripts do it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import minilm


def fine_tune(
    folder: Path,
    task_name: str,
    *,
    epochs: int,
    rate: float,
    batch: int,
    seed: int = 42,
    max_length: int = 128,
    padded: bool = False,
    bf16: bool = False,
    steps: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, dict[str, Any]]:
    """Seconds of a job, without imports, and the metrics on test.

    Parameters
    ----------
    folder : of ``train.csv`` and ``test.csv``
    padded : to ``max_length``, not to the longest of a batch
    bf16 : where that is the faster here
    steps : run so many; the time is scaled up from them, and there are no metrics
    clock : gives seconds; of a process's own time where others run beside it
    """
    import numpy as np
    import torch
    import transformers

    from tfserve import tasks
    from tfserve.engines.torch import resolve_precision
    from tfserve.parameters import Parameters
    from tfserve.tables import read_table

    task_type = tasks.get(task_name)
    native = resolve_precision("auto", torch.device("cpu"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    started = clock()
    tables = {s: read_table(folder / f"{s}.csv", task_type) for s in ("train", "test")}
    task = task_type.fit(tables["train"].labels)
    padding = "max_length" if padded else False

    def encode(row: Any) -> dict[str, Any]:
        """As run_glue.py and run_ner.py encode a row."""
        cut: dict[str, Any] = {"truncation": True, "max_length": max_length, "padding": padding}
        if not task.per_word:
            return {**tokenizer(row.record.text, **cut), "labels": target(row)}
        encoded = tokenizer(list(row.record.words), is_split_into_words=True, **cut)
        ids, previous, labels = task.target(row.label), None, []
        for word in encoded.word_ids():
            labels.append(-100 if word is None or word == previous else int(ids[word]))
            previous = word
        return {**encoded, "labels": labels}

    def target(row: Any) -> Any:
        return row.label if task_name == "regression" else task.target(row.label).tolist()

    sets = {split: [encode(row) for row in t.rows] for split, t in tables.items()}
    transformers.set_seed(seed)  # before the head is drawn, as the scripts do
    auto = getattr(transformers, task.auto_model)
    model = auto.from_pretrained(
        minilm(), num_labels=len(task.labels), problem_type=task.problem_type
    )
    collator: Any = transformers.default_data_collator
    if not padded:
        per_word = transformers.DataCollatorForTokenClassification(tokenizer)
        collator = per_word if task.per_word else transformers.DataCollatorWithPadding(tokenizer)
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output,
            num_train_epochs=epochs,
            max_steps=steps or -1,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            bf16=bf16 and native == "bf16",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=sets["train"], data_collator=collator
        )
        begun = clock()
        trainer.train()
        trained = clock() - begun
        if steps:
            total = epochs * -(-len(sets["train"]) // batch)
            return begun - started + trained / steps * total, {}
        logits = trainer.predict(sets["test"]).predictions
        trainer.save_model(output)
    seconds = clock() - started
    records = tables["test"].records
    if task_name == "regression":
        answers = [{"pred": float(value)} for value in np.ravel(logits)]
    elif task.per_word:
        rows = []
        for row, values, record in zip(sets["test"], logits, records, strict=True):
            starts = [i for i, label in enumerate(row["labels"]) if label != -100]
            full = np.full((len(record.spans), values.shape[-1]), np.nan)
            full[: len(starts)] = values[starts]
            rows.append(full)
        answers = task.decode(rows, records, Parameters())
    else:
        answers = task.decode(list(logits), records, Parameters())
    return seconds, task.metrics(tables["test"].labels, answers)
