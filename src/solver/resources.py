# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What this process may use of the machine: memory and processor cores, limits of containers included."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from ..core import dist

SHARE = {"cuda": 0.9, "cpu": 0.8}
"""Of the memory that is free, what a plan counts on: an allocator leaves gaps, and on a CPU the kernels' own buffers
are not counted and other processes grow."""


def usable_bytes(device: torch.device) -> int:
    """Bytes that a run on this device may fill, what this process has there already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(SHARE["cuda"] * (free + torch.cuda.memory_reserved(device)))
    # Ranks of one machine share its memory.
    return int(SHARE["cpu"] * free_memory() / local_ranks())


def free_memory(root: Path = Path("/"), *, swap: bool = False) -> int:
    """Bytes of main memory that are free or can be freed, and that control groups and ``ulimit -v`` still allow.

    Args:
        root: of the file system; Linux keeps all these figures in files.
        swap: count the swap space that is free too, all of it for every control group.
    """
    meminfo = root / "proc/meminfo"  # in KiB
    more = 1024 * int(_figure(meminfo, "SwapFree:") or 0) if swap else 0
    available = _figure(meminfo, "MemAvailable:")
    limits = [] if available is None else [1024 * int(available) + more]
    for group in (*_groups(root, ""), *_groups(root, "memory")):
        if (left := _left_in_group(group)) is not None:
            limits.append(left + more)
    address_space = _figure(root / "proc/self/limits", "address", "space")
    if address_space not in (None, "unlimited") and (pages := _text(root / "proc/self/statm").split()):
        limits.append(max(0, int(address_space) - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")))
    return min(limits) if limits else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_memory(device: torch.device, root: Path = Path("/")) -> dict[str, float]:
    """Most that this process has held so far in MiB, by the name of what was counted; empty where nothing says it.

    ``peak_cuda_mib``: tensors on the GPU; ``peak_resident_mib``: main memory with libraries. The latter is Linux's own
    figure, as that of ``getrusage`` begins with what the parent held when it started the process.
    """
    if device.type == "cuda":
        return {"peak_cuda_mib": torch.cuda.max_memory_allocated(device) / 2**20}
    kibibytes = _figure(root / "proc/self/status", "VmHWM:")
    return {} if kibibytes is None else {"peak_resident_mib": int(kibibytes) / 2**10}


def usable_cores(root: Path = Path("/")) -> int:
    """Processor cores for each process of the run, at least 1: affinity and quota of the control group count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, ""):
        quota = _text(group / "cpu.max").split()
        if len(quota) == 2 and quota[0] != "max":
            cores = min(cores, math.ceil(int(quota[0]) / int(quota[1])))
    return max(1, cores // local_ranks())


def local_ranks() -> int:
    """Processes of the run on this machine, as torchrun tells."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.world_size() > 1 else 1


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and of those it lies in, whose limits hold as well.

    Args:
        controller: of version 1, which has a tree for each; empty for version 2.
    """
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    own = next((path.strip("/") for _, names, path in lines if controller in names.split(",")), "")
    tree = root / "sys/fs/cgroup" / controller
    return [tree, *(tree / part for part in (Path(own), *Path(own).parents) if part != Path())]


def _left_in_group(group: Path) -> int | None:
    """None where there is no limit. Pages of files count as used there, but go where memory is needed."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, now = _text(group / limit).strip(), _text(group / used).strip()
        if most and now and most != "max":
            stat = group / "memory.stat"
            names = ("total_inactive_file", "total_active_file")  # version 1 counts the groups below apart
            if _figure(stat, names[0]) is None:
                names = ("inactive_file", "active_file")
            return max(0, int(most) - int(now) + sum(int(_figure(stat, name) or 0) for name in names))
    return None


def _figure(file: Path, *name: str) -> str | None:
    """The word behind a name in a file of figures; None where the name is not there."""
    words = _text(file).split()
    return words[words.index(name[0]) + len(name)] if name[0] in words else None


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""
