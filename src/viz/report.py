# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
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
_CONFUSIONS = 15
"""Rows of the list of confusions, at most."""
_MEANING = {
    "AP": "AP, mean over IoU 0.50:0.95", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75",
    "APs": "AP of small objects (below 32 x 32 px)", "APm": "AP of medium objects",
    "APl": "AP of large objects (from 96 x 96 px)", "ARs": "AR of small objects", "ARm": "AR of medium objects",
    "ARl": "AR of large objects",
}  # fmt: skip
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 1240px;
       padding: 0 24px 60px; }
h1 { font-size: 24px; margin: 28px 0 8px; } h2 { font-size: 19px; margin: 40px 0 10px; border-bottom: 1px solid #ccc; }
h3 { font-size: 15px; margin: 26px 0 6px; } p { max-width: 90ch; color: #444; }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 1px solid #888; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 7em; }
.facts td { text-align: left; overflow-wrap: anywhere; } .scroll { overflow-x: auto; }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 7px; border-radius: 2px; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 0 0 22px; }
figcaption { font-size: 13px; color: #444; overflow-wrap: anywhere; margin-bottom: 4px; }
"""


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


def write_report(path: Path, report: EvaluationReport) -> None:
    """Write the page, whole or not at all."""
    with whole_file(path, durable=False) as partial:
        partial.write_text(page(report), encoding="utf-8")


def page(report: EvaluationReport) -> str:
    """The page as HTML. Its content policy forbids everything but its own style and pictures."""
    body = [
        f"<h1>{escape(report.title)}</h1>",
        _table([], [[escape(key), escape(value)] for key, value in report.facts.items()], "facts"),
        "<h2>COCO metrics</h2>",
        _stats(report.stats),
        "<h2>Classes</h2>",
        "<p>AP and AP50 in percent. The best threshold is the score at which the class's F1 is highest at IoU 0.5, "
        "with precision and recall there.</p>",
        _classes(report),
    ]
    for heading, figure in report.plots.items():
        body += [f"<h2>{escape(heading)}</h2>", _image(png_uri(figure), heading)]
    body += ["<h2>Largest confusions</h2>", _confusions(report)]
    body += [f"<h2>Samples</h2><p>Detections with a score of at least {report.threshold:.3f}.</p>"]
    body += [_figure(one) for one in report.samples]
    body += ["<h2>Errors</h2>", _error_intro(report.threshold)]
    for kind, (count, sheet) in report.errors.items():
        body.append(f"<h3>{escape(KINDS[kind])}: {count:,}</h3>")
        if sheet is not None:
            body.append(_image(jpeg_uri(sheet), KINDS[kind]))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n"
        "</body></html>\n"
    )


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


def _image(uri: str, description: str) -> str:
    return f'<img alt="{escape(description)}" src="{uri}">'


def _figure(picture: Picture) -> str:
    name = escape(picture.caption)
    return f"<figure><figcaption>{name}</figcaption>{_image(jpeg_uri(picture.image), picture.caption)}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """Cells are HTML already."""
    top = f"<thead><tr>{''.join(f'<th>{one}</th>' for one in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{one}</td>' for one in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{name}">{top}<tbody>{body}</tbody></table></div>'


def _stats(stats: Mapping[str, float]) -> str:
    def meaning(name: str) -> str:
        known = _MEANING.get(name)
        return known or (f"AR with {name[2:]} detections per image" if name[2:].isdigit() else name)

    return _table(["metric", "%"], [[escape(meaning(name)), _percent(value)] for name, value in stats.items()])


def _classes(report: EvaluationReport) -> str:
    rows = []
    for label, (curve, ap) in enumerate(zip(report.curves, report.class_aps)):
        best = curve.best()
        point = ["-"] * 4 if best is None else [f"{one:.3f}" for one in best]
        rows.append([_class(curve.name, label), f"{curve.num_objects:,}", _percent(ap), _percent(curve.ap), *point])
    head = ["class", "objects", "AP", "AP50", "best threshold", "precision", "recall", "F1"]
    return _table(head, rows)


def _confusions(report: EvaluationReport) -> str:
    names = [one.name for one in report.curves]
    inside = report.confusion[:-1, :-1].copy()
    np.fill_diagonal(inside, 0)
    order = np.argsort(-inside, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(int(one) // len(names), int(one) % len(names)) for one in order if inside.flat[one] > 0] if names else []
    if not pairs:
        return "<p>No object was taken for one of another class.</p>"
    rows = []
    for truth, found in pairs:
        count, total = int(inside[truth, found]), max(1, int(report.confusion[truth].sum()))
        rows.append([_class(names[truth], truth), _class(names[found], found), f"{count:,}", f"{count / total:.1%}"])
    return _table(["annotated", "detected", "objects", "share of the class"], rows)


def _error_intro(threshold: float) -> str:
    return (
        f"<p>Detections with a score of at least {threshold:.3f} that found no object of their class (IoU 0.5), the "
        "surest first; misses with the largest first. Solid: the detection. Dashed: the annotated object. Colours are "
        "those of the classes.</p>"
    )


def _class(name: str, label: int) -> str:
    red, green, blue = class_color(label)
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>{escape(name)}'


def _percent(value: float) -> str:
    return "-" if value == ABSENT else f"{100 * value:.1f}"
