# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Ours against the published order of work, in the shapes of a real decoder, and what ours may cost in counts."""

import pytest
import torch
from torch import Tensor

from isdfine.bench.synthetic import DecoderShapes, SyntheticStep, synthetic_step
from losses.cases import official_objective
from losses.published import PublishedObjective, read_for_log
from losses.test_criterion import Operators

SMALL = {"batch": 3, "queries": 40, "num_classes": 7, "layers": 3, "reg_max": 8, "num_denoising": 12}


def gradients(losses: dict[str, Tensor], step: SyntheticStep) -> list[Tensor]:
    return list(torch.autograd.grad(torch.stack(list(losses.values())).sum(), step.leaves))


@pytest.mark.parametrize("objects", [1, 5, 40, 45])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_and_gradients_are_those_of_the_published_way(objects: int, seed: int) -> None:
    step = synthetic_step(DecoderShapes(objects=objects, **SMALL), seed)
    ours = official_objective(7, 8)(step.output, step.targets)
    theirs = PublishedObjective(7, 8)(step.output, step.targets)
    assert ours.keys() == theirs.keys()
    for name, value in read_for_log(theirs).items():
        assert ours[name].item() == pytest.approx(value, rel=2e-5, abs=1e-6), name
    for gradient, other in zip(gradients(ours, step), gradients(theirs, step)):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.fixture
def host_copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls that bring a tensor to the host, by name."""
    seen: list[str] = []
    for name in ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        kept = getattr(Tensor, name)

        def noted(self: Tensor, *given: object, _kept: object = kept, _name: str = name, **more: object) -> object:
            if self.numel():
                seen.append(_name)
            return _kept(self, *given, **more)  # type: ignore[operator]

        monkeypatch.setattr(Tensor, name, noted)
    return seen


def test_one_copy_to_the_host_and_as_many_operators_for_any_number_of_objects(host_copies: list[str]) -> None:
    objective, counts = official_objective(80, 32), []
    for objects in (1, 5, 20, 60):
        step = synthetic_step(DecoderShapes(batch=2, objects=objects))
        host_copies.clear()
        with Operators() as seen:
            objective(step.output, step.targets)
        assert host_copies == ["cpu", "numpy"]  # the copy, and its view as an array
        counts.append(seen.names.total() - seen.names["detach"])
    assert max(counts) - min(counts) <= 2  # the class costs have two orders of work
    assert max(counts) <= 600


def test_an_image_more_costs_no_operator() -> None:
    objective, counts = official_objective(80, 32), []
    for batch in (2, 8):
        step = synthetic_step(DecoderShapes(batch=batch, objects=3, queries=30, num_denoising=6))
        with Operators() as seen:
            objective(step.output, step.targets)
        counts.append(seen.names)
    assert counts[0] == counts[1]
    assert counts[1].total() - counts[1]["detach"] <= 590
