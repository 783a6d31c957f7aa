# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine visualize distillation: what it compares, which cells it colours, what it refuses."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import taught_cases as cases
from builders import load_tool
from detector_cases import micro_checkpoint
from isdfine.deploy.preprocess import recipe_of
from isdfine.distill.memory_difference import MemoryLevel, memory_differences, memory_levels
from isdfine.distill.teacher import Teacher
from isdfine.nn.types import DetectorOutput, MemoryTap
from isdfine.plots.chosen_images import chosen_images
from isdfine.solver.teacher import build_lesson

TOOL = load_tool("visualize")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose batches are padded."""
    return micro_checkpoint(tmp_path_factory.mktemp("run"), "shorter_side")


def command(checkpoint: Path, out: Path, *arguments: object) -> list[str]:
    return ["distillation", "-r", str(checkpoint), "-o", str(out), "-d", "cpu", *map(str, arguments)]


def visualize(*arguments: object) -> int:
    code: int = TOOL.main(command(*arguments))
    return code


def test_pictures(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert visualize(checkpoint, out, "-u", f"teacher.checkpoint={checkpoint}", "--images", "1") == 0
    assert capsys.readouterr().out.split() == [str(out / "1_000.png")]
    with Image.open(out / "1_000.png") as picture:
        assert picture.width == 1650
        assert picture.height > 1000


def test_masks_lie_over_the_boxes_of_a_padded_image(checkpoint: Path, tmp_path: Path) -> None:
    run = TOOL.open_run(TOOL.parse_arguments(command(checkpoint, tmp_path, "-u", f"teacher.checkpoint={checkpoint}")))
    lesson = build_lesson(run.config, run.label_space, run.device)
    assert lesson is not None
    levels = memory_levels(run.model, lesson.teacher)
    (chosen,) = chosen_images(["1"], run.val_loader.dataset, recipe_of(run.config), run.device)
    height, width = chosen.size
    box = [width * 0.8, height * 0.8, width * 1.0, height * 1.0]
    assert chosen.truth is not None
    truth = replace(chosen.truth, boxes=torch.tensor([box]), labels=torch.tensor([0]))
    seen = TOOL.compared(run, lesson, levels, replace(chosen, truth=truth))
    assert seen.span > chosen.size, "the canvas is larger than the image"
    for level in seen.levels:
        rows, columns = level.location.nonzero()
        cell = np.array(seen.span) / level.location.shape  # height, width in pixels of the image
        assert rows.min() * cell[0] <= box[1] < (rows.min() + 1) * cell[0]
        assert columns.min() * cell[1] <= box[0] < (columns.min() + 1) * cell[1]
        assert rows.max() * cell[0] < height <= (rows.max() + 1) * cell[0] + 1e-3
        assert columns.max() * cell[1] < width <= (columns.max() + 1) * cell[1] + 1e-3
        assert np.nanmax(np.abs(level.difference)) < 1e-5, "a model is its own teacher"
        assert (np.isnan(level.difference) == (level.scale == 0)).all()
    for teacher, student in zip(seen.teacher, seen.student):
        assert torch.allclose(teacher, student)


def memory(tokens: Tensor) -> DetectorOutput:
    """Of one image with 1 x 2 cells."""
    return DetectorOutput([], taps={"memory": MemoryTap(tokens[None], [(1, 2)])})


def difference(student: Tensor, teacher: Tensor) -> list[float]:
    """Of the cells of an image without boxes."""
    levels = [MemoryLevel(0, 0, 32, student.shape[1] == teacher.shape[1])]
    (level,) = memory_differences(levels, memory(student), memory(teacher), torch.zeros(1, 0, 4), (32, 64))
    assert not level.location.any()
    assert level.scale.tolist() == [[[0.5, 0.5]]]
    values: list[float] = level.difference.flatten().tolist()
    return values


def test_equal_widths_compare_directions() -> None:
    student, teacher = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[0.0, 3], [0, -1]])
    assert difference(student, teacher) == pytest.approx([1, 2])
    assert difference(student, 5 * student) == pytest.approx([0, 0])


def test_other_widths_compare_attention() -> None:
    student, teacher = torch.tensor([[1.0, 1], [1, 1]]), torch.tensor([[0.0, 0, 0], [-1, 1, -1]])
    share = 1 / (1 + math.exp(-1 / 0.5))  # of the teacher's second cell
    assert difference(student, teacher) == pytest.approx([2 * (1 - share) - 1, 2 * share - 1])


def test_levels_pair_by_stride() -> None:
    levels = memory_levels(cases.detector(0), Teacher(cases.detector(1, dim=32)))
    assert levels == [MemoryLevel(0, 0, 16, False), MemoryLevel(1, 1, 32, False)]
    assert all(level.same_width for level in memory_levels(cases.detector(0), Teacher(cases.detector(1))))


def test_mistakes_of_the_user(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize(checkpoint, tmp_path / "out") == 2
    said = f"error: {checkpoint} has learned from no teacher: name one, -u teacher.checkpoint=FILE\n"
    assert capsys.readouterr().err.endswith(said)
    assert visualize(checkpoint, tmp_path / "out", "-u", f"teacher.checkpoint={tmp_path / 'none.pth'}") == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert f"teacher.checkpoint: {tmp_path / 'none.pth'}: no such file" in err


def test_models_without_a_common_memory(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isdfine.zoo.decoder import Decoder

    monkeypatch.setattr(Decoder, "taps", frozenset({"hidden"}))
    Image.new("RGB", (90, 40), "grey").save(tmp_path / "photo.png")
    taught = ["-u", f"teacher.checkpoint={checkpoint}", "--images", tmp_path / "photo.png"]
    assert visualize(checkpoint, tmp_path / "out", *taught) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("memory and masks are left out: DFINE has no tap memory: choose among ")
    assert [Path(line).name for line in lines[1:]] == ["photo.png"]
