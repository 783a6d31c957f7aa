# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.nn.types import DetectorOutput, Predictions
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dfine.model import DFINE


class Pyramid(nn.Module):
    """Two maps at strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.down = nn.Conv2d(16, 16, 2, 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.stem(images)
        return [fine, self.down(fine)]


def build() -> DFINE:
    torch.manual_seed(0)
    decoder = DFINETransformer(
        3,
        hidden_dim=16,
        nhead=4,
        num_queries=6,
        feat_channels=[16, 16],
        feat_strides=[8, 16],
        num_levels=2,
        num_points=2,
        num_layers=2,
        dim_feedforward=16,
        num_denoising=4,
        reg_max=8,
    )
    return DFINE(Pyramid(), nn.Identity(), decoder)


def test_training_gives_everything_and_eval_the_answer() -> None:
    model, images = build(), torch.rand(2, 3, 32, 64)
    targets = [{"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}] * 2
    assert isinstance(model(images, targets), DetectorOutput)
    answer = model.eval()(images)
    assert isinstance(answer, Predictions)
    assert answer.logits.shape == (2, 6, 3)
    assert answer.boxes.shape == (2, 6, 4)


def test_state_dict_has_three_parts() -> None:
    assert {name.split(".")[0] for name in build().state_dict()} == {"backbone", "decoder"}
    assert [name for name, _ in build().named_children()] == ["backbone", "encoder", "decoder", "sources"]


class Part(nn.Module):
    """A part that says what it delivers and takes."""

    def __init__(self, **says: list[int]) -> None:
        super().__init__()
        self.__dict__.update(says)


def test_parts_that_do_not_fit_each_other_are_refused_at_construction() -> None:
    backbone = Part(channels=[512, 1024], strides=[16, 32])
    encoder = Part(in_channels=[512, 1024], strides=[16, 32], channels=[128, 128])
    DFINE(backbone, encoder, Part(feat_channels=[128, 128], feat_strides=[16, 32]))
    with pytest.raises(ValueError, match=r"backbone \(Part\) has strides \[8, 16\] but the encoder .* \[16, 32\]"):
        DFINE(Part(channels=[512, 1024], strides=[8, 16]), encoder, Part())
    with pytest.raises(ValueError, match=r"encoder \(Part\) has channels \[128, 128\] .* correct feat_channels"):
        DFINE(backbone, encoder, Part(feat_channels=[256, 256]))
