# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import load_golden
from isdfine.losses.matched import tabulate
from isdfine.losses.matcher import HungarianMatcher, focal_cost
from isdfine.losses.sets import stack_sets
from isdfine.nn.types import Predictions
from losses.cases import official_matcher, union_match


def random_input(counts=(3, 0, 5), queries=8, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch = len(counts)
    predictions = Predictions(
        torch.randn(batch, queries, classes, generator=generator),
        torch.rand(batch, queries, 4, generator=generator) * 0.3 + 0.2,
    )
    targets = [
        {
            "labels": torch.randint(classes, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.2,
        }
        for n in counts
    ]
    return predictions, targets


def as_lists(indices):
    return [(query.tolist(), target.tolist()) for query, target in indices]


def test_golden_cost_and_assignment():
    arrays, _ = load_golden("fdr_primitives.npz")
    case = {key[8:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("matcher/")}
    targets = [{"labels": case[f"target_labels_{b}"], "boxes": case[f"target_boxes_{b}"]} for b in range(3)]
    predictions = Predictions(case["logits"], case["boxes"])
    matcher = official_matcher()
    stack, table = stack_sets([("", predictions)], 0), tabulate(targets, 3, torch.device("cpu"))
    cost = matcher.cost(stack, table)[0]  # (T, Q)
    for number, image in enumerate(table.image.tolist()):
        torch.testing.assert_close(cost[number], case["cost"][image, :, number], atol=2e-5, rtol=1e-5)
        assert (cost[number][case["cost_is_nan"][image, :, number]] == 1).all()
    for b, (query, target) in enumerate(matcher(predictions, targets)):
        assert torch.stack((query, target)).tolist() == case[f"idx_{b}"].tolist()


def test_class_cost_is_the_official_one_for_any_logit():
    logits = torch.tensor([-torch.inf, -100.0, -25.0, -18.0, -12.0, -3.0, 0.0, 3.0, 12.0, 18.0, 25.0, torch.inf])
    score = logits.sigmoid()
    official = 0.25 * (1 - score) ** 2 * -(score + 1e-8).log() - 0.75 * score**2 * -(1 - score + 1e-8).log()
    torch.testing.assert_close(focal_cost(logits, 0.25, 2.0), official, atol=1e-6, rtol=1e-6)
    assert round(2 * focal_cost(logits, 0.25, 2.0)[2].item(), 2) == 9.21  # at -25, where 0.5 * 25 would be 12.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_dict": {"cost_class": -2.0}}, r"HungarianMatcher.weight_dict.cost_class is -2.0: give 0 or more"),
        ({"weight_dict": {"cost_giou": float("inf")}}, r"weight_dict.cost_giou is inf"),
        ({"alpha": 5.0}, r"HungarianMatcher.alpha is 5.0: give a number from 0 to 1"),
        ({"gamma": -2.0}, r"HungarianMatcher.gamma is -2.0: give 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HungarianMatcher(**{"weight_dict": {"cost_class": 2.0}, **options})


def test_golden_union():
    arrays, _ = load_golden("fdr_primitives.npz")
    sets = []
    for name in ("main", "aux_0", "aux_1", "aux_2", "aux_3", "aux_4"):
        rows = torch.from_numpy(arrays[f"go/{name}"]).long()
        images = range(int(rows[:, 0].max()) + 1)
        sets.append([tuple(rows[rows[:, 0] == image, 1:].T) for image in images])
    expected = torch.from_numpy(arrays["go/union"]).long()
    united = union_match(sets)
    found = [[image, *pair] for image, pairs in enumerate(united) for pair in torch.stack(pairs, 1).tolist()]
    assert found == expected.tolist()


def test_union_breaks_ties_by_query_then_target_and_keeps_one_target_per_query():
    first = [(torch.tensor([5, 3, 1]), torch.tensor([0, 1, 2]))]
    second = [(torch.tensor([1, 2, 5]), torch.tensor([0, 1, 0]))]
    # (5, 0) has two votes; the others one each, ascending; query 1 keeps target 0
    expected = [([5, 1, 2, 3], [0, 0, 1, 1])]
    assert as_lists(union_match([first, second])) == expected
    assert as_lists(union_match([second, first])) == expected


def test_union_of_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert as_lists(union_match([[(nothing, nothing)]])) == [([], [])]


def test_every_image_is_matched_against_its_own_targets_only():
    predictions, targets = random_input()
    together = official_matcher()(predictions, targets)
    for b, target in enumerate(targets):
        alone = official_matcher()(Predictions(predictions.logits[b, None], predictions.boxes[b, None]), [target])
        assert as_lists(alone) == as_lists(together[b : b + 1])


def test_sets_matched_together_equal_sets_matched_alone():
    inputs = [random_input(seed=seed)[0] for seed in range(3)]
    targets = random_input()[1]
    agnostic = Predictions(inputs[0].logits[..., :1], inputs[0].boxes)
    together = official_matcher().match_sets([*inputs, agnostic], targets)
    alone = [official_matcher()(source, targets) for source in [*inputs, agnostic]]
    assert [as_lists(indices) for indices in together] == [as_lists(indices) for indices in alone]


def test_a_permutation_of_the_targets_permutes_the_matches():
    predictions, targets = random_input(counts=(5,))
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = [{key: value[order] for key, value in targets[0].items()}]
    (query, target), (query_2, target_2) = official_matcher()(predictions, targets) + official_matcher()(
        predictions, shuffled
    )
    assert torch.equal(query, query_2)
    assert torch.equal(target, order[target_2])


@pytest.mark.parametrize("counts", [(0, 0), (0, 11), (8, 9)])
def test_no_targets_and_more_targets_than_queries(counts):
    matches = official_matcher()(*random_input(counts=counts))
    for count, (query, target) in zip(counts, matches):
        assert len(query) == len(target) == min(count, 8)
        assert query.unique().numel() == len(query)
        assert target.unique().numel() == len(target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_matches_as_float32_does_on_the_same_values(dtype):
    predictions, targets = random_input(counts=(6, 4), queries=12)
    predictions = Predictions(predictions.logits.to(dtype) * 8, predictions.boxes.to(dtype))
    wide = Predictions(predictions.logits.float(), predictions.boxes.float())
    assert as_lists(official_matcher()(predictions, targets)) == as_lists(official_matcher()(wide, targets))


@pytest.mark.parametrize("logit", [30.0, -30.0, 200.0])
def test_saturated_scores_have_finite_costs_and_boxes_decide(logit):
    predictions, targets = random_input(counts=(3,), queries=6)
    boxes = predictions.boxes.clone()
    boxes[0, [4, 1, 3]] = targets[0]["boxes"]
    matches = official_matcher()(Predictions(torch.full((1, 6, 4), logit), boxes), targets)
    assert as_lists(matches) == [([1, 3, 4], [1, 2, 0])]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["logits", "boxes", "everything"])
def test_broken_predictions_are_matched_without_a_crash(value, where):
    predictions, targets = random_input()
    logits, boxes = predictions.logits.clone(), predictions.boxes.clone()
    if where != "boxes":
        logits[:, ::2] = value
    if where != "logits":
        boxes[:, ::2] = value
    if where == "everything":
        logits[:], boxes[:] = value, value
    matches = official_matcher()(Predictions(logits, boxes), targets)
    assert [len(query) for query, _ in matches] == [3, 0, 5]


def test_duplicate_touching_and_empty_boxes_are_matched():
    box = [0.5, 0.5, 0.2, 0.2]
    truth = torch.tensor([box, box, [0.7, 0.5, 0.2, 0.2], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0.1]])
    boxes = truth.repeat(2, 1)[None]
    targets = [{"labels": torch.zeros(5, dtype=torch.int64), "boxes": truth}]
    ((query, target),) = official_matcher()(Predictions(torch.zeros(1, 10, 2), boxes), targets)
    assert sorted(target.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(boxes[0, query][:, :2], truth[target][:, :2])


def test_targets_of_other_dimensions_are_laid_flat():
    predictions, targets = random_input(counts=(3, 0))
    odd = [{key: value[None] for key, value in targets[0].items()}, {**targets[1], "boxes": torch.zeros(0)}]
    assert as_lists(official_matcher()(predictions, odd)) == as_lists(official_matcher()(predictions, targets))


def test_softmax_cost_is_minus_the_score():
    predictions, targets = random_input(counts=(2, 3))
    matcher = HungarianMatcher({"cost_class": 1})
    stack, table = stack_sets([("", predictions)], 0), tabulate(targets, 2, torch.device("cpu"))
    cost = matcher.cost(stack, table)[0]
    scores = predictions.logits.softmax(-1)
    for number, (image, label) in enumerate(zip(table.image, table.labels)):
        torch.testing.assert_close(cost[number], -scores[image, :, label])


def test_messages():
    with pytest.raises(ValueError, match=r"no cost named cost_box; choose from .*cost_bbox"):
        HungarianMatcher({"cost_box": 5})
    with pytest.raises(ValueError, match="all costs are 0, give one of"):
        HungarianMatcher({"cost_class": 0})
    predictions, targets = random_input()
    with pytest.raises(ValueError, match="predictions of 3 images but 2 targets"):
        official_matcher()(predictions, targets[:2])
    for label in (4, -1):
        bad = [{**targets[0], "labels": targets[0]["labels"] * 0 + label}, *targets[1:]]
        with pytest.raises(ValueError, match=rf"label {label}, but the head has 4 classes \(0..3\): set num_classes"):
            official_matcher()(predictions, bad)
    with pytest.raises(ValueError, match=r"targets\[2\] has 5 boxes but 4 labels"):
        official_matcher()(predictions, [*targets[:2], {**targets[2], "labels": targets[2]["labels"][:4]}])
    with pytest.raises(ValueError, match=r"targets\[0\] has boxes of shape \(3, 5\): give \(T, 4\)"):
        official_matcher()(predictions, [{**targets[0], "boxes": torch.zeros(3, 5)}, *targets[1:]])
    short = Predictions(predictions.logits[:, :4], predictions.boxes[:, :4])
    with pytest.raises(ValueError, match=r"must share \(batch, queries\), got .*\(3, 4\)"):
        official_matcher().match_sets([predictions, short], targets)
