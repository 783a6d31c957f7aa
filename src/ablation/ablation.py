# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""An ablation from its matrix to its report: check everything first, train what is not done, write what is there."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..core.environment import PACKAGE
from ..core.errors import CheckpointError, ConfigError, DataError
from ..solver.training import Training
from .matrix import BUSY, Trial
from .results import Configs
from .run_status import RunStatus, run_status
from .runner import Runner

logger = logging.getLogger(__name__)

Pending = list[tuple[Trial, RunStatus]]
"""Runs that are to be trained, with what is there of them."""


def pending(runs: Sequence[Trial], configs: Configs, *, redo: bool = False) -> Pending:
    """The runs that are not done; nothing on disk is changed.

    Args:
        runs: those asked for.
        configs: what each would run now.
        redo: train runs of another config anew instead of refusing them.

    Raises:
        ConfigError: all runs that were made from another config, one per line (without ``redo``).
    """
    left: Pending = []
    changed = []
    for run in runs:
        status = run_status(run.folder, configs.plain(run))
        if status.differences and status.state != "absent":
            changed.append(f"{run.label}: {run.folder.path} was made from another config: {status.complaint}")
            left.append((run, RunStatus("changed", status.differences)))
        elif status.state != "done":
            left.append((run, status))
    if changed and not redo:
        raise ConfigError(
            "\n".join(changed)
            + "\nnothing was started: run these anew with --redo (their folders are kept under another "
            "name), choose another output_dir, or undo the change"
        )
    return left


def put_aside(left: Pending) -> None:
    """Rename the folders of runs that are trained anew because their config changed; nothing is deleted.

    Raises:
        ConfigError: another process trains one of them at this moment; none is renamed then.
    """
    changed = [run for run, status in left if status.state == "changed"]
    busy = [run.label for run in changed if run.is_locked()]
    if busy:
        raise ConfigError(f"{', '.join(busy)}: {BUSY}; nothing was renamed or started: --redo when it has ended")
    for run in changed:
        path = run.folder.path
        number = next(index for index in range(1, 10**6) if not path.with_name(f"{path.name}.old{index}").exists())
        aside = path.with_name(f"{path.name}.old{number}")
        lock = run.lock()
        if lock is None:
            raise ConfigError(f"{run.label}: {BUSY}")
        with lock:
            path.rename(aside)
        logger.warning("%s: trained anew; what was there is now %s", run.label, aside)


def check_buildable(left: Pending, configs: Configs) -> None:
    """Build every variant once, with its data, so that a mistake in the last one is found before the first trains.

    Raises:
        ConfigError: all variants that cannot be built.
    """
    problems: list[str] = []
    first: dict[tuple[str, str], Trial] = {}
    for run, _ in left:
        first.setdefault((run.data, run.variant), run)
    with _each_warning_once():
        for run in first.values():
            logger.info("%s: is built once to see that it can be", _cell(run))
            nowhere = run.folder.path.with_name(f"{run.folder.path.name}.check")
            try:
                config = configs[run].with_values({"output_dir": str(nowhere)})
                config.require("model", "postprocessor", "evaluator", "val_dataloader", "criterion", "optimizer",
                               "train_dataloader")  # fmt: skip
                Training(config)
            except (ConfigError, DataError, CheckpointError) as error:
                problems.append(f"{_cell(run)}: {error}")
    gc.collect()
    torch.cuda.empty_cache()  # the trainings need it; does nothing where no GPU was used
    if problems:
        raise ConfigError("\n".join(problems))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """What building says for every variant alike is not worth a line for each: warnings once, the rest not at all."""
    said: set[str] = set()

    def worth_a_line(record: logging.LogRecord) -> bool:
        if record.name == logger.name:
            return True
        text = record.getMessage()
        fresh = record.levelno >= logging.WARNING and text not in said
        said.add(text)
        return fresh

    handlers = logging.getLogger(PACKAGE).handlers
    for handler in handlers:
        handler.addFilter(worth_a_line)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(worth_a_line)


def _cell(run: Trial) -> str:
    return run.label.rsplit("/", 1)[0]


def commands(left: Pending, runner: Runner) -> list[list[str]]:
    """The command of every run that would be trained."""
    return [runner.command(run, status.resume) for run, status in left]
