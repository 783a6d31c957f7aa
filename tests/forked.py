# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Scripts in processes of their own that begin at once."""

import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from isdfine.data.workers import worker_context


def start_script(script: str | Path, *arguments: str, log: Path, **environment: str) -> BaseProcess:
    """Run a script, or the text of one; what it prints goes to a file.

    The process is forked from the fork server of loader workers, where torch is imported: importing it takes a new
    process four seconds. It has one thread.
    """
    worker_context()
    given = (script, arguments, log, {**os.environ, **environment})
    process: BaseProcess = multiprocessing.get_context("forkserver").Process(target=_run, args=given)
    process.start()
    return process


def rank_environment(rank: int, port: int, world_size: int = 2) -> dict[str, str]:
    """What torchrun tells a rank on one machine."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(script: str | Path, arguments: tuple[str, ...], log: Path, environment: dict[str, str]) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = [str(script) if isinstance(script, Path) else "-c", *arguments]
    if isinstance(script, Path):
        runpy.run_path(str(script), run_name="__main__")
    else:
        exec(script, {"__name__": "__main__"})
