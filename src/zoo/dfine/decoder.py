# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE's decoder (docs/method.md 3 to 5): select queries from the encoder's maps, then refine them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import ConfigError, check_counts
from ...core.registry import register
from ...nn.capture import DEFORMABLE_KINDS, CapturedAttention, check_taps, recorder
from ...nn.mlp import MLP
from ...nn.padding import Padding
from ...nn.queries import join_groups, split_predictions
from ...nn.selection import anchor_logits, filled_up, gather_rows, selector
from ...nn.table_sampling import FeatureTable
from ...nn.types import (
    TRAINING,
    DetectorOutput,
    GroupOutput,
    MemoryTap,
    Predictions,
    QueryGroup,
    Target,
    Want,
)
from .decoder_layer import DecoderLayer
from .denoising import MATCHING, DenoisingSetting, denoising_group, draw_noise
from .depth import check_training_layers, layer_widths
from .direct import DirectDecoder
from .projection import InputProjection, level_sizes
from .refinement import RefinementDecoder, bin_parameters
from .stack import DecoderStack, Heads, class_head


@dataclass(frozen=True)
class Selected:
    """Memory rows that seed the matching queries, best first."""

    index: Tensor
    """(B, Q) int64 row of the flattened memory."""
    content: Tensor
    """(B, Q, D)."""
    logits: Tensor
    """(B, Q, C), or (B, Q, 1) for class-agnostic selection."""
    box_logits: Tensor
    """(B, Q, 4) cxcywh before the sigmoid."""


