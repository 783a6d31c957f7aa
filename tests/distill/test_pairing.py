# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isdfine.distill.pairing import QueryAligner, QueryPairs, best_pairs, pair_costs
from isdfine.distill.teacher import CommonClasses
from isdfine.losses.matched import MatchedStep
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from isdfine.nn.types import DetectorOutput, Predictions
from losses.cases import Case, official_criterion, random_case

ALL = CommonClasses.of(range(4), 4)
SOME = CommonClasses.of([2, None, 0, 1], 3)
"""Of the student's four classes the teacher knows three, in another order."""


def teacher_of(case: Case, seed: int = 9, *, queries: int = 7, classes: int = 4) -> Predictions:
    random = torch.Generator().manual_seed(seed)
    batch = len(case.targets)
    boxes = torch.rand(batch, queries, 4, generator=random) * 0.3 + 0.2
    return Predictions(torch.randn(batch, queries, classes, generator=random), boxes)


def matched(case: Case, output: DetectorOutput | None = None) -> MatchedStep:
    return official_criterion(4, 8).match(output or case.output, case.targets)


def align(mode: str, case: Case, teacher: Predictions, classes: CommonClasses = ALL, **options: Any) -> QueryPairs:
    return QueryAligner(mode, **options)(case.output.layers[-1], teacher, classes, matched(case))  # type: ignore[arg-type]


def listed(pairs: QueryPairs) -> set[tuple[int, ...]]:
    rows = list(zip(*(column.tolist() for column in pairs)))
    assert len(rows) == len({row[:2] for row in rows})  # a query of the student stands once
    return set(rows)


def shuffled(predictions: Predictions, order: Tensor) -> Predictions:
    chosen = {name: value[:, order] for name, value in vars(predictions).items() if value is not None}
    return Predictions(**chosen)


def test_costs_by_their_definition() -> None:
    case = random_case(0)
    ours, theirs = case.output.layers[-1], teacher_of(case)
    costs = pair_costs(ours.logits, ours.boxes, theirs.logits, theirs.boxes)
    assert costs.shape == (3, 9, 7)
    for image, student, teacher in ((0, 0, 0), (1, 8, 3), (2, 4, 6)):
        logits, scores = ours.logits[image, student], theirs.logits[image, teacher].sigmoid()
        ours_box, their_box = ours.boxes[image, student], theirs.boxes[image, teacher]
        giou = paired_iou_and_giou(cxcywh_to_xyxy(ours_box), cxcywh_to_xyxy(their_box))[1]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores, reduction="sum")
        expected = entropy + 5 * (ours_box - their_box).abs().sum() - 2 * giou
        torch.testing.assert_close(costs[image, student, teacher], expected.detach())
    assert not costs.requires_grad
    broken = ours.boxes.detach().clone()
    broken[0, 0] = torch.nan
    assert pair_costs(ours.logits, broken, theirs.logits, theirs.boxes).isfinite().all()


@pytest.mark.parametrize("mode", ["shared", "hungarian"])
def test_a_model_and_its_copy_pair_query_by_query(mode: str) -> None:
    case = random_case(1)
    found = listed(align(mode, case, case.output.layers[-1]))
    assert {row[:3] for row in found} == {(image, query, query) for image in range(3) for query in range(9)}


def test_hungarian_is_one_to_one_the_cheapest_and_marks_sure_teachers() -> None:
    case = random_case(2)
    ours, theirs = case.output.layers[-1], teacher_of(case)
    scores = theirs.logits.sigmoid().amax(-1)
    pairs = align("hungarian", case, theirs, threshold=0.7)
    assert listed(pairs) == listed(align("hungarian", case, theirs, threshold=0.7))
    for image in range(3):
        here = pairs.image == image
        assert sorted(pairs.teacher[here].tolist()) == list(range(7))
    assert pairs.matched.tolist() == (scores[pairs.image, pairs.teacher] >= 0.7).tolist()
    assert 0 < pairs.matched.sum() < len(pairs.matched)
    costs = pair_costs(ours.logits, ours.boxes, theirs.logits, theirs.boxes)
    total = costs[pairs.image, pairs.student, pairs.teacher].sum()
    random = np.random.default_rng(0)
    for _ in range(50):
        other = sum(costs[b, torch.from_numpy(random.permutation(9)[:7]), torch.arange(7)].sum() for b in range(3))
        assert total <= other
    stages = best_pairs(torch.stack((costs, costs.flip(1))))
    assert stages.shape == (2, 3, 2, 7)
    assert {(b, *pair) for b in range(3) for pair in stages[0, b].T.tolist()} == {row[:3] for row in listed(pairs)}
    assert (stages[1, :, 0].flip(-1) == 8 - stages[0, :, 0]).all()


