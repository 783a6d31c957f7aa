# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a file whole or not at all: what every part of the package writes with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
