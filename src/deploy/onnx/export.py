# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a detector as ONNX, and keep the file only if ONNX Runtime finds what PyTorch finds."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from ...core.checkpoint import NO_SUM, SUM_KEY, write_with_sum
from ...core.errors import ConfigError
from ...core.extras import need
from ...core.files import whole_file
from ..preprocess import SQUASH, Recipe
from .compare import Difference
from .graph import DEFAULT_OPSET, STRIDE, Deployed, GraphForm, to_onnx
from .half import HalfShare, share, to_half
from .sample import VerificationSample, draw_sample
from .structure import ExportError
from .verify import verify

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)
SUFFIX = ".onnx"
Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class ExportReport:
    """What was written and how near it is to PyTorch."""

    path: Path
    differences: dict[str, Difference]
    """By case, for example ``batch 3 of 640 x 640``."""
    share: HalfShare
    nodes: int
    seconds: float
    """Of tracing and translating, without the comparison."""
    unstable: int
    """Images that were left out because PyTorch's own answer jumps at rounding noise."""
    jitter: float
    """Size of that noise, in 0..1: 1e-6, or 2e-7 where no image was stable at that."""
    size: tuple[int, int]
    """(height, width) in pixels; one of many where it is free."""
    images: Path
    """Folder of the images that were compared on."""


def export_onnx(
    model: nn.Module,
    postprocessor: nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int],
    images: Sequence[Path],
    precision: Precision = "fp32",
    dynamic_size: bool = False,
    uint8_input: bool = False,
    metadata: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    opset: int = DEFAULT_OPSET,
) -> ExportReport:
    """Export, compare with PyTorch in ONNX Runtime at batch 1, 3 and 8, and only then give the file its name.

    Args:
        model: detector on the CPU, in float32; it is fused into a copy. For ``dynamic_size`` it must be built without
            ``eval_spatial_size``.
        postprocessor: predictions and sizes -> detections.
        path: file to write.
        size: (height, width) in pixels, multiples of 32.
        images: real ones to compare on; 8 are used.
        precision: ``fp16`` writes half precision into the graph (``half.to_half``).
        dynamic_size: leave height and width free, in steps of 32 pixels; a rectangle is then compared as well.
        uint8_input: put the preprocessing behind the resize into the graph.
        metadata: further texts for the file, ``names`` and ``ids`` above all.
        recipe: how the run prepares images; where it gives them another size than ``size``, or there is none, they are
            squashed to ``size``.
        opset: of the ONNX standard.

    Raises:
        ConfigError: something asked for is impossible, a package is missing, or the file cannot be written.
        ExportError: the graph is not the model; nothing is left of it.
    """
    need("onnx", "export"), need("onnxruntime", "export")
    path, form = Path(path), GraphForm(size, dynamic_size, uint8_input, opset)
    if precision not in ("fp32", "fp16"):
        raise ConfigError(f"precision is {precision!r}: choose fp32 or fp16")
    check_writable(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: give it the ending {SUFFIX}, by which isdfine.Detector and trtexec know such files")
    if recipe is not None and recipe.size != size and recipe.rule != SQUASH:
        logger.warning("images of this file are squashed to %d x %d; the run evaluated with %r", *size, recipe.rule)
    recipe = _at_size(recipe, size)
    deployed = Deployed(model, postprocessor, recipe, uint8=uint8_input)
    samples = [draw_sample(model, postprocessor, images, recipe)]
    if dynamic_size:
        samples.append(draw_sample(model, postprocessor, images, _at_size(recipe, _rectangle(size))))
    started = time.perf_counter()
    proto = to_onnx(deployed, form)
    if precision == "fp16":
        proto = to_half(proto)
    seconds = time.perf_counter() - started
    _describe(proto, recipe, form, precision, metadata or {})
    differences = _publish(proto, path, samples, form, precision)
    unstable = sum(sample.unstable for sample in samples)
    jitter = min(sample.jitter for sample in samples)
    folder = Path(os.path.commonpath([image.parent for image in images]))
    return ExportReport(path, differences, share(proto), len(proto.graph.node), seconds, unstable, jitter, size, folder)


def check_writable(path: Path) -> None:
    """ConfigError where a file cannot be written: known before the minutes of an export, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: its folder cannot be made ({error.strerror}): choose another output") from None
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder: give the name of a file, for example {path / 'model.onnx'}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: the folder cannot be written: correct its permissions, or choose another output")


def trtexec_line(path: Path, size: tuple[int, int], *, dynamic_size: bool = False, batches: Sequence[int]) -> str:
    """The command that makes a TensorRT engine of a file, for min, opt and max batch."""
    height, width = size
    shapes = [f"images:{batch}x3x{height}x{width},orig_target_sizes:{batch}x2" for batch in batches]
    flags = " ".join(f"--{name}Shapes={text}" for name, text in zip(("min", "opt", "max"), shapes))
    note = "  # widen the shapes to the sizes you use" if dynamic_size else ""
    files = f"--onnx={shlex.quote(str(path))} --saveEngine={shlex.quote(str(path.with_suffix('.engine')))}"
    return f"trtexec {files} --stronglyTyped --noTF32 {flags}{note}"


def _at_size(recipe: Recipe | None, size: tuple[int, int]) -> Recipe:
    """The recipe for another size: what pixels become stays, all that resizes is one squash."""
    if recipe is None or recipe.size == size:
        return recipe or Recipe.squash(size)
    return replace(recipe, ops=Recipe.squash(size).ops, padding=None)


def _rectangle(size: tuple[int, int]) -> tuple[int, int]:
    """A size of another shape; wider, so that there are cells enough for the queries."""
    height, width = size
    return height, width + max(STRIDE, width // 4 // STRIDE * STRIDE)


def _describe(proto: ModelProto, recipe: Recipe, form: GraphForm, precision: str, metadata: Mapping[str, str]) -> None:
    """Write the metadata: a graph says how its images are prepared and what its labels mean."""
    from onnx import helper

    entries = {
        **recipe.to_metadata(),
        "precision": precision,
        "input": "uint8 RGB" if form.uint8 else "float32 0..1 RGB" if recipe.pixels.scale else "float32 0..255 RGB",
        "applied": json.dumps(form.uint8),
        "default_size": json.dumps(form.size),
    }
    if form.dynamic_size:
        entries["size"] = "null"
    helper.set_model_props(proto, {**metadata, **entries, SUM_KEY: NO_SUM})


def _publish(
    proto: ModelProto, path: Path, samples: Sequence[VerificationSample], form: GraphForm, precision: str
) -> dict[str, Difference]:
    """Write under a temporary name, verify that file, rename it."""
    try:
        with whole_file(path) as partial:
            write_with_sum(partial, proto.SerializeToString())
            try:
                return verify(partial, samples, precision=precision, dynamic_size=form.dynamic_size)
            except ExportError as error:  # a name that will be gone helps nobody
                raise ExportError(str(error).replace(str(partial), str(path))) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: could not be written ({error.strerror}): free space or choose another output"
        ) from None
