# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: what lies where, and who may write into it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.atomic import whole_file
from ..core.errors import CheckpointError, ConfigError
from ..zoo.dfine.huggingface_folder import is_huggingface


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``output_dir``."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config: can be trained from as it is."""
        return self.path / "config.yml"

    @property
    def last(self) -> Path:
        """The newest checkpoint, to resume from."""
        return self.path / "last.pth"

    @property
    def best(self) -> Path:
        """The checkpoint with the best AP of the run."""
        return self.path / "best.pth"

    @property
    def best_stage_one(self) -> Path:
        """The best checkpoint before strong augmentation stopped: stage two starts from it."""
        return self.path / "best_stg1.pth"

    @property
    def metrics(self) -> Path:
        """Every reported number, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def load_report(self) -> Path:
        """What became of every tensor of the checkpoint that the run started from (``-t``)."""
        return self.path / "load_report.json"

    @property
    def tensorboard(self) -> Path:
        """Event files for ``tensorboard --logdir``."""
        return self.path / "tensorboard"

    @property
    def pictures(self) -> Path:
        """Detections beside the ground truth."""
        return self.path / "pictures"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that lie here."""
        kept = (self.last, self.best, self.best_stage_one)
        return [*(one for one in kept if one.exists()), *sorted(self.path.glob("checkpoint*.pth"))]

    def check_space(self, checkpoint_bytes: int) -> None:
        """Raise :class:`ConfigError` where last, best, best of stage one and one in writing do not fit."""
        there = next(one for one in (self.path, *self.path.absolute().parents) if one.exists())
        free, needed = shutil.disk_usage(there).free, 4 * checkpoint_bytes
        free += sum(one.stat().st_size for one in self.checkpoints()[:3])  # these are written over
        if free < needed:
            raise ConfigError(
                f"output_dir {self.path} has {free / 2**20:.0f} MiB free, the checkpoints of this run need about "
                f"{needed / 2**20:.0f} MiB: free space or choose another folder with -u output_dir=..."
            )

    def check_free(self) -> None:
        """Raise :class:`ConfigError` where the folder holds another run: nothing already saved is overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output_dir {self.path} is a file: choose a folder with -u output_dir=...")
        taken = [one.name for one in self.checkpoints()]
        if taken:
            raise ConfigError(
                f"output_dir {self.path} holds another run ({', '.join(taken)}): continue it with -r {self.path}, "
                "or choose another folder with -u output_dir=..."
            )

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
            raise ConfigError(f"output_dir {self.path} cannot be written: {error.strerror}") from error


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that ``path`` means: the file itself, ``last.pth`` of a run's folder, or transformers' folder."""
    path = Path(path)
    if path.is_dir() and is_huggingface(path):
        return path
    file = path / "last.pth" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; give a .pth or .safetensors file, or the folder of a run")
    return file
