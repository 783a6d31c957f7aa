# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: files of the run, and a progress bar. Services are in ``trackers.py``; ``writers`` lists both."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..core import dist
from ..core.config import Config
from ..core.environment import PACKAGE, in_notebook
from ..core.errors import CheckpointError, ConfigError, last_line
from ..core.extras import need
from ..core.files import whole_file
from ..core.registry import register
from .folder import RunFolder
from .progress import Progress

if TYPE_CHECKING:
    from .training import Training

logger = logging.getLogger(__name__)


class Writer:
    """A sink for scalars, listed under ``writers``. A subclass has at least :meth:`write`.

    It is built on every rank and opened, written to and closed on rank 0. A failure in :meth:`open` ends the run before
    it trains; a later one is named in a warning, and the run goes on without this writer.
    """

    slot: ClassVar[str] = "writers"
    view = ""
    """Command or address that shows what was written; empty where there is none. Known once it is open."""

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Begin to write, or go on.

        Args:
            folder: of the run.
            progress: where the run stands; ``step`` is above 0 where it is resumed. What a killed process had written
                beyond that comes again.
            config: the resolved config as plain data, for writers that keep hyper-parameters.
        """

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Record ``values`` of one ``kind`` (train, diagnostics or val) after a number of batches."""
        raise NotImplementedError(
            f"{type(self).__name__} must record its values in write(kind, step, values, *, epoch)"
        )

    def close(self, *, failed: bool = False) -> None:
        """Flush and release what is open.

        Args:
            failed: the run ends by an error or a signal.
        """


@register
class JsonLines(Writer):
    """One JSON object a line in ``metrics.jsonl``: kind, step, epoch and values. A resumed run goes on with it."""

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Drop the lines of what the run will do again, left by a killed process, and half a line."""
        path = folder.metrics
        with _failures_named(path):
            if path.is_file():
                known = path.read_text(encoding="utf-8", errors="replace").splitlines()
                lines = [line for line in known if _is_behind(_parsed(line), progress)]
                with whole_file(path) as partial:
                    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Append one line and flush it, so that a killed run keeps what it reported."""
        with _failures_named(self._file.name):
            self._file.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **values}) + "\n")
            self._file.flush()

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # write flushed every line, or has already said why it could not
            self._file.close()


@register
class Csv(Writer):
    """One table for each kind, ``metrics_train.csv``, ``metrics_val.csv``, ...: epoch, step, a column for each value.

    A value that comes up later gets a column, empty above. A resumed run goes on with the files.
    """

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Drop the rows of what the run will do again, and half a row."""
        self._folder, self._columns = folder.path, dict[str, list[str]]()
        for path in sorted(self._folder.glob("metrics_*.csv")):
            kind = path.stem.removeprefix("metrics_")
            self._rewrite(kind, (), progress)

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Append one row."""
        row = {"epoch": epoch, "step": step, **values}
        if not row.keys() <= set(self._columns.get(kind, ())):
            self._rewrite(kind, row)
        with _failures_named(self._path(kind)), self._path(kind).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns[kind]).writerow(row)

    def _path(self, kind: str) -> Path:
        return self._folder / f"metrics_{kind}.csv"

    def _rewrite(self, kind: str, columns: Iterable[str], progress: Progress | None = None) -> None:
        """The table with further columns, and without the rows of what a run that stands there will do again."""
        path = self._path(kind)
        with _failures_named(path):
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            table = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # a kill cut the rest short
            self._columns[kind] = list(dict.fromkeys([*(table.fieldnames or ()), *columns]))
            with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                rewritten = csv.DictWriter(file, self._columns[kind])
                rewritten.writeheader()
                rewritten.writerows(
                    row for row in table if progress is None or _is_behind({"kind": kind, **row}, progress)
                )


@contextlib.contextmanager
def _failures_named(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror}): the checkpoints are untouched; "
            "free space, then continue with -r from the last one"
        ) from error


