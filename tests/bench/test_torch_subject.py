# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""With a backend that only looks like TensorRT's: the real one has not been run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector_cases import LABELS
from isdfine.bench import torch_subject
from isdfine.bench.subject import RunWith
from isdfine.core.errors import ConfigError
from isdfine.deploy.backends.base import BackendInfo
from isdfine.deploy.preprocess import Recipe


class FakeBackend:
    """Takes uint8 and gives back what it was given."""

    def __init__(self, path: Path, device: str) -> None:
        self.device, self.precision = torch.device(device), "fp16"
        self.info = BackendInfo(LABELS, Recipe.squash((32, 64)), "fake", uint8=True, max_batch=2)

    def run_placed(self, images: torch.Tensor, orig_sizes: torch.Tensor) -> Any:
        return images, orig_sizes


def test_pixels_and_sizes_are_placed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_subject, "TensorRTBackend", FakeBackend)
    subject = torch_subject.TensorRTSubject(Path("m.engine"), RunWith(torch.device("cpu"), batch=2))
    assert (subject.facts.precision, subject.facts.size) == ("fp16", (32, 64))
    placed = subject.place(np.full((2, 3, 32, 64), 100, np.uint8), np.array([[64, 32]] * 2))
    assert subject.facts.uint8
    outputs: Any = subject.call(placed)
    assert outputs[0] is placed[0]
    assert outputs[0].dtype == torch.uint8
    assert outputs[0].unique().tolist() == [100]
    with pytest.raises(ConfigError, match="was built for batches up to 2: give --batch 2"):
        torch_subject.TensorRTSubject(Path("m.engine"), RunWith(torch.device("cpu"), batch=3))
