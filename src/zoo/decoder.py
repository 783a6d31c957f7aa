# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A decoder put together from parts: where queries come from, layers, box head, score head."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..nn.capture import AttentionRecorder, check_taps, recorder
from ..nn.cpu import FeatureTable
from ..nn.padding import Padding, cleared
from ..nn.queries import JoinedQueries, join_groups, split_predictions
from ..nn.types import (
    TRAINING,
    DetectorOutput,
    GroupOutput,
    LayerStart,
    MemoryTap,
    Predictions,
    QueryGroup,
    Target,
    Want,
)
from .heads import BoxHead, BoxState, FDRBoxHead, ScoreHead
from .inputs import DecoderInputs, Layer, QueryPosition, enlarge_channels
from .projection import InputProjection
from .queries import GroupSource, Memory, Proposals, QueryInit


class Refined(NamedTuple):
    """The queries after each layer that ran."""

    hidden: list[Tensor]
    """(B, Q, D') queries."""
    states: list[BoxState]
    """Their boxes."""
    starts: list[LayerStart]
    """What each began with."""


class Decoder(nn.Module):
    """Select, refine, predict.

    Args:
        projection: the encoder's maps -> one map of D channels per level.
        queries: makes the matching queries, see :class:`QueryInit`.
        layers: decoder layers; those after ``eval_idx`` may be wider and run in training only.
        position: see :class:`QueryPosition`; for groups that bring no position of their own.
        box_head, score_head: make predictions of the queries after each layer.
        sources: make further groups in training, see :class:`GroupSource`.
        eval_idx: index of the layer that is evaluated.
        aux_loss: where all layers are wanted, predict after each; otherwise after the last alone.
        norm: of the queries after any layer, for the heads; the next layer reads them without it (DAB-DETR, DINO).
        token_positions: where the memory's cells lie, :class:`Memory` -> (1 or B, S, D), for layers of dense attention.

    Raises: ValueError for a box head or a source that does not go with what the queries start from.
    """

    taps: frozenset[str] = frozenset({"memory", "queries", "layer_starts", "hidden"})

    def __init__(
        self,
        projection: InputProjection,
        queries: QueryInit,
        layers: Sequence[Layer],
        position: QueryPosition,
        box_head: BoxHead,
        score_head: ScoreHead,
        sources: Sequence[GroupSource] = (),
        eval_idx: int = -1,
        *,
        aux_loss: bool = True,
        norm: nn.LayerNorm | None = None,
        token_positions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_references(queries, box_head, sources)
        self.projection = projection
        self.queries = queries
        self.layers = nn.ModuleList(layers)  # type: ignore[arg-type]  # a layer is a module with that call
        self.widths = [layer.dim for layer in layers]
        self.attention_kinds: frozenset[str] = layers[0].attention_kinds
        self.position = position
        self.norm = norm
        self.token_positions = token_positions
        self.box_head = box_head
        self.score_head = score_head
        self.sources = nn.ModuleList(sources)  # type: ignore[arg-type]  # a source is a module with that call
        self.eval_idx = range(len(layers))[eval_idx]
        self.aux_loss = aux_loss
        self.is_fused = False
        if not aux_loss:
            box_head.freeze_unused()
            score_head.freeze_unused(first_predicts=isinstance(box_head, FDRBoxHead))

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        padding: Padding | None = None,
        *,
        groups: Sequence[QueryGroup] = (),
        sources: Iterable[GroupSource] = (),
        want: Want | None = None,
    ) -> DetectorOutput | Predictions:
        """Select, refine, predict.

        Args:
            features: the encoder's maps (B, feat_channels[i], H, W), fine to coarse.
            targets: ground truth for the sources of further groups, which are called in training, and in eval mode
                where ``want`` is given too. Needed in training if there are denoising queries.
            padding: of the batch; boxes are then fractions of each image without it, and padded cells are never read
                and selected only when nothing else is left.
            groups: further queries; they come back in the output's ``groups``, by name.
            sources: of further groups, beside those the decoder was built with.
            want: what to return; None for ``TRAINING`` in train mode, and in eval mode for the final predictions alone.

        Returns: in eval mode without ``want`` the predictions of layer ``eval_idx``, otherwise what is wanted.

        Raises:
            ValueError: no targets in training, a tap or kind of attention that there is not, or groups that do not fit.
            RuntimeError: layers are wanted, or trained, that were left out by fusing.
        """
        if want is None and self.training:
            want = TRAINING
        wanted = Want() if want is None else want
        if self.is_fused and (self.training or wanted.layers):
            raise RuntimeError("the fused form has no training heads: call eval(), or train the model before fuse()")
        check_taps(self, wanted.taps)
        record = recorder(self, wanted.attention)
        memory = Memory.of(self.projection(features, padding), padding)
        matching, proposals = self.queries(memory)
        joined = [*groups, matching]
        if self.training or (want is not None and targets is not None):
            joined = [*(source(features, targets) for source in (*self.sources, *sources)), *joined]
        queries = join_groups(joined)
        depth = len(self.layers) if wanted.layers else self.eval_idx + 1
        refined = self._refine(queries, self._inputs(queries, memory, record), depth)
        if want is None:
            return self._predict(depth - 1, refined)
        output = self._output(joined, queries, refined, wanted, proposals)
        attention = None if record is None else record.finish(joined, queries.attn_mask)
        taps = {"memory": MemoryTap(memory.tokens, memory.sizes)} if "memory" in wanted.taps else {}
        return replace(output, attention=attention, taps={**output.taps, **taps})

    def predict_from(
        self,
        starts: Sequence[LayerStart],
        group: QueryGroup,
        maps: Sequence[Tensor],
        padding: Padding | None = None,
    ) -> list[Predictions]:
        """What every layer and its heads say of given queries, each of its own: no layer reads the one before.

        Args:
            starts: what each layer begins with, as the tap ``layer_starts`` has it; of any model of the same widths
                with a box head like this one.
            group: gives these queries' mask and position.
            maps: memory (B, D, H, W) per level, of any model; gradients reach it and the queries, and where the weights
                are frozen nothing else.
            padding: of the batch.
        """
        memory, queries = Memory.of([cleared(level, padding) for level in maps], padding), join_groups([group])
        refined = self._refine(queries, self._inputs(queries, memory, None), len(starts), starts)
        return [self._predict(index, refined) for index in range(len(starts))]

    def queries_at(self, boxes: Tensor) -> QueryGroup:
        """Queries at boxes (B, G, 4) before the sigmoid, with content and position as this decoder's own start with,
        see :class:`~isdfine.zoo.queries.QueryInit`: it may look there on behalf of another model, or of ground truth.
        """
        return self.queries.at(boxes)

    def class_content(self, labels: Tensor) -> Tensor | None:
        """Content (.., D) of queries that are told their class, of int64 labels (..); None where training has none."""
        for source in self.sources:
            if callable(teller := getattr(source, "class_content", None)):
                content: Tensor = teller(labels)
                return content
        return None

    @property
    def reference_dim(self) -> int:
        """4 where its queries start at boxes, 2 where they start at points."""
        return self.queries.reference_dim

    @property
    def num_attention_layers(self) -> int:
        """Layers that run, and attend, in training."""
        return len(self.layers)

    @property
    def num_predicting_layers(self) -> int:
        """Layers that predict in training: all, or without ``aux_loss`` the last alone."""
        return len(self.layers) if self.aux_loss else 1

    def fused(self) -> nn.Module:
        """A copy in eval mode that holds only what that mode runs, with equal outputs."""
        fused = copy.deepcopy(self).eval()
        depth = fused.eval_idx + 1
        fused.layers, fused.widths = fused.layers[:depth], fused.widths[:depth]
        if not fused.is_fused:
            fused.box_head.fuse(depth)
            fused.score_head.fuse(depth)
        fused.is_fused = True
        return fused

    def _inputs(self, queries: JoinedQueries, memory: Memory, record: AttentionRecorder | None) -> DecoderInputs:
        """What the layers will read; maps are sampled in fp32, so they are cast once for all layers."""
        values = FeatureTable([level.float() for level in memory.maps])
        valid_ratios = None if memory.padding is None else memory.padding.valid_ratios(memory.sizes)
        visible = memory.padding is not None and memory.padding.visible
        position_ratios = valid_ratios if visible else None
        if self.token_positions is None:
            return DecoderInputs(values, queries.attn_mask, valid_ratios, record, position_ratios=position_ratios)
        return DecoderInputs(  # not with replace, which torch 2.6 cannot compile
            values,
            queries.attn_mask,
            valid_ratios,
            record,
            memory.tokens,
            self.token_positions(memory),
            None if memory.padding is None else memory.padded_cells(),
            position_ratios,
        )

    def _refine(
        self, queries: JoinedQueries, inputs: DecoderInputs, depth: int, starts: Sequence[LayerStart] = ()
    ) -> Refined:
        """Run the first ``depth`` layers; each looks around the boxes of the layer before, or begins as given."""
        references = queries.reference_logits.float().sigmoid()
        start = LayerStart(queries.content, queries.content, references)  # nothing reads the second of the first layer
        refined = Refined([], [], [])
        for index in range(depth):
            if starts:
                start = starts[index]
            width, (content, normed, references, boxes) = self.widths[index], start
            position = self._positions(queries, references, content, index, inputs.position_ratios)
            inputs = inputs.of_width(width)
            if width != self.widths[0]:
                content, normed, position = (enlarge_channels(tensor, width) for tensor in (content, normed, position))
            before, content = normed, self.layers[index](content, references, position, inputs)
            normed = content if self.norm is None else self.norm(content)
            if boxes is None:
                boxes = self.box_head.start(normed, references)
            state = self.box_head.step(index, normed, before, boxes, content)
            refined.starts.append(start)
            refined.hidden.append(normed)
            refined.states.append(state)
            start = LayerStart(content, normed, state.references, state)
        return refined

    def _positions(
        self, queries: JoinedQueries, references: Tensor, content: Tensor, index: int, valid_ratios: Tensor | None
    ) -> Tensor:
        """(B, Q, D) where each query looks, in the layers' terms: its group's own embedding, or that of its box."""
        if not any(given is not None for given in queries.positions):
            return self.position(references, content, index, valid_ratios)
        parts = (tensor.split_with_sizes(queries.sizes, dim=1) for tensor in (references, content))
        return torch.cat(
            [
                self.position(boxes, known, index, valid_ratios) if given is None else given
                for boxes, known, given in zip(*parts, queries.positions)
            ],
            dim=1,
        )

    def _predict(self, index: int, refined: Refined, scores: Tensor | None = None) -> Predictions:
        """What layer ``index`` says; ``scores`` (B, Q, C) of its head, where they are known."""
        state = refined.states[index]
        scores = self.score_head(index, refined.hidden[index]) if scores is None else scores
        initial = None if state.initial_boxes is None else state.initial_boxes.detach()
        logits = self.score_head.weighed(index, scores, state.edge_logits)
        return Predictions(logits, state.boxes, state.edge_logits, initial)

    def _output(
        self,
        groups: Sequence[QueryGroup],
        queries: JoinedQueries,
        refined: Refined,
        want: Want,
        proposals: Proposals | None,
    ) -> DetectorOutput:
        """Hand every group its part of the predictions; the matching queries come last."""
        last, sizes = len(refined.states) - 1, queries.sizes
        initial_boxes = refined.states[0].initial_boxes if want.layers else None
        first = None if initial_boxes is None else self.score_head(0, refined.hidden[0])
        numbers = range(last + 1) if want.layers and self.aux_loss else (last,)
        layers = [self._predict(index, refined, None if index else first) for index in numbers]
        layers_of = list(zip(*(split_predictions(layer, sizes) for layer in layers)))
        initial_of: Sequence[Predictions | None] = [None] * len(sizes)
        if first is not None and initial_boxes is not None:
            initial_of = split_predictions(Predictions(first.float(), initial_boxes), sizes)
        hidden_of: list[tuple[Tensor, ...]] = [()] * len(sizes)
        taps: dict[str, Any] = {"queries": groups[-1]} if "queries" in want.taps else {}
        if "hidden" in want.taps:
            hidden_of = list(zip(*(layer.split_with_sizes(sizes, dim=1) for layer in refined.hidden)))
            taps["hidden"] = hidden_of[-1]
        if "layer_starts" in want.taps:
            taps["layer_starts"] = tuple(_last(start, sizes[-1]) for start in refined.starts)
        extra = [GroupOutput(*parts) for parts in zip(groups, map(list, layers_of), initial_of, hidden_of)][:-1]
        bins = self.box_head.bins if isinstance(self.box_head, FDRBoxHead) else None
        return DetectorOutput(
            layers=list(layers_of[-1]),
            initial=initial_of[-1],
            proposals=None if proposals is None else proposals.predictions(),
            binary_proposals=proposals is not None and proposals.binary,
            groups={part.group.name: part for part in extra},
            up=None if bins is None else bins.up[0],
            reg_scale=None if bins is None else bins.reg_scale[0],
            memory_index=None if proposals is None else proposals.index,
            taps=taps,
        )


def _last(start: LayerStart, count: int) -> LayerStart:
    """Of the last ``count`` queries; boxes are where a layer looks, so they are detached."""
    content, normed, references = (tensor[:, -count:] for tensor in start[:3])
    boxes = start.boxes
    if boxes is not None:  # without bins: another head has its own
        rows = {name: tensor[:, -count:].detach() for name, tensor in boxes.rows().items()}
        boxes = boxes._replace(**rows, bins=None)
    return LayerStart(content, normed, references.detach(), boxes)


def _check_references(queries: QueryInit, head: BoxHead, sources: Sequence[GroupSource]) -> None:
    """Points and boxes do not lie on one axis, and a head may need one of the two."""
    dim, name = queries.reference_dim, type(queries).__name__
    if dim not in head.reference_dims:
        needed = " or ".join(map(str, head.reference_dims))
        raise ValueError(
            f"box_head {head.kind} starts from references of {needed} numbers, {name} gives {dim}: choose another of "
            "the two"
        )
    for source in sources:
        if (given := getattr(source, "reference_dim", dim)) != dim:
            raise ValueError(
                f"{type(source).__name__} gives references of {given} numbers, {name} {dim}: leave the source out "
                "(num_denoising: 0 for denoising), or choose another query initialiser"
            )
