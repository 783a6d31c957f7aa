# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A sheet of errors: crops of the images with what was found, what is annotated, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .canvas import view_around
from .draw import class_color, inside
from .errors import KINDS, Error, Judgement, Kind
from .fonts import font_for, legible, legible_name, shortened

SHEET = 24
"""Errors on one sheet."""
COLUMNS = 6
_TILE = (200, 230)
"""(height, width) of a crop in pixels."""
_GAP = 12
_LINES = 3
_FONT_PX = 13
_DASH = 7


def error_sheets(
    judgement: Judgement, most: int, open_image: Callable[[int], Image.Image]
) -> Iterator[tuple[Kind, int, list[Image.Image]]]:
    """Per kind of error its name, how many there are, and sheets with the first ``most`` of them.

    Args:
        most: errors shown per kind, ``SHEET`` of them on each sheet.
        open_image: index of an image -> RGB.
    """
    image_names = [image.name for image in judgement.images]
    for kind in KINDS:
        errors = judgement.mistakes.of(kind)
        parts = [errors[start : min(start + SHEET, most)] for start in range(0, min(len(errors), most), SHEET)]
        yield kind, len(errors), [error_sheet(part, open_image, image_names, judgement.names) for part in parts]


def error_sheet(
    errors: Sequence[Error],
    open_image: Callable[[int], Image.Image],
    image_names: Sequence[str],
    class_names: Sequence[str],
) -> Image.Image:
    """Crops in rows of ``COLUMNS``, in the given order: the detection with a solid line, the object with a dashed one.

    Args:
        errors: at least one; those of one image are best given few at a time, an image is opened once per run of them.
        open_image: index of an image -> RGB.
        image_names: by index, for captions.
        class_names: by class index.
    """
    line = math.ceil(font_for("", _FONT_PX).getbbox("Ag|")[3]) + 3
    height, width = _TILE[0] + _LINES * line + _GAP, _TILE[1] + _GAP
    columns = min(COLUMNS, len(errors))
    rows = -(-len(errors) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    write = ImageDraw.Draw(sheet)
    last: tuple[int, Image.Image] | None = None
    for number, error in enumerate(errors):
        if last is None or last[0] != error.image:
            last = (error.image, open_image(error.image))
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        crop = _crop(last[1], error)
        sheet.paste(crop, (left + (_TILE[1] - crop.width) // 2, top + (_TILE[0] - crop.height) // 2))
        lines = [*caption(error, class_names), legible(image_names[error.image])]
        for row, text in enumerate(lines):
            place, font = (left, top + _TILE[0] + row * line), font_for(text, _FONT_PX)
            write.text(place, shortened(text, _TILE[1], font), fill="black" if row < 2 else "#666666", font=font)
    return sheet


def caption(error: Error, class_names: Sequence[str]) -> tuple[str, str]:
    """What was found, and what is wrong with it."""
    name = legible_name(class_names[error.label], error.label)
    if error.kind == "miss":
        best = f"score {error.score:.2f} at best" if error.score else "no such box at any score"
        return f"missed: {name}", f"{error.size_px:.0f} px, {best}"
    detection = f"{name} {error.score:.2f}"
    if error.kind == "background":
        return detection, f"{error.size_px:.0f} px, nothing annotated"
    truth = legible_name(class_names[error.truth_label], error.truth_label)
    said = {"confusion": f"is {truth}", "duplicate": f"{truth} is found already", "localisation": f"of {truth}"}
    return detection, f"{said[error.kind]}, IoU {error.overlap:.2f}"


def _crop(image: Image.Image, error: Error) -> Image.Image:
    """The boxes with their surroundings, enlarged or reduced to fit a tile."""
    boxes = [box for box in (error.box_xyxy_px, error.truth_xyxy_px) if box is not None]
    left, top, right, bottom = view_around(boxes, (image.height, image.width), margin=0.25)
    scale = min(_TILE[1] / (right - left), _TILE[0] / (bottom - top))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    crop = image.crop((left, top, right, bottom)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(crop)
    places = [inside(((box - np.tile((left, top), 2)) * scale).tolist(), size) for box in boxes]
    if error.truth_xyxy_px is not None:
        _dashed(draw, places[-1], class_color(error.truth_label))
    if error.box_xyxy_px is not None:
        draw.rectangle(places[0], outline=class_color(error.label), width=2)
    return crop


def _dashed(draw: ImageDraw.ImageDraw, box: Sequence[int], color: tuple[int, int, int]) -> None:
    """White below the colour, so that it is seen beside a solid line of the same colour."""
    left, top, right, bottom = box
    for y in (top, bottom):
        for number, x in enumerate(range(left, right, _DASH)):
            draw.line((x, y, min(x + _DASH, right), y), fill=color if number % 2 else "white", width=2)
    for x in (left, right):
        for number, y in enumerate(range(top, bottom, _DASH)):
            draw.line((x, y, x, min(y + _DASH, bottom)), fill=color if number % 2 else "white", width=2)
