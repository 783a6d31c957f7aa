# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.core.errors import cell, one_line


@pytest.mark.parametrize("text", ["cat", "ünï 猫", "a\u3000b", "می\u200cخواهم", "👩\u200d🚒", " - "])
def test_names_of_any_language_stay_as_they_are(text):
    assert one_line(text) == text


@pytest.mark.parametrize(
    ("text", "said"), [("a\nb", "a?b"), ("\x1b[31mred", "?[31mred"), ("a\u2028b\x7f\x85", "a?b??"), ("\ud800", "?")]
)
def test_what_breaks_a_line_or_steers_a_terminal_is_replaced(text, said):
    assert one_line(text) == said


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_formulas_are_texts_in_a_table(text):
    assert cell(text) == f"'{text}"
    assert cell(f"a{text}") == f"a{text}"
