# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files that survive full disks and cut files, and the state of random generators."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isdfine.core.checkpoint import read_checkpoint
from isdfine.core.errors import CheckpointError
from isdfine.solver import checkpoint
from isdfine.solver.checkpoint import rng_state, save_checkpoint, set_rng_state
from isdfine.solver.progress import is_better


def test_saved_then_loaded_equals_before(tmp_path: Path) -> None:
    state = {"model": {"a": torch.arange(3.0)}, "epoch": 3, "names": ["cat", "dog"], "best": None, "rng": rng_state()}
    path = tmp_path / "run" / "deep" / "last.pth"
    save_checkpoint(state, path)
    loaded = read_checkpoint(path)
    assert torch.equal(loaded["model"]["a"], state["model"]["a"])
    assert {key: loaded[key] for key in ("epoch", "names", "best")} == {
        "epoch": 3,
        "names": ["cat", "dog"],
        "best": None,
    }
    assert [file.name for file in path.parent.iterdir()] == ["last.pth"]
    set_rng_state(loaded["rng"])


class FullDisk:
    """A file that takes some bytes and then reports a full disk."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_full_disk_leaves_the_earlier_file(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"epoch": 1}, path)

    def full_disk(name: Path, mode: str) -> FullDisk:
        return FullDisk(name.open(mode), room)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "open", full_disk, raising=False)
        with pytest.raises(
            CheckpointError,
            match=r"last.pth: the checkpoint could not be saved \(No space left on device\); the earlier .* untouched",
        ):
            save_checkpoint({"epoch": 2, "weights": torch.zeros(5000)}, path)
    assert read_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_error_after_writing_leaves_the_earlier_file(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"epoch": 1}, path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, stage, fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save_checkpoint({"epoch": 2}, path)
    assert read_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"could not be saved .*; no earlier file of that name existed. Free space"
    ):
        save_checkpoint({"epoch": 1}, tmp_path / "file" / "last.pth")


def test_interruption_removes_the_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint({"epoch": 1}, tmp_path / "last.pth")
    assert list(tmp_path.iterdir()) == []


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"weights": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:7000])
    with pytest.raises(CheckpointError, match=r"last.pth \(7000 bytes\) cannot be read: it is truncated"):
        read_checkpoint(path)


def draws() -> list[float]:
    return [
        float(torch.rand(1)),
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
    ]


def test_generators_continue_where_they_stopped(tmp_path: Path) -> None:
    random.gauss(0, 1)
    np.random.randn()  # both keep a second normal value back: it belongs to the state
    save_checkpoint({"rng": rng_state()}, tmp_path / "rng.pth")
    expected = draws()
    draws()
    set_rng_state(read_checkpoint(tmp_path / "rng.pth")["rng"])
    assert draws() == expected


def test_incomplete_random_state() -> None:
    state = rng_state()
    del state["numpy"]
    with pytest.raises(CheckpointError, match="the saved random state lacks numpy: the checkpoint is damaged"):
        set_rng_state(state)


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        (0.5, None, True),
        (0.5, 0.4, True),
        (0.5, 0.5, False),
        (0.4, 0.5, False),
        (None, None, False),
        (None, 0.1, False),
        (float("nan"), 0.1, False),
        (0.1, float("nan"), True),
        (-1.0, None, True),
    ],
)
def test_is_better(new: float | None, old: float | None, better: bool) -> None:
    assert is_better(new, old) is better
