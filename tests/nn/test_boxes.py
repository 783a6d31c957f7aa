# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import load_golden
from isdfine.nn.boxes import cxcywh_to_xyxy, inverse_sigmoid, paired_iou_and_giou, xyxy_to_cxcywh

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
    for other, expected in ((half, (1 / 3, 1 / 3)), (apart, (0.0, -1 / 3))):
        torch.testing.assert_close(torch.stack(paired_iou_and_giou(UNIT, other)), torch.tensor(expected))
    assert paired_iou_and_giou(UNIT, torch.tensor([1.0, 0.0, 2.0, 1.0]))[0] == 0  # touching


def test_golden_overlaps():
    arrays, _ = load_golden("fdr_primitives.npz")
    a, b = (cxcywh_to_xyxy(torch.from_numpy(arrays[f"giou/{side}_cxcywh"])) for side in "ab")
    for overlap, name in zip(paired_iou_and_giou(a[:, None], b), ("iou", "giou")):
        expected = torch.from_numpy(arrays[f"giou/{name}"])
        known = expected.isfinite()  # it is 0 / 0 for two boxes without area, for which a loss must stay finite
        torch.testing.assert_close(overlap[known], expected[known], atol=1e-6, rtol=1e-5)
        assert overlap.isfinite().all()


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
