# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import load_golden
from isdfine.nn.boxes import (
    cxcywh_to_xyxy,
    inverse_sigmoid,
    paired_giou,
    paired_iou,
    paired_iou_and_giou,
    pairwise_giou,
    pairwise_iou,
    xyxy_to_cxcywh,
)

UNIT = torch.tensor([0.0, 0.0, 1.0, 1.0])


def test_round_trip_of_formats():
    boxes = torch.rand(5, 3, 4)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_negative_sizes_count_as_zero_when_corners_are_made():
    corners = cxcywh_to_xyxy(torch.tensor([0.5, 0.4, -0.2, 0.1]))
    torch.testing.assert_close(corners, torch.tensor([0.5, 0.35, 0.5, 0.45]))


def test_swapped_corners_give_negative_sizes():
    assert xyxy_to_cxcywh(torch.tensor([0.6, 0.0, 0.4, 1.0]))[2] < 0


def test_inverse_sigmoid_inverts_and_is_finite_at_the_ends():
    logits = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid()), logits, atol=1e-3, rtol=0)
    limit = torch.log(torch.tensor(1e5))
    torch.testing.assert_close(
        inverse_sigmoid(torch.tensor([-3.0, 0.0, 1.0, 7.0])), limit * torch.tensor([-1, -1, 1, 1])
    )


def test_overlaps_worked_out_by_hand():
    half = torch.tensor([0.5, 0.0, 1.5, 1.0])
    apart = torch.tensor([2.0, 0.0, 3.0, 1.0])
    torch.testing.assert_close(paired_iou(UNIT, half), torch.tensor(1 / 3))
    torch.testing.assert_close(paired_giou(UNIT, half), torch.tensor(1 / 3))
    torch.testing.assert_close(paired_giou(UNIT, apart), torch.tensor(-1 / 3))
    assert paired_iou(UNIT, torch.tensor([1.0, 0.0, 2.0, 1.0])) == 0  # touching


def test_pairwise_equals_paired_and_takes_leading_dimensions():
    a, b = (cxcywh_to_xyxy(torch.rand(2, n, 4)) for n in (7, 3))
    rows, columns = a[:, :, None].expand(-1, -1, 3, -1), b[:, None].expand(-1, 7, -1, -1)
    iou, giou = paired_iou_and_giou(rows, columns)
    torch.testing.assert_close(pairwise_iou(a, b), iou)
    torch.testing.assert_close(pairwise_giou(a, b), giou)
    assert pairwise_giou(a, b[:, :0]).shape == (2, 7, 0)


def test_golden_overlaps():
    arrays, _ = load_golden("fdr_primitives.npz")
    a, b = (cxcywh_to_xyxy(torch.from_numpy(arrays[f"giou/{side}_cxcywh"])) for side in "ab")
    for function, name in ((pairwise_iou, "iou"), (pairwise_giou, "giou")):
        expected = torch.from_numpy(arrays[f"giou/{name}"])
        torch.testing.assert_close(function(a, b), expected, atol=1e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("other", [[0.5, 0.5, 0.5, 0.5], [0.5, 0.2, 0.5, 0.7], [0.1, 0.1, 0.1, 0.1]])
def test_boxes_without_area_have_finite_overlap_and_gradient(other):
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    iou, giou = paired_iou_and_giou(point, torch.tensor(other))
    (iou + giou).backward()
    assert iou == 0
    assert torch.isfinite(giou)
    assert torch.isfinite(point.grad).all()


def test_not_a_number_is_not_hidden():
    broken = torch.tensor([0.1, 0.1, float("nan"), 0.3])
    assert all(value.isnan() for value in paired_iou_and_giou(broken, UNIT))
