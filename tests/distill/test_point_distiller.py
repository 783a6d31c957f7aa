# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""KD-DETR and the two halves of CLoCKDistill: what points lose, which there are, and who learns from whom."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.core import dist
from isdfine.distill.kernels import ClassKernel
from isdfine.distill.methods.clock import TCLD, CLoCKDistill
from isdfine.distill.methods.kd_detr import KDDETR
from isdfine.distill.methods.lcmd import LCMD
from isdfine.distill.point_distiller import PointDistiller, point_losses
from isdfine.distill.start import Moment
from isdfine.distill.taught import Batch, TeacherDistiller
from isdfine.distill.teacher import CommonClasses
from isdfine.nn.types import Predictions
from isdfine.zoo.detr import DETR
from taught_cases import CLASSES, batch, copied, detector, lesson, step, taught, terms_of

POINTS = {
    "kddetr": lambda **given: KDDETR(**({"general": 6} | given)),
    "tcld": lambda **given: TCLD(**({"general": 6} | given)),
}


def said(seed: int, layers: int, points: int = 3, classes: int = 2) -> list[Predictions]:
    """Boxes that overlap, of one image."""
    random = torch.Generator().manual_seed(seed)
    return [
        Predictions(
            torch.randn(1, points, classes, generator=random), 0.3 + 0.3 * torch.rand(1, points, 4, generator=random)
        )
        for _ in range(layers)
    ]


def corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def giou(a: list[float], b: list[float]) -> float:
    """By hand."""
    (ax, ay, au, av), (bx, by, bu, bv) = corners(a), corners(b)
    shared = max(min(au, bu) - max(ax, bx), 0) * max(min(av, bv) - max(ay, by), 0)
    joint = (au - ax) * (av - ay) + (bu - bx) * (bv - by) - shared
    hull = (max(au, bu) - min(ax, bx)) * (max(av, bv) - min(ay, by))
    return shared / joint - (hull - joint) / hull


def divergence(student: list[float], teacher: list[float], *, softmax: float | None) -> float:
    """By hand: of independent sigmoids, or T^2 times that of softmaxes with T."""
    if softmax is None:
        pairs = [(1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))) for s, t in zip(student, teacher)]
        return sum(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for q, p in pairs)
    q, p = ([math.exp(x / softmax) for x in row] for row in (student, teacher))
    q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
    return softmax**2 * sum(b * math.log(b / a) for a, b in zip(q, p))


@pytest.mark.parametrize("norm", ["weight_sum", "none", "kddetr"])
def test_losses_by_hand(norm: Any) -> None:
    student, teacher = said(0, 2), said(1, 2)
    weights = torch.tensor([[[0.9, 0.5, 0.0]], [[0.8, 0.7, 0.6]]])  # a layer each
    temperature = 10.0 if norm == "kddetr" else None
    kernel = ClassKernel("softmax", 10.0) if temperature else ClassKernel()
    found = point_losses(student, teacher, weights, kernel, CommonClasses.of([0, 1], 2), norm)
    expected = [0.0, 0.0, 0.0]
    for mine, theirs, (row,) in zip(student, teacher, weights.tolist()):
        divisor = {"weight_sum": max(sum(row), 1.0), "none": 1.0, "kddetr": sum(row)}[norm]
        per_class = 2 if norm == "kddetr" else divisor
        for point, weight in enumerate(row):
            scores = [one.logits[0, point].tolist() for one in (mine, theirs)]
            a, b = (one.boxes[0, point].tolist() for one in (mine, theirs))
            expected[0] += weight * divergence(*scores, softmax=temperature) / per_class
            expected[1] += weight * sum(abs(x - y) for x, y in zip(a, b)) / 4 / divisor
            expected[2] += weight * (1 - giou(a, b)) / divisor
    assert [loss.item() for loss in found] == pytest.approx(expected, rel=1e-4)


