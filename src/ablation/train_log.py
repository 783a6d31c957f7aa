# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a training printed: one log per run, every attempt after the one before."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

NAME = "train.log"
"""What a run prints, in its folder; a resumed run goes on with it."""
_COMMAND, _END = "$ ", "# "
_TAIL = 12


def begin(file: BinaryIO, command: Sequence[str]) -> int:
    """Write an attempt's command; returns the number of bytes before its output."""
    file.write(f"{_COMMAND}{shlex.join(command)}\n".encode())
    file.flush()
    return file.tell()


def end(log: Path, how: str) -> None:
    """Write how an attempt ended that did not reach its end, so that a later report can say it."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{_END}{how}\n")


def tail(log: Path, start: int) -> str:
    """The last lines after a number of bytes, indented."""
    text = log.read_bytes()[start:].decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-_TAIL:])


def failure(log: Path) -> str | None:
    """Why the last attempt failed, in one line; None where it did not, or was stopped in good order."""
    if not log.is_file():
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begun = max((at for at, line in enumerate(lines) if line.startswith(_COMMAND)), default=-1)
    said = [line for line in lines[begun + 1 :] if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    if said and said[-1].startswith(_END):
        how = said[-1].removeprefix(_END)
        reason = errors[-1:] or said[-2:-1]
        return f"{how}: {reason[0].strip()}" if reason else how
    return errors[-1] if errors else None
