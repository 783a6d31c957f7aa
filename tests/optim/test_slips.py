# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which regular expressions are slips, and what was meant."""

import re

import pytest

from isdfine.optim.param_groups import find_slips


@pytest.mark.parametrize(
    ("pattern", "corrected", "others"),
    [
        ("^(?=.*backbone)(?!.*norm|bn).*$", "^(?=.*backbone)(?!.*(?:norm|bn)).*$", ("bn",)),
        ("^(?=.*backbone)(?=.*norm|bn).*$", "^(?=.*backbone)(?=.*(?:norm|bn)).*$", ("bn",)),
        ("^(?=.*norm|bn|bias)(?=.*a|b)", None, ("bn", "bias")),
        (r"^(?=.*?[|)\]]|b\|n)", r"^(?=.*?(?:[|)\]]|b\|n))", (r"b\|n",)),
        ("^(?!.*(?:a|b)|c(?:d|e))x", "^(?!.*(?:(?:a|b)|c(?:d|e)))x", ("c(?:d|e)",)),
        ("^(?=.*a|b|^c)", "^(?=.*(?:a|b)|^c)", ("b",)),
    ],
)
def test_slips(pattern: str, corrected: str | None, others: tuple[str, ...]) -> None:
    slips = find_slips(pattern)
    assert slips[0].others == others
    whole = pattern
    for slip in slips:
        whole = whole.replace(slip.text, slip.corrected, 1)
    re.compile(whole)
    assert corrected is None or whole == corrected
    assert find_slips(whole) == []


@pytest.mark.parametrize(
    "pattern",
    [
        "^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$",
        "^(?=.*norm|.*bn).*$",
        "^(?=.*backbone)(?!.*norm).*$",
        "^(?=norm|bn)",
        "norm|bn",
        "(?=.*norm|bn)",  # not anchored: re.search tries every place
        r"^(?=.*[|]norm)",
        r"^(?=.*[]|]x)(?=.*[^]|]y)",
        r"^backbone\.(?=.*norm|bn)",
    ],
)
def test_no_slips(pattern: str) -> None:
    re.compile(pattern)
    assert find_slips(pattern) == []
