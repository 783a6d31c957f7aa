# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``isdfine`` and its sub-commands; the scripts in ``tools`` of a checkout run the same code."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from importlib import import_module

import isdfine

from ..core.command import MISUSE
from ..core.errors import meant


@dataclass(frozen=True)
class Command:
    """One sub-command: a module of this package whose ``main`` it calls, after ``leading`` arguments."""

    module: str
    text: str
    leading: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("train", "train, resume or fine-tune a detector"),
    "val": Command("train", "evaluate a checkpoint (-r) on the validation data", ("--test-only",)),
    "predict": Command("infer", "detect objects in images, folders, videos, a camera"),
    "export": Command("export_onnx", "write a detector as ONNX, compared with PyTorch"),
    "trt": Command("export_trt", "build a TensorRT engine from ONNX"),
    "report": Command("visualize", "one HTML page of an evaluation", ("report",)),
    "visualize": Command("visualize", "look at errors, detections, distributions, attention"),
    "data": Command("dataset", "check, convert, split, show a data set, or plot its statistics"),
    "convert": Command("convert_checkpoint", "write a checkpoint as official .pth, safetensors, transformers folder"),
    "weights": Command("weights", "published weights by name: list, get, path"),
    "bench": Command("latency", "measure latency, models compared in turns"),
    "info": Command("model_info", "parameters, GFLOPs and memory of configs"),
    "ablate": Command("ablate", "train variants x seeds and compare them"),
}


def usage() -> str:
    """What ``isdfine -h`` prints."""
    lines = [f"  {name:<10} {command.text}" for name, command in COMMANDS.items()]
    return "\n".join([f"isdfine {isdfine.__version__}: train, distil, export and measure DETR-family detectors", "",
                      "isdfine COMMAND ...      isdfine COMMAND -h", "", *lines])  # fmt: skip


def run(name: str, arguments: list[str] | None = None) -> int:
    """Run a sub-command as the one thing that this process is for.

    Args:
        name: one of ``COMMANDS``.
        arguments: what follows it; default: those of this process.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules are imported ends in no traceback
    # Waiting threads sleep instead of spinning: with several processes on few cores a run starts several times sooner.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The profiler that counts memory on a CPU (--auto) would report its own start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    command = COMMANDS[name]
    module = import_module(f".{command.module}", __name__)
    main = getattr(module, "program", module.main)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int = main([*command.leading, *(sys.argv[1:] if arguments is None else arguments)])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nor while the process ends
    return code


def main() -> int:
    """The command ``isdfine``: choose the sub-command and run it."""
    given = sys.argv[1:]
    if given and given[0] in COMMANDS:
        repeated = given[0] in COMMANDS[given[0]].leading  # report is a sub-command of its module, which adds the name
        sys.argv[0] = "isdfine" if repeated else f"isdfine {given[0]}"  # what its help calls itself
        return run(given[0], given[1:])
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else MISUSE
    if given[0] in ("-V", "--version", "version"):
        print(isdfine.__version__)
        return 0
    near = meant(given[0], COMMANDS)
    print(f"error: isdfine has no command {given[0]!r}{near} isdfine -h lists them", file=sys.stderr)
    return MISUSE
