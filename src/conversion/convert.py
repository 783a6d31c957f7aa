# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a trained model in another form, and prove that what was written is the same model.

Everything is written under a temporary name first, read back, built anew and compared on a seeded image. Only then does
it take its final name, so a failed conversion leaves whatever was there before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.checkpoint.card import UNKNOWN_LICENCE, Card, card_path, save_weights, write_text
from ..core.config import Config
from ..core.config.node import locate
from ..core.errors import CheckpointError
from ..core.files import whole_file, why
from ..data.label_space import LabelSpace
from ..deploy.preprocess import image_size_of
from ..load import Checkpoint, build_with, open_checkpoint
from ..nn.types import Predictions
from ..zoo.huggingface.config import config_to_huggingface
from ..zoo.huggingface.folder import write_folder
from ..zoo.huggingface.weights import to_huggingface
from .training_layers import drop_training_layers

Form = Literal["official", "huggingface", "safetensors"]
TOLERANCE = 1e-4
"""Largest difference of logits and box coordinates between a model and its converted form."""
_SEED = 0
_ROUNDED = "weights rounded to 16 bits"
_ENDINGS: dict[str, tuple[str, ...]] = {"official": (".pth", ".pt"), "safetensors": (".safetensors",)}


@dataclass(frozen=True)
class ConversionRequest:
    """What is to be written."""

    form: Form
    output: Path
    label_space: LabelSpace | None = None
    licence: str | None = None
    metrics: Mapping[str, float] | None = None
    half: bool = False
    """Store weights in 16 bits."""
    inference: bool = False
    """Leave out decoder layers that only training runs; transformers folders never have them."""
    force: bool = False
    """Replace an earlier output."""
    with_yaml: bool = False
    """Write the config as YAML beside the output (``.yml``, in a folder ``isdfine.yml``)."""
    version: str = ""
    """Version of isdfine, for the card."""


@dataclass(frozen=True)
class Conversion:
    """What was written, and how near it is."""

    files: list[Path]
    num_tensors: int
    logits: float
    """Largest difference of class logits between what was written and the model (with ``half``: rounded to 16 bits)."""
    boxes: float
    """The same for box coordinates, fractions of the image."""
    rounding: float | None = None
    """With ``half``: how much the rounding itself moves the 100 best scores, at most."""
    left_out: str | None = None
    """Which decoder layers were left out, in words."""


def convert(source: Checkpoint, config: Config, wanted: ConversionRequest) -> Conversion:
    """Write ``source`` in another form.

    Args:
        source: the model as it was found.
        config: describes it; its model section is what is built.
        wanted: form, place and what to say about it.

    Raises:
        CheckpointError: config and weights do not fit, the form cannot express the model, the output exists, or what
            was written is not the same model. Nothing that existed before is changed then.
    """
    _check_output(wanted)
    given = config
    model, config = build_with(source, config)
    _check_classes(given, wanted.label_space, config.get("num_classes"))
    left_out: str | None = None
    rounding: float | None = None
    if wanted.inference or wanted.form == "huggingface":
        config, source, model, left_out = _shortened(config, source, model)
    if wanted.half:
        exact, (model, _) = model, build_with(replace(source, weights=_halved(source.weights)), config)
        rounding = _moved_scores(exact, model, image_size_of(config))
    stage = wanted.output.with_name(f".converting-{wanted.output.name}")
    _remove(stage)
    try:
        _write(model, source, config, wanted, stage)
        logits, boxes = _verify(model, config, stage)
        files = _publish(stage, wanted.output)
    finally:
        _remove(stage)
    if wanted.with_yaml:
        files.append(_yaml_path(wanted))
        write_text(files[-1], config.dump())
    return Conversion(files, len(model.state_dict()), logits, boxes, rounding, left_out)


