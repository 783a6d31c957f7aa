# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every published size, a ConvNeXt model and a rectangle, at full size: minutes each, the table of docs/export.md."""

from pathlib import Path

import pytest

import isdfine
from export_cases import IMAGES
from hf_cases import filled
from isdfine.deploy.onnx.export import export_onnx
from isdfine.deploy.onnx.sample import images_in

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"pip install {package}")
CONFIGS = Path(__file__).parents[3] / "configs"
CASES = [
    *((f"dfine/dfine_hgnetv2_{size}_coco.yml", (640, 640), "HGNetv2") for size in "nsmlx"),
    ("dfine/dfine_hgnetv2_n_coco.yml", (480, 800), "HGNetv2"),
    ("backbones/dfine_convnext_tiny_coco.yml", (640, 640), "TimmBackbone"),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "size", "backbone"), CASES, ids=lambda one: str(one))
def test_onnx_runtime_finds_what_pytorch_finds(tmp_path: Path, name: str, size: tuple[int, int], backbone: str) -> None:
    config = isdfine.load_config(
        CONFIGS / name, [f"eval_spatial_size={list(size)}", f"{backbone}.pretrained=False", "num_classes=80"]
    )
    report = export_onnx(
        filled(config), config.build("postprocessor"), tmp_path / "a.onnx", size=size, images=images_in(IMAGES)
    )
    assert len(report.differences) == 3
    assert max(difference.score for difference in report.differences.values()) <= 1e-4
    assert max(difference.box for difference in report.differences.values()) <= 0.05
