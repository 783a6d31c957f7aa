# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which cells of a feature map belong to which ground-truth box, and what each cell weighs: masks by location and scale
(FGD, Yang et al., arXiv:2111.11837; CLoCKDistill, Lan and Tian, arXiv:2502.10683)."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..core.errors import check_choice
from ..losses.matched import TargetTable

Unit = Literal["cell", "input"]
UNITS: tuple[str, ...] = get_args(Unit)
Rounding = Literal["covered", "inclusive"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
_TOLERANCE = 1e-6
"""Of an image's side: an edge on the border of two cells, up to rounding in float32, covers none of the next."""


class BoxCells(NamedTuple):
    """The cells of one level, (B, H, W) each but the last."""

    owner: Tensor
    """int64 index of the box that owns the cell, -1 for none."""
    foreground: Tensor
    """bool, True in owned cells."""
    valid: Tensor
    """bool, True in cells that hold something of the image; owned cells are."""
    weight: Tensor
    """float32: 1 / cells of the owner's box, 1 / ``background`` in cells of none, 0 in padding."""
    background: Tensor
    """(B,) int64 number of valid cells that no box owns."""


def padded_boxes(table: TargetTable) -> tuple[Tensor, Tensor]:
    """The boxes of a batch, image by image: (B, T, 4) cxcywh, and (B, T) bool which of them are there."""
    boxes = pad_sequence(list(table.boxes.split(table.counts)), batch_first=True)
    return boxes, pad_sequence(list(table.labels.split(table.counts)), batch_first=True, padding_value=-1) >= 0


def valid_cells(size: tuple[int, int], canvas: tuple[int, int], image_sizes: Tensor) -> Tensor:
    """Which cells hold something of the images, (B, H, W) bool.

    Args:
        size: (height, width) of the level in cells.
        canvas: (height, width) of the batch in pixels, which the level spans.
        image_sizes: (B, 2) height and width in pixels of each image at the top left of its canvas.
    """
    content = _content(size, canvas, image_sizes)
    return _rectangle(size, torch.zeros_like(content), content.ceil() - 1)


def whole_canvas(canvas: tuple[int, int], batch: int, device: torch.device) -> Tensor:
    """(B, 2) sizes of images that fill their canvas (height, width)."""
    sides = [torch.full((batch,), float(side), device=device) for side in canvas]  # no list goes to the device
    return torch.stack(sides, dim=1)


def _content(size: tuple[int, int], canvas: tuple[int, int], image_sizes: Tensor) -> Tensor:
    """(B, 2) rows and columns of the images, with fractions."""
    sides = image_sizes.float()  # times cells first: whole cells then come out whole
    return torch.stack([sides[:, axis] * size[axis] / canvas[axis] for axis in (0, 1)], dim=1)


def box_cells(
    boxes: Tensor,
    present: Tensor,
    size: tuple[int, int],
    canvas: tuple[int, int],
    image_sizes: Tensor,
    *,
    unit: Unit = "cell",
    rounding: Rounding = "covered",
) -> BoxCells:
    """Give every cell to the smallest box (by area, then by index) that covers a part of it.

    Nothing waits for the device. A box weighs 1 in all where no smaller one takes cells from it, and never more; the
    background of a level weighs 1.

    Args:
        boxes: (B, T, 4) cxcywh fractions of the image, T may be 0.
        present: (B, T) bool, False where a slot only fills up the batch.
        size, canvas, image_sizes: see :func:`valid_cells`.
        unit: divide by the number of the box's cells (``cell``), or by its area in pixels, at least 1 (``input``).
        rounding: a box has the cells of which it covers a part (``covered``), or those from floor(x1) to ceil(x2), both
            included and counted even beyond the map (``inclusive``, as FGD's published code does).

    Raises:
        ValueError: an option that is unknown.
    """
    check_choice("unit", unit, UNITS)
    check_choice("rounding", rounding, ROUNDINGS)
    first, last, divisor = _spans(boxes, _content(size, canvas, image_sizes)[:, None], rounding)
    if unit == "input":
        divisor = (boxes[..., 2:].float().prod(-1) * image_sizes.float().prod(-1, keepdim=True)).clamp(min=1)
    covers = _rectangle(size, first, last) & present[..., None, None]  # (B, T, H, W)
    valid = valid_cells(size, canvas, image_sizes)
    # one slot more stands for no box: the largest of all, and everywhere
    none = boxes.shape[1]
    areas = F.pad(boxes[..., 2:].float().prod(-1), (0, 1), value=torch.inf)
    by_area = areas.argsort(dim=1, stable=True)  # (B, T + 1)
    ranks = by_area.argsort(dim=1)[..., None, None].int()
    rank = ranks.masked_fill(~F.pad(covers, (0, 0, 0, 0, 0, 1), value=True), none + 1).amin(dim=1)  # (B, H, W)
    owner = by_area.gather(1, rank.flatten(1).long()).view_as(rank)
    foreground = owner < none
    background = (valid & ~foreground).flatten(1).sum(1)
    divisors = torch.cat((divisor, background[:, None]), dim=1)
    weight = divisors.reciprocal().gather(1, owner.flatten(1)).view_as(valid).masked_fill(~valid, 0)
    return BoxCells(owner.masked_fill(~foreground, -1), foreground, valid, weight, background)


def _spans(boxes: Tensor, content: Tensor, rounding: Rounding) -> tuple[Tensor, Tensor, Tensor]:
    """First and last (row, column) of each box, (B, T, 2) both, and its number of cells (B, T).

    Args:
        content: (B, 1, 2) rows and columns of the images, with fractions.
    """
    centre, half = boxes[..., :2].float().flip(-1), boxes[..., 2:].float().flip(-1) / 2  # (y, x), (height, width)
    first = ((centre - half + _TOLERANCE) * content).floor()
    last = ((centre + half - _TOLERANCE) * content).ceil()
    if rounding == "covered":
        last = torch.maximum(last - 1, first)
    counted, end = (last - first + 1).prod(-1), content.ceil() - 1
    first, last = (edge.clamp(min=torch.zeros_like(end), max=end) for edge in (first, last))
    return first, last, (last - first + 1).prod(-1) if rounding == "covered" else counted


def _rectangle(size: tuple[int, int], first: Tensor, last: Tensor) -> Tensor:
    """(..., H, W) bool: cells from first to last row and column (..., 2)."""
    numbers = (torch.arange(cells, device=first.device) for cells in size)
    rows, columns = (
        (number >= first[..., axis, None]) & (number <= last[..., axis, None]) for axis, number in enumerate(numbers)
    )
    return rows[..., :, None] & columns[..., None, :]
