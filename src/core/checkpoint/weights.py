# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from a file into a model, with a report of what fitted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import listed, read_checkpoint, weights_in
from .classes import ClassMap, LoadReport, MappedRows, Mismatch, class_tensors, count_classes, moved_rows

logger = logging.getLogger(__name__)

__all__ = ["LoadReport", "compare", "load_weights", "read_checkpoint"]

_STEP_COUNTER = "num_batches_tracked"


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any],
    strict: bool = True,
    *,
    classes: ClassMap | None = None,
    source: str | None = None,
) -> LoadReport:
    """Load weights into a model: official D-FINE checkpoints, ours, bare state dicts, safetensors.

    Of a checkpoint the EMA weights (``ema.module``) are taken, else ``model``. Buffers that a module lists in its class
    attribute ``rebuilt_buffers`` keep the model's own values (anchors for its own input size, for example).

    Args:
        model: changed in place; unchanged when an error is raised.
        path_or_state_dict: ``.pth``, ``.pt`` or ``.safetensors`` file, or its content.
        strict: refuse a file that does not fit entirely; ``False`` loads what fits by name and shape.
        classes: copy the rows of class heads by name (with ``strict=False``); None = load heads of equal shape.
        source: name of the content for the report and messages; None = the path, or ``state dict``.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, does not fit (strict), or nothing of it fits.
    """
    is_content = isinstance(path_or_state_dict, Mapping)
    source = source or ("state dict" if is_content else str(path_or_state_dict))
    content = path_or_state_dict if isinstance(path_or_state_dict, Mapping) else read_checkpoint(path_or_state_dict)
    state = weights_in(content, source)
    fitting, report = compare(model, state, source, classes)
    if strict and not report.complete:
        raise CheckpointError(_misfit(report))
    if not fitting:
        raise CheckpointError(nothing_fits(model, state, source))
    model.load_state_dict(fitting, strict=False)
    return report


