# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.distill.features import PairedMaps
from isdfine.distill.methods.detr_distill import DETRDistill, paired_predictions, query_votes, target_aware_loss
from isdfine.distill.teacher import CommonClasses
from isdfine.nn.types import Predictions
from isdfine.zoo.detr import DETR
from taught_cases import batch, copied, detector, lesson, step, taught, terms_of

BOTH = CommonClasses.of([0, 1], 2)


def said(*rows: tuple[list[float], list[float]]) -> Predictions:
    return Predictions(*(torch.tensor([list(column)]) for column in zip(*rows)))


def raw_of(
    method: DETRDistill, student: DETR, teacher: nn.Module, given: tuple | None = None, **more: Any
) -> dict[str, Tensor]:
    """Raw losses of a method that has met the criterion."""
    objective = taught(student, teacher, method, **more)
    method.check(student, objective.criterion)
    context = step(objective, student, given)
    assert context.teacher is not None
    return method.losses(context, context.teacher)


def test_predictions_by_hand() -> None:
    """The student's queries are the teacher's in another order, one of them moved and less sure."""
    teacher = said(([2.0, -3.0], [0.25, 0.25, 0.2, 0.2]), ([-3.0, -1.0], [0.7, 0.7, 0.2, 0.4]))
    student = said(([-3.0, -1.0], [0.7, 0.7, 0.2, 0.4]), ([1.0, -3.0], [0.27, 0.25, 0.2, 0.2]))

    def entropy(logit: float, known: float) -> float:
        p, q = 1 / (1 + math.exp(-known)), 1 / (1 + math.exp(-logit))
        return -p * math.log(q) - (1 - p) * math.log(1 - q)

    same, moved = entropy(-3, -3) + entropy(-1, -1), entropy(1, 2) + entropy(-3, -3)
    overlap = 0.18 / 0.22  # of two boxes side by side, whose hull is their union
    found = paired_predictions([student], [teacher], BOTH)
    assert found.tolist() == pytest.approx([(same + moved) / 2, 0.02 / 2, (1 - overlap) / 2], rel=1e-4)
    twice = paired_predictions([student, student], [teacher, teacher], BOTH)
    torch.testing.assert_close(twice, 2 * found)
    positive = paired_predictions([student], [teacher], BOTH, 0.5)
    assert positive.tolist() == pytest.approx([moved, 0.02, 1 - overlap], rel=1e-4)


def test_votes_by_hand() -> None:
    teacher = said(([-9.0, 0.0], [0.5, 0.5, 0.4, 0.4]), ([-1.0, 1.0], [0.2, 0.2, 0.2, 0.2]))
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.2], [0.9, 0.9, 0.1, 0.1]]])
    votes = query_votes(hidden, teacher, boxes, torch.tensor([[True, False]]), BOTH, 2)
    assert votes[0].tolist() == pytest.approx([0.5 * 0.5 * 0.6, 0.5 * 0.5 * 0.8], rel=1e-5)  # the second meets no box
    alone = query_votes(hidden, teacher, boxes[:, :0], torch.zeros(1, 0, dtype=torch.bool), BOTH, 1)
    assert alone[0].tolist() == pytest.approx([0, 1 / (1 + math.exp(-1))], rel=1e-5)


def test_features_by_hand() -> None:
    """Cells that point where the votes do count whole, others by a hundredth, padding not at all."""
    teacher = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 3.0, 0.0]]]])  # (1, 2, 1, 3)
    maps = PairedMaps(teacher - 1, teacher, torch.tensor([[[True, True, False]]]))
    votes = torch.tensor([[0.5, 0.0]])
    weights = [1.0, 0.01 / 0.5]
    assert target_aware_loss(maps, votes).item() == pytest.approx(sum(w**2 for w in weights) / 2, rel=1e-5)
    assert target_aware_loss(maps._replace(student=teacher), votes) == 0


def test_a_student_like_its_teacher() -> None:
    student = detector(0)
    found = raw_of(DETRDistill(), student, copied(student))
    assert set(found) == {f"loss_detrdistill_{name}" for name in ("cls", "l1", "giou", "features", "queries")}
    for name in ("l1", "giou", "features"):
        assert abs(found[f"loss_detrdistill_{name}"].item()) < 2e-6, name
    moved = raw_of(DETRDistill(), student, detector(1))
    assert all(loss > 1e-3 for loss in moved.values())


