# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Maps made of captured tensors that are written down here, with values worked out by hand or in another way."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.distill.attention import AttentionDistillation, Rows, attn_kl, point_maps
from isdfine.distill.context import DistillationContext
from isdfine.nn.capture import AttentionRecorder, CapturedAttention, recorder
from isdfine.nn.types import TRAINING, DetectorOutput, QueryGroup, Want
from losses.cases import official_criterion

CORNERS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
MASK = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)


def captured(**fields: Any) -> CapturedAttention:
    given: dict[str, Any] = dict.fromkeys(("queries", "keys", "scores", "point_logits", "num_points"), ())
    given |= {"places": {"": slice(0, 3)}, "attn_mask": None, "masks": {}, "padding": {}}
    return CapturedAttention(**{**given, **fields})


def context_of(attention: CapturedAttention | None, progress: float = 0.5) -> DistillationContext:
    """A step of which attention distillation with uniform rows reads nothing but the attention."""
    output: Any = SimpleNamespace(attention=attention)
    return DistillationContext(output, SimpleNamespace(), progress)  # type: ignore[arg-type]


def corners(images: int = 2, heads: int = 2) -> list[Tensor]:
    """Layer 0 attends evenly, layer 1 as in docs/method.md 7.3."""
    teacher = CORNERS.expand(images, heads, 3, 2)
    return [torch.zeros_like(teacher), teacher]


@pytest.mark.parametrize("queries", ["match", "all"])
@pytest.mark.parametrize(
    ("mask", "tau", "expected"), [(None, 1.0, 0.050611), (MASK, 1.0, 0.039200), (MASK, 2.0, 0.041025)]
)
def test_hand_checked_values(mask: Tensor | None, tau: float, expected: float, queries: str) -> None:
    """The whole way from projected queries and keys to the loss."""
    layers = tuple(corners())
    attention = captured(queries=layers, keys=layers, attn_mask=mask, masks={} if mask is None else {"": mask})
    distiller = AttentionDistillation(3.0, temperature=tau, queries=queries)
    assert distiller(context_of(attention))["loss_attn_0"].item() == pytest.approx(3 * expected, abs=3e-6)
    padding = torch.tensor([[False, False, False], [False, False, True]])
    some = dataclasses.replace(attention, padding={"": padding})
    keys = padding[:, None, None]
    blocked = keys if mask is None else mask | keys
    scores = [layer @ layer.mT / 2**0.5 for layer in layers]
    want = attn_kl(*scores, blocked, tau, (~padding).float()[:, None])
    torch.testing.assert_close(distiller(context_of(some))["loss_attn_0"], 3 * want)


def test_weights_of_levels() -> None:
    """Points (3, 6, 3), as in official files: log of the summed probabilities, up to a constant per row."""
    torch.manual_seed(0)
    logits = tuple(2 * torch.randn(2, 3, 4, 12) for _ in range(3))
    attention = captured(point_logits=logits, num_points=(3, 6, 3))
    maps = point_maps(Rows(attention, None, 0.5, every_group=False), by_level=True)
    assert maps.shape == (2, 4, 3, 3)
    for (layer,), given in zip(maps.tensors, logits):
        p = given.softmax(-1)
        summed = torch.stack((p[..., :3].sum(-1), p[..., 3:9].sum(-1), p[..., 9:].sum(-1)), dim=-1)
        found = maps.scores_of(layer)
        torch.testing.assert_close(found.softmax(-1), summed.transpose(1, 2))
        torch.testing.assert_close((found * 0.5).softmax(-1), (summed.log() * 0.5).softmax(-1).transpose(1, 2))
    even = captured(point_logits=(torch.zeros(1, 3, 2, 12),), num_points=(3, 6, 3))
    maps = point_maps(Rows(even, None, 0.5, every_group=False), by_level=True)
    shares = maps.scores_of(*maps.tensors[0]).softmax(-1)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.25]).expand(1, 2, 3, 3))


