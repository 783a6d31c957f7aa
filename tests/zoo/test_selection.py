# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import torch

from isdfine.nn.padding import Padding
from isdfine.zoo.queries import SELECTORS, anchor_logits, gather_rows


def test_anchors_by_hand() -> None:
    logits, valid = anchor_logits([(2, 4), (1, 2)])
    boxes = logits.sigmoid()
    assert logits.shape == (1, 10, 4)
    assert valid.shape == (1, 10, 1)
    assert valid.all()
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.125, 0.25, 0.05, 0.05]))
    torch.testing.assert_close(boxes[0, 5], torch.tensor([0.375, 0.75, 0.05, 0.05]))  # row-major: second row
    torch.testing.assert_close(boxes[0, 9], torch.tensor([0.75, 0.5, 0.1, 0.1]))


def test_border_anchors_are_invalid() -> None:
    logits, valid = anchor_logits([(80, 80)])
    assert (~valid).sum() == 316  # the border of a stride-8 map at 640 pixels, docs/method.md 3.1
    assert torch.equal(torch.isinf(logits).all(-1, keepdim=True), ~valid)
    assert torch.isfinite(logits[valid.squeeze(-1)]).all()


def test_selectors() -> None:
    logits = torch.tensor([[[0.0, 5.0], [4.0, 4.5], [1.0, -1.0]]])
    assert SELECTORS["default"](logits, 2).tolist() == [[0, 1]]
    assert SELECTORS["one2many"](logits, 3).tolist() == [[0, 1, 1]]
    assert SELECTORS["agnostic"](logits[..., :1], 2).tolist() == [[1, 2]]


def test_gather_rows() -> None:
    rows = torch.arange(12.0).view(2, 3, 2)
    assert gather_rows(rows, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_anchors_of_padded_images_are_fractions_of_the_content() -> None:
    sizes = [(4, 6), (2, 3)]
    padding = Padding(torch.tensor([[64, 96], [40, 48]]), (64, 96))
    logits, valid = anchor_logits(sizes, padding=padding)
    plain, plain_valid = anchor_logits(sizes)
    assert torch.equal(logits[:1], plain)
    assert torch.equal(valid[:1], plain_valid)
    kept = torch.cat([~padding.mask(size)[1].flatten() for size in sizes])
    assert not valid[1, ~kept].any()
    assert torch.isinf(logits[1, ~kept]).all()
    first = logits[1, 0].sigmoid()  # centre at 8 pixels of a content of 48 x 40
    torch.testing.assert_close(first, torch.tensor([8 / 48, 8 / 40, 0.05, 0.05]))
