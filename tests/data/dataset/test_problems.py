# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.core.errors import DataError
from isdfine.data.dataset.problems import Problem, Problems


def test_strict_problems_raise_at_once():
    with pytest.raises(DataError, match=r"^a.txt:3: six columns$"):
        Problems().report("broken line", "a.txt:3", "six columns")


def test_collected_problems_are_kept_in_order():
    problems = Problems(collect=True)
    problems.report("bad box", "a.txt:3", "empty")
    problems.report("bad size", "b.xml", "none")
    assert problems.found == [Problem("bad box", "a.txt:3", "empty"), Problem("bad size", "b.xml", "none")]
    assert str(problems.found[0]) == "a.txt:3: empty"


def test_kinds_are_a_closed_list():
    with pytest.raises(ValueError, match="problem kind 'bad bax' is not one of broken json, "):
        Problems(collect=True).report("bad bax", "a", "b")
