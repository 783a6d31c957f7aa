# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Processes: a stand-in for tools/train.py writes the files that a training leaves, epoch by epoch."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isdfine.ablation import matrix, train_log
from isdfine.ablation.matrix import Trial
from isdfine.ablation.run_status import run_status
from isdfine.ablation.runner import Failure, Interrupted, Runner, environment
from isdfine.solver.folder import RunFolder

EPOCHS = 3
TRAINER = """
import argparse, json, os, pathlib, signal, sys, time
p = argparse.ArgumentParser()
p.add_argument("-c"); p.add_argument("-u", nargs="+", default=[]); p.add_argument("--seed", type=int)
p.add_argument("--output-dir", type=pathlib.Path); p.add_argument("-r", type=pathlib.Path)
a = p.parse_args()
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
folder, how = a.output_dir, a.u[0] if a.u else "well"
(folder / "config.yml").write_text(json.dumps({"epoches": 3, "seed": a.seed}))
begun = int(a.r.read_text()) if a.r else 0
print("begins at", begun, "threads", os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"], flush=True)
for epoch in range(begun, 3):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "val", "step": epoch, "epoch": epoch, "AP": 0.1}) + "\\n")
    (folder / "last.pth").write_text(str(epoch + 1))
    if how == "slowly=1" and epoch == 1 and not a.r:
        (folder / "waits").write_text(str(os.getpid()))
        for _ in range(600):
            time.sleep(0.02)
            if asked:
                sys.exit(0)
    if how == "badly=1":
        print("the reason", flush=True)
        sys.exit(3)
sys.exit(4 if how == "draws_badly=1" else 0)
"""


def config_of(run: Trial) -> dict[str, Any]:
    return {"epoches": EPOCHS, "seed": run.seed}


def make(folder: Path, *hows: str) -> list[Trial]:
    """One run per way to behave."""
    return [
        Trial(
            "", how.split("=")[0], seed, RunFolder(folder / f"seed{seed}"), Path("x.yml"), (how,) if "=" in how else ()
        )
        for seed, how in enumerate(hows)
    ]


@pytest.fixture
def launcher(tmp_path: Path) -> list[str]:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    return [sys.executable, "-S", str(script)]


def train(launcher: list[str], runs: list[Trial], jobs: int = 1) -> list[Failure]:
    return Runner(launcher, config_of, jobs).train(runs)


def wait_for(path: Path) -> int:
    """The process that waits in a run's folder."""
    for _ in range(500):
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def epochs_of(run: Trial) -> list[int]:
    return [json.loads(line)["epoch"] for line in run.folder.metrics.read_text().splitlines()]


def test_all_runs_are_trained(launcher: list[str], tmp_path: Path) -> None:
    runs = make(tmp_path, "well", "well", "well")
    assert train(launcher, runs, jobs=2) == []
    assert [run_status(run.folder, config_of(run)).state for run in runs] == ["done"] * 3
    log = (runs[1].folder.path / "train.log").read_text()
    assert log.startswith(f"$ {sys.executable} -S ")
    assert "--seed 1 --output-dir" in log
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    assert f"begins at 0 threads {threads} PASSIVE" in log


