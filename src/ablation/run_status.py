# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How far a run is, read from its folder: nothing there, interrupted, finished, or made from another config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from ..core.checkpoint import read_checkpoint
from ..core.config.node import dump_yaml, read_yaml
from ..core.config.settings import RunSettings
from ..core.errors import CheckpointError, ConfigError
from ..solver.folder import RunFolder

BOOKKEEPING = frozenset(
    ("output_dir", "resume", "tuning", "tuning_classes", "print_freq", "checkpoint_freq", "save_every")
    + ("save_every_steps", "tensorboard", "writers", "diagnostics", "num_visualized", "num_workers")
)
"""Last parts of keys that change no trained number (``tuning`` is compared with the load report instead)."""
LEFT_OPEN = frozenset(("num_classes", "device"))
"""Keys whose null means "find out": it agrees with every value."""
_ABSENT = "(absent)"
_MOST_DIFFERENCES = 8


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run from its folder."""

    state: Literal["absent", "interrupted", "done", "changed"]
    differences: tuple[str, ...] = ()
    """What its config says otherwise than the matrix does: ``key: there ..., here ...``."""
    resume: Path | None = None
    """Checkpoint to continue from; None = from the start."""

    @property
    def complaint(self) -> str:
        """The differences in one text."""
        more = len(self.differences) - _MOST_DIFFERENCES
        listed = "; ".join(self.differences[:_MOST_DIFFERENCES])
        return f"{listed}; and {more} more" if more > 0 else listed


def run_status(folder: RunFolder, expected: Mapping[str, Any]) -> RunStatus:
    """Where a run stands.

    Args:
        folder: of the run; may be absent.
        expected: plain data of the config that the matrix would run now.

    Raises:
        ConfigError: files in the folder that cannot be read.
    """
    checkpoint = next((path for path in (folder.last, folder.best) if path.is_file()), None)
    if not folder.config.is_file():
        leftover = checkpoint or (folder.metrics if folder.metrics.is_file() else None)
        if leftover is not None:
            raise ConfigError(f"{folder.path}: holds {leftover.name} but no config.yml: move the folder away")
        return RunStatus("absent")
    saved = read_yaml(folder.config).plain()
    differences = (*differences_of(saved, expected), *_other_start(folder, expected))
    final = final_evaluation(folder, expected)
    if final is not None and not _lags_behind(folder.last, int(final["step"])):
        return RunStatus("done", differences)
    if checkpoint is None:  # killed before its first save: nothing to continue, nothing to lose
        return RunStatus("absent")
    return RunStatus("interrupted", differences, checkpoint)


def _lags_behind(last: Path, step: int) -> bool:
    """Whether a run was killed after its final evaluation and before it saved: it evaluates again when it goes on."""
    saved = saved_step(last)
    return saved is not None and saved < step


def saved_step(checkpoint: Path) -> int | None:
    """Steps a checkpoint has behind it; None where there is no readable one that says so. Weights are not read."""
    try:
        return int(read_checkpoint(checkpoint, lazy=True)["progress"]["step"])
    except (CheckpointError, LookupError, TypeError):
        return None  # who needs its weights says what is wrong with it


def final_evaluation(folder: RunFolder, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation after the last epoch, None where it has not taken place."""
    last = int(expected.get("epoches", RunSettings.epoches)) - 1
    return next(
        (evaluation for evaluation in evaluations(read_records(folder.metrics)) if evaluation.get("epoch") == last),
        None,
    )


def evaluations(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations among a run's records, in order."""
    return [record for record in records if record["kind"] == "val"]


def read_records(path: Path) -> list[dict[str, Any]]:
    """All lines of a run's ``metrics.jsonl``; the last one may have been cut by a kill, and is left out then.

    Raises:
        ConfigError: another line is no record.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and "kind" in record and "step" in record:
            records.append(record)
        elif number < len(lines):
            raise ConfigError(
                f"{path}:{number}: not a record of a run: {line[:60]!r}; restore the file, or move the folder away"
            )
    return records


def differences_of(saved: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """What a saved resolved config says otherwise than the expected one, in its order; bookkeeping aside."""
    there, here = dict(_flat(saved)), dict(_flat(expected))
    for key in dict.fromkeys((*there, *here)):
        old, new = there.get(key, _ABSENT), here.get(key, _ABSENT)
        last = key.rsplit(".", 1)[-1]
        if last in BOOKKEEPING or same_value(old, new):
            continue
        if not (last in LEFT_OPEN and {str(old), str(new)} & {"None", _ABSENT}):
            yield f"{key}: {old!r} there, {new!r} here"


def same_value(mine: Any, theirs: Any) -> bool:
    """Equal values; of paths also a relative one and an absolute one that ends with it (a run of another tree)."""
    if type(mine) is not type(theirs) and not (_is_number(mine) and _is_number(theirs)):
        return False
    if mine == theirs:
        return True
    if not isinstance(mine, str) or "/" not in mine or "/" not in theirs:
        return False
    first, second = PurePath(mine), PurePath(theirs)
    if first.is_absolute() == second.is_absolute():
        return first == second or (Path(mine).exists() and Path(theirs).exists() and Path(mine).samefile(theirs))
    relative, absolute = (second, first) if first.is_absolute() else (first, second)
    return absolute.parts[-len(relative.parts) :] == relative.parts


def config_hash(data: Mapping[str, Any]) -> str:
    """Twelve digits that name a config; bookkeeping and the seed aside, so that all seeds of a variant share it."""
    kept = {key: value for key, value in _flat(data) if key.rsplit(".", 1)[-1] not in BOOKKEEPING and key != "seed"}
    return hashlib.sha256(dump_yaml(kept).encode()).hexdigest()[:12]


def _other_start(folder: RunFolder, expected: Mapping[str, Any]) -> Iterator[str]:
    """Whether the run started from another checkpoint (``tuning``), which its config does not say."""
    there = None
    if folder.load_report.is_file():
        there = json.loads(folder.load_report.read_text(encoding="utf-8")).get("source")
    here = expected.get("tuning")
    if not same_value(there, here) and not (there and same_value(str(Path(there).parent), here)):  # a run's folder
        yield f"tuning: {there!r} there, {here!r} here"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf; empty mappings and lists are leaves."""
    if not isinstance(value, (dict, list)) or (key and not value):
        yield key, value
        return
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for name, child in children:
        yield from _flat(child, f"{key}.{name}" if key else str(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
