# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``config.json`` of ``transformers``' D-FINE and RT-DETR, and the model sections of our YAML files, both ways.

What both can express is converted; what changes the outputs and only one of them has is refused, with its name.
The class count, and D-FINE's ``reg_scale`` and ``up``, are read from the weights: files converted by transformers' own
script say ``reg_scale`` 4 for size X, whose weights hold 8.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...core.errors import CheckpointError
from ...core.registry import REGISTRY, schema_of
from .backbones import plain
from .families import (
    COSTS,
    FAMILIES,
    FLOATS,
    TRAINING,
    WITHOUT_EFFECT,
    Family,
    Rows,
    check_model_type,
    class_count,
    family_of,
    label_names,
)

logger = logging.getLogger(__name__)


def config_from_huggingface(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], *, image_size: Sequence[int] = (640, 640)
) -> dict[str, Any]:
    """The sections of a YAML file that describe the same model, its post-processing and its losses.

    Args:
        content: a ``config.json`` of ``DFineForObjectDetection``, ``RTDetrForObjectDetection`` or
            ``RTDetrV2ForObjectDetection``.
        weights: the model's weights under our names (``from_huggingface``), for the class count and ``reg_scale``.
        image_size: (height, width) in pixels that images are resized to; ``anchor_image_size`` of theirs goes first.

    Returns: plain data. ``position_layout`` is ``grid``, as transformers 5 computes (see ``weights.py``).

    Raises:
        CheckpointError: another architecture, an entry that is unknown or that our model cannot follow, or another
            number of labels.
    """
    check_model_type(content, "config.json")
    family = FAMILIES[content["model_type"]]
    num_classes = class_count(weights)
    rows = {key: value for key, _, value in (*family.encoder_rows, *family.decoder_rows)}
    given = {**rows, **family.fixed, **TRAINING, **content}
    _check_entries(given, {**rows, **TRAINING}, family)
    _check_decoder(given)
    label_names(content, num_classes)
    decoder = {ours: plain(given[theirs]) for theirs, ours, _ in family.decoder_rows}
    if decoder["dropout"] != given["dropout"]:
        logger.warning(
            "config.json: dropout %s and attention_dropout %s differ; our decoder has one (training only): the first",
            given["dropout"], given["attention_dropout"],
        )  # fmt: skip
    decoder["dropout"] = given["dropout"]
    if "reg_scale" in decoder:
        decoder |= _scales(weights, decoder)
    encoder = {ours: plain(given[theirs]) for theirs, ours, _ in family.encoder_rows} | {"position_layout": "grid"}
    if family.decoder == "RTDETRTransformer":
        encoder["version"] = "v1"
    size = given.get("anchor_image_size") or image_size
    backbone, read_backbone, _ = family.backbone
    return {
        "num_classes": num_classes,
        "eval_spatial_size": [size, size] if isinstance(size, int) else list(size),
        "use_focal_loss": True,
        "model": family.model,
        "criterion": family.criteria[0],
        "postprocessor": family.postprocessor,
        family.model: {"backbone": backbone, "encoder": "HybridEncoder", "decoder": family.decoder},
        backbone: read_backbone(given),
        "HybridEncoder": encoder,
        family.decoder: decoder,
        family.postprocessor: {"num_top_queries": given["num_queries"]},
        family.criteria[0]: _criterion_from(given, family),
    }


