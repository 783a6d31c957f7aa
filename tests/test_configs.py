# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every file in configs/ loads, the D-FINE sizes have the official values, and files in the official style work."""

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import isdfine
from golden_cases import load_json
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY

CONFIGS = Path(__file__).parent.parent / "configs"
SIZES = ("n", "s", "m", "l", "x")
AVERAGE_PRECISION = {"n": "42.8", "s": "48.5", "m": "52.3", "l": "54.0", "x": "55.8"}


def size_file(size: str) -> Path:
    return CONFIGS / "dfine" / f"dfine_hgnetv2_{size}_coco.yml"


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


@pytest.mark.parametrize("size", SIZES)
def test_hyper_parameters_are_the_official_ones(size: str) -> None:
    golden = leaves(load_json("configs.json")["variants"][f"{size}_coco"])
    ours = leaves(official_form(isdfine.load_config(size_file(size)).data))
    assert ours == golden


@pytest.mark.parametrize("size", SIZES)
def test_parameter_groups_are_the_official_ones(size: str) -> None:
    groups = load_json("optim_groups.json")[size]["groups"]
    optimizer = isdfine.load_config(size_file(size)).get("optimizer")
    params = [*optimizer.pop("params"), {"params": None}]
    ours = [{"lr": optimizer["lr"], "weight_decay": optimizer["weight_decay"], **one} for one in params]
    assert [(one["params"], one["lr"], one["weight_decay"]) for one in ours] == [
        (one["pattern"], one["lr"], one["weight_decay"]) for one in groups
    ]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_opens_with_a_comment_and_loads(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[1].startswith("# SPDX-")
    assert lines[2].startswith("# ")
    if "include" not in path.parts and "dataset" not in path.parts:
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


@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds(size: str) -> None:
    config = isdfine.load_config(size_file(size))
    model = config.build("model")
    official = load_json(f"dfine_{size}_keys.json")
    assert set(model.state_dict()) == set(official["state_dict"])
    assert sum(parameter.numel() for parameter in model.parameters()) == official["params_train_form"]
    groups = config.build("optimizer", model=model).param_groups
    assert [len(group["params"]) for group in groups] == [
        group["num_tensors"] for group in load_json("optim_groups.json")[size]["groups"]
    ]


def test_a_custom_dataset_replaces_coco(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        f"__include__: [{size_file('n')}, {CONFIGS / 'dataset' / 'custom_detection.yml'}]\noutput_dir: {tmp_path}\n"
    )
    config = isdfine.load_config(tmp_path / "c.yml")
    assert config.get("num_classes") is None
    assert config.get("remap_mscoco_category") is False
    assert config.get("train_dataloader.dataset.img_folder") == "./data/custom/train/"


def test_fine_tuning_on_own_data_keeps_the_recipe() -> None:
    recipe = isdfine.load_config(size_file("s"))
    config = isdfine.load_config(CONFIGS / "dfine" / "custom" / "dfine_hgnetv2_s_custom.yml")
    for name in ("train_dataloader", "val_dataloader"):
        assert config.get(f"{name}.dataset.transforms.ops")
        assert config.get(f"{name}.dataset.transforms") == recipe.get(f"{name}.dataset.transforms")
        assert config.get(f"{name}.collate_fn") == recipe.get(f"{name}.collate_fn")
    assert config.get("num_classes") is None
    assert config.get("val_dataloader.dataset.ann_file") == "./data/custom/annotations/val.json"


def test_a_space_forgotten_after_a_colon_is_named() -> None:
    with pytest.raises(ConfigError, match=r"DFINECriterion.weight_dict.loss_vfl:1: expected float, found None .*space"):
        isdfine.load_config(size_file("n"), ["DFINECriterion.weight_dict={loss_vfl:1}"])


OFFICIAL_STYLE = {
    "runtime.yml": """
        print_freq: 100
        output_dir: './logs'
        checkpoint_freq: 1
        sync_bn: True
        find_unused_parameters: False
        use_amp: False
        scaler:
          type: GradScaler
          enabled: True
        use_ema: False
        ema:
          type: ModelEMA
          decay: 0.9999
          warmups: 1000
        """,
    "dataset/pages.yml": """
        task: detection
        evaluator:
          type: CocoEvaluator
          iou_types: ['bbox', ]
        num_classes: 3
        remap_mscoco_category: False
        train_dataloader:
          type: DataLoader
          dataset:
            type: CocoDetection
            img_folder: FOLDER/images/
            ann_file: FOLDER/pages.json
            return_masks: False
            transforms:
              type: Compose
              ops: ~
          shuffle: True
          num_workers: 0
          drop_last: True
          collate_fn:
            type: BatchImageCollateFunction
        val_dataloader:
          type: DataLoader
          dataset:
            type: CocoDetection
            img_folder: FOLDER/images/
            ann_file: FOLDER/pages.json
            return_masks: False
            transforms:
              type: Compose
              ops: ~
          shuffle: False
          num_workers: 0
          drop_last: False
          collate_fn:
            type: BatchImageCollateFunction
        """,
    "model/include/recipe.yml": """
        use_amp: True
        use_ema: True
        ema:
          type: ModelEMA
          decay: 0.9999
          warmups: 1000
          start: 0
        epoches: 72
        clip_max_norm: 0.1
        optimizer:
          type: AdamW
          params:
            -
              params: '^(?=.*backbone)(?!.*norm).*$'
              lr: 0.0000125
            -
              params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$'
              weight_decay: 0.
          lr: 0.00025
          betas: [0.9, 0.999]
          weight_decay: 0.000125
        lr_scheduler:
          type: MultiStepLR
          milestones: [500]
          gamma: 0.1
        lr_warmup_scheduler:
          type: LinearWarmup
          warmup_duration: 500
        train_dataloader:
          dataset:
            transforms:
              ops:
                - {type: RandomPhotometricDistort, p: 0.5}
                - {type: RandomZoomOut, fill: 0}
                - {type: RandomIoUCrop, p: 0.8}
                - {type: SanitizeBoundingBoxes, min_size: 1}
                - {type: RandomHorizontalFlip}
                - {type: Resize, size: [64, 64], }
                - {type: SanitizeBoundingBoxes, min_size: 1}
                - {type: ConvertPILImage, dtype: 'float32', scale: True}
                - {type: ConvertBoxes, fmt: 'cxcywh', normalize: True}
              policy:
                name: stop_epoch
                epoch: 72
                ops: ['RandomPhotometricDistort', 'RandomZoomOut', 'RandomIoUCrop']
          collate_fn:
            type: BatchImageCollateFunction
            base_size: 64
            base_size_repeat: 3
            stop_epoch: 72
            ema_restart_decay: 0.9999
          shuffle: True
          total_batch_size: 2
          num_workers: 0
        val_dataloader:
          dataset:
            transforms:
              ops:
                - {type: Resize, size: [64, 64], }
                - {type: ConvertPILImage, dtype: 'float32', scale: True}
          shuffle: False
          total_batch_size: 2
          num_workers: 0
        """,
    "model/tiny.yml": """
        __include__: [
          '../dataset/pages.yml',
          '../runtime.yml',
          './include/recipe.yml',
        ]
        output_dir: ./output/tiny
        task: detection
        model: DFINE
        criterion: DFINECriterion
        postprocessor: DFINEPostProcessor
        use_focal_loss: True
        eval_spatial_size: [64, 64] # h w
        DFINE:
          backbone: HGNetv2
          encoder: HybridEncoder
          decoder: DFINETransformer
        HGNetv2:
          pretrained: False
          local_model_dir: weight/hgnetv2/
          name: 'B0'
          return_idx: [2, 3]
          freeze_stem_only: True
          freeze_at: -1
          freeze_norm: False
          use_lab: True
        HybridEncoder:
          in_channels: [512, 1024]
          feat_strides: [16, 32]
          hidden_dim: 16
          use_encoder_idx: [1]
          num_encoder_layers: 1
          nhead: 8
          dim_feedforward: 16
          dropout: 0.
          enc_act: 'gelu'
          expansion: 0.34
          depth_mult: 0.5
          act: 'silu'
        DFINETransformer:
          feat_channels: [16, 16]
          feat_strides: [16, 32]
          hidden_dim: 16
          num_levels: 2
          num_layers: 2
          eval_idx: -1
          num_queries: 8
          num_denoising: 4
          label_noise_ratio: 0.5
          box_noise_scale: 1.0
          reg_max: 32
          reg_scale: 4
          layer_scale: 1
          num_points: [2, 2]
          cross_attn_method: default
          query_select_method: default
          dim_feedforward: 16
        DFINEPostProcessor:
          num_top_queries: 8
        DFINECriterion:
          weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2, loss_fgl: 0.15, loss_ddf: 1.5}
          losses: ['vfl', 'boxes', 'local']
          alpha: 0.75
          gamma: 2.0
          reg_max: 32
          matcher:
            type: HungarianMatcher
            weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}
            alpha: 0.25
            gamma: 2.0
        """,
}


@pytest.fixture
def official_style(tmp_path: Path) -> Path:
    """A small config tree with the keys and the arrangement of official files, and data for it."""
    for name, text in OFFICIAL_STYLE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("FOLDER", str(tmp_path)))
    (tmp_path / "images").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(2)]
    for i in range(2):
        Image.new("RGB", (80, 60), (i * 90, 40, 40)).save(tmp_path / "images" / f"{i}.png")
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": 4 + i, "bbox": [5, 5, 40, 30], "area": 1200, "iscrowd": 0}
        for i in range(2)
    ]
    categories = [{"id": 4 + i, "name": name} for i, name in enumerate(("text", "table", "figure"))]
    (tmp_path / "pages.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return tmp_path / "model" / "tiny.yml"


def test_files_in_the_official_style_build_and_train(official_style: Path) -> None:
    config = isdfine.load_config(official_style)
    model, criterion = config.build("model"), config.build("criterion")
    optimizer = config.build("optimizer", model=model)
    assert len(optimizer.param_groups) == 3
    assert config.build("ema", model=model).module is not model
    for name in ("postprocessor", "lr_scheduler", "lr_warmup_scheduler"):
        config.build(name)
    loader = config.build("train_dataloader")
    loader.set_epoch(0)
    images, targets = next(iter(loader))
    assert images.shape[:2] == (2, 3)
    losses = criterion(model(images, targets), targets)
    assert "loss_vfl" in losses
    assert "loss_ddf_aux_0" in losses
    sum(losses.values()).backward()


def test_classes_are_counted_in_the_annotations(official_style: Path) -> None:
    config = isdfine.load_config(official_style, ["num_classes=~"])
    assert config.shared("num_classes") == 3
    assert config.build("postprocessor").num_classes == 3


def test_mistakes_in_a_real_file_are_all_named(official_style: Path) -> None:
    overrides = [
        "DFINETransformer.num_layer=3",
        "HGNetv2.return_idx=all",
        "train_dataloader.dataset.tranforms={}",
        "train_dataloader.collate_fn.type=BatchImageCollateFuncion",
        "learning_rate=1",
    ]
    with pytest.raises(ConfigError) as caught:
        isdfine.load_config(official_style, overrides)
    text = str(caught.value)
    assert "DFINETransformer.num_layer: no such argument of DFINETransformer; did you mean num_layers?" in text
    assert "HGNetv2.return_idx: expected list of int, found 'all' (str)" in text
    assert "train_dataloader.dataset.tranforms: no such argument of CocoDetection; did you mean transforms?" in text
    assert "no component is called 'BatchImageCollateFuncion'; did you mean BatchImageCollateFunction?" in text
    assert "learning_rate: no such top-level key or component" in text
    assert len(text.splitlines()) == 5
