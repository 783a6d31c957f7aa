# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from isdfine.distill import maps as maps_module
from isdfine.distill.maps import (
    DIVERGENCES,
    LayerMaps,
    attn_kl,
    compare_layers,
    entropy_rows,
    js_rows,
    kl_rows,
    log_map,
    mse_rows,
)

CORNERS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TEACHER = CORNERS @ CORNERS.mT / 2**0.5
STUDENT = torch.zeros(3, 3)
MASK = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)


def scores(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, *shape)
    return student, teacher


def test_hand_checked_values() -> None:
    rows = kl_rows(log_map(STUDENT, None, 1), log_map(TEACHER, None, 1))
    torch.testing.assert_close(rows, torch.tensor([0.045249, 0.045249, 0.061335]), rtol=0, atol=1e-6)
    for mask, tau, expected in ((None, 1.0, 0.050611), (MASK, 1.0, 0.039200), (MASK, 2.0, 0.041025)):
        assert attn_kl(STUDENT, TEACHER, mask, tau).item() == pytest.approx(expected, abs=1e-6)


def test_rows_are_weighted() -> None:
    value = attn_kl(STUDENT, TEACHER, row_w=torch.tensor([1.0, 0.0, 3.0]))
    assert value.item() == pytest.approx((0.045249 + 3 * 0.061335) / 4, abs=1e-6)
    heads = attn_kl(STUDENT.expand(2, 3, 3), TEACHER.expand(2, 3, 3), row_w=torch.tensor([[1.0, 0.0, 3.0]]))
    torch.testing.assert_close(heads, value)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("masked", [False, True])
def test_a_divergence_is_positive_and_zero_for_equal_maps(kind: str, masked: bool) -> None:
    student, teacher = scores(2, 4, 7, 7)
    mask = torch.rand(7, 7) > 0.6 if masked else None
    rows_of = DIVERGENCES[kind]
    far = rows_of(log_map(student, mask, 1), log_map(teacher, mask, 1), mask)
    near = rows_of(log_map(teacher, mask, 1), log_map(teacher + torch.randn(7, 1), mask, 1), mask)
    assert far.shape == (2, 4, 7)
    assert far.min() >= 0
    assert far.max() > 0.01
    assert near.abs().max() < 1e-6, "a constant per row changes nothing"


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
def test_what_stands_at_masked_entries_never_counts(kind: str) -> None:
    """Not even minus infinity, whose difference from itself is no number."""
    maps = [log_map(score, None, 1) for score in scores(3, 4)]
    wider = [torch.nn.functional.pad(feature_map, (0, 2), value=-torch.inf) for feature_map in maps]
    mask = torch.arange(6) >= 4
    torch.testing.assert_close(DIVERGENCES[kind](*wider, mask), DIVERGENCES[kind](*maps, None))


def test_other_divergences_by_hand() -> None:
    p, r = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.2, 0.4, 0.4]])
    middle = (p + r) / 2
    js = 0.5 * ((p * (p / middle).log()).sum() + (r * (r / middle).log()).sum())
    maps = [log_map(row.log(), None, 1) for row in (r, p)]
    torch.testing.assert_close(js_rows(*maps), js[None])
    torch.testing.assert_close(mse_rows(*maps), torch.tensor([0.09 + 2 * 0.15**2]))
    apart = [log_map(torch.tensor([row]), None, 1) for row in ([0.0, -200.0], [-200.0, 0.0])]
    torch.testing.assert_close(js_rows(*apart), torch.tensor([math.log(2)]))


