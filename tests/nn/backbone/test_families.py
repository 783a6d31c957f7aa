# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What every backbone family can do in a detector, on an odd rectangle: learn, be judged, exported, tell its stages."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.deploy.fuse import fuse
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.nn.backbone.resnet import PResNet
from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dfine.encoder import HybridEncoder
from isdfine.zoo.dfine.model import DFINE

pytest.importorskip("timm")

SIZE = (160, 224)
FAMILIES: dict[str, Callable[[], Any]] = {
    "hgnetv2": lambda: HGNetv2("B0", freeze_at=-1, freeze_norm=False),
    "resnet": lambda: PResNet(18, return_idx=[1, 2, 3], freeze_norm=False),
    "convnext": lambda: TimmBackbone("test_convnext", drop_path_rate=0.1),
    "efficientnet": lambda: TimmBackbone("test_efficientnet"),
    "timm resnet": lambda: TimmBackbone("test_resnet"),
}
LARGE: dict[str, Callable[[], Any]] = {
    "resnet50-vd": lambda: PResNet(50, return_idx=[1, 2, 3], freeze_norm=False),
    "resnet50": lambda: PResNet(50, "b", return_idx=[1, 2, 3], freeze_norm=False),
    "convnext_tiny": lambda: TimmBackbone("convnext_tiny.dinov3_lvd1689m", drop_path_rate=0.1),
    "efficientnet_lite0": lambda: TimmBackbone("tf_efficientnet_lite0"),
    "mobilenetv3": lambda: TimmBackbone("mobilenetv3_small_100"),
    "swin_tiny": lambda: TimmBackbone("swin_tiny_patch4_window7_224", drop_path_rate=0.1),
}
EVERY = [(family, SIZE) for family in FAMILIES] + [
    pytest.param(family, size, marks=pytest.mark.slow)
    for family, size in [(family_name, (288, 416)) for family_name in LARGE]
    + [("hgnetv2", (352, 480)), ("convnext_tiny", (352, 480))]
]


def backbone_of(family: str) -> Any:
    torch.manual_seed(0)
    return {**FAMILIES, **LARGE}[family]()


class AsTensors(nn.Module):
    """A detector that answers in what an exported graph can return."""

    def __init__(self, model: DFINE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(images)
        return found.boxes, found.logits


def detector(family: str, in_channels: list[int] | None = None, size: tuple[int, int] = SIZE) -> DFINE:
    backbone = backbone_of(family)
    encoder = HybridEncoder(
        in_channels=in_channels or backbone.channels, hidden_dim=16, nhead=2, dim_feedforward=32, expansion=0.34,
        depth_mult=0.34, eval_spatial_size=size,
    )  # fmt: skip
    decoder = DFINETransformer(
        3, hidden_dim=16, feat_channels=[16, 16, 16], nhead=2, num_points=[2, 2, 2], num_layers=2, num_queries=8,
        num_denoising=4, dim_feedforward=32, reg_max=8, eval_spatial_size=size,
    )  # fmt: skip
    return DFINE(backbone, encoder, decoder)


@pytest.mark.parametrize(("family", "size"), EVERY)
def test_a_detector_learns_and_its_fused_form_says_the_same(family: str, size: tuple[int, int]) -> None:
    model = detector(family, size=size).train()
    target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
    output = model(torch.rand(2, 3, *size), [target, target])
    sum(layer.boxes.sum() + layer.logits.sum() for layer in output.layers).backward()  # type: ignore[union-attr]
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.backbone.parameters()
    )
    model.eval()
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        features, fused = model.backbone(images), fuse(model.backbone)(images)
        assert model(images).boxes.shape == (1, 8, 4)
    for feature, other in zip(features, fused):
        torch.testing.assert_close(feature, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_graph_computes_the_same(family: str) -> None:
    backbone = backbone_of(family).eval()
    images = torch.rand(1, 3, *SIZE)
    exported = torch.export.export(copy.deepcopy(backbone), (images,)).module()
    with torch.no_grad():
        for feature_map, other in zip(backbone(images), exported(images)):
            torch.testing.assert_close(feature_map, other)


@pytest.mark.slow  # tracing the decoder takes most of the time, and is the same for all
@pytest.mark.parametrize(("family", "size"), EVERY)
def test_the_exported_graph_of_the_detector_computes_the_same(family: str, size: tuple[int, int]) -> None:
    model = AsTensors(detector(family, size=size)).eval()
    images = torch.rand(1, 3, *size)
    exported = torch.export.export(copy.deepcopy(model), (images,)).module()
    with torch.no_grad():
        for feature_map, other in zip(model(images), exported(images)):
            torch.testing.assert_close(feature_map, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_channel_list_is_refused_with_both(family: str) -> None:
    channels = backbone_of(family).channels
    expected = (
        rf"channels \[{channels[0]}, .*\] at strides \[8, 16, 32\] but the encoder \(HybridEncoder\) was built for "
        r"\[96, 192, 384\]"
    )
    with pytest.raises(ValueError, match=expected):
        detector(family, [96, 192, 384])


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_are_counted_alike(family: str) -> None:
    backbone = backbone_of(family)
    assert backbone.num_stages == 4
    stages = [backbone.stage_of(name) for name, _ in backbone.named_parameters()]
    assert stages == sorted(stages)
    assert set(stages) == {0, 1, 2, 3, 4}
    seen: dict[int, Tensor] = {}

    def remember(stage: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            seen[stage] = output

        return hook

    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(remember(backbone.stage_of(name)))
    with torch.no_grad():
        backbone.eval()(torch.rand(1, 3, 64, 96))
    assert [64 // seen[stage].shape[2] for stage in (1, 2, 3, 4)] == [4, 8, 16, 32]