def largest_differences(one: nn.Module, other: nn.Module, image_size: tuple[int, int]) -> tuple[float, float]:
    """Largest absolute differences of logits and boxes of two models on one seeded image of (height, width) pixels."""
    first, second = _predict(one, image_size), _predict(other, image_size)
    if first.logits.shape != second.logits.shape:
        raise CheckpointError(
            f"the converted model answers with logits of shape {tuple(second.logits.shape)}, the original with "
            f"{tuple(first.logits.shape)}: this is a fault of the conversion, please report it"
        )
    return _largest(first.logits, second.logits), _largest(first.boxes, second.boxes)


def _predict(model: nn.Module, image_size: tuple[int, int]) -> Predictions:
    image = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(_SEED))
    with torch.inference_mode():
        answer: Predictions = model.eval()(image)
    return answer


def _moved_scores(one: nn.Module, other: nn.Module, image_size: tuple[int, int]) -> float:
    """Scores in their order, not query by query: rounding lets queries change places."""
    first, second = (_predict(model, image_size).logits.sigmoid().flatten() for model in (one, other))
    count = min(100, len(first))
    return _largest(first.topk(count).values, second.topk(count).values)


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _shortened(
    config: Config, source: Checkpoint, model: nn.Module
) -> tuple[Config, Checkpoint, nn.Module, str | None]:
    """All three without the layers that only training runs, if there are any; the outputs are compared."""
    config, weights, left_out = drop_training_layers(config, source.weights)
    if left_out is None:
        return config, source, model, None
    source = replace(source, weights=weights)
    shorter, _ = build_with(source, config)
    _check_difference(*largest_differences(model, shorter, image_size_of(config)))
    notes = "; ".join(note for note in (source.notes, left_out) if note)
    return config, replace(source, notes=notes), shorter, left_out


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights rounded to 16 bits; tables that models compute for themselves are left."""
    halved = {}
    for key, value in weights.items():
        if not value.is_floating_point() or key.endswith((".anchors", ".reg_scale", ".up")):
            halved[key] = value
            continue
        halved[key] = value.half()
        if not torch.isfinite(halved[key]).all():
            raise CheckpointError(f"{key} holds values beyond {torch.finfo(torch.half).max:.0f}: leave --fp16 out")
    return halved


def _write(model: nn.Module, source: Checkpoint, config: Config, wanted: ConversionRequest, stage: Path) -> None:
    state = model.state_dict()
    if wanted.half:
        state = _halved(state)
    labels = None if wanted.label_space is None else wanted.label_space.to_dict()
    card = Card(
        config=config.data,
        label_space=labels,
        metrics={**source.metrics, **(wanted.metrics or {})},
        licence=wanted.licence or source.licence or UNKNOWN_LICENCE,
        source=source.provenance,
        version=wanted.version,
        notes="; ".join(dict.fromkeys(note for note in (source.notes, _ROUNDED if wanted.half else "") if note)),
    )
    if wanted.form == "official":
        _write_official(state, config, card, stage)
    elif wanted.form == "safetensors":
        save_weights(state, stage, card)
    else:
        names = None if wanted.label_space is None else wanted.label_space.names
        content = config_to_huggingface(config.data, num_classes=config.get("num_classes"), names=names)
        content["torch_dtype"] = "float16" if wanted.half else "float32"
        write_folder(stage, content, to_huggingface(state), card, image_size=image_size_of(config))


def _write_official(state: Mapping[str, Tensor], config: Config, card: Card, path: Path) -> None:
    """As official tools expect, with entries of ours that they do not read."""
    content: dict[str, Any] = {"model": dict(state), "ema": {"module": dict(state)}, "config": config.dump()}
    content |= {"licence": card.licence, "metrics": dict(card.metrics), "source": card.source, "notes": card.notes}
    if card.label_space is not None:
        content["label_space"] = card.label_space
    try:
        with whole_file(path) as partial, open(partial, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: could not be written ({why(error)}): free space or choose another folder"
        ) from error


def _verify(model: nn.Module, config: Config, stage: Path) -> tuple[float, float]:
    """Read what was written as anybody would, build it, and compare.

    Raises:
        CheckpointError: keys or outputs differ.
    """
    written = open_checkpoint(stage)
    if written.config is None:
        raise CheckpointError(f"{stage}: the config did not come back: this is a fault of the conversion, report it")
    again = Config(locate(written.config, stage.name), str(stage), config.registry)
    again = again.with_values(written.model_sections or {})
    keys = [
        {key for key in weights if not key.endswith((".anchors", ".valid_mask"))}  # those are made anew
        for weights in (model.state_dict(), written.weights)
    ]
    if wrong := sorted(keys[0] ^ keys[1]):
        raise CheckpointError(f"conversion failed, nothing was written: keys differ, for example {wrong[0]}")
    read_back, _ = build_with(written, again)
    logits, boxes = largest_differences(model, read_back, image_size_of(config))
    _check_difference(logits, boxes)
    return logits, boxes


def _check_difference(logits: float, boxes: float) -> None:
    if not max(logits, boxes) <= TOLERANCE:  # also where one is NaN
        raise CheckpointError(
            f"conversion failed, nothing was written: outputs differ by {logits:.2g} (logits) and {boxes:.2g} (boxes), "
            f"more than {TOLERANCE:g}"
        )


def _check_output(wanted: ConversionRequest) -> None:
    output, endings = wanted.output, _ENDINGS.get(wanted.form)
    if endings is not None and output.suffix not in endings:
        raise CheckpointError(f"{output}: --to {wanted.form} writes a file: give a name that ends in {endings[0]}")
    if endings is not None and output.is_dir():
        raise CheckpointError(f"{output}: is a folder, and --to {wanted.form} writes a file: choose another name")
    if endings is None and (output.is_file() or output.suffix in (".pth", ".pt", ".safetensors")):
        raise CheckpointError(f"{output}: --to {wanted.form} writes a folder: give the name of a folder")
    there = [path for path in (output, *_beside(wanted)) if path.exists()]
    if there and not wanted.force:
        raise CheckpointError(f"{there[0]}: exists: choose another name, or replace it with --force")


def _beside(wanted: ConversionRequest) -> list[Path]:
    card = [card_path(wanted.output)] if wanted.form == "safetensors" else []
    return [*card, *([_yaml_path(wanted)] if wanted.with_yaml else [])]


def _yaml_path(wanted: ConversionRequest) -> Path:
    return wanted.output / "isdfine.yml" if wanted.form == "huggingface" else wanted.output.with_suffix(".yml")


def _check_classes(config: Config, labels: LabelSpace | None, num_classes: int) -> None:
    if config.get("num_classes") not in (None, num_classes):
        raise CheckpointError(
            f"{config.path}: num_classes is {config.get('num_classes')}, the weights have {num_classes} classes: use "
            f"the config they were trained with, or -u num_classes={num_classes}"
        )
    if labels is not None and len(labels) != num_classes:
        raise CheckpointError(
            f"{len(labels)} class names ({labels.names[0]}, ...) for weights with {num_classes} classes: give the "
            "annotation file the model was trained on with --classes"
        )


def _publish(stage: Path, output: Path) -> list[Path]:
    """Give the finished files their names; a folder keeps files of other names it had before."""
    moved = []
    pairs = [(stage, output), (card_path(stage), card_path(output))]
    if stage.is_dir():
        output.mkdir(parents=True, exist_ok=True)
        pairs = [(path, output / path.name) for path in sorted(stage.iterdir())]
    for path, final in pairs:
        if path.is_file() and path != final:
            os.replace(path, final)
            moved.append(final)
    return moved


def _remove(stage: Path) -> None:
    if stage.is_dir():
        shutil.rmtree(stage)
    for path in (stage, card_path(stage)):
        path.unlink(missing_ok=True)
