# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill, load_golden, load_json
from isdfine.deploy.fuse import fuse
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.nn.conv import ConvNormAct, RepVGG
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dfine.encoder import HybridEncoder
from isdfine.zoo.dfine.model import DFINE


def randomized(model: nn.Module) -> nn.Module:
    """The golden fill: every weight, bias and statistic away from its neutral value."""
    return fill.fill_module(model)


def detector(variant: dict[str, Any], **decoder: Any) -> DFINE:
    size, classes = variant["eval_spatial_size"], variant["num_classes"]
    return DFINE(
        HGNetv2(**variant["backbone"]),
        HybridEncoder(**variant["encoder"], eval_spatial_size=size),
        DFINETransformer(num_classes=classes, eval_spatial_size=size, **{**variant["decoder"], **decoder}),
    )


def described(state: dict[str, Tensor]) -> dict[str, tuple[list[int], str]]:
    return {key: (list(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in state.items()}


@pytest.mark.parametrize("options", [{}, {"stride": 2, "groups": 6}, {"act": "silu"}])
def test_convolution_and_norm_become_one_convolution(options: dict[str, Any]) -> None:
    block = randomized(ConvNormAct(6, 6, 3, **options)).eval()
    fused = fuse(block)
    assert list(fused.state_dict()) == ["conv_bn_fused.weight", "conv_bn_fused.bias"]
    maps = torch.randn(2, 6, 7, 8)
    torch.testing.assert_close(fused(maps), block(maps), atol=1e-5, rtol=1e-4)


def test_rep_vgg_becomes_one_3x3_convolution() -> None:
    block = randomized(RepVGG(6)).eval()
    fused = fuse(block)
    assert {key: tuple(value.shape) for key, value in fused.state_dict().items()} == {
        "conv.weight": (6, 6, 3, 3),
        "conv.bias": (6,),
    }
    maps = torch.randn(2, 6, 7, 8)
    torch.testing.assert_close(fused(maps), block(maps), atol=1e-5, rtol=1e-4)


def test_the_model_itself_is_left_alone() -> None:
    model = nn.Sequential(ConvNormAct(4, 4), RepVGG(4)).train()
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    assert model.training
    assert not any(part.training for part in fused.modules())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_module_may_say_what_it_becomes() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ConvNormAct(4, 4)

        def fused(self) -> nn.Module:
            return nn.Sequential(self.inner)

    fused = fuse(nn.ModuleDict({"head": Head(), "neck": ConvNormAct(4, 4)}))
    assert isinstance(fused["head"], nn.Sequential)
    assert isinstance(fused["head"][0], ConvNormAct)  # final: not visited
    assert "neck.conv_bn_fused.weight" in fused.state_dict()


def test_a_norm_without_statistics_is_refused() -> None:
    block = ConvNormAct(4, 4)
    block.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="without running statistics cannot be fused: keep track_running_stats on"):
        fuse(block)


@pytest.mark.parametrize("case", ["n", "s", "m"])
def test_official_encoder_fuses_to_the_official_numbers(case: str) -> None:
    golden, meta = load_golden("hybrid_encoder.npz")
    record = meta["cases"][case]
    holder = nn.ModuleDict({"encoder": HybridEncoder(**record["config"])})
    encoder = fuse(randomized(holder))["encoder"]
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == record["keys_deploy"]
    kernel = encoder.fpn_blocks[0].cv2[0].bottlenecks[0].conv
    np.testing.assert_allclose(kernel.weight.detach(), golden[f"{case}/deploy_vgg_weight"], atol=1e-6)
    np.testing.assert_allclose(kernel.bias.detach(), golden[f"{case}/deploy_vgg_bias"], atol=1e-6)


@pytest.mark.parametrize("size", "nsmlx")
def test_keys_and_parameter_count_of_every_fused_detector(size: str) -> None:
    record = load_json(f"dfine_{size}_keys.json")
    fused = fuse(detector(load_json("configs.json")["variants"][f"{size}_coco"]))
    expected = {key: (value["shape"], value["dtype"]) for key, value in record["state_dict_deploy"].items()}
    assert described(fused.state_dict()) == expected
    assert sum(parameter.numel() for parameter in fused.parameters()) == record["params_deploy"]


@pytest.fixture(scope="module")
def tiny() -> DFINE:
    """D-FINE N with few queries, for small pictures."""
    variant = load_json("configs.json")["variants"]["n_coco"]
    model = detector({**variant, "eval_spatial_size": [64, 96]}, num_queries=16)
    return randomized(model).eval()  # type: ignore[return-value]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (128, 128)])
def test_a_fused_detector_gives_the_same_detections(tiny: DFINE, height: int, width: int) -> None:
    images = torch.from_numpy(np.concatenate([fill.image_batch(seed, 1, height, width) for seed in (3, 4)]))
    with torch.no_grad():
        expected, got = tiny(images), fuse(tiny)(images)
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.boxes, expected.boxes, atol=1e-5, rtol=0)


def test_fusing_twice_is_fusing_once(tiny: DFINE) -> None:
    once = fuse(tiny)
    twice = fuse(once)
    assert twice is not once
    assert list(twice.state_dict()) == list(once.state_dict())
    assert all(torch.equal(value, once.state_dict()[key]) for key, value in twice.state_dict().items())
    images = torch.from_numpy(fill.image_batch(3, 1, 64, 96))
    with torch.no_grad():
        assert torch.equal(once(images).logits, twice(images).logits)
