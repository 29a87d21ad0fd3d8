"""The model directory: what training writes and every surface serves.

    config.json, model.safetensors      loads with plain AutoModel….from_pretrained
    tokenizer.json, tokenizer_config…   the tokenizer, as the pretrained model had it
    tfserve.json                        the manifest: task, labels, windows, metrics, golden answers
    code/                               inference.py and the packages a container lacks

The manifest is written last and lists the sha256 of the files that answers depend on: a directory
without it, or whose files differ from it, is not a model that training finished writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from tfserve import engines, tasks
from tfserve.encoding import Encoder, load_tokenizer
from tfserve.errors import ModelError
from tfserve.files import sha256, storing, write_json
from tfserve.vendoring import write_code

MANIFEST = "tfserve.json"
SCHEMA = 1
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.05, "int8": 0.3}
"""How far a golden answer's probabilities may be off before an engine is held to be wrong."""

WEIGHTS = (".safetensors", ".safetensors.index.json")
CARD, REPORT = "README.md", "report"
"""Of the model, for people: no answer depends on them."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``tfserve.json``: all that serving needs to know beside weights and tokenizer.

    Attributes
    ----------
    task_state : labels in order, or the target's scale: ``tasks.get(task)(**task_state)``
    model_type, pad_token_id : of the config, for encoding without transformers
    max_length, stride, long_text, use_bbox : how records become windows
    metrics : of ``dev``, as training measured them, and of ``calibration`` where that came after
    history : of training's evaluations
    golden : records with their answers in fp32, to see that an engine computes the same
    data : of each split its ``rows`` and ``fingerprint``, of train also its ``labels``, counted,
        and the ``fingerprint_with_dev`` where that was a part of it
    versions : of the packages that trained it
    base_model : the encoder's name on the hub; None for one from a folder
    hparams : of the training, by name
    files : sha256 of every other file that answers depend on
    """

    task: str
    task_state: dict[str, Any]
    model_type: str
    pad_token_id: int
    max_length: int
    stride: int
    long_text: str = "truncate"
    use_bbox: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    golden: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    base_model: str | None = None
    hparams: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def known_as(self, fingerprint: str) -> str | None:
        """``train``, ``dev``, ``train with dev`` or ``calibration`` where a table is one that the
        model was made by."""
        names = ("calibration", "dev", "train")  # what weighs most comes last
        told = {self.data.get(name, {}).get("fingerprint"): name for name in names}
        whole = self.data.get("train", {}).get("fingerprint_with_dev")
        return {whole: "train with dev", **told}.get(fingerprint)

    def fitted_task(self) -> tasks.Task:
        """The task with its label space."""
        state = {k: tuple(v) if isinstance(v, list) else v for k, v in self.task_state.items()}
        return tasks.get(self.task)(**state)

    def golden_request(self) -> dict[str, Any]:
        """The golden records, and the parameters that make answers comparable."""
        records = [pair["record"] for pair in self.golden]
        return {"data": records, "parameters": self.fitted_task().all_scores}

    def golden_difference(self, answers: Sequence[Any]) -> float:
        """The largest difference of ``answers`` from the golden ones, 0..1.

        Infinite where there are fewer or more, or what stands there is none.
        """
        task = self.fitted_task()
        try:
            pairs = zip((pair["answer"] for pair in self.golden), answers, strict=True)
            return float(max((task.distance(one, other) for one, other in pairs), default=0.0))
        except (AttributeError, KeyError, TypeError, ValueError):
            return math.inf

    def write(self, folder: Path) -> None:
        """Write ``tfserve.json``, by atomic rename."""
        write_json(folder / MANIFEST, asdict(self))


