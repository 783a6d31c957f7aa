# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Videos in and out."""

import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isdfine.core.errors import ConfigError
from isdfine.inference.sources import Clip, InputImage, Skipped, open_sources
from isdfine.inference.video import Video, VideoWriter, package
from video_cases import load_av, read_video, write_video


def test_frames_in_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 25)
    video = Video(str(path), "clip", every=10)
    assert video.count == 3
    frames = list(video)
    assert all(isinstance(frame, InputImage) for frame in frames)
    assert [frame.name for frame in frames] == ["clip/000000.jpg", "clip/000010.jpg", "clip/000020.jpg"]
    for frame, number in zip(frames, (0, 10, 20)):
        assert isinstance(frame, InputImage)
        assert (frame.number, frame.clip) == (number, Clip("clip", Fraction(1)))
        assert frame.seconds == pytest.approx(number / 10)
        assert abs(int(np.asarray(frame.image)[40, 5, 0]) - 10 - number) <= 3
        assert frame.image.size == (64, 48)


def test_videos_that_cannot_be_used(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", 40).read_bytes()
    contents = {"empty.mp4": b"", "text.mp4": b"no video at all", "cut.avi": whole[:300]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        [skipped] = Video(str(tmp_path / name), "clip")
        assert isinstance(skipped, Skipped)
        assert f"{name}: " in skipped.reason
        assert "\n" not in skipped.reason
    [gone] = Video(str(tmp_path / "absent.mp4"), "clip")
    assert isinstance(gone, Skipped)
    assert gone.reason.endswith("absent.mp4: cannot be read (No such file or directory)")


def test_a_video_without_frames_and_one_without_pictures(tmp_path: Path) -> None:
    av = load_av()
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    for name, reason in (("none.avi", "holds no frame that can be decoded"), ("sound.mp4", "holds no video")):
        [skipped] = Video(str(tmp_path / name), "clip")
        assert isinstance(skipped, Skipped)
        assert skipped.reason == f"{tmp_path / name}: {reason}"


def test_phone_videos_are_turned(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs the program ffmpeg to write a rotation into a video")
    path = write_video(tmp_path / "flat.mp4", 3)
    for degrees in (90, 180, 270):
        turned = tmp_path / f"turned{degrees}.mp4"
        command = ["ffmpeg", "-loglevel", "error", "-display_rotation", str(degrees), "-i", path, "-c", "copy", turned]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("this ffmpeg has no -display_rotation")
        upright = tmp_path / f"upright{degrees}.mp4"  # ffmpeg turns the pixels when it encodes
        subprocess.run(["ffmpeg", "-loglevel", "error", "-i", turned, "-q:v", "2", upright], check=True)
        frame = next(iter(Video(str(turned), "clip")))
        assert isinstance(frame, InputImage)
        expected = read_video(upright)[0]
        assert frame.image.size == expected.shape[1::-1]
        assert np.abs(np.asarray(frame.image).astype(int) - expected).mean() < 6


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
def test_written_videos_are_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    load_av()
    path = tmp_path / "new" / "out.mp4"
    with VideoWriter(path, Fraction(30000, 1001), size) as writer:
        for number in range(5):
            writer.write(Image.new("RGB", size[::-1], (40 * number,) * 3))
        writer.write(Image.new("RGB", (20, 20), "white"))
        assert not path.exists()
    frames = read_video(path)
    assert len(frames) == 6
    assert frames[0].shape[:2] == tuple(side + side % 2 for side in size)
    assert [round(frame.mean() / 40) for frame in frames[:5]] == [0, 1, 2, 3, 4]
    assert frames[5].mean() > 240
    assert Video(str(path), "x").count == 6
    assert [entry.name for entry in path.parent.iterdir()] == ["out.mp4"]


def test_a_broken_run_leaves_no_video(tmp_path: Path) -> None:
    load_av()

    def fail() -> None:
        with VideoWriter(tmp_path / "out.mp4", Fraction(10), (48, 64)) as writer:
            writer.write(Image.new("RGB", (64, 48)))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_package_and_cameras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_av()
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(ConfigError, match="camera 0: cameras are read on Linux and macOS only"):
        list(open_sources(["0"])[0])
    monkeypatch.setattr(sys, "platform", "linux")
    [skipped] = open_sources(["93"])[0]
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "camera 93: cannot be read (No such file or directory)"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r'av is not installed: pip install "isdfine\[video\]"'):
        package()


def written(path: Path) -> list[float]:
    """Seconds of the frames of a video."""
    with load_av().open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_times_of_frames_are_kept(tmp_path: Path) -> None:
    """A rate that changes, times that run backwards in a damaged file, and times rounded to milliseconds."""
    load_av()
    for name, rate, given, expected in (
        ("slow.mp4", Fraction(5), [3.0, 3.1, 3.2, 4.0, 5.5], [0, 0.1, 0.2, 1.0, 2.5]),
        ("back.mp4", Fraction(10), [0, 0.1, 0.05, 0.15, None], [0, 0.1, 0.2, 0.3, 0.4]),
        ("ntsc.mp4", Fraction(30000, 1001), [0, 0.033, 0.067, 0.1], [n * 1001 / 30000 for n in range(4)]),
    ):
        with VideoWriter(tmp_path / name, rate, (48, 64)) as writer:
            for seconds in given:
                writer.write(Image.new("RGB", (64, 48)), seconds)
        assert written(tmp_path / name) == pytest.approx(expected, abs=1e-4)
    with load_av().open(str(tmp_path / "ntsc.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def read(path: Path) -> tuple[int, list[str]]:
    """How many frames, and what else was said."""
    items = list(Video(str(path), "clip"))
    reasons = [item.reason for item in items if isinstance(item, Skipped)]
    return len(items) - len(reasons), reasons


def places(path: Path) -> list[tuple[int, int]]:
    """Where the packets of a video lie in its file, and how long they are."""
    with load_av().open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"clip.{suffix}", 60)
    assert read(path) == (60, [])
    path.write_bytes(path.read_bytes()[: places(path)[30][0]])
    count, [reason] = read(path)
    assert 25 < count < 31
    assert re.fullmatch(rf"{re.escape(str(path))}: ends after [\d.]+ of [\d.]+ (frames|seconds): it is cut off", reason)


def test_damaged_frames_cost_only_themselves(tmp_path: Path) -> None:
    if "libx264" not in load_av().codecs_available:
        pytest.skip("this build of FFmpeg writes no H.264")
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, Fraction(10), (48, 64)) as writer:
        for number in range(40):
            writer.write(Image.new("RGB", (64, 48), (6 * number, 0, 0)))
    content = bytearray(path.read_bytes())
    for place, size in places(path)[10:12]:
        content[place : place + size] = b"\xff" * size
    path.write_bytes(bytes(content))
    count, reasons = read(path)
    assert count >= 36
    assert reasons == [f"{path}: 2 damaged parts of it were passed over, {count} frames were used"]
