# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Videos and cameras, read and written with PyAV (FFmpeg)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ...core.atomic import whole_file
from ...core.errors import ConfigError
from .sources import Clip, Frame, Skipped

_USUAL_RATE = Fraction(25)
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_ENCODERS = ("libx264", "mpeg4")
"""The first that this build of FFmpeg has is used."""
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def package() -> Any:
    """PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise ConfigError("videos and cameras need a package: pip install av") from None
    return av


@dataclass(frozen=True)
class Video:
    """The frames of a video file, a stream or a camera, turned as the file says that they are to be shown.

    Args:
        place: file, address, or number of a camera.
        name: see ``Clip``.
        every: use each n-th frame.
    """

    place: str
    name: str
    every: int = 1
    clip = True

    @property
    def count(self) -> int | None:
        """Frames to be used, where the file says how many it has."""
        av = package()
        if self.place.isdigit() or "://" in self.place:
            return None
        try:
            with av.open(self.place) as container:
                frames = sum(stream.frames for stream in container.streams.video[:1])
        except av.FFmpegError:
            return None  # said when it is read
        return -(-frames // self.every) or None

    def __iter__(self) -> Iterator[Frame | Skipped]:
        av, used = package(), 0
        try:
            with self._opened(av) as container:
                if not container.streams.video:
                    yield Skipped(self.name, f"{self.place}: holds no video")
                    return
                for frame in self._frames(container):
                    used += 1
                    yield frame
        except (av.FFmpegError, OSError) as error:
            reason = str(getattr(error, "strerror", None) or error)
            after = f" after frame {used}" if used else ""
            yield Skipped(self.name, f"{self.place}: cannot be decoded{after} ({reason})")
            return
        if not used:
            yield Skipped(self.name, f"{self.place}: holds no frame that can be decoded")

    def _opened(self, av: Any) -> Any:
        if not self.place.isdigit():
            return av.open(self.place)
        if sys.platform not in _CAMERAS:
            raise ConfigError(f"camera {self.place}: cameras are read on Linux and macOS only; give a stream's address")
        form, device = _CAMERAS[sys.platform]
        return av.open(device.format(self.place), format=form)

    def _frames(self, container: Any) -> Iterator[Frame]:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        clip = Clip(self.name, Fraction(stream.average_rate or stream.guessed_rate or _USUAL_RATE) / self.every)
        for number, frame in enumerate(container.decode(stream)):
            if number % self.every:
                continue
            turn = _TURNS.get(round(frame.rotation) % 360)
            image: Image.Image = frame.to_image()
            if turn is not None:
                image = image.transpose(turn)
            yield Frame(f"{self.name}/{number:06}.jpg", image, clip, number, frame.time)


class VideoWriter:
    """An MP4 file (H.264 where FFmpeg has it) that gets its name when it is complete.

    Args:
        path: of the file.
        rate: frames per second.
        size: (height, width) of the first frame; odd sides get a row or column more, which H.264 needs.
    """

    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int]) -> None:
        av = package()
        encoder = next((one for one in _ENCODERS if one in av.codecs_available), None)
        if encoder is None:
            raise ConfigError(f"{path}: this build of FFmpeg has none of the encoders {', '.join(_ENCODERS)}")
        self.size = size
        self._whole = whole_file(path, durable=False)
        self._container = av.open(str(self._whole.__enter__()), "w", format="mp4")
        self._stream = self._container.add_stream(encoder, rate=rate.limit_denominator(65535))
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._frame_of = av.VideoFrame.from_ndarray

    def write(self, image: Image.Image) -> None:
        """Add a frame; one of another size (a camera that was turned) is resized to that of the first."""
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height))
        pixels = np.pad(np.asarray(image), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        for packet in self._stream.encode(self._frame_of(pixels, format="rgb24")):
            self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file; after an error it is removed."""
        try:
            if kind is None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
        finally:
            self._whole.__exit__(kind, error, trace)