def nothing_fits(model: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Error text for a file of which no tensor can be used."""
    family = _other_family(state, model.state_dict())
    return (
        f"{source}: none of its {len(state)} tensors fits {type(model).__name__}, for example "
        f"{listed(list(state), 3)}{family}: check that the checkpoint belongs to this model"
    )


_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("D-FINE", (r"^decoder\.pre_bbox_head\.",)),
    ("RT-DETR", (r"^decoder\.dec_bbox_head\.",)),
    ("RF-DETR or LW-DETR", (r"^backbone\.0\.(encoder|projector)\.",)),
    ("DINO", (r"^label_enc\.", r"^transformer\.enc_out_class_embed\.")),
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


def _other_family(file: Iterable[str], model: Iterable[str]) -> str:
    """A clause that names the family of a file's tensors, where the model is not one of it."""
    theirs, ours = family_of(file), family_of(model)
    if theirs is None or theirs == ours:
        return ""
    return f"; these are the weights of {theirs}, another family of detectors{f' than {ours}' if ours else ''}"


def compare(
    model: nn.Module, state: Mapping[str, Tensor], source: str, classes: ClassMap | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors that fit, already in the model's types, and the report; the model is only read.

    Args:
        model: the model.
        state: from :func:`weights_in`.
        source: name of the file for the report.
        classes: which row of a class head goes where; None, or an identical list = heads are taken as they are.
    """
    own = model.state_dict()
    rebuilt = _rebuilt_buffers(model)
    by_class = class_tensors(model) if classes is not None and not classes.identical else {}
    extra = [key for key in state if key not in own and key not in rebuilt]
    counters = [key for key in extra if is_counter(key)]
    unexpected = [key for key in extra if not is_counter(key)]
    report = LoadReport(source, unexpected=unexpected, dropped=len(counters), classes=classes)
    fitting: dict[str, Tensor] = {}
    for key, mine in own.items():
        if key in rebuilt or (is_counter(key) and key not in state):
            report.kept.append(key)
        elif key not in state:
            report.missing.append(key)
        elif classes is not None and key in by_class and _has_rows_of(mine, state[key], by_class[key], classes):
            rows = _map_rows(key, mine, state[key], by_class[key], classes)
            fitting[key] = rows[0]
            report.mapped.append(rows[1])
        elif (problem := _misfit_of(key, mine, state[key], key in by_class)) is not None:
            report.mismatched.append(problem)
        else:
            fitting[key] = state[key].to(mine.dtype)
            report.loaded.append(key)
    return fitting, report


def _has_rows_of(mine: Tensor, theirs: Tensor, extra: int, classes: ClassMap) -> bool:
    return (
        mine.shape[1:] == theirs.shape[1:]
        and mine.shape[:1] == (len(classes.target) + extra,)
        and theirs.shape[:1] == (len(classes.source) + extra,)
    )


def _map_rows(key: str, mine: Tensor, theirs: Tensor, extra: int, classes: ClassMap) -> tuple[Tensor, MappedRows]:
    total = len(classes.target)
    moved = moved_rows(mine, theirs.to(mine.dtype), classes)
    return moved, MappedRows(key, total - len(classes.new), total, extra)


def _misfit_of(key: str, mine: Tensor, theirs: Tensor, counts_classes: bool) -> Mismatch | None:
    """Why a tensor cannot be taken as it is."""
    shapes = tuple(theirs.shape), tuple(mine.shape)
    if mine.shape != theirs.shape:
        return Mismatch(key, *shapes)
    if counts_classes:
        return Mismatch(key, *shapes, "its rows are not the classes of the file")
    if not _fits_exactly(theirs, mine.dtype):
        return Mismatch(key, *shapes, f"{theirs.dtype} values that {mine.dtype} cannot hold")
    return None


def is_counter(key: str) -> bool:
    """BatchNorm's batch counter: no weight, and absent where a norm is frozen."""
    return key.rsplit(".", 1)[-1] == _STEP_COUNTER


def _rebuilt_buffers(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(type(module), "rebuilt_buffers", ())
    }


def _fits_exactly(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type can hold a value; between whole and floating-point numbers only where nothing is lost.

    Official files hold ``reg_scale`` as int64 or float32, depending on how its YAML wrote the number.
    """
    if value.dtype == dtype or (value.is_floating_point() and dtype.is_floating_point):
        return True
    return torch.equal(value.to(dtype).to(value.dtype), value)


def _misfit(report: LoadReport) -> str:
    """Error text of a strict load."""
    family = _other_family(report.in_file, report.in_model)
    parts = [f"{report.source} does not fit the model ({len(report.loaded)} tensors would){family}"]
    for what, items in (
        ("missing in the file", report.missing),
        ("not in the model", report.unexpected),
        ("fitting by name only", [f"{m.name} ({m})" for m in report.mismatched]),
    ):
        if items:
            parts.append(f"{len(items)} {what}: {listed(items)}")
    classes = _class_counts(report.mismatched)
    if classes is not None:
        parts.append(
            f"the file is for {classes[0]} classes and the model has {classes[1]}: to fine-tune on other classes use "
            "-t (strict=False), which keeps what fits and copies class rows by name; else set num_classes"
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


BACKBONE = "backbone"
"""Name under which a detector holds its backbone."""
ENOUGH_OF_BACKBONE = 0.9
"""Share of a backbone's tensors that must fit: what else is missing would start from random numbers unnoticed."""
ENOUGH_OF_MODEL = 0.5
"""Share of a detector's tensors below which a file (whose backbone does not fit either) is of another architecture."""

ClassesOf = Callable[[int], "ClassMap | None"]
"""Works out how classes map, given the number of classes of the file; None = names are not known."""


def tune_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, classes_of: ClassesOf) -> LoadReport:
    """Load what a file has for a freshly built model; everything else keeps its fresh initialisation.

    Class heads are copied row by row where ``classes_of`` knows the names, else loaded where their shapes are equal.
    A file with nothing but a backbone's weights, with or without ``backbone.`` in front, fills the backbone.

    Args:
        model: changed in place; unchanged when an error is raised.
        state: weights of a checkpoint.
        source: its name for the report and messages.
        classes_of: called once, only for a file with class heads.

    Raises:
        CheckpointError: another architecture, or less than 90 % of the backbone in a backbone's file.
    """
    prefix = _backbone_prefix(model, state)
    if prefix is not None:
        own = model.state_dict()
        state = {prefix + key if prefix + key in own else key: value for key, value in state.items()}
    count = count_classes(state, class_tensors(model))
    classes = None if count is None else classes_of(count)
    fitting, report = compare(model, state, source, classes)
    if not fitting:
        raise CheckpointError(nothing_fits(model, state, source))
    if prefix is not None:
        _require_backbone(model, report)
        report.notes.append("the file holds a backbone only: encoder and decoder start anew")
    else:
        _require_same_architecture(model, report)
        fitting_in_backbone, total = _share(report, f"{BACKBONE}.")
        if fitting_in_backbone < total:
            report.notes.append(
                f"{total - fitting_in_backbone} of the {total} tensors of the backbone start from random numbers "
                "(its ImageNet weights are not read where a checkpoint is given)"
            )
            logger.warning("%s: %s", source, report.notes[-1])
    model.load_state_dict(fitting, strict=False)
    return report


def _backbone_prefix(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """What stands before the file's keys in the model, if the file has tensors of the backbone only; else None."""
    backbone = getattr(model, BACKBONE, None)
    own = model.state_dict()
    if not isinstance(backbone, nn.Module) or any(
        key in own and not key.startswith(f"{BACKBONE}.") and not is_counter(key) for key in state
    ):
        return None
    # A wrapper holds a library's model one or two levels down.
    wrapped = [name for name, _ in backbone.named_modules() if name and name.count(".") < 2]
    inside = [f"{BACKBONE}.", *(f"{BACKBONE}.{name}." for name in wrapped)]
    hits = {prefix: sum(prefix + key in own for key in state) for prefix in ("", *inside)}
    best = max(hits, key=lambda prefix: hits[prefix])
    return best if hits[best] else None


def _share(report: LoadReport, part: str) -> tuple[int, int]:
    """Tensors of a part of the model that fit, and all of them but those that are never loaded."""
    fitting = [*report.loaded, *(one.name for one in report.mapped)]
    others = [*report.missing, *(one.name for one in report.mismatched)]
    count = sum(name.startswith(part) for name in fitting)
    return count, count + sum(name.startswith(part) for name in others)


def _require_backbone(model: nn.Module, report: LoadReport) -> None:
    fitting, total = _share(report, f"{BACKBONE}.")
    if fitting >= ENOUGH_OF_BACKBONE * total:
        return
    name = type(getattr(model, BACKBONE)).__name__
    raise CheckpointError(
        f"{report.source} holds a backbone only, and {fitting} of the {total} tensors of {name} fit "
        f"({ENOUGH_OF_BACKBONE:.0%} must){_facts(report, f'{BACKBONE}.')}: choose the backbone that the file "
        "belongs to (for HGNetv2 its name: B0 to B6)"
    )


def _require_same_architecture(model: nn.Module, report: LoadReport) -> None:
    fitting, total = _share(report, "")
    in_backbone = _share(report, f"{BACKBONE}.")
    whole_backbone = in_backbone[1] > 0 and in_backbone[0] >= ENOUGH_OF_BACKBONE * in_backbone[1]
    if whole_backbone or fitting >= ENOUGH_OF_MODEL * total:
        return
    raise CheckpointError(
        f"{report.source} is of another architecture: {fitting} of the {total} tensors of {type(model).__name__} fit, "
        f"{in_backbone[0]} of {in_backbone[1]} in the backbone{_facts(report)}"
        f"{_other_family(report.in_file, report.in_model)}: use the config the checkpoint was "
        "trained with (its size n, s, m, l or x), or a checkpoint of this model"
    )


def _facts(report: LoadReport, part: str = "") -> str:
    """Examples of what does not fit in a part of the model, as a clause."""
    facts = []
    if misfits := [one for one in report.mismatched if one.name.startswith(part)]:
        facts.append(f"{len(misfits)} are of another shape, for example {misfits[0].name} ({misfits[0]})")
    if missing := [name for name in report.missing if name.startswith(part)]:
        facts.append(f"{len(missing)} are not in the file, for example {missing[0]}")
    if report.unexpected:
        facts.append(f"{len(report.unexpected)} of the file are not in the model, for example {report.unexpected[0]}")
    return "".join(f"; {fact}" for fact in facts)
