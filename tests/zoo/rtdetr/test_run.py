# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A detector of RT-DETR's parts through the whole house: training, resume, EMA, ``Detector`` and fuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from builders import SIZE, load_tool, micro_sections, write_coco
from isdfine.deploy.detector import Detector
from isdfine.deploy.fuse import fuse
from isdfine.deploy.inspection import inspect_image
from isdfine.load import load_detector

FDR = {
    "box_head": "fdr",
    "reg_max": 8,
}
CRITERION_FDR = {
    "losses": ["vfl", "boxes", "local"],
    "weight_dict": {"loss_vfl": 1, "loss_bbox": 5, "loss_giou": 2, "loss_fgl": 0.15, "loss_ddf": 1.5},
    "reg_max": 8,
    "use_uni_set": True,
}


def sections(folder: Path, *, fdr: bool) -> dict[str, Any]:
    """The micro run of the other tests with RT-DETR's parts."""
    annotations = write_coco(folder / "data", images=8, boxes=(2, 1, 3))
    given = micro_sections(annotations, folder / "run")
    criterion, decoder = given.pop("DFINECriterion"), given.pop("DFINETransformer")
    for name in ("DFINE", "HGNetv2", "DFINEPostProcessor"):
        given.pop(name)
    decoder.pop("reg_max")
    criterion |= {"losses": ["vfl", "boxes"], "weight_dict": {"loss_vfl": 1, "loss_bbox": 5, "loss_giou": 2}}
    criterion.pop("reg_max")
    return {
        **given,
        **{"model": "RTDETR", "criterion": "RTDETRCriterionv2", "postprocessor": "RTDETRPostProcessor"},
        "RTDETR": {"backbone": "PResNet", "encoder": "HybridEncoder", "decoder": "RTDETRTransformerv2"},
        "PResNet": {"depth": 18, "freeze_norm": False, "return_idx": [2, 3], "pretrained": False},
        "HybridEncoder": given["HybridEncoder"] | {"in_channels": [256, 512], "expansion": 0.5, "depth_mult": 1},
        "RTDETRTransformerv2": decoder | (FDR if fdr else {}),
        "RTDETRPostProcessor": {"num_top_queries": 10},
        "RTDETRCriterionv2": criterion | (CRITERION_FDR if fdr else {}),
        "distillers": [{"type": "GOLSD"}] if fdr else [],
    }


@pytest.mark.parametrize("fdr", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_resume_and_inference(fdr: bool, tmp_path: Path) -> None:
    train = load_tool("train")
    config = tmp_path / "run.yml"
    config.write_text(yaml.safe_dump(sections(tmp_path, fdr=fdr)))
    assert train.main(["-c", str(config), "-u", "epoches=1"]) == 0
    last = tmp_path / "run" / "last.pth"
    first = torch.load(last, weights_only=True)["model"]
    assert train.main(["-c", str(tmp_path / "run" / "config.yml"), "-r", str(last), "-u", "epoches=2"]) == 0
    again = torch.load(last, weights_only=True)["model"]
    assert list(first) == list(again)
    assert any(not torch.equal(first[key], again[key]) for key in first)
    assert ("decoder.decoder.up" in first) == fdr

    detector = Detector.load(last)
    pictures = sorted((tmp_path / "data").rglob("*.png")) or sorted((tmp_path / "data").rglob("*.jpg"))
    assert len(detector(pictures[0], threshold=0.0).scores) == 10

    loaded = load_detector(last)
    seen = inspect_image(loaded.model, torch.rand(1, 3, *SIZE), SIZE)
    assert (len(seen.layers), seen.bin_weights is not None) == (2, fdr)
    assert np.array_equal(seen.layers[-1].boxes_xyxy_px, seen.boxes_xyxy_px)
    fused = fuse(loaded.model)
    image = torch.rand(2, 3, *SIZE)
    with torch.inference_mode():
        answer, reference = fused(image), loaded.model(image)
    torch.testing.assert_close(answer.logits.sort(dim=1).values, reference.logits.sort(dim=1).values, atol=1e-4, rtol=0)
