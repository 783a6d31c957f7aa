# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: JSON lines, TensorBoard, a log line and a progress bar."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from ..core.atomic import whole_file
from ..core.errors import CheckpointError

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """A sink for scalars."""

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        """Record ``values`` of one ``kind`` (train, diagnostics or val) at an optimiser step."""
        ...

    def close(self) -> None:
        """Flush and release the file."""
        ...


class JsonLines:
    """One JSON object a line in ``metrics.jsonl``: kind, step, place and values.

    Args:
        path: the file; a resumed run goes on with it.
        done: steps the run has behind it; lines of later ones, left by a killed process, are dropped.
    """

    def __init__(self, path: Path, done: int = 0) -> None:
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= done]
            with whole_file(path) as partial:
                partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        """Append one line and flush it, so that a killed run keeps what it reported."""
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **place, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self._file.name} could not be written ({error.strerror}): the checkpoints are untouched; "
                "free space, then continue with -r from the last one"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # write flushed every line, or has already said why it could not
            self._file.close()


def _step_of(line: str) -> float:
    """Step of a line; infinite where a kill cut the line short."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


class TensorBoard:
    """Scalars under ``<kind>/<name>`` for ``tensorboard --logdir``; hides steps after ``done`` of a killed process."""

    def __init__(self, folder: Path, done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the main rank needs it

        self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        """Add every value as one scalar."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class ProgressBar:
    """Batches of the current epoch on a terminal; silent where standard error is no terminal."""

    def __init__(self, total: int, start: int, label: str, *, enabled: bool = True) -> None:
        silent = not enabled or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=label, unit="batch", leave=False, disable=silent)

    def advance(self) -> None:
        """One batch done."""
        self._bar.update(1)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
