# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Videos for tests."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def load_av() -> Any:
    """PyAV, or a skip where it is absent."""
    return pytest.importorskip("av", reason="pip install av")


def write_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), rate: int = 10) -> Path:
    """A video whose frame i is grey of value 10 + i (mod 200), with a white square that moves to the right."""
    av = load_av()
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), 10 + number % 200, np.uint8)
            left = number % (width - 16)
            pixels[16:32, left : left + 16] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def read_video(path: Path) -> list[Any]:
    """All frames as arrays (H, W, 3)."""
    with load_av().open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
