# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation points of every family: nobody else reads them, and equal decoders say the same of them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from isdfine.core import dist
from isdfine.distill.points import (
    FrozenTeller,
    PointInput,
    general_points,
    label_rows,
    placed,
    point_decoder,
    specific_points,
    step_generator,
    target_points,
    told_by_teacher,
)
from isdfine.nn.queries import join_groups
from isdfine.nn.types import DetectorOutput, Predictions, QueryGroup, Want
from isdfine.zoo.decoder import Decoder
from point_cases import CLASSES, DIM, FAMILIES, decoder_of, seen_by, targets_of

WANT = Want(layers=True, taps=frozenset({"queries", "hidden"}))
ROWS = torch.tensor([0, 1, 2, -1])
"""Both know the same classes."""
CPU = torch.device("cpu")


def points_of(decoder: Decoder, *, literal: bool = False) -> list[QueryGroup]:
    """General and target-aware points."""
    told = decoder.class_content(torch.tensor([0])) is not None and not literal
    teller = told_by_teacher(decoder) if told else FrozenTeller(CLASSES, DIM)
    generator = step_generator(7, CPU)
    return [
        general_points("general", decoder, 6, 2, generator),
        target_points("target", targets_of(), ROWS, teller, noise=0.2, generator=generator),
    ]


def predictions(sets: list[Predictions]) -> Iterator[Tensor]:
    for one_set in sets:
        yield from (one_set.logits, one_set.boxes)


def assert_same(ours: list[Predictions], theirs: list[Predictions], tolerance: float = 1e-6) -> None:
    assert len(ours) == len(theirs) == 2
    for a, b in zip(predictions(ours), predictions(theirs)):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_reads_them(family: str) -> None:
    """In training too, where there are denoising queries."""
    decoder = decoder_of(family)
    groups = [placed(points, decoder) for points in points_of(decoder)]
    for mode in (True, False):
        decoder.train(mode)
        targets = targets_of() if mode else None
        alone, beside = (seen_by(decoder, given, targets=targets, want=WANT) for given in ([], groups))
        assert_same(alone.layers, beside.layers)
        assert set(beside.groups) - set(alone.groups) == {"general", "target"}
        for name, group in alone.groups.items():
            assert_same(group.layers, beside.groups[name].layers)
        by_itself = [seen_by(decoder, [group], targets=targets, want=WANT).groups[group.name] for group in groups]
        for group in by_itself:
            assert_same(group.layers, beside.groups[group.group.name].layers)


def test_they_read_nobody_but_their_copy() -> None:
    decoder = decoder_of("dino")
    groups = [placed(points, decoder) for points in points_of(decoder)]
    matching = seen_by(decoder.eval(), [], want=WANT).taps["queries"]
    reads = ~join_groups([*groups, matching]).attn_mask
    blocks = [torch.ones(count, count) for count in (6, 2, 2, 2, 5)]
    assert torch.equal(reads, torch.block_diag(*blocks).bool())


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_decoders_say_the_same(family: str, *, literal: bool) -> None:
    """Of all kinds of points, with the teacher's own queries among them."""
    teacher, student = decoder_of(family).eval(), decoder_of(family)
    points = points_of(teacher, literal=literal)
    with torch.no_grad():
        taught = seen_by(teacher, [placed(one, teacher) for one in points], want=WANT)
    points.append(specific_points("specific", taught.taps["queries"]))
    student.train()
    student.projection.eval()  # statistics of a batch
    enter = PointInput(student, DIM)
    assert not list(enter.parameters())
    said = seen_by(student, [enter(one) for one in points], targets=targets_of(), want=WANT)
    for name in ("general", "target"):
        assert_same(said.groups[name].layers, taught.groups[name].layers)
    assert_same(said.groups["specific"].layers, taught.layers)
    assert not any(tensor.requires_grad for tensor in predictions(taught.groups["general"].layers))
    sum(tensor.sum() for tensor in predictions(said.groups["specific"].layers)).backward()
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_order_does_not_matter(family: str) -> None:
    decoder = decoder_of(family).eval()
    general, _ = points_of(decoder)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = replace(general, content=general.content[:, order], reference_logits=general.reference_logits[:, order])
    before, after = (
        seen_by(decoder, [placed(one, decoder)], want=WANT).groups["general"] for one in (general, shuffled)
    )
    for a, b in zip(predictions(before.layers), predictions(after.layers)):
        torch.testing.assert_close(a[:, order], b, atol=1e-6, rtol=1e-6)


