# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are checkpoints, and the messages for those that are not."""

import traceback
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isdfine.core.checkpoint import read_checkpoint, weights_in
from isdfine.core.errors import CheckpointError

STATE = {"backbone.weight": torch.arange(6.0).reshape(2, 3), "decoder.bias": torch.zeros(3)}


def test_no_weights_inside() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"x.pth: no weights in it: expected the entries ema.module, model or state_dict, or a bare state dict, "
        r"found epoch, optimizer",
    ):
        weights_in({"epoch": 3, "optimizer": {}}, "x.pth")
    with pytest.raises(CheckpointError, match="found nothing"):
        weights_in({}, "x.pth")


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_weights_stand_under_several_names(key: str) -> None:
    wrapped: dict[str, Tensor] = {f"module.{name}": value for name, value in STATE.items()}
    assert weights_in({key: wrapped, "epoch": 3}, "x.pth") == STATE


class Foreign:
    """A class that a checkpoint must not bring along."""


def test_pickled_class_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Foreign()}, tmp_path / "old.pth")
    with pytest.raises(
        CheckpointError, match=r"old.pth: holds the pickled Python class .*Foreign, which is not loaded"
    ):
        read_checkpoint(tmp_path / "old.pth")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone.pth: no such checkpoint file: check the path"):
        read_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match=r"this is a folder: give the checkpoint file in it"):
        read_checkpoint(str(tmp_path))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"model": STATE}, whole)
    content = whole.read_bytes()
    cut = [content[: len(content) * part // 10] for part in range(10)]
    foreign = [b"{}", b"<html>404</html>", b"\x80\x04K\x05.", b"\x00" * 512, b"version https://git-lfs", content[::-1]]
    for index, text in enumerate(cut + foreign):
        path = tmp_path / f"bad{index}.pth"
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match=rf"bad{index}.pth"):
            read_checkpoint(path)


@pytest.mark.parametrize("text", ["__include__: [a.yml]\nepoches: 3\n", "<html>404</html>", "\x00" * 512])
def test_advice_to_load_unsafely_is_not_passed_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yml").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"run.yml \(\d+ bytes\) is not a checkpoint, or it holds pickled"
    ) as caught:
        read_checkpoint(tmp_path / "run.yml")
    shown = "".join(traceback.format_exception(caught.value))
    assert "Re-running" not in shown
    assert "weights_only` set to `False`" not in shown


def test_file_with_something_else(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list.pth: holds a list, not a checkpoint's dictionary"):
        read_checkpoint(tmp_path / "list.pth")
