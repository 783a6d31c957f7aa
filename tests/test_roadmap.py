# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""configs/roadmap: Table 3 of the D-FINE paper one switch at a time, and Table 4."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from isdfine.core.registry import REGISTRY
from isdfine.deploy.model_info import ModelInfo, model_info
from isdfine.solver.objective import build_objective

CONFIGS = Path(__file__).parent.parent / "configs"
ROADMAP = CONFIGS / "roadmap"
DOCUMENT = CONFIGS.parent / "docs" / "roadmap.md"
ROWS = sorted(ROADMAP.glob("*.yml"))
TABLE_4 = sorted((ROADMAP / "table4").glob("*.yml"))
PARTS = ("HGNetv2", "HybridEncoder", "DFINETransformer", "DFINECriterion", "DFINEPostProcessor")
PAPER = [(32, 110), (32, 97), (33, 98), (46, 167), (31, 91), (31, 91), (31, 91), (31, 91), (31, 91)]
"""Millions of parameters and GFLOPs of Table 3, arXiv 2410.13842."""
SWITCHES: list[dict[str, Any]] = [
    {"DFINETransformer.cross_attn_projections": False},
    {"DFINETransformer.merge": "gate"},
    {"HybridEncoder.fusion": "gelan", "HybridEncoder.downsample": "decoupled", "HybridEncoder.expansion": 2.0},
    {"HybridEncoder.expansion": 1.0},
    {"DFINETransformer.num_points": [3, 6, 3]},
    {},  # the recipe alone
    {
        "DFINETransformer.box_head": "fdr",
        "DFINECriterion.losses": ["vfl", "boxes", "local"],
        "DFINECriterion.weight_dict.loss_fgl": 0.15,
    },
    {
        "DFINECriterion.use_uni_set": True,
        "DFINECriterion.weight_dict.loss_ddf": 1.5,
        "distillers": [{"type": "GOLSD"}],
    },
]
RECIPE = ("optimizer", "lr_scheduler", "lr_warmup_scheduler", "ema", "use_amp", "use_ema", "clip_max_norm", "epoches")


@cache
def row(number: int) -> isdfine.Config:
    return isdfine.load_config(ROWS[number - 1])


def info(number: int) -> ModelInfo:
    return measured({7: 6, 9: 8}.get(number, number))  # these change the training only


