# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes with names on images: detections, ground truth, and both side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

THRESHOLD = 0.4
"""Score from which a detection is drawn: about where a trained D-FINE's F1 is highest."""
_FEW = 16
"""Captions that a picture has room for in full size."""
_GAP = 8
"""Pixels between two pictures."""
Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Values = Tensor | NDArray[Any]


class Boxes(Protocol):
    """Annotated boxes of one image; ``isdfine.data``'s GroundTruth is one."""

    @property
    def boxes(self) -> Values:
        """(T, 4) xyxy pixels."""

    @property
    def labels(self) -> Values:
        """(T,) contiguous class index."""


class Truth(Boxes, Protocol):
    """Annotated boxes that know their image."""

    def image(self) -> Image.Image:
        """The decoded image."""


class Scored(Boxes, Protocol):
    """Detections of one image."""

    @property
    def scores(self) -> Values:
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
    def for_image(cls, image: Image.Image, captions: int = 1) -> _Pen:
        """Lines and letters grow with the image, and letters shrink where many captions have to find a place."""
        side = min(image.size)
        crowding = min(1.0, max(0.65, math.sqrt(_FEW / max(1, captions))))
        smallest = 10 if captions <= _FEW else 9
        return cls(max(1, round(side / 250)), ImageFont.load_default(max(smallest, round(side / 45 * crowding))))


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


def _draw(image: Image.Image, boxes_xyxy_px: Values, labels: Values, captions: Sequence[str]) -> Image.Image:
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    pen, draw = _Pen.for_image(canvas, len(captions)), ImageDraw.Draw(canvas)
    boxes = [_inside(box, canvas.size) for box in boxes_xyxy_px.tolist()]
    colors = [class_color(label) for label in labels.tolist()]
    for box, color in zip(boxes, colors):
        draw.rectangle(box, outline=color, width=pen.line)
    taken: list[Rectangle] = []
    for number in reversed(range(len(boxes))):  # the surest chooses its place first
        text = draw.textbbox((0, 0), captions[number], font=pen.font)
        size = (math.ceil(text[2]) + 4, math.ceil(text[3]) + 3)
        others = boxes[:number] + boxes[number + 1 :]
        taken.append(_caption_place(boxes[number], size, canvas.size, taken, others))
    for number, place in zip(range(len(boxes)), reversed(taken)):
        draw.rectangle(place, fill=colors[number])
        draw.text((place[0] + 2, place[1] + 1), captions[number], fill=_readable_on(colors[number]), font=pen.font)
    return canvas


def _inside(box: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """The part of a box that lies in an image of (width, height), corners in order."""
    width, height = size
    left, right = sorted(min(max(round(x), 0), width - 1) for x in (box[0], box[2]))
    top, bottom = sorted(min(max(round(y), 0), height - 1) for y in (box[1], box[3]))
    return left, top, right, bottom


def _caption_place(
    box: Rectangle,
    caption: tuple[int, int],
    image: tuple[int, int],
    taken: Sequence[Rectangle],
    others: Sequence[Rectangle],
) -> Rectangle:
    """Where a caption of (width, height) hides least: above, below or beside its box, or inside.

    Hidden counts what boxes hold, and four times what other captions hold; of equal places the first is taken.
    """
    left, top, right, bottom = box
    width, height = caption
    outside, inside = (
        [(x, y) for y in ys for x in (left, right - width)]
        for ys in ((top - height, bottom + 1), (top, bottom - height))
    )
    spots = [*outside, (right + 1, top), (left - width - 1, top), *inside]
    costs: list[tuple[float, int]] = []
    places: list[Rectangle] = []
    for number, (x, y) in enumerate(spots):
        x, y = (
            max(0, min(value, limit - side)) for value, limit, side in ((x, image[0], width), (y, image[1], height))
        )
        place = (x, y, x + width, y + height)
        hidden = 4 * sum(_shared(place, one) for one in taken) + sum(_shared(place, one) for one in others)
        costs.append((hidden + _shared(place, box), number))
        places.append(place)
    return places[min(costs)[1]]


def _shared(one: Rectangle, other: Rectangle) -> int:
    """Pixels that two rectangles have in common."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _readable_on(color: Color) -> str:
    """White or black, whichever stands out more (relative luminance of WCAG 2)."""
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in (c / 255 for c in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.3 else "white"
