# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How worker processes end: with the main process, and with a message where they end before it."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from data.test_loader import loader
from isdfine.core.errors import DataError
from isdfine.data import loader as loader_module
from isdfine.data import workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_with_workers(method: str, sender: Connection) -> None:
    """A main process: its two workers have prepared all they may and wait."""
    if method != "forkserver":
        loader_module.worker_context = lambda: multiprocessing.get_context(method)
    one = loader(num_workers=2)
    batches = iter(one)
    next(batches)
    sender.send([child.pid for child in multiprocessing.active_children()])
    signal.pause()


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_workers_end_when_the_main_process_is_killed(method: str) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    main = workers.worker_context().Process(target=run_with_workers, args=(method, sender))
    main.start()
    assert receiver.poll(60)
    pids = receiver.recv()
    assert len(pids) == 2
    main.kill()
    main.join()
    assert wait_until(lambda: not any(map(lives, pids)))


def test_a_killed_worker_is_one_message() -> None:
    one = loader(num_workers=1)
    batches = iter(one)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        DataError, match=rf"process {worker.pid}\) was killed by SIGKILL, as the kernel does when memory"
    ):
        list(batches)
    one.close()


def test_a_killed_fork_server_is_one_message() -> None:
    one = loader(num_workers=1)
    list(one)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    os.kill(server._forkserver_pid, signal.SIGKILL)
    assert wait_until(lambda: not lives(server._forkserver_pid))  # else the worker may finish before it is an orphan
    with pytest.raises(DataError, match=rf"process {worker.pid}\) is lost, because .* \(the fork server\) was ended"):
        list(one)
    one.close()
    assert len(list(loader(num_workers=1))) == 5  # a new one is started
    assert wait_until(lambda: not lives(worker.pid))


def test_a_group_signal_while_workers_start_breaks_nothing(tmp_path: Path) -> None:
    """As Ctrl-C and ``timeout`` send it: to the fork server and to workers that have only just begun, too."""
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\n"
        "from data.test_loader import loader\n"
        "if __name__ == '__main__':\n"
        "    noted = []\n"
        "    signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))\n"
        "    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))\n"
        "    print('ready', flush=True)\n"
        "    print(len(list(loader(num_workers=2))), len(noted) > 2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    main = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert main.stdout is not None
    assert main.stdout.readline() == "ready\n"
    while main.poll() is None:
        os.killpg(main.pid, signal.SIGTERM)
        os.killpg(main.pid, signal.SIGINT)
        time.sleep(0.02)
    assert main.communicate() == ("5 True\n", "")


def test_a_main_process_that_ends_while_workers_start_leaves_no_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, threading\n"
        "from isdfine.data import workers\n"
        "from data.test_loader import loader\n"
        "from multiprocessing import forkserver\n"
        "preload = forkserver.set_forkserver_preload\n"
        "forkserver.set_forkserver_preload = lambda names: preload([*names, 'slow'])\n"
        "threading.Timer(1.0, lambda: os.kill(os.getpid(), 9)).start()\n"
        "print(os.getpid(), flush=True)\n"
        "list(loader(num_workers=2))\n"
    )
    # the fork server imports this: the request for a worker waits for it
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL  # standard error ends with the last process that holds it
    assert not re.search("Traceback|EOFError|BrokenPipe", done.stderr), done.stderr


def test_a_connection_that_breaks_just_before_the_main_process_is_gone_leaves_no_traceback(
    tmp_path: Path,
) -> None:
    """The kernel closes one after the other; other errors are reported at once."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time, work\n"
        "from isdfine.data.workers import worker_context\n"
        "context = worker_context()\n"
        "receiver, sender = context.Pipe(duplex=False)\n"
        "context.Process(target=work.work, args=(sender,)).start()\n"
        "receiver.recv()\n"
        "time.sleep(0.3)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "work.py").write_text(
        "import sys\n"
        "def work(sender):\n"
        "    sender.send('ready')\n"
        "    sys.excepthook(ValueError, ValueError('of the worker'), None)\n"
        "    sys.excepthook(ConnectionResetError, ConnectionResetError(), None)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "ValueError: of the worker\n")


def test_other_processes_of_the_fork_server_take_signals() -> None:
    process = workers.worker_context()
    other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    other.start()
    other.terminate()
    other.join(20)
    assert other.exitcode == -signal.SIGTERM
    assert process.Process is workers.LoaderProcess