def test_points_divide_by_all_processes_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As released, KD-DETR divides by its own process' alone."""
    given = (said(0, 1), said(1, 1), torch.full((1, 1, 3), 0.9), ClassKernel(), CommonClasses.of([0, 1], 2))
    alone = {norm: point_losses(*given, norm) for norm in ("weight_sum", "kddetr")}
    monkeypatch.setattr(dist, "mean", lambda tensor: 2 * tensor)
    among = {norm: point_losses(*given, norm) for norm in ("weight_sum", "kddetr")}
    torch.testing.assert_close(torch.stack(among["weight_sum"]), torch.stack(alone["weight_sum"]) / 2)
    assert torch.equal(torch.stack(among["kddetr"]), torch.stack(alone["kddetr"]))


def test_only_common_classes_are_compared() -> None:
    """Student (a, b, c), teacher (c, a): b is nobody's business."""
    classes = CommonClasses.of([1, None, 0], 2)
    (mine,), (theirs,) = said(0, 1, classes=3), said(1, 1)
    weights = torch.ones(1, 1, 3)
    found = point_losses([mine], [theirs], weights, ClassKernel(), classes).classes
    picked = Predictions(mine.logits[..., [0, 2]], mine.boxes), Predictions(theirs.logits[..., [1, 0]], theirs.boxes)
    expected = point_losses([picked[0]], [picked[1]], weights, ClassKernel(), CommonClasses.of([0, 1], 2)).classes
    torch.testing.assert_close(found, expected)
    nothing = CommonClasses.of([None, None, None], 2)
    for norm in ("weight_sum", "kddetr"):
        losses = point_losses([mine], [theirs], weights, ClassKernel(), nothing, norm)
        assert losses.classes == 0
        assert losses.l1 > 0


def gradients(loss: Tensor, model: nn.Module) -> set[str]:
    """Names of the weights that it moves."""
    model.zero_grad()
    loss.backward()
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("options", [{}, {"kernel": "softmax", "temperature": 10.0}, {"norm": "kddetr"}])
def test_a_student_like_its_teacher_loses_nothing(name: str, options: dict[str, Any]) -> None:
    student = detector(0)
    objective = taught(student, copied(student), POINTS[name](**options))
    terms = terms_of(objective, student)
    found = {key: loss.item() for key, loss in terms.items() if name in key}
    assert set(found) == {f"loss_{name}_{term}" for term in ("cls", "l1", "giou")}
    assert max(map(abs, found.values())) < 2e-6
    with torch.no_grad():
        for part in (student.decoder.layers, student.decoder.box_head, student.decoder.score_head):
            for weight in part.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    moved = terms_of(objective, student)
    assert all(moved[key] > 1e-4 for key in found)


@pytest.mark.parametrize("name", POINTS)
def test_who_learns(name: str) -> None:
    """The student alone, also where widths differ; adapters with it, frozen embeddings never."""
    student, teacher = detector(0), detector(1, dim=32, num_denoising=0)
    before = copy.deepcopy(teacher.state_dict())
    method = POINTS[name]()
    objective = taught(student, teacher, method)
    terms = terms_of(objective, student)
    loss = torch.stack([value for key, value in terms.items() if name in key]).sum()
    assert {"decoder.layers.0.linear1.weight", "backbone.patch.weight"} < gradients(loss, student)
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    trained = {key: weight for key, weight in method.named_parameters() if weight.requires_grad}
    assert list(trained) == ["enter.project.weight"]
    assert trained["enter.project.weight"].grad.any()
    frozen = [weight for weight in method.parameters() if not weight.requires_grad]
    assert len(frozen) == (5 if name == "tcld" else 0)
    assert all(weight.grad is None for weight in frozen)


def test_the_normal_queries_do_not_notice() -> None:
    """Matching, denoising and their losses are those of a run without points."""
    student = detector(0)
    runs = []
    for methods in ([], [KDDETR(general=6), CLoCKDistill(targets=TCLD(general=5))]):
        torch.manual_seed(3)
        runs.append(terms_of(taught(student, detector(1), *methods), student))
    for name, loss in runs[0].items():
        torch.testing.assert_close(runs[1][name], loss, atol=1e-5, rtol=1e-5)
    assert len(runs[1]) > len(runs[0])


