# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
from pathlib import Path

import pytest

from isdfine.core.errors import CheckpointError
from isdfine.solver.progress import Progress
from isdfine.solver.writers import JsonLines, ProgressBar, TensorBoard


def test_json_lines_append_and_survive_without_close(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    first.write("train", 1, {"loss": 2.0}, epoch=0)
    second = JsonLines(path, Progress(step=1))
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
    JsonLines(path, Progress(step=1)).close()
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


def test_an_evaluation_that_is_repeated_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = ['{"kind": "val", "step": 2, "epoch": 0}', '{"kind": "train", "step": 4, "epoch": 1}']
    path.write_text("\n".join([*kept, '{"kind": "val", "step": 4, "epoch": 1}', ""]))
    writer = JsonLines(path, Progress(epoch=1, batch=2, step=4))  # saved after the last batch, killed while evaluating
    writer.write("val", 4, {}, epoch=1)
    writer.close()
    assert path.read_text().splitlines() == [*kept, '{"kind": "val", "step": 4, "epoch": 1}']
    JsonLines(path, Progress(epoch=2, step=4)).close()
    assert len(path.read_text().splitlines()) == 3


def test_a_full_disk_is_named_for_tensorboard_too(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = TensorBoard(tmp_path)
    with open("/dev/full", "wb") as full:
        writer._records = RecordWriter(full)
        with pytest.raises(
            CheckpointError, match=r"tfevents.* could not be written \(No space left on device\).*with -r"
        ):
            writer.write("train", 1, {"loss": 2.0})
        writer.close()
        with contextlib.suppress(OSError):
            full.close()


def test_tensorboard_hides_what_a_killed_process_wrote_too_much(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3)), (1, (2,))):
        writer = TensorBoard(tmp_path, done)
        for step in steps:
            writer.write("train", step, {"loss": float(10 * done + step)})
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("train/loss")] == [(1, 1.0), (2, 12.0)]
