# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Run a training: epochs, evaluation, selection of the best, the two stages."""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..core import dist
from ..core.checkpoint.weights import load_weights
from ..core.errors import CheckpointError, ConfigError
from ..data.evaluate import EvalResult, shown
from ..distill.diagnostics import Diagnostics
from .callbacks import EpochListener, NonFiniteGuard, StepLog, StopSignal, call
from .progress import TimeLeft, judge
from .train import StepReport, StopTraining, train_one_epoch
from .training import Training
from .writers import ProgressBar, Writer, open_writers

logger = logging.getLogger(__name__)
T = TypeVar("T")


def fit(run: Training, *, exits: bool = False) -> EvalResult:
    """Train to the end, or to a signal.

    Args:
        exits: whether a second signal ends the process here and now, as a command does.

    Returns:
        The metrics of the best checkpoint, whose weights ``run.judged_model`` holds afterwards.

    Raises:
        StopTraining: a signal ended the run early; everything is saved.
        ConfigError, CheckpointError: the folder is in use, cannot be written, or was deleted meanwhile.
    """
    with ExitStack() as stack:
        stack.callback(run.release_folder)
        make_folder(run)
        writers = _by_main(partial(open_writers, run.writers, run)) or []
        stack.push(partial(_close, writers))
        try:
            with StopSignal(exits=exits) as stop:
                last = _Fit(run, writers, stop).epochs()
        except StopTraining as reason:
            logger.warning("%s; continue with -r %s", reason, shlex.quote(str(run.folder.path)))
            raise
        return _best_result(run, last)


