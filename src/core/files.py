# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Files: written whole or not at all, read only where they have an end, and locked between processes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


def partial_name(path: Path) -> Path:
    """What a file is called while it is written; a killed process leaves it behind."""
    return path.with_name(path.name + ".tmp")


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside a file; what is written there becomes the file when the block ends well.

    Where it does not (an error, Ctrl-C), the temporary file is removed and an earlier file of the name is untouched.

    Args:
        path: the final name; its folder is made where it is missing.
        durable: wait until the content has reached the disk, so that it survives a power cut; thousands of small files
            that can be made again do without.

    Raises:
        OSError: the folder or the file cannot be written. Callers say what that means for their user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        if durable:
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def why(error: BaseException) -> str:
    """The operating system's words, wherever they stand in a chain of errors.

    torch's zip writer turns a failed write into a RuntimeError of its own, with the OSError behind it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error).split("\n")[0]


MAX_BYTES = 1 << 30
"""Of a file that is read whole: no annotation of one image, list of images or picture comes near."""
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> None:
    """See that a file can be read to its end; links are followed.

    Args:
        path: the file.
        max_bytes: of its content, where it will be held in memory.

    Raises:
        OSError: missing, a pipe, a socket, a device, a folder, or too large; ``strerror`` says which.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for holds, name in _KINDS if holds(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    if max_bytes is not None and status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than the {max_bytes:,} that are read", str(path))


def file_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: see ``check_regular``.
    """
    check_regular(path, max_bytes=max_bytes)
    return path.read_bytes()


_POLL_SECONDS = 0.02


def take_lock(path: Path, *, patience_s: float = 0.0) -> IO[str] | None:
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
