# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What makes classes and boxes of a query after every decoder layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.boxes import inverse_sigmoid
from ..nn.edges import decode_corners, weighting
from ..nn.mlp import MLP


class BoxState(NamedTuple):
    """The boxes of all queries after one layer, and what the next layer's step starts from."""

    boxes: Tensor
    """(B, Q, 4) cxcywh that the layer predicts."""
    references: Tensor
    """(B, Q, 4) cxcywh, detached: where the next layer looks. Before the first step (B, Q, 4 or 2)."""
    moved: Tensor | None = None
    """(B, Q, 4 or 2) direct heads: ``references`` with the gradient of this layer."""
    edge_logits: Tensor | None = None
    """(B, Q, 4 * (N + 1)) FDR: sum over the layers so far."""
    initial_boxes: Tensor | None = None
    """(B, Q, 4) cxcywh, FDR: the box that all distributions refine, with its gradient."""
    bins: Tensor | None = None
    """(N + 1,) FDR: W(0..N); None for the head's own."""

    def rows(self) -> dict[str, Tensor]:
        """By name what has a row per query, (B, Q, ..)."""
        return {name: tensor for name, tensor in self._asdict().items() if name != "bins" and tensor is not None}


class BoxHead(nn.Module):
    """One head per decoder layer; the decoder calls ``start`` after its first layer, then ``step`` after each.

    Attributes:
        kind: name of the head in configs (``box_head``) and messages.
        reference_dims: numbers of the references that it can start from: 4 (boxes), 2 (points).
        layers: one module per decoder layer.
    """

    kind: ClassVar[str]
    reference_dims: ClassVar[tuple[int, ...]] = (4, 2)
    layers: nn.ModuleList

    def start(self, content: Tensor, references: Tensor) -> BoxState:
        """Queries (B, Q, D) after the first layer, and the references (B, Q, 4 or 2) in [0, 1] that it looked at."""
        raise NotImplementedError(f"{type(self).__name__} must say what its first step starts from")

    def step(self, index: int, content: Tensor, before: Tensor, state: BoxState, raw: Tensor) -> BoxState:
        """Boxes after layer ``index``, from the queries (B, Q, D') after and before it.

        ``raw`` are those after it without the decoder's last norm, where it has one; else ``content`` itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how queries become boxes")

    def freeze_unused(self) -> None:
        """Freeze what nothing reads where the last layer alone predicts: distributed training wants a gradient for
        the others."""

    def fuse(self, depth: int) -> None:
        """Keep what eval mode needs of the first ``depth`` layers."""
        self.layers = self.layers[:depth]


def box_logits(references: Tensor, eps: float = 1e-5) -> Tensor:
    """References (..., 4) or (..., 2) in [0, 1] -> (..., 4) logits; a point has none for its size (zeros)."""
    logits = inverse_sigmoid(references, eps)
    return logits if logits.shape[-1] == 4 else F.pad(logits, (0, 2))


class DirectBoxHead(BoxHead):
    """Offsets to the reference box in logit space, as in the DETR family since Deformable DETR (arXiv:2010.04159).

    The next layer looks around the new box, detached. With "look forward twice" (Zhang et al., DINO, arXiv:2203.03605)
    the box that a layer is scored by starts from the box of the layer before with its gradient: a layer learns from the
    error of the next one too. In eval mode both are the same numbers, unless the decoder norms what the heads read: the
    box that the next layer looks around is made of the queries without it.

    Args:
        widths: channels of the queries after each layer.
        shared: one head for all layers.
        look_forward_twice: see above.
        refine: False keeps the first references for all layers.
        eps: of the logarithms in the logits of references.
    """

    kind = "direct"

    def __init__(
        self,
        widths: Sequence[int],
        *,
        shared: bool = False,
        look_forward_twice: bool = True,
        refine: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.shared, self.look_forward_twice, self.refine, self.eps = shared, look_forward_twice, refine, eps
        heads = widths[:1] if shared else widths
        self.layers = nn.ModuleList(MLP(width, width, 4, 3).start_at_zero() for width in heads)

    def start(self, content: Tensor, references: Tensor) -> BoxState:
        """See :class:`BoxHead`."""
        return BoxState(references, references, references)

    def step(self, index: int, content: Tensor, before: Tensor, state: BoxState, raw: Tensor) -> BoxState:
        """See :class:`BoxHead`."""
        assert state.moved is not None
        head = self.layers[0 if self.shared else index]
        offsets = head(content).float()
        start = state.moved if self.look_forward_twice else state.references
        boxes = (offsets + box_logits(start, self.eps)).sigmoid()
        if not self.refine:
            return BoxState(boxes, state.references, state.moved)
        steps = offsets if raw is content else head(raw).float()
        moved = (steps + box_logits(state.references, self.eps)).sigmoid()
        return BoxState(boxes, moved.detach(), moved)

    def freeze_unused(self) -> None:
        """See :class:`BoxHead`; a box reaches the next layer's with its gradient, and no further."""
        if not self.shared:
            self.layers[: -2 if self.look_forward_twice else -1].requires_grad_(False)


