# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A run says what its backbone starts from; random weights that nobody asked for are a warning."""

import logging
from pathlib import Path

import pytest

import isdfine
from builders import write_micro_config
from isdfine.core.errors import CheckpointError
from isdfine.solver.fit import fit
from isdfine.solver.training import Training


def test_random_weights_that_nobody_asked_for_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    with caplog.at_level(logging.INFO):
        Training(isdfine.load_config(config))
    (record,) = [record for record in caplog.records if "starts from" in record.message]
    assert record.levelno == logging.WARNING
    assert "the backbone (HGNetv2) starts from random weights" in record.message
    assert "or write pretrained: False if this is meant" in record.message


def test_random_weights_that_are_meant_are_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    with caplog.at_level(logging.INFO):
        Training(isdfine.load_config(config, ["HGNetv2.pretrained=False"]))
    (record,) = [record for record in caplog.records if "starts from" in record.message]
    assert record.levelno == logging.INFO
    assert "starts from random weights (pretrained: False)" in record.message


def test_a_checkpoint_that_brings_the_weights_needs_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    fit(Training(isdfine.load_config(config, ["epoches=1"])))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Training(isdfine.load_config(config, [f"tuning={tmp_path / 'run'}", f"output_dir={tmp_path / 'tuned'}"]))
    assert "starts from" not in caplog.text
    resnet = [
        "DFINE.backbone={type: PResNet, depth: 18, return_idx: [2, 3], pretrained: True, local_model_dir: gone}",
        "HybridEncoder.in_channels=[256, 512]",
        f"output_dir={tmp_path / 'other'}",
    ]
    Training(isdfine.load_config(config, [*resnet, f"tuning={tmp_path / 'run'}"]))  # whose file is not looked for
    with pytest.raises(CheckpointError, match=r"gone/ResNet18_vd_pretrained_from_paddle\.pth: no such file"):
        Training(isdfine.load_config(config, resnet))
