# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Locks between processes, held through an open file: the kernel gives them back with their last holder's end."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.02


def take(path: Path, *, patience_s: float = 0.0) -> IO[str] | None:
    """Lock a file, which is made where it is missing, with its folder; None where another holder has it.

    Args:
        patience_s: how long to wait for another holder.

    Returns:
        An open file: closing it (and its copies in child processes) gives the lock back. The file itself stays. A text
        of the holder's may stand in it.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    end = time.monotonic() + patience_s
    try:
        while not _locked(file):
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(_POLL_SECONDS)
    except BaseException:
        file.close()
        raise
    return file


def is_locked(path: Path) -> bool:
    """Whether a file has a holder at this moment; nothing is written. Without locks nobody has one."""
    if not path.is_file():
        return False
    with path.open() as file:
        return not _locked(file, shared=True)


if sys.platform == "win32":
    import msvcrt

    def _locked(file: IO[str], *, shared: bool = False) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        if shared:
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        return True

else:
    import fcntl

    def _locked(file: IO[str], *, shared: bool = False) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # not every network file system has them
            if not shared:
                logger.warning("%s cannot be locked (%s): nothing keeps a second run out", file.name, error.strerror)
        return True
