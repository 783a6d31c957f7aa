# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of a decoder on given queries and another memory, in every family."""

import pytest
import torch
from torch import Tensor

from isdfine.nn.padding import Padding
from isdfine.nn.types import DetectorOutput, Predictions, QueryGroup, Want
from isdfine.zoo.decoder import Decoder
from point_cases import FAMILIES, decoder_of, features_of, targets_of

WANT = Want(layers=True, taps=frozenset({"memory", "queries", "layer_starts", "hidden"}))
SIZES = torch.tensor([[64.0, 128.0], [40.0, 70.0]])


def maps_of(output: DetectorOutput) -> list[Tensor]:
    tokens, sizes = output.taps["memory"]
    return [part.mT.unflatten(2, size) for part, size in zip(tokens.split([h * w for h, w in sizes], 1), sizes)]


def again(decoder: Decoder, output: DetectorOutput, padding: Padding | None = None) -> list[Predictions]:
    taps = output.taps
    return decoder.predict_from(taps["layer_starts"], taps["queries"], maps_of(output), padding)


def assert_same(ours: list[Predictions], theirs: list[Predictions], tolerance: float = 0.0) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        for name in ("logits", "boxes", "edge_logits", "initial_boxes"):
            a, b = getattr(mine, name), getattr(other, name)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("padded", ["whole", "exact", "visible"])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_own_queries_and_memory_give_its_own_predictions(family: str, padded: str) -> None:
    decoder = decoder_of(family, num_layers=3).eval()
    padding = None if padded == "whole" else Padding(SIZES, (64, 128), visible=padded == "visible")
    output = decoder(features_of(decoder), padding=padding, want=WANT)
    assert_same(again(decoder, output, padding), output.layers, 1e-6)


@pytest.mark.parametrize("family", ["dfine", "dino", "deformable", "dab dense"])
def test_in_training_the_matching_queries_are_those_of_the_output(family: str) -> None:
    decoder = decoder_of(family).train()
    features, targets = features_of(decoder), targets_of()
    torch.manual_seed(5)
    output = decoder(features, targets, groups=[_group(decoder)], want=WANT)
    assert_same(again(decoder, output), output.layers, 2e-6)
    for before, start in zip(output.taps["hidden"], output.taps["layer_starts"][1:]):
        assert torch.equal(before, start.normed)
        assert start.content.requires_grad
        assert not start.references.requires_grad
        assert not any(tensor.requires_grad for tensor in start.boxes.rows().values())


def test_layers_read_what_they_are_given_and_not_the_layer_before() -> None:
    decoder = decoder_of("dfine", num_layers=3).eval()
    output = decoder(features_of(decoder), want=WANT)
    taps = output.taps
    first, second, third = taps["layer_starts"]
    other = second._replace(content=second.content + 1)
    changed = decoder.predict_from([first, other, third], taps["queries"], maps_of(output))
    assert_same([changed[0], changed[2]], [output.layers[0], output.layers[2]], 1e-6)
    assert not torch.allclose(changed[1].logits, output.layers[1].logits)
    half = [2 * level for level in maps_of(output)]
    moved = decoder.predict_from(taps["layer_starts"], taps["queries"], half)
    assert all(not torch.allclose(one.logits, two.logits) for one, two in zip(moved, output.layers))


def test_padded_cells_of_a_given_memory_are_never_read() -> None:
    decoder = decoder_of("dfine").eval()
    padding = Padding(SIZES, (64, 128))
    output = decoder(features_of(decoder), padding=padding, want=WANT)
    clean, group = maps_of(output), output.taps["queries"]
    dirty = [level + 9 * padding.mask((level.shape[2], level.shape[3])) for level in clean]
    corner = torch.tensor([1.0, 1.0, 0.5, 0.5])  # of the image; boxes reach beyond
    starts = [start._replace(references=corner.expand(2, 5, 4)) for start in output.taps["layer_starts"]]
    found, expected = (decoder.predict_from(starts, group, maps, padding) for maps in (dirty, clean))
    assert_same(found, expected)


def _group(decoder: Decoder) -> QueryGroup:
    """Further queries, to stand beside the matching ones."""
    start = decoder.queries_at(torch.zeros(2, 3, 4))
    return QueryGroup("further", start.content, start.reference_logits, start.position, supervised=False)