def config_to_huggingface(
    data: Mapping[str, Any], *, num_classes: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """``config.json`` for ``from_pretrained`` of the architecture that the config's model belongs to.

    Args:
        data: a resolved config of ours as plain data.
        num_classes: C.
        names: class names in label order; None writes ``LABEL_0`` and so on, as transformers does.

    Raises:
        CheckpointError: another detector or part than transformers has, an argument it cannot express, or another
            number of names.
    """
    if names is not None and len(names) != num_classes:
        raise CheckpointError(f"{len(names)} class names for a model of {num_classes} classes: give one per class")
    kind, family = family_of(data)
    detector = _section(data, data.get("model"), family.model, "model", family)
    backbone_name, _, write_backbone = family.backbone

    def part(slot: str, cls: str, rows: Rows, meant: Mapping[str, Any]) -> dict[str, Any]:
        section = _section(data, detector.get(slot, cls), cls, f"{family.model}.{slot}", family)
        written = {ours for _, ours, _ in rows} | {"eval_spatial_size", "position_layout"} | family.free
        return _arguments(data, section, cls, written if rows else None, meant, family)

    encoder = part("encoder", "HybridEncoder", family.encoder_rows, family.meant)
    decoder = part("decoder", family.decoder, family.decoder_rows, {})
    backbone = part("backbone", backbone_name, (), {})
    _check_positions(encoder)
    content = {theirs: plain(encoder[ours]) for theirs, ours, _ in family.encoder_rows}
    content |= {theirs: plain(decoder[ours]) for theirs, ours, _ in family.decoder_rows}
    content |= {"dropout": encoder["dropout"], **{key: float(content[key]) for key in FLOATS if key in content}}
    content["positional_encoding_temperature"] = _integer(content["positional_encoding_temperature"])
    if family.meant:
        content["decoder_n_points"] = _points(content["decoder_n_points"])
    _check_decoder({"eval_idx": decoder["eval_idx"], **content})
    labels = list(names) if names is not None else [f"LABEL_{i}" for i in range(num_classes)]
    return {
        "architectures": [family.architecture],
        "model_type": kind,
        "torch_dtype": "float32",
        "is_encoder_decoder": True,
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
        "backbone_config": write_backbone(backbone),
        "freeze_backbone_batch_norms": bool(backbone["freeze_norm"]),
        "anchor_image_size": None,
        **family.fixed,
        **content,
        **_criterion_to(data, family),
    }


def _check_positions(encoder: Mapping[str, Any]) -> None:
    size = encoder["eval_spatial_size"]
    if size is not None and size[0] != size[1] and encoder.get("position_layout") == "official":
        raise CheckpointError(
            f"eval_spatial_size is {list(size)} with HybridEncoder.position_layout official: transformers 5 lays "
            "positions out otherwise on images that are not square; train with position_layout: grid to convert to it"
        )


def _check_entries(given: Mapping[str, Any], defaults: Mapping[str, Any], family: Family) -> None:
    """Refuse entries that are unknown, have no counterpart, or that somebody edited, before anything is computed."""
    known = {*defaults, *family.fixed} | WITHOUT_EFFECT
    if unknown := sorted(set(given) - known):
        raise CheckpointError(
            f"config.json: {', '.join(unknown)}: unknown to our {family.name}, which might compute something else: "
            "delete it from config.json if it changes no output"
        )
    for key, value in family.fixed.items():
        if given[key] != value:
            raise CheckpointError(
                f"config.json: {key} is {given[key]!r}, our {family.name} has {value!r} and no choice"
            )
    wrong = [f"{key} is {given[key]!r}" for key, default in defaults.items() if not _like(given[key], default)]
    if wrong:
        raise CheckpointError(f"config.json: {', '.join(wrong)}: transformers writes something else there: restore it")


def _like(value: Any, default: Any) -> bool:
    if isinstance(default, (bool, str)):
        return type(value) is type(default)
    if isinstance(value, (list, tuple)):
        return not isinstance(default, float) and bool(value) and all(type(item) is int for item in value)
    return type(value) is int or (type(value) is float and not isinstance(default, list))


def _check_decoder(content: Mapping[str, Any]) -> None:
    """What transformers' decoder cannot do, or does differently."""
    levels, channels = content["num_feature_levels"], list(content["decoder_in_channels"])
    if not levels == len(channels) == content.get("decoder_n_levels", levels):
        raise CheckpointError(
            f"the decoder makes {content.get('decoder_n_levels', levels)} levels from {len(channels)} maps: "
            "transformers builds the extra levels differently, so such a model cannot be converted"
        )
    eval_idx, layers = content.get("eval_idx", -1), content["decoder_layers"]
    if eval_idx not in (-1, layers - 1):
        raise CheckpointError(
            f"eval_idx is {eval_idx} of {layers} decoder layers: transformers can only evaluate at the last one, so "
            "such a model cannot be converted"
        )


def _scales(weights: Mapping[str, Tensor], decoder: Mapping[str, Any]) -> dict[str, Any]:
    """D-FINE's ``reg_scale`` and ``up``. Official files write the first as a whole number, and so do checkpoints."""
    if "decoder.reg_scale" not in weights:
        raise CheckpointError("no reg_scale among the weights: not a D-FINE, or incomplete")
    scale = weights["decoder.reg_scale"].item()
    up = weights["decoder.up"].item() if "decoder.up" in weights else decoder["up"]
    return {"reg_scale": int(scale) if float(scale).is_integer() else scale, "up": up}


def _criterion_from(content: Mapping[str, Any], family: Family) -> dict[str, Any]:
    return {
        "weight_dict": {ours: content[theirs] for theirs, ours in family.weights.items()},
        "losses": ["vfl", "boxes", *(["local"] if "fgl" in family.losses else [])],
        "alpha": content["focal_loss_alpha"],
        "gamma": content["focal_loss_gamma"],
        **({"reg_max": content["max_num_bins"]} if "fgl" in family.losses else {}),
        "matcher": {
            "type": "HungarianMatcher",
            "weight_dict": {ours: content[theirs] for theirs, ours in COSTS.items()},
            "alpha": content["matcher_alpha"],
            "gamma": content["matcher_gamma"],
        },
    }


def _criterion_to(data: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Weights of losses and matching where the config has a criterion, else the official ones."""
    if data.get("criterion") is None:
        return {key: value for key, value in TRAINING.items() if key in family.weights or "weight" not in key}
    given = data["criterion"].get("type") if isinstance(data["criterion"], Mapping) else data["criterion"]
    name = given if given in family.criteria else family.criteria[0]
    criterion = _section(data, data["criterion"], name, "criterion", family)
    place = f"{name}.matcher"
    matcher = _section(data, criterion.get("matcher", "HungarianMatcher"), "HungarianMatcher", place, family)
    weights, costs = criterion.get("weight_dict") or {}, matcher.get("weight_dict") or {}
    written = {theirs: float(weights.get(ours) or 0) for theirs, ours in family.weights.items()}
    written |= {theirs: float(costs.get(ours) or 0) for theirs, ours in COSTS.items()}
    for theirs, section, ours, default in (
        ("focal_loss_alpha", criterion, "alpha", 0.2),
        ("focal_loss_gamma", criterion, "gamma", 2.0),
        ("matcher_alpha", matcher, "alpha", 0.25),
        ("matcher_gamma", matcher, "gamma", 2.0),
    ):
        written[theirs] = float(section.get(ours, default))
    return written


def _section(data: Mapping[str, Any], value: object, wanted: str, place: str, family: Family) -> dict[str, Any]:
    """Arguments of a component that is named or given inline; only one class is possible."""
    inline = dict(value) if isinstance(value, Mapping) else {}
    name = inline.pop("type", None) if isinstance(value, Mapping) else value
    if name != wanted:
        raise CheckpointError(f"{place} is {name!r}: transformers' {family.name} corresponds to {wanted} only")
    return {**dict(data.get(wanted) or {}), **inline}


def _arguments(
    data: Mapping[str, Any],
    section: Mapping[str, Any],
    cls: str,
    written: set[str] | frozenset[str] | None,
    meant: Mapping[str, Any],
    family: Family,
) -> dict[str, Any]:
    """All arguments of a component: its section, else shared values at the top, else what its family means.

    Raises:
        CheckpointError: one that is not ``written`` (None for all are) and not what transformers has.
    """
    arguments = {}
    for name, parameter in schema_of(REGISTRY[cls]).parameters.items():
        default = meant.get(name, parameter.default if parameter.default is not inspect.Parameter.empty else None)
        arguments[name] = section.get(name, data.get(name, default))
        if written is None or name in written or name == "num_classes" or plain(arguments[name]) == plain(default):
            continue
        raise CheckpointError(
            f"{cls}.{name} is {arguments[name]!r}: transformers' {family.name} has no such choice, it is {default!r}"
        )
    return arguments


def _points(points: int | Sequence[int]) -> int:
    counts = {points} if isinstance(points, int) else set(points)
    if len(counts) > 1:
        raise CheckpointError(
            f"num_points is {list(counts)}: transformers' RT-DETR has as many points on every level, so such a model "
            "cannot be converted"
        )
    return counts.pop()


def _integer(temperature: float) -> int:
    if not float(temperature).is_integer():
        raise CheckpointError(f"HybridEncoder.pe_temperature is {temperature}: transformers takes whole numbers only")
    return int(temperature)
