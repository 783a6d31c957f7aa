# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes, names and scores on pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GOLDEN_RATIO = 0.618033988749895


@dataclass(frozen=True)
class Box:
    """One box to draw."""

    xyxy_px: Sequence[float]
    """Corners in pixels of the picture."""
    label: int
    """Contiguous class index: decides the colour."""
    text: str
    """Class name, with the score where it is a detection."""


def colour_of(label: int) -> tuple[int, int, int]:
    """A strong colour for a class index; the same in every picture, and neighbours differ."""
    hue = (0.02 + label * GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.80)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """A copy of the picture with boxes; line width and text follow its size, text stays inside the picture."""
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    longer = max(picture.size)
    line, font = max(1, round(longer / 400)), ImageFont.load_default(size=max(10, round(longer / 55)))
    for box in boxes:
        left, top, right, bottom = clipped(box.xyxy_px, picture.size)
        draw.rectangle((left, top, right, bottom), outline=colour_of(box.label), width=line)
    for box in boxes:  # text last, so that no box crosses it
        _draw_text(draw, picture.size, clipped(box.xyxy_px, picture.size)[:2], box, font)
    return picture


def _draw_text(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: Sequence[float],
    box: Box,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The text on a plate of the class's colour above the box, moved into the picture where it would leave it."""
    x1, y1, x2, y2 = draw.textbbox((0, 0), box.text, font=font)
    wide, high = x2 - x1 + 4, y2 - y1 + 4
    left = min(max(0.0, corner[0]), max(0.0, size[0] - wide))
    top = corner[1] - high if corner[1] >= high else min(corner[1], max(0.0, size[1] - high))
    draw.rectangle((left, top, left + wide, top + high), fill=colour_of(box.label))
    draw.text((left + 2 - x1, top + 2 - y1), box.text, fill=(255, 255, 255), font=font)


def clipped(xyxy_px: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Corners inside a picture of size (width, height), in ascending order."""
    xs = sorted(min(max(0.0, float(x)), size[0] - 1.0) for x in (xyxy_px[0], xyxy_px[2]))
    ys = sorted(min(max(0.0, float(y)), size[1] - 1.0) for y in (xyxy_px[1], xyxy_px[3]))
    return xs[0], ys[0], xs[1], ys[1]


def side_by_side(
    image: Image.Image, truth: Sequence[Box], found: Sequence[Box], *, titles: tuple[str, str]
) -> Image.Image:
    """Ground truth on the left, detections on the right, a title line above each."""
    left, right = draw_boxes(image, truth), draw_boxes(image, found)
    gap, font = max(8, image.width // 60), ImageFont.load_default(size=max(12, max(image.size) // 40))
    head = round(font.getbbox("Ag")[3]) + 8
    sheet = Image.new("RGB", (2 * image.width + gap, image.height + head), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for picture, title, x in ((left, titles[0], 0), (right, titles[1], image.width + gap)):
        draw.text((x + 4, 2), title, fill=(0, 0, 0), font=font)
        sheet.paste(picture, (x, head))
    return sheet


def save_comparison(path: Path, image: Path, truth: Sequence[Box], found: Sequence[Box], *, threshold: float) -> None:
    """Write the sheet of one image as PNG."""
    with Image.open(image) as picture:
        titles = (f"ground truth ({len(truth)})", f"detections, score >= {threshold:g} ({len(found)})")
        side_by_side(picture.convert("RGB"), truth, found, titles=titles).save(path)
