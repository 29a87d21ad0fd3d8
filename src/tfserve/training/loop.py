"""The training loop, on accelerate: steps, evaluations, checkpoints, stopping.

Everything random follows from the seed: the order of an epoch from it and the epoch's number, what
a model itself draws from it and the step. A step's loss is the sum over all its rows, of all
devices and accumulated batches, divided by the mean count of a step, so that the result does not
depend on how the rows were spread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
import transformers

from tfserve.batching import plan_epoch
from tfserve.encoding import Encoder
from tfserve.engines.torch import TorchEngine, quiet, tensors
from tfserve.errors import HParamsError, ModelError, StoppedError
from tfserve.hparams import HParams
from tfserve.predictor import Predictor
from tfserve.processing import Prepared
from tfserve.records import Record
from tfserve.tasks import Parameters, Task
from tfserve.tasks.base import CALIBRATION, MINIMISED, Answer, Array
from tfserve.training.checkpoints import Checkpoints, State, Stop
from tfserve.training.examples import Examples, pooled
from tfserve.training.logs import Logs, numbers
from tfserve.training.optimization import (
    WINDOWS_TOKENS,
    parameter_groups,
    schedule,
    usual_batch,
    usual_rate,
)
from tfserve.training.pretrained import Pretrained, begin_at
from tfserve.training.processes import Processes
from tfserve.training.vocabulary import Vocabulary

EPOCHS, SMALL_TABLE_STEPS, MAX_EPOCHS = 3, 600, 20
"""By default a table gets 3 epochs, a small one as many as make 600 steps, at most 20."""

EVAL_STEPS = 500

Evaluated = tuple[dict[str, Any], Task]
"""Metrics on dev, and the task as it was calibrated there."""


class Loop:
    """One training run.

    Attributes
    ----------
    state : where the run stands
    task : after ``run`` as it was calibrated on dev
    batch_size : rows of a batch, over all devices
    most : windows that a device computes at once
    divisor : mean over the steps of what a step's loss counts: rows, words or their weights
    is_main : whether this process writes files and logs
    """

    def __init__(
        self,
        hp: HParams,
        task: Task,
        pretrained: Pretrained,
        encoder: Encoder,
        *,
        train: Examples,
        dev: Examples,
        tensorboard_dir: Path,
        checkpoint_dir: Path,
    ) -> None:
        self.hp, self.task, self.train, self.dev = hp, task, train, dev
        self.pad_id, self.encoder = pretrained.pad_token_id, encoder
        self.tensorboard_dir = tensorboard_dir
        self.metric = task.metric_for_best_model(hp.metric_for_best_model)
        task.check_hparams(hp)
        self.weights: Array | None = None
        if hp.class_weights:
            self.weights = task.class_weights(hp.class_weights, train.table.labels)

        self.processes = Processes(hp.precision)
        self.accelerator, self.is_main = self.processes.accelerator, self.processes.is_main
        self.device = self.processes.device

        transformers.set_seed(hp.seed)
        model = pretrained.model(task, use_bbox=hp.use_bbox, dropout=hp.dropout)
        if (bias := task.head_bias(train.table.labels, self.weights)) is not None:
            begin_at(model, bias)
        occurring = [window.ids for window in (*train.windows, *dev.windows)]
        self.vocabulary = Vocabulary(model, occurring, self.pad_id)
        self.encoder_parameters = list(model.base_model.parameters())
        groups = parameter_groups(model, weight_decay=hp.weight_decay, layer_decay=hp.layer_decay)
        self.learning_rate = hp.learning_rate or usual_rate(model.config.hidden_size)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        self.plain_optimizer = optimizer
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

        lengths = train.lengths
        rows = hp.per_device_train_batch_size or usual_batch(lengths)
        longest = max(len(window) for window in train.windows)
        self.most = hp.per_device_train_batch_size or max(rows, WINDOWS_TOKENS // longest)
        self.batch_size = rows * self.processes.world
        batches = len(plan_epoch(lengths, self.batch_size, np.random.default_rng(0)))
        self.steps_per_epoch = math.ceil(batches / hp.gradient_accumulation_steps)
        # One count for all steps, so that a word weighs the same in a batch of short texts and in
        # one of long texts, which sorting by length would otherwise set apart.
        join = np.concatenate if task.per_word else np.stack
        counted = task.normaliser(join(train.targets), self.weights)
        self.divisor = (counted or 1.0) / self.steps_per_epoch
        self.total = hp.max_steps or math.ceil(self.epochs * self.steps_per_epoch)
        if hp.freeze_encoder_steps >= self.total:
            raise HParamsError(
                "hparams.value",
                f"freeze_encoder_steps: found {hp.freeze_encoder_steps}; expected less than the "
                f"{self.total} steps of this run",
            )
        self.eval_steps = hp.eval_steps or min(self.steps_per_epoch, EVAL_STEPS)
        self.schedule = schedule(hp, self.learning_rate, self.total)
        engine = TorchEngine(model, precision=self.processes.precision, autocast=True)
        self.predictor = Predictor(task, encoder, engine, pad_id=self.pad_id)
        self.checkpoints = Checkpoints(checkpoint_dir, self._fingerprint())
        self.state = State()
        self.stop = Stop()
        self._best: Evaluated | None = None

    @property
    def epochs(self) -> float:
        if self.hp.num_train_epochs is not None:
            return self.hp.num_train_epochs
        enough = math.ceil(SMALL_TABLE_STEPS / self.steps_per_epoch)
        return float(min(MAX_EPOCHS, max(EPOCHS, enough)))

    def run(self) -> dict[str, Any]:
        """Train to the end, from a checkpoint if there is one; leaves the best weights in place.

        Returns the dev metrics of the model that is kept. Raises StoppedError after a signal.
        """
        model = self.accelerator.unwrap_model(self.model)
        if self.is_main:
            self.state = self.checkpoints.resume(model, self.plain_optimizer)
        self.state = self.processes.from_main(self.state)
        self.processes.put_loss_scale(self.state.loss_scale)
        self.processes.share(model, self.plain_optimizer)
        logs = Logs(
            self.tensorboard_dir, total=self.total, start=self.state.step, is_main=self.is_main
        )
        try:
            with self.stop.listening():
                self._train(logs)
        except torch.cuda.OutOfMemoryError:
            raise ModelError(
                "model.memory",
                f"no memory for a batch of {self.batch_size // self.processes.world} rows on "
                f"{self.device}; expected fewer (per_device_train_batch_size, with as many "
                "gradient_accumulation_steps), shorter ones (max_length), or a larger device",
            ) from None
        finally:
            logs.close()
        if self.is_main and self.state.best_step != self.state.step:
            self.checkpoints.load_weights(self.state.best_step, model)
        self.vocabulary.restore(model)
        if self.is_main and self._best is None:
            self._best = self._evaluate()
        metrics, self.task = cast("Evaluated", self.processes.from_main(self._best))
        logs.best(metrics, self.state.best_step)
        return metrics

    def _train(self, logs: Logs) -> None:
        state, hp = self.state, self.hp
        epoch, groups = -1, list[list[Array]]()
        losses, rows, started = list[Any](), 0, time.perf_counter()
        if state.step and not self._finished():
            self._evaluate_and_save(logs)
        while not self._finished():
            if epoch != state.step // self.steps_per_epoch:
                epoch = state.step // self.steps_per_epoch
                groups = self._epoch(epoch)
            group = groups[state.step % self.steps_per_epoch]
            rate = self.learning_rate * self.schedule(state.step)
            losses.append(self._step(group, rate))
            rows += sum(len(batch) for batch in group)
            state.step += 1
            logs.bar.update()
            if state.step % self.eval_steps == 0 or state.step == self.total:
                seconds = time.perf_counter() - started
                state.line = {
                    "loss": self.processes.mean(float(torch.stack(losses).mean())),
                    "learning_rate": rate,
                    "samples_per_second": rows / seconds,
                }
                self._evaluate_and_save(logs)
                losses, rows, started = [], 0, time.perf_counter()
            elif hp.save_steps and state.step % hp.save_steps == 0:
                self._save()
            if self.processes.any(self.stop.asked is not None):
                self._stopped()

    def _finished(self) -> bool:
        patience = self.hp.early_stopping_patience
        waited = patience is not None and self.state.waiting >= patience
        return waited or (self.state.step >= self.total and self.state.evaluated == self.state.step)

    def _epoch(self, number: int) -> list[list[Array]]:
        """The optimizer steps of an epoch, in pieces of as many windows as a batch has rows."""
        rng = np.random.default_rng((self.hp.seed, number))
        batches = plan_epoch(self.train.lengths, self.batch_size, rng)
        pieces = [
            list(self.train.pieces(batch, self.most, self.processes.world)) for batch in batches
        ]
        size = self.hp.gradient_accumulation_steps
        return [list(chain(*pieces[i : i + size])) for i in range(0, len(pieces), size)]

    def _step(self, group: list[Array], rate: float) -> Any:
        """One optimizer step over the pieces of ``group``; its mean loss, detached."""
        step, hp, world, rank = self.state.step, self.hp, self.processes.world, self.processes.rank
        self.model.train()
        torch.manual_seed(hp.seed * 1_000_003 + step * world + rank)
        rng = np.random.default_rng((hp.seed, step, rank))
        frozen = step < hp.freeze_encoder_steps
        if step == 0 or self.encoder_parameters[0].requires_grad == frozen:
            for parameter in self.encoder_parameters:
                parameter.requires_grad_(not frozen)
        weights = None if self.weights is None else self._tensor(self.weights)
        total = torch.zeros((), device=self.device)
        for rows in group:
            mine = rows[rank::world]
            # A ragged batch may leave a process without a row: it runs one that counts nothing.
            share = float(len(mine) > 0)
            batch, targets, owners = self.train.batch(
                mine if len(mine) else rows[:1],
                self.pad_id,
                per_word=self.task.per_word,
                most=self.most if share else 1,
                rng=rng,
            )
            logits = self.model(**tensors(batch, self.device)).logits.float()
            if owners is not None:
                logits = pooled(logits, self._tensor(owners))
            loss = self.task.loss_sum(logits, self._tensor(targets), weights)
            # Processes average their gradients; the sum over all of them is what is wanted.
            loss = loss * (share * world / self.divisor)
            self.accelerator.backward(loss)
            total += loss.detach()
        if hp.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), hp.max_grad_norm)
        for parameters in self.plain_optimizer.param_groups:
            parameters["lr"] = rate * parameters["scale"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _evaluate_and_save(self, logs: Logs) -> None:
        """Evaluate unless this step was already, note whether it is the best, and checkpoint."""
        state = self.state
        due = state.step % self.eval_steps == 0 or state.step == self.total
        if state.evaluated == state.step or not due:
            return
        found = self._evaluate_in_main()
        if found is None:
            self._stopped()
        metrics = found[0]
        key = self._sort_key(metrics)
        state.evaluated = state.step
        if state.best is None or key > state.best:
            state.best, state.best_step, state.waiting = key, state.step, 0
            self._best = found
        else:
            state.waiting += 1
        entry = {
            **state.line,
            **{f"eval_{name}": value for name, value in metrics.items()},
            "epoch": state.step / self.steps_per_epoch,
            "step": state.step,
        }
        state.history.append(numbers(entry))
        logs.line(state.history[-1])
        self._save()

    def _evaluate_in_main(self) -> Evaluated | None:
        """The main process's evaluation; None where a signal broke it off."""
        found: Evaluated | None = None
        if self.is_main:
            with contextlib.suppress(KeyboardInterrupt), self.stop.interruptible():
                # Of a signal that came during the step.
                found = None if self.stop.asked else self._evaluate()
        return self.processes.from_main(found)

    def _evaluate(self) -> Evaluated:
        """Loss and metrics on dev, and the task as it is calibrated there."""
        self.model.eval()
        prepared = Prepared.of(self.dev.encoded)
        logits = self.predictor.logits(prepared, self.predictor.run(prepared.windows))
        labels = self.dev.table.labels
        task = self.task.calibrated(logits, labels, self.hp)
        answers = task.decode(logits, self.dev.records, Parameters())
        pairs = zip(CALIBRATION, (task, self.task), strict=True)
        errors = {name: one.calibration_error(logits, labels) for name, one in pairs}
        join = np.concatenate if self.task.per_word else np.stack
        rows, targets = join(logits), join(self.dev.row_targets)
        if self.task.per_word:
            seen = ~np.isnan(rows).any(-1)
            rows, targets = rows[seen], targets[seen]
        loss = self.task.loss_sum(torch.from_numpy(rows), torch.from_numpy(targets), None)
        metrics = {
            "loss": float(loss) / (self.task.normaliser(targets, None) or 1.0),
            **task.metrics(labels, answers),
            **{name: error for name, error in errors.items() if error is not None},
        }
        return metrics, task

    def _sort_key(self, metrics: dict[str, Any]) -> list[float]:
        """The chosen metric, and the loss where it ties; higher is better."""
        value = metrics[self.metric]
        return [-value if self.metric in MINIMISED else value, -metrics["loss"]]

    def _save(self) -> None:
        self.state.loss_scale = self.processes.loss_scale()
        if self.is_main:
            model = self.accelerator.unwrap_model(self.model)
            self.checkpoints.save(self.state, model, self.plain_optimizer)
        self.accelerator.wait_for_everyone()

    def _stopped(self) -> NoReturn:
        self._save()
        stopped = StoppedError(
            "training.stopped",
            f"stopped by {self.stop.asked or 'a signal'} at step {self.state.step} of "
            f"{self.total}; checkpoint saved in {self.checkpoints.folder}: the same command goes "
            "on from there",
        )
        if self.stop.asked == "SIGINT":
            stopped.exit_status = 128 + 2
        raise stopped

    def write_weights(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        with quiet():
            self.accelerator.unwrap_model(self.model).save_pretrained(folder)

    def golden(self, records: list[Record]) -> list[dict[str, Any]]:
        """Records with their answers in fp32, all scores given."""
        model = self.accelerator.unwrap_model(self.model).eval()
        predictor = Predictor(self.task, self.encoder, TorchEngine(model), pad_id=self.pad_id)
        bare = [Record(r.text, r.given, r.bbox) for r in records]
        answers: list[Answer] = predictor.predict(bare, self.task.all_scores)
        return [
            {"record": _raw(record), "answer": answer}
            for record, answer in zip(bare, answers, strict=True)
        ]

    def close(self) -> None:
        """Leave the group of processes, when all is done."""
        # The model that gathers gradients goes first: were it the last to hold the group, that
        # would be taken down while Python's lock is held, which a thread of the group may wait for.
        self.model, self.optimizer = self.accelerator.free_memory(self.model, self.optimizer)
        self.processes.close()

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.device)

    def _fingerprint(self) -> str:
        """The same for runs of which one may go on with the other's checkpoint."""
        given = {name: value for name, value in self.hp.as_dict().items() if name != "report"}
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
        groups = self.plain_optimizer.param_groups
        scales = [(g["scale"], [tuple(p.shape) for p in g["params"]]) for g in groups]
        chosen = (self.processes.world, self.total, self.batch_size, self.learning_rate, scales)
        digest.update(repr(chosen).encode())
        for examples in (self.train, self.dev):
            for window in examples.windows:
                digest.update(window.key)
            for target in examples.targets:
                digest.update(target.tobytes())
        return digest.hexdigest()


def _raw(record: Record) -> dict[str, Any]:
    raw: dict[str, Any] = {"text": record.text} if record.given is None else {"words": record.given}
    return raw if record.bbox is None else {**raw, "bbox": record.bbox.tolist()}
