# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train the runs of a matrix as processes, a few at a time; stop them in good order."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..solver.callbacks import StopSignal
from .matrix import LOG, Run
from .standing import Standing, standing

logger = logging.getLogger(__name__)

_TAIL = 12
_POLL_SECONDS = 0.2

ConfigOf = Callable[[Run], Mapping[str, Any]]
"""Plain data of the config a run has."""


@dataclass(frozen=True)
class Failure:
    """A run that did not reach its final evaluation."""

    run: Run
    reason: str
    """With the end of its log."""


@dataclass
class _Job:
    """A run in progress. The lock is inherited by the training, so it holds even where this process is killed."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Bytes of the log before this attempt."""
    lock: IO[str]
    started: float = field(default_factory=time.perf_counter)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the trainings have saved and ended."""


class Runner:
    """Starts ``tools/train.py`` for every run.

    Args:
        launcher: command in front of a run's arguments, ``[python, tools/train.py]``.
        config_of: config of a run, to see whether it has reached its end.
        jobs: trainings at a time, 1 or more.
    """

    def __init__(self, launcher: Sequence[str], config_of: ConfigOf, jobs: int = 1) -> None:
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}: give 1 or more")
        self.launcher, self.config_of, self.jobs = list(launcher), config_of, jobs
        self.environment = environment(os.environ, jobs)
        self.failures: list[Failure] = []
        self._active: list[_Job] = []

    def command(self, run: Run, resume: Path | None = None) -> list[str]:
        """The whole command line of a run."""
        return [*self.launcher, *run.arguments(resume)]

    def train(self, runs: Sequence[tuple[Run, Standing]]) -> list[Failure]:
        """Train all runs, in order; a failing one is logged and the others go on.

        Args:
            runs: those that are not done, with their standing.

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
                        self._start(*waiting.pop(0), left=len(waiting))
                    if stop.wanted_by_any():
                        self._stop()
                        raise Interrupted
                    time.sleep(_POLL_SECONDS)
                    self._reap()
            finally:
                for job in self._active:  # only where something unforeseen or a second Ctrl-C ends this process
                    job.process.kill()
        return self.failures

    def _start(self, run: Run, found: Standing, *, left: int) -> None:
        run.folder.path.mkdir(parents=True, exist_ok=True)
        lock = _locked(run.folder.path.parent / f".{run.folder.path.name}.lock")
        if lock is None:
            self._fail(run, "another process is training it at this moment: left to that one")
            return
        log = run.folder.path / LOG
        command = self.command(run, found.resume)
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            start = file.tell()
            # In a session of its own: Ctrl-C of the terminal reaches this process only, which passes it on once.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=self.environment, start_new_session=True, pass_fds=(lock.fileno(),),
            )  # fmt: skip
        self._active.append(_Job(run, process, log, start, lock))
        logger.info("%s: %s, %d waiting", run.label, "continues" if found.resume else "starts", left)

    def _reap(self) -> None:
        """See which trainings have ended, and how."""
        for job in [one for one in self._active if one.process.poll() is not None]:
            self._active.remove(job)
            job.lock.close()
            code, minutes = job.process.returncode, (time.perf_counter() - job.started) / 60
            if standing(job.run.folder, self.config_of(job.run)).state == "done":
                logger.info("%s: done in %.1f min", job.run.label, minutes)
                if code != 0:
                    logger.warning(
                        "%s: its training is complete, but it ended with code %d: %s", job.run.label, code, job.log
                    )
                continue
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            text = job.log.read_bytes()[job.log_start :].decode(errors="replace")
            tail = "\n".join(f"    {line}" for line in text.splitlines()[-_TAIL:])
            self._fail(
                job.run, f"{how} after {minutes:.1f} min, before its final evaluation; end of {job.log}:\n{tail}"
            )

    def _fail(self, run: Run, reason: str) -> None:
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


def _locked(path: Path) -> IO[str] | None:
    """A lock on a run, None where another process has it; the file stays, the lock ends with its last holder."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
