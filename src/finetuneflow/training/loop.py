"""The training loop: steps, evaluations, best checkpoint, resume, cancel. What is learnt is the objective."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from finetuneflow.artifacts import CHECKPOINTS, JobFolder
from finetuneflow.errors import JobCancelled, TrainingError
from finetuneflow.schemas.event import EvalEvent, LogEvent, ProgressEvent
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import LossPoint
from finetuneflow.training.checkpoint import load_checkpoint, newest_valid, save_checkpoint, write_checkpoint
from finetuneflow.training.optimizer import MasterAdamW, learning_rate_at

BEST = "best"
EVENT_SECONDS = 0.3
HISTORY_POINTS = 2000


@dataclass(frozen=True)
class Measured:
    """One evaluation on the validation split; a lower `score` is better."""

    loss: float
    score: float
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """What is learnt: batches of an epoch, the loss of a batch, and how good the model is."""

    def batches(self, epoch: int) -> list[list[int]]:
        """Batches of example indices; the same for the same epoch, always."""

    def size(self, batch: list[int]) -> tuple[int, int]:
        """Terms of the loss and real tokens in a batch."""

    def loss(self, batch: list[int]) -> torch.Tensor:
        """Summed loss of a batch."""

    def evaluate(self) -> Measured | None:
        """Figures on the validation split; None when there is none."""


@dataclass
class Progress:
    """Where a run is; all of it goes into a checkpoint."""

    step: int = 0
    tokens: int = 0
    terms: int = 0
    train_seconds: float = 0.0
    best_step: int = 0
    best_score: float = math.inf
    best_loss: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """Steps of a run: `epochs[e]` optimizer steps in epoch e, `total` in all."""

    epochs: list[int]
    total: int
    warmup: int
    eval_every: int
    save_every: int

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch and step within it."""
        for epoch, steps in enumerate(self.epochs):
            if step < steps:
                return epoch, step
            step -= steps
        return len(self.epochs), 0


def plan(recipe: Recipe, objective: Objective) -> Schedule:
    """The number of steps of a run, from its epochs or its `max_steps`, and when to evaluate and save."""
    epochs: list[int] = []
    wanted = recipe.num_epochs or 1.0
    total = 0
    while True:
        steps = math.ceil(len(objective.batches(len(epochs))) / recipe.gradient_accumulation_steps)
        epochs.append(steps)
        if recipe.max_steps:
            total += steps
            if total >= recipe.max_steps:
                total = recipe.max_steps
                break
        elif len(epochs) >= wanted:
            total = sum(epochs[:-1]) + max(1, round(steps * (wanted - (len(epochs) - 1))))
            break
    eval_every = recipe.eval_steps or max(1, math.ceil(total / 10))
    return Schedule(
        epochs, total, round(total * recipe.warmup_ratio), eval_every, recipe.save_steps or eval_every
    )


