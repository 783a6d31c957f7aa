# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Process group: alone, two ranks on gloo, and starts that must fail loudly."""

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from forked import free_port, rank_environment, start_script
from isdfine.core import dist
from isdfine.core.errors import ConfigError
from isdfine.core.watch import EXIT_CODE

RANK_SCRIPT = """
import sys, torch
from isdfine.core import dist
from isdfine.core.errors import ConfigError
dist.init(device="cpu")
rank = dist.rank()
assert dist.world_size() == 2 and dist.is_main() == (rank == 0)
value = torch.tensor([1.0, 2.0]) * (rank + 1)
averaged = dist.mean(value.requires_grad_())
assert averaged.tolist() == [1.5, 3.0] and not averaged.requires_grad, averaged
assert value.tolist() == [rank + 1.0, 2 * (rank + 1.0)]
assert dist.gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
assert dist.broadcast_object(f"from {rank}") == "from 0"
dist.barrier()
dist.shutdown(); dist.shutdown()
assert dist.world_size() == 1
print("done", rank)
"""


def start_rank(rank: int, script: str, port: int, folder: Path, *arguments: str, **environment: str) -> BaseProcess:
    """One of two; it prints to ``rankN.txt`` in a folder."""
    log = folder / f"rank{rank}.txt"
    return start_script(script, *arguments, log=log, **rank_environment(rank, port), **environment)


def ended(process: BaseProcess, folder: Path, rank: int) -> tuple[int | None, str]:
    """Exit code and output."""
    process.join(60)
    return process.exitcode, (folder / f"rank{rank}.txt").read_text()


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", dist.TIMEOUT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_launch")
def test_alone_everything_is_normal() -> None:
    dist.init()
    value = torch.tensor([1.0, 3.0], requires_grad=True)
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert dist.mean(value).tolist() == [1.0, 3.0]
    assert not dist.mean(value).requires_grad
    assert dist.gather_objects("x") == ["x"]
    assert dist.broadcast_object("x") == "x"
    dist.barrier()
    dist.shutdown()
    dist.shutdown()


def test_two_ranks_on_gloo(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start_rank(rank, RANK_SCRIPT, port, tmp_path) for rank in range(2)]
    (first, output), (second, other) = (ended(process, tmp_path, rank) for rank, process in enumerate(ranks))
    assert (first, second) == (0, 0), f"{output}\n{other}"
    assert "done 0" in output


def test_missing_rank_fails_within_the_timeout(tmp_path: Path) -> None:
    began = time.monotonic()
    script = "from isdfine.core import dist; dist.init(device='cpu')"
    alone = start_rank(1, script, free_port(), tmp_path, ISDFINE_DIST_TIMEOUT="1")
    code, output = ended(alone, tmp_path, 1)
    assert code not in (0, None)
    assert "the process group did not start (rank 1 of 2 at 127.0.0.1:" in output
    assert "set ISDFINE_DIST_TIMEOUT (seconds) for a longer wait" in output
    assert time.monotonic() - began < 30


STOPPED = """
import os, signal, sys, time, torch.distributed
from isdfine.core import dist
stop_at, rank = sys.argv[1], os.environ["RANK"]
if stop_at == "start" and rank == "0":
    port = int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    os.kill(os.getpid(), signal.SIGSTOP)
dist.init(device="cpu")
dist.barrier()  # both have begun
if rank == "0":
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGSTOP)
dist.moved()
dist.barrier()
"""


@pytest.mark.parametrize(
    ("stop_at", "said"),
    [
        pytest.param("start", "the process group did not start (rank 1 of 2 at 127.0.0.1:", id="start"),
        pytest.param(
            "collective",
            "rank 1 ends, because rank 0 (its process holds the store of the group) has not answered for",
            id="collective",
        ),
    ],
)
def test_a_stopped_rank_0_is_named_by_those_that_wait_for_its_store(stop_at: str, said: str, tmp_path: Path) -> None:
    port = free_port()
    ranks = [start_rank(rank, STOPPED, port, tmp_path, stop_at, ISDFINE_DIST_TIMEOUT="4") for rank in range(2)]
    try:
        code, output = ended(ranks[1], tmp_path, 1)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert code == EXIT_CODE, output
    assert said in output
    assert "rank 0" in output
    assert "it is stopped" in output.rstrip().splitlines()[-1]


@pytest.mark.usefixtures("no_launch")
def test_half_an_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="lacks WORLD_SIZE, MASTER_ADDR, MASTER_PORT: start it with torchrun"):
        dist.init(device="cpu")


@pytest.mark.usefixtures("no_launch")
@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan"])
def test_timeout_must_be_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(dist.TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"ISDFINE_DIST_TIMEOUT={text}: give the process group's timeout as seconds"):
        dist.init(device="cpu")


@pytest.mark.usefixtures("no_launch")
def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "9")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK=9 but this machine has 1 GPU\(s\): lower torchrun's"):
        dist.init(device="cuda")


def test_alone_a_process_is_a_group_of_one_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist.torch_dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist.torch_dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist.torch_dist, "get_world_size", lambda: 2)
    with dist.alone():
        assert (dist.rank(), dist.world_size()) == (0, 1)
        assert torch.equal(dist.mean(torch.ones(2)), torch.ones(2))  # would wait for the other rank
    with pytest.raises(KeyError), dist.alone():
        {}["an error inside"]
    assert (dist.rank(), dist.world_size()) == (1, 2)


def test_a_rank_ends_with_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, sent = iter([7, 7, 1]), []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    dist._follow(7)
    assert sent == [(os.getpid(), signal.SIGTERM)]
