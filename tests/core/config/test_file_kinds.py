# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets, networks and configs of other projects given as a config."""

from collections.abc import Callable
from pathlib import Path

import pytest

import isdfine
from isdfine.core.checkpoint import refuse_url
from isdfine.core.errors import CheckpointError, ConfigError

Load = Callable[..., isdfine.Config]
CONFIGS = Path(__file__).parent.parent.parent.parent / "configs"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(text: str, *overrides: str, name: str = "run.yml") -> isdfine.Config:
        (tmp_path / name).write_text(text)
        return isdfine.load_config(tmp_path / name, overrides)

    return read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: ../coco8\ntrain: images/train\nval: images/val\nnames:\n  0: person\n", r"run.yml:4: names: .*YoloDet"),
        ("nc: 2\nnames: [a, b]\n", r"run.yml:2: names: this describes a data set for Ultralytics, not a run: name the"),
        ("nc: 80\nbackbone:\n  - [-1, 1, Conv, [64, 3, 2]]\nhead: []\n", r"run.yml:2: backbone: this describes a netw"),
        ("imgsz: 640\nepochs: 100\nbatch: 16\n", r"run.yml:1: imgsz: these are training arguments of Ultralytics"),
        ("_BASE_: ['a.yml']\narchitecture: DETR\n", r"run.yml:1: _BASE_: this is a config of PaddleDetection"),
        ("architecture: DETR\nnum_classes: 80\n", r"run.yml:1: architecture: this is a config of PaddleDetection"),
        ('{"architectures": ["D"], "model_type": "d_fine"}', r"run.yml:1: model_type: .*isdfine convert"),
        ('{"images": [], "annotations": [], "categories": []}', r"run.yml:1: annotations: this is a COCO annotation"),
    ],
)
def test_files_of_other_kinds(text: str, message: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_python_configs(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"run.py: a Python config, as mmdetection, .* only YAML is read here; start"):
        load("model = dict(type='DINO')\n", name="run.py")


def test_files_that_messages_name_exist() -> None:
    assert (CONFIGS / "dataset" / "yolo_detection.yml").is_file()
    assert (CONFIGS / "dfine" / "custom" / "dfine_hgnetv2_s_custom.yml").is_file()


@pytest.mark.parametrize(
    "given", ["https://a.org/n.pth", Path("https://a.org/n.pth"), "s3://bucket/n.onnx", "hf://x/y"]
)
def test_a_url_is_no_path(given: str | Path) -> None:
    url = str(given) if isinstance(given, str) else "https://a.org/n.pth"
    with pytest.raises(CheckpointError, match=f"^{url} is a URL, and nothing is downloaded here: fetch it first"):
        refuse_url(given)


@pytest.mark.parametrize("given", ["n.pth", "C:/runs/n.pth", "a:b/n.pth", "https:", "./https:/x", "runs/http:/x"])
def test_a_path_is_no_url(given: str) -> None:
    refuse_url(given)
