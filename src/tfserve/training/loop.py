"""The training loop, on accelerate: steps, evaluations, checkpoints, stopping.

Everything random follows from the seed: the head's weights, with its number the order of an epoch,
and with the step which windows of a very long row are read. A step's loss is the sum over all its
rows, of all devices and accumulated batches, divided by the mean count of a step, so that the
result does not depend on how the rows were spread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
import transformers

from tfserve.arrays import Array
from tfserve.batching import plan_epoch
from tfserve.encoding import Encoder
from tfserve.engines.torch import TorchEngine, quiet, tensors
from tfserve.errors import ModelError, StoppedError
from tfserve.files import sha256
from tfserve.hparams import HParams
from tfserve.predictor import Predictor
from tfserve.tasks import Task
from tfserve.training.checkpoints import Checkpoints, State
from tfserve.training.examples import Examples, pooled
from tfserve.training.logs import Logs, numbers
from tfserve.training.optimization import parameter_groups, schedule, usual_rate
from tfserve.training.plan import Plan
from tfserve.training.pretrained import Pretrained, begin_at
from tfserve.training.processes import Processes
from tfserve.training.signals import Stop
from tfserve.training.validation import Validated, validate
from tfserve.training.vocabulary import Vocabulary


class Loop:
    """One training run.

    Attributes
    ----------
    state : where the run stands
    task : after ``run`` as it was calibrated on dev
    plan : how long the run is
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
        self.encoder, self.tensorboard_dir = encoder, tensorboard_dir
        self.metric = task.metric_for_best_model(hp.metric_for_best_model)
        self.weights: Array | None = None
        if hp.class_weights:
            self.weights = task.class_weights(hp.class_weights, train.table.labels)

        self.processes = Processes(hp.precision)
        self.accelerator, self.is_main = self.processes.accelerator, self.processes.is_main
        self.device = self.processes.device

        transformers.set_seed(hp.seed)
        model = pretrained.model(task, use_bbox=hp.use_bbox)
        if (bias := task.head_bias(train.table.labels)) is not None:
            begin_at(model, bias)
        occurring = [window.ids for window in (*train.windows, *dev.windows)]
        self.vocabulary = Vocabulary(model, occurring, encoder.pad_token_id)
        groups = parameter_groups(
            model, fresh=model.fresh, weight_decay=hp.weight_decay, layer_decay=hp.layer_decay
        )
        self.learning_rate = hp.learning_rate or usual_rate(model.config.hidden_size)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        self.plain_optimizer = optimizer
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

        longest = max(len(window) for window in train.windows)
        self.plan = Plan.of(hp, train.lengths, longest, self.processes.world)
        # One count for all steps, so that a word weighs the same in a batch of short texts and in
        # one of long texts, which sorting by length would otherwise set apart.
        join = np.concatenate if task.per_word else np.stack
        counted = task.normaliser(join(train.targets), self.weights)
        self.divisor = (counted or 1.0) / self.plan.steps_per_epoch
        self.schedule = schedule(hp.warmup_ratio, self.plan.steps)
        engine = TorchEngine(model, precision=self.processes.precision, autocast=True)
        self.predictor = Predictor(task, encoder, engine)
        self.checkpoints = Checkpoints(checkpoint_dir, self._fingerprint(pretrained))
        self.state = State()
        self.stop = Stop()
        self._best: Validated | None = None

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
            self.tensorboard_dir, total=self.plan.steps, start=self.state.step, is_main=self.is_main
        )
        try:
            with self.stop.listening():
                self._train(logs)
        except RuntimeError as error:
            if not (
                isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate" in str(error)
            ):
                raise
            raise ModelError(
                "model.memory",
                f"no memory for a batch of {self.plan.batch_size // self.processes.world} rows on "
                f"{self.device}; expected fewer (per_device_train_batch_size, with as many "
                "gradient_accumulation_steps), shorter ones (max_length), or a larger device",
            ) from None
        finally:
            logs.close()
        if self.is_main and self.state.best_step != self.state.step:
            self.checkpoints.load_weights(self.state.best_step, model)
        self.vocabulary.restore(model)
        if self.is_main and self._best is None:
            self._best = self._validate()
        metrics, self.task = cast("Validated", self.processes.from_main(self._best))
        logs.best(metrics, self.state.best_step)
        return metrics

    def _train(self, logs: Logs) -> None:
        state, hp = self.state, self.hp
        epoch, groups = -1, list[list[Array]]()
        losses, rows, started = list[Any](), 0, time.perf_counter()
        if state.step and not self._finished():
            self._evaluate_and_save(logs)
        while not self._finished():
            if epoch != state.step // self.plan.steps_per_epoch:
                epoch = state.step // self.plan.steps_per_epoch
                groups = self._epoch(epoch)
            group = groups[state.step % self.plan.steps_per_epoch]
            rate = self.learning_rate * self.schedule(state.step)
            losses.append(self._step(group, rate))
            rows += sum(len(batch) for batch in group)
            state.step += 1
            logs.bar.update()
            if state.step % self.plan.eval_steps == 0 or state.step == self.plan.steps:
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
        return waited or (
            self.state.step >= self.plan.steps and self.state.evaluated == self.state.step
        )

    def _epoch(self, number: int) -> list[list[Array]]:
        """The optimizer steps of an epoch, in pieces that the devices compute at once."""
        rng = np.random.default_rng((self.hp.seed, number))
        batches = plan_epoch(self.train.lengths, self.plan.batch_size, rng)
        pieces = [
            list(self.train.pieces(batch, self.plan.windows, self.processes.world))
            for batch in batches
        ]
        size = self.hp.gradient_accumulation_steps
        return [list(chain(*pieces[i : i + size])) for i in range(0, len(pieces), size)]

    def _step(self, group: list[Array], rate: float) -> Any:
        """One optimizer step over the pieces of ``group``; its mean loss, detached."""
        hp, world, rank = self.hp, self.processes.world, self.processes.rank
        self.model.train()
        rng = np.random.default_rng((hp.seed, self.state.step, rank))
        weights = None if self.weights is None else self._tensor(self.weights)
        total = torch.zeros((), device=self.device)
        for rows in group:
            mine = rows[rank::world]
            # A ragged batch may leave a process without a row: it runs one that counts nothing.
            share = float(len(mine) > 0)
            batch, targets, owners = self.train.batch(
                mine if len(mine) else rows[:1],
                self.encoder.pad_token_id,
                per_word=self.task.per_word,
                most=self.plan.windows if share else 1,
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
        due = state.step % self.plan.eval_steps == 0 or state.step == self.plan.steps
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
            "epoch": state.step / self.plan.steps_per_epoch,
            "step": state.step,
        }
        state.history.append(numbers(entry))
        logs.line(state.history[-1])
        self._save()

    def _evaluate_in_main(self) -> Validated | None:
        """The main process's evaluation; None where a signal broke it off."""
        found: Validated | None = None
        if self.is_main:
            with contextlib.suppress(KeyboardInterrupt), self.stop.interruptible():
                # Of a signal that came during the step.
                found = None if self.stop.asked else self._validate()
        return self.processes.from_main(found)

    def _validate(self) -> Validated:
        self.model.eval()
        return validate(self.predictor, self.dev, self.hp)

    def _sort_key(self, metrics: dict[str, Any]) -> list[float]:
        """The chosen metric, and the loss where it ties; higher is better."""
        value = metrics[self.metric]
        return [value if self.task.greater_is_better(self.metric) else -value, -metrics["loss"]]

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
            f"{self.plan.steps}; checkpoint saved in {self.checkpoints.folder}: the same command "
            "goes on from there",
        )
        if self.stop.asked == "SIGINT":
            stopped.exit_status = 128 + 2
        raise stopped

    def write_weights(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        with quiet():
            self.accelerator.unwrap_model(self.model).save_pretrained(folder)

    def in_fp32(self) -> Predictor:
        """The model as it was trained, asked in fp32."""
        engine = TorchEngine(self.accelerator.unwrap_model(self.model).eval())
        return Predictor(self.task, self.encoder, engine)

    def close(self) -> None:
        """Leave the group of processes, when all is done."""
        # The model that gathers gradients goes first: were it the last to hold the group, that
        # would be taken down while Python's lock is held, which a thread of the group may wait for.
        self.model, self.optimizer = self.accelerator.free_memory(self.model, self.optimizer)
        self.processes.close()

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(array).to(self.device)

    def _fingerprint(self, pretrained: Pretrained) -> str:
        """The same for runs of which one may go on with the other's checkpoint."""
        given = {name: value for name, value in self.hp.as_dict().items() if name != "report"}
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
        groups = self.plain_optimizer.param_groups
        scales = [(g["scale"], [tuple(p.shape) for p in g["params"]]) for g in groups]
        chosen = (
            self.processes.world,
            self.plan.steps,
            self.plan.batch_size,
            self.learning_rate,
            scales,
        )
        digest.update(repr(chosen).encode())
        for file in pretrained.weights():
            digest.update(sha256(file).encode())
        for examples in (self.train, self.dev):
            for window in examples.windows:
                digest.update(window.key)
            for target in examples.targets:
                digest.update(target.tobytes())
        return digest.hexdigest()
