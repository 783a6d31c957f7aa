# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train the runs of a matrix as processes, a few at a time; stop them in good order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..core.errors import ConfigError
from ..solver.callbacks import StopSignal
from . import train_log
from .matrix import BUSY, Trial
from .run_status import run_status

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2

ConfigOf = Callable[[Trial], Mapping[str, Any]]
"""Plain data of the config a run has."""


@dataclass(frozen=True)
class Failure:
    """A run that did not reach its final evaluation."""

    run: Trial
    reason: str
    """With the end of its log, where it has one."""


@dataclass
class _Job:
    """A run in progress. The lock is inherited by the training, so it holds even where this process is killed."""

    run: Trial
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Bytes of the log before this attempt."""
    lock: IO[str]
    started: float = field(default_factory=time.perf_counter)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the trainings have saved and ended."""


class Runner:
    """Starts ``isdfine train`` for every run.

    Args:
        launcher: command in front of a run's arguments, ``[python, isdfine train]``.
        config_of: config of a run, to see whether it has reached its end.
        jobs: trainings at a time, 1 or more.
        on_end: called after trainings have ended, well or not, while others may go on.
    """

    def __init__(
        self,
        launcher: Sequence[str],
        config_of: ConfigOf,
        jobs: int = 1,
        *,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}: give 1 or more")
        self.launcher, self.config_of, self.jobs = list(launcher), config_of, jobs
        self.on_end = on_end
        self.environment = environment(os.environ, jobs)
        self.failures: list[Failure] = []
        self._active: list[_Job] = []

    def command(self, run: Trial, resume: Path | None = None) -> list[str]:
        """The whole command line of a run."""
        return [*self.launcher, *run.arguments(resume)]

    def train(self, runs: Sequence[Trial]) -> list[Failure]:
        """Train all runs, in order; a failing one is logged and the others go on.

        Args:
            runs: those that are not done; where each stands is read when its turn comes.

        Returns:
            The runs that failed.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, when every training has saved its state and ended. A second Ctrl-C
                kills them.
        """
        waiting = list(runs)
        with StopSignal() as stop:
            try:
                while waiting or self._active:
                    while waiting and len(self._active) < self.jobs and not stop.wanted_by_any():
                        self._start(waiting.pop(0), left=len(waiting))
                    if stop.wanted_by_any():
                        self._stop()
                        raise Interrupted
                    time.sleep(_POLL_SECONDS)
                    if self._reap() and self.on_end is not None:
                        self.on_end()
            finally:
                for job in self._active:  # only where something unforeseen or a second Ctrl-C ends this process
                    job.process.kill()
        return self.failures

    def _start(self, run: Trial, *, left: int) -> None:
        """Start a run, unless another process has it, or had it since the runs were listed."""
        lock, launched = None, False
        try:
            lock = run.lock()
            if lock is None:
                self._fail(run, BUSY)
            else:
                launched = self._launched(run, lock, left)
        except OSError as error:
            self._fail(run, f"{run.folder.path} cannot be written ({error.strerror}): free space, then start again")
        except ConfigError as error:
            self._fail(run, str(error))
        finally:
            if lock is not None and not launched:
                lock.close()

    def _launched(self, run: Trial, lock: IO[str], left: int) -> bool:
        """Whether the run's training was started: not where there is nothing to do, or another config's run."""
        status = run_status(run.folder, self.config_of(run))
        if status.differences and status.state != "absent":
            self._fail(run, f"{run.folder.path} was made from another config meanwhile: {status.complaint}")
            return False
        if status.state == "done":
            logger.info("%s: was done by another process meanwhile", run.label)
            return False
        run.folder.path.mkdir(parents=True, exist_ok=True)
        log = run.folder.path / train_log.NAME
        command = self.command(run, status.resume)
        with log.open("ab") as file:
            start = train_log.begin(file, command)
            # In a session of its own: Ctrl-C of the terminal reaches this process only, which passes it on once.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=self.environment, start_new_session=True, pass_fds=(lock.fileno(),),
            )  # fmt: skip
        self._active.append(_Job(run, process, log, start, lock))
        logger.info("%s: %s, %d waiting", run.label, "continues" if status.resume else "starts", left)
        return True

    def _reap(self) -> bool:
        """See which trainings have ended, and how; whether there are any."""
        ended = [job for job in self._active if job.process.poll() is not None]
        for job in ended:
            self._active.remove(job)
            try:
                self._judge(job)
            except (OSError, ConfigError) as error:  # of this run's files: the others go on
                self._fail(job.run, str(error))
            finally:
                job.lock.close()
        return bool(ended)

    def _judge(self, job: _Job) -> None:
        """Say how a training ended."""
        code, minutes = job.process.returncode, (time.perf_counter() - job.started) / 60
        if run_status(job.run.folder, self.config_of(job.run)).state == "done":
            logger.info("%s: done in %.1f min", job.run.label, minutes)
            if code != 0:
                logger.warning(
                    "%s: its training is complete, but it ended with code %d: %s", job.run.label, code, job.log
                )
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        how = f"{how} after {minutes:.1f} min, before its final evaluation"
        self._fail(job.run, f"{how}; end of {job.log}:\n{train_log.tail(job.log, job.log_start)}")
        train_log.end(job.log, how)

    def _fail(self, run: Trial, reason: str) -> None:
        self.failures.append(Failure(run, reason))
        logger.error("%s: %s", run.label, reason)

    def _stop(self) -> None:
        """Ask every training to save and end, and wait for that."""
        logger.warning("stopping: %d training(s) save their state and end; Ctrl-C again kills them", len(self._active))
        for job in self._active:
            job.process.terminate()
        for job in self._active:
            job.process.wait()
            job.lock.close()
        self._active = []


def environment(given: Mapping[str, str], jobs: int) -> dict[str, str]:
    """Environment of a training: cores are shared out, and waiting threads sleep; what is set already stays."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **given}
