# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The form of a detector that is run and exported: ``fuse``, and HGNetv2's layers as single convolutions with bounds.

A learned affine after a ReLU needs no operation of its own: ``s * max(x, 0) + t`` is ``s * x + t`` bounded by ``t``,
from below where ``s >= 0``, from above otherwise. So convolution, normalisation, ReLU and affine become one convolution
and one clamp, which ONNX Runtime runs as part of the convolution (docs/benchmarks.md has the gain). ``fuse`` itself
leaves the backbone, and with it the keys of a deployed checkpoint, as the official code does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.backbone.hgnetv2 import ConvBlock, LearnableAffine
from ..nn.padding import Padding, cleared
from .fuse import ModelT, biased, fold_norm, fuse


class BoundedConv(nn.Module):
    """Convolution with bias, then a clamp.

    Args:
        conv: the convolution.
        low, high: bounds of the result; None for none.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W').
    """

    def __init__(self, conv: nn.Conv2d, low: float | None, high: float | None) -> None:
        super().__init__()
        self.conv = conv
        self.low, self.high = low, high

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'); the padding, if any, is cleared before it is read."""
        found: Tensor = self.conv(cleared(maps, padding))
        if self.low is None and self.high is None:
            return found
        return found.clamp(self.low, self.high)

    def extra_repr(self) -> str:
        """Bounds, for printing."""
        return f"low={self.low}, high={self.high}"


def inference_form(model: ModelT) -> ModelT:
    """A fused copy of a model whose HGNetv2 layers are single bounded convolutions; the model itself is left alone.

    Outputs agree up to rounding. Its checkpoint keys are nobody's interface: for weights to keep, take ``fuse``.
    """
    with torch.no_grad():
        return _bounded(fuse(model)).eval()


def _bounded(module: ModelT) -> ModelT:
    for name, child in module.named_children():
        setattr(module, name, _bounded_conv(child) if isinstance(child, ConvBlock) else _bounded(child))
    return module


def _bounded_conv(block: ConvBlock) -> BoundedConv:
    kernel, bias = fold_norm(block.conv, block.bn)
    low: float | None = 0.0 if isinstance(block.act, nn.ReLU) else None
    high: float | None = None
    if isinstance(block.lab, LearnableAffine):
        scale, shift = block.lab.scale, block.lab.bias
        kernel, bias = kernel * scale, bias * scale + shift
        low, high = (shift.item(), None) if scale.item() >= 0 else (None, shift.item())
    return BoundedConv(biased(block.conv, kernel, bias), low, high)
