# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a trained detector as ONNX in one call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import isdfine

from ..core.config import Config
from ..core.errors import ConfigError, DataError
from ..deploy.onnx.export import ExportReport, Precision, export_onnx
from ..deploy.onnx.graph import DEFAULT_OPSET, GraphForm
from ..deploy.onnx.sample import images_in
from ..deploy.preprocess import Recipe, image_size_of, recipe_of
from ..load import LoadedDetector, load_detector
from .run import Run

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "doclayout-tiny"
"""Pages in a checkout."""


def export(
    checkpoint: str | Path | Run,
    output: str | Path | None = None,
    *,
    config: str | Path | Config | None = None,
    size: tuple[int, int] | None = None,
    precision: Precision = "fp32",
    dynamic_size: bool = False,
    uint8_input: bool = False,
    opset: int = DEFAULT_OPSET,
    images: str | Path | None = None,
    ema: bool | None = None,
    update: Iterable[str] = (),
) -> ExportReport:
    """Write a detector as ONNX, as ``isdfine export`` does; the file is kept if ONNX Runtime finds what PyTorch finds.

    Args:
        checkpoint: file, folder of a run (its last one), or a :class:`Run` (its best one).
        output: file to write; None = the checkpoint's name with ``.onnx``, in the working folder.
        config: of the run, for files that carry none (the official ones); it wins over the file's own.
        size: (height, width) in pixels, multiples of 32; None = the run's.
        precision: ``fp32`` or ``fp16``, of weights and arithmetic inside the graph.
        dynamic_size: leave height and width free, in steps of 32 pixels.
        uint8_input: images are uint8 and scaled inside the graph.
        opset: version of the ONNX operators.
        images: folder of real images to compare on; None = the validation set of the run.
        ema: averaged (True) or plain (False) weights; None = averaged ones where there are any.
        update: keys of ``config`` to set.

    Returns:
        Path of the file and how near it is to PyTorch.

    Raises:
        ConfigError, CheckpointError, DataError: a mistake in what is given, or a missing package.
        ExportError: the graph is not the model; nothing is left of it.
    """
    path = checkpoint.best if isinstance(checkpoint, Run) else checkpoint
    update = list(update)
    if update and config is None:
        raise ConfigError("-u changes a config: give it with -c")
    if config is not None:
        config = isdfine.load_config(config, update)
    loaded = load_detector(path, config, ema=ema)
    own = recipe_of(loaded.config)
    size = (size[0], size[1]) if size else None
    chosen = size or own.size or image_size_of(loaded.config)
    form = GraphForm(chosen, dynamic_size, uint8_input, opset)  # refuses impossible sizes and opsets
    if own.padding is not None and not size:
        raise ConfigError(
            f"{path}: evaluated on padded batches, and the graph has no input for the size of the content: "
            "give --size HEIGHT WIDTH, which squashes images to one size, and evaluate that"
        )
    loaded, recipe = _at_size(loaded, None if form.dynamic_size else chosen, path, ema)
    return export_onnx(
        loaded.model, loaded.postprocessor, output or default_output(Path(path)), size=chosen,
        images=images_in(comparison_images(images, loaded, config)), precision=precision, dynamic_size=dynamic_size,
        uint8_input=uint8_input, metadata=_metadata_of(loaded), recipe=recipe, opset=opset,
    )  # fmt: skip


def _at_size(
    loaded: LoadedDetector, size: tuple[int, int] | None, path: str | Path, ema: bool | None
) -> tuple[LoadedDetector, Recipe]:
    """The detector built for a size, None = any: tables of another size are not carried along."""
    wanted = None if size is None else list(size)
    if loaded.config.get("eval_spatial_size") != wanted:
        loaded = load_detector(path, loaded.config.with_values({"eval_spatial_size": wanted}), ema=ema)
    return loaded, recipe_of(loaded.config)


def comparison_images(images: str | Path | None, loaded: LoadedDetector, config: Config | None) -> Path:
    """Folder of images: the one given, the run's validation set, or the pages of a checkout."""
    if images is not None:
        return Path(images)
    run = loaded.checkpoint.config if config is None else config.data
    section = ((run or {}).get("val_dataloader") or {}).get("dataset") or {}
    named = (section.get(key) for key in ("img_folder", "root", "data"))  # by format
    place = next((Path(value) for value in named if isinstance(value, str)), None)
    if place is not None and place.exists():
        return place if place.is_dir() else place.parent
    if not BUNDLED.is_dir():
        raise DataError("no images to compare with: give a folder of real ones with --images")
    return BUNDLED


def _metadata_of(loaded: LoadedDetector) -> dict[str, str]:
    """What the file says about its classes and its origin."""
    return {
        "isdfine_version": isdfine.__version__,
        "names": json.dumps(list(loaded.labels.names), ensure_ascii=False),
        "ids": json.dumps(list(loaded.labels.category_ids)),
        "source": loaded.checkpoint.provenance,
        "licence": loaded.checkpoint.licence or "unknown",
    }


def default_output(checkpoint: Path) -> Path:
    """``best.onnx`` here for ``output/run/best.pth``, ``my.model.onnx`` for a folder ``my.model``."""
    name = checkpoint.resolve().name
    return Path(f"{name if checkpoint.is_dir() else Path(name).stem}.onnx")
