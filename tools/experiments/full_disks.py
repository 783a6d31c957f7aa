#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the disk while a tool writes, many times: one clear line, no half file, and all well when there is space again.

python tools/experiments/full_disks.py --count 12

Writes to a small tmpfs where it may mount one (root), else under a limit of file sizes. Every fault runs a real tool on
the tests' micro model in a process forked from this one. Ends with 1 where a message was missing, a traceback was
shown, a file that is there cannot be read, or the tool fails with space again.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from campaign import ROOT, builders, campaign_parser, fork, run

SIZE_MB = 256
KINDS = (
    "train", "tensorboard", "safetensors", "official", "huggingface", "images", "coco", "fix", "convert", "numbered",
    "stats", "onnx",
)  # fmt: skip
TRAININGS = ("train", "tensorboard", "numbered")
REASONS = ("No space left on device", "File too large", "MiB free")
LARGE = ("safetensors", "official", "huggingface", "onnx")


def write_config(folder: Path) -> Path:
    """Data and config of the micro model, square: transformers knows no other."""
    make = builders()
    annotations, size = make["write_coco"](folder / "data"), (64, 64)
    sections = {**make["micro_sections"](annotations, folder / "run"), "eval_spatial_size": list(size)}
    for name in ("train", "val"):
        sections[f"{name}_dataloader"] = make["loader_section"](annotations, train=name == "train", size=size)
    path = folder / "micro.yml"
    path.write_text(json.dumps(sections))  # which is YAML too
    return path


def arguments_of(kind: str, source: Path, target: Path) -> tuple[str, list[str]]:
    """Tool and arguments that write ``kind`` into ``target``."""
    best, photos = source / "run" / "best.pth", source / "data" / "images"
    if kind in TRAININGS:
        more = {"tensorboard": ["tensorboard=True"], "numbered": ["checkpoint_freq=1"]}.get(kind, [])
        return "train", ["-c", str(source / "micro.yml"), "-u", f"output_dir={target / 'run'}", *more]
    if kind in ("safetensors", "official", "huggingface"):
        name = {"safetensors": "m.safetensors", "official": "m.pth", "huggingface": "folder"}[kind]
        return "convert_checkpoint", [str(best), str(target / name), "--to", kind]
    if kind in ("images", "coco"):
        return "infer", ["-m", str(best), str(photos), "-o", str(target / "found"), "--save", kind, "--threshold", "0"]
    if kind == "onnx":
        return "export_onnx", ["-r", str(best), "-o", str(target / "m.onnx")]
    return "dataset", {
        "fix": ["check", str(source / "data"), "--fix", str(target / "fixed")],
        "convert": ["convert", str(source / "data"), "--to", "yolo", "-o", str(target / "yolo")],
        "stats": ["stats", str(source / "data"), "-o", str(target / "stats")],
    }[kind]


def run_tool(tool: str, arguments: list[str], log: Path, before: Callable[[], object]) -> int:
    """Run a tool in a fork; returns its exit code."""

    def work() -> Any:
        before()
        script = str(ROOT / "tools" / f"{tool}.py")
        if tool != "train":  # only in a training ``before`` changes what this process does later
            os.execv(sys.executable, [sys.executable, script, *arguments])
        from isdfine.commands import train

        return train.main(arguments)

    return os.waitstatus_to_exitcode(os.waitpid(fork(work, log), 0)[1])


class Disk:
    """A folder that can be full: a tmpfs, or without the right to mount one, files that may not grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(path)]
        self.mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
        self._ballast = path / "ballast"

    def fill(self, room: int) -> None:
        """Leave ``room`` bytes."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            return
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        with open(self._ballast, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, free - room))

    def clear(self) -> None:
        """Make space again."""
        self._ballast.unlink(missing_ok=True)

    def files(self) -> Iterator[Path]:
        """What the tool has left."""
        yield from (path for path in self.path.rglob("*") if path.is_file() and path != self._ballast)

    def close(self) -> None:
        """Unmount."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=True)


def fill_at(disk: Disk, step: int, room: int) -> None:
    """Fill the disk when a training has done ``step`` batches."""
    from isdfine.solver.callbacks import EpochListener

    original, count = EpochListener.__call__, 0

    def call(self: EpochListener, report: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            disk.fill(room)
        original(self, report)

    EpochListener.__call__ = call  # type: ignore[method-assign]


def unreadable(file: Path) -> str | None:
    """Why a file that is there cannot be used."""
    from PIL import Image

    from isdfine.core.checkpoint import check_sum, read_checkpoint

    try:
        if file.suffix in (".pth", ".safetensors"):
            read_checkpoint(file)
        elif file.suffix == ".onnx":
            check_sum(file)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix in (".png", ".jpg"):
            Image.open(file).load()
        elif file.name.endswith(".tmp"):
            return "a half file was left"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def fault(source: Path, kind: str, choose: random.Random, work: Path, options: argparse.Namespace) -> list[str]:
    """One tool on a disk that becomes full; returns what went wrong."""
    del options
    disk, log = Disk(work / "disk"), work / "log.txt"
    wrong = []
    try:
        tool, arguments = arguments_of(kind, source, disk.path)
        room = choose.randrange(5_000_000) if kind in (*LARGE, *TRAININGS) else 0
        step = choose.randint(1, 3)
        before = (lambda: fill_at(disk, step, room)) if kind in TRAININGS else (lambda: disk.fill(room))
        code = run_tool(tool, arguments, log, before)
        output = log.read_text(errors="replace")
        said = [line for line in output.splitlines() if any(reason in line for reason in REASONS)]
        print(f"      exit {code}: {(said or output.splitlines() or ['-'])[-1][:230]}", flush=True)
        if code == 0:
            wrong.append("exit code 0")
        if not said or "Traceback" in output:
            wrong.append("no clear line" if not said else "a traceback")
        wrong += [f"{file.name}: {why}" for file in disk.files() if (why := unreadable(file)) is not None]
        disk.clear()
        if kind in TRAININGS and any((disk.path / "run").glob("*.pth")):
            arguments += ["-r", str(disk.path / "run")]
        if kind in ("images", "coco"):
            arguments.append("--overwrite")
        if run_tool(tool, arguments, log, lambda: None) != 0:
            wrong.append(f"fails with space again: {log.read_text(errors='replace').splitlines()[-1:]}")
        wrong += [f"{file.name} at the end: {why}" for file in disk.files() if (why := unreadable(file)) is not None]
    finally:
        disk.close()
    if wrong:
        print(log.read_text(errors="replace")[-1500:])
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign."""
    options = campaign_parser(__doc__, KINDS, 12).parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="full-disk-") as folder:
        source = Path(folder) / "source"
        config = write_config(source)
        if run_tool("train", ["-c", str(config), "-u", "num_visualized=0"], Path(folder) / "log", lambda: None) != 0:
            print((Path(folder) / "log").read_text())
            return 1
        return run(partial(fault, source), options, "full disks were told of clearly and left whole files")


if __name__ == "__main__":
    sys.exit(main())
