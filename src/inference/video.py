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

from ..core.errors import ConfigError
from ..core.extras import need
from ..core.files import whole_file
from .sources import Clip, InputImage, Skipped

_USUAL_RATE = Fraction(25)
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_ENCODERS = ("libx264", "mpeg4")
"""The first that this build of FFmpeg has is used."""
_WHOLE = 0.75
"""Share of the frames a file announces from which it counts as complete; AVI files announce dropped ones too."""
_FINEST = {"libx264": 1_000_000, "mpeg4": 65_535}
"""Ticks per second that an encoder takes, at most."""
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
    return need("av", "video")


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

    def __iter__(self) -> Iterator[InputImage | Skipped]:
        av, progress = package(), _Progress()
        try:
            with self._opened(av) as container:
                if not container.streams.video:
                    yield Skipped(self.name, f"{self._place}: holds no video")
                    return
                for frame in _decoded(av, container, progress):
                    if not (progress.frames - 1) % self.every:
                        yield self._frame(container, frame, progress.frames - 1)
                problem = progress.problem(container)
        except (av.FFmpegError, OSError) as error:
            after = f" after frame {progress.frames}" if progress.frames else ""
            problem = f"cannot be read{after} ({getattr(error, 'strerror', None) or error})"
        if problem is not None:
            yield Skipped(self.name, f"{self._place}: {problem}")

    @property
    def _place(self) -> str:
        return f"camera {self.place}" if self.place.isdigit() else self.place

    def _opened(self, av: Any) -> Any:
        if not self.place.isdigit():
            return av.open(self.place)
        if sys.platform not in _CAMERAS:
            raise ConfigError(f"camera {self.place}: cameras are read on Linux and macOS only; give a stream's address")
        form, device = _CAMERAS[sys.platform]
        return av.open(device.format(self.place), format=form)

    def _frame(self, container: Any, frame: Any, number: int) -> InputImage:
        stream = container.streams.video[0]
        clip = Clip(self.name, Fraction(stream.average_rate or stream.guessed_rate or _USUAL_RATE) / self.every)
        turn = _TURNS.get(round(frame.rotation) % 360)
        image: Image.Image = frame.to_image()
        if turn is not None:
            image = image.transpose(turn)
        return InputImage(f"{self.name}/{number:06}.jpg", image, clip, number, frame.time)


@dataclass
class _Progress:
    """How far a video was read."""

    frames: int = 0
    broken: int = 0
    """Packets that could not be decoded."""
    end: Fraction | None = None
    """Seconds at which the last frame ends, where it says so."""

    def problem(self, container: Any) -> str | None:
        """What a user has to know of a video that was read to its end."""
        if not self.frames:
            return "holds no frame that can be decoded"
        if self.broken:
            return f"{self.broken} damaged parts of it were passed over, {self.frames} frames were used"
        stream = container.streams.video[0]
        start, length = (stream.start_time or 0) * stream.time_base, _length(container)
        if self.end is not None and length is not None and start + length - self.end > max(1, length / 50):
            return f"ends after {float(self.end - start):.1f} of {float(length):.1f} seconds: it is cut off"
        edited = "mov" in container.format.name  # an edit list may leave out frames that are counted
        if not edited and self.frames < _WHOLE * stream.frames:
            return f"ends after {self.frames} of {stream.frames} frames: it is cut off"
        return None


def _length(container: Any) -> Fraction | None:
    """Seconds that a file says its video has; None for cameras, and for containers that say it of all parts only."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        return Fraction(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return Fraction(container.duration, 1_000_000) if alone else None


def _decoded(av: Any, container: Any, progress: _Progress) -> Iterator[Any]:
    """Every frame; damaged packets are passed over, as players do, and counted."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            progress.broken += 1
            continue
        for frame in frames:
            progress.frames += 1
            if frame.pts is not None:
                shown = getattr(frame, "duration", None) or 0  # PyAV before 15 does not say it
                progress.end = (frame.pts + shown) * frame.time_base
            yield frame


class VideoWriter:
    """An MP4 file (H.264 where FFmpeg has it) that gets its name when it is complete.

    Args:
        path: of the file.
        rate: frames per second; the usual distance of frames that come without a time.
        size: (height, width) of the first frame; odd sides get a row or column more, which H.264 needs.
    """

    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int]) -> None:
        av = package()
        encoder = next((encoder for encoder in _ENCODERS if encoder in av.codecs_available), None)
        if encoder is None:
            raise ConfigError(f"{path}: this build of FFmpeg has none of the encoders {', '.join(_ENCODERS)}")
        self.size = size
        self._whole = whole_file(path, durable=False)
        self._container = av.open(str(self._whole.__enter__()), "w", format="mp4")
        rate = rate.limit_denominator(1001)
        self._stream = self._container.add_stream(encoder, rate=rate)
        self._usual = max(1, _FINEST[encoder] // rate.numerator)  # ticks from frame to frame; whole, so that a steady
        self._tick = 1 / (rate * self._usual)  # rate stays exactly that
        self._stream.codec_context.time_base = self._tick
        self._shown = -self._usual
        self._zero: float | None = None
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._frame_of = av.VideoFrame.from_ndarray

    def write(self, image: Image.Image, seconds: float | None = None) -> None:
        """Add a frame; one of another size (a camera that was turned) is resized to that of the first.

        Args:
            image: the frame.
            seconds: its time in the source; it is shown as long after the frame before as it was there.
        """
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height))
        pixels = np.pad(np.asarray(image), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._frame_of(pixels, format="rgb24")
        frame.pts, frame.time_base = self._ticks(seconds), self._tick
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _ticks(self, seconds: float | None) -> int:
        """When the next frame is shown; later than the one before whatever a damaged file says."""
        usual = self._shown + self._usual
        ticks = usual
        if seconds is not None:
            if self._zero is None:
                self._zero = seconds
            asked = round((seconds - self._zero) / self._tick)
            if asked <= self._shown:
                self._zero = seconds - float(usual * self._tick)
            elif abs(asked - usual) > self._usual / 10:  # nearer than that it is the rounding of the source
                ticks = asked
        self._shown = ticks
        return ticks

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
