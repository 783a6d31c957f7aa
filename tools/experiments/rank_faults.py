#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Break one of two ranks at a random moment, many times: the other must name it and end within a minute or so.

python tools/experiments/rank_faults.py --count 20                 # the default wait of 60 s
python tools/experiments/rank_faults.py --count 20 --timeout 15    # ISDFINE_DIST_TIMEOUT=15: sooner done

Every fault is a real training of the tests' micro model on two processes that talk over gloo, forked from this one so
that nothing has to be imported again. Ends with 1 where a fault was not named, took too long, or left a process.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign import builders, campaign_parser, fork, run

KINDS = ("killed", "stopped", "raises", "loading", "evaluating", "config", "classes", "images", "boxes")
SLACK_S = 15.0
"""Beyond the limit: what a loaded machine needs for starting and ending."""


@dataclass(frozen=True)
class Outcome:
    """How a fault ended."""

    seconds: float
    """From the fault (the start, where the ranks differ) to the end of the other rank."""
    code: int
    """Exit status of the other rank, as ``os.waitstatus_to_exitcode`` has it; 0 = it noticed nothing."""
    output: str
    """Of the other rank."""
    named: bool


def prepare(folder: Path) -> Path:
    """The config of a run, and annotation files that differ from its own in one thing."""
    config: Path = builders()["write_micro_config"](folder)
    whole = json.loads((folder / "data" / "annotations.json").read_text())
    turned = {**whole, "categories": [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}]}
    moved = json.loads(json.dumps(whole))
    moved["annotations"][0]["bbox"][0] += 1
    fewer = {**whole, "images": whole["images"][:4]}
    fewer["annotations"] = [annotation for annotation in whole["annotations"] if annotation["image_id"] <= 4]
    for name, content in (("classes", turned), ("images", fewer), ("boxes", moved)):
        (folder / "data" / f"{name}.json").write_text(json.dumps(content))
    return config


def break_rank(kind: str, moment: int) -> None:
    """Make this process break at its ``moment``-th batch."""
    from isdfine.data.dataset.detection import DetectionDataset
    from isdfine.solver.callbacks import EpochListener
    from isdfine.solver.training import Training

    def now(original: Callable[..., Any], fault: Callable[[], object], at: int) -> Callable[..., Any]:
        count = 0

        def broken(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                Path(os.environ["FAULT_MARK"]).write_text(str(time.time()))
                fault()
            return original(*arguments, **named)

        return broken

    def raise_error() -> None:
        raise ZeroDivisionError("made up by this campaign")

    def sleep() -> None:
        time.sleep(10_000)

    if kind == "loading":
        DetectionDataset.__getitem__ = now(DetectionDataset.__getitem__, sleep, 2 * moment)  # type: ignore[method-assign]
    elif kind == "evaluating":
        Training.evaluate = now(Training.evaluate, sleep, 1 + moment % 2)  # type: ignore[method-assign]
    else:
        faults = {
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
            "raises": raise_error,
        }
        EpochListener.__call__ = now(EpochListener.__call__, faults[kind], moment)  # type: ignore[method-assign]


def train(rank: int, port: int, arguments: list[str], prepare_child: Callable[[], None]) -> int:
    """Be a rank; returns the exit code."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    prepare_child()
    from isdfine.commands import train as command

    return command.main(arguments)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fault(kind: str, moment: int, guilty: int, folder: Path, limit_s: float) -> Outcome:
    """One run with one fault.

    Args:
        kind: one of KINDS.
        moment: batch at which it comes, for kinds that come in the run.
        guilty: rank, 0 or 1.
        folder: to work in; new.
        limit_s: how long a rank may keep the other waiting.
    """
    config = prepare(folder)
    mark, logs = folder / "mark", [folder / f"rank{rank}.txt" for rank in range(2)]
    os.environ["FAULT_MARK"], os.environ["ISDFINE_DIST_TIMEOUT"] = str(mark), str(limit_s)
    common = ["-c", str(config), "-u", "epoches=3", "train_dataloader.total_batch_size=4"]
    differs = {
        "config": ["optimizer.lr=0.5"],
        **{key: [f"{part}_dataloader.dataset.ann_file={folder}/data/{key}.json" for part in ("train", "val")]
           for key in ("classes", "images", "boxes")},
    }  # fmt: skip
    began, port = time.time(), free_port()
    pids = []
    for rank in range(2):
        is_guilty = rank == guilty
        more = differs.get(kind, []) if is_guilty else []
        breaks = is_guilty and kind not in differs
        child = (lambda: break_rank(kind, moment)) if breaks else (lambda: None)
        pids.append(fork(partial(train, rank, port, [*common, *more], child), logs[rank]))
    other = 1 - guilty
    code = end_of(pids[other], began + 4 * limit_s + 60)
    ended = time.time()
    if kind in differs:
        end_of(pids[guilty], ended + 10)
    for pid in pids:  # the launcher's part: torchrun ends the others when one has ended
        kill_group(pid)
    output = logs[other].read_text()
    since = float(mark.read_text()) if mark.exists() else began
    return Outcome(ended - since, code, output, re.search(rf"\brank {guilty}\b(?! ends)", output) is not None)


def end_of(pid: int, until: float) -> int:
    """Exit status of a child; 0 where it does not end in time."""
    while time.time() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return 0


def kill_group(pid: int) -> None:
    """End a child and whatever it started."""
    for _ in range(100):
        try:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
        except (ProcessLookupError, ChildProcessError):
            return
        time.sleep(0.05)
    raise RuntimeError(f"a process of group {pid} cannot be killed")


def trial(kind: str, choose: random.Random, folder: Path, options: argparse.Namespace) -> list[str]:
    """One fault; says how it ended, and returns what was not as it should be."""
    moment, guilty = choose.randint(1, 6), choose.randrange(2)
    outcome = fault(kind, moment, guilty, folder, options.timeout)
    lines = outcome.output.splitlines()
    said = [line for line in lines if f"rank {guilty}" in line or "rror" in line]
    print(f"      rank {guilty}, batch {moment}: {outcome.seconds:5.1f} s, exit {outcome.code}, "
          f"{'named' if outcome.named else 'NOT NAMED'}\n      {(said or ['-'])[-1]}", flush=True)  # fmt: skip
    wrong = [] if outcome.named else ["the other rank did not name it"]
    wrong += [] if outcome.code != 0 else ["the other rank noticed nothing"]
    return wrong + ([] if outcome.seconds <= options.timeout + SLACK_S else ["it took too long"])


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign."""
    parser = campaign_parser(__doc__, KINDS, 20)
    parser.add_argument("--timeout", type=float, default=60.0, help="ISDFINE_DIST_TIMEOUT of the runs, seconds")
    return run(trial, parser.parse_args(arguments), "faults were named in time")


if __name__ == "__main__":
    sys.exit(main())
