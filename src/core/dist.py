# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Rank, world size and the few collectives of a run. One process alone is a group of one: every call works there."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor

from .errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_VARIABLE = "ISDFINE_DIST_TIMEOUT"
DEFAULT_TIMEOUT_S = 600.0
_alone = False
_LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init(device: str | None = None, timeout_s: float | None = None) -> None:
    """Join the process group that ``torchrun`` described in the environment; without that description stay alone.

    Args:
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where it is available. CUDA also selects GPU ``LOCAL_RANK``.
        timeout_s: seconds a collective may wait for the other ranks before the run fails; by default
            the environment variable ``ISDFINE_DIST_TIMEOUT``, else 600.

    Raises:
        ConfigError: the environment is incomplete, or holds a value that is not a number in range.
        RuntimeError: the group could not be started. Going on alone would train W different models.
    """
    if torch_dist.is_initialized() or not _launched():
        return
    timeout = datetime.timedelta(seconds=_timeout_s(timeout_s))
    use_cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    where = (
        f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} at "
        f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    )
    if use_cuda:
        _select_gpu()
    try:
        torch_dist.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"the process group did not start ({where}, waited at most {timeout.total_seconds():g} s): {error}. "
            f"Check that every rank was started by one torchrun command and that the address is reachable; "
            f"set {TIMEOUT_VARIABLE} (seconds) for a longer wait"
        ) from error
    logger.info("joined the process group as %s", where)


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
    return total / world_size()


def gather_objects(obj: T) -> list[T]:
    """Every rank's object, in rank order, on every rank. Objects are pickled: for small results, not for tensors."""
    if world_size() == 1:
        return [obj]
    gathered: list[T | None] = [None] * world_size()
    torch_dist.all_gather_object(gathered, obj)
    return gathered  # type: ignore[return-value]


def broadcast_object(obj: T) -> T:
    """Rank 0's object on every rank; what the others pass is ignored."""
    if world_size() == 1:
        return obj
    box = [obj]
    torch_dist.broadcast_object_list(box, src=0)
    return box[0]


def shutdown() -> None:
    """Leave the process group. May be called twice, or without ``init``.

    Not for the way out after an error: the others may be waiting in a collective that this rank will never join,
    and torchrun ends them as soon as this process is gone.
    """
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


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
        raise ConfigError(f"{TIMEOUT_VARIABLE}={text}: give the process group's timeout as seconds above 0, e.g. 600")
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
