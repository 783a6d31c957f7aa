# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from a file into a model, with a report of what fitted."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError

_SHOWN = 10
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_STEP_COUNTER = "num_batches_tracked"
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


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose shape or type in the file does not fit the model's."""

    name: str
    file_shape: tuple[int, ...]
    model_shape: tuple[int, ...]
    reason: str = "shape"


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did, by state-dict key."""

    source: str
    """File name, or ``state dict``."""
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """In the model only: they keep their values."""
    unexpected: list[str] = field(default_factory=list)
    """In the file only: left out."""
    mismatched: list[Mismatch] = field(default_factory=list)
    """In both, but not fitting: the model keeps its values."""
    kept: list[str] = field(default_factory=list)
    """Tables that a model computes for itself, and batch counters the file lacks: never taken from a file."""
    dropped: int = 0
    """Batch counters in the file of norms that are frozen in the model."""

    @property
    def complete(self) -> bool:
        """Whether file and model fit each other entirely."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"{self.source}: {len(self.loaded)} tensors loaded, {len(self.mismatched)} of another shape, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.kept)} kept"
        )

    def table(self) -> str:
        """The summary, then every key that was not loaded."""
        rows = [("other shape", f"{m.name}: {_describe(m)}") for m in self.mismatched]
        rows += [("missing in file", name) for name in self.missing]
        rows += [("not in model", name) for name in self.unexpected]
        rows += [("kept", name) for name in self.kept]
        return "\n".join([self.summary(), *(f"  {what:<16} {which}" for what, which in rows)])


def load_weights(
    model: nn.Module, path_or_state_dict: str | PathLike[str] | Mapping[str, Any], strict: bool = True
) -> LoadReport:
    """Load weights into a model: official D-FINE checkpoints, ours, bare state dicts, safetensors.

    Of a checkpoint the EMA weights (``ema.module``) are taken, else ``model``. Buffers that a module lists in its class
    attribute ``rebuilt_buffers`` keep the model's own values (anchors for its own input size, for example).

    Args:
        model: changed in place; unchanged when an error is raised.
        path_or_state_dict: ``.pth``, ``.pt`` or ``.safetensors`` file, or its content.
        strict: refuse a file that does not fit entirely; ``False`` loads what fits by name and shape.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, does not fit (strict), or nothing of it fits.
    """
    if isinstance(path_or_state_dict, Mapping):
        source, content = "state dict", path_or_state_dict
    else:
        source, content = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    state = _without_wrappers(_pick_state(content, source))
    fitting, report = _compare(model, state, source)
    if strict and not report.complete:
        raise CheckpointError(_misfit(report))
    if not report.loaded:
        raise CheckpointError(
            f"{source}: none of its {len(state)} tensors fits {type(model).__name__}, for example "
            f"{_listed(list(state), 3)}: check that the checkpoint belongs to this model"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Content of a checkpoint file on the CPU. Only tensors and plain data are read, no code is run.

    Raises:
        CheckpointError: no such file, truncated, not a checkpoint, or it holds pickled Python classes.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file: check the path")
    if path.is_dir():
        raise CheckpointError(f"{path}: this is a folder: give the checkpoint file in it, for example last.pth")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dictionary")
    return content


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it may not understand; what it cannot read is an error below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _pick_state(content: Mapping[str, Any], source: str) -> Mapping[str, Tensor]:
    ema = content.get("ema")
    for candidate in (ema.get("module") if isinstance(ema, Mapping) else None, content.get("model"), content):
        if (
            isinstance(candidate, Mapping)
            and candidate
            and all(isinstance(value, Tensor) for value in candidate.values())
        ):
            return candidate
    raise CheckpointError(
        f"{source}: no weights in it: expected the entries ema.module or model, or a bare state dict, "
        f"found {_listed([str(key) for key in content]) or 'nothing'}"
    )


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip what DistributedDataParallel and torch.compile put in front of every key."""
    stripped = dict(state)
    while True:
        prefix = next((p for p in _WRAPPER_PREFIXES if all(key.startswith(p) for key in stripped)), None)
        if prefix is None:
            return stripped
        stripped = {key[len(prefix) :]: value for key, value in stripped.items()}


def _compare(model: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors that fit, already in the model's types, and the report; the model is only read."""
    own = model.state_dict()
    rebuilt = _rebuilt_buffers(model)
    extra = [key for key in state if key not in own and key not in rebuilt]
    counters = [key for key in extra if _is_counter(key)]
    report = LoadReport(source, unexpected=[key for key in extra if not _is_counter(key)], dropped=len(counters))
    fitting: dict[str, Tensor] = {}
    for key, mine in own.items():
        if key in rebuilt or (_is_counter(key) and key not in state):
            report.kept.append(key)
        elif key not in state:
            report.missing.append(key)
        elif state[key].shape != mine.shape:
            report.mismatched.append(Mismatch(key, tuple(state[key].shape), tuple(mine.shape)))
        elif (cast := _cast_exactly(state[key], mine.dtype)) is None:
            why = f"{state[key].dtype} values that {mine.dtype} cannot hold"
            report.mismatched.append(Mismatch(key, tuple(mine.shape), tuple(mine.shape), why))
        else:
            fitting[key] = cast
            report.loaded.append(key)
    return fitting, report


def _is_counter(key: str) -> bool:
    """BatchNorm's batch counter: no weight, and absent where a norm is frozen."""
    return key.rsplit(".", 1)[-1] == _STEP_COUNTER


def _rebuilt_buffers(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(type(module), "rebuilt_buffers", ())
    }


def _cast_exactly(value: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The value in another type; between whole and floating-point numbers only where nothing is lost, else ``None``.

    Official files hold ``reg_scale`` as int64 or float32, depending on how its YAML wrote the number.
    """
    cast = value.to(dtype)
    if value.dtype == dtype or (value.is_floating_point() and dtype.is_floating_point):
        return cast
    return cast if torch.equal(cast.to(value.dtype), value) else None


def _misfit(report: LoadReport) -> str:
    """Error text of a strict load."""
    parts = [f"{report.source} does not fit the model ({len(report.loaded)} tensors would)"]
    for what, items in (
        ("missing in the file", report.missing),
        ("not in the model", report.unexpected),
        ("fitting by name only", [f"{m.name} ({_describe(m)})" for m in report.mismatched]),
    ):
        if items:
            parts.append(f"{len(items)} {what}: {_listed(items)}")
    classes = _class_counts(report.mismatched)
    if classes is not None:
        parts.append(
            f"the file is for {classes[0]} classes and the model has {classes[1]}: to fine-tune on other classes use "
            "-t (strict=False), which keeps what fits and starts the class heads anew; else set num_classes"
        )
    else:
        parts.append("use the config the checkpoint was trained with, or -t (strict=False) to keep only what fits")
    return "; ".join(parts)


def _class_counts(mismatched: Sequence[Mismatch]) -> tuple[int, int] | None:
    """Class counts of file and model, where a score head differs in its rows and in nothing else."""
    for one in mismatched:
        if "score_head" in one.name and one.file_shape and one.file_shape[1:] == one.model_shape[1:]:
            return one.file_shape[0], one.model_shape[0]
    return None


def _describe(one: Mismatch) -> str:
    if one.reason != "shape":
        return one.reason
    return f"{list(one.file_shape)} in the file, {list(one.model_shape)} in the model"


def _listed(items: Sequence[str], shown: int = _SHOWN) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