class Fit:
    """One run of the loop over a model."""

    def __init__(self, model: torch.nn.Module, objective: Objective, recipe: Recipe, job: JobFolder) -> None:
        self.model = model
        self.objective = objective
        self.recipe = recipe
        self.job = job
        trainable = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.optimizer = MasterAdamW(trainable, weight_decay=recipe.weight_decay)
        self.schedule = plan(recipe, objective)
        self.progress = Progress()
        self.resumed_from: int | None = None
        self._spoke_at = 0.0
        self._tokens_spoken = 0

    def run(self) -> Progress:
        """Trains to the end and leaves the best weights in the model.

        Raises:
            TrainingError: the loss is no longer a number, or the memory does not suffice.
            JobCancelled: somebody asked the job to stop; a checkpoint was written first.
        """
        self._resume()
        self.model.train()
        epoch, batches = -1, []
        self._spoke_at = time.perf_counter()
        self._tokens_spoken = self.progress.tokens
        try:
            while self.progress.step < self.schedule.total and not self.progress.stopped_early:
                if self.job.cancelled():
                    self._save()
                    raise JobCancelled(
                        f"cancelled after step {self.progress.step} of {self.schedule.total}",
                        "`finetuneflow runs resume` goes on from there",
                    )
                now, first = self.schedule.locate(self.progress.step)
                if now != epoch:
                    epoch, batches = now, self.objective.batches(now)
                width = self.recipe.gradient_accumulation_steps
                self._step(
                    batches[first * width : (first + 1) * width], epoch + first / self.schedule.epochs[epoch]
                )
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the memory does not suffice for this run",
                "lower `per_device_batch_size` or `max_seq_length`",
            ) from error
        self._restore_best()
        return self.progress

    def _step(self, batches: list[list[int]], epoch: float) -> None:
        started = time.perf_counter()
        progress, total = self.progress, 0.0
        sizes = [self.objective.size(batch) for batch in batches]
        terms = sum(size[0] for size in sizes)
        for batch in batches:
            loss = self.objective.loss(batch)
            loss.backward()
            total += float(loss.detach())
        mean = total / terms
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} at step {progress.step + 1}",
                "lower `learning_rate`, or set `precision: fp32`",
            )
        rate = learning_rate_at(
            progress.step,
            total_steps=self.schedule.total,
            warmup_steps=self.schedule.warmup,
            peak=self.recipe.learning_rate or 1e-4,
            schedule=self.recipe.lr_scheduler_type,
        )
        norm = self.optimizer.step(learning_rate=rate, divisor=terms, max_grad_norm=self.recipe.max_grad_norm)
        progress.step += 1
        progress.tokens += sum(size[1] for size in sizes)
        progress.terms += terms
        progress.train_seconds += time.perf_counter() - started
        progress.history.append({"step": progress.step, "loss": mean, "learning_rate": rate})
        self._tell(epoch, mean, rate, norm)
        last = progress.step == self.schedule.total
        if last or progress.step % self.schedule.eval_every == 0:
            self._evaluate()
        if last or progress.step % self.schedule.save_every == 0:
            self._save()

    def _tell(self, epoch: float, loss: float, rate: float, norm: float) -> None:
        progress, now = self.progress, time.perf_counter()
        if now - self._spoke_at < EVENT_SECONDS and progress.step != self.schedule.total:
            return
        speed = (progress.tokens - self._tokens_spoken) / max(now - self._spoke_at, 1e-9)
        progress.history[-1]["tokens_per_second"] = speed
        done = progress.step / max(progress.train_seconds, 1e-9)
        self.job.emit(
            ProgressEvent(
                stage="train",
                step=progress.step,
                total_steps=self.schedule.total,
                epoch=round(epoch, 3),
                loss=loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens_per_second=speed,
                remaining_seconds=(self.schedule.total - progress.step) / done,
            )
        )
        self._spoke_at, self._tokens_spoken = now, progress.tokens

    def _evaluate(self) -> None:
        self.model.eval()
        measured = self.objective.evaluate()
        self.model.train()
        progress = self.progress
        if measured is None:
            return
        progress.history.append({"step": progress.step, "eval_loss": measured.loss})
        best = measured.score < progress.best_score
        if best:
            progress.best_step, progress.best_score = progress.step, measured.score
            progress.best_loss, progress.best_metrics = measured.loss, measured.metrics
            progress.since_best = 0
            folder = self.job.path / CHECKPOINTS / BEST
            shutil.rmtree(folder, ignore_errors=True)
            write_checkpoint(folder, self.optimizer.masters_state(), {"step": progress.step})
        else:
            progress.since_best += 1
            patience = self.recipe.early_stopping_patience
            progress.stopped_early = patience is not None and progress.since_best >= patience
        self.job.emit(
            EvalEvent(step=progress.step, eval_loss=measured.loss, metrics=measured.metrics, best=best)
        )
        if progress.stopped_early:
            self.job.emit(
                LogEvent(message=f"stopped early: no improvement in {progress.since_best} evaluations")
            )
        self._spoke_at, self._tokens_spoken = time.perf_counter(), progress.tokens

    def _save(self) -> None:
        tensors = self.optimizer.state() | {"rng": torch.get_rng_state()}
        save_checkpoint(self.job.path, self.progress.step, tensors, self.progress.__dict__)
        self._spoke_at, self._tokens_spoken = time.perf_counter(), self.progress.tokens

    def _resume(self) -> None:
        folder = newest_valid(self.job.path) if self.job.resume else None
        if folder is None:
            return
        tensors, state = load_checkpoint(folder)
        torch.set_rng_state(tensors.pop("rng"))
        self.optimizer.load_state(tensors)
        self.progress = Progress(**state)
        self.resumed_from = self.progress.step
        self.job.emit(LogEvent(message=f"going on after step {self.progress.step} of {self.schedule.total}"))

    def _restore_best(self) -> None:
        folder = self.job.path / CHECKPOINTS / BEST
        if self.progress.best_step and self.progress.best_step != self.progress.step and folder.is_dir():
            self.optimizer.load_state(load_checkpoint(folder)[0])
        elif not self.progress.best_step:
            self.progress.best_step = self.progress.step
        self.model.eval()

    def loss_points(self) -> list[LossPoint]:
        """The loss curve, thinned to about two thousand points; evaluations are all kept."""
        steps = [point for point in self.progress.history if "loss" in point]
        every = max(1, math.ceil(len(steps) / HISTORY_POINTS))
        kept = steps[::every] + [point for point in self.progress.history if "eval_loss" in point]
        return [LossPoint(**point) for point in sorted(kept, key=lambda point: point["step"])]

    def epochs(self) -> float:
        """How often the training split was gone through."""
        epoch, step = self.schedule.locate(self.progress.step)
        return epoch if step == 0 else epoch + step / self.schedule.epochs[epoch]

    def recent_loss(self) -> float:
        """Mean training loss of the last twentieth of the steps."""
        losses: list[float] = [point["loss"] for point in self.progress.history if "loss" in point]
        tail = losses[-max(1, len(losses) // 20) :]
        return sum(tail) / max(1, len(tail))
