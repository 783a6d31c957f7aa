# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: JSON lines, TensorBoard, a log line and a progress bar."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..core.environment import PACKAGE, in_notebook
from ..core.errors import CheckpointError
from ..core.extras import need
from ..core.files import whole_file
from .progress import Progress


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
        progress: where the run stands; None at its start. Lines of what it will do again, left by a killed process, are
            dropped, and so is half a line.
        check: called with the step before a line is written; may raise.
    """

    def __init__(
        self, path: Path, progress: Progress | None = None, *, check: Callable[[int], None] = lambda step: None
    ) -> None:
        self._check = check
        with _failures_named(path):
            if path.is_file():
                known = path.read_text(encoding="utf-8", errors="replace").splitlines()
                lines = [line for line in known if _is_behind(line, progress or Progress())]
                with whole_file(path) as partial:
                    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        """Append one line and flush it, so that a killed run keeps what it reported."""
        self._check(step)
        with _failures_named(self._file.name):
            self._file.write(json.dumps({"kind": kind, "step": step, **place, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # write flushed every line, or has already said why it could not
            self._file.close()


@contextlib.contextmanager
def _failures_named(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror}): the checkpoints are untouched; "
            "free space, then continue with -r from the last one"
        ) from error


def _is_behind(line: str, progress: Progress) -> bool:
    """Whether a line tells of something that the run will not do again."""
    try:
        record = json.loads(line)
        # Between the last step of an epoch and its evaluation a run can be saved, too.
        evaluated = record["kind"] != "val" or int(record["epoch"]) < progress.epoch
        return evaluated and float(record["step"]) <= progress.step
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return False  # a kill cut it short


class TensorBoard:
    """Scalars under ``<kind>/<name>`` for ``tensorboard --logdir``; hides steps after ``done`` of a killed process.

    Events are written here, at once: torch's writer leaves them to a thread, whose failures end in a traceback of its
    own and hide what is said of a full disk.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        need("tensorboard", "log")
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # only the main rank needs it
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._path = folder / f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        with _failures_named(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._add([Event(file_version="brain.Event:2")])
        if done:
            self._add([Event(step=done + 1, session_log=SessionLog(status=SessionLog.START))])

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        """Add every value as one scalar."""
        scalars = [self._summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
        self._add([self._event(step=step, summary=self._summary(value=[scalar])) for scalar in scalars])

    def _add(self, events: list[Any]) -> None:
        with _failures_named(self._path):
            for event in events:
                event.wall_time = time.time()
                self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        """Close the event file."""
        with contextlib.suppress(OSError):  # as above
            self._file.close()


class ProgressBar:
    """Batches of the current epoch on a terminal or in a notebook, below the log; silent elsewhere."""

    def __init__(self, total: int, start: int, label: str, *, enabled: bool = True) -> None:
        notebook = in_notebook()
        silent = not enabled or not (notebook or sys.stderr.isatty())
        self._bar = tqdm(
            total=total, initial=start, desc=label, unit="batch", leave=False, disable=silent,
            file=sys.stdout if notebook else None, mininterval=0.5 if notebook else 0.1,
        )  # fmt: skip
        self._log = contextlib.ExitStack()
        if not silent:
            self._log.enter_context(logging_redirect_tqdm([logging.getLogger(PACKAGE)]))

    def advance(self, loss: float | None = None) -> None:
        """One batch done; the loss is that of the last line of the log."""
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update(1)

    def close(self) -> None:
        """Remove the bar."""
        self._log.close()
        self._bar.close()
