# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones of timm: maps, names, weights from files, and what is refused."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import isdfine
from builders import micro_sections, write_coco
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.zoo.dfine.encoder import HybridEncoder
from isdfine.zoo.dfine.model import DFINE

timm = pytest.importorskip("timm")

NAMES = ["test_efficientnet", "test_convnext", "test_resnet"]


def whole_state(name: str, seed: int = 1) -> dict[str, Tensor]:
    """Weights of the whole classifier, as published files hold them."""
    torch.manual_seed(seed)
    return timm.create_model(name).state_dict()


def small(name: str = "test_resnet", **options: Any) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(name, **options).eval()


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_what_channels_and_strides_say(name: str) -> None:
    backbone = small(name)
    assert backbone.strides == [8, 16, 32]
    shapes = [tuple(feature_map.shape) for feature_map in backbone(torch.rand(1, 3, 64, 96))]
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides)]


@pytest.mark.parametrize("name", NAMES)
def test_parts_behind_the_last_map_are_dropped(name: str) -> None:
    backbone = small(name, out_indices=[1, 2])
    sum(feature_map.sum() for feature_map in backbone(torch.rand(1, 3, 64, 64))).backward()
    assert not [key for key, parameter in backbone.named_parameters() if parameter.grad is None]
    everything = small(name)
    assert len(list(backbone.parameters())) < len(list(everything.parameters()))


def test_efficientnet_lite0_has_the_known_channels() -> None:
    backbone = small("tf_efficientnet_lite0", out_indices=[0, 3, 4])
    assert (backbone.channels, backbone.strides) == ([16, 112, 320], [2, 16, 32])


def test_maps_are_channels_first_whatever_the_model_computes_in() -> None:
    backbone = small("swin_tiny_patch4_window7_224")
    shapes = [tuple(feature_map.shape) for feature_map in backbone(torch.rand(1, 3, 224, 224))]
    assert shapes == [(1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7)]


def test_images_are_normalised_as_the_weights_expect() -> None:
    backbone, images = small("test_convnext"), torch.rand(2, 3, 64, 64)
    cfg = backbone.body.pretrained_cfg
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        for ours, theirs in zip(backbone(images), backbone.body((images - mean) / std)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not {"mean", "std"} & set(backbone.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["safetensors", "bare", "wrapped"])
def test_a_file_of_the_whole_model_gives_its_features(name: str, form: str, tmp_path: Path) -> None:
    state = whole_state(name)
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save(state if form == "bare" else wrapped, path)
    backbone = small(name, weights=str(path))
    reference = timm.create_model(name).eval()
    reference.load_state_dict(state)
    images = torch.rand(1, 3, 64, 64)
    normalised = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        for ours, theirs in zip(backbone(images), reference.forward_intermediates(normalised)[1][-3:]):
            torch.testing.assert_close(ours, theirs)


def test_the_rest_of_a_detector_starts_the_same_with_and_without_weights(tmp_path: Path) -> None:
    save_file(whole_state("test_resnet"), tmp_path / "w.safetensors")
    heads = []
    for weights in (None, str(tmp_path / "w.safetensors")):
        torch.manual_seed(3)
        TimmBackbone("test_resnet", weights=weights)
        heads.append(nn.Linear(4, 4).weight)
    torch.testing.assert_close(*heads, rtol=0, atol=0)


def test_a_detector_is_told_apart_from_one_for_other_maps() -> None:
    backbone = small("test_resnet", out_indices=[3, 4])
    encoder = HybridEncoder(in_channels=[512, 1024], feat_strides=[16, 32], hidden_dim=16, use_encoder_idx=[1], nhead=2)
    expected = (
        r"backbone \(TimmBackbone test_resnet\) has channels \[192, 96\] at strides \[16, 32\] but the encoder "
        r"\(HybridEncoder\) was built for \[512, 1024\]: correct in_channels"
    )
    with pytest.raises(ValueError, match=expected):
        DFINE(backbone, encoder, nn.Identity())


def config_with(folder: Path, **section: Any) -> isdfine.Config:
    sections = micro_sections(write_coco(folder / "data", images=1), folder / "run")
    del sections["HGNetv2"]
    sections["DFINE"]["backbone"] = "TimmBackbone"
    sections["HybridEncoder"]["in_channels"] = [192, 96]
    sections["TimmBackbone"] = {"name": "test_resnet", "out_indices": [3, 4], **section}
    path = folder / "timm.yml"
    path.write_text(yaml.safe_dump(sections))
    return isdfine.load_config(path)


def test_a_config_builds_a_detector_that_trains(tmp_path: Path) -> None:
    model = config_with(tmp_path, drop_path_rate=0.1).build("model", num_classes=2)
    target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
    output = model(torch.rand(2, 3, 64, 96), [target, target])
    output.layers[-1].boxes.sum().backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_config_with_an_unknown_name_says_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"timm\.yml.*TimmBackbone: .*no such model; did you mean resnet18 or"):
        config_with(tmp_path, name="resnet1").build("model", num_classes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "efficientnet_lite"}, r"has no such model; did you mean efficientnet_lite4"),
        ({"name": "zzzz"}, r"has no such model; timm\.list_models\(\) lists the names"),
        ({"name": "resnet18.nobody"}, r"no such weights of resnet18; choose one of .*resnet18\.tv_in1k"),
        ({"name": "vit_tiny_patch16_224"}, r"no maps of strides 8, 16, 32: choose out_indices of 0 \(stride 16\)"),
        (
            {"name": "test_resnet", "out_indices": [3, 7]},
            r"out_indices=\[3, 7\]: test_resnet has the maps 0 \(stride 2\), .*4 \(stride 32\)",
        ),
        ({"name": "test_resnet", "out_indices": [4, 3]}, r"ascending order, each once"),
        ({"name": "test_resnet", "out_indices": []}, r"one or more"),
        ({"name": "test_resnet", "drop_path_rate": 1.0}, r"drop_path_rate=1\.0: expected a share in \[0, 1\)"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, r"drop_path_rate=0\.1: vgg11 has none; leave it out"),
        ({"name": "test_resnet", "pretrained": True, "weights": "w.pth"}, r"both set: keep one of the two"),
    ],
)
def test_what_a_constructor_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options)