class Bins(nn.Module):
    """Where the bins of edge distributions lie (D-FINE, arXiv 2410.13842).

    Args:
        up: a, half the width of the inner bin range as a share of the box.
        reg_scale: s = 1/c, how dense the bins are around zero. An int is kept as int64, as official checkpoints do.
        reg_max: N, even; there are N + 1 bins.
        learnable: train a and s.
    """

    table: Tensor | None

    def __init__(self, up: float, reg_scale: int | float, reg_max: int, *, learnable: bool = False) -> None:
        super().__init__()
        if up <= 0:
            raise ValueError(f"up is {up}: half the width of the inner bins must be above 0, 0.5 in official files")
        if reg_scale <= 0:
            raise ValueError(
                f"reg_scale is {reg_scale}: no bins would have any width; for bins of equal width give a small one, "
                "0.01"
            )
        if reg_max < 4 or reg_max % 2:
            raise ValueError(f"reg_max must be even and at least 4, got {reg_max}: official files use 32")
        self.reg_max = reg_max
        self.up = nn.Parameter(torch.tensor([float(up)]), learnable)
        self.reg_scale = nn.Parameter(torch.tensor([float(reg_scale) if learnable else reg_scale]), learnable)
        self.register_buffer("table", None, persistent=False)

    def forward(self) -> Tensor:
        """W(0..N), (N + 1,) float32."""
        return weighting(self.reg_max, self.up, self.reg_scale) if self.table is None else self.table

    def fuse(self) -> None:
        """Compute the bins once and for all."""
        self.table = self().detach()


def bins_of(box_head: str, up: float, reg_scale: int | float, reg_max: int, *, learnable: bool) -> Bins | None:
    """The bins of a box head by its name, None for one without; ValueError with the choices for another name."""
    if box_head not in (DirectBoxHead.kind, FDRBoxHead.kind):
        raise ValueError(f"box_head {box_head!r} is unknown: choose one of fdr, direct")
    return Bins(up, reg_scale, reg_max, learnable=learnable) if box_head == FDRBoxHead.kind else None