class _Fit:
    """The pieces that live from the first to the last epoch of one process."""

    def __init__(self, run: Training, writers: list[Writer], stop: StopSignal) -> None:
        self.run, self.writers, self.stop = run, writers, stop
        run.freeze.apply(run.optim.schedule.step)
        self.trained = _distribute(run)
        self.guard = NonFiniteGuard(
            active=run.settings.nonfinite == "stop", watch_gradient=run.optim.precision.name != "fp16"
        )
        diagnose = Diagnostics(run.criterion.distillers) if run.settings.diagnostics else None
        done, left = run.progress, run.settings.epoches - run.progress.epoch
        self.time_left = TimeLeft(done.step, done.step + len(run.train_loader) * left - done.batch)
        self.ended = False
        """Whether a callback wants no further epoch."""
        self.log = StepLog(writers, self.guard, run.settings.print_freq, diagnose, self.time_left.after)

    def epochs(self) -> EvalResult | None:
        """All epochs that are left; returns the last evaluation."""
        run, progress, result = self.run, self.run.progress, None
        if progress.batch == 0 and (missing := dist.broadcast_object(self._missing(progress.epoch - 1))):
            run.save(*missing)
        while not self.ended and self._goes_on():
            epoch = progress.epoch
            if run.plan.begins(epoch) and progress.batch == 0:
                run.restart_from_stage_one()
            self.train(epoch)
            self.guard.check()
            if self._evaluation_due(epoch):
                self.leave_if_asked()
                result = self.evaluate(epoch)
            progress.epoch, progress.batch = epoch + 1, 0
            ends = epoch + 1 == run.settings.epoches or run.ends_early or self.ended
            due = (epoch + 1) % run.settings.save_every == 0 or ends
            # the last one comes last: whoever resumes it finds everything that was due before
            paths = [*self._numbered(epoch), *([run.folder.last] if due else [])]
            if paths:
                run.save(*paths)
            for callback in run.callbacks:
                self.ended |= call(callback.on_epoch_end, run, epoch)
            if self.ended and not due:
                run.save(run.folder.last)
            self.log.restart()
        return result

    def _goes_on(self) -> bool:
        """Whether an epoch is left; where early stopping ends stage one, the next is the first of stage two.

        A function of what is saved between two epochs, so that a resumed run comes to the same.
        """
        run, progress, first = self.run, self.run.progress, self.run.plan.stop_epoch
        if run.out_of_patience and run.early_stop is not None:
            waiting = progress.waiting
            logger.info(
                "early stop after epoch %d: no %s more than %g above %s in the last %d evaluations; %s",
                progress.epoch - 1, run.early_stop.metric, run.early_stop.min_delta, waiting.best,
                waiting.evaluations, "the run ends" if run.ends_early else f"stage two, epoch {first}, begins",
            )  # fmt: skip
            if run.ends_early:
                return False
        if first is not None and progress.batch == 0 and (run.out_of_patience or progress.epoch == first):
            skipped = first - progress.epoch
            run.optim.schedule.skip(skipped)
            self.time_left.skip(skipped * len(run.train_loader))
            progress.epoch, progress.waiting = first, replace(progress.waiting, evaluations=0)
        return progress.epoch < run.settings.epoches

    def train(self, epoch: int) -> None:
        """The rest of one epoch."""
        run, progress = self.run, self.run.progress
        loader = run.train_loader
        loader.set_epoch(epoch)
        loader.collate_fn.multi_scale = not run.plan.in_stage_two(epoch)
        loader.start_at(progress.batch)
        batches = len(loader)
        run.trained.train()
        self._freeze_if_due()
        run.optim.start_epoch(batches - progress.batch)
        bar = ProgressBar(batches, progress.batch, f"epoch {epoch}", enabled=dist.is_main())
        listener = EpochListener(
            progress,
            batches,
            guard=self.guard,
            log=self.log,
            stop=self.stop,
            on_batch=lambda: bar.advance(self.log.loss),
            save=self._save_between_batches,
            save_every=run.settings.save_every_steps,
        )
        with ExitStack() as stack:
            stack.callback(bar.close)
            train_one_epoch(
                partial(self._losses, listener),
                loader,
                run.optim,
                max_norm=run.settings.clip_max_norm,
                window=lambda: run.optim.sync_context(self.trained),
                on_step=partial(self._after_step, listener),
            )
        if rest := run.trained.without_gradient(run.optim.optimizer):
            logger.warning("epoch %d: no gradient has reached %s yet: they are not trained", epoch, ", ".join(rest))

    def _losses(
        self, listener: EpochListener, images: Tensor, targets: list[dict[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Named losses of a batch, by what is trained as it is wrapped now."""
        run, schedule, epoch = self.run, self.run.optim.schedule, self.run.progress.epoch
        run.batch_shape = tuple(images.shape)
        terms: Mapping[str, Tensor] = self.trained(
            images, targets, schedule.progress, step_number=schedule.step, epoch=epoch, watch=listener.watch
        )
        return terms

    def _after_step(self, listener: EpochListener, report: StepReport) -> None:
        listener(report)
        self._freeze_if_due()

    def _freeze_if_due(self) -> None:
        """Freeze what is frozen at this step; with other trainable parameters they are wrapped anew."""
        if self.run.freeze.apply(self.run.optim.schedule.step):
            self.trained = _distribute(self.run)

    def leave_if_asked(self) -> None:
        """Before an evaluation, which may outlast the patience of who sent the signal: save and stop."""
        if self.stop.wanted_by_any():
            self._save_and_leave()

    def _between_batches(self) -> None:
        """In the middle of an evaluation; with several ranks the end of it is the next place where all agree."""
        dist.moved()
        if dist.world_size() == 1 and self.stop.wanted_by_any():
            self._save_and_leave()

    def _save_and_leave(self) -> None:
        self.run.save(self.run.folder.last)
        raise self.stop.reason(self.run.progress.step)

    def _save_between_batches(self) -> None:
        """In the middle of an epoch."""
        self.run.save(self.run.folder.last)
        self.log.restart()

    def evaluate(self, epoch: int) -> EvalResult:
        """Judge the weights after an epoch, keep the best, go back where stage two asks for it."""
        run, progress = self.run, self.run.progress
        run.batch_shape = None
        result = run.evaluate(run.judged_model, on_batch=self._between_batches)
        progress.epoch, progress.batch = epoch + 1, 0  # what is saved from here on has this evaluation behind it
        for writer in self.writers:
            writer.write("val", progress.step, result.stats, epoch=epoch)
        ap = result.stats["AP"]
        verdict = judge(progress.best, ap if ap >= 0 else math.nan, epoch, run.plan)  # -1: nothing to find
        progress.best = verdict.state
        if (early := run.early_stop) is not None:
            value = result.stats[early.metric]
            progress.waiting = progress.waiting.after(value if value >= 0 else math.nan, early)
        logger.info(
            "epoch %d: AP %s, AP50 %s%s%s", epoch, shown(ap), shown(result.stats["AP50"]),
            " (best so far)" if verdict.is_best else f" (best {shown(progress.best.best or 0)})",
            self.time_left.after(progress.step),
        )  # fmt: skip
        if verdict.is_best:
            self._save_best(epoch)
        for callback in run.callbacks:
            self.ended |= call(callback.on_evaluation, run, epoch, result.stats)
        if verdict.reset:
            run.restart_from_stage_one()
        return result

    def _save_best(self, epoch: int) -> None:
        plan, folder = self.run.plan, self.run.folder
        stage_one = plan.restart_epoch is not None and not plan.in_stage_two(epoch)
        self.run.save(folder.best, *([folder.best_stage_one] if stage_one else []))

    def _evaluation_due(self, epoch: int) -> bool:
        settings, next_epoch = self.run.settings, epoch + 1
        ends_stage_one = self.run.plan.begins(next_epoch)
        return next_epoch % settings.eval_every == 0 or next_epoch == settings.epoches or ends_stage_one

    def _numbered(self, epoch: int) -> list[Path]:
        return [self.run.folder.numbered(epoch)] if (epoch + 1) % self.run.settings.checkpoint_freq == 0 else []

    def _missing(self, epoch: int) -> list[Path]:
        """Checkpoints of the last epoch, where a run was killed when it had saved the best one and not yet those."""
        paths = [*self._numbered(epoch), self.run.folder.last]
        return [path for path in paths if epoch >= 0 and not path.exists()]


def _close(writers: list[Writer], kind: type[BaseException] | None, *_: object) -> None:
    """At the end of a run, or with an error of this kind."""
    for writer in writers:
        writer.close(failed=kind is not None)


def _distribute(run: Training) -> nn.Module:
    """What is trained as the loop calls it: wrapped where several ranks share the gradients."""
    if dist.world_size() == 1:
        return run.trained
    ids = [run.device.index] if run.device.type == "cuda" else None
    return DistributedDataParallel(
        run.trained, device_ids=ids, find_unused_parameters=run.settings.find_unused_parameters
    )


def make_folder(run: Training) -> None:
    """Make the folder on the main rank; all ranks hear of a problem."""
    _by_main(partial(_make_folder, run))


def _make_folder(run: Training) -> None:
    run.claim_folder()
    run.folder.clear_unfinished()
    run.folder.check_space(run.checkpoint_bytes)
    run.folder.create(run.config_text)
    if run.tuned is not None:
        text = json.dumps(run.tuned.to_dict(), indent=1, ensure_ascii=False)
        run.folder.write(run.folder.load_report, text)
    run.bring_best()


def _by_main(work: Callable[[], T]) -> T | None:
    """What the main rank's work returns, there; an error of the user is raised on all ranks."""
    result: T | None = None
    problem: ConfigError | CheckpointError | None = None
    with dist.busy("starting"):
        if dist.is_main():
            try:
                result = work()
            except (ConfigError, CheckpointError) as error:
                problem = error
        problem = dist.broadcast_object(problem)
    if problem is not None:
        raise problem
    return result


def _best_result(run: Training, last: EvalResult | None) -> EvalResult:
    """Put the best weights into the judged model and return their metrics."""
    best = run.progress.best
    if best.best is None:
        logger.warning("no evaluation gave an AP (no ground truth in the validation data?): the last weights are kept")
    elif last is None or best.best_epoch != run.progress.epoch - 1:
        load_weights(run.judged_model, run.folder.best)
        last = None
    return last or run.evaluate(run.judged_model)
