# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Box formats and overlaps."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of boxes given by centre and size.

    Args:
        boxes_cxcywh: (..., 4); a negative width or height counts as 0, so corners never swap (docs/method.md 1.2).

    Returns: (..., 4) left, top, right, bottom in the same unit.
    """
    centre, size = boxes_cxcywh.split(2, dim=-1)
    half = size.clamp(min=0) / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Centre and size of boxes given by corners; nothing is clamped, swapped corners give negative sizes.

    Args:
        boxes_xyxy: (..., 4) left, top, right, bottom.

    Returns: (..., 4) cx, cy, width, height in the same unit.
    """
    left_top, right_bottom = boxes_xyxy.split(2, dim=-1)
    return torch.cat(((left_top + right_bottom) / 2, right_bottom - left_top), dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of a fraction, finite at 0 and 1.

    Args:
        x: any shape; values outside [0, 1] are clipped first.
        eps: smallest value of x and of 1 - x inside the logarithm.

    Returns: log(max(x, eps) / max(1 - x, eps)), the same shape (docs/method.md 1.2).
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _product(size: Tensor) -> Tensor:
    """(..., 2) width and height -> (...) area."""
    width, height = size.unbind(-1)
    return width * height


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole with 0 / 0 = 0, in value and in gradient; NaN stays NaN."""
    empty = whole == 0
    return (part / whole.masked_fill(empty, 1)).masked_fill(empty, 0)


def paired_iou_and_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of row i with row i, the common parts computed once.

    Args:
        a_xyxy, b_xyxy: (..., 4) corners in one unit, shapes that broadcast.

    Returns: two tensors (...), in [0, 1] and [-1, 1]; an empty union or enclosing box counts as 0 / 0 = 0.
    """
    (a_low, a_high), (b_low, b_high) = a_xyxy.split(2, -1), b_xyxy.split(2, -1)
    shared = _product((torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0))
    joint = _product(a_high - a_low) + _product(b_high - b_low) - shared
    enclosing = _product(torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low))
    iou = _ratio(shared, joint)
    return iou, iou - _ratio(enclosing - joint, enclosing)