def points_at(method: PointDistiller, step_number: int, given: tuple | None = None) -> list:
    images, targets = given or batch()
    return method.teacher_groups(Batch(images, targets, None, Moment(step_number, 0, 0.0)))


def test_both_get_the_same_points_and_fresh_ones_at_every_step() -> None:
    student, teacher = detector(0), detector(1)
    method = KDDETR(general=6)
    objective = taught(student, teacher, method)
    context = step(objective, student, step_number=4)
    assert context.teacher is not None
    (theirs,) = context.teacher.output.groups.values()
    mine = context.student.groups[theirs.group.name]
    assert torch.equal(mine.group.reference_logits, theirs.group.reference_logits)
    assert torch.equal(mine.group.content, theirs.group.content)
    (specific,) = (one for name, one in context.student.groups.items() if "specific" in name)
    assert torch.equal(specific.group.reference_logits, context.teacher.output.taps["queries"].reference_logits)
    drawn = [points_at(method, number)[0].reference_logits for number in (4, 5)]
    assert torch.equal(drawn[0], mine.group.reference_logits)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(("general", "specific", "points"), [(6, True, 14), (6, False, 6), (0, True, 8)])
def test_which_points_there_are(general: int, specific: bool, points: int) -> None:
    student, teacher = detector(0), detector(1)
    method = KDDETR(general=general, specific=specific)
    context = step(taught(student, teacher, method), student)
    assert context.teacher is not None
    mine, theirs, padding = method.answers(context.student, context.teacher.output)
    assert [one.logits.shape for one in (*mine, *theirs)] == [(2, points, CLASSES)] * 4
    assert padding.shape == (2, points)
    assert not padding.any()


def test_weights_and_layers_of_kd_detr() -> None:
    """Each layer from the teacher's same layer, or all from its last; always as sure as the last is."""
    student, teacher = detector(0), detector(1, num_layers=4)
    for method, layers in ((KDDETR(general=6), (1, 3)), (KDDETR(general=6, preset="kddetr"), (3, 3))):
        objective = taught(student, teacher, method)
        context = step(objective, student)
        assert context.teacher is not None
        mine, theirs, _ = method.answers(context.student, context.teacher.output)
        weights = theirs[-1].logits.sigmoid().amax(-1)[None]
        known = (context.teacher.classes, method.norm)
        expected = point_losses(mine, [theirs[layer] for layer in layers], weights, method.kernel, *known)
        assert list(method.losses(context, context.teacher).values()) == list(expected)
    assert (method.kernel, method.norm) == (ClassKernel("softmax", 10.0), "kddetr")


@pytest.mark.parametrize(("layers", "pairs"), [(2, [(0, 0), (1, 1)]), (4, [(1, 3)])])
def test_weights_and_layers_of_clock(layers: int, pairs: list[tuple[int, int]]) -> None:
    """Each layer as sure as the teacher's; the last alone where the models have not as many."""
    student, teacher = detector(0), detector(1, num_layers=layers)
    method = TCLD(general=6, specific=False)
    context = step(taught(student, teacher, method), student)
    assert context.teacher is not None
    mine, theirs, padding = method.answers(context.student, context.teacher.output)
    assert padding.sum() == 3 * 2  # three boxes in the first image, one in the second
    weights = torch.stack([theirs[layer].logits.sigmoid().amax(-1).masked_fill(padding, 0) for _, layer in pairs])
    chosen = [mine[layer] for layer, _ in pairs], [theirs[layer] for _, layer in pairs]
    expected = point_losses(*chosen, weights, ClassKernel(), context.teacher.classes)
    assert list(method.losses(context, context.teacher).values()) == list(expected)