@pytest.mark.parametrize("mode", ["gt_anchor", "union"])
@pytest.mark.parametrize("classes", [ALL, SOME])
def test_queries_with_a_box_learn_from_the_teachers_query_of_that_box(mode: str, classes: CommonClasses) -> None:
    case = random_case(3)
    theirs = teacher_of(case, classes=4 if classes is ALL else 3)
    step = matched(case)
    pairs = QueryAligner(mode)(case.output.layers[-1], theirs, classes, step)  # type: ignore[arg-type]
    found = listed(pairs)
    # the teacher's matches, by the same matcher with its scores in the student's columns
    wide = torch.full((3, 7, 4), -1e4)
    wide[..., classes.student] = theirs.logits[..., classes.teacher]
    matches = QueryAligner().matcher(Predictions(wide, theirs.boxes), case.targets)
    partner = {
        (image, target): query
        for image, (queries, targets) in enumerate(matches)
        for query, target in zip(queries.tolist(), targets.tolist())
    }
    group = step.matching
    rows, targets = (
        index[0, group.pairs.union].tolist() for index in (group.pairs.query_index, group.pairs.target_index)
    )
    first = group.table.starts
    expected = {
        (row // 9, row % 9, partner[row // 9, target - first[row // 9]], True) for row, target in zip(rows, targets)
    }
    assert {row for row in found if row[3]} == expected
    assert len(expected) > sum(map(len, (target["labels"] for target in case.targets)))  # a box may have several
    others = {row for row in found if not row[3]}
    if mode == "gt_anchor":
        assert not others
        return
    for image in range(3):
        free = {*range(7)} - {row[2] for row in expected if row[0] == image}
        here = [row for row in others if row[0] == image]
        assert len(here) == min(len(free), 9 - sum(row[0] == image for row in expected))
        assert {row[2] for row in here} <= free
        assert len({row[2] for row in here}) == len(here)


@pytest.mark.parametrize("mode", ["gt_anchor", "hungarian", "union"])
def test_permuted_queries_permute_the_pairs(mode: str) -> None:
    case = random_case(4)
    theirs = teacher_of(case)
    before = listed(align(mode, case, theirs))
    random = torch.Generator().manual_seed(0)
    ours, their_order = torch.randperm(9, generator=random), torch.randperm(7, generator=random)
    output = replace(
        case.output,
        layers=[shuffled(layer, ours) for layer in case.output.layers],
        initial=shuffled(case.output.initial, ours),  # type: ignore[arg-type]
        proposals=shuffled(case.output.proposals, ours),  # type: ignore[arg-type]
    )
    aligner = QueryAligner(mode)  # type: ignore[arg-type]
    pairs = aligner(output.layers[-1], shuffled(theirs, their_order), ALL, matched(case, output))
    back = pairs._replace(student=ours[pairs.student], teacher=their_order[pairs.teacher])
    assert listed(back) == before


def test_own_matches_where_the_criterion_takes_no_union() -> None:
    case = random_case(5)
    step = official_criterion(4, 8, use_uni_set=False).match(case.output, case.targets)
    pairs = QueryAligner("gt_anchor")(case.output.layers[-1], teacher_of(case), ALL, step)
    group = step.matching
    last = group.pairs.query_index[group.stack.last_layer, group.pairs.union]
    assert sorted((pairs.image * 9 + pairs.student).tolist()) == sorted(last.tolist())
    assert not torch.equal(last, group.pairs.query_index[0, group.pairs.union])


@pytest.mark.parametrize("mode", ["gt_anchor", "hungarian", "union"])
def test_no_boxes_one_query_and_more_boxes_than_queries(mode: str) -> None:
    for counts, queries, theirs in (((0, 0), 5, 4), ((2, 0), 1, 1), ((6, 1), 4, 3), ((1, 3), 2, 9)):
        case = random_case(6, counts, queries=queries)
        found = listed(align(mode, case, teacher_of(case, queries=theirs)))
        for image, count in enumerate(counts):
            here = [row for row in found if row[0] == image]
            if mode == "hungarian" or (mode == "union" and not count):
                assert len(here) == min(queries, theirs)
            elif not count:
                assert not here
            else:  # every box that the teacher has a query for teaches
                assert len({row[2] for row in here if row[3]}) == min(count, queries, theirs)


def test_one_transfer_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(7)
    step, theirs = matched(case), teacher_of(case)
    transfers: list[int] = []
    whole = Tensor.cpu

    def counted(self: Tensor) -> Tensor:
        transfers.append(self.numel())
        return whole(self)

    monkeypatch.setattr(Tensor, "cpu", counted)
    for name in ("item", "tolist", "nonzero"):
        monkeypatch.setattr(Tensor, name, None)
    for mode, number in (("shared", 0), ("gt_anchor", 1), ("hungarian", 1), ("union", 1)):
        transfers.clear()
        teacher = case.output.layers[-1] if mode == "shared" else theirs
        QueryAligner(mode)(case.output.layers[-1], teacher, ALL, step)  # type: ignore[arg-type]
        assert len(transfers) == number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "index"}, "pairing: 'index' is none of 'shared', 'gt_anchor', 'hungarian', 'union'"),
        ({"mode": "union", "threshold": 0.5}, "threshold is read by pairing: hungarian, not by union: leave it out"),
        ({"mode": "hungarian", "threshold": 1.5}, "threshold is 1.5: give a number from 0 to 1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryAligner(**options)


def test_shared_queries_must_be_as_many() -> None:
    case = random_case(8)
    with pytest.raises(ValueError, match="the student has 9 and the teacher 7: use another pairing"):
        align("shared", case, teacher_of(case))
