# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import machine


def test_this_machine_is_described() -> None:
    found = machine.describe(torch.device("cpu"), 2)
    assert found["threads"] == 2
    assert found["cpus"] >= found["cpus_of_this_process"] >= 1
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "gpu" not in found
    assert machine.describe(torch.device("cpu"), None)["threads"] == "chosen by each backend"


def test_clocks_and_names_are_read_or_said_to_be_unknown(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    core = "processor : 0\nmodel name\t: Fast 9000\ncpu MHz\t\t: {}\n\n"
    file.write_text(core.format(2500.5) + core.format(900))
    assert machine.cpu_clocks(file) == [2500.5, 900.0]
    assert machine.cpu_name(file) == "Fast 9000"
    assert machine.cpu_clocks(tmp_path / "absent") == machine.UNKNOWN


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Some GPU", uuid="0a1b-22")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


@pytest.mark.usefixtures("some_gpu")
def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **_: object) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(stdout="H200, 570.1, 1980 MHz, 1980 MHz, 3201 MHz, 700.00 W, 31, Enabled\n")

    monkeypatch.setattr(machine.subprocess, "run", answer)
    found = machine.gpu(torch.device("cuda:1"))
    assert asked[0][1] == "--id=GPU-0a1b-22", "the number would be another GPU's under CUDA_VISIBLE_DEVICES"
    assert (found["name"], found["clocks.sm"], found["power.limit"]) == ("H200", "1980 MHz", "700.00 W")
    after = machine.describe_after(torch.device("cuda:1"))
    assert after["gpu_after"]["temperature.gpu"] == "31"
    assert set(machine.describe_after(torch.device("cpu"))) == {"load_after", "cpu_clocks_mhz_after"}


@pytest.mark.usefixtures("some_gpu")
def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert machine.gpu(torch.device("cuda")) == {"name": "Some GPU", "clocks": "not readable: nvidia-smi"}
