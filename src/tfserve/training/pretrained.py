"""Where a model comes from: a folder or a hub id, resolved to files before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tfserve.arrays import Array
from tfserve.artifact import TOKENIZER_FILES
from tfserve.encoding import capacity, load_tokenizer, takes_bbox
from tfserve.engines.torch import load_pretrained
from tfserve.errors import ModelError
from tfserve.tasks import Task


@dataclass(frozen=True)
class Pretrained:
    """A pretrained encoder's files and config.

    Attributes
    ----------
    folder : config, safetensors weights and tokenizer files
    config : the parsed ``config.json``
    hub_id : where it was downloaded from, None for a folder
    """

    folder: Path
    config: dict[str, Any]
    hub_id: str | None = None

    @classmethod
    def find(cls, model_name: str) -> Pretrained:
        """Resolve ``model_name`` and check that what training needs is there.

        Raises
        ------
        ModelError
            ``model.not_found``, ``model.download``, ``model.no_config``, ``model.no_weights`` or
            ``model.tokenizer``.
        """
        folder, hub_id = Path(model_name), None
        if not folder.is_dir():
            folder, hub_id = _download(model_name), model_name
        file = folder / "config.json"
        if not file.is_file():
            raise ModelError(
                "model.no_config", f"found no config.json in {folder}; expected a model's folder"
            )
        try:
            config = json.loads(file.read_text("utf-8"))
            if not isinstance(config, dict):
                raise ValueError("expected an object")
        except ValueError as error:
            raise ModelError("model.no_config", f"cannot read {file}: {error}") from None
        found = cls(folder, config, hub_id)
        if not found.weights():
            other = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "no weights"
            raise ModelError(
                "model.no_weights",
                f"found {other} in {folder}; expected model.safetensors (load the model with "
                "transformers and save it with save_pretrained)",
            )
        found.tokenizer_files()
        return found

    @property
    def model_type(self) -> str:
        """The family, as transformers names it."""
        return str(self.config.get("model_type", ""))

    @property
    def pad_token_id(self) -> int:
        """The token that fills a batch."""
        return int(self.config.get("pad_token_id") or 0)

    def weights(self) -> list[Path]:
        """The files that hold them."""
        return sorted(self.folder.glob("*.safetensors"))

    def tokenizer_files(self) -> dict[str, Path]:
        """Name → path of the tokenizer's files. Raises ModelError without a ``tokenizer.json``."""
        files = {name: self.folder / name for name in TOKENIZER_FILES}
        found = {name: path for name, path in files.items() if path.is_file()}
        if "tokenizer.json" not in found:
            raise ModelError(
                "model.tokenizer",
                f"found no tokenizer.json in {self.folder}; expected a fast tokenizer: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes one",
            )
        return found

    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ModelError when it knows more tokens than the model."""
        tokenizer = load_tokenizer(self.tokenizer_files()["tokenizer.json"])
        known, embedded = tokenizer.get_vocab_size(), self.config.get("vocab_size")
        if isinstance(embedded, int) and known > embedded:
            raise ModelError(
                "model.tokenizer",
                f"found {known} tokens in the tokenizer of {self.folder} and {embedded} in the "
                "model; expected no more in the tokenizer: are these files of one model?",
            )
        return tokenizer

    def checked_length(self, max_length: int | None) -> int:
        """``max_length``, or all the model has. Raises ModelError when the model has less."""
        available = capacity(self.folder)
        if max_length is not None and max_length > available:
            raise ModelError(
                "model.max_length",
                f"found max_length {max_length}; {self.folder.name} sees at most {available}",
            )
        return max_length or available

    def model(self, task: Task, *, use_bbox: bool) -> Any:
        """The encoder with a fresh head for ``task``, in fp32.

        Its attribute ``fresh`` names the parameters that no file has: the head's, and what else
        pretraining did without. Nothing is dropped in training, whatever the config says
        (docs/quality.md).

        Raises ModelError when the weights cannot be loaded, or when boxes are asked of a model
        that takes none.
        """
        if use_bbox and not takes_bbox(self.folder):
            raise ModelError(
                "model.no_bbox",
                f"{self.model_type or 'the model'} takes no bbox; expected use_bbox=false, or a "
                "model such as LayoutLM or LiLT",
            )
        names = dict(enumerate(task.labels))
        config = load_pretrained("AutoConfig", self.folder)  # with what config.json leaves out
        rates = {
            name: 0.0
            for name, rate in config.to_dict().items()
            if "dropout" in name and isinstance(rate, (int, float)) and not isinstance(rate, bool)
        }
        model, loaded = load_pretrained(
            task.auto_model,
            self.folder,
            num_labels=len(names),
            id2label=names,
            label2id={name: i for i, name in names.items()},
            problem_type=task.problem_type,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **rates,
        )
        mismatched = {name for name, *_ in loaded["mismatched_keys"]}
        model.fresh = frozenset(loaded["missing_keys"]) | mismatched
        return model.float()


def begin_at(model: Any, bias: Array) -> None:
    """Set the bias of the head, the last of those with an output per label, where it is fresh."""
    from torch import from_numpy, no_grad

    heads = [
        parameter
        for name, parameter in model.named_parameters()
        if name in model.fresh and name.endswith("bias") and parameter.shape == bias.shape
    ]
    if heads:
        with no_grad():
            heads[-1].copy_(from_numpy(bias))


def _download(model_name: str) -> Path:
    """A hub model's files; needs a network or a filled cache."""
    from huggingface_hub import snapshot_download

    looks_local = (model_name.count("/") != 1 and "/" in model_name) or model_name.startswith(".")
    if looks_local or Path(model_name).exists():
        raise ModelError(
            "model.not_found",
            f"found no folder {model_name}; expected a model's folder or a hub id",
        )
    try:
        return Path(
            snapshot_download(
                model_name,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:  # the hub's client raises many kinds, also of its HTTP library
        raise ModelError(
            "model.download",
            f"found no folder {model_name} and cannot get it from the hub "
            f"({type(error).__name__}); expected a model's folder, or a hub id and a network",
        ) from None
