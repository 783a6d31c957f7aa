# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Open files of a user that may be anything: a pipe would be waited for, and /dev/zero never ends."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

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
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for holds, name in _KINDS if holds(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    if max_bytes is not None and found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, more than the {max_bytes:,} that are read", str(path))


def file_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: see ``check_regular``.
    """
    check_regular(path, max_bytes=max_bytes)
    return path.read_bytes()
