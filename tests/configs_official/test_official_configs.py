# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A D-FINE configuration tree, in the official arrangement and spelling, gives the official runs."""

import functools
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from golden_cases import load_json
from isdfine.core.errors import CheckpointError
from isdfine.core.registry import REGISTRY
from isdfine.distill.objective import build_objective
from isdfine.optim.param_groups import named_as_saved
from official_values import RANDOM_START, Calls, built_values, calls, differences, table, write_data

__all__ = ["calls"]

TREE = Path(__file__).parent
RUNS = sorted(path for path in (TREE / "dfine").rglob("*.yml") if path.parent.name != "include")
VARIANTS = [f"{size}_{family}" for family in ("coco", "obj365", "obj2coco") for size in "nsmlx"]
CATEGORY_IDS = {"coco": [1, 90], "obj365": [1, 365], "obj2coco": [18, 44]}


def file_of(variant: str) -> Path:
    size, family = variant.split("_")
    folder = TREE / "dfine" if family == "coco" else TREE / "dfine" / "objects365"
    return folder / f"dfine_hgnetv2_{size}_{family}.yml"


def name_of(path: Path) -> str:
    return path.stem.removeprefix("dfine_hgnetv2_")


@functools.cache
def loaded(path: Path) -> isdfine.Config:
    """Reading YAML is most of the time; configs do not change."""
    return isdfine.load_config(path, [RANDOM_START])


