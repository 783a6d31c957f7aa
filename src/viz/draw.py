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

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import font_for, legible_name, shortened

THRESHOLD = 0.4
"""Score from which a detection is drawn: about where a trained D-FINE's F1 is highest."""
_FEW = 16
"""Captions that a picture has room for in full size."""
_WIDEST = 14
"""Width of a caption in letter heights where a picture is crowded, if its box is not wider."""
_COVERED = 0.25
"""Share of a picture that captions may take; the least sure ones beyond it are left out."""
_HIDDEN = 0.3
"""Share of a caption that others may hide, else it is left out."""
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


class AnnotatedImage(Boxes, Protocol):
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
    letters: int
    """Height of the font."""

    @classmethod
    def for_image(cls, image: Image.Image, captions: int = 1) -> _Pen:
        """Lines and letters grow with the image, and letters shrink where many captions have to find a place."""
        side = min(image.size)
        crowding = min(1.0, max(0.65, math.sqrt(_FEW / max(1, captions))))
        smallest = 10 if captions <= _FEW else 9
        return cls(max(1, round(side / 250)), max(smallest, round(side / 45 * crowding)))


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

    Where there are so many that captions would hide the picture, names are cut, and the least sure get none.

    Args:
        image: RGB.
        detections: of this image: boxes (K, 4) xyxy in its pixels, labels (K,), scores (K,).
    """
    return _draw(image, *_kept(detections, label_space, threshold))[0]


def draw_boxes(image: Image.Image, truth: Boxes, label_space: ClassNames) -> Image.Image:
    """A copy of the image with its annotated boxes."""
    return _draw(image, truth.boxes, truth.labels, _names(truth, label_space))[0]


def side_by_side(
    truth: AnnotatedImage, detections: Scored, label_space: ClassNames, threshold: float = THRESHOLD
) -> Image.Image:
    """Ground truth at the left, detections at the right; their titles say how many boxes have no caption."""
    image = truth.image()
    kept = _kept(detections, label_space, threshold)
    halves = [
        ("ground truth", *_draw(image, truth.boxes, truth.labels, _names(truth, label_space))),
        (f"detections, score >= {threshold:g}", *_draw(image, *kept)),
    ]
    titles = [f"{title} ({unnamed} without caption)" if unnamed else title for title, _, unnamed in halves]
    font = font_for("", _Pen.for_image(image).letters)
    top, bottom = font.getbbox("Ag")[1], font.getbbox("Ag")[3]
    header = round(bottom + top) + 4
    column = max(image.width, *(math.ceil(font.getlength(title)) + 4 for title in titles))
    canvas = Image.new("RGB", (2 * column + _GAP, image.height + header), "white")
    write = ImageDraw.Draw(canvas)
    for (_, picture, _), title, left in zip(halves, titles, (0, column + _GAP)):
        write.text((left + 2, 2), title, fill="black", font=font)
        canvas.paste(picture, (left, header))
    return canvas


def save_comparison(
    path: str | Path, truth: AnnotatedImage, detections: Scored, label_space: ClassNames, threshold: float = THRESHOLD
) -> None:
    """Write ``side_by_side`` to an image file; the suffix of ``path`` decides the format."""
    side_by_side(truth, detections, label_space, threshold).save(path)


Caption = tuple[str, str]
"""A name, which may be cut, and what follows it."""


def _names(truth: Boxes, label_space: ClassNames) -> list[Caption]:
    return [(legible_name(label_space.names[label], label), "") for label in truth.labels.tolist()]


def _kept(detections: Scored, label_space: ClassNames, threshold: float) -> tuple[Values, Values, list[Caption]]:
    """Boxes, labels and captions of the detections of at least ``threshold``, the surest last."""
    kept = [index for index, score in enumerate(detections.scores.tolist()) if score >= threshold]
    kept.sort(key=lambda index: float(detections.scores[index]))
    labels = [int(detections.labels[index]) for index in kept]
    captions = [
        (legible_name(label_space.names[label], label), f"  {float(detections.scores[index]):.2f}")
        for index, label in zip(kept, labels)
    ]
    return detections.boxes[kept], detections.labels[kept], captions


def _draw(
    image: Image.Image, boxes_xyxy_px: Values, labels: Values, captions: Sequence[Caption]
) -> tuple[Image.Image, int]:
    """A copy of the image with boxes, the last on top, and how many of them have no caption."""
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    pen, draw = _Pen.for_image(canvas, len(captions)), ImageDraw.Draw(canvas)
    boxes = [inside(box, canvas.size) for box in boxes_xyxy_px.tolist()]
    colors = [class_color(label) for label in labels.tolist()]
    for box, color in zip(boxes, colors):
        draw.rectangle(box, outline=color, width=pen.line)
    written = _written(pen, canvas.size, boxes, captions)
    for number, place, text in reversed(written):
        draw.rectangle(place, fill=colors[number])
        font = font_for(text, pen.letters)
        draw.text((place[0] + 2, place[1] + 1), text, fill=_readable_on(colors[number]), font=font)
    return canvas, len(boxes) - len(written)


def _written(
    pen: _Pen, image: tuple[int, int], boxes: Sequence[Rectangle], captions: Sequence[Caption]
) -> list[tuple[int, Rectangle, str]]:
    """Captions of an image of (width, height) that find a place: number of the box, place and text, the last first."""
    crowded, free = len(boxes) > _FEW, _COVERED * image[0] * image[1]
    corners = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    taken = np.zeros((0, 4), dtype=np.int64)
    written: list[tuple[int, Rectangle, str]] = []
    for number in reversed(range(len(boxes))):  # the surest chooses its place first
        name, score = captions[number]
        font = font_for(name, pen.letters)
        wide = max(boxes[number][2] - boxes[number][0], _WIDEST * pen.letters) if crowded else image[0]
        text = shortened(name, min(wide, image[0]) - 4 - font.getlength(score), font) + score
        bounds = font.getbbox(text)
        size = math.ceil(bounds[2]) + 4, math.ceil(bounds[3]) + 3
        if written and size[0] * size[1] > free:
            continue
        place, hidden = _caption_place(boxes[number], size, image, taken, np.delete(corners, number, axis=0))
        if hidden <= _HIDDEN * size[0] * size[1]:
            free -= size[0] * size[1]
            taken = np.concatenate([taken, [place]])
            written.append((number, place, text))
    return written


def inside(box: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """The part of a box that lies in an image of (width, height), corners in order."""
    width, height = size
    left, right = sorted(min(max(round(x), 0), width - 1) for x in (box[0], box[2]))
    top, bottom = sorted(min(max(round(y), 0), height - 1) for y in (box[1], box[3]))
    return left, top, right, bottom


def _caption_place(
    box: Rectangle,
    caption: tuple[int, int],
    image: tuple[int, int],
    taken: NDArray[np.int64],
    others: NDArray[np.int64],
) -> tuple[Rectangle, int]:
    """Where a caption of (width, height) hides least: above, below or beside its box, or inside.

    Hidden counts what boxes hold, and four times what other captions hold; of equal places the first is taken.

    Returns: the place, and how many pixels of it other captions hold.
    """
    left, top, right, bottom = box
    width, height = caption
    outside, inside = (
        [(x, y) for y in ys for x in (left, right - width)]
        for ys in ((top - height, bottom + 1), (top, bottom - height))
    )
    spots = np.array([*outside, (right + 1, top), (left - width - 1, top), *inside])
    starts = spots.clip(0, np.maximum(np.subtract(image, caption), 0))
    places = np.concatenate([starts, starts + caption], axis=1)  # (8, 4)
    captions = _shared(places, taken)
    best = int(np.argmin(4 * captions + _shared(places, others) + _shared(places, np.array([box]))))
    x, y = starts[best].tolist()
    return (x, y, x + width, y + height), int(captions[best])


def _shared(places: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels that each of the rectangles (n, 4) has in common with all of the others (m, 4) together, (n,)."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    shared: NDArray[np.int64] = (high - low).clip(0).prod(axis=-1).sum(axis=1)
    return shared


def _readable_on(color: Color) -> str:
    """White or black, whichever stands out more (relative luminance of WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.3 else "white"
