# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from isdfine.nn.queries import join_groups, split_predictions
from isdfine.nn.types import Predictions, QueryGroup


def group(name: str, count: int, **more: object) -> QueryGroup:
    return QueryGroup(name, torch.randn(2, count, 4), torch.randn(2, count, 4), **more)


def test_one_group_needs_no_mask() -> None:
    joined = join_groups([group("", 3)])
    assert joined.attn_mask is None
    assert joined.sizes == [3]


def test_block_mask() -> None:
    inner = torch.tensor([[False, True], [True, False]])
    joined = join_groups(
        [group("dn", 2, mask=inner, attends_to=("",)), group("", 3), group("kd", 1, attends_to=("dn",))]
    )
    want = [
        [0, 1, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1],
        [0, 0, 1, 1, 1, 0],
    ]
    assert joined.attn_mask.int().tolist() == want
    assert joined.content.shape == joined.reference_logits.shape == (2, 6, 4)


def test_empty_group_blocks_nothing() -> None:
    joined = join_groups([group("dn", 0, mask=torch.zeros(0, 0, dtype=torch.bool), attends_to=("",)), group("", 3)])
    assert joined.attn_mask is None
    assert joined.sizes == [0, 3]


def test_groups_that_read_each_other_need_no_mask() -> None:
    assert join_groups([group("a", 1, attends_to=("b",)), group("b", 2, attends_to=("a",))]).attn_mask is None


def test_split_undoes_the_concatenation() -> None:
    whole = Predictions(torch.randn(2, 5, 3), torch.randn(2, 5, 4), None, torch.randn(2, 5, 4))
    first, second = split_predictions(whole, [2, 3])
    assert torch.equal(torch.cat((first.logits, second.logits), 1), whole.logits)
    assert torch.equal(torch.cat((first.initial_boxes, second.initial_boxes), 1), whole.initial_boxes)
    assert first.edge_logits is None
    assert second.boxes.shape == (2, 3, 4)
    assert split_predictions(whole, [5]) == [whole]


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"query groups need different names, got \['', ''\]"):
        join_groups([group("", 1), group("", 1)])
    with pytest.raises(ValueError, match=r"query group 'dn' attends to \['kd'\], which is not among \['dn', ''\]"):
        join_groups([group("dn", 1, attends_to=("kd", "")), group("", 1)])
