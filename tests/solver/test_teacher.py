# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from detector_cases import micro_checkpoint
from isdfine import load_config
from isdfine.core.config import Config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.label_space import LabelSpace
from isdfine.distill.taught import Lesson
from isdfine.nn.types import Want
from isdfine.solver.teacher import build_lesson

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a detector that knows the classes dark and light."""
    return micro_checkpoint(tmp_path_factory.mktemp("teacher"))


def lesson(folder: Path, names: Sequence[str], **teacher: Any) -> Lesson | None:
    """For a student of these classes."""
    (folder / "run.yml").write_text("num_classes: 2\n")
    config: Config = load_config(folder / "run.yml").with_values({"teacher": teacher})
    return build_lesson(config, LabelSpace(tuple(names), tuple(range(len(names)))), CPU)


def anonymous(checkpoint: Path, folder: Path) -> Path:
    """The same without names of classes."""
    content = torch.load(checkpoint, weights_only=True)
    del content["label_space"]
    torch.save(content, folder / "anonymous.pth")
    return folder / "anonymous.pth"


def test_a_teacher_is_read_and_frozen(checkpoint: Path, tmp_path: Path) -> None:
    known = lesson(tmp_path, ["dark", "light"], checkpoint=str(checkpoint), precision="bf16", alpha=0.7, beta=0.3)
    assert known is not None
    assert (known.alpha, known.beta, known.teacher.precision) == (0.7, 0.3, "bf16")
    assert known.classes.identical
    assert not known.teacher.model.training
    assert not any(weight.requires_grad for weight in known.teacher.model.parameters())
    saved = torch.load(checkpoint, weights_only=True)["model"]
    assert all(torch.equal(value, saved[key]) for key, value in known.teacher.model.state_dict().items())
    assert known.teacher(torch.rand(1, 3, 64, 96), want=Want(layers=True)).layers[-1].logits.shape == (1, 8, 2)


def test_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text("num_classes: 2\n")
    assert build_lesson(load_config(tmp_path / "run.yml"), LabelSpace(("a",), (0,)), CPU) is None


def test_classes_are_found_by_name(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = lesson(tmp_path, ["Light", "grey", "dark"], checkpoint=str(checkpoint))
    assert known is not None
    assert (known.classes.student.tolist(), known.classes.teacher.tolist()) == ([0, 2], [1, 0])
    assert "does not know grey: nothing is distilled of these class scores" in caplog.text
    with pytest.raises(ConfigError, match=r"teacher: .*knows none of the classes of the data: it has dark, light, the"):
        lesson(tmp_path, ["cat", "dog"], checkpoint=str(checkpoint))


def test_a_teacher_without_names(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = str(anonymous(checkpoint, tmp_path))
    (tmp_path / "names.txt").write_text("light\ndark\n")
    (tmp_path / "three.txt").write_text("light\ndark\nred\n")
    named = lesson(tmp_path, ["dark", "light"], checkpoint=file, classes=str(tmp_path / "names.txt"))
    assert named is not None
    assert named.classes.teacher.tolist() == [1, 0]
    with caplog.at_level(logging.WARNING):
        assumed = lesson(tmp_path, ["dark", "light"], checkpoint=file)
    assert assumed is not None
    assert assumed.classes.identical
    assert "names no classes: its 2 are taken for those of the data in the same order" in caplog.text
    with pytest.raises(ConfigError, match=r"names no classes and has 2, the data has 3: say whose they are with teach"):
        lesson(tmp_path, ["dark", "light", "red"], checkpoint=file)
    with pytest.raises(ConfigError, match=r"teacher\.classes .*three\.txt has 3 names, but .* has 2 classes"):
        lesson(tmp_path, ["dark", "light"], checkpoint=file, classes=str(tmp_path / "three.txt"))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"checkpoint": "nowhere.pth"}, r"teacher\.checkpoint: nowhere\.pth: no such file or folder"),
        ({}, r"teacher: expected a mapping with a checkpoint.*write teacher: \{checkpoint: FILE\}"),
        ({"checkpoint": "x", "speed": 2}, "teacher: speed: no such key; known are checkpoint, config"),
        ({"checkpoint": "x", "precision": "int8"}, "teacher: precision: choose one of fp32, bf16, fp16"),
        ({"checkpoint": "x", "resize": 640}, r"teacher: resize: expected \[height, width\] in pixels, found 640"),
        ({"checkpoint": "x", "alpha": -1}, "teacher: alpha: expected a number of 0 or more, found -1"),
        ({"checkpoint": "x", "beta": 0}, "teacher: beta is 0: .*set allow_no_gt: True"),
    ],
)
def test_bad_settings(setting: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=text):
        lesson(tmp_path, ["dark", "light"], **setting)


def test_a_file_of_an_unknown_family(tmp_path: Path) -> None:
    torch.save({"model": {"stem.weight": torch.ones(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"teacher\.checkpoint: .*other\.pth"):
        lesson(tmp_path, ["dark", "light"], checkpoint=str(tmp_path / "other.pth"))