@dataclass(frozen=True)
class Artifact:
    """A model directory that was found whole."""

    path: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """A content hash: the same for the same files and settings, wherever they lie."""
        content = json.dumps(asdict(self.manifest), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def graphs(self) -> frozenset[str]:
        """The engines for which it was exported, each into a folder of that name."""
        return frozenset(name.partition("/")[0] for name in self.manifest.files if "/" in name)

    @property
    def weights(self) -> bool:
        """Whether it holds the weights from which training wrote it."""
        return any(name.endswith(WEIGHTS) for name in self.manifest.files)

    def task(self) -> tasks.Task:
        """The fitted task."""
        return self.manifest.fitted_task()

    def encoder(self) -> Encoder:
        """The encoder, from the tokenizer in the directory."""
        manifest = self.manifest
        return Encoder(
            load_tokenizer(self.path / "tokenizer.json"),
            model_type=manifest.model_type,
            pad_token_id=manifest.pad_token_id,
            max_length=manifest.max_length,
            stride=manifest.stride,
            per_word=tasks.get(manifest.task).per_word,
            windowed=manifest.long_text == "window",
            use_bbox=manifest.use_bbox,
        )


def load(path: Path | str) -> Artifact:
    """Read and verify a model directory.

    Raises
    ------
    ModelError
        ``model.not_found``, ``model.no_manifest``, ``model.unreadable``, ``model.manifest``,
        ``model.schema``, ``model.no_file`` or ``model.tampered``.
    """
    try:
        return _read(Path(path))
    except OSError as error:
        raise ModelError(
            "model.unreadable", f"cannot read {error.filename or path}: {error.strerror}"
        ) from None


def _read(path: Path) -> Artifact:
    file = path / MANIFEST
    if not path.is_dir():
        raise ModelError("model.not_found", f"found no folder {path}; expected a model directory")
    if not file.is_file():
        raise ModelError(
            "model.no_manifest",
            f"found no {MANIFEST} in {path}; expected a model directory written by tfserve train",
        )
    try:
        raw = json.loads(file.read_text("utf-8"))
        schema = raw["schema"]
        if schema == SCHEMA:
            manifest = Manifest(**raw)
            if not isinstance(manifest.files, dict):
                raise TypeError("files is no object")
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError("model.manifest", f"cannot read {file}: {error}") from None
    if schema != SCHEMA:
        raise ModelError(
            "model.schema",
            f"found schema version {schema!r} in {file}; this tfserve reads {SCHEMA}: "
            "install the version of tfserve that wrote it",
        )
    for name, expected in manifest.files.items():
        if not (path / name).is_file():
            raise ModelError("model.no_file", f"found no {name} in {path}; training wrote one")
        if sha256(path / name) != expected:
            raise ModelError(
                "model.tampered",
                f"{path / name} is not the file that training wrote (its sha256 differs from the "
                "manifest's): copy the model directory again",
            )
    return Artifact(path, manifest)


def save(
    path: Path | str,
    manifest: Manifest,
    *,
    write_weights: Callable[[Path], None],
    tokenizer_files: Mapping[str, Path],
) -> Artifact:
    """Write a model directory; until the last file is in place the old one stays, or none.

    Parameters
    ----------
    write_weights : writes ``config.json`` and ``model.safetensors`` into the folder it is given
    tokenizer_files : name → path of the pretrained model's tokenizer files

    Raises
    ------
    StorageError
        The disk is full or a folder cannot be written; nothing half-written is left.
    """
    path = Path(path)
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".tfserve-*"):  # of a process that was killed in here
            shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=".tfserve-", dir=path))
        try:
            write_weights(staging)
            for name, source in tokenizer_files.items():
                shutil.copyfile(source, staging / name)
            for file in staging.iterdir():  # safetensors writes for the owner alone, servers read
                file.chmod(0o644)
            _without_truncation(staging / "tokenizer.json")
            files = {
                file.name: sha256(file) for file in sorted(staging.iterdir()) if file.is_file()
            }
            write_code(staging / "code")
            replace(manifest, files=files).write(staging)
            graphs = _graphs(path)  # of the old weights
            # From here on only renames: the old manifest goes first, the new one comes last.
            (path / MANIFEST).unlink(missing_ok=True)
            for folder in ("code", REPORT, *graphs):
                shutil.rmtree(path / folder, ignore_errors=True)
            (path / CARD).unlink(missing_ok=True)
            for file in sorted(staging.iterdir(), key=lambda file: file.name == MANIFEST):
                os.replace(file, path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return load(path)


def copy(found: Artifact, names: Iterable[str], folder: Path) -> None:
    """Copy files of a model directory into a new one, with the code of this tfserve: what the old
    one was packed with may not know all that a new manifest says."""
    for name in names:
        shutil.copyfile(found.path / name, folder / name)
    write_code(folder / "code")


def _graphs(path: Path) -> frozenset[str]:
    """Of the model that lies here already; other folders are not ours to remove."""
    try:
        return load(path).graphs & set(engines.names())
    except ModelError:
        return frozenset()


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = distribution(name).version
    return versions


def _without_truncation(file: Path) -> None:
    """Switch off truncation and padding in a tokenizer file: they are the encoder's to decide."""
    content = json.loads(file.read_text("utf-8"))
    if content.get("truncation") or content.get("padding"):
        content.update(truncation=None, padding=None)
        file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