def test_a_joint_permutation_changes_nothing() -> None:
    student, teacher = scores(2, 6, 6)
    mask, order = torch.rand(6, 6) > 0.7, torch.randperm(6)
    weights = torch.rand(6)
    moved = [tensor[..., order, :][..., order] for tensor in (student, teacher, mask)]
    torch.testing.assert_close(
        attn_kl(*moved, 2.0, weights[order]), attn_kl(student, teacher, mask, 2.0, weights), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("tau", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fully_masked_rows_are_finite_and_do_not_count(tau: float, dtype: torch.dtype) -> None:
    student, teacher = (score.to(dtype) * 50 for score in scores(1, 5, 5))
    student.requires_grad_()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[1:3] = True
    mask[4, 2:] = True
    teacher[0, 4, 3] = torch.inf  # whatever stands at a masked place
    value = attn_kl(student, teacher, mask, tau)
    value.backward()
    kept = attn_kl(student[:, [0, 3, 4]], teacher[:, [0, 3, 4]], mask[[0, 3, 4]], tau)
    torch.testing.assert_close(value, kept)
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert not student.grad[:, 1:3].any()
    assert not student.grad[0, 4, 2:].any()


@pytest.mark.parametrize("nothing", [{"mask": torch.ones(3, 3, dtype=torch.bool)}, {"row_w": torch.zeros(3)}])
@pytest.mark.parametrize(("tau", "factor"), [(1.0, 1.0), (2.0, 1.0), (4.0, 65536.0)])
def test_no_valid_row_gives_a_zero_in_the_graph(nothing: dict, tau: float, factor: float) -> None:
    """Whatever the temperature, and the factor that half precision multiplies losses by."""
    student = STUDENT.clone().requires_grad_()
    value = attn_kl(student, TEACHER, **nothing, tau=tau) * factor
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros(3, 3))


def test_the_teacher_gets_no_gradient_and_half_precision_is_computed_in_float32() -> None:
    student, teacher = (score.requires_grad_() for score in scores(2, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = attn_kl(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, attn_kl(student, teacher))
    value.backward()
    assert teacher.grad is None
    assert student.grad.any()


def test_entropy() -> None:
    mask = torch.tensor([[False, False, True, True]])
    assert entropy_rows(log_map(torch.zeros(1, 4), None, 1)).item() == pytest.approx(math.log(4))
    assert entropy_rows(log_map(torch.tensor([[3.0, 3.0, 9.0, 0.0]]), mask, 1), mask).item() == pytest.approx(
        math.log(2)
    )


def projected(layers: int = 4, images: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(5)
    made = torch.randn(layers, 2, images, 2, 6, 4, dtype=torch.float64)
    return [tuple(tensor.requires_grad_() for tensor in pair.unbind()) for pair in made]


def product(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query @ key.mT / 2


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2), (2, 3)], [(1, 0), (2, 1), (3, 2)], [(0, 2), (1, 3), (2, 3)]])
@pytest.mark.parametrize("chunk", [1, 2 * 2 * 36, 1 << 22])
def test_gradients_taken_at_once_are_the_gradients(
    kind: str, pairs: list[tuple[int, int]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps_module, "_CHUNK_CPU", chunk)
    mask = torch.rand(3, 1, 6, 6) > 0.8
    weights = [torch.rand(3, 1, 6, dtype=torch.float64) for _ in pairs]
    results = []
    for at_once in (True, False):
        layers = projected()
        if at_once:
            found = compare_layers(
                LayerMaps(layers, product, mask, (3, 2, 6, 6)), pairs, weights, kind=kind, tau=2.0
            ).divergence
        else:
            logs = [log_map(product(*layer), mask, 2.0) for layer in layers]
            rows = [DIVERGENCES[kind](logs[s], logs[t].detach(), mask) for s, t in pairs]
            found = [(row * weight).sum() for row, weight in zip(rows, weights)]
        sum(value * factor for value, factor in zip(found, (0.5, 3.0, 7.0))).backward()
        results.append([*found, *(tensor.grad for layer in layers for tensor in layer)])
    for mine, expected in zip(*results):
        if expected is None:
            assert mine is None
        else:
            torch.testing.assert_close(mine, expected)
    assert sum(result is not None for result in results[0][3:]) == 6, "three students learn"


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_gradients_are_those_of_finite_differences(
    kind: str, masked: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the student's queries and keys in float64, with rows that have no valid key and rows without weight."""
    monkeypatch.setattr(maps_module, "_CHUNK_CPU", chunk)
    layers = projected(2, 2)
    mask = torch.rand(2, 1, 6, 6) > 0.5 if masked else None
    weights = torch.rand(2, 1, 6, dtype=torch.float64)
    weights[:, :, 4] = 0
    if mask is not None:
        mask[0, :, 2] = True
        weights = weights * ~mask.all(-1)

    def loss(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        maps = LayerMaps([(query, key), layers[1]], product, mask, (2, 2, 6, 6))
        return compare_layers(maps, [(0, 1)], [weights], kind=kind, tau=1.5).divergence[0]

    assert torch.autograd.gradcheck(loss, layers[0], eps=1e-6, atol=1e-7, rtol=1e-5)


def test_maps_are_computed_in_float32_under_autocast() -> None:
    layers = [tuple(tensor.detach().bfloat16().requires_grad_() for tensor in layer) for layer in projected(2)]
    maps, found = LayerMaps(layers, product, None, (3, 2, 6, 6)), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            (value,) = compare_layers(maps, [(0, 1)], [torch.ones(1, 1, 6)], kind="kl", tau=1.0).divergence
        gradients = torch.autograd.grad(value, layers[0])
        assert (value.dtype, gradients[0].dtype) == (torch.float32, torch.bfloat16)
        found.append([value, *gradients])
    assert all(torch.equal(gradient, other) for gradient, other in zip(*found))


def test_excess_entropy() -> None:
    layers = projected(2)
    flat = (torch.zeros_like(layers[0][0]), layers[0][1])
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 4:] = True
    weights = [torch.ones(1, 1, 6)]
    for cut, count in ((None, 6), (mask, 4)):
        given = LayerMaps([layers[1], flat], product, cut, (3, 2, 6, 6))
        found = compare_layers(given, [(0, 1)], weights, kind="kl", tau=1.0, entropy=True)
        assert found.excess[0].item() == pytest.approx(3 * 2 * 6 * 0.02 * math.log(count), rel=1e-5)
    peaked = (layers[0][0] * 10, layers[0][1])
    given = LayerMaps([layers[1], peaked], product, None, (3, 2, 6, 6))
    with torch.no_grad():
        found = compare_layers(given, [(0, 1)], weights, kind="kl", tau=1.0, entropy=True)
    assert found.excess[0] < 0
    assert not found.divergence[0].requires_grad
