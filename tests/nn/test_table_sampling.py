# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The table form of deformable attention against grid_sample, its values and all its gradients."""

import pytest
import torch
from torch import Tensor

from isdfine.nn import cpu, sampling
from isdfine.nn.cpu import FeatureTable, sample_table
from isdfine.nn.sampling import DeformableAttention

SIZES = [(5, 7), (3, 4), (1, 2)]
POINTS = [3, 2, 1]


class Case:
    def __init__(self, seed: int = 0, spread: float = 0.6) -> None:
        random = torch.Generator().manual_seed(seed)
        self.attention = DeformableAttention(16, 4, 3, POINTS)
        for parameter in self.attention.parameters():
            torch.nn.init.normal_(parameter, std=spread, generator=random)
        self.queries = torch.randn(2, 9, 16, generator=random).requires_grad_()
        centre = torch.rand(2, 9, 2, generator=random) * 1.4 - 0.2  # also beyond the maps
        self.references = torch.cat((centre, torch.rand(2, 9, 2, generator=random)), -1).requires_grad_()
        self.values = [torch.randn(2, 16, *size, generator=random).requires_grad_() for size in SIZES]
        self.valid_ratios = torch.rand(2, 3, 2, generator=random) * 0.5 + 0.5

    def run(self, *, padded: bool) -> tuple[Tensor, list[Tensor]]:
        """Answer and gradients of everything."""
        out = self.attention(self.queries, self.references, self.values, self.valid_ratios if padded else None)
        leaves = [self.queries, self.references, *self.values, *self.attention.parameters()]
        return out, list(torch.autograd.grad((out * torch.arange(16)).square().sum(), leaves))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("seed", "layout"), [(0, "contiguous_format"), (1, "channels_last"), (2, "contiguous_format")])
def test_values_and_gradients_are_those_of_grid_sample(
    seed: int, layout: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(seed)
    form = getattr(torch, layout)
    case.values = [value.detach().contiguous(memory_format=form).requires_grad_() for value in case.values]
    asked = []
    kept = sampling.sample_table
    monkeypatch.setattr(sampling, "sample_table", lambda *given: (asked.append(1), kept(*given))[1])
    out, gradients = case.run(padded=padded)
    assert asked
    monkeypatch.setattr(DeformableAttention, "_by_table", lambda *_: False)
    expected, others = case.run(padded=padded)
    assert len(asked) == 1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for gradient, other in zip(gradients, others):
        torch.testing.assert_close(gradient, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)


def test_gradients_are_those_of_small_differences() -> None:
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(1, 2, 5 * 7 + 3 * 4, 2, generator=random)
    locations = torch.rand(1, 2, 2, 5, 2, generator=random) * 0.8 + 0.1
    weights = torch.rand(1, 2, 2, 5, generator=random)
    sides = torch.tensor([(7, 5)] * 3 + [(4, 3)] * 2)
    place = locations * sides - 0.5
    assert (place - place.round()).abs().min() > 0.03  # at a cell's border the slope jumps
    leaves = [tensor.requires_grad_() for tensor in (rows, locations, weights)]

    def total(*given: Tensor) -> Tensor:
        return sample_table(given[0], SIZES[:2], [3, 2], given[1], given[2]).square().sum()

    gradients = torch.autograd.grad(total(*leaves), leaves)
    for leaf, gradient in zip(leaves, gradients):
        step = torch.randn(leaf.shape, generator=random) * 1e-3
        others = [[tensor + sign * step if tensor is leaf else tensor for tensor in leaves] for sign in (1, -1)]
        rise = (total(*others[0]) - total(*others[1])).item() / 2
        assert rise == pytest.approx((gradient * step).sum().item(), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_locations_beyond_all_numbers_answer_as_grid_sample_does(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    broken = case.references.detach().clone()
    broken[0, 3, 0] = value
    out = case.attention(case.queries, broken, case.values)
    torch.autograd.grad(out.sum(), case.values)
    assert out[1].isfinite().all()
    assert out[0, :3].isfinite().all()
    if abs(value) < 1e31:
        monkeypatch.setattr(DeformableAttention, "_by_table", lambda *_: False)
        torch.testing.assert_close(out, case.attention(case.queries, broken, case.values), atol=1e-5, rtol=1e-5)
    else:
        assert out[0, 3].isnan().any()  # named by the guard of the run, never replaced


def test_only_training_on_a_cpu_reads_by_table(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()

    def refuse(*_: object) -> Tensor:
        raise AssertionError("read by table")

    monkeypatch.setattr(sampling, "sample_table", refuse)
    with pytest.raises(AssertionError, match="read by table"):
        case.run(padded=False)
    with torch.no_grad():
        case.attention(case.queries, case.references, case.values)
    case.attention.eval()
    case.run(padded=False)
    discrete = DeformableAttention(16, 4, 3, POINTS, method="discrete")
    discrete(case.queries, case.references, case.values)
    case.attention.train()
    program = torch.export.export(case.attention, (case.queries, case.references, case.values), strict=False)
    assert "grid_sampler" in str(program.graph)


def test_layers_share_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    table = FeatureTable(case.values)
    assert len(table) == 3
    assert [tuple(feature_map.shape) for feature_map in table] == [(2, 16, *size) for size in SIZES]
    rows = table.rows(4)
    assert table.rows(4) is rows
    assert rows.shape == (2, 4, 5 * 7 + 3 * 4 + 2, 4)
    assert torch.equal(rows[:, :, 35 + 4 * 1 + 2].flatten(1), case.values[1][:, :, 1, 2])
    assert table.rows(2).shape == (2, 2, 49, 8)
    seen = []
    kept = cpu.sample_table
    monkeypatch.setattr(sampling, "sample_table", lambda rows, *rest: (seen.append(rows), kept(rows, *rest))[1])
    for _ in range(2):
        case.attention(case.queries, case.references, table)
    assert seen[0] is seen[1]
