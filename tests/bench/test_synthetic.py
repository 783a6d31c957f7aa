# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from isdfine.bench.synthetic import DecoderShapes, synthetic_step
from isdfine.core.errors import ConfigError


def test_a_step_has_the_shapes_that_were_asked_for_and_comes_from_its_seed() -> None:
    shapes = DecoderShapes(batch=2, objects=4, queries=9, num_classes=5, layers=3, reg_max=8, num_denoising=10)
    step, again, other = (synthetic_step(shapes, seed) for seed in (0, 0, 1))
    assert [tuple(layer.logits.shape) for layer in step.output.layers] == [(2, 9, 5)] * 3
    assert step.output.layers[0].edge_logits is not None
    assert step.output.layers[0].edge_logits.shape == (2, 9, 36)
    assert step.output.initial is not None
    assert step.output.initial.edge_logits is None
    group = step.output.groups["dn"].group
    assert shapes.denoising_groups == group.repeats == 2
    assert group.assigned is not None
    assert group.assigned.tolist() == [([0, 1, 2, 3] + [-1] * 4) * 2] * 2
    assert len(step.leaves) == 3 * 3 + 2 + 2
    same = [torch.equal(tensor, more) for tensor, more in zip(step.leaves, again.leaves)]
    assert all(same)
    assert not any(torch.equal(tensor, more) for tensor, more in zip(step.leaves, other.leaves))


def test_no_objects_and_no_denoising() -> None:
    empty = synthetic_step(DecoderShapes(batch=1, objects=0, queries=4))
    assert empty.output.groups["dn"].group.repeats == 0
    assert empty.output.groups["dn"].layers[0].boxes.shape == (1, 0, 4)
    assert synthetic_step(DecoderShapes(batch=1, objects=2, queries=4, num_denoising=0)).output.groups == {}


def test_impossible_shapes_are_all_named() -> None:
    with pytest.raises(ConfigError, match="batch is 0: give 1 or more; objects is -1: give 0 or more"):
        DecoderShapes(batch=0, objects=-1)


@pytest.mark.parametrize("objects", [3, 12])
def test_found_objects_have_a_query_beside_them_that_knows_the_class(objects: int) -> None:
    shapes = DecoderShapes(batch=2, objects=objects, queries=9, num_classes=5, layers=2, reg_max=8, found=True)
    step = synthetic_step(shapes)
    for layer in [*step.output.layers, step.output.initial, step.output.proposals]:
        assert layer is not None
        for boxes, logits, target in zip(layer.boxes, layer.logits, step.targets):
            distance = (boxes[:, None] - target["boxes"][:9]).abs().amax(-1)  # (Q, T)
            near = distance.argmin(0)
            assert len(set(near.tolist())) == min(objects, 9)
            assert distance.amin(0).max() < 0.15
            assert (logits[near].argmax(-1) == target["labels"][:9]).float().mean() > 0.8
    apart = synthetic_step(DecoderShapes(batch=2, objects=objects, queries=9, num_classes=5, layers=2, reg_max=8))
    assert not torch.equal(apart.output.layers[0].boxes, step.output.layers[0].boxes)
