# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.checkpoint import read_checkpoint
from ..core.errors import CheckpointError
from ..core.files import whole_file, why
from ..zoo.dfine.huggingface import from_huggingface
from ..zoo.dfine.huggingface_config import class_count, label_names
from ..zoo.dfine.huggingface_folder import is_huggingface, read_folder


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


def load_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Content of a checkpoint, tensors on the CPU; only tensors and plain data are read.

    A folder of transformers' D-FINE becomes ``model``, the weights under our names, and ``class_names``.

    Raises:
        CheckpointError: no such file, truncated, not a checkpoint, or it holds pickled Python classes.
    """
    if not is_huggingface(path):
        return read_checkpoint(path)
    folder = read_folder(path)
    weights = from_huggingface(folder.weights)
    return {"model": weights, "class_names": label_names(folder.config, class_count(weights))}


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


def is_better(new: float | None, old: float | None) -> bool:
    """Whether a metric (higher is better) beats the best so far; ties, ``None`` and NaN do not."""
    if new is None or math.isnan(new):
        return False
    return old is None or math.isnan(old) or new > old


def _flush_folder(folder: Path) -> None:
    """Make the new name itself durable; not every file system can, and the file's content is safe by then."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
