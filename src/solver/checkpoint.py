# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The state of a run: written whole or not at all, read without running code, and what a run goes on from."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import shlex
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ..core import dist
from ..core.checkpoint import read_checkpoint
from ..core.errors import CheckpointError
from ..core.files import whole_file, why
from ..load import checkpoint_file
from ..zoo.huggingface.folder import is_huggingface
from .folder import RunFolder
from .progress import Progress

logger = logging.getLogger(__name__)


def save_checkpoint(state: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Write a checkpoint so that ``path`` holds the old or the new one at every moment, also if the machine stops.

    It goes to ``<path>.tmp`` first, reaches the disk, and then takes the final name. Folders are created.

    Args:
        state: tensors and plain data (numbers, strings, lists, dicts).
        path: final file name.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; an earlier file of that name is untouched.
    """
    path = Path(path)
    try:
        with whole_file(path) as partial, open(partial, "wb") as file:
            torch.save(dict(state), file)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        kept = "the earlier file of that name is untouched" if path.exists() else "no earlier file of that name existed"
        raise CheckpointError(
            f"{path}: the checkpoint could not be saved ({why(error)}); {kept}. "
            "Free space or correct the folder's permissions, then continue with -r from the last saved checkpoint"
        ) from error


def seed_everything(seed: int) -> None:
    """Start every random generator of this process: torch (all devices), Python, numpy."""
    torch.manual_seed(seed % 2**64)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process: torch (CPU and the current GPU), Python, numpy."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue every generator where :func:`rng_state` found it; a GPU's state is left out where there is no GPU.

    Raises:
        CheckpointError: an entry is missing, or is not what a generator takes.
    """
    missing = [name for name in ("torch", "python", "numpy") if name not in state]
    if missing:
        raise CheckpointError(f"the saved random state lacks {', '.join(missing)}: the checkpoint is damaged")
    try:
        torch.set_rng_state(state["torch"].cpu())
        python, numpy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        keys = numpy["keys"].numpy().astype(np.uint32)
        np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"the saved random state cannot be used ({error}): the checkpoint is damaged") from None


def _flush_folder(folder: Path) -> None:
    """Make the new name itself durable; not every file system can, and the file's content is safe by then."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def run_state(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that ``-r`` means, and its content.

    Of a folder it is ``last.pth``; where that is missing or damaged, the newest good one, with a warning. The main rank
    chooses for all.

    Raises:
        CheckpointError: there is none, it cannot be read, or it is not the state of a run.
    """
    path = Path(path)
    if not path.is_dir():
        file = checkpoint_file(path)
        return file, _read(file)
    chosen: Path | CheckpointError | None = None
    state: dict[str, Any] | None = None
    if dist.is_main():
        try:
            chosen, state = _newest_good(RunFolder(path))
        except CheckpointError as error:  # every rank must hear of it
            chosen = error
    chosen = dist.broadcast_object(chosen)
    if isinstance(chosen, CheckpointError):
        raise chosen
    assert chosen is not None
    return chosen, state or _read(chosen)


def _newest_good(folder: RunFolder) -> tuple[Path, dict[str, Any]]:
    kept = folder.checkpoints()
    if not kept:
        return checkpoint_file(folder.path), _read(checkpoint_file(folder.path))  # says that there is none
    problems: list[str] = []
    if folder.last not in kept:
        problems.append(f"{folder.last} is missing")
    # last.pth first; it is the newest of those that are whole
    for file in sorted(kept, key=lambda file: (file != folder.last, -_step_of(file))):
        try:
            state = _read(file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            _warn(folder, file, state, problems)
        return file, state
    raise CheckpointError(
        f"{folder.path}: no checkpoint to go on from: {'; '.join(problems)}. Start a new run from the weights of one "
        f"that can be read with -t, in another folder (-u output_dir=...)"
    )


def _warn(folder: RunFolder, file: Path, state: Mapping[str, Any], problems: list[str]) -> None:
    progress = Progress.from_dict(state["progress"])
    written = folder.metrics.read_text(encoding="utf-8", errors="replace") if folder.metrics.is_file() else ""
    reported = max(map(_reported, written.splitlines()), default=0)
    lost = f": {reported - progress.step} steps are done again" if reported > progress.step else ""
    logger.warning(
        "%s; going on from %s (epoch %d, batch %d, step %d)%s",
        "; ".join(problems), file, progress.epoch, progress.batch, progress.step, lost,
    )  # fmt: skip


def _reported(line: str) -> int:
    """Step of a line of the metrics; 0 where a kill cut it short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _step_of(file: Path) -> int:
    """How far a checkpoint is; -1 where that cannot be read."""
    try:
        return Progress.from_dict(read_checkpoint(file, lazy=True)["progress"]).step
    except (CheckpointError, KeyError):
        return -1


def _read(file: Path) -> dict[str, Any]:
    """Content of a checkpoint that a run can go on from.

    Raises:
        CheckpointError: it cannot be read, holds weights only, or something else where the state of a run should be.
    """
    state = {} if is_huggingface(file) else read_checkpoint(file)
    missing = [key for key in ("model", "optim", "progress", "rng") if key not in state]
    if missing:
        official = "optimizer" in state and "last_epoch" in state
        holds = "the state of a run of the official code, of which only the weights are used" if official else "weights"
        raise CheckpointError(
            f"{file} has no {', '.join(missing)}: it holds {holds}, not a run of this code; start from them with "
            f"-t {shlex.quote(str(file))}"
        )
    wrong = [f"{key} is a {type(state[key]).__name__}" for key in ("model", "optim") if not _is_mapping(state[key])]
    if not isinstance(state["rng"], list) or not all(map(_is_mapping, state["rng"])):
        wrong.append("rng is no list of random states")
    if wrong:
        raise CheckpointError(f"{file} is not the state of a run: {'; '.join(wrong)}: take another checkpoint")
    try:
        Progress.from_dict(state["progress"])
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if (name := _first_not_finite(state)) is not None:
        raise CheckpointError(
            f"{file}: {name} holds values that are not finite: the run had diverged, or the file was changed; go on "
            "from an earlier checkpoint"
        )
    return state


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _first_not_finite(value: object, name: str = "") -> str | None:
    """Name of a tensor with NaN or infinite values."""
    if isinstance(value, Tensor):
        return name if value.is_floating_point() and not bool(torch.isfinite(value).all()) else None
    if isinstance(value, Mapping):
        names = (_first_not_finite(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return next((inner for inner in names if inner is not None), None)
    return None


def check_moments(optimizer: Optimizer, file: Path) -> None:
    """See that an optimiser's state belongs to its weights: torch takes any shape, and fails in a step or not at all.

    Raises:
        CheckpointError: a moment of another shape, or one that is no number.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            fits = value.shape in (weight.shape, ()) if isinstance(value, Tensor) else isinstance(value, (int, float))
            if not fits or (not isinstance(value, Tensor) and not math.isfinite(value)):
                shown = tuple(value.shape) if isinstance(value, Tensor) else repr(value)[:60]
                raise CheckpointError(
                    f"{file}: the optimiser's {name} is {shown} for a weight of shape {tuple(weight.shape)}: the "
                    "checkpoint belongs to another model or was changed; take another one"
                )
