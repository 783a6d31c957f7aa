# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Who works in a folder of an ablation: locks that end with their last holder, also where it is killed."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from .matrix import Run

BUSY = "another process is training it at this moment: left to that one"
_PATIENCE_SECONDS = 1.0
"""A report looks for an instant whether a run is locked; who wants to train it waits that instant out."""


def lock_of(run: Run) -> IO[str] | None:
    """The lock of a run, beside its folder; None where another process has it.

    Returns:
        An open file: closing it (and its copies in child processes) gives the lock back. The file itself stays.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _path_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(0.02)
        else:
            return file


def is_locked(run: Run) -> bool:
    """Whether a process trains the run at this moment; nothing is written."""
    path = _path_of(run)
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def report_lock(folder: Path) -> IO[str]:
    """The lock of an ablation's report: two commands on one folder write it one after the other.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".report.lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _path_of(run: Run) -> Path:
    return run.folder.path.with_name(f".{run.folder.path.name}.lock")
