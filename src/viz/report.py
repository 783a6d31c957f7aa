# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from ..core.files import whole_file
from .canvas import png
from .draw import class_color
from .errors import KINDS, Kind
from .operating_points import ABSENT, ScoreCurve

LARGEST_PX = 1600
"""Sides of pictures in the report are reduced to this; the PNG files beside it keep theirs."""
_QUALITY = 85
TEMPLATE = Path(__file__).with_name("report.html")
_CONFUSIONS = 15
"""Rows of the list of confusions, at most."""
_MEANING = {
    "AP": "AP, mean over IoU 0.50:0.95", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75",
    "APs": "AP of small objects (below 32 x 32 px)", "APm": "AP of medium objects",
    "APl": "AP of large objects (from 96 x 96 px)", "ARs": "AR of small objects", "ARm": "AR of medium objects",
    "ARl": "AR of large objects",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with a line above it."""

    caption: str
    image: Image.Image


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """Everything that the report shows; C classes."""

    title: str
    facts: Mapping[str, str]
    """What was evaluated: files, images, versions."""
    stats: Mapping[str, float]
    """COCO metrics as fractions, -1 where there is nothing to measure."""
    class_aps: Sequence[float]
    """AP of each class, -1 without objects."""
    curves: Sequence[ScoreCurve]
    """One per class."""
    threshold: float
    """Score at which confusions and errors are counted."""
    confusion: NDArray[np.int64]
    """(C + 1, C + 1), see ``errors.Mistakes``."""
    plots: Mapping[str, Any]
    """matplotlib figures by their headings."""
    samples: Sequence[Picture]
    errors: Mapping[Kind, tuple[int, Image.Image | None]]
    """Per kind how many there are, and a sheet of some."""

    def confusions(self) -> list[tuple[int, int, int, float]]:
        """The largest: annotated and detected class, number of objects, and their share of the annotated class."""
        wrong = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(wrong, 0)
        totals = self.confusion.sum(axis=1)
        rows = []
        for index in np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS].tolist():
            truth, detected = divmod(index, len(wrong))
            if count := int(wrong[truth, detected]):
                rows.append((truth, detected, count, count / int(totals[truth])))
        return rows


def write_report(path: Path, report: EvaluationReport) -> None:
    """Write the page, whole or not at all."""
    with whole_file(path, durable=False) as partial:
        partial.write_text(page(report), encoding="utf-8")


def page(report: EvaluationReport) -> str:
    """The page as HTML: ``report.html`` filled in, every text escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: list[Callable[..., str]] = [png_uri, jpeg_uri, metric, percent, css_color]
    environment.filters |= {function.__name__: function for function in filters}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report=report, kinds=KINDS) + "\n"


def png_uri(figure: Any) -> str:
    """A matplotlib figure as a data URI."""
    return _uri("image/png", png(figure))


def jpeg_uri(image: Image.Image) -> str:
    """A picture as a data URI, reduced to ``LARGEST_PX``."""
    small = image.convert("RGB")
    small.thumbnail((LARGEST_PX, LARGEST_PX))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def metric(name: str) -> str:
    """What a metric's name means."""
    return _MEANING.get(name) or (f"AR with {name[2:]} detections per image" if name[2:].isdigit() else name)


def percent(value: float) -> str:
    """A fraction as text, a metric without objects as a dash."""
    return "-" if value == ABSENT else f"{100 * value:.1f}"


def css_color(label: int) -> str:
    """The class's colour for a style sheet."""
    red, green, blue = class_color(label)
    return f"rgb({red},{green},{blue})"
