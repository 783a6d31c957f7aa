# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""PResNet: the published names and numbers, padding, freezing, and what is refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.core.errors import CheckpointError
from isdfine.deploy.fuse import fuse
from isdfine.nn.backbone.resnet import BLOCKS, PResNet, ResNet
from isdfine.nn.norm import FrozenBatchNorm2d
from isdfine.nn.padding import Padding


def small(depth: int = 18, **options: Any) -> PResNet:
    torch.manual_seed(0)
    return PResNet(depth, **{"freeze_norm": False, "pretrained": False, **options})


def with_statistics(backbone: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return backbone.eval()


def published_name(key: str) -> str:
    """Name in RT-DETR's checkpoints of a tensor that transformers' ``RTDetrResNetBackbone`` calls ``key``."""
    key = re.sub(r"embedder\.embedder\.(\d)", lambda found: f"conv1.conv1_{int(found[1]) + 1}", key)
    key = re.sub(r"encoder\.stages\.(\d)\.layers\.(\d+)", r"res_layers.\1.blocks.\2", key)
    key = re.sub(r"\.layer\.(\d)\.", lambda found: f".branch2{'abc'[int(found[1])]}.", key)
    key = key.replace("convolution", "conv").replace("normalization", "norm")
    return key.replace("shortcut.1.", "short.conv.").replace("shortcut.", "short.")


@pytest.mark.parametrize("depth", [18, 50])
def test_maps_are_those_of_another_implementation(depth: int) -> None:
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.rt_detr.modeling_rt_detr_resnet")
    widths = [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512]
    config = transformers.RTDetrResNetConfig(
        embedding_size=64, hidden_sizes=widths, depths=list(BLOCKS[depth]), hidden_act="relu",
        layer_type="bottleneck" if depth >= 50 else "basic", out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    theirs = with_statistics(modeling.RTDetrResNetBackbone(config))
    ours = small(depth).eval()
    ours.load_state_dict({published_name(key): value for key, value in theirs.state_dict().items()})
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        for feature_map, other in zip(ours(images), theirs(images).feature_maps):
            torch.testing.assert_close(feature_map, other, rtol=1e-6, atol=1e-6)


def test_names_are_the_published_ones() -> None:
    keys = set(small(50).state_dict())
    assert {
        "conv1.conv1_1.conv.weight",
        "conv1.conv1_3.norm.running_var",
        "res_layers.0.blocks.0.short.conv.weight",
        "res_layers.1.blocks.0.short.conv.conv.weight",
        "res_layers.1.blocks.0.short.conv.norm.bias",
        "res_layers.2.blocks.5.branch2c.norm.weight",
    } <= keys
    assert "res_layers.0.blocks.1.short.conv.weight" not in keys


@pytest.mark.parametrize(
    ("depth", "variant", "millions"),
    [(18, "d", 11.20), (34, "d", 21.31), (50, "d", 23.53), (101, "d", 42.52), (18, "b", 11.18), (50, "b", 23.51)],
)
def test_numbers_of_parameters(depth: int, variant: Any, millions: float) -> None:
    with torch.device("meta"):
        backbone = PResNet(depth, variant, freeze_norm=False)
    assert sum(parameter.numel() for parameter in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("variant", ["a", "b", "c", "d"])
@pytest.mark.parametrize("depth", [18, 50])
def test_maps_are_what_channels_and_strides_say(depth: int, variant: Any) -> None:
    with torch.device("meta"):
        backbone = PResNet(depth, variant, return_idx=[1, 3], freeze_norm=False)
        maps = backbone(torch.rand(1, 3, 160, 224))
    assert backbone.strides == [8, 32]
    assert [tuple(feature_map.shape) for feature_map in maps] == [
        (1, channels, 160 // stride, 224 // stride) for channels, stride in zip(backbone.channels, backbone.strides)
    ]


def test_where_a_bottleneck_halves_the_map() -> None:
    def strides(variant: Any) -> list[int]:
        with torch.device("meta"):
            block = PResNet(50, variant).res_layers[1].blocks[0]  # type: ignore[index]
        return [block.branch2a.conv.stride[0], block.branch2b.conv.stride[0]]

    assert (strides("a"), strides("b")) == ([2, 1], [1, 2])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions(depth: int, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(2)
    theirs = with_statistics(getattr(models, f"resnet{depth}")())
    file = tmp_path / "torchvision.pth"
    torch.save(theirs.state_dict(), file)
    trained = ResNet(depth, (0, 1, 2, 3), freeze_norm=False, weights=str(file), normalize=False).eval()
    assert trained.starts_from == str(file)
    names = [key for key in theirs.state_dict() if not key.startswith("fc.")]
    assert list(trained.state_dict()) == names
    frozen = ResNet(depth, (0, 1, 2, 3), weights=str(file)).eval()
    assert list(frozen.state_dict()) == [key for key in names if not key.endswith("num_batches_tracked")]
    assert {name for name, one in frozen.named_parameters() if not one.requires_grad} == {
        name for name, _ in frozen.named_parameters() if frozen.stage_of(name) <= 1
    }
    normalised = (images := torch.rand(1, 3, 64, 96)).sub(frozen.mean).div(frozen.std)
    with torch.no_grad():
        last = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(normalised))))
        for index, (one, other) in enumerate(zip(trained(normalised), frozen(images)), start=1):
            last = getattr(theirs, f"layer{index}")(last)
            torch.testing.assert_close(one, last)
            torch.testing.assert_close(other, last, rtol=1e-5, atol=1e-5)


def test_weights_of_timm_and_of_another_depth(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(
        state := timm.create_model("resnet18.tv_in1k").state_dict(), file := tmp_path / "timm.safetensors"
    )
    backbone = ResNet(18, weights=str(file))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key])
    with pytest.raises(
        CheckpointError, match=r"timm\.safetensors does .*; it holds a ResNet 18, but ResNet.depth is 50: set .* to 18"
    ):
        ResNet(50, weights=str(file))
    torch.save({key: value for key, value in state.items() if not key.startswith("layer4")}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        ResNet(18, weights=str(tmp_path / "part.pth"))


def test_padded_pixels_are_zero_once_normalised() -> None:
    torch.manual_seed(3)
    backbone, images = ResNet(18), torch.rand(1, 3, 64, 64)
    images[..., 32:] = 0
    normalised = ((images - backbone.mean) / backbone.std) * (torch.arange(64) < 32)
    raw = ResNet(18, normalize=False)
    raw.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        for visible in (True, False):
            padding = Padding(torch.tensor([[64, 32]]), (64, 64), whole_cells=True, visible=visible)
            for one, other in zip(backbone(images, padding), raw(normalised, padding)):
                assert torch.equal(one, other)
        seen = Padding(torch.tensor([[64, 32]]), (64, 64), visible=True)
        assert torch.equal(raw(normalised, seen)[0], raw(normalised)[0])


@pytest.mark.parametrize("content", [(64, 96), (52, 75)])
@pytest.mark.parametrize("variant", ["b", "d"])
def test_features_do_not_depend_on_the_padding(variant: Any, content: tuple[int, int]) -> None:
    backbone = with_statistics(small(18, variant=variant))
    image = torch.rand(1, 3, *content)

    def maps(height: int, width: int) -> list[Tensor]:
        canvas = torch.full((1, 3, height, width), 0.5)
        canvas[..., : content[0], : content[1]] = image
        with torch.no_grad():
            return backbone(canvas, Padding(torch.tensor([content]), (height, width)))

    for tight, wide, stride in zip(maps(64, 96), maps(128, 192), backbone.strides):
        rows, columns = -(-content[0] // stride), -(-content[1] // stride)
        torch.testing.assert_close(tight[..., :rows, :columns], wide[..., :rows, :columns])
        assert not wide[..., rows:, :].any()
        assert not wide[..., columns:].any()
    if content == (64, 96):
        with torch.no_grad():
            for feature_map, other in zip(backbone(image), maps(128, 192)):
                torch.testing.assert_close(feature_map, other[..., : feature_map.shape[2], : feature_map.shape[3]])


@pytest.mark.parametrize("freeze_norm", [False, True])
def test_fused_maps_are_equal_and_hold_no_norm(freeze_norm: bool) -> None:
    backbone = with_statistics(small(18))
    if freeze_norm:
        frozen = small(18, freeze_norm=True).eval()
        frozen.load_state_dict(
            {key: tensor for key, tensor in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
        )
        backbone = frozen
    fused, images = fuse(backbone), torch.rand(1, 3, 96, 160)
    assert not [module for module in fused.modules() if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    with torch.no_grad():
        for feature_map, other in zip(backbone(images), fused(images)):
            torch.testing.assert_close(feature_map, other, rtol=1e-4, atol=1e-4)


def test_every_parameter_learns() -> None:
    backbone = small(50, return_idx=[1, 2, 3]).train()
    sum(feature_map.square().mean() for feature_map in backbone(torch.rand(2, 3, 64, 96))).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


@pytest.mark.parametrize("freeze_at", [-1, 0, 2, 4])
def test_the_first_stages_are_frozen(freeze_at: int) -> None:
    with torch.device("meta"):
        backbone = PResNet(18, freeze_at=freeze_at)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (backbone.stage_of(name) > freeze_at), name
    assert {backbone.stage_of(name) for name, _ in backbone.named_parameters()} == {0, 1, 2, 3, 4}
    assert backbone.num_stages == 4


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = PResNet(18)
    path = tmp_path / "ResNet18_vd_pretrained_from_paddle.pth"
    torch.save(source.state_dict(), path)
    for options in ({"pretrained": True, "local_model_dir": str(tmp_path)}, {"weights": str(path)}):
        backbone = PResNet(18, **options)  # type: ignore[arg-type]
        assert backbone.starts_from == str(path)
        for key, value in source.state_dict().items():
            torch.testing.assert_close(backbone.state_dict()[key], value)
    assert PResNet(18, pretrained=False).starts_from == "random weights (pretrained: False)"
    assert PResNet(18).starts_from is None


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"ResNet50_vd_ssld_v2_pretrained.*no such file.*PResNet\.local_model_dir"
    ):
        PResNet(50, pretrained=True, local_model_dir=str(tmp_path))
    path = tmp_path / "w.pth"
    torch.save(copy.deepcopy(PResNet(34).state_dict()), path)
    with pytest.raises(CheckpointError, match=r"w\.pth does not fit the model.*not in the model"):
        PResNet(18, weights=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, r"depth=20: choose one of 18, 34, 50, 101"),
        ({"variant": "e"}, r"variant='e': choose one of a, b, c, d"),
        ({"num_stages": 5}, r"num_stages=5: choose one of 1, 2, 3, 4"),
        ({"return_idx": [3, 1]}, r"return_idx=\[3, 1\]: give one or more of \[0, 1, 2, 3\] in ascending order"),
        ({"num_stages": 2, "return_idx": [2]}, r"return_idx=\[2\]: give one or more of \[0, 1\]"),
        ({"freeze_at": 5}, r"freeze_at=5: choose -1 \(freeze nothing\), 0 \(the stem\) or up to 4 \(all stages\)"),
        ({"variant": "b", "pretrained": True}, r"published for variant d only, not for 'b': set weights"),
        ({"weights": "w.pth", "pretrained": True}, r"both set: keep one of the two"),
        ({"act": "sigmoidish"}, r"no activation called 'sigmoidish'"),
    ],
)
def test_what_a_constructor_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PResNet(**{"depth": 18, **options})


def test_messages_name_the_backbone_of_the_config() -> None:
    with pytest.raises(ValueError, match=r"ResNet depth=20: choose one of 18, 34, 50, 101"):
        ResNet(20)
