# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from builders import load_tool


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield load_tool("benchmark/data_pipeline")
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_way_is_measured_and_written(tool, tmp_path, capsys, monkeypatch):
    served = []
    monkeypatch.setattr(tool, "serve", lambda call, clock: served.append((call, clock)))

    @contextmanager
    def side_process(command, failure):
        """What the process of a way does, without its imports."""
        python, script, *arguments = command
        assert (python, Path(script).name) == (sys.executable, "data_pipeline.py")
        assert tool.main(arguments) == 0
        call, clock = served.pop()

        def turn():
            begin = clock()
            call()
            return clock() - begin

        yield None, turn

    monkeypatch.setattr(tool, "side_process", side_process)
    path = tmp_path / "found.json"
    few = ["--count", "4", "--batch", "2", "--rounds", "2", "--repeats", "1"]
    ways = ["official", "ours, fused"]
    assert tool.main(["--sizes", "48x64", *few, "--ways", ways[1], "-o", str(path)]) == 0
    shown = capsys.readouterr().out
    content = json.loads(path.read_text())["data"]["48x64"]
    assert list(content["timings"]) == ways == list(content["stages"])
    assert all(way in shown for way in ways)
    assert content["timings"]["official"]["times_official"] == 1
    assert all(len(timing["seconds_by_round"]) == 2 for timing in content["timings"].values())
    for stage in content["stages"].values():
        assert stage["decode"] > 0
        assert stage["geometry"] > 0
    assert content["stages"]["ours, fused"]["decisions"] > 0


def test_every_way_makes_batches_from_the_same_images(tool, tmp_path, capsys, monkeypatch):
    options = tool.parse_arguments(["--count", "2"])
    folder, path = tool.write_photos(tmp_path, (48, 64), 2, options)
    made = {label: make() for label, make in tool.ways(folder, path, 2).items()}
    assert tuple(made) == tool.WAYS
    for images, targets in made.values():
        assert images.shape == (2, 3, 640, 640)
        for target, other in zip(targets, made["official"][1]):  # the same draws
            assert torch.allclose(target["boxes"], other["boxes"], atol=1e-6)
    assert (made["official"][0] * 255 - made["ours, fused"][0].float()).abs().mean() < 1
    monkeypatch.setattr("sys.stdin", ["", ""])
    tool.serve_way("ours, fused", str(folder), str(path), 1)
    ready, *seconds = capsys.readouterr().out.split()
    assert ready == "null"
    assert [float(number) > 0 for number in seconds] == [True, True]


def test_synthetic_photos_are_the_same_for_a_seed(tool):
    import numpy as np

    first, again, other = (np.asarray(tool.photo(np.random.default_rng(seed), 30, 40)) for seed in (1, 1, 2))
    assert first.shape == (30, 40, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--sizes", "640"], "--sizes 640: give HEIGHTxWIDTH in pixels"),
        (["--images", "here"], "--images and --coco belong together"),
        (["--rounds", "0"], "rounds is 0: give 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_said(tool, capsys, arguments, match):
    assert tool.main(arguments) == 2
    assert match in capsys.readouterr().err
