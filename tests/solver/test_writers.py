# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from isdfine.core.errors import CheckpointError
from isdfine.solver.writers import JsonLines, ProgressBar, TensorBoard


def test_json_lines_append_and_survive_without_close(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    first.write("train", 1, {"loss": 2.0}, epoch=0)
    second = JsonLines(path, done=1)
    second.write("val", 2, {"AP": 0.5}, epoch=0)
    first.close()
    second.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"kind": "train", "step": 1, "epoch": 0, "loss": 2.0},
        {"kind": "val", "step": 2, "epoch": 0, "AP": 0.5},
    ]


def test_lines_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n{"kind": "tr')
    JsonLines(path, done=1).close()
    assert path.read_text() == '{"kind": "train", "step": 1}\n'


def test_the_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(3, 0, "epoch 0")
    bar.advance()
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_tensorboard_gets_every_value(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoard(tmp_path)
    writer.write("val", 7, {"AP": 0.5, "AP50": 0.75}, epoch=0)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("val/AP50")[0].step == 7
    assert events.Scalars("val/AP50")[0].value == 0.75


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    writer = JsonLines(Path("/dev/full"))  # every flush fails with "no space left"
    with pytest.raises(CheckpointError, match=r"/dev/full could not be written \(No space left on device\).*with -r"):
        writer.write("train", 1, {"loss": 2.0})
    writer.close()
