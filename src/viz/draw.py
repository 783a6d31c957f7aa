# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes with names on images: detections, ground truth, and both side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

THRESHOLD = 0.4
"""Score from which a detection is drawn: about where a trained D-FINE's F1 is highest."""
_GAP = 8
"""Pixels between two pictures."""
Color = tuple[int, int, int]


class Boxes(Protocol):
    """Annotated boxes of one image; ``isdfine.data``'s GroundTruth is one."""

    @property
    def boxes(self) -> Tensor:
        """(T, 4) xyxy pixels."""

    @property
    def labels(self) -> Tensor:
        """(T,) contiguous class index."""


class Truth(Boxes, Protocol):
    """Annotated boxes that know their image."""

    def image(self) -> Image.Image:
        """The decoded image."""


class Scored(Boxes, Protocol):
    """Detections of one image."""

    @property
    def scores(self) -> Tensor:
        """(K,) in [0, 1]."""


class ClassNames(Protocol):
    """A label space."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by contiguous index."""


@dataclass(frozen=True)
class _Pen:
    """Sizes that suit one picture."""

    line: int
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont

    @classmethod
    def for_image(cls, image: Image.Image) -> _Pen:
        side = min(image.size)
        return cls(max(1, round(side / 250)), ImageFont.load_default(max(10, round(side / 40))))


def class_color(index: int) -> Color:
    """RGB of a class: always the same, and well apart for neighbouring classes (golden-angle steps of the hue)."""
    red, green, blue = colorsys.hsv_to_rgb(
        index * 0.618034 % 1.0, (0.95, 0.7)[index // 8 % 2], (0.85, 0.65)[index // 4 % 2]
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Image.Image, detections: Scored, label_space: ClassNames, threshold: float = THRESHOLD
) -> Image.Image:
    """A copy of the image with the detections of at least ``threshold``, the surest on top.

    Args:
        image: RGB.
        detections: of this image: boxes (K, 4) xyxy in its pixels, labels (K,), scores (K,).
    """
    kept = [index for index, score in enumerate(detections.scores.tolist()) if score >= threshold]
    kept.sort(key=lambda index: float(detections.scores[index]))
    captions = [
        f"{_name(label_space, int(detections.labels[one]))} {float(detections.scores[one]):.2f}" for one in kept
    ]
    return _draw(image, detections.boxes[kept], detections.labels[kept], captions)


def draw_boxes(image: Image.Image, truth: Boxes, label_space: ClassNames) -> Image.Image:
    """A copy of the image with its annotated boxes."""
    captions = [_name(label_space, label) for label in truth.labels.tolist()]
    return _draw(image, truth.boxes, truth.labels, captions)


def side_by_side(
    truth: Truth, detections: Scored, label_space: ClassNames, threshold: float = THRESHOLD
) -> Image.Image:
    """Ground truth at the left, detections at the right, each under its title."""
    image = truth.image()
    pictures = [
        draw_boxes(image, truth, label_space),
        draw_detections(image, detections, label_space, threshold),
    ]
    font = _Pen.for_image(image).font
    top, bottom = font.getbbox("Ag")[1], font.getbbox("Ag")[3]
    header = round(bottom + top) + 4
    canvas = Image.new("RGB", (2 * image.width + _GAP, image.height + header), "white")
    write = ImageDraw.Draw(canvas)
    for picture, title, left in zip(
        pictures, ("ground truth", f"detections, score >= {threshold:g}"), (0, image.width + _GAP)
    ):
        write.text((left + 2, 2), title, fill="black", font=font)
        canvas.paste(picture, (left, header))
    return canvas


def save_comparison(
    path: str | Path, truth: Truth, detections: Scored, label_space: ClassNames, threshold: float = THRESHOLD
) -> None:
    """Write ``side_by_side`` to an image file; the suffix of ``path`` decides the format."""
    side_by_side(truth, detections, label_space, threshold).save(path)


def _name(label_space: ClassNames, label: int) -> str:
    return label_space.names[label]


def _draw(image: Image.Image, boxes_xyxy_px: Tensor, labels: Tensor, captions: Sequence[str]) -> Image.Image:
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    pen, draw = _Pen.for_image(canvas), ImageDraw.Draw(canvas)
    for box, label, caption in zip(boxes_xyxy_px.tolist(), labels.tolist(), captions):
        _draw_box(draw, canvas.size, box, class_color(label), caption, pen)
    return canvas


def _draw_box(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Sequence[float], color: Color, caption: str, pen: _Pen
) -> None:
    """One rectangle, and its caption above it; where that leaves the image, moved inside."""
    width, height = size
    left, right = sorted(min(max(round(x), 0), width - 1) for x in (box[0], box[2]))
    top, bottom = sorted(min(max(round(y), 0), height - 1) for y in (box[1], box[3]))
    draw.rectangle((left, top, right, bottom), outline=color, width=pen.line)
    text = draw.textbbox((0, 0), caption, font=pen.font)
    text_width, text_height = math.ceil(text[2]) + 4, math.ceil(text[3]) + 3
    x = max(0, min(left, width - text_width))
    y = top - text_height if top >= text_height else min(top, height - text_height)
    draw.rectangle((x, y, x + text_width, y + text_height), fill=color)
    draw.text((x + 2, y + 1), caption, fill="white", font=pen.font)
