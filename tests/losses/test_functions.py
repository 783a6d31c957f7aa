# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from golden_cases import load_golden
from isdfine.losses.functions import class_kl, ddf_loss, edge_kl, fgl_loss, focal_loss, giou_loss, l1_loss, vfl_loss
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from isdfine.nn.edges import encode_targets, weighting

BINS = torch.arange(33.0)
BELL = -0.5 * ((BINS - 16) / 2) ** 2


def golden(prefix):
    arrays, meta = load_golden("fdr_primitives.npz")
    found = {key[len(prefix) + 1 :]: value for key, value in arrays.items() if key.startswith(f"{prefix}/")}
    return {key: torch.from_numpy(value) for key, value in found.items()}, meta


def flat_pairs(case, images, queries):
    """Rows in 0..B*Q-1, labels and boxes of the stored matches."""
    rows = torch.cat([case[f"idx_{b}"][0] + b * queries for b in range(images)])
    order = [case[f"idx_{b}"][1] for b in range(images)]
    labels = torch.cat([case[f"target_labels_{b}"][order[b]] for b in range(images)])
    return rows, labels, torch.cat([case[f"target_boxes_{b}"][order[b]] for b in range(images)])


def check(value, expected, leaf, gradient):
    torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-5)
    (found,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, gradient.reshape(found.shape), atol=2e-6, rtol=1e-4)


def test_golden_class_and_box_losses():
    case, meta = golden("cls")
    norm, options = meta["cls"]["num_boxes"], {"alpha": meta["cls"]["alpha"], "gamma": meta["cls"]["gamma"]}
    rows, labels, truth = flat_pairs(case, 2, 12)
    logits = case["logits"].flatten(0, 1).requires_grad_()
    boxes = case["boxes"].flatten(0, 1).requires_grad_()
    iou, giou = paired_iou_and_giou(cxcywh_to_xyxy(boxes[rows]), cxcywh_to_xyxy(truth))
    vfl = vfl_loss(logits, rows, labels, iou, norm, **options)
    check(vfl, case["loss_vfl"], logits, case["loss_vfl_grad_logits"])
    check(focal_loss(logits, rows, labels, norm, **options), case["loss_focal"], logits, case["loss_focal_grad_logits"])
    check(l1_loss(boxes[rows], truth, norm), case["loss_bbox"], boxes, case["loss_bbox_grad_boxes"])
    check(giou_loss(giou, norm), case["loss_giou"], boxes, case["loss_giou_grad_boxes"])


@pytest.mark.parametrize(("bins", "s"), [(16, 4), (16, 8), (32, 4), (32, 8)])
def test_golden_fgl_over_flat_rows(bins, s):
    case, _ = golden(f"rm{bins}_up0.5_rs{s}")
    logits = case["fgl_pred"].view(60, 4, -1).requires_grad_()
    left = case["b2d_target"].long().view(60, 4)
    shares = case["b2d_weight_left"].view(60, 4), case["b2d_weight_right"].view(60, 4)
    overlap = case["fgl_weight"].view(60, 4)
    # the stored weights differ from edge to edge: one edge at a time
    parts = [
        fgl_loss(logits[:, [e]], left[:, [e]], *(share[:, [e]] for share in shares), overlap[:, e], 1) for e in range(4)
    ]
    check(sum(parts) / case["fgl_avg_factor"], case["fgl_loss"], logits, case["fgl_grad"])


