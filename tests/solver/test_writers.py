# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import logging
import re
import sys
from pathlib import Path

import pytest

from isdfine.core.environment import setup_logging
from isdfine.core.errors import CheckpointError
from isdfine.solver.folder import RunFolder
from isdfine.solver.progress import Progress
from isdfine.solver.writers import JsonLines, ProgressBar, TensorBoard, Writer


def opened(writer: Writer, folder: Path, progress: Progress | None = None) -> Writer:
    writer.open(RunFolder(folder), progress or Progress(), {})
    return writer


def test_json_lines_append_and_survive_without_close(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = opened(JsonLines(), tmp_path)
    first.write("train", 1, {"loss": 2.0}, epoch=0)
    second = opened(JsonLines(), tmp_path, Progress(step=1))
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
    opened(JsonLines(), tmp_path, Progress(step=1)).close()
    assert path.read_text() == '{"kind": "train", "step": 1}\n'


def test_the_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(3, 0, "epoch 0")
    bar.advance()
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_terminal_shows_the_loss_below_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    setup_logging()
    bar = ProgressBar(3, 0, "epoch 0")
    bar.advance(1.5)
    assert "loss 1.5000" in str(bar._bar)
    logging.getLogger("isdfine.solver").info("a line")
    bar.close()
    assert re.search(r"\repoch 0: [^\n]*\r *\r[\d:]{8} INFO isdfine\.solver: a line\n", capsys.readouterr().err)


def test_tensorboard_gets_every_value(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = opened(TensorBoard(), tmp_path)
    writer.write("val", 7, {"AP": 0.5, "AP50": 0.75}, epoch=0)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("val/AP50")[0].step == 7
    assert events.Scalars("val/AP50")[0].value == 0.75


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")  # every flush fails with "no space left"
    writer = opened(JsonLines(), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"metrics.jsonl could not be written \(No space left on device\).*with -r"
    ):
        writer.write("train", 1, {"loss": 2.0}, epoch=0)
    writer.close()


def test_an_evaluation_that_is_repeated_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = ['{"kind": "val", "step": 2, "epoch": 0}', '{"kind": "train", "step": 4, "epoch": 1}']
    path.write_text("\n".join([*kept, '{"kind": "val", "step": 4, "epoch": 1}', ""]))
    stands = Progress(epoch=1, batch=2, step=4)  # saved after the last batch, killed while evaluating
    writer = opened(JsonLines(), tmp_path, stands)
    writer.write("val", 4, {}, epoch=1)
    writer.close()
    assert path.read_text().splitlines() == [*kept, '{"kind": "val", "step": 4, "epoch": 1}']
    opened(JsonLines(), tmp_path, Progress(epoch=2, step=4)).close()
    assert len(path.read_text().splitlines()) == 3


def test_a_full_disk_is_named_for_tensorboard_too(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = opened(TensorBoard(), tmp_path)
    with open("/dev/full", "wb") as full:
        writer._records = RecordWriter(full)  # type: ignore[attr-defined]
        with pytest.raises(
            CheckpointError, match=r"tfevents.* could not be written \(No space left on device\).*with -r"
        ):
            writer.write("train", 1, {"loss": 2.0}, epoch=0)
        writer.close()
        with contextlib.suppress(OSError):
            full.close()


def test_tensorboard_hides_what_a_killed_process_wrote_too_much(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3)), (1, (2,))):
        writer = opened(TensorBoard(), tmp_path, Progress(step=done))
        for step in steps:
            writer.write("train", step, {"loss": float(10 * done + step)}, epoch=0)
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("train/loss")] == [(1, 1.0), (2, 12.0)]
