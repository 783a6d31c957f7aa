# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Turned bits: a file that loads holds what was written, or it is refused."""

import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from isdfine.core.checkpoint import NO_SUM, SUM_KEY, check_sum, read_checkpoint, write_with_sum
from isdfine.core.checkpoint.card import Card, card_path, save_weights
from isdfine.core.errors import CheckpointError
from isdfine.solver.checkpoint import save_checkpoint

STATE = {"backbone.weight": torch.arange(60.0).reshape(6, 10), "decoder.bias": torch.full((3,), 7.0)}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


def flip(path: Path, raw: bytes, place: int, bit: int) -> Path:
    damaged = bytearray(raw)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    return path


def flips_that_load(path: Path, places: list[int]) -> list[int]:
    """Places at which a turned bit is not noticed; what loads then must be what was written."""
    raw, whole, choose = path.read_bytes(), read_checkpoint(path), random.Random(1)
    unnoticed = []
    for place in places:
        try:
            found = read_checkpoint(flip(path, raw, place, choose.randrange(8)))
        except CheckpointError:
            continue
        assert same(found, whole), f"byte {place}"
        unnoticed.append(place)
    path.write_bytes(raw)
    return unnoticed


def test_no_turned_bit_changes_what_a_checkpoint_gives(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"model": STATE, "progress": {"epoch": 3}}, path)
    size = path.stat().st_size
    unnoticed = flips_that_load(path, list(range(0, size, 7)))
    assert 0 < len(unnoticed) < size / 7 / 2  # dates and padding may change
    payload = path.read_bytes().index(STATE["backbone.weight"].numpy().tobytes())
    assert flips_that_load(path, list(range(payload, payload + 240, 5))) == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"model": STATE}, path)
    raw = path.read_bytes()
    flip(path, raw, raw.index(STATE["backbone.weight"].numpy().tobytes()) + 9, 3)
    with pytest.raises(CheckpointError, match=r"last.pth \(\d+ bytes\) cannot be read: .*/data/0 is not what was"):
        read_checkpoint(path)


@pytest.mark.parametrize("with_card", [True, False])
def test_no_turned_bit_of_safetensors_is_loaded(tmp_path: Path, with_card: bool) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(STATE, path, Card(config={"task": "detection"}))
    if not with_card:
        card_path(path).unlink()
    start = path.read_bytes().index(SUM_KEY.encode())
    key = range(start - 1, start + len(SUM_KEY) + 3)  # without its key the sum is not found; the rest is untouched then
    size = path.stat().st_size
    assert set(flips_that_load(path, list(range(0, size, 3)))) <= set(key)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_without_sums_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        save_file(STATE, path)
    with caplog.at_level(logging.INFO, logger="isdfine"):
        assert same(read_checkpoint(path), STATE)
    assert f"theirs{suffix}: whether the file is damaged cannot be checked" in caplog.text


def test_the_sum_of_protobuf_text(tmp_path: Path) -> None:
    """As ONNX has it: key and text with their lengths, at the end of the file."""
    path = tmp_path / "model.onnx"
    write_with_sum(path, b"x" * 1000 + SUM_KEY.encode() + b"\x12\x08" + NO_SUM.encode() + b"tail")
    check_sum(path)
    raw = path.read_bytes()
    assert NO_SUM.encode() not in raw
    for place in (0, 500, len(raw) - 6, len(raw) - 1):
        with pytest.raises(
            CheckpointError, match=r"model.onnx .*; where another program changed it on purpose, remove"
        ):
            check_sum(flip(path, raw, place, 2))
