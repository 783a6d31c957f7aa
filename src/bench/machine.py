# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a time was measured on, as far as the system tells: without it a latency says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt")
_GPU_FIELDS = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu",
    "persistence_mode",
)  # fmt: skip
UNKNOWN = "not readable"


@contextmanager
def described(
    device: torch.device, threads: int | None, packages: Sequence[str] = PACKAGES
) -> Iterator[dict[str, Any]]:
    """Processor, clocks, load, GPU, threads and versions; what cannot be read says so.

    At the end of the block load, clocks and the GPU are read again, into entries whose names end with ``_after``.

    Args:
        device: that is measured on.
        threads: asked for; None = each backend's own choice.
        packages: whose versions are named, where they are installed.
    """
    machine: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cpu": cpu_name(Path("/proc/cpuinfo")),
        "cpus": os.cpu_count(),
        "cpus_of_this_process": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else UNKNOWN,
        "cpu_governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "threads": threads if threads is not None else "chosen by each backend",
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "python": platform.python_version(),
        "versions": versions(packages),
        **_state(device),
    }
    yield machine
    machine |= {f"{name}_after": value for name, value in _state(device).items()}


def _state(device: torch.device) -> dict[str, Any]:
    """What changes while it is measured: load, and the clocks and temperature of a GPU that works."""
    state: dict[str, Any] = {"load": load(), "cpu_clocks_mhz": cpu_clocks(Path("/proc/cpuinfo"))}
    if device.type == "cuda":
        libraries = {"cuda": torch.version.cuda or UNKNOWN, "cudnn": torch.backends.cudnn.version()}
        state["gpu"] = gpu(device) | libraries
    return state


def load() -> list[float] | str:
    """Mean number of running processes over 1, 5 and 15 minutes."""
    return [round(mean, 2) for mean in os.getloadavg()] if hasattr(os, "getloadavg") else UNKNOWN


def cpu_name(cpuinfo: Path) -> str:
    """Model of the processor."""
    names = _entries(cpuinfo, "model name")
    return names[0] if names else platform.processor() or platform.machine()


def cpu_clocks(cpuinfo: Path) -> list[float] | str:
    """Present clock of each processor; virtual machines tell the nominal one."""
    return [float(entry) for entry in _entries(cpuinfo, "cpu MHz")] or UNKNOWN


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    installed = {}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # what is not installed has no part in it
    return installed


def gpu(device: torch.device) -> dict[str, Any]:
    """What ``nvidia-smi`` says of a GPU: clocks now and at most, power limit, temperature.

    It is asked for by its UUID: ``nvidia-smi`` numbers all GPUs, torch those of CUDA_VISIBLE_DEVICES.
    """
    properties = torch.cuda.get_device_properties(device)
    wanted = f"--query-gpu={','.join(_GPU_FIELDS)}"
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", wanted, "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"name": properties.name, "clocks": f"{UNKNOWN}: {error}"}
    return dict(zip(_GPU_FIELDS, (value.strip() for value in answer.strip().split(","))))


def _entries(file: Path, key: str) -> list[str]:
    lines = _text(file).splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return UNKNOWN
