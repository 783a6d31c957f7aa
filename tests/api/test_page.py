# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The code of docs/python.md runs from top to bottom, with a small model under the name of the config."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from builders import ROOT, write_coco, write_micro_config
from isdfine.deploy.onnx.export import ExportReport
from isdfine.deploy.onnx.half import HalfShare

pytestmark = pytest.mark.usefixtures("small_backbone")


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Writing ONNX takes a while and is tested in tests/commands/test_export_onnx.py."""
    written: list[Any] = []

    def write(
        _model: object, _postprocessor: object, path: Path, *, size: tuple[int, int], **more: Any
    ) -> ExportReport:
        written.extend((path, size, *more["images"]))
        return ExportReport(path, {}, HalfShare(1, 0, 1, 0), 1, 1.0, 0, 1e-6, size, tmp_path)

    monkeypatch.setattr("isdfine.api.export.export_onnx", write)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    (config,) = set(re.findall(r'"([\w/]+\.yml)"', text))
    Path(config).parent.mkdir(parents=True)
    write_micro_config(tmp_path).rename(config)  # files go before those of the package
    write_coco(tmp_path / "my_data", images=10)
    Image.new("RGB", (80, 60)).save("photo.jpg")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)  # our own text
    assert written[:2] == ["model.onnx", (64, 96)]
    assert {image.parent.name for image in written[2:]} == {"images"}
    assert len(names["losses"]) == 4  # type: ignore[arg-type]
    assert names["run"].epochs == 3  # type: ignore[attr-defined]
    assert names["report"].complete  # type: ignore[attr-defined]
