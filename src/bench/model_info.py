# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How large a detector is and how much it computes: parameters, FLOPs and memory."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..core.config import Config, without_initial_weights
from ..core.errors import ConfigError
from ..deploy.fuse import fuse

DEFAULT_CLASSES = 80
"""Of COCO: for configs that leave the number of classes to data which need not be there."""

CONVENTION = """\
One image. One multiply-add is 2 FLOPs. "params M" and "GFLOPs" are of the deployed form: fused, without the layers
after eval_idx. GFLOPs counts convolutions and linear layers. The numbers that D-FINE publishes are of this form too and
agree up to 1.1 %: their tool, calflops, does not see the two products inside attention (column "attention", equal in
both forms) and adds operations of norms and activations, which are not counted here. Sampling (grid_sample), top-k and
the post-processor count nothing in either.
"trained params M" is the network that is trained, with layers that only training runs; "unfused GFLOPs" is what it
computes in an eval pass. RT-DETR publishes numbers of this form (docs/roadmap.md).
Parameters are counted once each; buffers (anchors, statistics and constants of norms) are none.
"weights MB" (10^6 bytes) is the deployed form in fp32, buffers included. "forward MB" is the peak of a pass of it over
one image in fp32, weights included: {memory}."""
COUNTED = """\
counted, not measured, as the tensors that are alive at a time. What a library takes
beside them (workspaces, weights in another layout, the Python process) comes on top and depends on the machine;
--device cuda measures what PyTorch has given out there"""
MEASURED = "measured on {device} as what PyTorch's allocator has given out, workspaces included"
_WEIGHTLESS = ("bmm", "baddbmm", "attention")
"""Parts of the names of operators that multiply activations with activations: the products inside attention."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Size and cost of one detector."""

    name: str
    """Of the config file, without folder and suffix."""
    size: tuple[int, int]
    """(height, width) in pixels of the image."""
    params: int
    """Of the deployed form."""
    params_trained: int
    """As trained."""
    gflops: float
    """Convolutions and linear layers of the deployed form, 10^9."""
    gflops_attention: float
    """The two products inside attention, 10^9; the same in both forms."""
    gflops_trained: float
    """As ``gflops``, of an eval pass of the network before fusing."""
    weight_bytes: int
    """Parameters and buffers of the deployed form."""
    forward_bytes: int
    """Peak of a pass of the deployed form, weights included."""


def model_info(config: Config, size: Sequence[int] | None = None, device: torch.device | None = None) -> ModelInfo:
    """Measure the model of a config. No data and no weights are needed, and no memory for them but with ``device``.

    Args:
        config: with a section ``model``. Where it says no ``num_classes``, COCO's 80 are taken; pretrained weights are
            not read.
        size: (height, width) in pixels; None for the config's ``eval_spatial_size``.
        device: GPU to measure memory on; None: it is counted.

    Raises:
        ConfigError: a model that cannot be built, or no size given anywhere.
    """
    config.require("model")
    config = without_initial_weights(config)
    if not config.get("num_classes"):
        config = config.with_values({"num_classes": DEFAULT_CLASSES})
    height, width = _image_size(config, size)
    with torch.device("meta"):  # tensors that hold nothing: only shapes are computed
        model: nn.Module = config.build("model").eval().requires_grad_(False)  # the counter hooks into gradients
        images = torch.zeros(1, 3, height, width)
    deployed = fuse(model)
    weights, attention = _flops(deployed, images)
    return ModelInfo(
        name=Path(config.path).stem,
        size=(height, width),
        params=_count(deployed),
        params_trained=_count(model),
        gflops=weights / 1e9,
        gflops_attention=attention / 1e9,
        gflops_trained=_flops(model, images)[0] / 1e9,
        weight_bytes=weight_bytes(deployed),
        forward_bytes=counted_peak(deployed, images) if device is None else _measured(config, (height, width), device),
    )


def convention(device: torch.device | None = None) -> str:
    """What the numbers are, in words.

    Args:
        device: that memory was measured on; None: it was counted.
    """
    return CONVENTION.format(memory=COUNTED if device is None else MEASURED.format(device=device))


def _measured(config: Config, size: tuple[int, int], device: torch.device) -> int:
    model: nn.Module = config.build("model").eval()
    return measured_peak(fuse(model).to(device), torch.zeros(1, 3, *size, device=device))


def rows_of(models: Sequence[ModelInfo]) -> list[list[str]]:
    """For ``table``: a heading, and a row per model."""
    rows = [["model", "size", "params M", "GFLOPs", "trained params M", "unfused GFLOPs", "attention", "weights MB",
             "forward MB"]]  # fmt: skip
    for model in models:
        numbers = (model.params / 1e6, model.gflops, model.params_trained / 1e6, model.gflops_trained,
                   model.gflops_attention)  # fmt: skip
        memory = (model.weight_bytes / 1e6, model.forward_bytes / 1e6)
        rows.append([model.name, "{}x{}".format(*model.size), *(f"{number:.2f}" for number in numbers),
                     *(f"{megabytes:.1f}" for megabytes in memory)])  # fmt: skip
    return rows


def _image_size(config: Config, size: Sequence[int] | None) -> tuple[int, int]:
    sides = config.get("eval_spatial_size") if size is None else list(size)
    if sides is None:
        raise ConfigError(f"{config.path}: no eval_spatial_size: add it, or give the size (--size HEIGHT WIDTH)")
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"{config.path}: an image of the size {sides}: give [height, width] in pixels, both above 0")
    return sides[0], sides[1]


def _flops(model: nn.Module, images: torch.Tensor) -> tuple[int, int]:
    """FLOPs with weights, and of activations with each other, of an eval pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(images)
    counts = {str(operator): flops for operator, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for name, flops in counts.items() if any(part in name for part in _WEIGHTLESS))
    return sum(counts.values()) - products, products


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at a time, also of tensors on the meta device.

    What a kernel takes for itself while it works (workspaces, copies in another layout) is no tensor and not counted.
    """

    _bytes = peak = 0
    _owners: Counter[int]
    _kept: list[Tensor]

    @classmethod
    def beside(cls, existing: Iterator[Tensor]) -> LiveTensors:
        """A count in which tensors that are there before count from the start to the end."""
        live = cls()
        live._owners, live._kept = Counter(), list(existing)
        for tensor in live._kept:
            live._add(tensor)
        return live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at what it returns."""
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor):
                self._add(result)
        return results

    def _add(self, tensor: Tensor) -> None:
        """A tensor is one owner of its storage; views and results of operations in place are further ones."""
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if not self._owners[place]:
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
        self._owners[place] += 1
        weakref.finalize(tensor, self._remove, place, size)

    def _remove(self, place: int, size: int) -> None:
        self._owners[place] -= 1
        if not self._owners[place]:
            self._bytes -= size


def counted_peak(model: nn.Module, images: Tensor) -> int:
    """Bytes of weights, buffers, images and intermediate results at the peak of a pass; on the meta device without
    using any."""
    live = LiveTensors.beside(_tensors(model, images))
    with torch.no_grad(), live:
        model(images)
    return live.peak


def measured_peak(model: nn.Module, images: Tensor) -> int:
    """Bytes that PyTorch's allocator has given out on a GPU at the peak of a second pass, workspaces included.

    Args:
        model, images: on that GPU, which holds nothing else.
    """
    with torch.no_grad():
        model(images)  # libraries take what they keep
        torch.cuda.synchronize(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        model(images)
        torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each once."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def _tensors(model: nn.Module, *further: Tensor) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    yield from further
