# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Read matplotlib figures: what is really plotted."""

from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray


def patch(figure: Any, gid: str) -> Any:
    """The one rectangle with a gid."""
    (found,) = [bar for bar in figure.findobj(Rectangle) if bar.get_gid() == gid]
    return found


def bars(figure: Any, gid: str) -> NDArray[np.float64]:
    """Heights of the bars with a gid, left to right."""
    found = [bar for bar in figure.findobj(Rectangle) if bar.get_gid() == gid]
    assert found
    return np.array([bar.get_height() for bar in sorted(found, key=lambda bar: float(bar.get_x()))])


def clipped_texts(figure: Any) -> list[str]:
    """Texts that reach beyond the figure."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    ticks = [tick for axis in figure.findobj(Axis) for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    unseen = {
        id(label) for tick in ticks if not _in_view(tick) for label in (tick.label1, tick.label2)
    }  # matplotlib keeps labels beyond the limits and does not draw them
    out = []
    for text in figure.findobj(Text):
        if id(text) not in unseen and text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
                out.append(text.get_text())
    return out


def _in_view(tick: Any) -> bool:
    axis = tick.axes.xaxis if tick in (*tick.axes.xaxis.majorTicks, *tick.axes.xaxis.minorTicks) else tick.axes.yaxis
    low, high = sorted(axis.get_view_interval())
    return bool(low - 1e-9 <= tick.get_loc() <= high + 1e-9)
