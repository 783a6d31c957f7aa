# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Rank, world size and the few collectives of a run. One process alone is a group of one: every call works there."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # types that torch.distributed does not export

from .errors import ConfigError, RankError
from .watch import PATIENCE, Watch, end_process

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_VARIABLE = "ISDFINE_DIST_TIMEOUT"
_NO_START = (
    "Check that every rank was started by one torchrun command and that the address is reachable; "
    f"set {TIMEOUT_VARIABLE} (seconds) for a longer wait"
)
DEFAULT_TIMEOUT_S = 60.0
_alone = False
_watch: Watch | None = None
_COLLECTIVE_ERRORS = ("gloo", "nccl", "connection", "c10d", "broken pipe", "socket")
_LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init(device: str | None = None, timeout_s: float | None = None) -> None:
    """Join the process group that ``torchrun`` described in the environment; without that description stay alone.

    Args:
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where it is available. CUDA also selects GPU ``LOCAL_RANK``.
        timeout_s: seconds that a rank may keep the others waiting without doing anything before the run fails; what
            is known to take long (evaluation, saving, compiling) may take ten times that. By default the environment
            variable ``ISDFINE_DIST_TIMEOUT``, else 60.

    Raises:
        ConfigError: the environment is incomplete, or holds a value that is not a number in range.
        RankError: the group could not be started. Going on alone would train W different models.
    """
    global _watch
    if torch_dist.is_initialized() or not _launched():
        return
    limit_s = _timeout_s(timeout_s)
    use_cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    where = f"rank {number} of {size} at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if use_cuda:
        _select_gpu()
    try:
        with _in_time(2 * limit_s, where):
            store = _store(number, limit_s, owner=number == 0)
            if size > 1:
                signs, holder = _store(number, limit_s, owner=False), "torchrun" if _agent() else "rank 0"
                watch = Watch(signs, number, size, limit_s, holder=holder)
                _await_all(store, size, limit_s)
        if size > 1:
            _watch = watch
            watch.start()
        torch_dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_cuda else "gloo",
            store=PrefixStore("group", store), rank=number, world_size=size,
            timeout=datetime.timedelta(seconds=(PATIENCE + 1) * limit_s),  # the watch speaks before that
        )  # fmt: skip
        torch_dist.barrier()  # the group works
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the process group did not start ({where}, waited at most {limit_s:g} s): {str(error).splitlines()[0]}. "
            f"{_NO_START}"
        ) from error
    logger.info("joined the process group as %s", where)


def _store(number: int, limit_s: float, *, owner: bool) -> Store:
    """A connection to the store of the group, which torchrun holds, or else rank 0."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(
            address, port, is_master=owner and not _agent(), timeout=datetime.timedelta(seconds=limit_s),
            wait_for_workers=False,
        )  # fmt: skip
    except RuntimeError as error:
        if owner or _agent():
            raise
        raise RuntimeError(f"rank 0, which holds the store of the group, is not there: {error}") from error
    return PrefixStore(f"isdfine/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _agent() -> bool:
    """Whether torchrun holds the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _await_all(store: Store, size: int, limit_s: float) -> None:
    """Wait for the first sign of every rank."""
    keys = {other: f"sign/{other}" for other in range(size)}
    try:
        store.wait(list(keys.values()), datetime.timedelta(seconds=limit_s))
    except RuntimeError:
        late = [str(other) for other, key in keys.items() if not store.check([key])]
        raise RuntimeError(f"rank {', '.join(late)} did not arrive" if late else "a rank arrived too late") from None


