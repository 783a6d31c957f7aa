# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import load_golden
from isdfine.nn.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from isdfine.nn.edges import decode_corners, distance_to_box, encode_targets, expected_distance, weighting

CASES = [(16, 4), (16, 8), (32, 4), (32, 8)]
B0 = torch.tensor([0.5, 0.5, 0.4, 0.2])


def golden(bins, s):
    arrays, _ = load_golden("fdr_primitives.npz")
    prefix = f"rm{bins}_up0.5_rs{s}/"
    return {key[len(prefix) :]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith(prefix)}


def decode_target(left, left_weight, right_weight, weights):
    return left_weight * weights[left] + right_weight * weights[left + 1]


@pytest.mark.parametrize(
    ("bins", "s", "expected"),
    [
        (32, 4, {0: -4, 1: -2, 2: -1.788131, 8: -0.796655, 15: -0.075990, 16: 0, 17: 0.075990, 18: 0.157754}),
        (32, 4, {19: 0.245731, 20: 0.340393, 24: 0.796655, 30: 1.788131, 31: 2, 32: 4}),
        (32, 8, {0: -8, 1: -4, 2: -3.491299, 8: -1.359305, 15: -0.113264, 31: 4, 32: 8}),
        (8, 4, dict(enumerate([-4, -2, -1.080084, -0.442250, 0, 0.442250, 1.080084, 2, 4]))),
    ],
)
def test_published_weights(bins, s, expected):
    weights = weighting(bins, 0.5, s)
    for index, value in expected.items():
        assert abs(weights[index].item() - value) < 2e-6
    assert abs(weights[-2].item() - 0.5 * s) < 2e-6
    assert torch.equal(weights, -weights.flip(0))


@pytest.mark.parametrize("s", [4, 4.0, torch.tensor(4), torch.tensor([4.0])])
@pytest.mark.parametrize("a", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_weights_are_odd_and_rising_whatever_the_type_of_the_scalars(a, s):
    weights = weighting(32, a, s)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, -weights.flip(0))
    assert (weights.diff() > 0).all()
    torch.testing.assert_close(weights, weighting(32, 0.5, 4), atol=2e-6, rtol=0)


@pytest.mark.parametrize("bins", [2, 7, 0])
def test_odd_or_too_few_bins_are_refused(bins):
    with pytest.raises(ValueError, match=f"even number of bins N of at least 4, got {bins}: set reg_max"):
        weighting(bins, 0.5, 4)


