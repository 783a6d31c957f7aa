#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Kill trainings at random moments, resume them, and compare what they end with to a run that nobody touched.

python tests/kills.py --count 100

Every chain is one tiny run (2 loader workers, two stages, numbered checkpoints) that is killed several times: while it
starts, after a step, while a file is written, while it evaluates; by SIGKILL, SIGTERM, SIGINT, or SIGINT twice. Its
last start may finish. Then every file must be equal to the last bit, every line of the metrics there once, nothing half
written, no process left, no traceback in any log. Runs are forked from this process, which has imported everything, and
call tools/train.py's main; workers come from a fork server that runs share, except every tenth start.
"""

import argparse
import atexit
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.utils.data
import yaml

from builders import load_tool, micro_sections, write_coco
from isdfine.core.files import is_locked
from isdfine.data.workers import worker_context
from isdfine.nn.backbone.hgnetv2 import VARIANTS, Variant
from isdfine.solver.folder import RunFolder

MEASURED = ("seconds_per_step", "peak_resident_mib")
"""Of the machine: never the same twice."""
STEPS = 4
"""Of an epoch."""
MOMENTS = ("start", "step", "write", "evaluation")
SIGNALS = {"SIGKILL": 12, "SIGTERM": 4, "SIGINT": 2, "SIGINT twice": 2}
"""How often each is sent, of 20 times."""
CODES = {"SIGKILL": {-9}, "SIGTERM": {143, -15}, "SIGINT": {130, -2}, "SIGINT twice": {130, -2}}
"""Exit codes; a signal before the training proper, or after it, ends a process as it ends any."""
OWN_SERVER_EVERY = 10
SMALL = Variant((4, 4), 1, (4, 4, 4, 4), (8, 8, 16, 16), (1, 1, 1, 1))
"""Backbone of the chains: most of a start's time would go into B0's steps and checkpoints."""
IMPORTED = (
    "isdfine.components", "isdfine.solver.fit", "isdfine.solver.memory", "isdfine.viz.draw",
    "tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer", "scipy.optimize",
)  # fmt: skip
"""What a training imports while it starts."""


def write_config(folder: Path, epochs: int) -> Path:
    """Data and config of a chain; its output goes where --output-dir says. Stage two is the last two epochs."""
    sections = micro_sections(write_coco(folder / "data", images=2 * STEPS), folder / "run")
    sections |= {
        "epoches": epochs,
        "checkpoint_freq": 2,
        "save_every_steps": 3,
        "tensorboard": True,
        "num_visualized": 0,
    }
    sections["HybridEncoder"]["in_channels"] = [SMALL.results[place] for place in (2, 3)]
    for name in ("train_dataloader", "val_dataloader"):
        sections[name] |= {"num_workers": 2, "total_batch_size": 2}
    sections["train_dataloader"]["collate_fn"] |= {"stop_epoch": epochs - 2, "ema_restart_decay": 0.98}
    path = folder / "kills.yml"
    path.write_text(yaml.safe_dump(sections))
    return path


class Run:
    """One start of tools/train.py in a forked process, in a session of its own."""

    def __init__(self, tool: ModuleType, config: Path, folder: Path, *, own_server: bool = False) -> None:
        self.folder, self.log = RunFolder(folder), folder.with_name(f"{folder.name}.log")
        resume = ["-r", str(folder)] if self.folder.last.exists() else []
        arguments = ["-c", str(config), "--output-dir", str(folder), *resume]
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._child(tool, arguments, own_server)

    def _child(self, tool: ModuleType, arguments: list[str], own_server: bool) -> None:
        code = 99
        try:
            os.setsid()
            with self.log.open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            server: Any = forkserver._forkserver  # type: ignore[attr-defined]
            server._forkserver_pid = None
            if own_server:
                server._forkserver_address = server._forkserver_alive_fd = None
            else:
                server.ensure_running = forkserver.ensure_running = lambda: None
            code = tool.main(arguments)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as tools/train.py does
            atexit._run_exitfuncs()
        except BaseException:  # noqa: BLE001  of a process that ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def end(self, seconds: float = 300) -> int:
        """Exit code."""
        wait_until(lambda: not self.running(), seconds)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"the run did not end within {seconds:g} s: see {self.log}")
        return self.code

    def output(self) -> str:
        return self.log.read_bytes()[self.log_start :].decode(errors="replace")

    def records(self) -> list[dict[str, Any]]:
        """Whole lines of the metrics."""
        text = self.folder.metrics.read_text() if self.folder.metrics.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def train_lines(self) -> int:
        return sum(record["kind"] == "train" for record in self.records())


def start_fork_server(log: Path) -> None:
    """The server of most runs' workers; what they say goes to a file.

    One that runs already stays. It ends with a run that is killed in the middle of asking it for a worker.
    """
    with log.open("ab") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
    try:
        worker_context()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def wait_until(holds: Callable[[], bool], seconds: float, pause: float = 0.002) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def wait_for(moment: str, run: Run, draw: random.Random) -> None:
    """Wait for a moment of a run, or its end."""
    before = run.train_lines()
    target = before + draw.randint(1, 7)
    if moment == "start":
        wait_until(lambda: not run.running(), draw.uniform(0, 1.5))
    else:
        wait_until(lambda: run.train_lines() >= target or not run.running(), 120)
    if moment == "evaluation":
        wait_until(lambda: run.train_lines() % STEPS == 0 or not run.running(), 120, 0.001)
    if moment == "write":
        wait_until(lambda: any(run.folder.path.glob("*.tmp")) or not run.running(), 120, 0.0)
    elif run.running():
        time.sleep(draw.uniform(0, 0.1))


def send(what: str, run: Run, draw: random.Random) -> None:
    """Ctrl-C and schedulers signal every process of a run, a person or the kernel only one."""
    number = signal.Signals[what.split()[0]]
    for _ in range(2 if what.endswith("twice") else 1):
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL or draw.random() < 0.5:
                os.kill(run.pid, number)
            else:
                os.killpg(run.pid, number)
        time.sleep(draw.uniform(0, 0.05))


def processes(holds: Callable[[list[str]], bool]) -> list[int]:
    """Processes whose fields of ``/proc/PID/stat`` after the name (state, parent, group, session) are as asked."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z" and holds(fields):
                found.append(int(path.parent.name))
    return found