@contextlib.contextmanager
def _in_time(limit_s: float, where: str) -> Iterator[None]:
    """End the process where the block takes longer: a store whose process is stopped answers nothing, ever."""
    owner = "torchrun" if _agent() else "rank 0"
    text = (
        f"the process group did not start ({where}, waited {limit_s:g} s): {owner}, which holds its store, does not "
        f"answer: it is stopped, or was not started. {_NO_START}"
    )
    timer = threading.Timer(limit_s, end_process, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def moved() -> None:
    """This rank has finished a step: it is not the one that keeps others waiting."""
    if _watch is not None:
        _watch.moved(started=True)


def busy(work: str) -> contextlib.AbstractContextManager[None]:
    """In this context the rank may keep the others waiting for long, as long as it gives signs of life."""
    return contextlib.nullcontext() if _watch is None else _watch.busy(work)


def leave(reason: str) -> None:
    """Tell the other ranks why this one ends, so that they can say so. Called on the way out after an error."""
    if _watch is not None:
        _watch.leave(reason)


@contextlib.contextmanager
def naming_ranks() -> Iterator[None]:
    """Where a collective in this context fails because another rank is gone, say which.

    Raises:
        RankError: in place of the collective's error.
    """
    try:
        yield
    except RuntimeError as error:
        if _watch is None or not any(word in str(error).lower() for word in _COLLECTIVE_ERRORS):
            raise
        reason = _watch.culprit()
        if reason is None:
            raise
        _watch.leave(reason, because=True)
        raise RankError(f"rank {rank()} ends, because {reason}") from None


def rank() -> int:
    """This process's number in 0..world_size()-1; 0 when alone."""
    return torch_dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Number of processes of the run; 1 when alone."""
    return torch_dist.get_world_size() if _joined() else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this context the process is a group of one: ranks may measure different numbers of steps."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def is_main() -> bool:
    """Whether this process writes files and logs: rank 0."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank is here. It goes over gloo, which every group has, and does not wait for a GPU."""
    if world_size() > 1:
        torch_dist.all_reduce(torch.zeros(1))
        _passed()


@torch.no_grad()
def mean(tensor: Tensor) -> Tensor:
    """Mean of a tensor over the ranks, detached; the argument itself is not changed.

    Args:
        tensor: any shape, the same on every rank; floating point.

    Returns:
        The same shape; alone, the detached tensor itself.
    """
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    torch_dist.all_reduce(total)
    _passed()
    return total / world_size()


def gather_objects(obj: T) -> list[T]:
    """Every rank's object, in rank order, on every rank. Objects are pickled: for small results, not for tensors."""
    if world_size() == 1:
        return [obj]
    gathered: list[T | None] = [None] * world_size()
    torch_dist.all_gather_object(gathered, obj)
    _passed()
    return gathered  # type: ignore[return-value]


def broadcast_object(obj: T) -> T:
    """Rank 0's object on every rank; what the others pass is ignored."""
    if world_size() == 1:
        return obj
    box = [obj]
    torch_dist.broadcast_object_list(box, src=0)
    _passed()
    return box[0]


def require_same(facts: Mapping[str, object], what: str) -> None:
    """See that all ranks say the same; all call this at the same place.

    Args:
        facts: values by key; what is compared is their text.
        what: is compared, for the message.

    Raises:
        ConfigError: on every rank, naming the ranks and keys that differ from rank 0.
    """
    everywhere = gather_objects({key: str(value) for key, value in facts.items()})
    for number, theirs in enumerate(everywhere):
        keys = sorted({*everywhere[0], *theirs})
        differing = [key for key in keys if everywhere[0].get(key) != theirs.get(key)]
        if differing:
            shown = "; ".join(
                f"{key} is {str(theirs.get(key))[:80]} there and {str(everywhere[0].get(key))[:80]} on rank 0"
                for key in differing[:4]
            )
            more = f" (and {len(differing) - 4} more keys)" if len(differing) > 4 else ""
            raise ConfigError(
                f"rank {number} has another {what} than rank 0: {shown}{more}: start all ranks by one command with the "
                "same files"
            )


def shutdown() -> None:
    """Leave the process group. May be called twice, or without ``init``.

    Not for the way out after an error: the others may be waiting in a collective that this rank will never join,
    and torchrun ends them as soon as this process is gone.
    """
    global _watch
    if torch_dist.is_initialized():
        leave("")
        _watch = None
        torch_dist.destroy_process_group()


def _passed() -> None:
    if _watch is not None:
        _watch.moved()


def follow_launcher() -> None:
    """From here on a rank takes the end of the torchrun that started it, however it went, for SIGTERM."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1.0)
    logger.warning("torchrun (process %d) is gone: rank %d ends", launcher, rank())
    os.kill(os.getpid(), signal.SIGTERM)


def _joined() -> bool:
    return torch_dist.is_initialized() and not _alone


def _launched() -> bool:
    """Whether torchrun started this process; an incomplete description is an error, not a reason to go on alone."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return False
    missing = [name for name in _LAUNCH_VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"the environment describes a distributed run but lacks {', '.join(missing)}: start it with torchrun, "
            "or unset RANK and WORLD_SIZE for one process"
        )
    return True


def _timeout_s(given: float | None) -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT_S)) if given is None else str(given)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ConfigError(f"{TIMEOUT_VARIABLE}={text}: give the process group's timeout as seconds above 0, e.g. 60")
    return seconds


def _select_gpu() -> None:
    """Bind this process to GPU LOCAL_RANK: NCCL deadlocks when two ranks of a node share one."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"LOCAL_RANK={local_rank} but this machine has {torch.cuda.device_count()} GPU(s): "
            "lower torchrun's --nproc_per_node, or run on CPU"
        )
    torch.cuda.set_device(local_rank)