@pytest.mark.parametrize("bins", [16, 32])
def test_golden_fgl_and_ddf(bins):
    case, meta = golden(f"local_rm{bins}")
    rows, _, truth = flat_pairs(case, 3, 10)
    corners = case["pred_corners"].flatten(0, 1).unflatten(-1, (4, -1)).requires_grad_()
    teacher = case["teacher_corners"].flatten(0, 1).unflatten(-1, (4, -1)).requires_grad_()
    truth = cxcywh_to_xyxy(truth)
    iou = paired_iou_and_giou(cxcywh_to_xyxy(case["pred_boxes"].flatten(0, 1)[rows]), truth)[0]
    weights = weighting(bins, meta["local"]["up"], meta["local"]["reg_scale"])
    bins_of = encode_targets(case["ref_points"].flatten(0, 1)[rows], truth, weights, meta["local"]["reg_scale"])
    fgl = fgl_loss(corners[rows], *bins_of, iou, meta["local"]["num_boxes"])
    check(fgl, case["loss_fgl"], corners, case["loss_fgl_grad_pred_corners"])
    matched = torch.zeros(30, dtype=torch.bool).index_fill(0, rows, True)
    spread = torch.zeros(30).scatter(0, rows, iou)
    conf = case["teacher_logits"].flatten(0, 1).sigmoid().amax(-1)
    ddf = ddf_loss(corners, teacher, spread, conf, matched)
    assert torch.autograd.grad(ddf, teacher, retain_graph=True, allow_unused=True) == (None,)
    check(ddf, case["loss_ddf"], corners, case["loss_ddf_grad_pred_corners"])


def test_vfl_check_numbers():
    positive = vfl_loss(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]), torch.tensor([0.8]), 1)
    none = torch.zeros(0, dtype=torch.int64)
    negative = vfl_loss(torch.zeros(1, 1), none, none, torch.zeros(0), 1)
    assert abs(positive.item() - 0.5545) < 1e-4
    assert abs(negative.item() - 0.1300) < 1e-4


@pytest.mark.parametrize(("z", "expected"), [(torch.zeros(33), math.log(33)), (BELL, 3.238714)])
def test_fgl_check_numbers(z, expected):
    left = torch.full((1, 1), 19)
    shares = torch.full((1, 1), 0.426711), torch.full((1, 1), 0.573289)
    value = fgl_loss(z.view(1, 1, 33), left, *shares, torch.ones(1), 1)
    assert abs(value.item() - expected) < 2e-6
    optimum = torch.full((33,), -1e4).index_fill(0, torch.tensor([19]), 0).index_fill(0, torch.tensor([20]), 0.29526)
    lowest = fgl_loss(optimum.view(1, 1, 33), left, *shares, torch.ones(1), 1)
    assert abs(lowest.item() - 0.682366) < 2e-6


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.5), (5.0, 2.487466)])
def test_ddf_check_numbers(temperature, expected):
    teacher = -0.5 * ((BINS - 18) / 2) ** 2
    value = ddf_loss(
        BELL.expand(1, 4, 33),
        teacher.expand(1, 4, 33),
        torch.ones(1),
        torch.zeros(1),
        torch.tensor([True]),
        temperature,
    )
    assert abs(value.item() - expected) < 2e-5


def test_edge_kl_check_numbers():
    """At T = 5 before the factor T^2, averaged over edges."""
    teacher = -0.5 * ((BINS - 18) / 2) ** 2
    value = edge_kl(BELL.expand(2, 4, 33), teacher.expand(4, 33), 5.0)
    assert value.shape == (2,)
    assert abs(value[0].item() / 25 - 0.0994986) < 1e-6
    bell = BELL.expand(4, 33)
    assert edge_kl(bell, bell + 3.0).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.110944), (2.0, 0.121199)])
def test_class_kl_check_numbers(temperature, expected):
    value = class_kl(torch.zeros(1), torch.ones(1), temperature)
    assert abs(value.item() - expected) < 2e-6
    assert class_kl(torch.zeros(3), torch.ones(3), temperature).item() == pytest.approx(3 * expected, rel=1e-5)


