# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Step listeners: what happens after a batch, besides training; and callbacks of the user."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..core import dist
from ..core.errors import ConfigError, NonFiniteError, last_line
from ..distill.context import DistillationContext
from ..distill.diagnostics import WeightedMeans
from .progress import Progress
from .resources import peak_memory
from .train import StepReport, StopTraining
from .writers import Writer

if TYPE_CHECKING:
    from .training import Training

logger = logging.getLogger(__name__)

NEVER = torch.iinfo(torch.int64).max
"""Step of a term that was always finite."""
HELD = 128
"""Steps after which scalars are put together although nobody asks: bounds what waits where lines are rare."""


class Callback:
    """What a config lists under ``callbacks``: a class of the user's, called on every rank.

    It looks at the run and acts outside of it. It has no state in checkpoints, and a run that is killed between a save
    and the call goes on without the call. An error in it ends the run, with its file and line. ``StopTraining``, raised
    on any rank, ends it after the epoch in good order, as early stopping does.
    """

    slot: ClassVar[str] = "callbacks"

    def on_evaluation(self, run: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """After an evaluation, when the weights are saved if they are the best so far.

        Args:
            run: the whole run: model, settings, progress, folder.
            epoch: that is judged, from 0.
            metrics: fractions in [0, 1] by name; -1 where there is no ground truth of that kind.
        """

    def on_epoch_end(self, run: Training, epoch: int) -> None:
        """After an epoch, its evaluation and its checkpoints."""


def call(hook: Callable[..., None], run: Training, epoch: int, *more: Any) -> bool:
    """A hook of a callback; returns whether it wants the run to end, on any rank.

    Raises:
        ConfigError: an error of the user's code, as one line with its file and line.
    """
    where, reason = f"callbacks: {hook.__qualname__}, epoch {epoch}", None
    try:
        hook(run, epoch, *more)
    except StopTraining as stop:
        reason = str(stop)
    except Exception as error:
        raise ConfigError(f"{where}: {last_line(error, __file__)}; continue with -r when it is repaired") from error
    reasons = [reason for reason in dist.gather_objects(reason) if reason is not None]
    if reasons:
        logger.info("%s: the run ends: %s", where, reasons[0])
    return bool(reasons)


class StepScalars:
    """Scalars of steps, put together when someone looks: until then there is no operator on the device.

    Args:
        fold: values (R, names) of R steps and their numbers (R,) -> (names,).
        join: what was folded before and what comes now -> (names,).
    """

    def __init__(self, fold: Callable[[Tensor, Tensor], Tensor], join: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._fold, self._join = fold, join
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._waiting: dict[tuple[str, ...], list[tuple[int, Sequence[Tensor]]]] = {}
        self._count = 0
        self._folded: dict[tuple[str, ...], Tensor] = {}

    def add(self, names: Iterable[str], scalars: Sequence[Tensor], step: int) -> None:
        """Keep the scalars of a step; without their graphs, and not changed later."""
        self._waiting.setdefault(tuple(names), []).append((step, scalars))
        self._count += 1
        if self._count >= HELD:
            self.look()

    def look(self) -> tuple[list[str], list[Tensor]]:
        """All names, which may stand twice where steps had different ones, and what they come to; nothing is read."""
        for names, rows in self._waiting.items():
            values = torch.stack([scalar for _, scalars in rows for scalar in scalars]).view(len(rows), len(names))
            steps = torch.tensor([step for step, _ in rows]).to(values.device, non_blocking=True)
            folded, before = self._fold(values, steps), self._folded.get(names)
            self._folded[names] = folded if before is None else self._join(before, folded)
        self._waiting, self._count = {}, 0
        return [name for names in self._folded for name in names], list(self._folded.values())


class NonFiniteGuard:
    """Find the first step at which each term was not finite, when a line is due and not before.

    Nothing is replaced: the run stops with the name of the term. Until that is known no checkpoint is written
    (the savers call :meth:`check` first), so what is on disk stays usable.
    """

    def __init__(self, *, active: bool = True, watch_gradient: bool = True) -> None:
        self._active = active  # off where the run's policy is to skip such steps
        self._watch_gradient = watch_gradient  # under fp16 the scaler handles overflowing gradients
        self._first_bad = StepScalars(
            lambda values, steps: torch.where(values.isfinite(), NEVER, steps[:, None]).amin(0), torch.minimum
        )

    def observe(self, report: StepReport, step: int) -> None:
        """Keep this step's terms: no operator on the device, save where many steps have come together."""
        if not self._active:
            return
        self._first_bad.add(report.terms, report.scalars, step)
        if self._watch_gradient and report.grad_norm is not None:
            self._first_bad.add(("gradient norm",), (report.grad_norm.detach(),), step)

    def check(self) -> None:
        """Read (one transfer) and raise :class:`NonFiniteError` naming the earliest bad terms."""
        names, when = self._first_bad.look()
        if not names:
            return
        read = torch.cat(when).tolist()
        step = min(read)
        if step < NEVER:
            first_bad = list(dict.fromkeys(name for name, when in zip(names, read) if when == step))
            listed = ", ".join(first_bad[:5]) + (f" and {len(first_bad) - 5} more" if len(first_bad) > 5 else "")
            raise NonFiniteError(
                f"step {step}: {listed} is not finite. The last checkpoint is from before it. Lower the learning rate, "
                "check the boxes of the batch, or train with precision: bf16 or fp32"
            )


class StopSignal:
    """SIGTERM and SIGINT ask for a saved, orderly end; a second signal ends at once.

    Only the main thread can take signals; in another one nothing is asked for.

    With several processes the ranks agree every ``agree_every`` steps, so that all leave after the same one.

    Args:
        exits: the second signal ends the process here and now, with one line, and nothing waits for workers: they end
            with it. Otherwise it does what it did before.
    """

    def __init__(self, *, agree_every: int = 10, exits: bool = False) -> None:
        self._exits = exits
        self._asked: signal.Signals | None = None
        self._agreed: signal.Signals | None = None
        self._agree_every = agree_every
        self._next_agreement = agree_every
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is not None and self._exits:
            name = signal.Signals(number).name
            os.write(2, f"ended at once by {name}: continue with -r from what was saved before\n".encode())
            os._exit(128 + number)
        self._asked = signal.Signals(number)
        if not self._exits:
            signal.signal(number, self._previous[number])

    def wanted(self, step: int) -> bool:
        """Whether all ranks stop after this step."""
        if dist.world_size() == 1:
            return self.wanted_by_any()
        if step < self._next_agreement:
            return False
        self._next_agreement = step + self._agree_every
        return self.wanted_by_any()

    def wanted_by_any(self) -> bool:
        """Whether some rank was asked to stop; all ranks must ask at the same place."""
        # not into _asked, which a signal may set while the ranks exchange what they had in it
        self._agreed = next((asked for asked in dist.gather_objects(self._asked) if asked is not None), None)
        return self._agreed is not None

    def reason(self, step: int) -> StopTraining:
        """What to raise once everything is saved."""
        assert self._agreed is not None
        return StopTraining(
            f"stopped by {self._agreed.name} after step {step}; everything is saved", 128 + self._agreed
        )


class StepLog:
    """Every ``every`` steps: mean losses since the last line to the log and the writers, and diagnostics of that step.

    Args:
        writers: get a record ``train`` and, where there are diagnostics, one of that name.
        guard: asked before anything is written.
        every: steps between lines.
        diagnose: measures a step; called only where a line is due.
        left: how long the run still takes after a step, as the end of a line.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        guard: NonFiniteGuard,
        every: int,
        diagnose: Callable[[DistillationContext], WeightedMeans] | None = None,
        left: Callable[[int], str] = lambda step: "",
    ) -> None:
        self._writers = writers
        self._guard = guard
        self._every = every
        self._diagnose = diagnose
        self._left = left
        self.loss: float | None = None
        """Mean over the steps of the last line."""
        self._diagnosed: WeightedMeans = {}
        self._sums = StepScalars(lambda values, _: values.sum(0), torch.add)
        self._count = 0
        self._since = time.perf_counter()

    def observe(self, report: StepReport) -> None:
        """Keep this step's terms: no operator on the device, save where many steps have come together."""
        self._sums.add(report.terms, report.scalars, self._count)
        self._count += 1

    def due(self, step: int) -> bool:
        """Whether a line is due after this step."""
        return step % self._every == 0

    def watch(self, context: DistillationContext, step: int) -> None:
        """Look at a step between its losses and its gradients; nothing is read from the device."""
        if self._diagnose is not None and self.due(step):
            self._diagnosed = self._diagnose(context)

    def line(self, report: StepReport, progress: Progress, batches: int) -> None:
        """Average over steps and ranks, read (one transfer), write one line, start over.

        Raises :class:`NonFiniteError` where a term is not finite. All ranks call this after the same step.
        """
        names, sums = self._sums.look()
        epoch, step = progress.epoch, progress.step
        seen = [part.reshape(1) for mean in self._diagnosed.values() for part in mean]
        numbers = dist.mean(torch.cat([*sums, *seen]))
        self._guard.check()
        read = torch.cat((numbers[: len(names)] / self._count, numbers[len(names) :])).tolist()
        means: dict[str, float] = {}
        for name, mean in zip(names, read):
            means[name] = means.get(name, 0.0) + mean
        of_diagnosed = zip(self._diagnosed, read[len(names) :: 2], read[len(names) + 1 :: 2])
        diagnostics = {name: total / count for name, total, count in of_diagnosed if count}
        seconds = (time.perf_counter() - self._since) / self._count
        norm = math.nan if report.grad_norm is None else float(report.grad_norm)
        self.loss = loss = sum(means.values())
        values = {"loss": loss, **means, "lr": report.lr, "seconds_per_step": seconds, "grad_norm": norm}
        values |= peak_memory(numbers.device)
        not_finite = [name for name, value in (means | diagnostics).items() if not math.isfinite(value)]
        logger.info(
            "epoch %d [%d/%d] step %d: loss %.4f, lr %.3g, gradient norm %.3g, %.3f s/step%s",
            epoch, progress.batch, batches, step, loss, report.lr, norm, seconds, self._left(step),
        )  # fmt: skip
        if not_finite:
            logger.warning("step %d: not finite, and so not in the metrics: %s", step, ", ".join(not_finite))
        for writer in self._writers:
            writer.write("train", step, _finite(values), epoch=epoch)
            if diagnostics:
                writer.write("diagnostics", step, _finite(diagnostics), epoch=epoch)
        self.restart()

    def restart(self) -> None:
        """Forget the sums and restart the clock (after a line, an evaluation or a save)."""
        self._sums.clear()
        self._diagnosed = {}
        self._count, self._since = 0, time.perf_counter()


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """What can be written: JSON has no NaN."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class EpochListener:
    """Called by the loop after every batch of one epoch: counts, guards, logs, saves and stops.

    Args:
        progress: of the run; counted on here.
        batches: of the whole epoch.
        on_batch: called after every batch.
        save: writes a checkpoint in the middle of the epoch.
        save_every: batches of the run between such checkpoints; None for none.
    """

    def __init__(
        self,
        progress: Progress,
        batches: int,
        *,
        guard: NonFiniteGuard,
        log: StepLog,
        stop: StopSignal,
        on_batch: Callable[[], None],
        save: Callable[[], None],
        save_every: int | None,
    ) -> None:
        self._progress, self._batches, self._saved = progress, batches, progress.step
        self._guard, self._log, self._stop = guard, log, stop
        self._on_batch, self._save, self._save_every = on_batch, save, save_every

    def watch(self, context: DistillationContext) -> None:
        """Called within the step that comes next to be reported."""
        self._log.watch(context, self._progress.step + 1)

    def __call__(self, report: StepReport) -> None:
        dist.moved()
        progress = self._progress
        progress.batch += 1
        progress.step += 1
        self._guard.observe(report, progress.step)
        self._log.observe(report)
        self._on_batch()
        if self._log.due(progress.step):
            self._log.line(report, progress, self._batches)
        if report.grad_norm is None:
            return  # inside an accumulation window a checkpoint would lose gradients
        stopping = self._stop.wanted(progress.step)
        if stopping or (self._save_every and progress.step // self._save_every > self._saved // self._save_every):
            self._guard.check()
            self._save()
            self._saved = progress.step
        if stopping:
            raise self._stop.reason(progress.step)
