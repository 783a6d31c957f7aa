# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A trained model in any form it is handed around in: checkpoints, safetensors, folders of transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.checkpoint import read_checkpoint, weights_in
from ..core.checkpoint.card import Card, file_sha256, read_card
from ..core.config.foreign import refuse_url
from ..core.config.node import parse_yaml
from ..core.errors import CheckpointError, ConfigError, DataError
from ..data.label_space import MSCOCO, LabelSpace
from ..zoo.dfine.huggingface import from_huggingface
from ..zoo.dfine.huggingface_config import class_count, config_from_huggingface, label_names
from ..zoo.dfine.huggingface_folder import CONFIG, is_huggingface, read_folder

logger = logging.getLogger(__name__)

_THEIR_KEYS = ("model.backbone.model.", "model.encoder_input_proj.")


@dataclass(frozen=True)
class Source:
    """What a file or folder holds."""

    path: Path
    form: str
    """In words, for people."""
    weights: dict[str, Tensor]
    """Under our names, which are the official ones."""
    weights_file: Path
    config: dict[str, Any] | None = None
    """The resolved config of the run, where the file has it."""
    model_sections: dict[str, Any] | None = None
    """The model's part of a config, where only that can be known (transformers)."""
    label_space: LabelSpace | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    licence: str | None = None
    notes: str = ""
    """What its card says beyond that."""

    @property
    def provenance(self) -> str:
        """One line for a card."""
        return f"{self.form}: {self.path.name}, SHA-256 {file_sha256(self.weights_file)}"


def open_source(path: str | PathLike[str], *, ema: bool | None = None) -> Source:
    """Read a model, whatever its form.

    Args:
        path: official ``.pth``; a checkpoint of ours; ``.safetensors`` of ours, with or without card; a folder of
            transformers or its weights file; a state dict of transformers in a ``.pth``.
        ema: take the averaged weights (True), the plain ones (False), or the averaged ones where there are any (None).

    Raises:
        CheckpointError: it cannot be read, is no D-FINE, or lacks the weights that ``ema`` asks for.
    """
    refuse_url(path)
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder: check the path")
    if is_huggingface(path) or path.is_dir():
        _refuse_ema(ema, path)
        return _from_folder(path)
    if path.suffix == ".safetensors":
        _refuse_ema(ema, path)
        return _from_safetensors(path)
    return _from_checkpoint(path, ema)


def _from_folder(path: Path) -> Source:
    folder = read_folder(path)
    weights = from_huggingface(folder.weights)
    sections = config_from_huggingface(folder.config, weights, image_size=folder.image_size)
    card, labels = (
        _card_of_folder(folder.weights_file),
        label_space_of(label_names(folder.config, class_count(weights))),
    )
    known = _labels_of(card)
    if known is not None and (labels is None or labels.names == known.names):
        labels = known  # with the original category ids, which config.json has no place for
    return Source(
        path,
        f"transformers D-FINE folder (transformers {folder.config.get('transformers_version') or 'unknown'})",
        weights,
        folder.weights_file,
        config=None if card is None else card.config,
        model_sections=sections,
        label_space=labels,
        metrics={} if card is None else card.metrics,
        licence=None if card is None else card.licence,
        notes="" if card is None else card.notes,
    )


def _card_of_folder(weights: Path) -> Card | None:
    """Our card in a transformers folder, unless the model was saved again by transformers since."""
    try:
        return read_card(weights)
    except CheckpointError as error:
        logger.warning("%s; the card is left out", error)
        return None


def _from_safetensors(path: Path) -> Source:
    weights, card = read_checkpoint(path), read_card(path)
    if _is_theirs(weights) and (path.parent / CONFIG).is_file():
        return _from_folder(path)
    if _is_theirs(weights):
        return Source(path, "transformers D-FINE weights without config.json", from_huggingface(weights), path)
    if card is None:
        return Source(path, "safetensors without card", weights_in(weights, str(path)), path)
    form = f"isdfine safetensors with card (isdfine {card.version or '?'}, {card.date or 'no date'})"
    return Source(
        path, form, weights_in(weights, str(path)), path, config=card.config, label_space=_labels_of(card),
        metrics=card.metrics, licence=card.licence, notes=card.notes,
    )  # fmt: skip


def _from_checkpoint(path: Path, ema: bool | None) -> Source:
    content = read_checkpoint(path)
    has_ema = isinstance(content.get("ema"), Mapping) and "module" in content["ema"]
    if ema and not has_ema:
        raise CheckpointError(f"{path}: no averaged weights (ema.module) in it: leave --ema out")
    if ema is False and has_ema:
        if "model" not in content:
            raise CheckpointError(f"{path}: only averaged weights (ema.module) in it: leave --no-ema out")
        content = {key: value for key, value in content.items() if key != "ema"}
    weights = weights_in(content, str(path))
    which = "averaged weights" if has_ema and ema is not False else "plain weights"
    if _is_theirs(weights):
        return Source(path, "transformers D-FINE state dict", from_huggingface(weights), path)
    if "label_space" not in content and "config" not in content:
        return Source(path, f"official D-FINE checkpoint ({which})", weights, path)
    return Source(
        path,
        f"isdfine checkpoint ({which})",
        weights,
        path,
        config=_parse_config(content.get("config"), path),
        label_space=_label_space(content["label_space"], path) if content.get("label_space") else None,
        metrics=_metrics(content, path),
        licence=content["licence"] if isinstance(content.get("licence"), str) else None,
        notes=content["notes"] if isinstance(content.get("notes"), str) else "",
    )


def label_space_of(names: list[str] | None) -> LabelSpace | None:
    """Classes known by name only: COCO's own where all names are COCO's, else numbered from 0."""
    if names is None:
        return None
    if tuple(names) == MSCOCO.names:
        return MSCOCO
    return LabelSpace(tuple(names), tuple(range(len(names))))


def _refuse_ema(ema: bool | None, path: Path) -> None:
    if ema is not None:
        raise CheckpointError(f"{path}: holds one set of weights: --ema and --no-ema are for .pth checkpoints")


def _is_theirs(weights: Mapping[str, Any]) -> bool:
    return any(str(key).startswith(_THEIR_KEYS) for key in weights)


def _labels_of(card: Card | None) -> LabelSpace | None:
    return None if card is None or card.label_space is None else LabelSpace.from_dict(card.label_space)


def _label_space(saved: Any, path: Path) -> LabelSpace:
    try:
        return LabelSpace.from_dict(saved)
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its label_space cannot be read ({error}): the checkpoint is damaged") from error


def _parse_config(text: Any, path: Path) -> dict[str, Any] | None:
    if not isinstance(text, str):
        return None
    try:
        config = parse_yaml(text, f"{path} (config)").plain()
    except ConfigError as error:
        raise CheckpointError(f"{error}: the checkpoint is damaged; give the run's config with -c") from error
    return config if isinstance(config, dict) else None


def _metrics(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Those a conversion wrote, else the AP of a run's ``best*.pth``; its other checkpoints did not get it."""
    if isinstance(content.get("metrics"), Mapping):
        return {str(name): float(value) for name, value in content["metrics"].items()}
    best = content.get("progress")
    for key in ("best", "best"):
        best = best.get(key) if isinstance(best, Mapping) else None
    return {"AP": float(best)} if isinstance(best, (int, float)) and path.name.startswith("best") else {}
