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

from ..nn.conv import ConvNormAct, RepVGG

ModelT = TypeVar("ModelT", bound=nn.Module)


@runtime_checkable
class Deployable(Protocol):
    """A module that knows its own deployment form, beyond folding of convolutions.

    ``fuse`` calls it on a private copy, so the method may change and return ``self``. What it returns is final: its
    children are not visited. Calling it again on its result changes nothing.
    """

    def deployed(self) -> nn.Module:
        """The module to use for inference."""
        ...


def fuse(model: ModelT) -> ModelT:
    """A copy of a model in eval mode, rewritten for inference; the model itself is left alone.

    ``ConvNormAct`` becomes one biased convolution ``conv_bn_fused``, ``RepVGG`` one 3x3 convolution ``conv``, a
    ``Deployable`` what it says; everything else is kept. Outputs agree up to rounding. Fusing a fused model gives an
    equal copy.

    Args:
        model: any module; also one of the parts named above.

    Returns:
        A deep copy. Its type is the model's own unless the model is itself one of the parts named above.
    """
    with torch.no_grad():
        return _rewritten(copy.deepcopy(model)).eval()  # type: ignore[return-value]


def _rewritten(module: nn.Module) -> nn.Module:
    if isinstance(module, Deployable):
        return module.deployed()
    if isinstance(module, RepVGG):
        return _single_branch(module)
    if isinstance(module, ConvNormAct):
        return nn.Sequential(OrderedDict(conv_bn_fused=biased(module.conv, *_folded(module)), act=module.act))
    for name, child in module.named_children():
        setattr(module, name, _rewritten(child))
    return module


def _single_branch(block: RepVGG) -> nn.Sequential:
    kernel, bias = _folded(block.conv1)
    point_kernel, point_bias = _folded(block.conv2)
    kernel = kernel + F.pad(point_kernel, (1, 1, 1, 1))  # (D, D, 3, 3): a 1x1 kernel is a 3x3 one with a zero rim
    return nn.Sequential(OrderedDict(conv=biased(block.conv1.conv, kernel, bias + point_bias), act=block.act))


def _folded(block: ConvNormAct) -> tuple[Tensor, Tensor]:
    return fold_norm(block.conv, block.norm)


def fold_norm(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
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
        raise ValueError("fuse: a batch norm without running statistics cannot be folded: keep track_running_stats on")
    scale = norm.weight * torch.rsqrt(variance + norm.eps)  # (out_channels,)
    return conv.weight * scale[:, None, None, None], norm.bias - mean * scale


def biased(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with other numbers and a bias."""
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(kernel)
    fused.bias = nn.Parameter(bias)
    return fused
