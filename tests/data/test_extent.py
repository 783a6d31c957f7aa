# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of batches, before the first one is made."""

from pathlib import Path

import isdfine
from builders import write_micro_config
from solver.test_padded_training import write_padded_config


def test_one_size_multi_scale_and_the_stage_without(tmp_path: Path) -> None:
    config = isdfine.load_config(write_micro_config(tmp_path))
    assert config.build("train_dataloader").batch_sizes == [(64, 96)]
    scales = {"train_dataloader.collate_fn": {"base_size": [128, 192], "base_size_repeat": 2}}
    sizes = config.with_values(scales).build("train_dataloader").batch_sizes
    assert set(sizes[:-1]) == {(96, 128), (96, 160), (128, 192), (160, 224)}
    assert sizes[-1] == (64, 96)
    assert max(sizes) == config.with_values(scales).build("train_dataloader").largest_size == (160, 224)


def test_the_largest_canvas_of_padded_batches_is_that_of_the_batches(tmp_path: Path) -> None:
    loader = isdfine.load_config(write_padded_config(tmp_path)).build("train_dataloader")
    seen = set()
    for epoch in range(6):
        loader.set_epoch(epoch)
        seen |= {tuple(images.shape[-2:]) for images, _ in loader}
    assert seen == set(loader.batch_sizes)
    assert loader.largest_size == max(seen)
