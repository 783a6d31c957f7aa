# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Encoders of the DETR family: shapes, padding, DAB-DETR's numbers, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr, load_golden
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.norm import PaddedGroupNorm
from isdfine.nn.padding import Padding, cleared
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder, cell_centres
from isdfine.zoo.padded import PaddedDETR

CHANNELS = (6, 10, 12)


def deformable(channels: tuple[int, ...] = CHANNELS, **options: Any) -> DeformableEncoder:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 64, "dim_feedforward": 32, "num_encoder_layers": 2, "dropout": 0.0}
    return moved(DeformableEncoder(channels, **{**sizes, **options}))


def dense(channels: int = 12, **options: Any) -> DenseEncoder:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 64, "dim_feedforward": 32, "num_encoder_layers": 2}
    return moved(DenseEncoder((channels,), **{**sizes, **options}))


def moved(module: Any) -> Any:
    """Away from zeros and ones, which would hide what a layer reads."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.dim() < 2 else None
    for name, parameter in module.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            nn.init.normal_(parameter, std=0.1)
    return module.eval()


class OneCell(nn.Module):
    """Every cell of a map reads the pixels that it covers and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, count, side, side) for count, side in zip(CHANNELS, (8, 16, 32)))

    def forward(self, images: Tensor, padding: Padding) -> list[Tensor]:
        return [conv(cleared(images, padding)) for conv in self.convs]


@pytest.mark.parametrize("kind", ["cells", "resnet"])
def test_what_is_encoded_does_not_depend_on_the_padding(kind: str) -> None:
    torch.manual_seed(2)
    contents, images = torch.tensor([(128, 192), (75, 110)]), torch.rand(2, 3, 128, 192)
    backbone: nn.Module = OneCell() if kind == "cells" else ResNet(18)
    channels = CHANNELS if kind == "cells" else (128, 256, 512)
    encoders = [deformable(channels), dense(channels[-1])]

    def encoded(canvas: tuple[int, int], visible: bool) -> list[Tensor]:
        whole = torch.full((2, 3, *canvas), 0.7)  # padding that would be seen
        whole[..., :128, :192] = images
        padding = Padding(contents, canvas, whole_cells=True, visible=visible)
        with torch.no_grad():
            maps = backbone(whole, padding)
            levels = [*encoders[0](maps, padding), *encoders[1](maps[-1:], padding)]
        return [padding.clear(level) for level in levels]

    def largest_difference(visible: bool) -> float:
        pairs = zip(encoded((128, 192), visible), encoded((192, 256), visible))
        return max((few - many[..., : few.shape[2], : few.shape[3]]).abs().max().item() for few, many in pairs)

    assert largest_difference(visible=False) < 1e-5
    assert largest_difference(visible=True) > 1e-3