@register
class DFINETransformer(nn.Module):
    """Two-stage query selection and fine-grained distribution refinement (FDR).

    Argument names are those of official YAML files. The last five are not in them: their other values lead back to
    RT-DETR's decoder, step by step (Table 3 of arXiv 2410.13842).

    Args:
        num_classes: C.
        hidden_dim: D, divisible by ``nhead``.
        num_queries: matching queries Q; an image must have at least as many cells over all levels (padded cells count,
            and a padded batch gets as many as it lacks).
        feat_channels, feat_strides: channels and strides of the encoder's maps, fine to coarse.
        num_levels: levels to attend to; those beyond the encoder's are made by convolutions with stride 2.
        num_points: sampling points per head and level, one number or one per level.
        nhead, num_layers, dim_feedforward, dropout, activation: the decoder layers.
        num_denoising: positive denoising queries per image to aim at, 0 for none (there is no label table then).
        label_noise_ratio, box_noise_scale: noise on denoising labels (0..1) and boxes (in halves of the box).
        learn_query_content: learn the queries' content instead of taking it from the selected rows.
        eval_spatial_size: (height, width) of the images whose anchors are stored for eval mode; other sizes work too.
        eval_idx: layer that answers in eval mode, negative counts from the end; later layers run in training only.
        eps: a cell whose anchor comes closer to 0 or 1 than this is selected only when nothing else is left.
        aux_loss: predict after every layer in training; otherwise the last layer alone answers.
        cross_attn_method: ``default`` samples bilinearly, ``discrete`` reads the nearest cell.
        query_select_method: rank cells by their best class (``default``), by one objectness score (``agnostic``), or
            rank (cell, class) pairs (``one2many``).
        reg_max: N, even; an edge's distribution has N + 1 bins (``fdr`` only, as the next one, up and learnable_bins).
        reg_scale: s = 1/c, how dense the bins are around zero. An int is stored as int64, as in official checkpoints.
        layer_scale: width of the layers after ``eval_idx`` as a multiple of ``hidden_dim``, at least 1; that of their
            feed-forward nets likewise.
        up: a, half the width of the inner bin range as a share of the box.
        learnable_bins: train a and s; the paper found fixed ones better.
        box_head: ``fdr``, or ``direct``: every layer predicts offsets to its reference box (RT-DETR), there are no
            distributions, no first head and no quality estimators.
        merge: how a query takes in what it read from the image: ``gate`` (target gating) or ``residual``.
        cross_attn_projections: project each map before the decoder even where its width fits, and values and result
            of every cross-attention.

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    anchors: Tensor
    valid_mask: Tensor
    decoder: DecoderStack
    dec_bbox_head: nn.ModuleList
    rebuilt_buffers: tuple[str, ...] = ("anchors", "valid_mask")
    attention_kinds: frozenset[str] = DEFORMABLE_KINDS
    taps: frozenset[str] = frozenset({"memory", "hidden"})

    def __init__(
        self,
        num_classes: int,
        *,
        hidden_dim: int = 256,
        num_queries: int = 300,
        feat_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        num_levels: int = 3,
        num_points: int | Sequence[int] = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        learn_query_content: bool = False,
        eval_spatial_size: Sequence[int] | None = None,
        eval_idx: int = -1,
        eps: float = 1e-2,
        aux_loss: bool = True,
        cross_attn_method: Literal["default", "discrete"] = "default",
        query_select_method: Literal["default", "agnostic", "one2many"] = "default",
        reg_max: int = 32,
        reg_scale: int | float = 4.0,
        layer_scale: float = 1,
        up: float = 0.5,
        learnable_bins: bool = False,
        box_head: Literal["fdr", "direct"] = "fdr",
        merge: Literal["gate", "residual"] = "gate",
        cross_attn_projections: bool = False,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, num_queries=num_queries, nhead=nhead, hidden_dim=hidden_dim)
        check_counts(most=64, num_layers=num_layers, num_levels=num_levels)
        widths = layer_widths(hidden_dim, layer_scale, eval_idx, num_layers)
        ffn_widths = layer_widths(dim_feedforward, layer_scale, eval_idx, num_layers)
        check_training_layers(widths, nhead, layer_scale, eval_idx, aux_loss=aux_loss)
        self.num_queries = num_queries
        self.eps = eps
        self.box_head = box_head
        self.learn_query_content = learn_query_content
        self.select_rows = selector(query_select_method)
        # Parts whose parameters have one row per class, with the rows behind them (core/checkpoint/classes.py).
        self.class_rows = {"dec_score_head": 0, "denoising_class_embed": 1}
        if query_select_method != "agnostic":
            self.class_rows["enc_score_head"] = 0
        self.denoising = DenoisingSetting(num_denoising, label_noise_ratio, box_noise_scale)
        self._store_anchors(eval_spatial_size, feat_channels, feat_strides, num_levels)
        self.input_proj = InputProjection(feat_channels, hidden_dim, num_levels, always=cross_attn_projections)
        layer = partial(DecoderLayer, num_heads=nhead, num_levels=num_levels, num_points=num_points)
        layer = partial(layer, cross_attention=cross_attn_method, projections=cross_attn_projections, merge=merge)
        layer = partial(layer, dropout=dropout, act=activation)
        stack = _stack(box_head, up, reg_scale, reg_max, learnable=learnable_bins)
        layers = [layer(dim, feedforward_dim=ffn_dim) for dim, ffn_dim in zip(widths, ffn_widths)]
        self.decoder = stack(layers, eval_idx=range(num_layers)[eval_idx], aux_loss=aux_loss)
        self._add_tables(num_classes, hidden_dim)
        self._add_heads(widths, num_classes, 1 if query_select_method == "agnostic" else num_classes)

    def _store_anchors(
        self, image_size: Sequence[int] | None, channels: Sequence[int], strides: Sequence[int], num_levels: int
    ) -> None:
        """Keep the anchors of eval images of one size in the state dict, as official checkpoints do."""
        self.feat_channels, self.feat_strides = list(channels), list(strides)
        if image_size is not None and any(side < 1 or side % max(strides) for side in image_size):
            raise ValueError(
                f"eval_spatial_size is {list(image_size)}: give [height, width] in pixels, multiples of {max(strides)}"
            )
        if len(strides) != len(channels):
            raise ValueError(f"feat_strides {list(strides)} and feat_channels {list(channels)} differ in length")
        self.stored_sizes: list[tuple[int, int]] | None = None
        if image_size is not None:
            self.stored_sizes = level_sizes(image_size, strides, num_levels)
            anchors, valid = anchor_logits(self.stored_sizes, eps=self.eps)
            self.register_buffer("anchors", anchors)
            self.register_buffer("valid_mask", valid)
        self.register_load_state_dict_pre_hook(_keep_tables)

    def _add_tables(self, num_classes: int, dim: int) -> None:
        """Label embeddings of denoising queries (the last row stands for padding) and learned query content; the bins'
        parameters a second time, as in official checkpoints."""
        for name, number in self.decoder.bins().items():
            self.register_parameter(name, number)
        if self.denoising.num_denoising > 0:
            self.denoising_class_embed = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)
        if self.learn_query_content:
            self.tgt_embed = nn.Embedding(self.num_queries, dim)
            nn.init.xavier_uniform_(self.tgt_embed.weight)

    def _add_heads(self, widths: Sequence[int], num_classes: int, num_selection_scores: int) -> None:
        """In the order of official checkpoints, so that optimiser states line up."""
        dim = widths[0]
        self.query_pos_head = MLP(4, 2 * dim, dim, 2)
        self.enc_output = nn.Sequential(OrderedDict(proj=nn.Linear(dim, dim), norm=nn.LayerNorm(dim)))
        self.enc_score_head = class_head(dim, num_selection_scores)
        self.enc_bbox_head = MLP(dim, dim, 4, 3).start_at_zero()
        self.dec_score_head = nn.ModuleList(class_head(width, num_classes) for width in widths)
        for name, head in self.decoder.box_heads().items():
            self.add_module(name, head)
        for linear in (*self.query_pos_head.layers, self.enc_output.proj):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))
        if not self.decoder.aux_loss:
            self.decoder.freeze_silent(self._heads())

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        padding: Padding | None = None,
        *,
        groups: Sequence[QueryGroup] = (),
        want: Want | None = None,
    ) -> DetectorOutput | Predictions:
        """Select, refine, predict.

        Args:
            features: the encoder's maps (B, feat_channels[i], H, W), fine to coarse.
            targets: ground truth for denoising queries, which are made in training, and in eval mode where ``want`` is
                given too. Needed in training if ``num_denoising`` > 0.
            padding: of the batch; boxes are then fractions of each image's content, and padded cells are never read
                and selected only when nothing else is left.
            groups: further queries; they come back in the output's ``groups``, by name.
            want: what to return; None for ``TRAINING`` in train mode, and in eval mode for the final predictions alone.

        Returns: in eval mode without ``want`` the predictions of layer ``eval_idx``, otherwise what is wanted.

        Raises:
            ValueError: no targets in training, a tap or kind of attention that there is not, or groups that do not fit.
        """
        if want is None and self.training:
            want = TRAINING
        wanted = Want() if want is None else want
        check_taps(self, wanted.taps)
        record = recorder(self, wanted.attention)
        maps = self.input_proj(features, padding)
        selected = self._select(maps, padding)
        joined = [*groups, self._matching_group(selected)]
        if self.denoising.num_denoising > 0 and (self.training or (want is not None and targets is not None)):
            joined.insert(0, self._denoising_group(targets, maps[0].device))
        queries = join_groups(joined)
        values = FeatureTable([level.float() for level in maps])  # sampled in fp32: cast once for all layers
        extent = None if padding is None else padding.extent(_sizes(maps))
        layers, initial, hidden = self.decoder(
            queries, values, self._heads(), every=wanted.layers, extent=extent, record=record
        )
        if want is None:
            return layers[-1]
        attention = None if record is None else record.finish(joined, queries.blocked)
        output = self._output(joined, queries.sizes, layers, initial, selected, attention)
        return self._tapped(output, want.taps, maps, hidden, queries.sizes)

    def _tapped(
        self,
        output: DetectorOutput,
        taps: frozenset[str],
        maps: Sequence[Tensor],
        hidden: Sequence[Tensor],
        sizes: Sequence[int],
    ) -> DetectorOutput:
        """The output with the inner tensors that are wanted."""
        tapped: dict[str, Any] = {}
        extra = output.groups
        if "memory" in taps:
            tapped["memory"] = MemoryTap(torch.cat([level.flatten(2).mT for level in maps], dim=1), _sizes(maps))
        if "hidden" in taps:
            by_group = list(zip(*(layer.split_with_sizes(list(sizes), dim=1) for layer in hidden)))
            tapped["hidden"] = by_group[-1]
            extra = {name: replace(extra[name], hidden=states) for name, states in zip(extra, by_group)}
        return replace(output, groups=extra, taps=tapped)

    @property
    def num_attention_layers(self) -> int:
        """Layers that run, and attend, in training."""
        return len(self.decoder.layers)

    @property
    def num_answering_layers(self) -> int:
        """Layers that predict in training: all, or without ``aux_loss`` the last alone."""
        return len(self.decoder.layers) if self.decoder.aux_loss else 1

    def deployed(self) -> nn.Module:
        """A copy that holds only what eval mode runs (docs/method.md 9.2), in eval mode, with equal outputs."""
        twin = copy.deepcopy(self).eval()
        last = twin.decoder.eval_idx
        twin.decoder = twin.decoder.deployed()
        twin.dec_score_head = nn.ModuleList([*(nn.Identity() for _ in range(last)), twin.dec_score_head[last]])
        twin.dec_bbox_head = twin.dec_bbox_head[: last + 1]
        return twin

    def _heads(self) -> Heads:
        return Heads(self.query_pos_head, self.dec_score_head, self.dec_bbox_head, self._modules.get("pre_bbox_head"))

    def _select(self, maps: Sequence[Tensor], padding: Padding | None) -> Selected:
        """Score every cell and keep the best ones with their boxes."""
        memory = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)  # (B, S, D)
        if padding is None and memory.shape[1] < self.num_queries:
            raise ConfigError(
                f"the image has {memory.shape[1]} cells over all levels but num_queries is {self.num_queries}: "
                "use larger images or fewer queries"
            )
        anchors, valid = self._anchors(_sizes(maps), memory.device, padding)
        if padding is not None:  # a larger canvas would have had enough cells
            memory = filled_up(memory, self.num_queries, 0)
            anchors, valid = filled_up(anchors, self.num_queries, torch.inf), filled_up(valid, self.num_queries, 0)
        rows = self.enc_output(memory * valid)
        logits = self.enc_score_head(rows)
        ranked = logits.detach()
        if padding is not None:
            kept = torch.cat([padding.keep(size).flatten(2).mT for size in _sizes(maps)], dim=1)  # (B, S, 1)
            ranked = ranked.masked_fill(~filled_up(kept, self.num_queries, 0), -torch.inf)
        index = self.select_rows(ranked, self.num_queries)
        content = gather_rows(rows, index)
        box_offsets = self.enc_bbox_head(content).float()
        box_logits = box_offsets + gather_rows(anchors.expand(memory.shape[0], -1, -1), index)
        return Selected(index, content, gather_rows(logits, index).float(), box_logits)

    def _anchors(
        self, sizes: list[tuple[int, int]], device: torch.device, padding: Padding | None
    ) -> tuple[Tensor, Tensor]:
        """Anchor logits (1 or B, S, 4) and validity (1 or B, S, 1): in eval mode the stored tables where they fit."""
        if padding is None and not self.training and sizes == self.stored_sizes:
            return self.anchors, self.valid_mask
        return anchor_logits(sizes, eps=self.eps, device=device, padding=padding)

    def _matching_group(self, selected: Selected) -> QueryGroup:
        """Queries at the selected boxes; no gradient flows back into the selection."""
        content = selected.content.detach()
        if self.learn_query_content:
            content = self.tgt_embed.weight.expand(content.shape[0], -1, -1)
        return QueryGroup(MATCHING, content, selected.box_logits.detach())

    def _denoising_group(self, targets: Sequence[Target] | None, device: torch.device) -> QueryGroup:
        if targets is None:
            raise ValueError("training with num_denoising > 0 needs targets: pass them, or set num_denoising: 0")
        groups, width = self.denoising.layout_of(targets)
        num_classes = self.denoising_class_embed.num_embeddings - 1
        noise = draw_noise(len(targets), 2 * groups * width, num_classes, self.denoising, device)
        return denoising_group(targets, noise, self.denoising_class_embed, self.denoising)

    def _output(
        self,
        groups: Sequence[QueryGroup],
        sizes: Sequence[int],
        layers: Sequence[Predictions],
        initial: Predictions | None,
        selected: Selected,
        attention: CapturedAttention | None,
    ) -> DetectorOutput:
        """Hand every group its part of the predictions; the matching queries come last."""
        layers_of = list(zip(*(split_predictions(one, sizes) for one in layers)))
        initial_of = [None] * len(sizes) if initial is None else split_predictions(initial, sizes)
        extra = {
            group.name: GroupOutput(group, list(own_layers), own_initial)
            for group, own_layers, own_initial in zip(groups[:-1], layers_of, initial_of)
        }
        up, reg_scale = (self.decoder.bins().get(name) for name in ("up", "reg_scale"))
        return DetectorOutput(
            layers=list(layers_of[-1]),
            initial=initial_of[-1],
            proposals=Predictions(selected.logits, selected.box_logits.sigmoid()),
            groups=extra,
            up=None if up is None else up[0],
            reg_scale=None if reg_scale is None else reg_scale[0],
            memory_index=selected.index,
            attention=attention,
        )


def _stack(
    box_head: str, up: float, reg_scale: int | float, reg_max: int, *, learnable: bool
) -> Callable[..., DecoderStack]:
    """What makes the decoder's layers, ``eval_idx`` and ``aux_loss`` into a decoder with this box head."""
    if box_head == "direct":
        return DirectDecoder
    if box_head != "fdr":
        raise ValueError(f"box_head {box_head!r} is unknown: choose one of fdr, direct")
    a, s = bin_parameters(up, reg_scale, learnable=learnable)
    return partial(RefinementDecoder, up=a, reg_scale=s, reg_max=reg_max)


def _keep_tables(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let computed tables keep their values: a checkpoint may be for images of another size."""
    tables = dict(module.named_buffers(recurse=False))
    for name in DFINETransformer.rebuilt_buffers:
        if name in tables and prefix + name in state:
            state[prefix + name] = tables[name]


def _sizes(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(one.shape[2], one.shape[3]) for one in maps]
