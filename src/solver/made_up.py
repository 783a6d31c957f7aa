# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes that stand for annotations where only time and memory are measured."""

from __future__ import annotations

import torch
from torch import Tensor


def made_up_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """(*shape, 4) cxcywh inside the image, sides of 0.05 to 0.3 of it."""
    size = torch.rand(*shape, 2, generator=generator) * 0.25 + 0.05
    centre = size / 2 + torch.rand(*shape, 2, generator=generator) * (1 - size)
    return torch.cat((centre, size), -1)


def made_up_target(boxes: int, num_classes: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Boxes (T, 4) and labels (T,) of one image."""
    found = made_up_boxes(boxes, generator=generator)
    labels = torch.randint(num_classes, (boxes,), generator=generator)
    return {"boxes": found.to(device), "labels": labels.to(device)}
