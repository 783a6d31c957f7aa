# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""configs/detr against the recipes of the official code, and each of its files as a detector that trains."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from golden_cases import load_json
from isdfine.distill.objective import build_objective
from isdfine.optim.param_groups import param_groups
from test_rtdetr_configs import two_steps

CONFIGS = Path(__file__).parent.parent / "configs" / "detr"
RUNS = sorted(path.stem for path in CONFIGS.glob("*.yml"))
SMALL = sorted(path.stem for path in (CONFIGS / "bccd").glob("*.yml"))
FAMILIES = {"deformable": "DeformableDETR", "dab": "DABDETR", "dn": "DNDETR", "dino": "DINO"}
KEYS = {
    "deformable_r50": "deformable_r50",
    "deformable_r50_twostage": "deformable_r50_twostage_refine",
    "dab_r50": "dab_r50",
    "dab_deformable_r50": "dab_deformable_r50",
    "dn_r50": "dn_r50",
    "dn_deformable_r50": "dn_deformable_r50",
    "dino_r50_4scale": "dino_r50_4scale",
}
"""Our file -> the official model whose parameter groups are known."""
TABLE_2 = ("base", "fdr", "base_24e", "fdr_24e")


def family(name: str) -> str:
    return name.split("_")[0]


@cache
def ours(name: str) -> isdfine.Config:
    """A file of configs/detr, without weights."""
    backbone = "TimmBackbone.pretrained" if "convnext" in name else "ResNet.weights"
    value = "False" if "convnext" in name else "~"
    return isdfine.load_config(CONFIGS / f"{name}.yml", [f"{backbone}={value}"])


def test_the_rows_of_table_2_are_there() -> None:
    rows = {f"{name}_r50_{kind}" for name in FAMILIES for kind in TABLE_2[:2]} | {
        f"dino_r50_{kind}" for kind in TABLE_2[2:]
    }
    assert rows | set(KEYS) | {f"dino_r{depth}_4scale" for depth in (18, 101)} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_the_recipe_is_the_official_one(name: str) -> None:
    all_facts = load_json("detr/official_configs.json")["_other"]
    facts = all_facts[family(name)]
    facts = all_facts.get(facts.get("as"), {}) | facts
    config, optimizer = ours(name), ours(name).get("optimizer")
    rate = "lr_linear_proj (names containing reference_points or sampling_offsets)"
    expected = [facts["lr_backbone"], *([facts[rate]] if rate in facts else [])]
    assert (optimizer["type"], optimizer["lr"], optimizer["weight_decay"]) == (
        *(facts["optimizer"], facts["lr"], facts["weight_decay"]),
    )
    assert [group["lr"] for group in optimizer["params"]] == expected
    assert config.get("clip_max_norm") == facts["clip"]
    assert not config.get("use_ema")
    assert config.get("lr_warmup_scheduler") is None
    assert config.get("train_dataloader")["total_batch_size"] == facts["batch_total"]
    epochs, drop = config.settings.epoches, config.get("lr_scheduler")["milestones"]
    assert {12: [11], 24: [20], 50: [40]}[epochs] == drop
    assert epochs == (24 if "24e" in name else 12 if family(name) == "dino" or name.endswith(TABLE_2) else 50)
    criterion = config.get("DETRCriterion")
    weights = {"loss_focal": facts.get("cls", facts.get("cls_loss_coef")), "loss_bbox": 5, "loss_giou": 2}
    distilled = {"loss_fgl": 0.15, "loss_ddf": 1.5} if "fdr" in name else {}
    assert criterion["weight_dict"] == weights | distilled
    assert list(criterion["matcher"]["weight_dict"].values()) == facts["cost"] if "cost" in facts else True
    head = (CONFIGS / f"{name}.yml").read_text().split("__include__")[0]
    assert f"-c configs/detr/{name}.yml" in head
    assert f"{epochs} epochs" in head


@pytest.mark.parametrize("name", RUNS)
def test_a_config_builds_its_detector(name: str) -> None:
    with torch.device("meta"):
        model = ours(name).build("model")
    assert type(model).__name__ == FAMILIES[family(name)]
    objective = build_objective(ours(name), model)
    assert type(objective.criterion).__name__ == "DETRCriterion"
    assert [type(one).__name__ for one in objective.distillers] == (["GOLSD"] if "fdr" in name else [])
    assert objective.criterion.use_uni_set == ("fdr" in name)
    post = ours(name).build("postprocessor")
    dense = getattr(model.decoder, "dense", False)
    assert post.num_top_queries == (300 if dense or family(name) == "dino" else 100)


@pytest.mark.parametrize("name", KEYS)
def test_parameter_groups_are_the_official_ones(name: str, caplog: pytest.LogCaptureFixture) -> None:
    facts = load_json(f"detr/{KEYS[name]}_keys.json")
    with torch.device("meta"):
        model = ours(name).with_values({"num_classes": 91}).build("model")
    optimizer = ours(name).get("optimizer")
    with caplog.at_level(logging.WARNING):
        groups = param_groups(model, optimizer["params"], ("lr", "weight_decay"), {})
    assert not caplog.records
    rates = {"lr": optimizer["lr"], "weight_decay": optimizer["weight_decay"]}

    def canonical(names: list[str]) -> frozenset[str]:
        return frozenset(facts["aliases"].get(name, name) for name in names)

    found = {(*[{**rates, **group}[key] for key in rates], canonical(group["param_names"])) for group in groups}
    official = facts["optimizer"]["groups"]
    assert found == {(*[group[key] for key in rates], canonical(group["names"])) for group in official}


def tiny(config: isdfine.Config) -> isdfine.Config:
    """The same parts in the smallest sizes, on a ResNet-18."""
    model = config.get("model")
    section = config.get(model)
    dense = section["encoder"] == "DenseEncoder"
    levels = 1 if dense else 4
    encoder: dict[str, Any] = {"in_channels": [512] if dense else [128, 256, 512], "num_encoder_layers": 1}
    encoder |= {"hidden_dim": 32, "dim_feedforward": 24}
    decoder: dict[str, Any] = {"feat_channels": [32] * levels, "hidden_dim": 32, "dim_feedforward": 24}
    decoder |= {"num_layers": 2, "num_queries": 9}
    if config.get(section["decoder"]).get("num_denoising"):
        decoder["num_denoising"] = 5
    return config.with_values(
        {
            **{"ResNet.depth": 18, f"{model}.backbone": "ResNet", "eval_spatial_size": [64, 64], "num_classes": 3},
            **{section["encoder"]: encoder, section["decoder"]: decoder},
        }
    )


@pytest.mark.parametrize(
    "name", ["deformable_r50_fdr", "dab_r50", "dab_r50_fdr", "dn_r50", "dn_r50_fdr", "dino_r50_fdr"]
)
def test_a_small_form_of_a_config_trains(name: str) -> None:
    two_steps(tiny(ours(name)))


@pytest.mark.parametrize("name", SMALL)
def test_recipes_for_small_data_build(name: str) -> None:
    config = isdfine.load_config(
        CONFIGS / "bccd" / f"{name}.yml", ["TimmBackbone.weights=~", "num_classes=3", "TimmBackbone.pretrained=False"]
    )
    with torch.device("meta"):
        model = config.build("model")
    assert type(model).__name__ == FAMILIES[family(name)]
    assert sum(one.numel() for one in model.parameters()) < 8e6
