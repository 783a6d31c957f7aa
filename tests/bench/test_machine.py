# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isdfine.bench import machine


def test_this_machine_is_described() -> None:
    with machine.described(torch.device("cpu"), 2) as found:
        assert "load_after" not in found
    assert found["threads"] == 2
    assert {name for name in found if name.endswith("_after")} == {"load_after", "cpu_clocks_mhz_after"}
    assert found["cpus"] >= found["cpus_of_this_process"] >= 1
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "gpu" not in found
    with machine.described(torch.device("cpu"), None) as found:
        assert found["threads"] == "chosen by each backend"


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
    with machine.described(torch.device("cuda:1"), 1) as found:
        pass
    assert found["gpu_after"]["temperature.gpu"] == "31"


@pytest.mark.usefixtures("some_gpu")
def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert machine.gpu(torch.device("cuda")) == {"name": "Some GPU", "clocks": "not readable: nvidia-smi"}
