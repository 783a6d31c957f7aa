# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of ablations; the slow test trains a micro matrix in earnest."""

import contextlib
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

import isdfine
from ablation_cases import finish, write_matrix
from builders import ROOT, load_tool, write_micro_config
from isdfine.ablation.matrix_file import read_matrix
from isdfine.ablation.results import Configs

MEASURED = ("seconds_per_step", "peak_resident_mib")
"""Of the machine: never the same twice."""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/ablate.py as a module."""
    return load_tool("ablate")


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """The micro matrix; nothing trained."""
    write_micro_config(tmp_path)
    return write_matrix(tmp_path)


def test_dry_run_prints_commands_that_work_as_they_are(
    tool: ModuleType, matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(matrix), "--dry-run", "--only", "slow", "--seeds", "2", "-u", "epoches=1"]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    launcher, arguments = shlex.split(line)[:4], shlex.split(line)[4:]
    assert launcher == [sys.executable, "-m", "isdfine", "train"]
    assert arguments == [
        "-c", str(tmp_path / "micro.yml"), "-u", "optimizer.lr=0.0005", "epoches=1", "--seed", "2",
        "--output-dir", str(tmp_path / "out" / "slow" / "seed2"),
    ]  # fmt: skip
    assert printed.err.endswith("1 run(s) to train\n")
    assert not (tmp_path / "out").exists()


def test_report_only_trains_nothing_and_lists_what_is_missing(
    tool: ModuleType, matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs, content = Configs(isdfine.load_config), read_matrix(matrix)
    for run in content.runs()[:-1]:
        finish(run, configs.plain(run), [0.1, 0.2 + (0.01 if run.variant == "slow" else 0)])
    assert tool.main([str(matrix), "--report-only", "--no-layers"]) == 0
    printed = capsys.readouterr().out
    assert "| `slow` | 2 of 3 | 21.00 ± 0.00 |" in printed
    assert "missing: slow/seed2: not run" in printed
    assert f"report: {tmp_path / 'out' / 'report.md'}" in printed
    assert (tmp_path / "out" / "AP_over_steps.png").is_file()
    assert "--report-only --no-layers" in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "slow" / "seed2").exists()


def test_mistakes_are_one_message_and_exit_code_2(
    tool: ModuleType, matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["nowhere.yml"]) == 2
    assert "error: nowhere.yml: no such file: check the path" in capsys.readouterr().err
    assert tool.main([str(matrix), "--only", "fast"]) == 2
    assert "error: --only fast: " in capsys.readouterr().err
    assert tool.main([str(matrix), "-u", "optimizer.lrr=1"]) == 2
    assert "did you mean lr?" in capsys.readouterr().err
    for wrong, message in (
        (["--jobs", "0"], "--jobs is 0"),
        (["--report-only", "--redo"], "--report-only trains nothing"),
    ):
        with pytest.raises(SystemExit, match="2"):
            tool.main([str(matrix), *wrong])
        assert message in capsys.readouterr().err


def test_failed_runs_give_exit_code_1(
    tool: ModuleType, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('broken')")
    monkeypatch.setattr(tool, "TRAIN", (sys.executable, str(script)))
    assert tool.main([str(matrix), "--seeds", "0", "--jobs", "2"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("failed: ") == 2
    assert "failed: plain/seed0: ended with exit code 1 after" in printed.err
    assert "0 of 3" in printed.out


def test_the_report_is_written_after_every_run_and_says_why_one_failed(
    tool: ModuleType, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('error: step 3: loss_vfl is nan'); raise SystemExit(2)")
    monkeypatch.setattr(tool, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(tool, "check_buildable", lambda *_: None)
    inner, reports = tool.write, []

    def write(*arguments: object) -> object:
        written = inner(*arguments)
        reports.append((arguments[-1], list(written[0].missing.values())))
        return written

    monkeypatch.setattr(tool, "write", write)
    assert tool.main([str(matrix), "--seeds", "0"]) == 1
    assert [how for how, _ in reports] == ["known", "known", "measure"]
    failed = [sum(why.startswith("failed: ") for why in missing) for _, missing in reports]
    assert failed == [1, 2, 2]
    assert "error: step 3: loss_vfl is nan; see " in reports[0][1][0]
    assert reports[0][1].count("not run") == 5
    assert "before its final evaluation: error: step 3: loss_vfl is nan" in (tmp_path / "out/report.md").read_text()


def test_a_mistake_in_a_variant_that_is_not_asked_for_is_found_before_training(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_micro_config(tmp_path)
    path = write_matrix(tmp_path, variants={"plain": {}, "other": ["optimizer.lrr=1"]})
    assert tool.main([str(path), "--only", "plain"]) == 2
    assert "error: other: override 'optimizer.lrr=1': " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_message_and_stops_no_training(
    tool: ModuleType,
    matrix: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert tool.main([str(matrix), "--report-only", "--no-layers"]) == 0
    before = (tmp_path / "out" / "report.md").read_bytes()
    capsys.readouterr()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.md.tmp")

    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('broken')")
    monkeypatch.setattr(tool, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(tool, "check_buildable", lambda *_: None)
    monkeypatch.setattr(os, "fsync", full)
    assert tool.main([str(matrix), "--seeds", "0", "--no-layers"]) == 2
    assert "No space left on device: 'report.md.tmp': free space, or give another" in capsys.readouterr().err
    assert caplog.text.count("the report could not be written: [Errno 28]") == 2  # after each of two runs
    assert (tmp_path / "out" / "report.md").read_bytes() == before
    assert not list((tmp_path / "out").glob("*.tmp"))


class Ablation:
    """tools/ablate.py in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "tools" / "ablate.py"), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=400)
        return self.process.returncode, out, err


