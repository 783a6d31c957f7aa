# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of small layers that train faster on a CPU than torch's own, with the same numbers up to rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def trains_on_cpu(module: nn.Module, values: Tensor) -> bool:
    """Whether a module trains on a CPU, and no graph is being recorded that would have to hold such forms."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
    return values.device.type == "cpu" and module.training and torch.is_grad_enabled() and not recorded


def affine(maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``scale * maps + bias`` for maps (B, D, H, W) and one number each, (1,)."""
    scaled: Tensor = _Affine.apply(maps, scale, bias)
    return scaled


class _Affine(torch.autograd.Function):
    """The gradient of the scale is one inner product: autograd would write the products to memory and read them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(maps, scale)
        return torch.addcmul(bias, scale, maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        maps, scale = ctx.saved_tensors
        of_maps = upstream * scale if ctx.needs_input_grad[0] else None
        of_scale = torch.dot(*_flat(upstream.to(maps.dtype), maps))[None] if ctx.needs_input_grad[1] else None
        return of_maps, of_scale, upstream.sum()[None] if ctx.needs_input_grad[2] else None


def _flat(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Elements in one order, that of memory where both are laid out alike."""
    if a.dim() == 4 and not (a.is_contiguous() and b.is_contiguous()):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return a.reshape(-1), b.reshape(-1)
