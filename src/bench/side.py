# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Sides that are measured in a process of their own: it takes a turn for every line that it reads, and says seconds.

As a script it is one side of tools/benchmark/checkouts.py, doing what a checkout's own scripts build. For that it is
copied beside a link to the checkout's package and run there, so it imports nothing of the checkout it came from.
"""

import contextlib
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

COUNTED = ("matching", "criterion")
"""Phases of a training step whose operators are counted."""


@contextlib.contextmanager
def side_process(command: Sequence[str], failure: Exception) -> Iterator[tuple[Any, Callable[[], float]]]:
    """What a process says at first, and a call that takes one turn and gives its seconds.

    Args:
        command: a program that calls ``serve``.
        failure: raised where it ends early, after its own message.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def answer() -> Any:
            if not (line := stdout.readline()):
                raise failure
            return json.loads(line)

        def turn() -> float:
            print(file=stdin, flush=True)
            return float(answer())

        try:
            yield answer(), turn
        finally:
            process.kill()


def serve(call: Callable[[], object], clock: Callable[[], float], first: object = None) -> None:
    """Say what comes first; then a call for every line of input, and a line with its seconds."""
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        begin = clock()
        call()
        print(clock() - begin, flush=True)


def load(checkout: Path, name: str) -> Any:
    """A script of tools/benchmark as a module, or the command of this name that it stands for."""
    if (checkout / "src" / "commands" / f"{name}.py").is_file():
        return importlib.import_module(f"isdfine.commands.{name}")
    spec = importlib.util.spec_from_file_location(name, checkout / "tools" / "benchmark" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def training_step(checkout: Path, asked: dict[str, Any]) -> tuple[Callable[[], object], dict[str, int]]:
    """A step as ``train_step.py`` takes it, and how many operators its losses and the whole of it have."""
    tool = load(checkout, "train_step")
    height, width = asked["image"]
    options = tool.parse_arguments(
        ["-c", asked["config"], "--image", str(height), str(width), "--batch", str(asked["batch"])]
        + (["-u", *asked["update"]] if asked["update"] else [])
    )
    config = tool.without_initial_weights(tool.isdfine.load_config(asked["config"], asked["update"]))
    values = {"num_classes": config.get("num_classes") or 80, "eval_spatial_size": [height, width]}
    step = tool.Step("eager", config.with_values(values), options, tool.torch.device(asked["device"]))
    step()
    counts = {"operators": step.counts()["operators"], "criterion operators": 0}
    original = step.clock.phase

    @contextlib.contextmanager
    def counted(name: str) -> Iterator[None]:
        with original(name), tool.Operators() if name in COUNTED else contextlib.nullcontext() as operators:
            yield
        counts["criterion operators"] += operators.count if operators else 0

    step.clock.phase = counted
    step()
    step.clock.phase = original
    return step, counts


def detection(checkout: Path, asked: dict[str, Any]) -> tuple[Callable[[], object], dict[str, int]]:
    """A call as ``latency.py`` takes it, post-processing included."""
    tool = load(checkout, "latency")
    height, width = map(str, asked["image"])
    options = tool.parse_arguments(
        ["-m", asked["config"], "--size", height, width, "--device", asked["device"], "--precision", "fp32"]
        + (["-u", *asked["update"]] if asked["update"] else [])
    )
    subjects, wanted = tool.open_all(options)
    return tool.from_memory(*subjects.values(), wanted.batch), {}


def main() -> None:
    """Build, warm up, say so, then answer every line with seconds."""
    checkout, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    import torch

    torch.set_num_threads(asked["threads"])
    call, counts = {"step": training_step, "latency": detection}[asked["what"]](checkout, asked)
    for _ in range(asked["warmup"]):
        call()
    serve(call, time.process_time if asked["device"] == "cpu" else time.perf_counter, counts)


if __name__ == "__main__":
    main()
