# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Rewrite a trained model into its smaller, equal form for inference (docs/method.md 9.2)."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.backbone.hgnetv2 import ConvBlock, LearnableAffine
from ..nn.conv import ConvNormAct, RepVGG
from ..nn.padding import Padding, cleared

ModelT = TypeVar("ModelT", bound=nn.Module)


@runtime_checkable
class Fusable(Protocol):
    """A module that knows its own form for inference, beyond fused convolutions.

    ``fuse`` calls it on a private copy, so the method may change and return ``self``. What it returns is final: its
    children are not visited. Calling it again on its result changes nothing.
    """

    def fused(self) -> nn.Module:
        """The module to use for inference."""
        ...


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
        convolved: Tensor = self.conv(cleared(maps, padding))
        if self.low is None and self.high is None:
            return convolved
        return convolved.clamp(self.low, self.high)

    def extra_repr(self) -> str:
        """Bounds, for printing."""
        return f"low={self.low}, high={self.high}"


def fuse(model: ModelT, *, backbone: bool = False) -> ModelT:
    """A copy of a model in eval mode, rewritten for inference; the model itself is left alone.

    ``ConvNormAct`` becomes one biased convolution ``conv_bn_fused``, ``RepVGG`` one 3x3 convolution ``conv``, a
    ``Fusable`` what it says; everything else is kept. Outputs agree up to rounding. Fusing a fused model gives an
    equal copy.

    Args:
        model: any module; also one of the parts named above.
        backbone: make each layer of an HGNetv2 one ``BoundedConv`` as well. The official code leaves the backbone, and
            with it the keys of a fused checkpoint: take this form to run and to export, not to keep weights.

    Returns:
        A deep copy. Its type is the model's own unless the model is itself one of the parts named above.
    """
    with torch.no_grad():
        fused = _rewritten(copy.deepcopy(model))
        return (_bounded(fused) if backbone else fused).eval()  # type: ignore[return-value]


def _rewritten(module: nn.Module) -> nn.Module:
    if isinstance(module, Fusable):
        return module.fused()
    if isinstance(module, RepVGG):
        return _single_branch(module)
    if isinstance(module, ConvNormAct):
        conv = _biased(module.conv, *_fused_weights(module.conv, module.norm))
        return nn.Sequential(OrderedDict(conv_bn_fused=conv, act=module.act))
    for name, child in module.named_children():
        setattr(module, name, _rewritten(child))
    return module


def _single_branch(block: RepVGG) -> nn.Sequential:
    kernel, bias = _fused_weights(block.conv1.conv, block.conv1.norm)
    point_kernel, point_bias = _fused_weights(block.conv2.conv, block.conv2.norm)
    kernel = kernel + F.pad(point_kernel, (1, 1, 1, 1))  # (D, D, 3, 3): a 1x1 kernel is a 3x3 one with a zero rim
    return nn.Sequential(OrderedDict(conv=_biased(block.conv1.conv, kernel, bias + point_bias), act=block.act))


def _fused_weights(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that does what convolution and normalisation do with running statistics.

    Args:
        conv: a convolution without bias.
        norm: batch normalisation over out_channels, also a frozen one.

    Returns:
        The kernel in the convolution's shape, and the bias, (out_channels,).

    Raises:
        ValueError: the normalisation keeps no running statistics.
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("fuse: a batch norm without running statistics cannot be fused: keep track_running_stats on")
    scale = norm.weight * torch.rsqrt(variance + norm.eps)  # (out_channels,)
    return conv.weight * scale[:, None, None, None], norm.bias - mean * scale


def _biased(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with other numbers and a bias."""
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(kernel)
    fused.bias = nn.Parameter(bias)
    return fused


def _bounded(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _bounded_conv(child) if isinstance(child, ConvBlock) else _bounded(child))
    return module


def _bounded_conv(block: ConvBlock) -> BoundedConv:
    kernel, bias = _fused_weights(block.conv, block.bn)
    low: float | None = 0.0 if isinstance(block.act, nn.ReLU) else None
    high: float | None = None
    if isinstance(block.lab, LearnableAffine):
        scale, shift = block.lab.scale, block.lab.bias
        kernel, bias = kernel * scale, bias * scale + shift
        low, high = (shift.item(), None) if scale.item() >= 0 else (None, shift.item())
    return BoundedConv(_biased(block.conv, kernel, bias), low, high)
