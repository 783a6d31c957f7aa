# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every file in configs/ loads, the D-FINE sizes have the official values, and files in the official style work."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import isdfine
from golden_cases import load_json
from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from official_values import write_data

CONFIGS = Path(__file__).parent.parent / "configs"
SIZES = ("n", "s", "m", "l", "x")
VARIANTS = [f"{size}_{family}" for family in ("coco", "obj365", "obj2coco") for size in SIZES]
AVERAGE_PRECISION = {"n": "42.8", "s": "48.5", "m": "52.3", "l": "54.0", "x": "55.8"}


def size_file(size: str) -> Path:
    return CONFIGS / "dfine" / f"dfine_hgnetv2_{size}_coco.yml"


def variant_file(variant: str) -> Path:
    folder = CONFIGS / "dfine" if variant.endswith("_coco") else CONFIGS / "dfine" / "objects365"
    return folder / f"dfine_hgnetv2_{variant}.yml"


def section(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of a component without its name."""
    return {key: value for key, value in data[name].items() if key != "type"}


def decoder_defaults() -> dict[str, Any]:
    """What the decoder's section leaves to the constructor, as the official files do."""
    parameters = inspect.signature(REGISTRY["DFINETransformer"]).parameters
    return {name: parameters[name].default for name in ("nhead", "dim_feedforward", "dropout", "activation")}


def official_form(data: dict[str, Any]) -> dict[str, Any]:
    """A resolved config in the arrangement of golden/configs.json."""
    train, val = data["train_dataloader"], data["val_dataloader"]
    policy, collate = train["dataset"]["transforms"]["policy"], train["collate_fn"]
    criterion = section(data, "DFINECriterion")
    matcher = criterion.pop("matcher")
    height, width = collate["base_size"]
    assert height == width
    optimizer = dict(data["optimizer"])
    return {
        "num_classes": data["num_classes"],
        "remap_mscoco_category": data["remap_mscoco_category"],
        "eval_spatial_size": data["eval_spatial_size"],
        "backbone": {k: v for k, v in data["HGNetv2"].items() if k not in ("pretrained", "local_model_dir")},
        "encoder": data["HybridEncoder"],
        "decoder": {**decoder_defaults(), **data["DFINETransformer"]},
        "criterion": criterion,
        "matcher": {key: value for key, value in matcher.items() if key != "type"},
        "postprocessor": data["DFINEPostProcessor"],
        "optimizer": {("groups" if key == "params" else key): value for key, value in optimizer.items()},
        "lr_scheduler": data["lr_scheduler"],
        "lr_warmup_scheduler": data["lr_warmup_scheduler"],
        "ema": data["ema"],
        "use_amp": data["use_amp"],
        "clip_max_norm": data["clip_max_norm"],
        "sync_bn": data["sync_bn"],
        "epochs": data["epoches"],
        "train_total_batch_size": train["total_batch_size"],
        "val_total_batch_size": val["total_batch_size"],
        "augmentation_stop_epoch": policy["epoch"],
        "stopped_ops": policy["ops"],
        "train_ops": train["dataset"]["transforms"]["ops"],
        "val_ops": val["dataset"]["transforms"]["ops"],
        "multiscale": {
            "stop_epoch": collate["stop_epoch"],
            "base_size": height,
            "base_size_repeat": collate["base_size_repeat"],
            "ema_restart_decay": collate["ema_restart_decay"],
        },
        "checkpoint_freq": data["checkpoint_freq"],
        "print_freq": data["print_freq"],
    }


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Every scalar by dotted key."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for part, child in items for name, leaf in leaves(child, f"{key}.{part}").items()}
    return {key: value}


@pytest.mark.parametrize("variant", VARIANTS)
def test_hyper_parameters_are_the_official_ones(variant: str) -> None:
    golden = leaves(load_json("configs.json")["variants"][variant])
    ours = leaves(official_form(isdfine.load_config(variant_file(variant)).data))
    assert ours == golden


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_groups_are_the_official_ones(variant: str) -> None:
    size, family = variant.split("_")
    golden = load_json("optim_groups.json")
    groups = golden[size]["groups"] if family == "coco" else golden["_summary"][variant]
    optimizer = isdfine.load_config(variant_file(variant)).get("optimizer")
    params = [*optimizer.pop("params"), {"params": None}]
    ours = [{"lr": optimizer["lr"], "weight_decay": optimizer["weight_decay"], **param} for param in params]
    assert [(group["params"], group["lr"], group["weight_decay"]) for group in ours] == [
        (group["pattern"], group["lr"], group["weight_decay"]) for group in groups
    ]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_opens_with_a_comment_and_loads(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[1].startswith("# SPDX-")
    assert lines[2].startswith("# ")
    if path.parent.name == "ablations":
        assert read_matrix(path).runs()
    elif "include" not in path.parts and "dataset" not in path.parts:
        isdfine.load_config(path)


def test_the_resolved_config_is_a_config(tmp_path: Path) -> None:
    config = isdfine.load_config(size_file("x"), ["seed=3"])
    (tmp_path / "resolved.yml").write_text(config.dump())
    assert isdfine.load_config(tmp_path / "resolved.yml").data == config.data


@pytest.mark.parametrize("size", SIZES)
def test_a_size_says_what_it_reproduces(size: str) -> None:
    head = "".join(size_file(size).read_text().splitlines(keepends=True)[2:6])
    assert f"Expected: {AVERAGE_PRECISION[size]} AP" in head
    assert f"-c configs/dfine/dfine_hgnetv2_{size}_coco.yml" in head


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds(variant: str) -> None:
    size, family = variant.split("_")
    config = isdfine.load_config(variant_file(variant))
    with torch.device("meta"):  # its tensors hold nothing, so this takes no time
        model = config.build("model")
    official, groups = load_json(f"dfine_{size}_keys.json"), load_json("optim_groups.json")
    assert set(model.state_dict()) == set(official["state_dict"])
    if family != "obj365":
        assert sum(parameter.numel() for parameter in model.parameters()) == official["params_train_form"]
    assert [
        sum(param.numel() for param in group["params"]) for group in config.build("optimizer", model=model).param_groups
    ] == [group["numel"] for group in (groups[size]["groups"] if family == "coco" else groups["_summary"][variant])]


FAMILIES = {
    "voc": ("voc", "VOCDetection", None, "coco"),
    "yolo": ("yolo", "YoloDetection", None, "coco"),
    "ch": ("crowdhuman", "CrowdHumanDetection", None, None),
    "custom": ("custom", "CocoDetection", None, "coco"),
    "obj2custom": ("custom/objects365", "CocoDetection", None, "objects365_366"),
    "obj365": ("objects365", "Objects365Detection", 366, None),
    "obj2coco": ("objects365", "CocoDetection", 80, "objects365_366"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_every_family_has_every_size(family: str, size: str) -> None:
    folder, dataset, classes, tuning_classes = FAMILIES[family]
    config = isdfine.load_config(CONFIGS / "dfine" / folder / f"dfine_hgnetv2_{size}_{family}.yml")
    assert config.get("num_classes") == classes
    assert config.get("tuning_classes") == tuning_classes
    recipe, end = isdfine.load_config(size_file(size)), config.get("train_dataloader.collate_fn.stop_epoch")
    for side in ("train_dataloader", "val_dataloader"):
        assert config.get(f"{side}.dataset.type") == dataset
        assert config.get(f"{side}.dataset.transforms.ops") == recipe.get(f"{side}.dataset.transforms.ops")
    assert config.get("train_dataloader.dataset.transforms.policy.epoch") == end
    assert end < config.settings.epoches or family == "obj365"
    for name in ("HGNetv2", "HybridEncoder", "DFINETransformer", "DFINECriterion"):
        assert config.get(name) == recipe.get(name)


def write_small_data(folder: Path) -> dict[str, list[str]]:
    """One picture with one object in four formats; overrides of the validation data by family."""
    for name in ("images/val/a.png", "JPEGImages/a.png", "a.jpg", "patch0/a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(folder / name)
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "labels" / "val" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (folder / "data.yaml").write_text("train: images/val\nval: images/val\nnames: [cat, dog]\n")
    (folder / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>80</width><height>60</height><depth>3</depth></size><object>"
        "<name>dog</name><bndbox><xmin>30</xmin><ymin>15</ymin><xmax>50</xmax><ymax>45</ymax></bndbox></object></annotation>"
    )
    (folder / "test.txt").write_text("JPEGImages/a.png a.xml\n")
    (folder / "label_list.txt").write_text("cat\ndog\n")
    person = {"tag": "person", "fbox": [30, 15, 20, 30], "vbox": [30, 15, 20, 30], "hbox": [35, 15, 5, 5]}
    (folder / "a.odgt").write_text(json.dumps({"ID": "a", "gtboxes": [person]}) + "\n")
    image = {"id": 1, "file_name": "images/v1/patch0/a.jpg", "width": 80, "height": 60}
    box = {"id": 1, "image_id": 1, "category_id": 365, "bbox": [30, 15, 20, 30], "area": 600, "iscrowd": 0, "isfake": 0}
    classes = [{"id": index, "name": f"class {index}"} for index in range(1, 366)]
    (folder / "o.json").write_text(json.dumps({"images": [image], "annotations": [box], "categories": classes}))
    values = {
        "yolo": {"data": "data.yaml"},
        "voc": {"root": "."},
        "ch": {"img_folder": ".", "ann_file": "a.odgt"},
        "obj365": {"img_folder": ".", "ann_file": "o.json"},
    }
    return {
        family: [f"val_dataloader.dataset.{key}={folder / value}" for key, value in given.items()]
        for family, given in values.items()
    }


@pytest.mark.parametrize(
    ("family", "label", "classes"), [("yolo", 1, 2), ("voc", 1, 2), ("ch", 0, 1), ("obj365", 365, 366)]
)
def test_every_data_format_reaches_the_model(family: str, label: int, classes: int, tmp_path: Path) -> None:
    overrides = [
        *write_small_data(tmp_path)[family],
        "val_dataloader.total_batch_size=1",
        "val_dataloader.num_workers=0",
    ]
    folder = FAMILIES[family][0]
    config = isdfine.load_config(CONFIGS / "dfine" / folder / f"dfine_hgnetv2_n_{family}.yml", overrides)
    loader = config.build("val_dataloader")
    images, targets = next(iter(loader))
    assert images.shape == (1, 3, 640, 640)
    assert targets[0]["labels"].tolist() == [label]
    assert len(loader.dataset.label_space.names) == classes


def test_a_family_that_the_official_tree_has_is_the_same_run() -> None:
    official = Path(__file__).parent / "configs_official" / "dfine" / "crowdhuman"
    for size in SIZES:
        file = f"dfine_hgnetv2_{size}_ch.yml"
        ours, theirs = (isdfine.load_config(folder / file) for folder in (CONFIGS / "dfine" / "crowdhuman", official))
        for name in ("epoches", "optimizer", "lr_scheduler", "lr_warmup_scheduler", "ema"):
            assert ours.get(name) == theirs.get(name)
        for side in ("train_dataloader", "val_dataloader"):
            assert ours.get(f"{side}.total_batch_size") == theirs.get(f"{side}.total_batch_size")
        for name in ("stop_epoch", "base_size_repeat", "ema_restart_decay"):
            key = f"train_dataloader.collate_fn.{name}"
            assert ours.get(key) == theirs.get(key)


def test_a_custom_dataset_replaces_coco(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        f"__include__: [{size_file('n')}, {CONFIGS / 'dataset' / 'custom_detection.yml'}]\noutput_dir: {tmp_path}\n"
    )
    config = isdfine.load_config(tmp_path / "c.yml")
    assert config.get("num_classes") is None
    assert config.get("remap_mscoco_category") is False
    assert config.get("train_dataloader.dataset.img_folder") == "./data/custom/train/"


@pytest.mark.parametrize("side", ["train_dataloader", "val_dataloader"])
def test_another_format_over_a_coco_config_keeps_the_ops(tmp_path: Path, side: str) -> None:
    custom = isdfine.load_config(CONFIGS / "dfine" / "custom" / "dfine_hgnetv2_n_custom.yml")
    data = [f"{side}.dataset.root=data/x", f"{side}.dataset.ann_file=annotations"]
    given = isdfine.load_config(custom.path, [f"{side}.dataset.type=VOCDetection", *data])
    voc = "{type: VOCDetection, root: data/x, ann_file: annotations}"
    (tmp_path / "voc.yml").write_text(f"__include__: [{custom.path}]\n{side}: {{dataset: {voc}}}\n")
    for config in (given, isdfine.load_config(tmp_path / "voc.yml")):
        transforms = custom.get(f"{side}.dataset.transforms")
        expected = {"type": "VOCDetection", "root": "data/x", "ann_file": "annotations", "transforms": transforms}
        assert config.get(f"{side}.dataset") == expected
        (tmp_path / "saved.yml").write_text(config.dump())
        assert isdfine.load_config(tmp_path / "saved.yml").get(f"{side}.dataset") == expected


def test_fine_tuning_on_own_data_keeps_the_recipe() -> None:
    recipe = isdfine.load_config(size_file("s"))
    config = isdfine.load_config(CONFIGS / "dfine" / "custom" / "dfine_hgnetv2_s_custom.yml")
    for name in ("train_dataloader", "val_dataloader"):
        assert config.get(f"{name}.dataset.transforms.ops")
        assert config.get(f"{name}.dataset.transforms") == recipe.get(f"{name}.dataset.transforms")
        assert config.get(f"{name}.collate_fn") == recipe.get(f"{name}.collate_fn")
    assert config.get("num_classes") is None
    assert config.get("val_dataloader.dataset.ann_file") == "./data/custom/annotations/val.json"


@pytest.mark.parametrize("size", ["n", "s"])
def test_the_small_recipe_is_the_official_one_in_proportion(size: str) -> None:
    recipe = isdfine.load_config(CONFIGS / "dfine" / "custom" / f"dfine_hgnetv2_{size}_custom.yml")
    small = isdfine.load_config(CONFIGS / "dfine" / "custom" / "small" / f"dfine_hgnetv2_{size}_custom.yml")
    share = small.get("train_dataloader.total_batch_size") / recipe.get("train_dataloader.total_batch_size")
    for key in ("optimizer.lr", "optimizer.params.0.lr", "optimizer.params.1.lr"):
        assert small.get(key) == pytest.approx(share * recipe.get(key))
    assert [group["params"] for group in small.get("optimizer.params")] == [
        group["params"] for group in recipe.get("optimizer.params")
    ]
    stop = recipe.get("train_dataloader.collate_fn.stop_epoch") / recipe.settings.epoches
    assert small.get("train_dataloader.collate_fn.stop_epoch") == round(stop * small.settings.epoches)
    assert small.get("train_dataloader.dataset.transforms.policy.epoch") == round(stop * small.settings.epoches)


def test_a_space_forgotten_after_a_colon_is_named() -> None:
    with pytest.raises(ConfigError, match=r"DFINECriterion.weight_dict.loss_vfl:1: expected float, found None .*space"):
        isdfine.load_config(size_file("n"), ["DFINECriterion.weight_dict={loss_vfl:1}"])


OFFICIAL = Path(__file__).parent / "configs_official" / "dfine" / "custom" / "dfine_hgnetv2_n_custom.yml"


def test_classes_are_counted_in_the_annotations(tmp_path: Path) -> None:
    config = isdfine.load_config(OFFICIAL, ["num_classes=~"]).with_values(write_data(tmp_path / "data", [4, 5, 6]))
    assert config.shared("num_classes") == 3
    assert config.build("postprocessor").num_classes == 3


def test_mistakes_in_a_real_file_are_all_named() -> None:
    overrides = [
        "DFINETransformer.num_layer=3",
        "HGNetv2.return_idx=all",
        "train_dataloader.dataset.tranforms={}",
        "train_dataloader.collate_fn.type=BatchImageCollateFunctoin",
        "learning_rate=1",
    ]
    with pytest.raises(ConfigError) as caught:
        isdfine.load_config(OFFICIAL, overrides)
    text = str(caught.value)
    assert "DFINETransformer.num_layer: no such argument of DFINETransformer; did you mean num_layers?" in text
    assert "HGNetv2.return_idx: expected list of int, found 'all' (str)" in text
    assert "train_dataloader.dataset.tranforms: no such argument of CocoDetection; did you mean transforms?" in text
    assert "no component is called 'BatchImageCollateFunctoin'; did you mean BatchImageCollateFunction?" in text
    assert "learning_rate: no such top-level key or component" in text
    assert len(text.splitlines()) == 5