class FDRBoxHead(BoxHead):
    """Fine-grained distribution refinement: distributions of the edges add up on one fixed box per query.

    Args:
        widths: channels of the queries after each layer.
        bins: where the distributions' bins lie.
        eps: of the logarithms in the logits of the first references.
    """

    kind = "fdr"

    def __init__(self, widths: Sequence[int], bins: Bins, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.bins, self.eps = bins, eps
        self.initial = MLP(widths[0], widths[0], 4, 3).start_at_zero()
        num_logits = 4 * (bins.reg_max + 1)
        self.layers = nn.ModuleList(MLP(width, width, num_logits, 3).start_at_zero() for width in widths)

    def start(self, content: Tensor, references: Tensor) -> BoxState:
        """See :class:`BoxHead`: the first head's box, which all distributions refine."""
        bins = self.bins()
        initial = (self.initial(content).float() + box_logits(references, self.eps)).sigmoid()
        return BoxState(initial, references, initial_boxes=initial, bins=bins)

    def step(self, index: int, content: Tensor, before: Tensor, state: BoxState, raw: Tensor) -> BoxState:
        """See :class:`BoxHead`."""
        assert state.initial_boxes is not None
        bins = self.bins() if state.bins is None else state.bins
        if state.edge_logits is None:
            edges = self.layers[index](content).float()
        else:
            edges = self.layers[index](content + before.detach()).float() + state.edge_logits
        per_edge = torch.unflatten(edges, -1, (4, -1))
        boxes = decode_corners(state.initial_boxes.detach(), per_edge, bins, self.bins.reg_scale)
        # Not _replace, which torch 2.6 cannot compile.
        return BoxState(boxes, boxes.detach(), state.moved, edges, state.initial_boxes, state.bins)

    def fuse(self, depth: int) -> None:
        """See :class:`BoxHead`; the bins become constants."""
        super().fuse(depth)
        self.bins.fuse()


def box_head_of(widths: Sequence[int], bins: Bins | None, *, eps: float = 1e-5, **direct: bool) -> BoxHead:
    """A head of distributions where there are bins, else one of offsets with the options ``direct``."""
    return DirectBoxHead(widths, eps=eps, **direct) if bins is None else FDRBoxHead(widths, bins, eps=eps)


class ScoreHead(nn.Module):
    """Class scores of a query after every layer.

    Args:
        widths: channels of the queries after each layer.
        num_classes: C.
        quality: one location quality estimator per layer, for edge distributions; none for the scores as they are.
        shared: one head for all layers.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, quality: Sequence[nn.Module] = (), *, shared: bool = False
    ) -> None:
        super().__init__()
        self.shared = shared
        self.quality = nn.ModuleList(quality)
        self.layers = nn.ModuleList(class_head(width, num_classes) for width in (widths[:1] if shared else widths))

    def forward(self, index: int, content: Tensor) -> Tensor:
        """Queries (B, Q, D') after layer ``index`` -> (B, Q, C)."""
        scores: Tensor = self.layers[0 if self.shared else index](content)
        return scores

    def weighed(self, index: int, scores: Tensor, edge_logits: Tensor | None) -> Tensor:
        """Scores (B, Q, C) in float32, moved by the sharpness of the layer's distributions where there are any."""
        if edge_logits is None or not len(self.quality):
            return scores.float()
        moved: Tensor = self.quality[index](scores.float(), edge_logits)
        return moved

    def freeze_unused(self, *, first_predicts: bool) -> None:
        """Freeze what nothing reads where the last layer alone predicts, with or without the first head's box."""
        self.quality[:-1].requires_grad_(False)
        if not self.shared:
            self.layers[1 if first_predicts else 0 : -1].requires_grad_(False)

    def fuse(self, depth: int) -> None:
        """Keep what the last of ``depth`` layers needs; the others keep their numbers, which are checkpoint keys."""
        for name in ("quality", "layers"):
            kept = getattr(self, name)[:depth]
            setattr(self, name, nn.ModuleList([*(nn.Identity() for _ in kept[:-1]), *kept[-1:]]))


def class_head(dim: int, num_scores: int) -> nn.Linear:
    """Scores start at 0.01, so that the many background queries do not swamp the first steps."""
    head = nn.Linear(dim, num_scores)
    nn.init.constant_(head.bias, -math.log(99))
    return head


class LocationQualityEstimator(nn.Module):
    """Add one learned scalar per query to its class logits, computed from how peaked its four edges are.

    Per edge the ``top_k`` largest probabilities and their mean are the evidence. Nothing is detached: the class loss
    reaches the distributions. The last layer starts at zero, so the estimator starts as identity.

    Args:
        num_bins: N, highest bin index of an edge distribution.
        top_k: largest probabilities read per edge.
        hidden_dim, num_layers: size of the perceptron (checkpoint key ``reg_conf``).

    Shapes: logits (..., C) and edge logits (..., 4 * (N + 1)) -> logits (..., C).
    """

    def __init__(self, num_bins: int, *, top_k: int = 4, hidden_dim: int = 64, num_layers: int = 2) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.top_k = top_k
        self.reg_conf = MLP(4 * (top_k + 1), hidden_dim, 1, num_layers).start_at_zero()

    def forward(self, logits: Tensor, edge_logits: Tensor) -> Tensor:
        per_edge = edge_logits.unflatten(-1, (4, self.num_bins + 1)).float().softmax(dim=-1)
        peaks = per_edge.topk(self.top_k, dim=-1).values  # (..., 4, top_k)
        evidence = torch.cat((peaks, peaks.mean(dim=-1, keepdim=True)), dim=-1)
        bonus: Tensor = self.reg_conf(evidence.flatten(-2))
        return logits + bonus


def estimators_of(wanted: bool | None, bins: Bins | None, layers: int) -> list[LocationQualityEstimator]:
    """One per decoder layer, or none; None means: where there are distributions. ValueError where they lack."""
    if wanted and bins is None:
        raise ValueError("quality_estimators need distributions, but box_head is 'direct': set box_head: fdr")
    return [] if bins is None or wanted is False else [LocationQualityEstimator(bins.reg_max) for _ in range(layers)]