def test_raw_and_weighted() -> None:
    student, teacher = detector(0), detector(1)
    objective = taught(student, teacher, KDDETR(2.0, general=6, factors={"l1": 3.0}))
    context = step(objective, student)
    terms, raw = objective.terms(context), objective.distillers[0].diagnostics(context)
    for term, factor in (("cls", 2.0), ("l1", 6.0), ("giou", 4.0)):
        torch.testing.assert_close(terms[f"loss_kddetr_{term}"], factor * raw[f"raw_kddetr_{term}"])
        assert raw[f"raw_kddetr_{term}"] > 0


def raw_of(method: TeacherDistiller, student: DETR, teacher: nn.Module, given: tuple | None = None) -> Tensor:
    """Raw losses of a method."""
    context = step(taught(student, teacher, method), student, given)
    assert context.teacher is not None
    return torch.stack([*method.losses(context, context.teacher).values()]).detach()


def test_exact_copies_are_a_weight() -> None:
    student, teacher = detector(0), detector(1)
    options: dict[str, Any] = {"general": 0, "specific": False, "norm": "none"}
    once, thrice, moved = (
        raw_of(TCLD(n_copies=copies, copy_noise=noise, **options), student, teacher)
        for copies, noise in ((1, 0.0), (3, 0.0), (3, 0.4))
    )
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(moved, thrice, rtol=1e-3)
    assert once.min() > 0


def test_the_order_of_boxes_and_images_does_not_matter() -> None:
    student, teacher = detector(0), detector(1)
    images, targets = batch((3, 3))
    turned = [{key: value.flip(0) for key, value in target.items()} for target in targets]
    losses = [
        raw_of(TCLD(general=6), student, teacher, given)
        for given in ((images, targets), (images, turned), (images.flip(0), targets[::-1]))
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-4, atol=1e-6)


def test_without_boxes_general_points_are_left() -> None:
    student, teacher = detector(0), detector(1)
    given = batch((0, 0))
    found = raw_of(TCLD(general=6, specific=False), student, teacher, given)
    general = raw_of(KDDETR(general=6, specific=False), student, teacher, given)
    assert found[0] > 0
    assert found.isfinite().all()
    context = step(taught(student, teacher, method := TCLD(general=6, specific=False)), student, given)
    assert context.teacher is not None
    assert method.answers(context.student, context.teacher.output)[2].shape == (2, 6)
    assert general.isfinite().all()
    nothing = raw_of(TCLD(general=0, specific=False), student, teacher, given)
    assert nothing.tolist() == [0, 0, 0]


@pytest.mark.parametrize("counts", [(3, 0), (0, 1)])
def test_padded_batches(counts: tuple[int, int]) -> None:
    student, teacher = detector(0), detector(1, num_queries=1)
    terms = terms_of(taught(student, teacher, TCLD(general=2), LCMD()), student, batch(counts, padded=True))
    assert all(loss.isfinite() for loss in terms.values())


def test_what_target_queries_hold() -> None:
    """The teacher's embedding of classes, by the teacher's number; random where it has none, or on demand."""
    student, teacher = detector(0), detector(1)
    order = [2, None, 0, 1]  # of the student's classes in the teacher's
    given = batch((4, 1))
    method = TCLD(general=0, specific=False, n_copies=1)
    taught(student, teacher, method, classes=order)
    (points,) = points_at(method, 0, given)
    table = teacher.decoder.sources[0].embedding.weight
    assert torch.equal(points.content[0, [0, 2, 3]], table[[2, 0, 1]])
    assert points.padding.tolist() == [[False, True, False, False], [False, True, True, True]]
    literal = TCLD(general=0, specific=False, n_copies=1, embed="random_frozen")
    taught(student, teacher, literal)
    (points,) = points_at(literal, 0, given)
    held = literal.teller.labels(torch.tensor([0])) + literal.teller.boxes(given[1][0]["boxes"][:1])
    torch.testing.assert_close(points.content[0, :1], held)
    bare = detector(1, num_denoising=0)
    fallback = TCLD(general=0)
    taught(student, bare, fallback)
    assert fallback.teller.labels.weight.shape == (CLASSES, 16)
    with pytest.raises(ValueError, match=r"TCLD\.embed: the teacher has no embedding of classes, as it was built"):
        taught(student, bare, TCLD(embed="teacher"))


