# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One key for the length of a run and one for the size of its images."""

import logging
from pathlib import Path
from typing import Any

import pytest

import isdfine
from isdfine.core.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"
N_COCO = CONFIGS / "dfine" / "dfine_hgnetv2_n_coco.yml"
STOP = "train_dataloader.collate_fn.stop_epoch"
POLICY = "train_dataloader.dataset.transforms.policy.epoch"
SIZES = ("train_dataloader.dataset.transforms.ops.5.size", "val_dataloader.dataset.transforms.ops.0.size")
SIZES += ("train_dataloader.collate_fn.base_size", "eval_spatial_size")


def write(folder: Path, text: str, base: Path = N_COCO) -> Path:
    """A file on top of ``base``."""
    path = folder / "mine.yml"
    path.write_text(f"__include__: [{base}]\n{text}\n")
    return path


def values(config: isdfine.Config, *keys: str) -> list[Any]:
    return [config.get(key) for key in keys]


def test_epochs_alone_move_the_whole_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        config = isdfine.load_config(CONFIGS / "bccd" / "dfine_n_bccd_320.yml", ["epochs=24"])
    keys = ("lr_scheduler.flat_epochs", "lr_scheduler.no_aug_epochs", POLICY, STOP)
    assert values(config, *keys) == [14, 2, 21, None]  # of 96 epochs: 58, 8, 84
    assert caplog.messages == [
        "override 'epochs=24': epoches 24 moves the schedule in proportion: "
        f"{POLICY} 84 -> 21, lr_scheduler.flat_epochs 58 -> 14, lr_scheduler.no_aug_epochs 8 -> 2 "
        "(a key that is given stays)"
    ]
    assert values(isdfine.load_config(write(tmp_path, "epochs: 40")), POLICY, STOP) == [37, 37]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("{type: MultiStepLR, milestones: [80, 120, 500]}", "milestones", [40, 60, 500]),  # 500 never came
        ("{type: CosineAnnealingLR, T_max: 160}", "T_max", 80),
        ("{type: FlatCosine, flat_epochs: 100, no_aug_epochs: 0}", "flat_epochs", 50),
    ],
)
def test_schedules_of_every_kind_follow(kind: str, given: str, expected: Any, tmp_path: Path) -> None:
    path = write(tmp_path, f"epochs: 160\nlr_scheduler: {kind}\nfreeze: {{backbone: {{epochs: 4}}}}")
    config = isdfine.load_config(path, ["epoches=80"])
    assert values(config, f"lr_scheduler.{given}", "freeze.backbone.epochs", STOP) == [expected, 2, 74]


def test_what_the_same_or_a_later_layer_gives_stays(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 40\ntrain_dataloader: {collate_fn: {stop_epoch: 148}}")
    assert values(isdfine.load_config(path), STOP, POLICY) == [148, 37]
    assert values(isdfine.load_config(N_COCO, [f"{STOP}=9", "epochs=10"]), STOP, POLICY) == [9, 9]
    below = tmp_path / "below.yml"
    below.write_text(path.read_text())
    assert values(isdfine.load_config(write(tmp_path, f"{POLICY.split('.')[0]}: {{}}\nseed: 1", below)), STOP) == [148]


def test_a_longer_run_keeps_what_never_comes_beyond_its_end() -> None:
    config = isdfine.load_config(N_COCO, ["epochs=1000"])
    assert values(config, "lr_scheduler.milestones", STOP) == [[3125], 925]
    assert values(isdfine.load_config(N_COCO, ["epochs=2"]), STOP, POLICY) == [1, 1]


def test_a_run_that_goes_on_from_its_own_folder_keeps_its_schedule(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(isdfine.load_config(N_COCO, ["epochs=12"]).dump())
    (tmp_path / "last.pth").touch()
    for start in (tmp_path, tmp_path / "last.pth"):
        config = isdfine.load_config(tmp_path / "config.yml", [f"resume={start}", "epochs=20"])
        assert values(config, "epoches", STOP, POLICY) == [20, 11, 11]
    assert values(isdfine.load_config(N_COCO, ["epochs=12", f"resume={tmp_path}"]), STOP) == [11]


@pytest.mark.parametrize("given", ["[320, 416]", "320"])
def test_one_key_sets_every_size(given: str, tmp_path: Path) -> None:
    size = [320, 320] if given == "320" else [320, 416]
    for config in (
        isdfine.load_config(N_COCO, [f"input_size={given}"]),
        isdfine.load_config(write(tmp_path, f"input_size: {given}")),
        isdfine.load_config(write(tmp_path, "input_size: 640"), [f"input_size={given}"]),
    ):
        assert values(config, *SIZES) == [size] * 4
        assert config.get("input_size") is None
        (tmp_path / "resolved.yml").write_text(config.dump())
        assert isdfine.load_config(tmp_path / "resolved.yml").data == config.data


def test_an_input_size_fills_in_the_sizes_that_no_file_gives(tmp_path: Path) -> None:
    path = tmp_path / "alone.yml"
    loader = "{type: DataLoader, dataset: {type: CocoDetection, img_folder: a, ann_file: b, return_masks: False, "
    loader += "transforms: {type: Compose, ops: [{type: Resize, size: [96, 96]}]}}, "
    loader += "collate_fn: {type: BatchImageCollateFunction}}"
    path.write_text(f"input_size: 96\ntrain_dataloader: {loader}\n")
    assert (
        values(isdfine.load_config(path), "eval_spatial_size", "train_dataloader.collate_fn.base_size")
        == [[96, 96]] * 2
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input_size=[300, 320]"], r"input_size: expected \[height, width\] in multiples of 32"),
        (["input_size=[320]"], "input_size: expected"),
        (["input_size=large"], "input_size: expected"),
        (["input_size=0"], "input_size: expected"),
        (
            ["input_size=320", "eval_spatial_size=[640, 640]"],
            r"eval_spatial_size is \[640, 640\], but input_size is \[320, 320\] \(override 'input_size=320'\)",
        ),
        (["train_dataloader.collate_fn.base_size=640", "input_size=320"], "base_size is 640, but input_size is"),
        (["input_size=320", "val_dataloader.dataset.transforms.ops=[]"], "val_dataloader .* has no Resize"),
    ],
)
def test_sizes_that_contradict_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        isdfine.load_config(N_COCO, overrides)
    assert "\n" not in str(caught.value)


def test_sections_by_name_follow_too() -> None:
    config = isdfine.load_config(N_COCO, ["Resize.size=[640, 640]", "val_dataloader=null"])
    assert config.get("Resize.size") == [640, 640]
    with pytest.raises(ConfigError, match=r"Resize.size is \[640, 640\], but input_size is \[320, 320\]"):
        isdfine.load_config(N_COCO, ["Resize.size=[640, 640]", "input_size=320", "val_dataloader=null"])


def test_sizes_that_keep_the_aspect_ratio_are_not_one_pair() -> None:
    with pytest.raises(
        ConfigError, match=r"train_dataloader .* has ResizeShortestEdge, which sizes images in its own way"
    ):
        isdfine.load_config(CONFIGS / "dfine" / "dfine_hgnetv2_n_coco_rect.yml", ["input_size=320"])
    assert isdfine.load_config(N_COCO, ["input_size=null"]).data == isdfine.load_config(N_COCO).data
