# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What timm says of its models and weights: sizes, maps, licences, image sizes."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import isdfine
from isdfine.core.errors import ConfigError
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.nn.padding import Padding, cleared

timm = pytest.importorskip("timm")

CONFIGS = Path(__file__).parents[3] / "configs" / "backbones"
CONVNEXT = {
    "tiny": ([192, 384, 768], 27.82, 44.84),
    "small": ([192, 384, 768], 49.45, 66.47),
    "base": ([256, 512, 1024], 87.56, 104.70),
    "large": ([384, 768, 1536], 196.23, 213.59),
}
"""Channels of the maps; millions of parameters of the backbone and of the detector."""


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[pytest.mark.slow] if size in ("small", "base") else []) for size in CONVNEXT]
)
def test_convnext_has_the_channels_and_parameters_of_the_table(size: str) -> None:
    channels, backbone_millions, millions = CONVNEXT[size]
    config = isdfine.load_config(CONFIGS / f"dfine_convnext_{size}.yml", ["TimmBackbone.pretrained=False"])
    with torch.device("meta"):
        model = config.build("model")
        maps = model.backbone(torch.rand(1, 3, 640, 928))
    assert (model.backbone.name, model.backbone.channels) == (f"convnext_{size}.dinov3_lvd1689m", channels)
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [
        (channels[0], 80, 116), (channels[1], 40, 58), (channels[2], 20, 29),
    ]  # fmt: skip
    for part, expected in ((model.backbone, backbone_millions), (model, millions)):
        assert sum(parameter.numel() for parameter in part.parameters()) / 1e6 == pytest.approx(expected, abs=0.01)
    mean, std = ([round(float(value), 3) for value in values.flatten()] for values in _normalisation(size))
    assert (mean, std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def _normalisation(size: str) -> tuple[Tensor, Tensor]:
    config = timm.get_pretrained_cfg(f"convnext_{size}.dinov3_lvd1689m")
    return torch.tensor(config.mean), torch.tensor(config.std)


def test_the_groups_of_the_convnext_config_decay_no_norm_scale_or_bias() -> None:
    config = isdfine.load_config(CONFIGS / "dfine_convnext_tiny.yml", ["TimmBackbone.pretrained=False"])
    with torch.device("meta"):
        model = config.build("model")
    for group in config.build("optimizer", model=model).param_groups:
        inside = [name.startswith("backbone.") for name in group["param_names"]]
        assert all(inside) or not any(inside)
        assert group["lr"] == pytest.approx(1e-5 if all(inside) else 1e-4)
        vectors = [param.dim() <= 1 for param in group["params"]]
        if all(inside):
            assert all(vectors) if group["weight_decay"] == 0 else not any(vectors)


@pytest.mark.parametrize("options", [{"pretrained": True}, {"weights": "model.safetensors"}])
def test_restricted_weights_need_consent_by_name(options: dict[str, Any]) -> None:
    name = "convnext_tiny.dinov3_lvd1689m"
    expected = r"licence 'dinov3-license'.*read it at https://ai\.meta\.com/.*set TimmBackbone\.accept_license: dinov3-"
    with pytest.raises(ValueError, match=expected):
        TimmBackbone(name, **options)
    with pytest.raises(ValueError, match=r"'dinov3-license', not 'yes' \(accept_license\)"):
        TimmBackbone(name, accept_license="yes", **options)
    with pytest.raises(ValueError, match=r"'cc-by-nc-4\.0'.*creativecommons\.org/licenses/by-nc/4\.0/"):
        TimmBackbone("convnextv2_atto.fcmae_ft_in1k", accept_license="dinov3-license", **options)


def test_restricted_weights_load_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: dataclasses.replace(config, license="some-license"))
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(ValueError, match=r"read it at https://huggingface\.co/timm/test_resnet\.r160_in1k"):
        TimmBackbone("test_resnet.r160_in1k", weights=str(path))
    backbone = TimmBackbone("test_resnet.r160_in1k", weights=str(path), accept_license="some-license")
    assert backbone.starts_from == str(path)


def test_the_architecture_and_files_without_a_name_need_no_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restricted = dataclasses.replace(timm.get_pretrained_cfg("test_resnet"), license="some-license")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: restricted)
    assert TimmBackbone("test_resnet.r160_in1k").starts_from is None
    path = tmp_path / "own.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    assert TimmBackbone("test_resnet", weights=str(path)).starts_from == str(path)


def test_weights_without_a_stated_licence_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr("isdfine.nn.backbone.timm.published_weights", lambda timm, name, size: state)
    with caplog.at_level(logging.WARNING):
        backbone = TimmBackbone("test_resnet", pretrained=True)
    assert "timm states no licence for the weights of test_resnet" in caplog.text
    assert backbone.starts_from == "timm's published weights of test_resnet"


def test_a_config_without_consent_says_where(tmp_path: Path) -> None:
    config = isdfine.load_config(CONFIGS / "dfine_convnext_tiny.yml")
    with pytest.raises(ConfigError, match=r"dfine_convnext_tiny\.yml:\d+: TimmBackbone: .*accept_license"):
        config.build("model")