def training_in(folder: Path) -> int:
    """The process id of the training that writes into a folder, as soon as there is one."""
    for _ in range(3000):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if str(folder).encode() in words and b"train" in words:
                    return int(path.parent.name)
        time.sleep(0.1)
    raise AssertionError(f"nothing trains in {folder}")


def records_of(folder: Path) -> list[dict[str, object]]:
    """What a run reported, its timing aside."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)  # four ablations in processes of their own
def test_a_killed_ablation_ends_as_an_uninterrupted_one(matrix: Path, tmp_path: Path) -> None:
    def start(out: str) -> Ablation:
        many = ["-u", "epoches=16", "eval_every=4", "save_every=1", "--no-layers"]
        return Ablation(str(matrix), *many, "--only", "plain", "--seeds", "1", "--output-dir", str(tmp_path / out))

    whole, broken = tmp_path / "whole" / "plain" / "seed1", tmp_path / "broken" / "plain" / "seed1"
    assert start("whole").end()[0] == 0

    first = start("broken")
    training = training_in(broken)
    while not (broken / "last.pth").is_file():
        time.sleep(0.02)
    os.kill(training, signal.SIGSTOP)  # so that it cannot end before the rest of this test
    first.process.kill()  # the ablation itself: its training goes on without it, and keeps the lock
    first.end()
    code, out, err = start("broken").end()
    assert code == 1
    assert "plain/seed1: another process is training it at this moment: left to that one" in err
    assert "missing: plain/seed1: in training at this moment" in out
    os.kill(training, signal.SIGKILL)
    steps = [record["step"] for record in records_of(broken) if record["kind"] == "train"]
    assert 0 < len(steps) < 32

    code, out, err = start("broken").end()
    assert code == 0, err
    assert "plain/seed1: continues" in err
    assert records_of(broken) == records_of(whole)
    there, here = (torch.load(folder / "last.pth", weights_only=True)["model"] for folder in (broken, whole))
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in here)
    reports = [json.loads((tmp_path / folder / "report.json").read_text())["runs"][0] for folder in ("whole", "broken")]
    assert reports[0]["stats"] == reports[1]["stats"]
    assert reports[0]["curve"] == reports[1]["curve"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # six processes that import torch, on a machine that may be busy
def test_a_matrix_is_trained_stopped_continued_and_reported(
    tool: ModuleType, matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_matrix(tmp_path, seeds=[0, 1])
    first = Ablation(str(matrix), "-u", "epoches=6", "eval_every=2")
    running = tmp_path / "out" / "plain" / "seed0" / "metrics.jsonl"
    while not running.is_file() or not running.read_text():
        assert first.process.poll() is None, first.end()
        time.sleep(0.1)
    first.process.send_signal(signal.SIGINT)
    code, _, err = first.end()
    assert code == 130, err
    assert "stopped; start the same command again" in err
    assert (tmp_path / "out" / "plain" / "seed0" / "last.pth").is_file()
    assert not (tmp_path / "out" / "slow").exists()

    code, out, err = Ablation(str(matrix), "-u", "epoches=6", "eval_every=2", "--jobs", "2").end()
    assert code == 0, err
    assert "plain/seed0: continues" in err
    assert "| `slow` | 2 of 2 |" in out
    records = [json.loads(line) for line in running.read_text().splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "val"] == [1, 3, 5]
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, 13))
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(content["runs"]) == 4
    assert content["notes"] == []  # each run's answering layer has the AP of its own evaluation
    for run in content["runs"]:
        assert len(run["layers"]) == 2
        assert run["layers"][1]["AP"] == pytest.approx(run["stats"]["AP"], abs=1e-6)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "plain",
        "slow",
        "report.md",
        "report.json",
        "AP_over_steps.png",
        "AP_over_layers.png",
        ".report.lock",
    }

    assert tool.main([str(matrix), "-u", "epoches=6", "eval_every=3"]) == 2
    assert "was made from another config: eval_every: 2 there, 3 here" in capsys.readouterr().err