@functools.cache
def model_of(path: Path) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = loaded(path).build("model")
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Values that replace the paths of each family by small data."""
    folder = tmp_path_factory.mktemp("data")
    return {family: write_data(folder / family, ids) for family, ids in CATEGORY_IDS.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_is_the_official_one(variant: str, calls: Calls, data: dict[str, dict[str, str]]) -> None:
    golden = load_json("configs.json")["variants"][variant]
    ours = built_values(loaded(file_of(variant)).with_values(data[variant.split("_")[1]]), calls)
    rows = list(differences(golden, ours))
    assert not rows, f"{len(rows)} values of {variant} differ:\n{table(rows)}"


def test_the_table_shows_what_differs(calls: Calls, data: dict[str, dict[str, str]]) -> None:
    changes: dict[str, Any] = {
        "optimizer.lr": 1e-3,
        "DFINETransformer.reg_scale": 8,
        "train_dataloader.dataset.transforms.ops.2.p": 0.7,
        "use_amp": False,
    }
    config = loaded(file_of("s_coco")).with_values({**data["coco"], **changes})
    golden = load_json("configs.json")["variants"]["s_coco"]
    rows = list(differences(golden, built_values(config, calls)))
    assert [key for key, _, _ in rows] == ["decoder.reg_scale", "optimizer.lr", "use_amp", "train_ops.2.p"]
    assert table(rows).splitlines()[2].split() == ["optimizer.lr", "0.0002", "0.001"]
    shorter = {"a": [1, 2], "b": {"c": True, "d": 1}}
    assert list(differences(shorter, {"a": [1], "b": {"c": 1}})) == [
        ("a (length)", 2, 1), ("b.c", True, 1), ("b.d", 1, "(nothing)"),
    ]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_in_the_official_group(variant: str) -> None:
    size, family = variant.split("_")
    groups = load_json("optim_groups.json")
    golden = groups[size]["groups"] if family == "coco" else groups["_summary"][variant]
    model, rows = model_of(file_of(variant)), []
    optimizer = loaded(file_of(variant)).build("optimizer", model=model)
    assert len(optimizer.param_groups) == len(golden)
    for place, (expected, group) in enumerate(zip(golden, optimizer.param_groups)):
        held = {
            **group,
            "pattern": None if group["name"] == "rest" else group["name"],
            "params": sorted(group["param_names"]),
            "num_tensors": len(group["params"]),
            "numel": sum(parameter.numel() for parameter in group["params"]),
        }
        wanted = {**expected, "params": sorted(expected["params"])} if "params" in expected else expected
        rows += differences(wanted, held, f"groups.{place}")
    if family == "coco":
        optimized = {name for group in optimizer.param_groups for name in group["param_names"]}
        left_out = sorted(name for name, _ in named_as_saved(model) if name not in optimized)
        rows += differences(sorted(groups[size]["not_optimized"]), left_out, "not_optimized")
    assert not rows, f"{len(rows)} values of {variant} differ:\n{table(rows)}"


@pytest.mark.parametrize("size", "nsmlx")
def test_the_model_is_the_official_one(size: str) -> None:
    official = load_json(f"dfine_{size}_keys.json")
    state = model_of(file_of(f"{size}_coco")).state_dict()
    shapes = {name: list(value.shape) for name, value in state.items()}
    assert shapes == {name: entry["shape"] for name, entry in official["state_dict"].items()}


CLASSES = {"custom": 777, "obj2custom": 777, "ch": 1, "voc": 20, "coco": 80, "obj365": 366, "obj2coco": 80}
RECIPES = {  # epochs, stop epoch, lr, backbone lr, weight decay, images per step
    "n_custom": (220, 200, 8e-4, 4e-4, 1e-4, 128),
    "s_custom": (220, 200, 4e-4, 2e-4, 1e-4, 64),
    "m_custom": (132, 120, 2.5e-4, 2.5e-5, 1.25e-4, 32),
    "l_custom": (80, 72, 2.5e-4, 1.25e-5, 1.25e-4, 32),
    "x_custom": (80, 72, 2.5e-4, 2.5e-6, 1.25e-4, 32),
    "n_ch": (220, 200, 8e-4, 4e-4, 1e-4, 128),
    "s_ch": (220, 200, 4e-4, 2e-4, 1e-4, 64),
    "m_ch": (220, 200, 2.5e-4, 2.5e-5, 1.25e-4, 32),
    "l_ch": (140, 120, 2.5e-4, 1.25e-5, 1.25e-4, 32),
    "x_ch": (140, 120, 2.5e-4, 2.5e-6, 1.25e-4, 32),
    "s_obj2custom": (64, 56, 2.5e-4, 1.25e-4, 1.25e-4, 32),
    "m_obj2custom": (56, 48, 2.5e-4, 2.5e-5, 1.25e-4, 32),
    "l_obj2custom": (36, 30, 2.5e-4, 1.25e-5, 1.25e-4, 32),
    "x_obj2custom": (36, 30, 2.5e-4, 2.5e-6, 1.25e-4, 32),
    "s_voc": (132, 120, 2e-4, 1e-4, 1e-4, 32),
}


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_every_file_loads_and_builds_its_model(path: Path) -> None:
    config, model = loaded(path), model_of(path)
    assert config.notes == {}
    variant = name_of(path)
    classes = CLASSES[variant.split("_")[1]]
    assert model.state_dict()["decoder.enc_score_head.weight"].shape[0] == classes
    if variant in RECIPES:
        groups = config.build("optimizer", model=model).param_groups
        rest, train = groups[-1], "train_dataloader"
        assert RECIPES[variant] == (
            config.settings.epoches,
            config.get(f"{train}.collate_fn.stop_epoch"),
            rest["lr"],
            groups[0]["lr"],
            rest["weight_decay"],
            config.get(f"{train}.total_batch_size"),
        )
        assert config.get(f"{train}.dataset.transforms.policy.epoch") == config.get(f"{train}.collate_fn.stop_epoch")


def test_all_families_are_there() -> None:
    assert {name_of(path) for path in RUNS} == {*VARIANTS, *RECIPES}


TYPES = """
num_classes=~
remap_mscoco_category=~
use_focal_loss=~
eval_spatial_size=~
eval_spatial_size=[640, 640]
seed=~
resume=~
tuning=~
device=~
scaler=~
ema=~
lr_scheduler=~
lr_warmup_scheduler=~
clip_max_norm=0
ema.decay=0
optimizer.weight_decay=0
optimizer.lr=1e-4
optimizer.params=~
optimizer.params.0.lr=1e-5
HybridEncoder.depth_mult=1
HybridEncoder.expansion=1
HybridEncoder.dropout=0
DFINETransformer.num_points=4
DFINETransformer.reg_scale=4.0
DFINETransformer.layer_scale=1.0
DFINETransformer.label_noise_ratio=1
DFINECriterion.gamma=2
DFINECriterion.matcher.alpha=1
DFINECriterion.weight_dict.loss_fgl=1
DFINECriterion.boxes_weight_format=~
lr_scheduler.gamma=1
train_dataloader.collate_fn.stop_epoch=~
train_dataloader.collate_fn.base_size_repeat=~
train_dataloader.collate_fn.ema_restart_decay=~
train_dataloader.dataset.transforms.policy=~
train_dataloader.dataset.transforms.ops=~
train_dataloader.dataset.transforms=~
train_dataloader.collate_fn=~
train_dataloader.dataset.transforms.ops.1.fill=[124, 116, 104]
train_dataloader.dataset.transforms.ops.3.min_size=1.0
evaluator.iou_types=[bbox]
HGNetv2.use_lab=yes
sync_bn=off
"""


@pytest.mark.parametrize("override", TYPES.split("\n")[1:-1])
def test_types_that_official_files_may_use(override: str) -> None:
    assert isdfine.load_config(file_of("s_coco"), [RANDOM_START, override]).notes == {}


def test_loading_in_any_order_gives_the_same(tmp_path: Path) -> None:
    files = [*(file_of(one) for one in ("n_coco", "l_obj365", "x_obj2coco")), RUNS[4]]
    first = {path: loaded(path) for path in files}
    before = {path: config.dump() for path, config in first.items()}
    order = files * 2
    random.Random(3).shuffle(order)
    for path in order:
        config = isdfine.load_config(path, [RANDOM_START])
        with torch.device("meta"):
            config.build("optimizer", model=config.build("model"))
        assert config.dump() == before[path]
    assert {path: config.dump() for path, config in first.items()} == before


def test_a_tree_dropped_beside_ours_trains(tmp_path: Path) -> None:
    """An official file with its includes elsewhere, on small pictures: one step of training and one evaluation."""
    shutil.copytree(TREE, tmp_path / "official", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    small = "{ops: [{type: Resize, size: [64, 64]}, {type: ConvertPILImage}, {type: ConvertBoxes}], policy: ~}"
    overrides = [
        *(f"{key}={value}" for key, value in write_data(tmp_path / "data", [3, 7], images=4).items()),
        *(f"{side}_dataloader.{key}" for side in ("train", "val") for key in ("total_batch_size=2", "num_workers=0")),
        f"train_dataloader.dataset.transforms={small}",
        f"val_dataloader.dataset.transforms={small}",
        "train_dataloader.collate_fn.base_size=64",
        "eval_spatial_size=[64, 64]",
        "num_classes=2",
        "DFINETransformer.num_queries=10",
        "DFINEPostProcessor.num_top_queries=10",
        RANDOM_START,
    ]
    path = tmp_path / "official" / "dfine" / "custom" / "dfine_hgnetv2_n_custom.yml"
    config = isdfine.load_config(path, overrides)
    model = config.build("model")
    objective = build_objective(config, model)
    optimizer, ema = config.build("optimizer", model=model), config.build("ema", model=model)
    images, targets = next(iter(config.build("train_dataloader")))
    losses = objective(model(images, targets), targets)
    sum(losses.values()).backward()
    optimizer.step()
    ema.update()
    images, targets = next(iter(config.build("val_dataloader")))
    found = config.build("postprocessor")(ema.module(images), torch.stack([target["orig_size"] for target in targets]))
    assert found.scores.shape == (2, 10)
    assert {"loss_vfl", "loss_fgl_aux_0", "loss_ddf_dn_1"} <= set(losses)


@pytest.mark.parametrize("name", ["n_coco", "s_obj365", "x_obj2coco", "s_obj2custom", "m_ch"])
def test_a_file_put_among_ours_means_the_same(name: str, tmp_path: Path) -> None:
    """Its includes are then our files of the same names; only data, folders and the start of the backbone differ."""
    shutil.copytree(TREE.parent.parent / "configs", tmp_path / "configs")
    path = next(path for path in RUNS if name_of(path) == name)
    here = tmp_path / "configs" / path.relative_to(TREE)
    shutil.copy(path, here)
    ours, theirs = isdfine.load_config(here, [RANDOM_START]).data, loaded(path).data
    for data in (ours, theirs):
        for side in ("train_dataloader", "val_dataloader"):
            data[side]["dataset"] = data[side]["dataset"]["transforms"]
        collate = data["train_dataloader"]["collate_fn"]
        collate["base_size"] = [640, 640] if collate["base_size"] == 640 else collate["base_size"]
        data.pop("num_classes")
    theirs["train_dataloader"]["collate_fn"].setdefault("ema_restart_decay", 0.9999)  # the official default
    rows = [row for row in differences(theirs, ours) if row[0] != "output_dir"]
    assert not rows, table(rows)


def test_files_of_before_2025_mean_the_same(tmp_path: Path) -> None:
    shutil.copytree(TREE, tmp_path / "old", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in (tmp_path / "old").rglob("*.yml"):
        path.write_text(path.read_text().replace("\nepochs:", "\nepoches:"))
    assert "epochs:" in file_of("m_coco").read_text()
    old = isdfine.load_config(tmp_path / "old" / "dfine" / "dfine_hgnetv2_m_coco.yml")
    new = isdfine.load_config(file_of("m_coco"))
    assert old.data == new.data
    assert new.settings.epoches == 132


def test_missing_backbone_weights_are_no_silent_random_start(tmp_path: Path) -> None:
    config = isdfine.load_config(file_of("n_coco"), [f"HGNetv2.local_model_dir={tmp_path}/"])
    with torch.device("meta"), pytest.raises(CheckpointError) as caught:
        config.build("model")
    assert f"{tmp_path}/PPHGNetV2_B0_stage1.pth" in str(caught.value)
    assert "HGNetv2.local_model_dir" in str(caught.value)
    assert "HGNetv2.pretrained" in str(caught.value)


def test_slips_of_the_published_patterns_are_said_once_each(caplog: pytest.LogCaptureFixture) -> None:
    config = loaded(file_of("s_coco"))
    with caplog.at_level(logging.INFO):
        config.build("optimizer", model=model_of(file_of("s_coco")))
    slips = [message for message in caplog.messages if "taken as written" in message]
    assert [slip.split(":")[0] for slip in slips] == ["optimizer.params[0]", "optimizer.params[1]"]
    assert "84 parameters (such as backbone.stem.stem1.bn.weight) thereby belong to this group" in slips[0]


def test_the_components_of_official_files_are_registered() -> None:
    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["type"]} if isinstance(value.get("type"), str) else set()
            return own.union(*map(names, value.values())) if value else own
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    used = set().union(*(names(loaded(path).data) for path in RUNS))
    assert used <= set(REGISTRY)