def test_the_teacher_s_queries_are_scored_on_the_teacher_s_matches() -> None:
    """With equal models they are the student's own layers, each on its own matches."""
    student = detector(0)
    teacher = copied(student)
    method = DETRDistill(parts=("queries",))
    objective = taught(student, teacher, method)
    objective.criterion.use_uni_set = False
    method.check(student, objective.criterion)
    context = step(objective, student)
    assert context.teacher is not None
    (found,) = method.losses(context, context.teacher).values()
    own = objective.criterion.terms(context.step)
    layers = [loss for name, loss in own.items() if not any(part in name for part in ("_dn", "_pre", "_enc"))]
    torch.testing.assert_close(found, torch.stack(layers).sum(), rtol=1e-4, atol=1e-5)
    other = taught(student, detector(1), method := DETRDistill(parts=("queries",)))
    method.check(student, other.criterion)
    context = step(other, student)
    assert context.teacher is not None
    guides = context.teacher.output.layers
    seen: list[Tensor] = []
    matcher, assign = other.criterion.matcher, other.criterion.matcher.assign
    matcher.assign = lambda stack, *rest: (seen.append(stack.boxes), assign(stack, *rest))[1]
    (loss,) = method.losses(context, context.teacher).values()
    assert torch.equal(seen[0], torch.stack([one.boxes for one in guides]).flatten(1, 2))
    table = context.step.matching.table
    pairs = other.criterion.match_as(context.student.groups[method.group], guides, table).pairs
    assert pairs.query_index.shape == (2, len(table))
    assert loss > 0


@pytest.mark.parametrize("counts", [(2, 1), (0, 2), (0, 0)])
def test_other_widths_classes_and_padding(counts: tuple[int, int]) -> None:
    student, teacher = detector(0), detector(1, dim=32, classes=3, num_layers=3, num_queries=5)
    method = DETRDistill(pos_only=True)
    classes = [2, None, 0, 1]
    objective = taught(student, teacher, method, classes=classes)
    method.check(student, objective.criterion)
    terms = terms_of(objective, student, batch(counts, padded=True))
    torch.stack([loss for name, loss in terms.items() if "detrdistill" in name]).sum().backward()
    assert all(loss.isfinite() for loss in terms.values())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in method.parameters())
    assert len([*method.parameters()]) == 5  # two maps, and the content of queries
    assert student.backbone.patch.weight.grad.isfinite().all()


def test_factors() -> None:
    assert DETRDistill().parts == {
        "loss_detrdistill_cls": 1, "loss_detrdistill_l1": 5, "loss_detrdistill_giou": 2,
        "loss_detrdistill_features": 1, "loss_detrdistill_queries": 1,
    }  # fmt: skip
    assert DETRDistill(parts=["features"]).names == ("loss_detrdistill_features",)
    assert DETRDistill(parts=["logits"]).teacher_want.taps == frozenset()


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"DETRDistill\.parts is empty: name some of logits, features, queries"):
        DETRDistill(parts=[])
    with pytest.raises(ValueError, match=r"DETRDistill\.parts: 'heads' is none of 'logits', 'features', 'queries'"):
        DETRDistill(parts=["heads"])
    with pytest.raises(
        ValueError, match="DETRDistill has queries scored by the criterion, but Identity does not match"
    ):
        DETRDistill().check(detector(0), nn.Identity())
    teacher = detector(1)
    teacher.encoder.channels = [24, 24]
    with pytest.raises(
        ValueError, match=r"teacher's maps \(24 channels\) with its queries \(16\), which needs equal wid"
    ):
        DETRDistill().prepare(detector(0), lesson(teacher).teacher, lesson(detector(1)).classes)
    teacher = detector(1)
    teacher.decoder.queries.reference_dim = 2
    with pytest.raises(ValueError, match="DETRDistill: the teacher's queries start at points, the student's at boxes"):
        DETRDistill().prepare(detector(0), lesson(teacher).teacher, lesson(detector(1)).classes)
