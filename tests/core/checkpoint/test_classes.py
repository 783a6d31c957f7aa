# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Classes found by name: equal, divided differently, synonyms, and what is ambiguous."""

import random

import pytest
import torch
from torch import nn

from isdfine.core.checkpoint.weights import ClassMap, class_tensors, count_classes, moved_rows, normalised
from isdfine.core.errors import CheckpointError
from isdfine.solver.tuning import map_classes

TABLE = {"tv": "=tv", "television": "=tv", "tvmonitor": "=tv", "screen": "=tv"}


def test_case_and_separators_do_not_matter() -> None:
    found = map_classes(["Traffic Light", "fire-hydrant", "Straße"], ["fire_hydrant", "STRASSE", " traffic  light"], {})
    assert found.rows == (1, 2, 0)
    assert found.new == []


def test_words_may_be_divided_differently_where_it_is_clear() -> None:
    assert map_classes(["Potted Plant"], ["pottedplant"], {}).rows == (0,)
    # equal names come first: 1-0 and 10 are two classes
    assert map_classes(["size 1-0", "size 10"], ["size 10", "size 1 0"], {}).rows == (1, 0)


def test_synonyms_come_last_and_one_row_may_serve_two_classes() -> None:
    assert map_classes(["cat", "Television"], ["tv", "cat", "TV monitor"], TABLE).rows == (1, 0, 1)
    assert map_classes(["tv", "television"], ["Television"], TABLE).rows == (1,)


def test_two_rows_for_one_class_are_refused() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"the class 'screen' could take the row of 'tv' or of 'television', which tuning_classes x both has: "
        r"name it like one of them in the data, or set class_synonyms",
    ):
        map_classes(["tv", "television"], ["screen"], TABLE, source_place="tuning_classes x")


@pytest.mark.parametrize("pair", [("K", "k"), ("hot dog", "hot_dog"), ("a-b", "A B")])
def test_names_that_differ_in_case_only_take_rows_of_exactly_their_name(pair: tuple[str, str]) -> None:
    one, other = pair
    assert map_classes(["x", other, one], ["y", one, other], {}).rows == (None, 2, 1)
    half = map_classes([other], [one, other], {})  # else both would start from one row, which one class alone trained
    assert (half.rows, half.new) == ((None, 0), [one])
    assert map_classes([one.upper() + "s"], [f"{one}s", f"{other}s"], {}).rows in ((0, None), (None, None))
    assert map_classes([one, other], [one], {}).rows == (0,)
    with pytest.raises(CheckpointError, match=f"could take the row of '{one}' or of '{other}', which old.pth both has"):
        map_classes([one, other], [f" {one} "], {}, source_place="old.pth")
    assert map_classes(pair, pair, {}).identical  # nothing has to be found out


def test_names_of_signs_only_stay_apart() -> None:
    assert normalised("-") != normalised("_")
    assert map_classes(["-", "_"], ["_", "-"], {}).rows == (1, 0)


@pytest.mark.parametrize("seed", range(50))
def test_a_permutation_is_undone(seed: int) -> None:
    generator = random.Random(seed)
    drawn = ["".join(generator.choices("abXY", k=generator.randint(1, 4))) for _ in range(generator.randint(1, 8))]
    names = list({name.casefold(): name for name in drawn}.values())
    shuffled = list(names)
    generator.shuffle(shuffled)
    found = map_classes(names, shuffled, {})
    assert [names[row] for row in found.rows if row is not None] == shuffled
    assert found.identical == (names == shuffled)


def test_identical_needs_the_same_number() -> None:
    assert not ClassMap(("a", "b"), ("a",), (0,)).identical
    assert ClassMap(("a",), ("A",), (0,)).identical


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.class_rows = {"score": 0, "table": 1}
        self.score = nn.ModuleList([nn.Linear(2, classes), nn.Linear(2, classes)])
        self.table = nn.Embedding(classes + 1, 2)
        self.score_of_boxes = nn.Linear(2, 4)


def test_the_model_says_which_tensors_have_class_rows() -> None:
    model = nn.ModuleDict({"decoder": Head(3), "score": nn.Linear(2, 3)})
    rows = class_tensors(model)
    assert rows == {
        **{f"decoder.score.{index}.{what}": 0 for index in (0, 1) for what in ("weight", "bias")},
        "decoder.table.weight": 1,
    }
    assert class_tensors(Head(3))["table.weight"] == 1


def test_the_number_of_classes_is_what_most_tensors_say() -> None:
    rows = class_tensors(Head(3))
    state = Head(80).state_dict()
    assert count_classes(state, rows) == 80
    state["score.0.weight"], state["score.0.bias"] = torch.zeros(1, 2), torch.zeros(1)  # agnostic selection
    assert count_classes(state, rows) == 80
    assert count_classes({"backbone.weight": torch.zeros(3)}, rows) is None


def test_moved_rows_keep_the_rest() -> None:
    own, theirs = torch.zeros(4, 2), torch.arange(6.0).reshape(3, 2)
    moved = moved_rows(own, theirs, ClassMap(("a", "b"), ("b", "x", "a"), (1, None, 0)))
    assert moved.tolist() == [[2, 3], [0, 0], [0, 1], [0, 0]]
    assert own.sum() == 0
