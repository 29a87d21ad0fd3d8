"""``HParams``: every hyperparameter of a training run, parsed strictly.

SageMaker hands hyperparameters over as strings, so ``HParams.parse`` reads strings as well as
Python values, and reads them strictly: ``max_steps="100.5"`` or ``use_bbox="maybe"`` is an error
that names the value, not a surprise three hours later. An unknown name is an error with the
nearest known one. All problems are reported together.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from tfserve.errors import HParamsError

INJECTED_PREFIXES = ("sagemaker_", "_tuning_objective_metric")
"""Names that SageMaker adds to the hyperparameters of a job; they are not ours to judge."""

CHOICES = ("threshold_for", "positive_label", "abstain")
"""Hyperparameters that only some tasks know: what they do with their probabilities."""

TRUE, FALSE, NONE = ("true", "1", "yes"), ("false", "0", "no"), ("", "none", "null")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a hyperparameter is worth searching: from ``low`` to ``high``, or one of ``choices``.

    ``log``: sampled on a logarithmic scale; ``whole``: whole numbers only.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[int, ...] = ()


def _hp(default: Any, kind: type, help: str, **rules: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, **rules})


@dataclass(frozen=True, kw_only=True)
class HParams:
    """The hyperparameters of one run. ``None`` means: chosen from the data or the model."""

    task_name: str = _hp(
        MISSING, str, "What to learn: classif, multilabel-classif, ner, regression."
    )
    model_name: str = _hp(MISSING, str, "A hub id, or a folder that holds a model.")
    use_bbox: bool = _hp(False, bool, "Read a box per word from the column bbox.")

    num_train_epochs: float | None = _hp(
        None,
        float,
        "Passes over train. Default: 3, or as many as make 600 steps, at most 20.",
        above=0,
        search=Range(low=2, high=20, whole=True),
    )
    max_steps: int | None = _hp(
        None, int, "Optimizer steps; overrides num_train_epochs. -1 means not set.", least=1
    )
    per_device_train_batch_size: int | None = _hp(
        None,
        int,
        "Rows per batch and device, and windows at once where rows have several. Default: rows "
        "that hold 2,048 tokens, from 4 to 16, and windows that hold 8,192.",
        least=1,
        search=Range(choices=(4, 8, 16, 32)),
    )
    gradient_accumulation_steps: int = _hp(1, int, "Batches per optimizer step.", least=1)
    learning_rate: float | None = _hp(
        None,
        float,
        "AdamW's peak rate; the head learns at five times that, layers at less (layer_decay). "
        "Default: 5e-5 for an encoder of 768 dimensions (BERT base), less for wider ones and more "
        "for narrower ones, by the square of the width; at most 5e-4.",
        above=0,
        most=1,
        search=Range(low=1e-5, high=1e-3, log=True),
    )
    layer_decay: float | None = _hp(
        None,
        float,
        "A layer's learning rate as a share of that above it; 1 for a model from scratch. "
        "Default: what leaves the embeddings a fifth of learning_rate, 0.8 with 6 layers.",
        above=0,
        most=1,
        search=Range(low=0.6, high=1),
    )
    warmup_ratio: float = _hp(
        0.1,
        float,
        "Share of steps with a rising rate.",
        least=0,
        most=1,
        search=Range(low=0, high=0.2),
    )
    weight_decay: float = _hp(
        0.01,
        float,
        "AdamW's, not on biases and norms.",
        least=0,
        most=1,
        search=Range(low=0.001, high=0.1, log=True),
    )
    max_grad_norm: float = _hp(1.0, float, "Gradient clipping; 0 switches it off.", least=0)
    class_weights: Any = _hp(
        None, dict, "`balanced`, or a JSON object label → weight; for rare labels."
    )

    max_length: int | None = _hp(
        None,
        int,
        "Tokens per window, special tokens included. Default: all the model has.",
        least=8,
    )
    stride: int | None = _hp(
        None, int, "Tokens that neighbouring windows share. Default: a quarter of one.", least=0
    )
    long_text: str = _hp(
        "truncate",
        str,
        "Texts over max_length: cut, or answered from all their windows (ner always is).",
        choices=("truncate", "window"),
    )

    eval_steps: int | None = _hp(
        None, int, "Steps between evaluations. Default: an epoch, at most 500.", least=1
    )
    save_steps: int | None = _hp(
        None, int, "Steps between checkpoints besides those at evaluations.", least=1
    )
    early_stopping_patience: int | None = _hp(
        None, int, "Stop after this many evaluations without a better metric.", least=1
    )
    metric_for_best_model: str | None = _hp(
        None, str, "The dev metric that chooses the model. Default: the task's own."
    )
    threshold_for: str | None = _hp(
        None,
        str,
        "What thresholds are chosen for on dev: f1, f1_micro, or such as precision>=0.9 and "
        "recall>=0.95. Default: f1_micro for multilabel-classif; none for classif, where two "
        "labels may have one.",
    )
    positive_label: str | None = _hp(
        None,
        str,
        "Of two labels the one that a threshold is about. Default: the rarer one.",
        any_text=True,
    )
    abstain: float | None = _hp(
        None, float, "Probability under which classif gives no label.", least=0, most=1
    )
    report: bool = _hp(
        True, bool, "Write report/ with texts of dev and test to the model and the output."
    )
    precision: str = _hp(
        "auto",
        str,
        "Number format of the matrix products; auto: bf16 where it is faster.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    seed: int = _hp(42, int, "Seed of everything random.", least=0, most=2**31 - 1)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> HParams:
        """Read hyperparameters from ``values`` (strings or Python values).

        Raises
        ------
        HParamsError
            With every problem: an unknown name (and the nearest known one), a missing
            ``task_name`` or ``model_name``, a value of the wrong type or out of range.
        """
        known = {f.name: f for f in fields(cls)}
        parsed: dict[str, Any] = {}
        problems: list[str] = []
        for raw_name, value in values.items():
            name = raw_name.replace("-", "_")
            if name.startswith(INJECTED_PREFIXES):
                continue
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                problems.append(f"unknown hyperparameter {raw_name!r}: {hint}")
                continue
            try:
                parsed[name] = _parse(known[name], value)
            except HParamsError as error:
                problems.append(error.message)
        for name, f in known.items():
            if f.default is MISSING and parsed.get(name) is None and name not in values:
                problems.append(f"{name} is missing: {f.metadata['help']}")
        if problems:
            raise HParamsError("hparams.invalid", "; ".join(problems))
        return cls(**{name: value for name, value in parsed.items() if value is not None})

    @classmethod
    def ranges(cls) -> dict[str, Range]:
        """Name → range of the hyperparameters that are worth searching."""
        return {f.name: f.metadata["search"] for f in fields(cls) if "search" in f.metadata}

    def as_dict(self) -> dict[str, Any]:
        """All values by name, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def decoded(value: Any) -> Any:
    """A value of the config file, whose strings are JSON-encoded by some of the SDKs' classes."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            decoded = json.loads(value)
            return decoded if isinstance(decoded, str) or decoded is None else value
    return value


def searched(
    names: Sequence[str] | None, values: Mapping[str, Any] | None = None
) -> dict[str, Range]:
    """The ranges to search beside ``values``, as ``HParams.parse`` takes them.

    ``names`` are searched, or by default all hyperparameters that have a range and no value. Raises
    HParamsError for a name without a range, or one whose value is decided already.
    """
    known = HParams.ranges()
    for name in names or ():
        if name not in known:
            raise HParamsError(
                "hparams.value", f"found {name!r}; expected some of {', '.join(known)}"
            )
    decided = {name.replace("-", "_"): "given" for name in values or ()}
    if values and HParams.parse(values).max_steps is not None:
        decided["num_train_epochs"] = "overridden by max_steps"
    for name in decided.keys() & set(names or ()):
        raise HParamsError(
            "hparams.value",
            f"{name}: found it in the search; expected not, as it is {decided[name]}",
        )
    found = {name: known[name] for name in names or known if name not in decided}
    if not found:
        raise HParamsError(
            "hparams.value",
            f"found nothing to search; expected one of {', '.join(known)} not given",
        )
    return found


def _error(name: str, value: Any, expected: str) -> HParamsError:
    return HParamsError("hparams.value", f"{name}: found {value!r}; expected {expected}")


def _is_nothing(text: str, rules: Mapping[str, Any]) -> bool:
    """Whether a string stands for None; a label may be called none, but not as Python writes it."""
    return text in ("", "None", "null") if rules.get("any_text") else text.lower() in NONE


def _label(value: Any) -> str:
    """A label as tables are read: a truth value is written as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(f: Field[Any], value: Any) -> Any:
    """One value, from a string as SageMaker sends it or from a Python value."""
    rules, optional = f.metadata, f.default is not MISSING
    if value is None or (isinstance(value, str) and _is_nothing(value.strip(), rules)):
        if optional:
            return None
        raise _error(f.name, value, rules["help"])
    if rules["kind"] is dict:
        return _parse_weights(f.name, value)
    if rules["kind"] is str:
        if rules.get("any_text") and isinstance(value, int):
            value = _label(value)
        if not isinstance(value, str):
            raise _error(f.name, value, "a string")
        parsed: Any = value.strip()
        if "choices" in rules and parsed not in rules["choices"]:
            near = difflib.get_close_matches(parsed, rules["choices"], n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise _error(f.name, value, f"one of {', '.join(rules['choices'])}{hint}")
        return parsed
    if rules["kind"] is bool:
        word = str(value).strip().lower()
        if word in TRUE or word in FALSE:
            return word in TRUE
        raise _error(f.name, value, "true or false")
    return _parse_number(f.name, value, rules)


def _parse_number(name: str, value: Any, rules: Mapping[str, Any]) -> int | float | None:
    kind = "a whole number" if rules["kind"] is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _error(name, value, kind)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _error(name, value, kind) from None
    if not math.isfinite(number) or (rules["kind"] is int and number != int(number)):
        raise _error(name, value, kind)
    if name == "max_steps" and number == -1:  # the transformers way to say "not set"
        return None
    if "above" in rules and not number > rules["above"]:
        raise _error(name, value, f"{kind} above {rules['above']}")
    if "least" in rules and number < rules["least"]:
        raise _error(name, value, f"{kind} of at least {rules['least']}")
    if "most" in rules and number > rules["most"]:
        raise _error(name, value, f"{kind} of at most {rules['most']}")
    return int(number) if rules["kind"] is int else number


def _parse_weights(name: str, value: Any) -> str | dict[str, float]:
    expected = '`balanced` or a JSON object such as {"rare label": 3.0} with weights above 0'
    if isinstance(value, str):
        if value.strip() == "balanced":
            return "balanced"
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _error(name, value, expected) from None
    if not isinstance(value, Mapping) or not value:
        raise _error(name, value, expected)
    try:
        if any(isinstance(weight, (bool, str)) for weight in value.values()):
            raise ValueError
        weights = {_label(label): float(weight) for label, weight in value.items()}
    except (ValueError, TypeError, OverflowError):
        raise _error(name, value, expected) from None
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise _error(name, value, expected)
    return weights
