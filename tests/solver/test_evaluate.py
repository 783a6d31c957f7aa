# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detections reach the evaluator in pixels of the original image, and a perfect model scores 1."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import loader_section, write_coco, write_micro_config
from isdfine.data.evaluate import CocoEvaluator
from isdfine.nn.types import Predictions
from isdfine.solver.evaluate import evaluate
from isdfine.solver.solver import Evaluation
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor


class Oracle(nn.Module):
    """Answers with the annotated boxes of the images it is shown, in file order."""

    def __init__(self, truths: list[tuple[Tensor, Tensor, tuple[int, int]]]) -> None:
        super().__init__()
        self.truths = iter(truths)

    def forward(self, images: Tensor) -> Predictions:
        logits = torch.full((len(images), 8, 2), -9.0)
        boxes = torch.full((len(images), 8, 4), 0.01)
        for row in range(len(images)):
            corners, labels, (height, width) = next(self.truths)
            scale = torch.tensor([width, height, width, height])
            low, high = (corners / scale).split(2, dim=-1)
            boxes[row, : len(labels)] = torch.cat([(low + high) / 2, high - low], dim=-1)
            logits[row, torch.arange(len(labels)), labels] = 9.0
        return Predictions(logits, boxes)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (160, 32)])
def test_a_perfect_model_scores_one_whatever_the_input_size(tmp_path: Path, size: tuple[int, int]) -> None:
    annotations = write_coco(tmp_path / "data", images=5, boxes=(2, 0, 3))
    config = tmp_path / "c.yml"
    config.write_text("val_dataloader: ~\n")
    section = {"val_dataloader": loader_section(annotations, train=False, batch=2, size=size)}
    loader = isdfine.load_config(config).with_values(section).build("val_dataloader")
    truths = [loader.dataset.ground_truth(int(image_id)) for image_id in loader.dataset.annotations.image_ids]
    model = Oracle([(truth.boxes, truth.labels, truth.size) for truth in truths])
    model.train()
    result = evaluate(model, DFINEPostProcessor(2, num_top_queries=5), loader, CocoEvaluator(dataset=loader.dataset))
    assert result.num_images == 5
    assert result.stats["AP"] == pytest.approx(1.0)
    assert model.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_moves_detections_a_little_and_keeps_their_type(tmp_path: Path, precision: str) -> None:
    config = write_micro_config(tmp_path, images=4)
    full, half = (Evaluation(isdfine.load_config(config, [f"eval_precision={form}"])) for form in ("fp32", precision))
    half.model.load_state_dict(full.model.state_dict())
    exact, near = (dict(evaluation.sample_detections(4)) for evaluation in (full, half))
    for image_id, found in near.items():
        assert found.scores.dtype == found.boxes.dtype == torch.float32
        assert not torch.equal(found.scores, exact[image_id].scores)
        torch.testing.assert_close(found.scores, exact[image_id].scores, rtol=0.02, atol=1e-3)
    assert half.evaluate().num_images == 4