@cache
def measured(number: int) -> ModelInfo:
    return model_info(row(number))


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Every value that is no mapping by dotted key."""
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for part, child in value.items() for name, leaf in leaves(child, f"{key}.{part}").items()}


def described(config: isdfine.Config) -> dict[str, Any]:
    """Model, criterion and distillers by dotted key."""
    return {
        key[1:]: value for key, value in leaves({name: config.get(name) for name in (*PARTS, "distillers")}).items()
    }


def test_there_are_nine_rows() -> None:
    assert [path.name[0] for path in ROWS] == list("123456789")


@pytest.mark.parametrize("number", range(2, 10))
def test_a_row_throws_one_switch(number: int) -> None:
    before, after = described(row(number - 1)), described(row(number))
    assert {key: value for key, value in after.items() if before.get(key, ...) != value} == SWITCHES[number - 2]
    assert set(before) <= set(after)
    same_recipe = [row(number).get(name) == row(number - 1).get(name) for name in (*RECIPE, "train_dataloader")]
    assert all(same_recipe) == (number != 7)


def slow(*row: Any) -> Any:
    return pytest.param(*row, marks=pytest.mark.slow)


@pytest.mark.parametrize("number", [1, slow(2), slow(3), 4, slow(5), slow(6), slow(7), 8, 9])
def test_size_and_cost_are_those_of_the_paper(number: int) -> None:
    """Within 2 % of the paper's whole numbers. Two of them are not of the deployed form, see the files' headers."""
    params, gflops = PAPER[number - 1]
    found = info(number)
    assert found.size == (640, 640)
    counted = found.params_trained if number == 2 else found.params
    assert counted / 1e6 == pytest.approx(params, rel=0.02)
    assert (found.gflops_trained if number == 1 else found.gflops) == pytest.approx(gflops, rel=0.02)


@pytest.mark.parametrize(
    ("number", "params", "gflops"),
    [
        (1, 32.02, 104.89),
        slow(2, 31.04, 96.94),
        slow(3, 32.61, 97.89),
        (4, 45.47, 166.05),
        slow(5, 30.39, 90.69),
        slow(6, 30.39, 90.69),
        slow(7, 30.39, 90.69),
        (8, 30.72, 90.89),
        (9, 30.72, 90.89),
    ],
)
def test_the_numbers_in_the_headers(number: int, params: float, gflops: float) -> None:
    assert info(number).params / 1e6 == pytest.approx(params, abs=0.005)
    assert info(number).gflops == pytest.approx(gflops, abs=0.005)
    head = ROWS[number - 1].read_text().split("__include__")[0]
    paper_params, paper_gflops = PAPER[number - 1]
    assert f"# Row {number} of the roadmap" in head
    assert f"{paper_params} M parameters" in head
    assert f"{paper_gflops} GFLOPs" in head
    assert f"-c configs/roadmap/{ROWS[number - 1].name}" in head
    assert f"{params:.1f} M" in head or f"as row {number - 1}" in head
    line = next(one for one in DOCUMENT.read_text().splitlines() if f"`{ROWS[number - 1].name}`" in one)
    assert f"| {params:.2f} | {info(number).params_trained / 1e6:.2f} | {gflops:.2f}" in line


def meta_state(config: isdfine.Config) -> dict[str, tuple[torch.Size, torch.dtype]]:
    with torch.device("meta"):
        model = config.build("model")
    return {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}


def test_the_last_row_is_d_fine_l() -> None:
    ours, official = row(9), isdfine.load_config(CONFIGS / "dfine" / "dfine_hgnetv2_l_coco.yml")
    for part in PARTS:
        parameters = inspect.signature(REGISTRY[part]).parameters
        defaults = {name: one.default for name, one in parameters.items()}
        values, expected = ours.get(part), official.get(part)
        assert {key: value for key, value in values.items() if key in expected} == expected
        extra = {key: value for key, value in values.items() if key not in expected}
        assert extra == {key: defaults[key] for key in extra}
    for name in (*RECIPE, "train_dataloader", "val_dataloader", "eval_spatial_size", "num_classes", "sync_bn"):
        assert ours.get(name) == official.get(name), name
    assert list(meta_state(ours).items()) == list(meta_state(official).items())


@pytest.mark.parametrize("path", [ROWS[0], ROWS[7], ROWS[8]], ids=lambda path: path.stem)
def test_model_and_objective_build(path: Path) -> None:
    config = isdfine.load_config(path)
    with torch.device("meta"):
        model = config.build("model")
    assert bool(build_objective(config, model).distillers) == (path == ROWS[8])


def test_table_4_values_arrive() -> None:
    bins, temperatures = {}, {}
    for path in TABLE_4:
        config = isdfine.load_config(path)
        with torch.device("meta"):
            decoder = config.build("DFINETransformer")
        bins[path.stem] = {decoder.decoder.reg_max, config.build("criterion").reg_max}
        temperatures[path.stem] = config.build("distillers")[0].temperature
        assert f"-c configs/roadmap/table4/{path.name}" in path.read_text()
    wanted = {f"n_{n:03}": n for n in (4, 8, 16, 64, 128)}
    assert bins == {name: {wanted.get(name, 32)} for name in bins}
    hot = {"t_01": 1, "t_02_5": 2.5, "t_07_5": 7.5, "t_10": 10, "t_20": 20}
    assert temperatures == {name: hot.get(name, 5) for name in temperatures}
    assert len(TABLE_4) == 3 + 6 + 6


@pytest.mark.parametrize(
    ("name", "up", "reg_scale", "learned"),
    [("ac_half_quarter", 0.5, 4, False), ("ac_linear", 0.5, 0.01, False), ("ac_learnable", 0.5, 4, True)],
)
def test_table_4_bins(name: str, up: float, reg_scale: float, learned: bool) -> None:
    decoder = isdfine.load_config(ROADMAP / "table4" / f"{name}.yml").build("DFINETransformer")
    assert decoder.up.item() == up
    assert decoder.reg_scale.item() == pytest.approx(reg_scale)
    assert decoder.up.requires_grad == decoder.reg_scale.requires_grad == learned
    steps = decoder.decoder.bin_weights()[1:-1].diff()
    assert (steps.max() / steps.min() < 1.01) == (name == "ac_linear")
