# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch detector to an ONNX graph in float32, through torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.extras import need
from ...nn.backbone.hgnetv2 import Stem
from ..backends.base import INPUTS, OUTPUTS
from ..fuse import BoundedConv, fuse
from ..preprocess import Recipe

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = range(18, 22)
"""Native LayerNormalization begins with 17; torch writes 18 and newer. Graphs of 18 to 21 were run."""
DEFAULT_OPSET = 18
STRIDE = 32
TRIED_TORCH = "2.14 and 2.15"
"""2.6 trains these models, but its torch.export stops at a linear layer behind a free batch dimension."""
_FOLDED = 1 << 30
"""Numbers in a constant up to which operations on it are carried out at export."""
_MAX_BATCH, _MAX_CELLS = 4096, 256
_EXAMPLE_BATCH = 2
"""Not 1: torch.export takes a dimension of 1 for a constant."""


@dataclass(frozen=True)
class GraphForm:
    """What the graph is to look like."""

    size: tuple[int, int]
    """(height, width) in pixels, multiples of 32; with ``dynamic_size`` only that of the example."""
    dynamic_size: bool = False
    """Height and width are free, in steps of 32 pixels."""
    uint8: bool = False
    """``images`` are uint8 and the graph makes of them what the network reads; resizing stays outside."""
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        if any(side < STRIDE or side % STRIDE for side in self.size):
            raise ConfigError(
                f"size is {self.size[0]} x {self.size[1]} (height x width): both must be multiples of {STRIDE} pixels"
            )
        if self.opset not in OPSETS:
            raise ConfigError(f"opset is {self.opset}: choose {OPSETS[0]} to {OPSETS[-1]}{_why_not(self.opset)}")


def _why_not(opset: int) -> str:
    if opset == 17:
        return "; torch writes no 17, and TensorRT 10 and 11 and ONNX Runtime since 1.14 read 18"
    return "; before 17 layer norm is split into parts that overflow in fp16" if opset < 17 else ""


class Deployed(nn.Module):
    """What is exported: preprocessing (with uint8 input), detector, post-processing.

    Args:
        model: detector; its inference form is a copy.
        postprocessor: predictions and sizes -> detections.
        recipe: what uint8 pixels become.
        uint8: whether images arrive as uint8.
    """

    def __init__(self, model: nn.Module, postprocessor: nn.Module, recipe: Recipe, *, uint8: bool = False) -> None:
        super().__init__()
        self.model = fuse(model, backbone=True)
        for module in self.model.modules():
            if isinstance(module, Stem):
                _guard_border(module)
        self.postprocessor = postprocessor
        self.recipe = recipe
        self.uint8 = uint8
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) and (B, 2) width and height in pixels -> labels (B, K), boxes (B, K, 4), scores (B, K)."""
        labels, boxes, scores = self.postprocessor(self.model(self._floats(images)), orig_target_sizes)
        return labels, boxes, scores

    def _floats(self, images: Tensor) -> Tensor:
        if not self.uint8:
            return images
        floats = images.float()
        if self.recipe.pixels.scale:
            floats = floats / 255.0  # not in place, as training does: the graph has no such operation
        if any(self.recipe.mean) or any(deviation != 1 for deviation in self.recipe.std):
            mean, std = (torch.tensor(values)[:, None, None] for values in (self.recipe.mean, self.recipe.std))
            floats = (floats - mean) / std
        return floats


def _guard_border(stem: Stem) -> None:
    """Make the zero border of maps that may be negative by a convolution, which no runtime merges into the pooling.

    A pooling's own border counts as minus infinity. ONNX Runtime up to 1.31 (Pad_Fusion, microsoft/onnxruntime PR
    18136) and onnxsim (onnxsim issue 290) merge the two all the same: with the quickstart weights scores move by 1.5e-3
    and boxes by half a pixel at 320 pixels. Where nothing is negative the merge is harmless, and the border stays.
    """
    inner = stem.stem1
    if isinstance(inner, BoundedConv) and inner.low is not None and inner.low >= 0:
        return
    channels = inner.conv.out_channels
    border = nn.Conv2d(channels, channels, 2, padding=1, groups=channels, bias=False)
    kernel = nn.functional.pad(torch.ones(channels, 1, 1, 1), (1, 0, 1, 0))  # each number itself, 0 behind the last
    border.weight = nn.Parameter(kernel)
    stem.border = border


def to_onnx(deployed: Deployed, form: GraphForm) -> ModelProto:
    """Trace and translate.

    Args:
        deployed: the detector on the CPU.
        form: of the graph.

    Returns: one graph of standard operations with all weights inside, without traces of the machine it was made on.

    Raises:
        ConfigError: a missing package, or a model that torch.export cannot trace.
    """
    need("onnx", "export")
    optimizer = need("onnxscript.optimizer", "export")
    height, width = form.size
    images = torch.rand(_EXAMPLE_BATCH, 3, height, width, generator=torch.Generator().manual_seed(0))
    if form.uint8:
        images = (images * 255).to(torch.uint8)
    sizes = torch.tensor([[width, height]] * _EXAMPLE_BATCH)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployed,
                (images, sizes),
                dynamo=True,
                opset_version=form.opset,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes=_dynamic_shapes(form),
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"{type(deployed.model).__name__} could not be exported with torch {torch.__version__} ({reason}): "
            f"torch {TRIED_TORCH} are known to export the models of this package, 2.6 cannot"
        ) from error
    assert program is not None
    proto: ModelProto = program.model_proto
    written = next(entry.version for entry in proto.opset_import if not entry.domain)
    if written != form.opset:
        raise ConfigError(
            f"opset {form.opset} was asked for and torch {torch.__version__} wrote {written}: ask for {written}"
        )
    # Weights are cut and turned once, here: the exporter leaves large ones to the runtime.
    folded: ModelProto = optimizer.optimize(proto, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    _strip(folded)
    return folded


def _dynamic_shapes(form: GraphForm) -> tuple[dict[int, Any], dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    images: dict[int, Any] = {0: batch}
    if form.dynamic_size:
        rows, columns = (torch.export.Dim(name, min=2, max=_MAX_CELLS) for name in ("rows", "columns"))
        images |= {2: STRIDE * rows, 3: STRIDE * columns}
    return images, {0: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on the screen and warns of its own internals; what is wrong with a graph, verify finds."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _strip(proto: ModelProto) -> None:
    """Remove paths of the exporting machine and the exporter's notes; a third of a small file."""
    proto.producer_name, proto.doc_string = "isdfine", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
