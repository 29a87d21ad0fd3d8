"""What a task is: the one place that knows its labels, loss, answers and metrics.

A ``Task`` instance is a fitted label space. It lives on both sides: training asks it for targets
and losses, serving for answers. Everything is numpy but ``loss_sum``, the torch part, which only
training calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfserve.arrays import Array
from tfserve.calibration import Aim
from tfserve.errors import HParamsError, ParameterError
from tfserve.hparams import CHOICES, HParams
from tfserve.parameters import Parameters, Schema
from tfserve.records import Record
from tfserve.tallies import Tally
from tfserve.tasks.common import Answer

if TYPE_CHECKING:
    from typing_extensions import Self

CALIBRATION = ("ece", "ece_uncalibrated")
"""The calibration error on dev, and what it was before temperatures; of tasks with scores."""

registry: dict[str, type[Task]] = {}


def register(name: str) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: makes a task known under ``name``."""

    def add(task: type[Task]) -> type[Task]:
        task.name = name
        registry[name] = task
        return task

    return add


class Task(ABC):
    """One kind of question asked of a text, with its fitted label space.

    Class attributes
    ----------------
    name : what users write as ``task_name``
    auto_model, pipeline_tag : the transformers class whose head this task trains, and what the hub
        calls such a task
    problem_type : goes into the model's config, None where transformers has none
    unit : what has a label: ``rows`` or ``entities``
    per_word : True when there is an answer for every word, False for one a record
    exclusive : whether what is answered has one label; otherwise any number of them
    numeric : whether it is a number, and has none
    metric : the dev metric that chooses the best model, unless a run names another
    metric_names : the metrics there are, those per label aside
    errors : of these the ones of which less is better
    parameters : names of the request parameters that mean something here
    choices : of ``hparams.CHOICES`` those that do
    answer_schema : of what answers a record
    """

    name: ClassVar[str]
    auto_model: ClassVar[str] = "AutoModelForSequenceClassification"
    pipeline_tag: ClassVar[str] = "text-classification"
    problem_type: ClassVar[str | None] = None
    unit: ClassVar[str] = "rows"
    per_word: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True
    numeric: ClassVar[bool] = False
    metric: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]
    errors: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[tuple[str, ...]] = ()
    answer_schema: ClassVar[Schema]

    labels: tuple[str, ...]

    @classmethod
    @abstractmethod
    def parse_label(cls, cell: Any, record: Record) -> Any:
        """A label from a table's cell or a JSON value. Raises RecordError (``label.…``)."""

    @classmethod
    @abstractmethod
    def fit(cls, labels: Sequence[Any]) -> Self:
        """The label space of train. Raises RecordError when nothing can be learned from it."""

    @classmethod
    @abstractmethod
    def strata(cls, labels: Sequence[Any]) -> Sequence[Hashable]:
        """A key per row; a held-out share takes rows of every key."""

    @classmethod
    @abstractmethod
    def label_counts(cls, labels: Sequence[Any]) -> dict[str, float]:
        """What ``tfserve check`` shows of the labels: counts, or statistics of a target."""

    @classmethod
    def label_names(cls, label: Any) -> set[str]:
        """Of a row's label the names that ``label_counts`` counts."""
        return {label}

    @classmethod
    def label_text(cls, label: Any, record: Record) -> str:
        """A row's label as it is read."""
        return str(label)

    @classmethod
    def spread(cls, labels: Sequence[Any]) -> float:
        """How far labels of one text may lie apart; 0 where they have no distance."""
        return 0.0

    @classmethod
    def differ(cls, one: Any, other: Any, records: tuple[Record, Record], spread: float) -> bool:
        """Whether the labels of nearly the same text contradict each other."""
        return bool(one != other)

    @classmethod
    def unseen(cls, train: Sequence[Any], other: Sequence[Any]) -> list[str]:
        """Labels of ``other`` that ``train`` lacks."""
        return sorted(set(cls.label_counts(other)) - set(cls.label_counts(train)))

    def unknown(self, labels: Sequence[Any]) -> list[str]:
        """Of these labels those that this label space lacks."""
        return self.unseen([self.labels], labels)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the manifest keeps; ``type(self)(**state)`` is the same task again."""

    @abstractmethod
    def target(self, label: Any) -> Array:
        """The training target: a scalar, ``(labels,)``, or ``(words,)`` for a task per word."""

    @abstractmethod
    def normaliser(self, targets: Array, weights: Array | None) -> float:
        """What ``loss_sum`` has to be divided by to be a mean."""

    @abstractmethod
    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        """The summed loss as a torch scalar; ``weights`` are per label."""

    @abstractmethod
    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        """Answers from logits: ``(labels,)`` a record, or ``(words, labels)`` with NaN rows for
        words of which the model saw nothing."""

    @abstractmethod
    def tally(self, gold: Sequence[Any], answers: Sequence[Answer]) -> Tally:
        """What each row adds to the metrics."""

    def metrics(self, gold: Sequence[Any], answers: Sequence[Answer]) -> dict[str, Any]:
        """Metrics by name; ``per_label`` holds those of each label."""
        return self.measured(self.tally(gold, answers))

    def measured(self, tally: Tally) -> dict[str, Any]:
        """The metrics of a tally."""
        scores, by_label = tally.scores(), tally.by_label()
        found: dict[str, Any] = {name: scores[name] for name in self.metric_names}
        return {**found, "per_label": by_label} if by_label else found

    @property
    def understood(self) -> tuple[str, ...]:
        """Of ``parameters`` those that mean something to this label space."""
        return self.parameters

    def check(self, parameters: Parameters) -> None:
        """Raise ParameterError for what means nothing to this label space."""
        for name in self.parameters:
            if name not in self.understood and getattr(parameters, name) is not None:
                raise ParameterError(
                    "parameters.value",
                    f"{name}: expected none for {len(self.labels)} labels; this model understands "
                    f"{', '.join(self.understood)}",
                    field=name,
                )

    @classmethod
    def check_choices(cls, hp: HParams) -> None:
        """Raise HParamsError for a metric or a choice that is none of this task, whatever the
        labels."""
        cls.metric_for_best_model(hp.metric_for_best_model)
        for name in CHOICES:
            if getattr(hp, name) is not None and name not in cls.choices:
                raise HParamsError("hparams.value", f"{name}: {cls.name} has none")
        if hp.threshold_for is not None:
            Aim.parse(hp.threshold_for)

    def check_hparams(self, hp: HParams) -> None:
        """Raise HParamsError for a choice that means nothing to this label space."""
        self.check_choices(hp)

    @classmethod
    def metric_for_best_model(cls, name: str | None) -> str:
        """What models are judged by on dev: ``metric``, or the one of that name.

        Names may be written as logs have them, ``eval_…`` and ``best_eval_…``. Raises HParamsError
        for one that is neither ``loss`` nor in ``metric_names``.
        """
        found = (name or cls.metric).removeprefix("best_").removeprefix("eval_")
        known = ("loss", *cls.metric_names)
        if found not in known:
            raise HParamsError(
                "hparams.value",
                f"metric_for_best_model: found {found!r}; expected one of {', '.join(known)}",
            )
        return found

    @classmethod
    def greater_is_better(cls, metric: str) -> bool:
        """Whether more of a metric is better; of the loss it is not."""
        return metric not in ("loss", *cls.errors)

    def calibrated(self, logits: Sequence[Array], labels: Sequence[Any], hp: HParams) -> Self:
        """The same task with temperatures, and thresholds as chosen, that suit these rows.

        ``logits`` as ``decode`` takes them, of rows that were not trained on.
        """
        return self

    def uncalibrated(self) -> Self:
        """The same task without temperatures and thresholds."""
        return self

    def thresholds_by_label(self) -> dict[str, float]:
        """The probability from which a label is given, of those labels that have one."""
        return {}

    def calibration_error(self, logits: Sequence[Array], labels: Sequence[Any]) -> float | None:
        """Of the probabilities of such rows; None where there are none."""
        return None

    def head_bias(self, labels: Sequence[Any]) -> Array | None:
        """Where the bias of the head begins, ``(labels,)``, by train's labels; None: at zero."""
        return None

    @property
    def all_scores(self) -> dict[str, Any]:
        """The parameters that make answers comparable number by number."""
        return {"scores": True, "top_k": None} if "scores" in self.parameters else {}

    def distance(self, one: Answer, other: Answer) -> float:
        """The largest difference between two answers given with ``all_scores``, 0..1."""
        rows = [answer["scores"] for answer in (one, other)]
        pairs = zip(*(row if isinstance(row, list) else [row] for row in rows), strict=True)
        return float(max(abs(a[label] - b[label]) for a, b in pairs for label in a))

    def class_weights(self, spec: str | Mapping[str, float], labels: Sequence[Any]) -> Array:
        """Weights per label, ``(labels,)``. Raises HParamsError where they have no meaning."""
        raise HParamsError("hparams.value", f"class_weights: {self.name} has no classes to weigh")