def test_a_model_without_published_weights_names_others() -> None:
    expected = r"no published weights of resnet50t: choose .*resnet50.*, give a file as weights, or set pretrained: F"
    with pytest.raises(ValueError, match=expected):
        TimmBackbone("resnet50t", pretrained=True)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"channels": [96, 192, 384]},
            "backbone test_convnext provides CHANNELS at strides [8, 16, 32], config asks [96, 192, 384] at strides",
        ),
        ({"strides": [4, 8, 16]}, "at strides [8, 16, 32], config asks"),
        ({"mean": [0.4, 0.5, 0.5]}, "mean: test_convnext was trained with ["),
        ({"std": [0.2]}, "std: test_convnext was trained with ["),
    ],
)
def test_expectations_that_do_not_hold_are_refused(expected: dict[str, Any], message: str) -> None:
    channels = timm.create_model("test_convnext", features_only=True).feature_info.channels()
    message = message.replace("CHANNELS", str(channels[1:]))
    with pytest.raises(ValueError, match=re.escape(message)):
        TimmBackbone("test_convnext", **expected)


def test_expectations_that_hold_change_nothing() -> None:
    with torch.device("meta"):
        TimmBackbone(
            "convnext_tiny", channels=[192, 384, 768], strides=[8, 16, 32],
            mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        )  # fmt: skip


def test_models_for_one_image_size_take_any_where_timm_can() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        shapes = [tuple(feature_map.shape[1:]) for feature_map in backbone(torch.rand(1, 3, 96, 160))]
    assert shapes == [(192, 12, 20), (384, 6, 10), (768, 3, 5)]


def test_models_that_cannot_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"test_maxvit does not take images of any size \(tried 96 x 160: .*img_size:"):
        TimmBackbone("test_maxvit")
    with pytest.raises(ValueError, match=r"inception_v3 .*its maps are \[\(288, 9, 17\).* instead of"):
        TimmBackbone("inception_v3")
    with pytest.raises(ValueError, match=r"img_size=\[100, 160\]: test_maxvit cannot take it"):
        TimmBackbone("test_maxvit", img_size=[100, 160])
    with pytest.raises(ValueError, match=r"img_size=\[96\]: give \(height, width\) in pixels"):
        TimmBackbone("test_maxvit", img_size=[96])
    with pytest.raises(ValueError, match=r"img_size=\(96, 160\): test_resnet has none; leave it out"):
        TimmBackbone("test_resnet", img_size=[96, 160])
    with pytest.raises(ValueError, match=r"hardcorenas_a: timm cannot take feature maps from it"):
        TimmBackbone("hardcorenas_a")


def test_one_image_size_is_the_only_one() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("test_maxvit", img_size=[96, 160]).eval()
    with torch.no_grad():
        assert [tuple(feature_map.shape[2:]) for feature_map in backbone(torch.rand(1, 3, 96, 160))] == [
            (12, 20),
            (6, 10),
            (3, 5),
        ]
    with pytest.raises(ValueError, match=r"was built for images of \(96, 160\) .*got \(160, 96\): resize"):
        backbone(torch.rand(1, 3, 160, 96))


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
@pytest.mark.parametrize("content", [(64, 96), (50, 75)])
def test_features_do_not_depend_on_the_padding(name: str, content: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    image = torch.rand(1, 3, *content)

    def maps(height: int, width: int) -> list[Tensor]:
        canvas = torch.full((1, 3, height, width), 0.5)
        canvas[..., : content[0], : content[1]] = image
        padding = Padding(torch.tensor([content]), (height, width))
        with torch.no_grad():
            return [padding.clear(feature_map) for feature_map in backbone(canvas, padding)]

    for tight, wide, stride in zip(maps(64, 96), maps(128, 192), backbone.strides):
        rows, columns = -(-content[0] // stride), -(-content[1] // stride)
        torch.testing.assert_close(tight[..., :rows, :columns], wide[..., :rows, :columns], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("visible", [False, True])
def test_padded_pixels_are_those_of_our_own_resnet(visible: bool) -> None:
    torch.manual_seed(4)
    backbone, ours = TimmBackbone("resnet18.tv_in1k").eval(), ResNet(18).eval()
    state = backbone.body.model.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    padding = Padding(torch.tensor([[50, 75]]), (64, 96), visible=visible)
    canvas = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(backbone(canvas, padding), ours(canvas, padding)):
            torch.testing.assert_close(cleared(one, padding), other)


def test_torchvisions_file_fits_the_model_of_its_name(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    theirs = models.resnet18().eval()
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(theirs.state_dict(), path)
    backbone = TimmBackbone("resnet18.tv_in1k", weights=str(path)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        last = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1((images - backbone.mean) / backbone.std))))
        for number, feature_map in zip((1, 2, 3, 4), [None, *backbone(images)]):
            last = getattr(theirs, f"layer{number}")(last)
            if feature_map is not None:
                torch.testing.assert_close(feature_map, last)