def test_class_kl_is_finite_zero_when_equal_and_leaves_the_teacher_alone():
    logits = torch.tensor([[200.0, -200.0, 0.3], [1.0, 2.0, -3.0]], requires_grad=True)
    assert torch.equal(class_kl(logits, logits), torch.zeros(2))
    teacher = (-logits.detach()).requires_grad_()
    value = class_kl(logits, teacher).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert teacher.grad is None
    p, q = teacher.detach()[1].double().sigmoid(), logits.detach()[1].double().sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert class_kl(logits, teacher)[1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_student_may_have_a_teacher_of_its_own():
    student, teacher, iou, conf, matched = ddf_inputs()
    students, teachers = torch.stack((student, 2 * student)), torch.stack((teacher, teacher.flip(0)))
    ious, confs = torch.stack((iou, iou.flip(0))), torch.stack((conf, conf.flip(0)))
    stacked = ddf_loss(students, teachers, ious, confs, matched)
    for index in range(2):
        single = ddf_loss(students[index], teachers[index], ious[index], confs[index], matched)
        torch.testing.assert_close(stacked[index], single)


def ddf_inputs(queries=6):
    student = torch.randn(queries, 4, 9, requires_grad=True)
    teacher, iou, conf = torch.randn(queries, 4, 9), torch.rand(queries), torch.rand(queries)
    return student, teacher, iou, conf, torch.arange(queries) < 2


@pytest.mark.parametrize("scale", [0.125, 1.0, 8 / 3, 1000.0])
def test_ddf_does_not_depend_on_a_common_scale_of_the_counts(scale):
    inputs = ddf_inputs()
    matched, unmatched = 8.0, 16.0
    value = ddf_loss(*inputs, counts=(matched * scale, unmatched * scale))
    torch.testing.assert_close(value, ddf_loss(*inputs))


def test_ddf_mixes_two_means():
    student, teacher = torch.zeros(4, 4, 3), torch.zeros(4, 4, 3)
    student[:, :, 0] = 1.0
    matched = torch.tensor([True, False, False, False])
    unit = ddf_loss(student, teacher, torch.ones(4), torch.ones(4), matched).item()
    value = ddf_loss(student, teacher, torch.full((4,), 2 / unit), torch.full((4,), 0.5 / unit), matched)
    assert abs(value.item() - (2 * 1 + 0.5 * math.sqrt(3)) / (1 + math.sqrt(3))) < 1e-5
    assert abs(value.item() - 1.049038) < 1e-5


@pytest.mark.parametrize("matched", [True, False])
def test_ddf_of_an_empty_side_is_the_other_mean(matched):
    student, teacher, iou, conf, _ = ddf_inputs()
    everything = torch.full((6,), matched)
    weight = iou if matched else conf
    log_t = (teacher / 5).log_softmax(-1)
    kl = (log_t.exp() * (log_t - (student / 5).log_softmax(-1))).sum(-1) * 25
    torch.testing.assert_close(ddf_loss(student, teacher, iou, conf, everything), (kl * weight[:, None]).mean())


def test_ddf_of_no_queries_is_zero_and_connected():
    student = torch.randn(0, 4, 9, requires_grad=True)
    nothing = torch.zeros(0)
    loss = ddf_loss(student, student, nothing, nothing, nothing.bool())
    loss.backward()
    assert loss == 0


def test_ddf_of_equal_distributions_is_exactly_zero_with_zero_gradient():
    student, teacher, iou, conf, matched = ddf_inputs()
    both = torch.stack((teacher, student.detach())).requires_grad_()
    losses = ddf_loss(both, teacher, iou.expand(2, -1), conf, matched)
    losses.sum().backward()
    assert losses[0] == 0
    assert losses[1] > 0
    assert not both.grad[0].any()
    assert both.grad[1].any()


def test_ignored_rows_count_on_neither_side():
    student, teacher, iou, conf, matched = ddf_inputs()
    ignored = torch.arange(6) >= 4
    expected = ddf_loss(student[:4], teacher[:4], iou[:4], conf[:4], matched[:4])
    torch.testing.assert_close(ddf_loss(student, teacher, iou, conf, matched, ignored=ignored), expected)


def test_stacked_sets_equal_single_ones_and_row_dimensions_may_be_two():
    student, teacher, iou, conf, matched = ddf_inputs()
    sets = torch.stack((student, 2 * student))
    stacked = ddf_loss(sets, teacher, torch.stack((iou, iou)), conf, matched)
    torch.testing.assert_close(stacked[1], ddf_loss(2 * student, teacher, iou, conf, matched))
    by_image = [tensor.unflatten(0, (2, 3)) for tensor in (student, teacher, iou, conf, matched)]
    torch.testing.assert_close(ddf_loss(*by_image), stacked[0])
    left, shares = torch.zeros(6, 4, dtype=torch.int64), torch.full((6, 4), 0.5)
    stacked = fgl_loss(sets, left, shares, shares, iou.expand(2, -1), 3)
    torch.testing.assert_close(stacked[0], fgl_loss(student, left, shares, shares, iou, 3))
    flat = [tensor.unflatten(0, (2, 3)) for tensor in (student, left, shares, shares, iou)]
    torch.testing.assert_close(fgl_loss(*flat, 3), stacked[0])
    logits, rows, labels = torch.randn(2, 6, 3), torch.tensor([[0, 1], [4, 2]]), torch.tensor([[0, 1], [2, 2]])
    for loss, extra in ((vfl_loss, (torch.rand(2, 2),)), (focal_loss, ())):
        single = [loss(logits[i], rows[i], labels[i], *(argument[i] for argument in extra), 2) for i in range(2)]
        torch.testing.assert_close(loss(logits, rows, labels, *extra, 2), torch.stack(single))


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_logits_are_finite(size):
    logits = torch.tensor([[size, -size], [-size, size]], requires_grad=True)
    rows, labels = torch.tensor([0, 1]), torch.tensor([0, 0])
    edges = torch.tensor([[[size, -size, 0.0]] * 4] * 2, requires_grad=True)
    total = vfl_loss(logits, rows, labels, torch.tensor([0.5, 0.5]), 1) + focal_loss(logits, rows, labels, 1)
    total = total + ddf_loss(edges, -edges.detach(), torch.ones(2), torch.ones(2), torch.tensor([True, False]))
    total = total + fgl_loss(edges, torch.ones(2, 4).long(), *torch.full((2, 2, 4), 0.5), torch.ones(2), 1)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(edges.grad).all()


def test_not_a_number_is_never_replaced():
    student, teacher, iou, conf, matched = ddf_inputs()
    broken = student.detach().index_fill(0, torch.tensor([5]), float("nan"))
    assert ddf_loss(broken, teacher, iou, conf, matched).isnan()
    assert giou_loss(torch.tensor([float("nan")]), 1).isnan()
    assert l1_loss(torch.full((1, 4), float("nan")), torch.zeros(1, 4), 1).isnan()


def test_pair_weights_scale_the_giou_loss_without_gradient():
    weight = torch.tensor([0.5, 2.0], requires_grad=True)
    loss = giou_loss(torch.tensor([0.25, -0.5]), 2, weight)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, torch.tensor((0.75 * 0.5 + 1.5 * 2) / 2))