def test_without_padding_an_image_is_encoded_as_on_a_canvas_that_it_fills() -> None:
    torch.manual_seed(3)
    maps = [torch.rand(1, count, 128 // stride, 192 // stride) for count, stride in zip(CHANNELS, (8, 16, 32))]
    for encoder, given in ((deformable(), maps), (dense(), maps[-1:])):
        for visible in (False, True):
            padding = Padding(torch.tensor([[128, 192]]), (128, 192), whole_cells=True, visible=visible)
            with torch.no_grad():
                for one, other in zip(encoder(given), encoder(given, padding)):
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_levels_channels_and_strides() -> None:
    encoder = deformable(num_levels=5)
    assert encoder.strides == [8, 16, 32, 64, 128]
    assert encoder.channels == [64] * 5
    sizes = [(9, 12), (5, 6), (3, 3)]
    levels = encoder([torch.rand(2, count, *size) for count, size in zip(CHANNELS, sizes)])
    assert [tuple(level.shape) for level in levels] == [(2, 64, *size) for size in [*sizes, (2, 2), (1, 1)]]
    assert [tuple(level.shape) for level in dense()([torch.rand(2, 12, 3, 5)])] == [(2, 64, 3, 5)]


def test_every_parameter_learns() -> None:
    maps = [torch.rand(2, count, 64 // stride, 96 // stride) for count, stride in zip(CHANNELS, (8, 16, 32))]
    for encoder, given in ((deformable().train(), maps), (dense().train(), maps[-1:])):
        sum(level.square().mean() for level in encoder(given)).backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_both_forms_of_the_deformable_encoder_agree() -> None:
    torch.manual_seed(4)
    encoder = deformable()  # in training on a CPU sums over tables, else maps
    maps = [torch.rand(2, count, 64 // stride, 96 // stride) for count, stride in zip(CHANNELS, (8, 16, 32))]
    padding = Padding(torch.tensor([[64, 96], [40, 50]]), (64, 96), whole_cells=True)
    for one, other in zip(encoder.train()(maps, padding), encoder.eval()(maps, padding)):
        torch.testing.assert_close(padding.clear(one), padding.clear(other), atol=1e-5, rtol=1e-5)


def test_the_encoder_of_dab_detr_alone() -> None:
    arrays, _ = load_golden("detr/units_dab.npz")
    source, positions = (torch.from_numpy(fill_detr.draws(1000 + seed, (12, 2, 32))) for seed in (60, 61))
    encoder = DenseEncoder((32,), hidden_dim=32, dim_feedforward=64, num_encoder_layers=2).eval()
    named = {key: f"unit.encoder.{key}" for key in encoder.state_dict() if not key.startswith("input_proj")}
    filled = fill_detr.fill_state_dict({name: encoder.state_dict()[key] for key, name in named.items()})
    encoder.load_state_dict({key: filled[name] for key, name in named.items()}, strict=False)
    mask = torch.from_numpy(arrays["dab_encoder/key_padding_mask"])[:, None, None]
    tokens = source.transpose(0, 1)
    with torch.no_grad():
        for layer in encoder.layers:
            tokens = layer(tokens, positions.transpose(0, 1) * encoder.query_scale(tokens), mask)
    torch.testing.assert_close(
        tokens.transpose(0, 1), torch.from_numpy(arrays["dab_encoder/out"]), atol=2e-5, rtol=1e-4
    )


def test_group_norm_of_an_image_is_that_of_its_cells() -> None:
    torch.manual_seed(5)
    norm, maps = moved(PaddedGroupNorm(4, 8)), torch.randn(2, 8, 6, 9)
    padding = Padding(torch.tensor([[6, 9], [4, 5]]), (6, 9), whole_cells=True)
    plain = nn.GroupNorm(4, 8)
    plain.load_state_dict(norm.state_dict())
    found = norm(maps, padding)
    torch.testing.assert_close(found[:1], plain(maps[:1]))
    torch.testing.assert_close(found[1:, :, :4, :5], plain(maps[1:, :, :4, :5]))
    assert torch.equal(norm(maps), plain(maps))
    assert torch.equal(norm(maps, Padding(padding.image_sizes, (6, 9), visible=True)), plain(maps))


def test_centres_without_padding_are_those_of_full_images() -> None:
    sizes = [(3, 4), (2, 2)]
    padding = Padding(torch.tensor([[24, 32]]), (24, 32), whole_cells=True)
    torch.testing.assert_close(cell_centres(sizes, None), cell_centres(sizes, padding))
    assert cell_centres(sizes, None)[0, 4].tolist() == [0.125, 0.5]  # second row: x and y


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": 2}, r"num_levels 2 is less than the 3 in_channels"),
        ({"hidden_dim": 48}, r"hidden_dim 48 does not split into the 32 groups"),
        ({"nhead": 3}, r"64 channels do not split into 3 heads: change hidden_dim or nhead"),
        ({"feat_strides": (8, 16)}, r"DeformableEncoder needs one stride per map: in_channels=\[6, 10, 12\], feat_str"),
        ({"pe_temperature": 0}, r"pe_temperature"),
        ({"enc_act": "sigmoidish"}, r"no activation called 'sigmoidish'"),
    ],
)
def test_what_the_deformable_encoder_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deformable(**options)


def test_what_the_dense_encoder_refuses() -> None:
    with pytest.raises(ValueError, match=r"DenseEncoder reads one map, got in_channels=\[6, 12\]: choose one of them"):
        DenseEncoder((6, 12), (16, 32))
    with pytest.raises(ValueError, match=r"built for maps with \[12\] channels but got \[6\]: make in_channels equal"):
        dense()([torch.rand(1, 6, 2, 2)])


def test_a_detector_of_padded_images() -> None:
    parts = ResNet(18), deformable((128, 256, 512)), nn.Identity()
    sizes = torch.tensor([[24, 32]])
    for padding in ("official", "exact"):
        given = PaddedDETR(*parts, padding=padding).padding_of(sizes, (32, 32))
        assert given.whole_cells
        assert given.visible == (padding == "official")
    with pytest.raises(ValueError, match="PaddedDETR padding='exakt': choose one of official, exact"):
        PaddedDETR(*parts, padding="exakt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has strides \[8, 16, 32\] but .* built for \[4, 8, 16\]"):
        PaddedDETR(parts[0], deformable((128, 256, 512), feat_strides=(4, 8, 16)), parts[2])
