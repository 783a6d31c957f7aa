# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Start a new run from given weights: a whole detector, one of other classes, or a backbone alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .checkpoint_files import weights_in
from .class_rows import ClassMap, class_tensors, count_classes
from .errors import CheckpointError
from .load_report import LoadReport
from .weights import compare, is_counter, nothing_fits

logger = logging.getLogger(__name__)

BACKBONE = "backbone"
"""Name under which a detector holds its backbone."""
ENOUGH_OF_BACKBONE = 0.9
"""Share of a backbone's tensors that must fit: what else is missing would start from random numbers unnoticed."""
ENOUGH_OF_MODEL = 0.5
"""Share of a detector's tensors below which a file (whose backbone does not fit either) is of another architecture."""

ClassesOf = Callable[[int], "ClassMap | None"]
"""Works out how classes map, given the number of classes of the file; None = names are not known."""


def tune_weights(model: nn.Module, content: Mapping[str, Any], source: str, classes_of: ClassesOf) -> LoadReport:
    """Load what a file has for a freshly built model; everything else keeps its fresh initialisation.

    Class heads are copied row by row where ``classes_of`` knows the names, else loaded where their shapes are equal.
    A file with nothing but a backbone's weights, with or without ``backbone.`` in front, fills the backbone.

    Args:
        model: changed in place; unchanged when an error is raised.
        content: of a checkpoint file.
        source: its name for the report and messages.
        classes_of: called once, only for a file with class heads.

    Raises:
        CheckpointError: no weights in it, another architecture, or less than 90 % of the backbone in a backbone's file.
    """
    state = weights_in(content, source)
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
        f"{in_backbone[0]} of {in_backbone[1]} in the backbone{_facts(report)}: use the config the checkpoint was "
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
