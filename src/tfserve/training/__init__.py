"""Training: tables and a pretrained encoder in, a model directory out.

``train`` is the story; its chapters are ``pretrained`` (where a model comes from), ``examples``
(rows as windows and targets), ``plan`` (how long a run is), ``loop`` (its steps), ``validation``
(what the model makes of dev), ``optimization`` (what the optimizer is told), ``vocabulary`` (the
embeddings that are trained), ``processes`` (several that train one model), ``checkpoints`` (killed
and resumed, bit for bit), ``signals`` (asked to stop), ``logs`` (what is printed and drawn),
``golden`` (answers to be given again), ``results`` (what is left behind) and ``card`` (the model
card). ``recalibration`` fits the probabilities of what was left to other rows or another aim.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfserve import artifact, tables, tasks
from tfserve.artifact import Manifest
from tfserve.encoding import Encoder
from tfserve.errors import missing_extra
from tfserve.files import storing
from tfserve.hparams import HParams
from tfserve.tables import Tables
from tfserve.tasks import Task

try:
    import accelerate  # noqa: F401
    import scipy  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise missing_extra(error.name or "torch", "train") from None

from tfserve.training import results
from tfserve.training.examples import Examples
from tfserve.training.golden import golden
from tfserve.training.loop import Loop
from tfserve.training.pretrained import Pretrained

PACKAGES = ("tfserve", "torch", "transformers", "tokenizers", "accelerate", "numpy")

__all__ = ["train"]


def train(
    hparams: HParams | Mapping[str, Any],
    *,
    train_dir: Path | str,
    model_dir: Path | str,
    dev_dir: Path | str | None = None,
    test_dir: Path | str | None = None,
    output_dir: Path | str | None = None,
    checkpoint_dir: Path | str | None = None,
    tensorboard_dir: Path | str | None = None,
) -> dict[str, Any]:
    """Fine-tune a model and write its directory.

    Parameters
    ----------
    hparams : an ``HParams``, or names and values as SageMaker sends them
    train_dir : a folder with ``train``, ``dev`` and ``test`` tables, or train's channel or file
    model_dir : where the model directory is written
    dev_dir, test_dir : the other channels, where they are not in ``train_dir``
    output_dir : ``metrics.json``, ``test_predictions.jsonl`` and ``report/``, which is also in
        ``model_dir``; by default ``<model_dir>-output``
    checkpoint_dir : where a killed run resumes from; by default ``<output_dir>/checkpoints``, which
        is removed when training has finished, while a folder of yours is left as it is
    tensorboard_dir : TensorBoard events; by default ``<output_dir>/tensorboard``

    Returns
    -------
    dict
        ``dev`` and ``test`` metrics, as in ``metrics.json``.

    Raises
    ------
    HParamsError, DataError, ModelError
        Before any model is loaded, as far as it can be known then.
    StoppedError
        After SIGTERM or SIGINT: a checkpoint was saved, and the same call resumes.
    StorageError
        Something cannot be written; no half-written model is left.
    """
    hp = hparams if isinstance(hparams, HParams) else HParams.parse(hparams)
    task_type = tasks.get(hp.task_name)
    task_type.check_choices(hp)
    files = tables.find_files({"train": train_dir, "dev": dev_dir, "test": test_dir})
    data = tables.read_tables(files, task_type, use_bbox=hp.use_bbox, seed=hp.seed)
    task = task_type.fit(data.train.labels)
    task.check_hparams(hp)
    pretrained = Pretrained.find(hp.model_name)
    encoder = make_encoder(hp, pretrained, task)

    output = Path(output_dir or f"{str(model_dir).rstrip('/')}-output")
    with storing(output):
        output.mkdir(parents=True, exist_ok=True)
    checkpoints = Path(checkpoint_dir or output / "checkpoints")
    loop = Loop(
        hp,
        task,
        pretrained,
        encoder,
        train=Examples.make(data.train, task, encoder),
        dev=Examples.make(data.dev, task, encoder),
        tensorboard_dir=Path(tensorboard_dir or output / "tensorboard"),
        checkpoint_dir=checkpoints,
    )
    dev_metrics = loop.run()
    metrics: dict[str, Any] = {}
    if loop.is_main:
        manifest = Manifest(
            task=hp.task_name,
            task_state=loop.task.state(),
            model_type=pretrained.model_type,
            pad_token_id=pretrained.pad_token_id,
            max_length=encoder.max_length,
            stride=encoder.stride,
            long_text=hp.long_text,
            use_bbox=hp.use_bbox,
            metrics={"dev": dev_metrics},
            history=loop.state.history,
            data=described(data, task),
            golden=golden(loop.in_fp32(), data.dev),
            hparams=hp.as_dict(),
            versions=artifact.installed_versions(PACKAGES),
            base_model=pretrained.hub_id,
        )
        artifact.save(
            model_dir,
            manifest,
            write_weights=loop.write_weights,
            tokenizer_files=pretrained.tokenizer_files(),
        )
        metrics = results.write(Path(model_dir), output, data, hp)
        if checkpoint_dir is None:
            shutil.rmtree(checkpoints, ignore_errors=True)
    metrics = loop.processes.from_main(metrics)
    loop.close()
    return metrics


def make_encoder(hp: HParams, pretrained: Pretrained, task: Task) -> Encoder:
    """The encoder of a run: all the model can see, unless ``max_length`` asks for less."""
    return Encoder(
        pretrained.tokenizer(),
        model_type=pretrained.model_type,
        pad_token_id=pretrained.pad_token_id,
        max_length=pretrained.checked_length(hp.max_length),
        stride=hp.stride,
        per_word=task.per_word,
        windowed=hp.long_text == "window",
        use_bbox=hp.use_bbox,
    )


def described(data: Tables, task: Task) -> dict[str, Any]:
    """What the manifest keeps of the data."""
    told: dict[str, Any] = {
        name: {"rows": len(table.rows), "fingerprint": table.fingerprint}
        for name, table in data.items()
    }
    told["train"]["labels"] = task.label_counts(data.train.labels)
    if data.dev_from_train:
        told["train"]["fingerprint_with_dev"] = data.given.fingerprint
    return told
