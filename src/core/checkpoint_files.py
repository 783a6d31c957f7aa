# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files of every kind as plain data, without running code, and the weights inside them."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .sums import check_sum, check_zip

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# What torch.load raises for files that are not checkpoints, measured on truncated, empty and foreign files.
_READ_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    pickle.PickleError,
    struct.error,
    AssertionError,
)


def read_checkpoint(path: str | PathLike[str], *, lazy: bool = False) -> dict[str, Any]:
    """Content of a checkpoint file on the CPU. Only tensors and plain data are read, no code is run.

    Args:
        lazy: leave tensors in the file until they are used, and do not look for damage (torch files only): fast where
            a few numbers are wanted.

    Raises:
        CheckpointError: no such file, truncated, damaged, not a checkpoint, or it holds pickled Python classes.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file: check the path")
    if path.is_dir():
        raise CheckpointError(f"{path}: this is a folder: give the checkpoint file in it, for example last.pth")
    if not path.is_file():
        raise CheckpointError(f"{path}: no regular file: give a checkpoint's file")
    is_safetensors = path.suffix == ".safetensors"
    try:
        if is_safetensors:
            check_sum(path)
        elif not lazy:
            check_zip(path)
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from None
    content = _read_safetensors(path) if is_safetensors else _read_torch(path, lazy)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dictionary")
    return content


def _read_torch(path: Path, lazy: bool = False) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it may not understand; what it cannot read is an error below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except _READ_ERRORS as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found and path.stat().st_size > 0:
            raise CheckpointError(
                f"{path}: holds the pickled Python class {found[1]}, which is not loaded because that could run code: "
                "where the file was written, save torch.save({'model': model.state_dict()}, path) instead"
            ) from None  # torch's text advises to load it with weights_only=False
        raise CheckpointError(_unreadable(path, error)) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs a package: pip install safetensors") from error
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, *_READ_ERRORS) as error:
        raise CheckpointError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: BaseException) -> str:
    if "weights_only" in str(error):  # torch's advice to switch the protection off is not passed on
        return (
            f"{path} ({path.stat().st_size} bytes) is not a checkpoint, or it holds pickled Python classes, which are "
            "not loaded because that could run code: check the path; where the file was written, save "
            "torch.save({'model': model.state_dict()}, path) instead"
        )
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    return (
        f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: it is truncated or not a checkpoint; "
        f"copy or download it again ({reason})"
    )


def weights_in(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The weights of a checkpoint: those of the EMA where it has one; prefixes of wrappers are stripped.

    Args:
        content: of the file, or a bare state dict.
        source: its name, for messages.

    Raises:
        CheckpointError: no weights in it.
    """
    ema = content.get("ema")
    averaged = ema.get("module") if isinstance(ema, Mapping) else None
    for candidate in (averaged, content.get("model"), content.get("state_dict"), content):
        if (
            isinstance(candidate, Mapping)
            and candidate
            and all(isinstance(value, Tensor) for value in candidate.values())
        ):
            return _without_wrappers(candidate)
    raise CheckpointError(
        f"{source}: no weights in it: expected the entries ema.module, model or state_dict, or a bare state dict, "
        f"found {listed([str(key) for key in content]) or 'nothing'}"
    )


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip what DistributedDataParallel and torch.compile put in front of every key."""
    stripped = dict(state)
    while True:
        prefix = next((p for p in _WRAPPER_PREFIXES if all(key.startswith(p) for key in stripped)), None)
        if prefix is None:
            return stripped
        stripped = {key[len(prefix) :]: value for key, value in stripped.items()}


def listed(items: Sequence[str], shown: int = 10) -> str:
    """The first items of a list, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