def test_a_failing_run_is_reported_and_the_others_go_on(
    launcher: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = make(tmp_path, "badly=1", "well", "draws_badly=1")
    (failure,) = train(launcher, runs)
    assert failure.run is runs[0]
    assert "ended with exit code 3 after 0.0 min, before its final evaluation; end of" in failure.reason
    assert failure.reason.endswith("    the reason")
    assert f"badly/seed0: {failure.reason}" in caplog.text
    assert "draws_badly/seed2: its training is complete, but it ended with code 4" in caplog.text
    assert run_status(runs[1].folder, config_of(runs[1])).state == "done"


def test_a_killed_run_goes_on_where_it_was(launcher: list[str], tmp_path: Path) -> None:
    (run,) = make(tmp_path, "slowly=1")
    killer = threading.Thread(target=lambda: os.kill(wait_for(run.folder.path / "waits"), signal.SIGKILL))
    killer.start()
    (failure,) = train(launcher, [run])
    killer.join()
    assert failure.reason.startswith("was killed by SIGKILL after")
    assert epochs_of(run) == [0, 1]
    assert train(launcher, [run]) == []
    assert epochs_of(run) == [0, 1, 2]
    log = (run.folder.path / "train.log").read_text()
    assert f"-r {run.folder.last}" in log
    assert "begins at 2" in log


def test_a_signal_lets_the_trainings_save_and_starts_no_further(launcher: list[str], tmp_path: Path) -> None:
    runs = make(tmp_path, "slowly=1", "well")

    def stop() -> None:
        wait_for(runs[0].folder.path / "waits")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(launcher, runs)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert run_status(runs[0].folder, config_of(runs[0])).state == "interrupted"
    assert not runs[1].folder.path.exists()
    assert train(launcher, runs) == []


def test_a_run_that_another_process_trains_is_left_to_it(
    launcher: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "PATIENCE_S", 0.0)
    runs = make(tmp_path, "slowly=1", "well")
    first = Runner(launcher, config_of)
    assert not runs[0].is_locked()
    assert not list(tmp_path.glob(".*"))  # asking writes nothing
    first._start(runs[0], left=0)
    pid = wait_for(runs[0].folder.path / "waits")
    first._active[0].lock.close()  # as if the first ablation had been killed: its training goes on and holds the lock
    assert runs[0].is_locked()
    (failure,) = train(launcher, runs)
    assert failure.reason == "another process is training it at this moment: left to that one"
    assert run_status(runs[1].folder, config_of(runs[1])).state == "done"
    os.kill(pid, signal.SIGTERM)
    first._active[0].process.wait()
    assert not runs[0].is_locked()
    held = runs[0].lock()
    assert held is not None
    assert runs[0].lock() is None  # another open file is another holder, in one process too
    held.close()


def test_a_run_that_another_process_has_finished_meanwhile_is_not_begun_anew(
    launcher: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    runs = make(tmp_path, "well", "well")
    assert train(launcher, [runs[1]]) == []
    before = (runs[1].folder.path / "train.log").read_text()
    assert train(launcher, runs) == []  # listed when neither was done
    assert "well/seed1: was done by another process meanwhile" in caplog.text
    assert (runs[1].folder.path / "train.log").read_text() == before
    other = Trial("", "other", 7, runs[1].folder, Path("x.yml"), ())
    (failure,) = train(launcher, [other])
    assert failure.reason.endswith("was made from another config meanwhile: seed: 1 there, 7 here")
    assert not other.is_locked()


def test_a_report_is_due_after_every_end(launcher: list[str], tmp_path: Path) -> None:
    runs = make(tmp_path, "well", "badly=1", "well")
    seen: list[list[str]] = []
    Runner(
        launcher, config_of, on_end=lambda: seen.append([run_status(run.folder, config_of(run)).state for run in runs])
    ).train(runs)
    assert seen == [
        ["done", "absent", "absent"], ["done", "interrupted", "absent"], ["done", "interrupted", "done"]
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_fails_its_run_only(launcher: list[str], tmp_path: Path) -> None:
    runs = make(tmp_path, "well", "well")
    runs[0].folder.path.write_text("a file where the folder should be")
    (failure,) = train(launcher, runs)
    assert failure.run is runs[0]
    assert failure.reason.endswith("seed0 cannot be written (File exists): free space, then start again")
    assert not runs[0].is_locked()
    assert run_status(runs[1].folder, config_of(runs[1])).state == "done"


def test_broken_records_fail_their_run_only(launcher: list[str], tmp_path: Path) -> None:
    runs = make(tmp_path, "well", "well")
    assert train(launcher, [runs[0]]) == []
    runs[0].folder.metrics.write_text("what is this\n" + runs[0].folder.metrics.read_text())
    (failure,) = train(launcher, runs)
    assert "metrics.jsonl:1: not a record of a run: 'what is this'" in failure.reason
    assert run_status(runs[1].folder, config_of(runs[1])).state == "done"


def test_the_log_tells_later_why_a_run_failed(launcher: list[str], tmp_path: Path) -> None:
    bad, good = make(tmp_path, "badly=1", "well")
    train(launcher, [bad, good])
    log = bad.folder.path / "train.log"
    assert train_log.failure(log) == "ended with exit code 3 after 0.0 min, before its final evaluation: the reason"
    assert train_log.failure(good.folder.path / "train.log") is None
    assert train_log.failure(tmp_path / "nowhere.log") is None
    log.write_text("$ a\nerror: an old one\n# ended\n$ b\nINFO loss is NaN\nerror: loss_vfl is not finite\n")
    assert train_log.failure(log) == "error: loss_vfl is not finite"  # of the last attempt, without a note of its end
    log.write_text(log.read_text() + "something after it\n# ended with exit code 2\n")
    assert train_log.failure(log) == "ended with exit code 2: error: loss_vfl is not finite"


def test_what_is_set_in_the_environment_stays() -> None:
    cores = os.cpu_count() or 1
    assert environment({}, cores)["OMP_NUM_THREADS"] == "1"
    assert environment({}, 10 * cores)["OMP_NUM_THREADS"] == "1"
    assert environment({}, 1)["OMP_NUM_THREADS"] == str(cores)
    assert environment({"OMP_NUM_THREADS": "7", "A": "b"}, 1) == {
        "OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE", "A": "b"
    }  # fmt: skip


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(ValueError, match="jobs is 0: give 1 or more"):
        Runner([], config_of, 0)
