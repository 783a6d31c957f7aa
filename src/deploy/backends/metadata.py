# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What exported files say about themselves, as texts by name (``metadata_props`` of ONNX, a JSON file of engines)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ...core.errors import CheckpointError, DataError
from ...data.label_space import LabelSpace
from ..preprocess import Recipe
from .base import BackendInfo

VERSION = "isdfine_version"
UINT8 = "uint8"
INPUTS = ("images", "orig_target_sizes")
OUTPUTS = ("labels", "boxes", "scores")


def info_from(
    metadata: Mapping[str, str],
    place: str,
    backend: str,
    *,
    uint8: bool,
    max_batch: int | None,
    size: tuple[int, int] | None,
    names: Sequence[str] | None,
) -> BackendInfo:
    """Names, ids and preprocessing of an exported model.

    Args:
        metadata: of the file; without ``isdfine_version`` in it the file is another project's.
        place: the file, for messages.
        backend: for people.
        uint8, max_batch: what the inputs of the graph say.
        size: (height, width) of the input, None where it is free.
        names: classes of a file of another project in label order: with them an official D-FINE export, which has
            the same inputs and outputs and no metadata, can be used (squashed to ``size``, pixels in [0, 1]).

    Raises:
        CheckpointError: no metadata and no names, or metadata that cannot be read.
    """
    if VERSION in metadata:
        if names is not None:
            raise CheckpointError(f"{place}: says its classes itself: leave names out")
        recipe, labels = Recipe.from_metadata(metadata, place), _labels(metadata, place)
    else:
        if names is None or size is None:
            raise CheckpointError(
                f"{place}: was not written by isdfine (no {VERSION} in its metadata): export the model with "
                "tools/export_onnx.py; an official D-FINE export of one size can be used with its class names (names=)"
            )
        recipe, labels = Recipe.squash(size), _named(names, place)
    if size is not None and recipe.size is not None and recipe.size != size:
        raise CheckpointError(
            f"{place}: takes images of {size[0]} x {size[1]} (height x width), its metadata say {recipe.size}: "
            "export the model again"
        )
    return BackendInfo(labels, recipe, backend, uint8, max_batch)


def _labels(metadata: Mapping[str, str], place: str) -> LabelSpace:
    try:
        labels = {"names": json.loads(metadata["names"]), "category_ids": json.loads(metadata["ids"])}
        return LabelSpace.from_dict(labels)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{place}: its metadata do not say its classes ({error!r}): export the model again with "
            "tools/export_onnx.py"
        ) from None


def _named(names: Sequence[str], place: str) -> LabelSpace:
    try:
        return LabelSpace.from_names(list(names), f"{place} (names)")
    except DataError as error:
        raise CheckpointError(str(error)) from None


def check_interface(path: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse models with other inputs or outputs.

    Raises:
        CheckpointError: naming both.
    """
    if set(inputs) != set(INPUTS) or not set(OUTPUTS) <= set(outputs):
        raise CheckpointError(
            f"{path}: has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}, expected "
            f"{', '.join(INPUTS)} and {', '.join(OUTPUTS)}: it is another project's model; export one with "
            "tools/export_onnx.py"
        )
