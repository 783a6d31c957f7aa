# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from isdfine.core import dist
from isdfine.distill.kernels import (
    ClassKernel,
    box_giou,
    box_l1,
    box_mse,
    confidence,
    weight_norm,
    weighted_mean,
)

KERNELS: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0},
    {"kind": "softmax"},
    {"kind": "softmax", "temperature": 10.0},
    {"kind": "qfl"},
    {"kind": "mse"},
    {"kind": "mse", "space": "logit"},
]


@pytest.mark.parametrize(
    ("options", "student", "teacher", "value"),
    [
        ({}, [0.0], [1.0], 0.110944),
        ({"temperature": 2.0}, [0.0], [1.0], 0.121199),
        ({"kind": "qfl"}, [0.0], [1.0], 0.160158),
        ({"kind": "qfl", "exponent": 0.0}, [0.0], [1.0], math.log(2)),
        ({"kind": "softmax"}, [1.0, 0.0, 0.0], [2.0, 0.0, -1.0], 0.183383),
        ({"kind": "softmax", "temperature": 3.0}, [1.0, 0.0, 0.0], [2.0, 0.0, -1.0], 0.322714),
        ({"kind": "mse"}, [0.0, 0.0], [math.log(3), 0.0], 0.03125),  # scores .5, .5 and .75, .5
        ({"kind": "mse", "space": "logit"}, [0.0, 0.0], [1.0, 3.0], 5.0),
    ],
)
def test_values(options: dict[str, Any], student: list[float], teacher: list[float], value: float) -> None:
    found = ClassKernel(**options)(torch.tensor(student), torch.tensor(teacher))
    assert found.item() == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize("options", KERNELS)
def test_nothing_where_both_agree_and_more_the_further_they_are_apart(options: dict[str, Any]) -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)) * 3
    kernel = ClassKernel(**options)
    student, teacher = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    equal = kernel(student, teacher)
    assert equal.shape == (2, 5)
    torch.testing.assert_close(equal, torch.zeros(2, 5), atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(equal.sum(), student)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-6, rtol=0)
    step = torch.tensor([1.0, -0.5, 0.0, 0.2])
    near, far = kernel(student + 0.1 * step, teacher), kernel(student + step, teacher)
    assert (near > 0).all()
    assert (far > near).all()
    far.sum().backward()
    assert student.grad is not None
    assert (student.grad.flatten(0, 1).mean(0)[:2] * step[:2] > 0).all()  # going down leads back to the teacher
    assert teacher.grad is None


@pytest.mark.parametrize("options", [{}, {"temperature": 4.0}, {"kind": "softmax"}, {"kind": "qfl"}])
def test_kl_by_its_definition_and_half_precision(options: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, 3, generator=random, dtype=torch.float64) for _ in range(2))
    temperature = options.get("temperature", 1.0)
    p, q = (teacher / temperature).sigmoid(), (student / temperature).sigmoid()
    if options.get("kind") == "softmax":
        p, q = teacher.softmax(-1), student.softmax(-1)
        expected = (p * (p / q).log()).sum(-1)
    elif options.get("kind") == "qfl":
        expected = ((q - p).abs() * -(p * q.log() + (1 - p) * (1 - q).log())).sum(-1)
    else:
        expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1) * temperature**2
    found = ClassKernel(**options)(student.float(), teacher.float())
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-5)
    half = ClassKernel(**options)(student.half(), teacher.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, found, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("options", KERNELS[:6])
def test_sure_scores_stay_finite(options: dict[str, Any]) -> None:
    student = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    found = ClassKernel(**options)(student, torch.tensor([[-80.0, 80.0], [-80.0, 80.0]]))
    assert found[0] > 0
    assert found.isfinite().all()
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert slope.isfinite().all()


def test_softmax_is_blind_to_a_constant_and_binary_is_not() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    assert ClassKernel("softmax")(logits + 5, logits).item() == pytest.approx(0, abs=1e-6)
    assert ClassKernel("binary")(logits + 5, logits).item() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kl"}, r"kernel: 'kl' is none of 'binary', 'softmax', 'qfl', 'mse'"),
        ({"kind": "mse", "space": "odds"}, r"kernel\.space: 'odds' is none of"),
        ({"temperature": 0.0}, r"kernel\.temperature is 0\.0: give a number above 0"),
        ({"kind": "qfl", "exponent": -1.0}, r"kernel\.exponent is -1\.0: give 0 or more"),
        ({"kind": "mse", "temperature": 2.0}, r"kernel\.temperature is read by binary and softmax, not by mse: leave"),
        ({"exponent": 2.0}, r"kernel\.exponent is read by qfl, not by binary"),
        ({"kind": "qfl", "space": "logit"}, r"kernel\.space is read by mse, not by qfl"),
    ],
)
def test_what_a_kernel_does_not_know_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassKernel(**options)


def test_boxes() -> None:
    student = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.2]], requires_grad=True)
    for distance, value in ((box_l1, 0.05), (box_mse, 0.01), (box_giou, 0.5)):
        found = distance(student, teacher)
        torch.testing.assert_close(found, torch.tensor([value, 0.0]), atol=1e-6, rtol=0)
        student.grad = None
        found.sum().backward()
        assert student.grad is not None
        assert student.grad[0, 2] > 0
    assert teacher.grad is None
    apart = box_giou(torch.tensor([0.1, 0.1, 0.1, 0.1]), torch.tensor([0.9, 0.9, 0.1, 0.1]))
    assert 1 < apart < 2


def test_weights_and_their_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[0.0, -2.0], [-9.0, 1.0]], requires_grad=True)
    weights = confidence(logits)
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.0]).sigmoid().where(torch.tensor([False, True]), 0.5))
    assert not weights.requires_grad
    assert weight_norm(torch.tensor([[0.5, 0.1], [2.0, 3.0]])).tolist() == [1.0, 5.0]
    assert weight_norm(torch.zeros(3, 0)).tolist() == [1.0] * 3

    def doubled(tensor: Tensor) -> Tensor:
        return tensor * 2  # as if the other ranks had more

    monkeypatch.setattr(dist, "mean", doubled)
    assert weight_norm(torch.tensor([0.4, 0.3])).item() == pytest.approx(1.4)  # the bound comes after the average


def test_a_weighted_mean_detaches_its_weights() -> None:
    values, weights = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.5, 1.5], requires_grad=True)
    mean = weighted_mean(values, weights, 2.0)
    assert mean.item() == 2.5
    mean.backward()
    assert weights.grad is None
    assert weighted_mean(torch.zeros(2, 0), torch.zeros(2, 0), 1.0).tolist() == [0.0, 0.0]