def test_every_family_reads_points_of_every_other() -> None:
    """Of other widths too; without content there is none to project."""
    students = [decoder_of(name, hidden_dim=8) for name in FAMILIES]
    for name in FAMILIES:
        teacher = decoder_of(name).eval()
        general, target = points_of(teacher)
        assert not general_points("general", teacher, 6, 2, step_generator(7, CPU), zero=True).content.any()
        for student in students:
            enter = PointInput(student, DIM)
            assert [weight.shape for weight in enter.parameters()] == [(8, DIM)]
            groups = [enter(one) for one in (general, target)]
            assert all(group.reference_logits.shape[-1] == student.reference_dim for group in groups)
            assert groups[0].content.any() == general.content.any()


def test_random_boxes_are_those_of_their_step_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = decoder_of("dab dense")

    def boxes(step: int) -> Tensor:
        return general_points("general", teacher, 500, 2, step_generator(step, CPU)).reference_logits

    state = torch.get_rng_state()
    first = boxes(3)
    assert torch.equal(first, boxes(3))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, boxes(4))
    assert torch.equal(state, torch.get_rng_state())
    assert first[0].mean().item() == pytest.approx(0, abs=0.1)
    assert first[0].std().item() == pytest.approx(1, abs=0.1)
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    drawn = [boxes(3)]
    monkeypatch.setattr(dist, "rank", lambda: 1)
    drawn += [boxes(step) for step in (3, 4)]
    assert not any(torch.equal(a, b) for a in drawn for b in drawn if a is not b)


@pytest.mark.parametrize(
    ("family", "content"),
    [
        ("dfine", lambda queries: torch.zeros(DIM)),
        ("dfine learned", lambda queries: queries.learned.weight.mean(0)),
        ("dino", lambda queries: queries.learned.weight.mean(0)),
        ("dab", lambda queries: queries.content.weight.mean(0)),
        ("dab dense", lambda queries: queries.patterns.weight.mean(0)),
        ("dn dense", lambda queries: torch.cat((queries.labels.weight[-1], torch.zeros(1)))),
        ("deformable", lambda queries: queries.embedding.weight[:, DIM:].mean(0)),
    ],
)
def test_what_general_points_hold(family: str, content: object) -> None:
    decoder = decoder_of(family)
    held = general_points("general", decoder, 4, 2, step_generator(0, CPU)).content
    assert callable(content)
    torch.testing.assert_close(held, content(decoder.queries).expand(2, 4, -1))
    assert not held.requires_grad


def test_points_of_a_decoder_that_starts_at_points() -> None:
    decoder = decoder_of("deformable")
    learned = seen_by(decoder.eval(), [], want=WANT).taps["queries"]
    boxes = torch.cat((learned.reference_logits, torch.zeros(2, 5, 2)), -1)
    found = decoder.queries_at(boxes)
    assert torch.equal(found.reference_logits, learned.reference_logits)
    torch.testing.assert_close(found.position, learned.position)
    near = decoder.queries_at(boxes + 1e-3)
    assert torch.equal(near.position, found.position)
    torch.testing.assert_close(near.reference_logits, boxes[..., :2] + 1e-3)


def test_copies_of_the_ground_truth() -> None:
    decoder = decoder_of("dn dense")
    points = target_points("target", targets_of(), ROWS, told_by_teacher(decoder), copies=3)
    labels = decoder.sources[0].embedding.weight
    assert points.content.shape == (2, 6, DIM)
    for copied in range(3):
        first, second = 2 * copied, 2 * copied + 1
        torch.testing.assert_close(points.content[0, first], torch.cat((labels[2], torch.ones(1))))
        torch.testing.assert_close(points.content[1, first], torch.cat((labels[1], torch.ones(1))))
        torch.testing.assert_close(points.reference_logits[0, second].sigmoid(), targets_of()[0]["boxes"][1])
        assert not points.content[1, second].any()
    assert points.padding.tolist() == [[False] * 6, [False, True] * 3]
    assert (~points.mask).tolist() == torch.block_diag(*[torch.ones(2, 2)] * 3).bool().tolist()
    assert points.supervised is False
    assert not points.content.requires_grad
    torch.testing.assert_close(points.content[0, 0], decoder.class_content(torch.tensor(2)))


