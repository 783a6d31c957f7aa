# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a time was measured on, as far as the system tells: without it a latency says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt")
_GPU_FIELDS = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu",
    "persistence_mode",
)  # fmt: skip
UNKNOWN = "not readable"


def describe(device: torch.device, threads: int | None) -> dict[str, Any]:
    """Processor, clocks, load, GPU, threads and versions; what cannot be read says so.

    Args:
        device: that is measured on.
        threads: asked for; None = each backend's own choice.
    """
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cpu": cpu_name(Path("/proc/cpuinfo")),
        "cpus": os.cpu_count(),
        "cpus_of_this_process": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else UNKNOWN,
        "cpu_clocks_mhz": cpu_clocks(Path("/proc/cpuinfo")),
        "cpu_governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": load(),
        "threads": threads if threads is not None else "chosen by each backend",
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "python": platform.python_version(),
        "versions": versions(),
    }
    if device.type == "cuda":
        found["gpu"] = gpu(device) | {"cuda": torch.version.cuda or UNKNOWN, "cudnn": torch.backends.cudnn.version()}
    return found


def describe_after(device: torch.device) -> dict[str, Any]:
    """What changes while it is measured: load, and the clocks and temperature of a GPU that has just worked."""
    found: dict[str, Any] = {"load_after": load(), "cpu_clocks_mhz_after": cpu_clocks(Path("/proc/cpuinfo"))}
    if device.type == "cuda":
        found["gpu_after"] = gpu(device)
    return found


def load() -> list[float] | str:
    """Mean number of running processes over 1, 5 and 15 minutes."""
    return [round(one, 2) for one in os.getloadavg()] if hasattr(os, "getloadavg") else UNKNOWN


def cpu_name(cpuinfo: Path) -> str:
    """Model of the processor."""
    names = _entries(cpuinfo, "model name")
    return names[0] if names else platform.processor() or platform.machine()


def cpu_clocks(cpuinfo: Path) -> list[float] | str:
    """Present clock of each processor; virtual machines tell the nominal one."""
    return [float(entry) for entry in _entries(cpuinfo, "cpu MHz")] or UNKNOWN


def versions() -> dict[str, str]:
    """Of the installed packages that have a part in it."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # what is not installed has no part in it
    return found


def gpu(device: torch.device) -> dict[str, str]:
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
    return dict(zip(_GPU_FIELDS, (one.strip() for one in answer.strip().split(","))))


def _entries(file: Path, key: str) -> list[str]:
    lines = _text(file).splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return UNKNOWN
