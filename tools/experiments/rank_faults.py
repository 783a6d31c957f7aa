#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Break one of two ranks at a random moment, many times: the other must name it and end within a minute or so.

python tools/experiments/rank_faults.py --count 20                 # the default wait of 60 s
python tools/experiments/rank_faults.py --count 20 --timeout 15    # ISDFINE_DIST_TIMEOUT=15: sooner done

Every fault is a real training of the tests' micro model on two processes that talk over gloo, forked from this one so
that nothing has to be imported again. Ends with 1 where a fault was not named, took too long, or left a process.
"""

import json
import os
import random
import re
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isdfine.core.command import command_parser

ROOT = Path(__file__).resolve().parents[2]
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
    builders = runpy.run_path(str(ROOT / "tests" / "builders.py"))
    config: Path = builders["write_micro_config"](folder)
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


def start(rank: int, port: int, arguments: list[str], log: Path, prepare_child: Callable[[], None]) -> int:
    """Fork a rank; returns its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        prepare_child()
        main = runpy.run_path(str(ROOT / "tools" / "train.py"))["main"]
        code = main(arguments)
    except BaseException:  # noqa: BLE001  # this is where the child ends, whatever happened
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
        pids.append(start(rank, port, [*common, *more], logs[rank], child))
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


def good(kind: str, guilty: int, outcome: Outcome, limit_s: float) -> bool:
    """Whether a fault was noticed in time and named."""
    del kind, guilty
    return outcome.named and outcome.code != 0 and outcome.seconds <= limit_s + SLACK_S


def main() -> int:
    """Run the campaign."""
    parser = command_parser(__doc__)
    parser.add_argument("--count", type=int, default=20, help="trials")
    parser.add_argument("--timeout", type=float, default=60.0, help="ISDFINE_DIST_TIMEOUT of the runs, seconds")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of faults")
    options = parser.parse_args()
    choose, failures = random.Random(options.seed), 0
    import isdfine.components  # once, for all that are forked

    del isdfine
    for number in range(options.count):
        kind = options.kinds[number % len(options.kinds)]
        moment, guilty = choose.randint(1, 6), choose.randrange(2)
        with tempfile.TemporaryDirectory(prefix="rank-fault-") as folder:
            outcome = fault(kind, moment, guilty, Path(folder), options.timeout)
        right = good(kind, guilty, outcome, options.timeout)
        failures += not right
        said = [line for line in outcome.output.splitlines() if f"rank {guilty}" in line or "rror" in line]
        print(
            f"{number + 1:3} {kind:11} rank {guilty}, batch {moment}: {outcome.seconds:5.1f} s, exit {outcome.code}, "
            f"{'named' if outcome.named else 'NOT NAMED'}{'' if right else '  <-- WRONG'}\n      {(said or ['-'])[-1]}",
            flush=True,
        )
    print(f"{options.count - failures} of {options.count} faults were named in time")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