def test_varifocal_loss_of_any_logit_is_that_of_double_precision():
    logits = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([-1e4, 1e4])])[:, None, None]
    matched = torch.zeros(len(logits), 1, dtype=torch.int64)
    for quality in (torch.zeros(len(logits), 1), torch.full((len(logits), 1), 0.7)):
        found = vfl_loss(logits, matched, matched, quality, 1)
        exact = logits.double().flatten()
        weight = quality.double().flatten()
        expected = weight * (torch.nn.functional.softplus(exact) - weight * exact)
        assert torch.allclose(found.double(), expected, rtol=1e-6, atol=3e-7)
    none = torch.zeros(len(logits), 0, dtype=torch.int64)
    found = vfl_loss(logits, none, none, torch.zeros(len(logits), 0), 1)
    negative = 0.75 * exact.sigmoid() ** 2 * torch.nn.functional.softplus(exact)
    assert torch.allclose(found.double(), negative, rtol=1e-6, atol=3e-7)
    assert vfl_loss(torch.full((1, 1), math.nan), none[0], none[0], torch.zeros(0), 1).isnan()


@pytest.mark.parametrize("positive", [False, True])
def test_focal_loss_and_gradient_of_any_logit_are_those_of_double_precision(positive):
    logits = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([-1e4, 1e4])])[:, None, None].requires_grad_()
    place = torch.zeros(len(logits), int(positive), dtype=torch.int64)
    exact = logits.detach().double().flatten().requires_grad_()
    expected = sigmoid_focal_loss(exact, torch.full_like(exact, float(positive)), 0.25, 2.0)
    found = focal_loss(logits, place, place, 1)
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=3e-7)
    for loss in (found, expected):
        loss.sum().backward()
    assert torch.allclose(logits.grad.flatten().double(), exact.grad, rtol=1e-5, atol=2e-6)
    assert focal_loss(torch.full((1, 1, 1), math.nan), place[:1], place[:1], 1).isnan()
