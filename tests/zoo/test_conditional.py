# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Conditional dense attention: the official decoder's numbers, masks, what is recorded."""

import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr, load_golden
from isdfine.nn.keys import PartTable, use_table
from isdfine.nn.types import QueryGroup
from isdfine.zoo.conditional import ConditionalDecoderLayer, ConditionalQueryPosition
from isdfine.zoo.decoder import Decoder
from isdfine.zoo.heads import DirectBoxHead, ScoreHead
from isdfine.zoo.inputs import DecoderInputs
from isdfine.zoo.projection import InputProjection
from isdfine.zoo.queries import LearnedAnchorQueries
from unit_cases import close, draws

DIM, HEADS = 32, 8
NAMES = PartTable(
    (
        ("unit.decoder.layers", "layers"),
        ("unit.decoder.norm", "norm"),
        ("unit.decoder.query_scale", "position.scale"),
        ("unit.decoder.ref_point_head", "position.head"),
        ("unit.decoder.ref_anchor_head", "position.size"),
        ("unit.decoder.bbox_embed", "box_head.layers.0"),
    )
)


def decoder() -> Decoder:
    """Of the unit fixture, without filled weights."""
    model = Decoder(
        InputProjection([DIM], DIM, 1),
        LearnedAnchorQueries(6, DIM, content="zeros"),
        [ConditionalDecoderLayer(DIM, HEADS, 64, first=index == 0) for index in range(3)],
        ConditionalQueryPosition(DIM),
        DirectBoxHead([DIM] * 3, shared=True, eps=1e-3),
        ScoreHead([DIM], 5, shared=True),
        norm=nn.LayerNorm(DIM),
    )
    use_table(model, NAMES)
    return model


@pytest.mark.parametrize("case", ["content", "zero_content"])
def test_the_decoder_of_dab_detr_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = load_golden("detr/units_dab.npz")
    model = fill_detr.fill_module(decoder())
    content = draws(62, (6, 2, DIM)) * (case == "content")
    leaf = content.clone().requires_grad_()
    anchors = draws(63, (6, 2, 4))
    inputs = DecoderInputs(
        [torch.zeros(2, DIM, 3, 4)],
        None,
        None,
        None,
        tokens=torch.from_numpy(arrays["dab_encoder/out"]).transpose(0, 1),
        token_positions=draws(61, (12, 2, DIM)).transpose(0, 1),
        token_padding=torch.from_numpy(arrays["dab_encoder/key_padding_mask"]),
    )
    seen: list[Tensor] = []
    place = ConditionalQueryPosition.forward
    monkeypatch.setattr(ConditionalQueryPosition, "forward", lambda *given: seen.append(place(*given)) or seen[-1])
    from isdfine.nn.queries import join_groups

    group = QueryGroup("", leaf.transpose(0, 1), anchors.transpose(0, 1))
    refined = model._refine(join_groups([group]), inputs, 3)
    for index, position in enumerate(seen):
        head, centres = position.transpose(0, 1).chunk(2, dim=-1)
        close(head, arrays[f"dab_decoder/{case}/query_pos{index}"])
        close(centres, arrays[f"dab_decoder/{case}/query_sine{index}"])
    hidden = torch.stack(refined.hidden)
    close(hidden, arrays[f"dab_decoder/{case}/hs"])
    moved = torch.stack([anchors.transpose(0, 1).sigmoid(), *(state.moved for state in refined.states[:-1])])
    close(moved, arrays[f"dab_decoder/{case}/references"])
    if case == "content":
        (hidden.square().sum() + moved.sum()).backward()
        close(leaf.grad, arrays["dab_decoder/content/grad_content"])
