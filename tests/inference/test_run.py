# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The loop: order, batches, what is passed over, Ctrl-C, and memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector_cases import TellTale
from isdfine import Detections, Detector
from isdfine.core.errors import DataError
from isdfine.inference.run import run
from isdfine.inference.sources import InputImage, Skipped
from isdfine.inference.tiling import Tiling


class Memory:
    """A sink that remembers names and counts."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.pictures: list[Image.Image] = []

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        self.seen.append((frame.name, len(detections)))
        self.pictures.append(drawn())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...


def one_box(_: Any) -> list[list[float]]:
    return [[1, 0.1, 0.1, 0.5, 0.5, 0.9]]


def frame(number: int) -> InputImage:
    return InputImage(f"{number}.jpg", Image.new("RGB", (40, 30), (number,) * 3))


def test_order_batches_and_skipped_ones() -> None:
    backend, first, second = TellTale(one_box), Memory(), Memory()
    broken = Skipped("broken.jpg", "broken.jpg: the file is empty")
    skipped: list[Skipped] = []
    done: list[int] = []
    summary = run(
        Detector(backend, batch_size=2), [[frame(0), broken, frame(1)], [frame(2)]], [first, second],
        on_skip=skipped.append, on_picture=lambda: done.append(1),
    )  # fmt: skip
    assert first.seen == second.seen == [("0.jpg", 1), ("1.jpg", 1), ("2.jpg", 1)]
    assert all(picture is other for picture, other in zip(first.pictures, second.pictures)), "drawn once for all sinks"
    assert (summary.pictures, summary.skipped, summary.per_class) == (3, 1, {"light": 3})
    assert skipped == [broken]
    assert len(done) == 4


def test_threshold_and_tiles() -> None:
    backend = TellTale(one_box)
    assert run(Detector(backend), [[frame(0)]], [Memory()], threshold=0.95).per_class == {}
    backend.batches.clear()
    big = InputImage("big.png", Image.new("RGB", (100, 64)))
    run(Detector(backend), [[big, frame(0)]], [Memory()], tiling=Tiling((64, 64), 0.2))
    assert backend.batches == [2, 1]


def test_a_picture_that_the_recipe_refuses_costs_no_other() -> None:
    class Refusing(Detector):
        def stream(self, images: Any, *arguments: Any, **options: Any) -> Iterator[Detections]:
            for image in images:
                if image.getpixel((0, 0))[0] == 1:
                    raise DataError("PadToSize: does not fit")
                yield from super().stream([image], *arguments, **options)

    skipped: list[Skipped] = []
    sink = Memory()
    detector = Refusing(TellTale(one_box), batch_size=4)
    summary = run(detector, [[frame(n) for n in range(3)]], [sink], on_skip=skipped.append)
    assert [name for name, _ in sink.seen] == ["0.jpg", "2.jpg"]
    assert (summary.pictures, summary.skipped) == (2, 1)
    assert skipped == [Skipped("1.jpg", "1.jpg: PadToSize: does not fit")]


def test_ctrl_c_ends_a_camera_and_keeps_what_there_is() -> None:
    def camera() -> Iterator[InputImage]:
        yield from (frame(0), frame(1))
        raise KeyboardInterrupt

    sink = Memory()
    summary = run(Detector(TellTale(one_box), batch_size=1), [camera()], [sink])
    assert summary.interrupted
    assert len(sink.seen) == summary.pictures == 2


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def test_pictures_are_not_kept(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc, which only Linux has")

    class Count(Memory):
        def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
            self.seen.append((frame.name, len(detections)))
            if len(self.seen) in (30, 150):
                sizes.append(resident_mib())

    sizes: list[float] = []
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    frames = (InputImage(f"{number}.jpg", Image.fromarray(pixels + number)) for number in range(150))  # 3 MB each
    run(Detector(TellTale(one_box), batch_size=4), [frames], [Count()])
    assert sizes[1] - sizes[0] < 60, f"resident memory {sizes} MiB after 30 and 150 pictures"
