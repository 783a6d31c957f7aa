# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from builders import load_tool, write_micro_config
from isdfine.bench.model_info import convention


def test_a_table_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_micro_config(tmp_path))
    tool = load_tool("benchmark/model_info")
    assert tool.main(["-c", path, path, "--size", "96", "64", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1:3] for line in lines[2:4]] == [[" micro ", " 96x64 "]] * 2
    assert "\n".join(lines).endswith(convention())


def test_overrides_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, tool = str(write_micro_config(tmp_path)), load_tool("benchmark/model_info")
    assert tool.main(["-c", path, "-u", "eval_spatial_size=[32,64]"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("micro"))
    assert row.split()[1] == "32x64"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("DFINETransformer.merge=sum", "merge"),
        ("DFINETransformer.numlayers=3", "did you mean num_layers"),
    ],
)
def test_mistakes(override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool("benchmark/model_info").main(["-c", str(write_micro_config(tmp_path)), "-u", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_memory_is_measured_on_gpus_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool, path = load_tool("benchmark/model_info"), str(write_micro_config(tmp_path))
    assert tool.main(["-c", path, "--device", "cpu"]) == 2
    assert "error: --device is for measuring memory on a GPU: leave it out" in capsys.readouterr().err
    assert tool.main(["-c", path, "--device", "cuda:99"]) == 2
    assert "error: device is cuda:99, but this torch" in capsys.readouterr().err
