# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor, nn

from isdfine.bench.model_info import counted_peak, measured_peak, weight_bytes

IMAGE = 4 * 3 * 8 * 8
"""Bytes of one image."""


class Steps(nn.Module):
    """Results of four and two times the image's size, of which a view and a sum in place stay."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.zeros(2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        wide = torch.cat([images] * 4)  # 4 images
        view = wide.view(-1)
        del wide
        pair = torch.cat([images] * 2)  # 2 images, while the view keeps 4
        view.mul_(2)
        del view
        return pair * self.weight[0]  # 2 images beside the pair


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_live_tensors_are_counted_by_hand(device: str) -> None:
    model = Steps().to(device)
    assert weight_bytes(model) == 4 * (4 + 2)
    assert counted_peak(model, torch.zeros(1, 3, 8, 8, device=device)) == weight_bytes(model) + (1 + 4 + 2) * IMAGE


def test_the_second_pass_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With functions that only look like CUDA's: the first pass takes what libraries keep."""
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: said.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    model = Steps()
    model.register_forward_hook(lambda *_: said.append("pass"))
    assert measured_peak(model, torch.zeros(1, 3, 8, 8)) == 123
    assert said == ["pass", "wait", "reset", "pass", "wait"]
