# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_cases import fill, load_golden, load_json
from isdfine.core.errors import ConfigError
from isdfine.deploy.fuse import fuse
from isdfine.nn.conv import ConvNormAct, RepVGG
from isdfine.nn.padding import Padding
from isdfine.nn.position import position_table
from isdfine.zoo.dfine.encoder import HybridEncoder


def small(**options: Any) -> HybridEncoder:
    torch.manual_seed(0)
    sizes = {"in_channels": (8, 12, 16), "hidden_dim": 16, "nhead": 4, "dim_feedforward": 32, "expansion": 0.5}
    return HybridEncoder(**{**sizes, "depth_mult": 0.34, **options})


def maps(height: int = 2, width: int = 3, batch: int = 2) -> list[Tensor]:
    """Maps for ``small``; height and width are the coarsest one's."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, c, height * s, width * s) for c, s in ((8, 4), (12, 2), (16, 1))]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def golden_case(case: str) -> tuple[HybridEncoder, list[Tensor], dict[str, np.ndarray], dict[str, Any]]:
    golden, meta = load_golden("hybrid_encoder.npz")
    record = meta["cases"][case]
    encoder = HybridEncoder(**record["config"])
    state = fill.fill_state_dict({f"encoder.{key}": value for key, value in encoder.state_dict().items()})
    encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in state.items()})
    inputs = [
        torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32))
        for seed, shape in zip(record["input_seeds"], record["input_shapes"])
    ]
    prefix = f"{case}/"
    return encoder, inputs, {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}, record


@pytest.mark.parametrize("case", ["n", "s", "m"])
def test_eval_outputs_and_position_table_are_the_official_ones(case: str) -> None:
    encoder, inputs, golden, record = golden_case(case)
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == record["keys"]
    with torch.no_grad():
        outputs = encoder.eval()(inputs)
    for level, output in enumerate(outputs):
        step = 2 if record[f"eval_{level}_subsampled"] else 1
        np.testing.assert_allclose(output[..., ::step, ::step], golden[f"eval_{level}"], atol=2e-5, rtol=1e-4)
    height, width = inputs[-1].shape[-2:]
    table = position_table(height, width, record["config"]["hidden_dim"])
    np.testing.assert_allclose(table, golden["pos_embed"], atol=2e-5)


@pytest.mark.parametrize("case", ["n", "s", "m"])
def test_train_outputs_are_the_official_ones(case: str) -> None:
    encoder, inputs, golden, _ = golden_case(case)
    for level, feature_map in enumerate(encoder.train()(inputs)):
        values = feature_map.detach().flatten()
        stat = [values.double().mean(), values.double().std(correction=0), values.double().norm()]
        np.testing.assert_allclose(stat, golden[f"train_{level}_stat"], rtol=1e-5)
        picked = values[torch.arange(64) * max(1, len(values) // 64) % len(values)]
        np.testing.assert_allclose(picked, golden[f"train_{level}_slice"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", "nsmlx")
def test_keys_of_every_detector(size: str) -> None:
    stored = load_json(f"dfine_{size}_keys.json")["state_dict"]
    variant = load_json("configs.json")["variants"][f"{size}_coco"]
    with torch.device("meta"):
        encoder = HybridEncoder(**variant["encoder"], eval_spatial_size=variant["eval_spatial_size"])
    mine = {f"encoder.{k}": (list(v.shape), str(v.dtype)) for k, v in encoder.state_dict().items()}
    expected = {k: (v["shape"], f"torch.{v['dtype']}") for k, v in stored.items() if k.startswith("encoder.")}
    assert mine == expected
    assert list(mine) == list(expected)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (3, 2), (4, 4)])
def test_stored_tables_and_fresh_ones_give_the_same(height: int, width: int) -> None:
    stored = small(eval_spatial_size=(64, 96)).eval()
    fresh = small().eval()
    assert list(stored.state_dict()) == list(fresh.state_dict())
    with torch.no_grad():
        for feature_map, other, fed in zip(
            stored(maps(height, width)), fresh(maps(height, width)), maps(height, width)
        ):
            assert torch.equal(feature_map, other)
            assert feature_map.shape == (2, 16, *fed.shape[-2:])


def test_the_stored_table_is_the_one_used() -> None:
    encoder = small(eval_spatial_size=(64, 96)).eval()
    with torch.no_grad():
        before = encoder(maps())[-1]
        encoder.get_buffer("positions_2").mul_(2)
        assert not torch.allclose(encoder(maps())[-1], before)


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    encoder = small().eval()
    with torch.no_grad():
        singles = [encoder([feature_map[i : i + 1] for feature_map in maps()]) for i in range(2)]
        for level, both in enumerate(encoder(maps())):
            torch.testing.assert_close(both, torch.cat([single[level] for single in singles]))


def test_channels_last_is_kept_and_plain_stays_plain() -> None:
    encoder = small().eval()
    with torch.no_grad():
        plain = encoder(maps())
        encoder.to(memory_format=torch.channels_last)
        last = encoder([feature_map.contiguous(memory_format=torch.channels_last) for feature_map in maps()])
    for feature_map, other in zip(plain, last):
        assert feature_map.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature_map, other, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    encoder = small()
    sum(feature_map.square().sum() for feature_map in encoder(maps())).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_options_act() -> None:
    assert not [key for key in small(num_encoder_layers=0).state_dict() if key.startswith("encoder.")]
    assert len(small(use_encoder_idx=(1, 2), num_encoder_layers=2).encoder[0].layers) == 2
    assert len(small(depth_mult=0.5).fpn_blocks[0].cv2[0].bottlenecks) == 2  # 1.5 rounds half to even
    assert small(expansion=1.0).pan_blocks[0].cv2[1].conv.out_channels == 8
    with torch.no_grad():
        plain = small().eval()(maps())[0]
        for changed in ({"enc_act": "relu"}, {"pe_temperature": 20}, {"use_encoder_idx": (1,)}):
            assert not torch.allclose(small(**changed).eval()(maps())[0], plain)
        dropping = small(dropout=0.5)
        dropping.encoder.train()
        assert not torch.equal(dropping(maps())[0], dropping(maps())[0])


RTDETR = {"fusion": "csp", "downsample": "conv"}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("options", [{}, RTDETR, {"downsample": "conv"}, {"fusion": "csp"}])
def test_the_content_depends_neither_on_the_amount_nor_on_the_content_of_the_padding(
    options: dict[str, Any], fused: bool
) -> None:
    encoder = fill.fill_module(small(position_layout="grid", **options)).eval()
    encoder = fuse(encoder) if fused else encoder
    content = [torch.randn(1, c, -(-85 // s), -(-70 // s)) for c, s in ((8, 8), (12, 16), (16, 32))]
    results = []
    for canvas in ((96, 96), (96, 96), (128, 160)):
        features = [
            torch.randn(1, feature_map.shape[1], canvas[0] // s, canvas[1] // s)
            for feature_map, s in zip(content, (8, 16, 32))
        ]
        for feature, inside in zip(features, content):
            feature[..., : inside.shape[2], : inside.shape[3]] = inside
        with torch.no_grad():
            found = encoder(features, Padding(torch.tensor([[85, 70]]), canvas))
        results.append(
            [feature_map[..., : inside.shape[2], : inside.shape[3]] for feature_map, inside in zip(found, content)]
        )
    for other in results[1:]:
        for feature_map, first in zip(other, results[0]):
            torch.testing.assert_close(feature_map, first, atol=1e-5, rtol=1e-5)


def test_rt_detr_fusion_has_the_names_of_rt_detr() -> None:
    encoder = small(**RTDETR)
    names = {key.rsplit(".", 1)[0] for key in encoder.state_dict()}
    for part in ("conv1.conv", "conv1.norm", "conv2.conv", "bottlenecks.0.conv1.conv", "bottlenecks.0.conv2.norm"):
        assert f"fpn_blocks.1.{part}" in names
        assert f"pan_blocks.0.{part}" in names
    assert encoder.downsample_convs[1].conv.weight.shape == (16, 16, 3, 3)
    assert {"downsample_convs.0.conv", "lateral_convs.0.conv"} <= names
    assert encoder.fpn_blocks[0].conv3.conv.weight.shape == (16, 8, 1, 1)  # expansion 0.5
    assert not [key for key in small(**RTDETR, expansion=1.0).state_dict() if "conv3" in key]
    for part in (encoder.lateral_convs[0], encoder.downsample_convs[1]):
        assert part.eval()(torch.randn(2, 16, 8, 8) * 10).min() > -0.3  # silu is never below -0.28


@pytest.mark.parametrize("options", [RTDETR, {"downsample": "conv"}, {"fusion": "csp"}])
def test_other_blocks_train_and_fuse(options: dict[str, Any]) -> None:
    encoder = small(**options)
    sum(feature_map.square().sum() for feature_map in encoder(maps())).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    encoder = fill.fill_module(encoder).eval()
    fused = fuse(encoder)
    assert not [part for part in fused.modules() if isinstance(part, (ConvNormAct, RepVGG))]
    with torch.no_grad():
        for feature_map, other in zip(encoder(maps()), fused(maps())):
            torch.testing.assert_close(feature_map, other, atol=1e-4, rtol=1e-4)


def test_layouts_agree_on_squares_only() -> None:
    for stored in (None, (64, 64)):
        official, grid = (
            small(position_layout=layout, eval_spatial_size=stored).eval() for layout in ("official", "grid")
        )
        with torch.no_grad():
            assert torch.equal(official(maps(2, 2))[0], grid(maps(2, 2))[0])
            assert not torch.allclose(official(maps())[0], grid(maps())[0], atol=1e-5)


def test_padding_needs_the_grid_layout() -> None:
    padding = Padding(torch.tensor([[64, 96]] * 2), (64, 96))
    with pytest.raises(
        ConfigError, match=r"position_layout='official', whose table .* HybridEncoder.position_layout: grid"
    ):
        small()(maps(), padding)
    small(num_encoder_layers=0)(maps(), padding)  # no attention, no table


def test_one_level_works() -> None:
    encoder = small(in_channels=(8,), feat_strides=(32,), use_encoder_idx=(0,))
    assert encoder([torch.randn(2, 8, 4, 5)])[0].shape == (2, 16, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act": "relu"}, "act='relu': its convolution blocks always use silu"),
        ({"enc_act": "swish"}, "no activation called 'swish'"),
        ({"position_layout": "rows"}, "position_layout='rows': choose one of official, grid"),
        ({"fusion": "elan"}, "HybridEncoder fusion='elan': choose one of gelan, csp"),
        ({"downsample": "pool"}, "HybridEncoder downsample='pool': choose one of decoupled, conv"),
        ({"feat_strides": (8, 16)}, r"one stride per map: in_channels=\[8, 12, 16\], feat_strides=\[8, 16\]"),
        (
            {"feat_strides": (8, 16, 64)},
            r"feat_strides=\[8, 16, 64\] for in_channels=\[8, 12, 16\]: each stride must be twice",
        ),
        ({"use_encoder_idx": (3,)}, r"use_encoder_idx=\[3\]: choose from \[0, 1, 2\], each once"),
        ({"use_encoder_idx": (2, 2)}, r"use_encoder_idx=\[2, 2\]: choose from"),
        ({"expansion": -1.0}, "expansion is -1.0: give a number above 0"),
        ({"depth_mult": -1.0}, "depth_mult is -1.0: give a number above 0"),
        ({"depth_mult": 0.1}, r"3 \* depth_mult must be at least 1, got 0"),
        ({"depth_mult": 1e9}, r"3 \* depth_mult must be at most 64, got 3000000000"),
        ({"num_encoder_layers": -1}, "num_encoder_layers must be at least 1, got -1"),
        ({"dim_feedforward": 0}, "dim_feedforward must be at least 1, got 0"),
        ({"nhead": 3}, "3 attention heads do not divide 16 channels"),
        ({"hidden_dim": 6, "nhead": 2, "eval_spatial_size": (64, 64)}, "multiple of 4 channels but got 6"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_wrong_features() -> None:
    encoder = small()
    with pytest.raises(
        ValueError, match=r"built for maps with \[8, 12, 16\] channels but got \[12, 16\]: make in_channels"
    ):
        encoder(maps()[1:])
    odd = [torch.zeros(1, 8, 9, 12), torch.zeros(1, 12, 5, 6), torch.zeros(1, 16, 3, 3)]
    with pytest.raises(ValueError, match=r"each must be half .* multiples of 32"):
        encoder(odd)
