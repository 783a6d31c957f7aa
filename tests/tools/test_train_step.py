# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/train_step.py with the micro model."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from builders import load_tool, write_micro_config

SMALL = ["--image", "64", "96", "--batch", "2", "--boxes", "2", "--rounds", "1", "--warmup", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool("benchmark/train_step")


def test_variants_take_turns_and_phases_add_up(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = write_micro_config(tmp_path), tmp_path / "found.json"
    given = ["-c", str(config), "-u", "num_classes=2", *SMALL, "--variants", "eager", "channels_last", "-o", str(file)]
    assert tool.main([*given, "--data", str(config)]) == 0
    said = capsys.readouterr().out
    assert "wait for data: first batch" in said
    assert "micro, 2 x 64 x 96, 2 boxes an image, 1 rounds" in said
    content = json.loads(file.read_text())
    assert content["data_wait"]["median_seconds"] > 0
    for name in ("eager", "channels_last"):
        variant = content["variants"][name]
        assert set(variant["median_seconds_of_phases"]) == set(tool.PHASES)
        assert all(
            variant["median_seconds_of_phases"][phase] > 0 for phase in ("forward", "matching", "backward", "ema")
        )
        assert variant["operators"] > 1000
        assert variant["waits"] == 0
        assert variant["peak_bytes"] > 0
        assert len(variant["phases_by_round"]) == 1
    assert content["variants"]["eager"]["time_over_eager"]["median"] == 1


def test_wrong_options_are_one_message(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-c", str(write_micro_config(tmp_path)), "-u", "num_classes=2", *SMALL]
    assert tool.main([*given, "--variants", "fast"]) == 2
    assert "error: variants: fast: choose from eager, channels_last, compile" in capsys.readouterr().err
    assert tool.main([*given, "--variants", "transformers+compile"]) == 2
    assert "transformers has no parts that compile knows" in capsys.readouterr().err
    for option, value, message in (
        ("rounds", "0", "rounds is 0: give 1 or more"),
        ("batch", "0", "batch is 0: give 1 or more"),
        ("boxes", "-1", "boxes is -1: give 0 or more"),
        ("threads", "0", "threads is 0: give 1 or more"),
    ):
        assert tool.main([*given, f"--{option}", value]) == 2
        assert message in capsys.readouterr().err
    assert tool.main([*given, "--image", "64", "100"]) == 2
    assert "image is (64, 100): height and width must be multiples of 32" in capsys.readouterr().err


def test_a_step_that_cannot_be_compiled_is_not_measured_as_if(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch.compile", fails)
    given = ["-c", str(write_micro_config(tmp_path)), "-u", "num_classes=2", *SMALL, "--variants", "compile+bf16"]
    assert tool.main(given) == 2
    assert "error: variants: compile: torch.compile does not work here" in capsys.readouterr().err