def test_without_timm_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'timm is not installed: pip install "isdfine\[timm\]"'):
        TimmBackbone("test_resnet")


def without_a_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("layer1.")}


def with_a_stranger(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "neck.weight": torch.zeros(1)}


def with_a_wider_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "layer2.0.bn1.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_layer, r"\d+ missing in the file: layer1\.0\.conv1\.weight, .* and \d+ more"),
        (with_a_stranger, r"1 unknown to the model: neck\.weight"),
        (with_a_wider_layer, r"1 of another shape: layer2\.0\.bn1\.weight \(3,\) for \(\d+,\)"),
    ],
)
def test_weights_that_do_not_fit_entirely_are_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(spoil(whole_state("test_resnet")), path)
    with pytest.raises(
        CheckpointError, match=re.escape(str(path)) + ".*not weights of timm's test_resnet: .*" + message
    ):
        TimmBackbone("test_resnet", weights=str(path))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(whole_state("test_convnext"), path)
    with pytest.raises(CheckpointError, match=r"w\.pth: these are not weights of timm's test_resnet"):
        TimmBackbone("test_resnet", weights=str(path))


def test_a_config_with_a_file_of_another_architecture_says_where(tmp_path: Path) -> None:
    torch.save(whole_state("test_convnext"), tmp_path / "w.pth")
    expected = (
        r"timm\.yml:\d+: TimmBackbone: .*w\.pth: these are not weights of timm's test_resnet .*give the file that"
    )
    with pytest.raises(CheckpointError, match=expected):
        config_with(tmp_path, weights=str(tmp_path / "w.pth")).build("model", num_classes=2)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint file"):
        TimmBackbone("test_resnet", weights=str(tmp_path / "absent.pth"))
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: no weights in it"):
        TimmBackbone("test_resnet", weights=str(tmp_path / "w.pth"))


def test_published_weights_that_cannot_be_fetched_name_the_way_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("Name or service not known")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("isdfine.nn.backbone.timm_weights._check_connection", lambda: None)
    with pytest.raises(CheckpointError, match=r"cannot be fetched \(Name or .*give its path as TimmBackbone\.weights"):
        TimmBackbone("test_resnet", pretrained=True)


def test_published_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    create, state = timm.create_model, whole_state("test_convnext", seed=9)

    def cached(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        model = create(name, **options)
        if pretrained:
            model.load_state_dict(state)
        return model

    monkeypatch.setattr(timm, "create_model", cached)
    monkeypatch.setattr("isdfine.nn.backbone.timm_weights._check_connection", lambda: None)
    own = TimmBackbone("test_convnext", pretrained=True).body.model.state_dict()
    assert own
    for key, value in own.items():
        torch.testing.assert_close(value, state[key])
