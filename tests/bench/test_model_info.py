# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import isdfine
from builders import micro_sections
from golden_cases import load_json
from isdfine.bench.model_info import ModelInfo, convention, model_info, rows_of
from isdfine.bench.timing import table
from isdfine.core.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = {"n": (4, 7), "s": (10, 25), "m": (19, 57), "l": (31, 91), "x": (62, 202)}


def config_of(folder: Path, **changes: Any) -> isdfine.Config:
    """A micro model whose data does not exist."""
    sections = micro_sections(folder / "absent" / "annotations.json", folder / "run")
    path = folder / "micro.yml"
    path.write_text(yaml.safe_dump({**sections, **changes}))
    return isdfine.load_config(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """Of the micro model."""
    return model_info(config_of(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("size", ["n", *(pytest.param(letter, marks=pytest.mark.slow) for letter in "smlx")])
def test_official_models(size: str) -> None:
    golden = load_json(f"dfine_{size}_keys.json")
    info = model_info(isdfine.load_config(CONFIGS / "dfine" / f"dfine_hgnetv2_{size}_coco.yml"))
    assert (info.name, info.size) == (f"dfine_hgnetv2_{size}_coco", (640, 640))
    assert (info.params, info.params_trained) == (golden["params_deploy"], golden["params_train_form"])
    flops = golden["flops_640_deploy"]
    assert (info.gflops + info.gflops_attention) * 1e9 == pytest.approx(flops["torch_flop_counter_flops"], rel=1e-9)
    # calflops sees no product inside attention, and counts the 33 bins of every FDR layer's expectation 33 times
    layers = {"n": 3, "s": 3, "m": 4, "l": 6, "x": 6}[size]
    assert info.gflops * 1e9 / 2 + layers * 300 * 4 * 33 * 33 == pytest.approx(flops["calflops_macs"], rel=1e-9)
    assert info.gflops * 1e9 == pytest.approx(flops["calflops_flops"], rel=0.011)
    params, gflops = PUBLISHED[size]
    assert round(info.params / 1e6) == params
    assert info.gflops == pytest.approx(gflops, rel=0.02)


@pytest.mark.parametrize(
    ("family", "encoder", "channels", "params", "multiply_adds"),
    [
        ("deformable", "DeformableEncoder", [128, 256, 512], 24, 79),
        pytest.param("dab", "DenseEncoder", [512], 31, 31, marks=pytest.mark.slow),
    ],
)
def test_students_of_distillation(
    family: str, encoder: str, channels: list[int], params: int, multiply_adds: int
) -> None:
    """Deformable-DETR and DAB-DETR with ResNet-18 on KITTI, as CLoCKDistill (docs/detr.md) publishes them."""
    changes = ["ResNet.depth=18", f"{encoder}.in_channels={channels}", "num_classes=7"]
    info = model_info(isdfine.load_config(CONFIGS / "detr" / f"{family}_r50.yml", changes), (402, 1333))
    assert info.params_trained / 1e6 == pytest.approx(params, rel=0.02)
    assert (info.gflops + info.gflops_attention) / 2 == pytest.approx(multiply_adds, rel=0.02)


def test_a_config_without_data_or_weights_is_measured(tmp_path: Path, plain: ModelInfo) -> None:
    config = config_of(
        tmp_path,
        HGNetv2={**micro_sections(tmp_path, tmp_path)["HGNetv2"], "pretrained": True},
    )
    assert config.get("num_classes") is None
    double = model_info(config, (128, 192))
    assert double.size == (128, 192)
    assert (plain.size, plain.params) == ((64, 96), double.params)
    assert double.params < double.params_trained < 3_000_000
    assert double.gflops < double.gflops_trained
    assert 3 * plain.gflops < double.gflops < 4.1 * plain.gflops


def test_layers_that_only_training_runs_are_not_deployed(tmp_path: Path, plain: ModelInfo) -> None:
    decoder = micro_sections(tmp_path, tmp_path)["DFINETransformer"]
    deep = model_info(config_of(tmp_path, DFINETransformer={**decoder, "num_layers": 4, "eval_idx": 1}))
    assert (deep.params, deep.gflops) == (plain.params, plain.gflops)
    assert deep.params_trained > plain.params_trained
    assert deep.gflops_trained == plain.gflops_trained


def test_linear_and_attention_are_counted_by_hand(tmp_path: Path, plain: ModelInfo) -> None:
    """One more query set changes what is proportional to the queries, and nothing else."""
    decoder = micro_sections(tmp_path, tmp_path)["DFINETransformer"]
    many = model_info(config_of(tmp_path, DFINETransformer={**decoder, "num_queries": 16}))
    # two products of 2 * Q^2 * D FLOPs in each of 2 layers
    assert (many.gflops_attention - plain.gflops_attention) * 1e9 == pytest.approx(2 * 2 * 2 * (16**2 - 8**2) * 16)


def test_memory(tmp_path: Path, plain: ModelInfo) -> None:
    assert plain.weight_bytes >= 4 * plain.params, "fp32, and buffers"
    assert plain.forward_bytes > plain.weight_bytes + 4 * 3 * 64 * 96, "image and intermediate results"
    double = model_info(config_of(tmp_path), (128, 192))
    growth = (double.forward_bytes - double.weight_bytes) / (plain.forward_bytes - plain.weight_bytes)
    assert 3.5 < growth < 4.1, "of what is not weights, four times as many pixels take four times as much"
    assert "counted, not measured" in convention()
    assert "measured on cuda:1" in convention(torch.device("cuda:1"))


def test_no_size(tmp_path: Path) -> None:
    config = config_of(tmp_path, eval_spatial_size=None)
    with pytest.raises(ConfigError, match=r"micro.yml: no eval_spatial_size: add it, or give the size \(--size"):
        model_info(config)
    for wrong in ((0, 64), (64, -32), (64,)):
        with pytest.raises(
            ConfigError, match=r"micro.yml: an image of the size \[.*\]: give \[height, width\] in pixels"
        ):
            model_info(config, wrong)


MARKDOWN = """\
| model |  size | params M | GFLOPs | trained params M | unfused GFLOPs | attention | weights MB | forward MB |
| ----- | ----: | -------: | -----: | ---------------: | -------------: | --------: | ---------: | ---------: |
| one   | 64x96 |     1.23 |   1.50 |             2.00 |           1.75 |      0.25 |        4.9 |       23.0 |"""


def test_table() -> None:
    row = ModelInfo(
        name="one", size=(64, 96), params=1_234_567, params_trained=2_000_000, gflops=1.5, gflops_attention=0.25,
        gflops_trained=1.75, weight_bytes=4_938_268, forward_bytes=23_000_000,
    )  # fmt: skip
    assert table(rows_of([row])).splitlines() == [
        "model   size  params M  GFLOPs  trained params M  unfused GFLOPs  attention  weights MB  forward MB",
        "one    64x96      1.23    1.50              2.00            1.75       0.25         4.9        23.0",
    ]
    assert table(rows_of([row]), markdown=True) == MARKDOWN
