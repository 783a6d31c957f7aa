# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files of every kind as plain data, without running code: whole or refused."""

from __future__ import annotations

import logging
import pickle
import re
import shlex
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

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


def refuse_url(path: str | PathLike[str]) -> None:
    """See that a checkpoint is a path.

    Raises:
        CheckpointError: a URL, which is not fetched.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=.)", str(path))  # a Path has joined its slashes; C:/ is a drive
    if scheme is not None:
        url = f"{scheme[1]}://{str(path)[scheme.end() :]}"
        raise CheckpointError(
            f"{url} is a URL, and nothing is downloaded here: fetch it first (curl -LO {shlex.quote(url)}), then give "
            "the path of the file"
        )


LAST, BEST, BEST_STAGE_ONE = "last.pth", "best.pth", "best_stg1.pth"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints that a run left in its folder, the one it goes on from first; none where it is a file."""
    if not folder.is_dir():
        return []
    kept = [folder / name for name in (LAST, BEST, BEST_STAGE_ONE)]
    return [*(path for path in kept if path.exists()), *sorted(folder.glob("checkpoint*.pth"))]


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
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named and path.stat().st_size > 0:
            raise CheckpointError(
                f"{path}: holds the pickled Python class {named[1]}, which is not loaded because that could run code: "
                "where the file was written, save torch.save({'model': model.state_dict()}, path) instead"
            ) from None  # torch's text advises to load it with weights_only=False
        raise CheckpointError(_unreadable(path, error)) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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


_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("D-FINE", (r"^decoder\.pre_bbox_head\.", r"^decoder\.decoder\.(layers\.\d+\.gateway|lqe_layers)\.")),
    ("RT-DETR", (r"^decoder\.dec_bbox_head\.",)),
    ("RF-DETR or LW-DETR", (r"^backbone\.0\.(encoder|projector)\.",)),
    ("DINO", (r"^transformer\.enc_out_class_embed\.",)),
    ("DN-DETR", (r"^label_enc\.",)),
    ("DAB-DETR", (r"^refpoint_embed\.|^transformer\.decoder\.ref_point_head\.",)),
    ("Deformable DETR", (r"^transformer\.level_embed$",)),
    ("DETR", (r"^transformer\.decoder\.layers\.0\.multihead_attn\.",)),
    ("Faster R-CNN", (r"^roi_heads\.",)),
    ("RetinaNet", (r"^head\.classification_head\.",)),
    ("a detector of mmdetection", (r"^bbox_head\.",)),
    ("YOLOX", (r"^head\.cls_convs\.",)),
    ("a YOLO of Ultralytics", (r"^(model\.)?model\.\d+\.",)),
)
"""Families of detectors and the tensors that give them away; the first of which all are there is meant."""


def family_of(keys: Iterable[str]) -> str | None:
    """Name of the family whose detectors have tensors of these names; None where none is known by them."""
    names = list(keys)
    for family, patterns in _FAMILIES:
        if all(any(re.search(pattern, name) for name in names) for pattern in patterns):
            return family
    return None


def other_family(file: Iterable[str], model: nn.Module) -> str:
    """A clause that names the family of a file's tensors, where the model is not one of it.

    A model whose tensors do not always give it away has a ``family`` by name.
    """
    theirs, ours = family_of(file), getattr(model, "family", None) or family_of(model.state_dict())
    if theirs is None or theirs == ours:
        return ""
    return f"; these are the weights of {theirs}, another family of detectors{f' than {ours}' if ours else ''}"


SUM_KEY = "isdfine_crc32"
NO_SUM = "0" * 8
"""Stands for the sum until :func:`write_with_sum` writes the file."""
# As JSON (safetensors) and as protobuf (ONNX) write the key and a text of eight bytes.
_ENTRY = re.compile(SUM_KEY.encode() + rb'(?:":"|\x12\x08)(.{8})', re.DOTALL)
_METADATA_BYTES = 1 << 22
"""Metadata stand at the beginning (safetensors) or at the end (ONNX) of a file, and are smaller than this."""
# What zipfile raises for a file in which single bits were turned, measured.
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, NotImplementedError, struct.error)


def check_zip(path: Path) -> None:
    """Compare every record of a checkpoint with its CRC-32, which torch writes and does not check (0.1 s per 100 MB).

    Raises:
        CheckpointError: the file is damaged.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as start:
        if start.read(4) != b"PK\x03\x04":
            _say_unchecked(path, "it is in torch's format before 1.6, which holds no sums")
            return
    try:
        with zipfile.ZipFile(path) as file:
            if not any(record.CRC for record in file.infolist()):
                _say_unchecked(path, "it was written without sums")
                return
            damaged = file.testzip()
    except _ZIP_ERRORS as error:
        raise CheckpointError(damage(path, str(error) or type(error).__name__)) from None
    if damaged is not None:
        raise CheckpointError(damage(path, f"{damaged} is not what was written"))


def check_sum(path: Path) -> None:
    """Compare a safetensors or ONNX file of ours with the sum that it carries.

    Raises:
        CheckpointError: the file is damaged, or another program changed it.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return  # empty: whoever reads it says so
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            entry = _entry(content)
            if entry is None:
                _say_unchecked(path, "it holds no sum")
                return
            stated, span = entry[1], entry.span(1)
            with memoryview(content) as view:
                intact = stated == _sum_without(view, *span)
    if not intact:
        raise CheckpointError(
            damage(path, "its CRC-32 is not the one it carries") + "; where another program changed it on purpose, "
            f"remove the entry {SUM_KEY} from its metadata"
        )


def write_with_sum(path: Path, content: bytes) -> None:
    """Write a file whose metadata hold ``SUM_KEY: NO_SUM``, with its sum in that place."""
    entry = _entry(content)
    assert entry is not None, "content whose metadata lack the place of the sum"
    start, end = entry.span(1)
    with memoryview(content) as view:
        path.write_bytes(b"".join((view[:start], _sum_without(view, start, end), view[end:])))


def damage(path: Path, reason: str) -> str:
    """Message for a damaged file."""
    return (
        f"{path} ({path.stat().st_size} bytes) cannot be read: it is truncated or damaged ({reason}): copy or download "
        "it again, or take another one"
    )


def _entry(content: bytes | mmap) -> re.Match[bytes] | None:
    return _ENTRY.search(content, 0, _METADATA_BYTES) or _ENTRY.search(content, max(0, len(content) - _METADATA_BYTES))


def _sum_without(content: memoryview, start: int, end: int) -> bytes:
    """Eight hexadecimal digits, reckoned with zeros between ``start`` and ``end``."""
    return b"%08x" % zlib.crc32(content[end:], zlib.crc32(NO_SUM.encode(), zlib.crc32(content[:start])))


def _say_unchecked(path: Path, reason: str) -> None:
    logger.info("%s: whether the file is damaged cannot be checked, because %s", path, reason)
