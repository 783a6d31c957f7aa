# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a run says before its first step."""

import logging
from pathlib import Path

import pytest

import isdfine
from builders import write_micro_config
from isdfine.solver.training import Training

FLAT = "lr_scheduler={type: FlatCosine, warmup_iter: %d, flat_epochs: %d, no_aug_epochs: %d}"
NO_WARMUP = "lr_warmup_scheduler.warmup_duration=0"


def warnings_of(caplog: pytest.LogCaptureFixture, folder: Path, *overrides: str) -> list[str]:
    """Warnings of a run of 2 epochs of 2 batches that trains from scratch on purpose."""
    config = isdfine.load_config(write_micro_config(folder), ["HGNetv2.pretrained=False", NO_WARMUP, *overrides])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Training(config)
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["lr_warmup_scheduler.warmup_duration=500"],
            "the warm-up takes 500 of 4 updates (2 epochs of 2), and the learning rate is never at its full value: "
            "shorten it (lr_warmup_scheduler.warmup_duration)",
        ),
        (
            ["lr_warmup_scheduler.warmup_duration=3", "accumulate_steps=2", "epoches=6"],
            "the warm-up takes 3 of 6 updates (6 epochs of 1), and the learning rate is late at its full value",
        ),
        (
            [NO_WARMUP, FLAT % (5, 1, 1)],
            "the warm-up takes 5 of 4 updates (2 epochs of 2), and the learning rate is never",
        ),
        ([FLAT % (0, 9, 0)], "lr_scheduler.flat_epochs 9 and no_aug_epochs 0 are more than the 2 epochs"),
        ([FLAT % (0, 0, 9)], "lr_scheduler.flat_epochs 0 and no_aug_epochs 9 are more than the 2 epochs"),
        (["lr_scheduler={type: CosineAnnealingLR, T_max: 3}"], "lr_scheduler.T_max 3 is more than the 2 epochs"),
        (
            ["train_dataloader.collate_fn.stop_epoch=3"],
            "train_dataloader.collate_fn.stop_epoch 3 lies beyond the last of 2",
        ),
        (
            ["train_dataloader.dataset.transforms.policy={name: stop_epoch, epoch: 9, ops: [RandomHorizontalFlip]}"],
            "train_dataloader.dataset.transforms.policy.epoch 9 lies beyond the last of 2 epochs",
        ),
        (["freeze={backbone: {steps: 4}}"], "freeze.backbone holds for 4 updates and the run has 4"),
        (["freeze={backbone: {epochs: 2}}"], "freeze.backbone holds for 4 updates and the run has 4"),
        (["print_freq=5"], "print_freq is 5 and the run has 4 batches: no line of losses comes"),
        (["eval_every=3"], "eval_every is 3 and the run has 2 epochs: only the last one is evaluated"),
    ],
)
def test_what_outlasts_the_run_is_one_warning(
    overrides: list[str], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = warnings_of(caplog, tmp_path, *overrides)
    assert line.startswith(said)
    assert "\n" not in line


def test_what_fits_the_run_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ends = ["train_dataloader.collate_fn.stop_epoch=2", "print_freq=4", "eval_every=2", "freeze={backbone: {steps: 3}}"]
    assert warnings_of(caplog, tmp_path, FLAT % (1, 1, 1), *ends) == []
    assert "checkpoint_freq is 100: the run keeps no checkpoints but the last and the best" in caplog.text
    assert warnings_of(caplog, tmp_path, FLAT % (0, 1, 1), "epoches=1", "print_freq=1") == []


SLOW_BACKBONE = "optimizer.params=[{params: '^(?=.*backbone).*$', lr: 1e-5}]"


def test_a_fine_tuning_recipe_that_starts_from_nothing_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = warnings_of(caplog, tmp_path, "tuning_classes=coco")
    assert (
        "this is a recipe for fine-tuning (tuning_classes: coco): start the model from a checkpoint (-t FILE)" in line
    )
    (line,) = warnings_of(caplog, tmp_path, "optimizer.lr=2e-4", SLOW_BACKBONE)
    assert "it learns at 1e-05, 20 times slower than the rest: start the model from a checkpoint (-t FILE)" in line
    assert warnings_of(caplog, tmp_path, "optimizer.lr=2e-5", SLOW_BACKBONE) == []  # half, as the recipes from scratch
    assert warnings_of(caplog, tmp_path, "optimizer.lr=2e-5") == []


def test_the_shipped_recipe_warns_of_nothing_that_nobody_can_act_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    micro = isdfine.load_config(write_micro_config(tmp_path))
    data = [
        f"{side}_dataloader.dataset.{key}={micro.get(f'{side}_dataloader.dataset.{key}')}"
        for side in ("train", "val")
        for key in ("img_folder", "ann_file")
    ]
    sizes = ["train_dataloader.total_batch_size=4", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
    root = Path(__file__).parents[2] / "configs" / "dfine" / "dfine_hgnetv2_n_coco.yml"
    rest = ["num_classes=null", "remap_mscoco_category=False", "device=cpu", f"output_dir={tmp_path / 'n'}"]
    long_enough = ["epochs=2000"]
    config = isdfine.load_config(root, [*data, *sizes, *rest, *long_enough])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Training(config)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "taken as written" in caplog.text