@pytest.mark.parametrize(("bins", "s"), CASES)
def test_golden_weights_integral_and_boxes(bins, s):
    case = golden(bins, s)
    weights = weighting(bins, torch.tensor([0.5]), torch.tensor([s]))
    torch.testing.assert_close(weights, case["weights"], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(weighting(bins, 0.5, s), case["weights_deploy"], atol=2e-6, rtol=1e-6)
    logits = case["integral_in"].requires_grad_()
    distance = expected_distance(logits, weights)
    torch.testing.assert_close(distance, case["integral_out"], atol=2e-5, rtol=1e-4)
    (distance * case["integral_cotangent"]).sum().backward()
    torch.testing.assert_close(logits.grad, case["integral_grad"], atol=2e-5, rtol=1e-4)
    boxes = distance_to_box(case["points"], case["distance"], torch.tensor([s]))
    torch.testing.assert_close(boxes, case["distance2bbox"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("bins", "s"), CASES)
def test_golden_targets(bins, s):
    case = golden(bins, s)
    weights = weighting(bins, 0.5, s)
    left, left_weight, right_weight = encode_targets(case["points"], case["gt_xyxy"], weights, s)
    expected_left = case["b2d_target"].long().view(-1, 4)
    expected = case["b2d_weight_left"].view(-1, 4), case["b2d_weight_right"].view(-1, 4)
    torch.testing.assert_close(
        decode_target(left, left_weight, right_weight, weights),
        decode_target(expected_left, *expected, weights),
        atol=1e-4,
        rtol=1e-4,
    )
    same = left == expected_left  # a value on a bin may round to either side
    assert same.float().mean() > 0.95
    torch.testing.assert_close(right_weight[same], expected[1][same], atol=2e-4, rtol=0)


def test_targets_worked_out_by_hand():
    weights = weighting(32, 0.5, 4)
    left, _, right_weight = encode_targets(B0, torch.tensor([0.28, 0.41, 0.74, 0.60]), weights, 4)
    assert left[:3].tolist() == [18, 13, 20]
    torch.testing.assert_close(right_weight[:3], torch.tensor([0.480196, 0.519804, 0.585203]), atol=1e-5, rtol=0)
    left, left_weight, right_weight = encode_targets(B0, torch.tensor([0.0, 0.0, 1.0, 1.0]), weights, 4)
    assert left.tolist() == [31] * 4
    torch.testing.assert_close(right_weight, torch.tensor([0.5, 1, 0.5, 1]), atol=1e-5, rtol=0)
    box = distance_to_box(B0, decode_target(left, left_weight, right_weight, weights), 4)
    torch.testing.assert_close(box, torch.tensor([0.5, 0.5, 1.0, 0.6]), atol=1e-6, rtol=0)
    left, _, right_weight = encode_targets(B0, torch.tensor([0.49, 0.49, 0.51, 0.51]), weights, 4)
    assert left.tolist() == [1] * 4
    torch.testing.assert_close(right_weight, torch.tensor([0.471990, 0.943979] * 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("truth", "offsets"),
    [
        ((0.28, 0.41, 0.74, 0.60), (0.2, -0.2, 0.4, 0.0)),  # the last lies on a bin: only the mixed value is certain
        ((0.0, 0.0, 1.0, 1.0), (3.0, 4.0, 3.0, 4.0)),  # beyond the last bin, whose offset is 2as = 4
        ((0.49, 0.49, 0.51, 0.51), (-1.9, -1.8, -1.9, -1.8)),
        ((0.27, 0.5, 0.5, 0.5), (0.3, -2.0, -2.0, -2.0)),
    ],
)
def test_targets_mix_to_the_offsets_worked_out_by_hand(truth, offsets):
    weights = weighting(32, 0.5, 4)
    mixed = decode_target(*encode_targets(B0, torch.tensor(truth), weights, 4), weights)
    torch.testing.assert_close(mixed, torch.tensor(offsets), atol=1e-5, rtol=0)
    if max(offsets) < 4:
        torch.testing.assert_close(
            distance_to_box(B0, mixed, 4), xyxy_to_cxcywh(torch.tensor(truth)), atol=1e-6, rtol=0
        )


def test_published_target_of_an_offset_between_two_bins():
    left, *shares = encode_targets(B0, torch.tensor([0.27, 0.41, 0.74, 0.60]), weighting(32, 0.5, 4), 4)
    assert left[0] == 19
    torch.testing.assert_close(
        torch.stack([share[0] for share in shares]), torch.tensor([0.426711, 0.573289]), atol=2e-6, rtol=0
    )


def test_an_edge_before_the_first_bin_is_clipped_to_it():
    """The true box lies far to the right of the initial one: its left edge would need an offset of -10."""
    left, left_weight, right_weight = encode_targets(B0, torch.tensor([1.3, 0.4, 1.5, 0.6]), weighting(32, 0.5, 4), 4)
    assert (left[0], left_weight[0], right_weight[0]) == (0, 1, 0)
    assert (left[2], left_weight[2], right_weight[2]) == (31, 0, 1)


def test_zero_logits_return_the_initial_box():
    for s in (4, 8):
        box = decode_corners(B0, torch.zeros(4, 33), weighting(32, 0.5, s), s)
        torch.testing.assert_close(box, B0, atol=1e-6, rtol=0)


def test_targets_within_range_decode_to_the_box():
    generator = torch.Generator().manual_seed(0)
    initial = torch.rand(200, 4, generator=generator) * 0.3 + 0.3
    truth = cxcywh_to_xyxy(initial * (1 + 0.2 * torch.rand(200, 4, generator=generator)))
    weights = weighting(32, 0.5, 4)
    boxes = distance_to_box(initial, decode_target(*encode_targets(initial, truth, weights, 4), weights), 4)
    torch.testing.assert_close(boxes, xyxy_to_cxcywh(truth), atol=1e-6, rtol=1e-5)


def test_targets_of_a_box_without_size_are_finite_and_no_gradient_flows():
    initial = torch.tensor([[0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    left, *shares = encode_targets(initial, torch.tensor([[0.4, 0.5, 0.6, 0.6]]), weighting(16, 0.5, 4), 4)
    assert ((left >= 0) & (left < 16)).all()
    assert all(torch.isfinite(share).all() and not share.requires_grad for share in shares)


def test_half_precision_and_autocast_decode_in_float32():
    logits = torch.randn(3, 4 * 33).bfloat16()
    weights = weighting(32, 0.5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        distance = expected_distance(logits, weights)
    assert distance.dtype == torch.float32
    assert torch.equal(distance, expected_distance(logits.float(), weights))