def test_clock_is_its_two_halves() -> None:
    student, teacher = detector(0), detector(1)
    whole, halves = CLoCKDistill(3.0, targets=TCLD(general=6)), (LCMD(), TCLD(general=6))
    found = terms_of(taught(student, teacher, whole), student)
    parts = terms_of(taught(student, teacher, *halves), student)
    assert set(whole.names) == {f"loss_{name}" for name in ("lcmd_fg", "lcmd_bg", "tcld_cls", "tcld_l1", "tcld_giou")}
    assert set(found) == set(parts)
    for name in whole.names:
        torch.testing.assert_close(found[name], 3 * parts[name])
    weighted = CLoCKDistill(memory=LCMD(2.0), targets=TCLD(0.5))
    assert weighted.parts == pytest.approx(
        {"loss_lcmd_fg": 1e-4, "loss_lcmd_bg": 2e-7, "loss_tcld_cls": 0.5, "loss_tcld_l1": 2.5, "loss_tcld_giou": 1.0}
    )
    context = step(taught(student, teacher, whole), student)
    raw = (whole.forward(context), whole.diagnostics(context))[1]
    torch.testing.assert_close(found["loss_lcmd_fg"], 3 * 5e-5 * raw["raw_lcmd_fg"])
    torch.testing.assert_close(found["loss_lcmd_bg"], 3 * 1e-7 * raw["raw_lcmd_bg"])


def test_all_in_mixed_precision() -> None:
    student, teacher = detector(0), detector(1, dim=32)
    objective = taught(student, teacher, KDDETR(general=6), CLoCKDistill(targets=TCLD(general=6)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = terms_of(objective, student)
    assert {loss.dtype for name, loss in terms.items() if "kddetr" in name or "tcld" in name} == {torch.float32}
    assert all(loss.isfinite() for loss in terms.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KDDETR(general=0, specific=False), "KDDETR has no points: set general above 0, or specific: True"),
        (lambda: KDDETR(general=-1), "KDDETR.general is -1: give 0 or more"),
        (lambda: KDDETR(preset="kdetr"), "KDDETR.preset: 'kdetr' is none of 'default', 'kddetr'"),
        (lambda: KDDETR(norm="mean"), "KDDETR.norm: 'mean' is none of 'weight_sum', 'none', 'kddetr'"),
        (lambda: KDDETR(layers="first"), "KDDETR.layers: 'first' is none of None, 'last_only', "),
        (lambda: KDDETR(content="student"), "KDDETR.content: 'student' is none of 'teacher', 'zero'"),
        (lambda: KDDETR(factors={"l2": 1.0}), "KDDETR.factors: 'l2' is none of 'cls', 'l1', 'giou'"),
        (lambda: KDDETR(factors={"l1": -1.0}), "KDDETR.factors.l1 is -1.0: give 0 or more"),
        (lambda: TCLD(n_copies=0), "n_copies must be at least 1, got 0"),
        (lambda: TCLD(copy_noise=1.5), "TCLD.copy_noise is 1.5: give a number from 0 to 1"),
        (lambda: TCLD(embed="student"), "TCLD.embed: 'student' is none of None, 'teacher', 'random_frozen'"),
        (
            lambda: CLoCKDistill(memory=LCMD(start={"mode": "step", "value": 3})),
            "CLoCKDistill.memory.start is not read: give CLoCKDistill.start, that of both",
        ),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_models_that_do_not_fit() -> None:
    student = detector(0)
    with pytest.raises(
        ValueError, match="KDDETR: a softmax over the one class in common says nothing: choose kernel: bin"
    ):
        taught(student, detector(1), KDDETR(preset="kddetr"), classes=[0, None, None, None])
    at_points = detector(1)
    at_points.decoder.queries.reference_dim = 2
    with pytest.raises(
        ValueError, match="KDDETR: the teacher's own queries start at points, the student's at boxes: set"
    ):
        KDDETR().prepare(student, lesson(at_points).teacher, lesson(detector(1)).classes)
