# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a data loader: how they start, what they do with signals, and how they end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection, context, resource_tracker
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader as TorchDataLoader

from ..core.errors import ConfigError, DataError
from .dataset.images import limit_pixels

FORK_SERVER = f"{__package__}.fork_server"
_UNKNOWN_END = 255
"""What multiprocessing takes for the exit code of a process whose fork server is gone."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SEEN_WITHIN_S = 5.0


@contextlib.contextmanager
def _without_script() -> Iterator[None]:
    """Start a worker that knows nothing of the main script.

    Python would import the script in every worker, to find the classes that it defines; one without
    ``if __name__ == "__main__":`` would train again there.

    Raises:
        ConfigError: a worker needs something that only the script or notebook defines, or that cannot be sent at all.
    """
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"what num_workers processes need cannot be sent to them ({error}): a data set, transform or collate_fn of "
            "your script or notebook belongs in a module that the config names under imports:, or set num_workers: 0"
        ) from error
    finally:
        sys.modules["__main__"] = script


if sys.platform != "win32":

    class LoaderProcess(context.ForkServerProcess):
        """A worker: a class of its own, so that a process of the fork server knows whether it is one."""

        def start(self) -> None:
            """Start it without the main script."""
            with _without_script():
                super().start()

    class _ForkServerContext(context.ForkServerContext):
        Process = LoaderProcess


class _SpawnProcess(context.SpawnProcess):
    def start(self) -> None:
        with _without_script():
            super().start()


class _SpawnContext(context.SpawnContext):
    Process = _SpawnProcess


def worker_context() -> Any:
    """Forking a process that has threads (OpenMP, CUDA, pinning) can deadlock, so workers start from a clean one.

    The clean one starts with SIGINT and SIGTERM blocked, and so do workers: whoever ends a run by signals to all of its
    processes does not break the main process while that starts its workers.
    """
    if sys.platform == "win32" or "forkserver" not in multiprocessing.get_all_start_methods():
        return _SpawnContext()
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload([FORK_SERVER])  # imports torch once instead of once per worker
    resource_tracker.ensure_running()  # before signals are blocked, because it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _ForkServerContext()


class WorkerStart:
    """Prepares a worker process: one thread, the main process's limit of pixels, and signals that end the run are that
    one's business.

    Ctrl-C and a scheduler's SIGTERM reach every process of the run. A worker that died of them would break the main
    process while it saves. A worker ends when the main process terminates it, or at once when that is gone, however it
    went: torch only looks whether the worker's parent lives, and the parent is the fork server.
    """

    def __init__(self, main_pid: int) -> None:
        self.main_pid = main_pid
        self.max_pixels = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS

    def __call__(self, worker: int) -> None:
        torch.set_num_threads(1)
        limit_pixels(self.max_pixels)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with_main_process, daemon=True).start()
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._obey_main_process, daemon=True).start()

    def _obey_main_process(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.main_pid:
            pass
        os._exit(128 + signal.SIGTERM)


def _end_with_main_process() -> None:
    """The kernel closes the sentinel, a pipe, with the process that started this one; whose child it is matters not."""
    main = multiprocessing.parent_process()
    if main is not None:
        connection.wait([main.sentinel])
        os._exit(1)


@contextlib.contextmanager
def deaths_reported(loader: TorchDataLoader[Any]) -> Iterator[None]:
    """Where a loader is iterated: a worker of it that died is one message.

    Raises:
        DataError: naming the process and what killed it.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        workers = getattr(loader._iterator, "_workers", ())
        if isinstance(error, (OSError, EOFError)):  # a connection breaks a moment before its process is seen to be gone
            connection.wait([worker.sentinel for worker in workers], _SEEN_WITHIN_S)
        dead = [worker for worker in workers if not worker.is_alive()]
        if not dead:
            raise
        raise DataError(
            f"a worker of the data loader (process {dead[0].pid}) {_how(dead[0].exitcode)}: lower num_workers, "
            "prefetch_factor or the batch size of the loader, then continue with -r from the last checkpoint"
        ) from error


def _how(code: int) -> str:
    if code == _UNKNOWN_END:
        return "is lost, because the process that it was forked from (the fork server) was ended"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, as the kernel does when memory runs out"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