def test_rows_depend_on_the_progress_alone() -> None:
    attention = captured(point_logits=(torch.zeros(1, 40, 1, 2),), places={"dn": slice(0, 10), "": slice(10, 40)})
    state = torch.get_rng_state()
    chosen = [Rows(attention, 12, progress, every_group=False).index for progress in (0.25, 0.25, 0.26)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert torch.equal(chosen[0], chosen[0].unique())
    assert (int(chosen[0].min()) >= 0, int(chosen[0].max()) < 30, len(chosen[0])) == (True, True, 12)
    everything = Rows(attention, 39, 0.5, every_group=True).index
    assert len(everything) == 39
    assert everything.max() >= 30
    assert Rows(attention, 30, 0.5, every_group=False).index is None
    counts = torch.bincount(
        torch.cat([Rows(attention, 12, step / 1000, every_group=False).index for step in range(1000)])
    )
    assert counts.min() > 330
    assert counts.max() < 470
    assert torch.equal(torch.get_rng_state(), state)


class DenseLayer(nn.Module):
    """Attention of queries to all cells, as a decoder without deformable attention would record it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim)

    def forward(self, content: Tensor, memory: Tensor, hidden: Tensor, record: AttentionRecorder | None) -> Tensor:
        query, key = (
            linear(one).unflatten(-1, (4, -1)).transpose(1, 2)
            for linear, one in ((self.query, content), (self.key, memory))
        )
        if record is not None:
            record.add_dense_cross(query, key, hidden)
        value = memory[:, None].expand(-1, 4, -1, -1)
        read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=~hidden[:, None, None])
        return content + read.mean(1)


class DenseDecoder(nn.Module):
    """Just enough of a decoder with dense cross-attention."""

    attention_kinds = frozenset({"dense_cross_attention"})
    num_attention_layers = num_predicting_layers = 3

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(8) for _ in range(3))

    def forward(self, content: Tensor, memory: Tensor, hidden: Tensor, want: Want = TRAINING) -> DetectorOutput:
        record = recorder(self, want.attention)
        group = QueryGroup("", content, content)
        for layer in self.layers:
            content = layer(content, memory, hidden, record)
        attention = None if record is None else record.finish([group], None)
        return SimpleNamespace(attention=attention)  # type: ignore[return-value]


@pytest.mark.parametrize("subsample", [None, 2])
def test_dense_cross_attention(subsample: int | None) -> None:
    torch.manual_seed(0)
    model, hidden = DenseDecoder(), torch.zeros(2, 7, dtype=torch.bool)
    hidden[0, 4:] = True
    distiller = AttentionDistillation(self_attention=False, dense_cross=True, query_subsample=subsample, ramp=(0, 0))
    distiller.check(model, official_criterion(5, 8))
    output = model(torch.randn(2, 3, 8), torch.randn(2, 7, 8), hidden, distiller.want)
    found = distiller(context_of(output.attention))
    assert list(found) == ["loss_attn_dense_0", "loss_attn_dense_1"]
    seen = output.attention
    rows = Rows(seen, subsample, 0.5, every_group=False).index
    picked = slice(None) if rows is None else rows
    maps = [query[:, :, picked] @ key.mT / 2 for query, key in zip(seen.dense_queries, seen.dense_keys)]
    for student, value in enumerate(found.values()):
        want = attn_kl(maps[student], maps[student + 1], hidden[:, None, None]) / 2
        torch.testing.assert_close(value, want)
        assert value > 1e-3
    found["loss_attn_dense_0"].backward()
    assert model.layers[0].key.weight.grad.any()
    assert model.layers[1].key.weight.grad is None
    with pytest.raises(ValueError, match="needs the decoder's attention, which the output does not hold"):
        distiller(context_of(model(torch.randn(2, 3, 8), torch.randn(2, 7, 8), hidden).attention))


def test_an_image_without_any_cell_to_read_does_not_count() -> None:
    torch.manual_seed(1)
    queries, keys = (tuple(torch.randn(2, 2, n, 4).requires_grad_() for _ in range(2)) for n in (3, 5))
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[1] = True
    attention = captured(dense_queries=queries, dense_keys=keys, key_padding_mask=hidden)
    distiller = AttentionDistillation(self_attention=False, dense_cross=True)
    (value,) = distiller(context_of(attention)).values()
    maps = [query[:1] @ key[:1].mT / 2 for query, key in zip(queries, keys)]
    torch.testing.assert_close(value, attn_kl(*maps))
    value.backward()
    assert queries[0].grad[0].any()
    assert not queries[0].grad[1].any()
