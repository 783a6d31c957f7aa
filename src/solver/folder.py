# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: what lies where, and who may write into it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..core import dist
from ..core.checkpoint import BEST, BEST_STAGE_ONE, LAST, checkpoints_in
from ..core.errors import CheckpointError, ConfigError
from ..core.files import is_locked, partial_name, take_lock, whole_file


class _Inside:
    """Path of something inside a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: RunFolder, _: object = None) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``output_dir``."""

    path: Path

    config = _Inside("config.yml")
    """The resolved config: can be trained from as it is."""
    last = _Inside(LAST)
    """The newest checkpoint, to resume from."""
    best = _Inside(BEST)
    """The checkpoint with the best AP of the run."""
    best_stage_one = _Inside(BEST_STAGE_ONE)
    """The best checkpoint before strong augmentation stopped: stage two starts from it."""
    metrics = _Inside("metrics.jsonl")
    """Every reported number, one JSON object a line."""
    load_report = _Inside("load_report.json")
    """What became of every tensor of the checkpoint that the run started from (``-t``)."""
    tensorboard = _Inside("tensorboard")
    """Event files for ``tensorboard --logdir``."""
    pictures = _Inside("pictures")
    """Detections beside the ground truth."""
    lock = _Inside(".lock")
    """Locked by the process (rank 0) that writes into the folder; its text says which one that is."""

    def numbered(self, epoch: int) -> Path:
        """The checkpoint that is kept of an epoch (0-based)."""
        return self.path / f"checkpoint{epoch:04}.pth"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that lie here."""
        return checkpoints_in(self.path)

    def check_space(self, checkpoint_bytes: int) -> None:
        """Raise :class:`ConfigError` where last, best, best of stage one and one in writing do not fit."""
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        free, needed = shutil.disk_usage(there).free, 4 * checkpoint_bytes
        free += sum(path.stat().st_size for path in self.checkpoints()[:3])  # these are written over
        if free < needed:
            raise ConfigError(
                f"output_dir {self.path} has {free / 2**20:.0f} MiB free, the checkpoints of this run need about "
                f"{needed / 2**20:.0f} MiB: free space or choose another folder with -u output_dir=..."
            )

    def check_free(self) -> None:
        """Raise :class:`ConfigError` where the folder holds another run: nothing already saved is overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output_dir {self.path} is a file: choose a folder with -u output_dir=...")
        self.check_idle()
        taken = [path.name for path in self.checkpoints()]
        if taken:
            raise ConfigError(
                f"output_dir {self.path} holds another run ({', '.join(taken)}): continue it with "
                f"-r {shlex.quote(str(self.path))}, or choose another folder with -u output_dir=..."
            )

    def check_idle(self) -> None:
        """Raise :class:`ConfigError` where another process writes into the folder at this moment."""
        # the main rank looks first and locks later; the others might look when it has
        if dist.is_main() and self.path.absolute() not in _HELD and is_locked(self.lock):
            raise self.in_use()

    def in_use(self) -> ConfigError:
        """What to say where another process has the folder's lock."""
        holder = self.lock.read_text(encoding="utf-8", errors="replace") or "another process"
        return ConfigError(
            f"output_dir {self.path} is in use by {holder}: wait until that run has ended, or stop it, or choose "
            "another folder with -u output_dir=..."
        )

    def clear_unfinished(self) -> None:
        """Remove what a killed process was in the middle of writing; for the holder of the lock."""
        kept = (self.last, self.best, self.best_stage_one, self.config, self.metrics, self.load_report)
        for path in [*(partial_name(path) for path in kept), *self.path.glob("checkpoint*.pth.tmp")]:
            path.unlink(missing_ok=True)

    def create(self, config_text: str) -> None:
        """Make the folder and write the resolved config."""
        self.write(self.config, config_text)

    def write(self, path: Path, text: str) -> None:
        """Write a file of the folder, whole or not at all; the folder is made where it is missing.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            with whole_file(path) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> ConfigError:
        """What to say where the system refuses to write here."""
        return ConfigError(f"output_dir {self.path} cannot be written: {error.strerror}")


class FolderLock:
    """The right of one process to write into a run's folder: held until :meth:`release` or the end of the process.

    A later lock of the same folder in the same process takes the place of the earlier one. Where the file system has no
    locks, there is a warning.

    Raises:
        ConfigError: another process has it, or the folder cannot be written.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        key = folder.path.absolute()
        if (earlier := _HELD.get(key)) is not None:
            earlier.release()
        try:
            held = take_lock(folder.lock)
            if held is None:
                raise folder.in_use()
            # an open folder keeps its inode number, by which it is known again
            self._here = os.open(folder.path, os.O_RDONLY) if os.name == "posix" else None
            self.release: weakref.finalize[..., FolderLock] = weakref.finalize(self, _close, held, self._here)
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            held.flush()
        except OSError as error:
            raise folder.unwritable(error) from error
        _HELD[key] = self

    def check(self, step: int) -> None:
        """Raise :class:`CheckpointError` where the folder is no longer the one that was locked."""
        if self._here is None or not self.release.alive:
            return
        try:
            there = os.path.samestat(os.stat(self._folder.path), os.fstat(self._here))
        except OSError:  # gone, or of a network file system that lost it
            there = False
        if not there:
            raise CheckpointError(
                f"output_dir {self._folder.path} was deleted or moved while the run wrote into it (noticed at step "
                f"{step}): unless it was moved, its checkpoints and metrics are lost and the run starts anew; if it "
                "was, continue with -r and the new place"
            )


_HELD: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()
"""Locks of this process."""


def _close(file: IO[str], handle: int | None) -> None:
    file.close()
    if handle is not None:
        os.close(handle)