def test_noise_moves_later_copies_alone() -> None:
    teller = FrozenTeller(CLASSES, DIM)
    exact, moved = (
        target_points("target", targets_of(), ROWS, teller, noise=noise, generator=step_generator(0, CPU))
        for noise in (0.0, 0.4)
    )
    assert torch.equal(exact.reference_logits[:, :2], moved.reference_logits[:, :2])
    before, after = (points.reference_logits[0].sigmoid() for points in (exact, moved))
    apart = (before - after).abs() / before[:, 2:].repeat(1, 2)
    assert apart[2:].min() > 0
    assert apart[2:, :2].max() <= 0.2 + 1e-5
    assert apart[2:, 2:].max() <= 0.4 + 1e-5
    assert torch.equal(exact.padding, moved.padding)


def test_classes_that_the_teacher_does_not_know() -> None:
    """Student (dog, cat, cow), teacher (cow, dog)."""
    rows = label_rows(torch.tensor([0, 2]), torch.tensor([1, 0]))
    assert rows.tolist() == [1, -1, 0, -1]
    assert label_rows(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64)).tolist() == [-1]
    assert label_rows(torch.tensor([0]), torch.tensor([5])).tolist() == [5, -1]
    teller = FrozenTeller(2, DIM)
    points = target_points("target", targets_of(), rows, teller, copies=1)
    assert points.padding.tolist() == [[False, False], [True, True]]
    assert torch.equal(points.content[0], teller.labels.weight[[0, 1]])
    cut = target_points("target", targets_of(), label_rows(torch.tensor([0]), torch.tensor([0])), teller, copies=1)
    assert cut.padding.tolist() == [[True, False], [True, True]]


def test_no_boxes_at_all() -> None:
    empty = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
    for family in FAMILIES:
        decoder = decoder_of(family).eval()
        points = placed(target_points("target", empty, ROWS, FrozenTeller(CLASSES, DIM)), decoder)
        assert points.content.shape == (2, 0, DIM)
        output: DetectorOutput = seen_by(decoder, [points], want=WANT)
        assert output.groups["target"].layers[-1].boxes.shape == (2, 0, 4)
        assert output.layers[-1].boxes.isfinite().all()


def test_the_random_teller_is_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    one = FrozenTeller(CLASSES, DIM)
    torch.manual_seed(2)
    other = FrozenTeller(CLASSES, DIM)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert not any(weight.requires_grad for weight in one.parameters())
    boxes = targets_of()[0]["boxes"]
    position = one(torch.tensor([2, 0]), boxes)[1]
    assert not torch.allclose(position[0], position[1])


@pytest.mark.parametrize("family", ["dino", "deformable", "deformable two-stage"])
def test_a_literal_position(family: str) -> None:
    """It is that of a decoder that starts at points, and content for any other."""
    decoder = decoder_of(family)
    points = target_points("target", targets_of(), ROWS, FrozenTeller(CLASSES, DIM))
    group = placed(points, decoder)
    at_points = decoder.reference_dim == 2
    torch.testing.assert_close(group.content, points.content if at_points else points.content + points.position)
    own = decoder.queries_at(points.reference_logits).position
    if at_points:
        assert group.position is points.position
    else:
        assert (own is None) == (family == "dino")
        torch.testing.assert_close(group.position, own)


def test_the_teacher_s_own_queries() -> None:
    for family in FAMILIES:
        decoder = decoder_of(family).eval()
        output = seen_by(decoder, [], want=WANT)
        queries = output.taps["queries"]
        assert queries.content.shape == output.taps["hidden"][0].shape
        points = specific_points("specific", queries)
        assert torch.equal(points.content, queries.content)
        assert (points.position is None) == (queries.reference_logits.shape[-1] == 4)
        assert not points.content.requires_grad
        assert (points.name, points.supervised) == ("specific", False)
    dab = decoder_of("dab")
    anchors = seen_by(dab.eval(), [], want=WANT).taps["queries"].reference_logits
    assert torch.equal(anchors, dab.queries.anchors.weight.expand(2, -1, -1))


def test_a_decoder_that_takes_no_points() -> None:
    with pytest.raises(
        ValueError, match="KDDETR feeds queries to the teacher's decoder, but Linear has no widths: build"
    ):
        point_decoder("KDDETR", "teacher", nn.Linear(1, 1))
    decoder = decoder_of("dino")
    assert point_decoder("KDDETR", "teacher", decoder) is decoder


def test_the_student_is_no_part_of_what_points_pass() -> None:
    student = decoder_of("dino", hidden_dim=8)
    enter = PointInput(student, DIM)
    assert list(enter.state_dict()) == ["project.weight"]
