# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What an ablation compares: a YAML file that lists variants x seeds x data sets, as a list of runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from ..core.config.layers import INCLUDE
from ..core.config.node import dump_yaml
from ..core.config.plan import suggest
from ..core.errors import ConfigError
from ..core.files import is_locked, take_lock, whole_file
from ..solver.folder import RunFolder

Judge = Literal["last", "best"]
BUSY = "another process is training it at this moment: left to that one"
PATIENCE_S = 1.0
"""A report looks for an instant whether a run is locked; who wants to train it waits that instant out."""


@dataclass(frozen=True)
class Change:
    """What a variant, or a data set, changes of the base config."""

    name: str
    include: tuple[Path, ...] = ()
    """YAML files on top of the base, later ones win."""
    overrides: tuple[str, ...] = ()
    """``key.path=value`` on top of those."""
    base: Path | None = None
    """Another base config; data sets only."""


@dataclass(frozen=True)
class Trial:
    """One training of the matrix."""

    data: str
    """Name of the data set, empty where the matrix has no ``data``."""
    variant: str
    seed: int
    folder: RunFolder
    config: Path
    """What is given to ``-c``."""
    overrides: tuple[str, ...]
    """What is given to ``-u``."""

    @property
    def label(self) -> str:
        """Name in messages: ``bccd/go_lsd/seed0``."""
        return "/".join([*([self.data] if self.data else []), self.variant, f"seed{self.seed}"])

    def lock(self) -> IO[str] | None:
        """The right to train or to rename the run: an open file beside its folder; None where another process has it.

        Raises:
            OSError: the folder cannot be written.
        """
        held = take_lock(self._lock, patience_s=PATIENCE_S)
        if held is not None and is_locked(self.folder.lock):  # by a training that no ablation started
            held.close()
            return None
        return held

    def is_locked(self) -> bool:
        """Whether a process trains the run at this moment; nothing is written."""
        return is_locked(self._lock) or is_locked(self.folder.lock)

    @property
    def _lock(self) -> Path:
        return self.folder.path.with_name(f".{self.folder.path.name}.lock")

    def arguments(self, resume: Path | None = None) -> list[str]:
        """Command line of ``isdfine train`` for this run."""
        update = ["-u", *self.overrides] if self.overrides else []
        seed = ["--seed", str(self.seed), "--output-dir", shown(self.folder.path)]
        return ["-c", shown(self.config), *update, *seed, *(["-r", shown(resume)] if resume else [])]


@dataclass(frozen=True)
class Matrix:
    """Everything an ablation file says."""

    path: Path
    name: str
    output_dir: Path
    base: Path
    seeds: tuple[int, ...]
    baseline: str
    """Variant that the others are compared with, seed by seed."""
    metrics: tuple[str, ...]
    """Metrics of the table; the first one is plotted."""
    judge: Judge
    """Which evaluation of a run counts."""
    data: tuple[Change, ...]
    variants: tuple[Change, ...]
    overrides: tuple[str, ...] = ()
    """Overrides of every run, last."""

    def runs(self) -> list[Trial]:
        """All runs, all variants of the first seed first: what is there of an unfinished matrix is paired."""
        return [self.run(data, variant, seed) for seed in self.seeds for data in self.data for variant in self.variants]

    def run(self, data: Change, variant: Change, seed: int) -> Trial:
        """One cell of the matrix."""
        folder = self.output_dir / data.name / variant.name / f"seed{seed}"
        overrides = (*data.overrides, *variant.overrides, *self.overrides)
        return Trial(data.name, variant.name, seed, RunFolder(folder), self._config(data, variant), overrides)

    def _config(self, data: Change, variant: Change) -> Path:
        included = (*data.include, *variant.include)
        return self._composed(data, variant) if included else data.base or self.base

    def _composed(self, data: Change, variant: Change) -> Path:
        return self.output_dir / "composed" / data.name / f"{variant.name}.yml"

    def write_composed(self) -> None:
        """Write the files that put the includes of a variant on top of the base, so that ``-c`` can name them."""
        for data in self.data:
            for variant in self.variants:
                files = [data.base or self.base, *data.include, *variant.include]
                if len(files) > 1:
                    text = dump_yaml({INCLUDE: [str(file.resolve()) for file in files]})
                    with whole_file(self._composed(data, variant), durable=False) as partial:
                        partial.write_text(f"# {self.path}: {data.name} {variant.name}\n{text}", encoding="utf-8")

    def selected(self, variants: list[str] | None, seeds: list[int] | None) -> list[Trial]:
        """The runs of some variants and seeds; None = all.

        Raises:
            ConfigError: a variant or seed that the matrix does not have.
        """
        names = [variant.name for variant in self.variants]
        for name in variants or ():
            if name not in names:
                raise ConfigError(f"--only {name}: {self.path} has no such variant{suggest(name, names)}")
        for seed in seeds or ():
            if seed not in self.seeds:
                listed = ", ".join(map(str, self.seeds))
                raise ConfigError(f"--seeds {seed}: {self.path} lists the seeds {listed}: add it there")
        chosen = variants or names
        return [run for run in self.runs() if run.variant in chosen and run.seed in (seeds or self.seeds)]


def shown(path: Path) -> str:
    """A path relative to the working folder where it lies in it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