def left_over(run: Run) -> int:
    """Processes that outlive a run by 20 seconds; they are ended."""
    server = str(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]

    def alive() -> list[int]:
        return processes(lambda fields: fields[1] == server or fields[3] == str(run.pid))

    wait_until(lambda: not alive(), 20, 0.02)
    left = alive()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def differences(whole: RunFolder, part: RunFolder) -> list[str]:
    """What a chain left otherwise than the uninterrupted run."""
    names = [{path.name for path in folder.path.iterdir()} for folder in (whole, part)]
    found = [f"only in one folder: {', '.join(sorted(names[0] ^ names[1]))}"] if names[0] != names[1] else []
    for path in whole.checkpoints():
        if path.name in names[1]:
            one, two = (torch.load(folder.path / path.name, weights_only=True) for folder in (whole, part))
            found += [f"{path.name}: {place}" for place in unequal(one, two) if place != ".config"][:3]
    lines = [
        [{name: value for name, value in json.loads(line).items() if name not in MEASURED} for line in text]
        for text in (folder.metrics.read_text().splitlines() for folder in (whole, part))
    ]
    if lines[0] != lines[1]:
        found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines, or other values")
    if is_locked(part.lock):
        found.append("the folder is still locked")
    return found


def unequal(one: Any, two: Any, place: str = "") -> list[str]:
    """Places where two nested values differ by a bit."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [found for key in one for found in unequal(one[key], two[key], f"{place}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)) and len(one) == len(two):
        return [found for key, pair in enumerate(zip(one, two)) for found in unequal(*pair, f"{place}.{key}")]
    if isinstance(one, torch.Tensor):
        same = isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
        return [] if same else [place]
    return [] if type(one) is type(two) and one == two else [place]


def campaign(count: int, seed: int, epochs: int, folder: Path) -> bool:
    """Whether ``count`` kills changed nothing."""
    draw, tool, began = random.Random(seed), load_tool("train"), time.monotonic()
    for name in IMPORTED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    VARIANTS["B0"] = SMALL  # runs are forked from here
    config, workers_log = write_config(folder, epochs), folder / "workers.log"
    start_fork_server(workers_log)
    whole = Run(tool, config, folder / "whole")
    if whole.end() != 0:
        raise RuntimeError(whole.output())
    problems = 0

    def report(problem: str) -> None:
        nonlocal problems
        problems += 1
        print(problem, flush=True)

    sent: Counter[str] = Counter()
    kills = chains = identical = orphans = starts = 0
    while kills < count:
        part = folder / f"chain{chains}"
        for last in [False] * min(draw.randint(3, 7), count - kills) + [True]:
            starts += 1
            start_fork_server(workers_log)
            run = Run(tool, config, part, own_server=starts % OWN_SERVER_EVERY == 0)
            label, codes = f"{part.name}, start {starts}", {0}
            if not last:
                moment, what = draw.choice(MOMENTS), draw.choices([*SIGNALS], [*SIGNALS.values()])[0]
                wait_for(moment, run, draw)
                if run.running():
                    send(what, run, draw)
                    kills += 1
                    sent.update([f"{what.split()[0]}", f"in {moment}"])
                    label, codes = f"{label}, {what} in {moment}", CODES[what] | {0}
            if run.end() not in codes:
                report(f"{label}: exit code {run.code}, not {codes}:\n{run.output()[-2000:]}")
            if left := left_over(run):
                orphans += left
                report(f"{label}: {left} processes left")
            for output in (run.output(), workers_log.read_text()):
                if "Traceback" in output:
                    report(f"{label}: a traceback:\n{output[-3000:]}")
            os.truncate(workers_log, 0)
            if not last and run.code == 0:
                break  # it has reached its end
        found = differences(whole.folder, run.folder)
        for text in found:
            report(f"{part.name}: {text}")
        identical += not found
        chains += 1
        print(f"{kills} kills, {chains} chains, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if not found:
            shutil.rmtree(part)
    print(
        f"{kills} kills ({', '.join(f'{number} {what}' for what, number in sorted(sent.items()))}) in {starts} starts"
    )
    print(f"{kills} kills, {chains} chains: {identical} identical, {orphans} orphans, {time.monotonic() - began:.0f} s")
    return problems == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="the same seed chooses the same moments and signals")
    parser.add_argument("--epochs", type=int, default=6, help="of a chain, 3 or more")
    parser.add_argument("--keep", type=Path, help="new folder for runs and logs, kept afterwards")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True)
        return 0 if campaign(options.count, options.seed, options.epochs, options.keep) else 1
    # no TemporaryDirectory: every run, forked from here, would remove it at its end
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        return 0 if campaign(options.count, options.seed, options.epochs, folder) else 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
