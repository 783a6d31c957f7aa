# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import load_tool


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("ultralytics", ["ultralytics", "yolo11n", "-o", "x"]), ("transformers", ["transformers", "-c", "x", "-o", "y"])],
)
def test_a_missing_package_is_named(
    package: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert load_tool("benchmark/peers_onnx").main(arguments) == 2
    assert f"error: {package} is missing here" in capsys.readouterr().err


def test_yolo_files_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a module that looks like ultralytics, which is no dependency."""
    asked: list[Any] = []

    class YOLO:
        def __init__(self, name: str) -> None:
            asked.append(name)

        def export(self, **options: Any) -> str:
            asked.append(options)
            (tmp_path / "written.onnx").write_bytes(b"graph")
            return str(tmp_path / "written.onnx")

    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=YOLO, __version__="8"))
    folder = tmp_path / "yolo"
    arguments = ["ultralytics", "yolo11n", "-o", str(folder), "--size", "320"]
    assert load_tool("benchmark/peers_onnx").main(arguments) == 0
    assert asked[0] == "yolo11n.yaml", "not .pt, which would be downloaded"
    assert (asked[1]["format"], asked[1]["imgsz"]) == ("onnx", 320)
    assert (folder / "yolo11n.onnx").read_bytes() == b"graph"