def _parsed(line: str) -> Mapping[str, Any]:
    """A line of JSON; empty where a kill cut it short."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def _is_behind(record: Mapping[str, Any], progress: Progress) -> bool:
    """Whether a record tells of something that the run will not do again."""
    try:
        # Between the last step of an epoch and its evaluation a run can be saved, too.
        evaluated = record["kind"] != "val" or int(record["epoch"]) < progress.epoch
        return evaluated and float(record["step"]) <= progress.step
    except (KeyError, TypeError, ValueError):
        return False


@register
class TensorBoard(Writer):
    """Scalars under ``<kind>/<name>`` for ``tensorboard --logdir``; hides steps after those of a killed process.

    Events are written here, at once: torch's writer leaves them to a thread, whose failures end in a traceback of its
    own and hide what is said of a full disk.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        self._events = need("tensorboard.compat.proto.event_pb2", "log")
        self._summary = need("tensorboard.compat.proto.summary_pb2", "log").Summary
        self._writer = need("tensorboard.summary.writer.record_writer", "log").RecordWriter

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Begin an event file."""
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder.tensorboard / name
        self.view = shlex.join(["tensorboard", "--logdir", str(folder.tensorboard)])
        with _failures_named(self._path):
            folder.tensorboard.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        self._records = self._writer(self._file)
        self._add([self._events.Event(file_version="brain.Event:2")])
        if progress.step:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._add([self._events.Event(step=progress.step + 1, session_log=start)])

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Add every value as one scalar."""
        scalars = [self._summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
        self._add([self._events.Event(step=step, summary=self._summary(value=[scalar])) for scalar in scalars])

    def _add(self, events: list[Any]) -> None:
        with _failures_named(self._path):
            for event in events:
                event.wall_time = time.time()
                self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self, *, failed: bool = False) -> None:
        """Close the event file."""
        with contextlib.suppress(OSError):  # as above
            self._file.close()


def writers_of(config: Config) -> list[Writer]:
    """What ``writers`` lists, or JSON lines and TensorBoard; ``tensorboard: False`` leaves the latter out of any list.

    Raises:
        ConfigError: one that cannot be built; with the place in the config.
    """
    if config.get("writers") is not None:
        writers: list[Writer] = config.build("writers")
    else:
        writers = [JsonLines()]
        try:
            writers.append(TensorBoard())
        except ConfigError as error:  # the default must not stop an installation without it
            if config.settings.tensorboard and dist.is_main():
                logger.warning("no curves for TensorBoard: %s; tensorboard: False says that none are wanted", error)
    return [writer for writer in writers if config.settings.tensorboard or not isinstance(writer, TensorBoard)]


def open_writers(writers: Iterable[Writer], run: Training) -> list[Writer]:
    """Open them, for rank 0.

    Returns:
        The same, kept apart: where one fails later, it is named in a warning and left out.

    Raises:
        ConfigError: one cannot begin; the others are closed again.
        CheckpointError: a file of the run cannot be written.
    """
    opened: list[Writer] = []
    for writer in writers:
        try:
            writer.open(run.folder, run.progress, run.saved_config.data)
        except Exception as error:
            for other in opened:
                other.close(failed=True)
            if isinstance(error, CheckpointError):
                raise
            name, reason = type(writer).__name__, last_line(error, __file__)
            raise ConfigError(
                f"writers: {name} cannot begin: {reason}; repair that, or take {name} out of writers"
            ) from error
        opened.append(_KeptApart(writer, run.check_folder))
    return opened


class _KeptApart(Writer):
    """A writer whose first failure is named, and which is left out from then on. A full disk still ends the run: its
    checkpoints would be next."""

    def __init__(self, writer: Writer, check_folder: Callable[[int], None]) -> None:
        self._writer, self._check_folder, self._works = writer, check_folder, True

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        self._check_folder(step)
        self._attempt(functools.partial(self._writer.write, kind, step, values, epoch=epoch))

    def close(self, *, failed: bool = False) -> None:
        self._attempt(functools.partial(self._writer.close, failed=failed))

    def _attempt(self, work: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            with dist.busy("writing metrics"):  # a service may be slow
                work()
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001  # of a library or of the user, and no reason to end a run
            self._works = False
            name, reason = type(self._writer).__name__, last_line(error, __file__)
            logger.warning("the writer %s fails and is left out from here on: %s", name, reason)


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
