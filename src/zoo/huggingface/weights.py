# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of ``transformers``' D-FINE and RT-DETR, and ours under the names of official checkpoints, both ways.

Only names differ, with three exceptions: transformers keeps query, key and value projections apart where we have one
fused matrix; it holds the heads of the decoder twice (``class_embed`` and ``model.decoder.class_embed`` are tied); and
keeps D-FINE's ``up`` and ``reg_scale`` once where official files hold them twice, ``reg_scale`` as float32.

Two layouts of their names exist. ``file`` is what published folders hold and what every version writes and reads;
``module`` is the state dict in memory of transformers 5 (``mlp.layers.0`` for ``fc1``, ``o_proj`` for ``out_proj``,
``aifi`` for the encoder's attention), with the tied heads in both places. Reading accepts both, also mixed.

Positions: on images that are not square, transformers from 5 on lays its position table out row by row, while official
models (and ours, and transformers 4) number the cells column by column but read them row by row
(docs/method.md 2.4). On square images, which all published models were trained on, the two tables are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ...nn.keys import KeyTable
from . import dab, deformable

OTHERS = (deformable, dab)
"""Families whose weights are read under the names of their published code."""
Layout = Literal["file", "module"]
Pairs = tuple[tuple[str, str], ...]
Templates = list[tuple[re.Pattern[str], str]]
_SHOWN = 10
_PLACEHOLDERS = {
    "<n>": r"\d+",
    "<m>": r"\d+",
    "<stem>": r"stem\w+",
    "<block>": r"\d+\.(?:downsample|blocks\.\d+\.(?:aggregation\.[01]|layers\.\d+(?:\.conv[12])?))",
    "<fuse>": r"(?:fpn|pan)_blocks\.\d+",
    "<csp>": r"(?:bottlenecks\.\d+\.)?conv[12]",
    "<attn>": r"sampling_offsets|attention_weights",
    "<proj>": r"value_proj|output_proj",
    "<cn>": r"(?:conv|norm)",
    "<w>": r"weight|bias|running_mean|running_var|num_batches_tracked",
    "<lab>": r"scale|bias",
    "<wb>": r"weight|bias",
    "<mlp>": r"layers\.\d+\.(?:weight|bias)",
}
_BACKBONE = "model.backbone.model"
_AIFI, _AIFI_HF = "encoder.encoder.<n>.layers.<m>", "model.encoder.encoder.<n>.layers.<m>"
_LAYER, _LAYER_HF = "decoder.decoder.layers.<n>", "model.decoder.layers.<n>"
# Ours, theirs in the layout "file". A placeholder stands for the same text on both sides.
_SHARED: Pairs = (
    ("encoder.input_proj.<n>.conv.weight", "model.encoder_input_proj.<n>.0.weight"),
    ("encoder.input_proj.<n>.norm.<w>", "model.encoder_input_proj.<n>.1.<w>"),
    (f"{_AIFI}.self_attn.out_proj.<wb>", f"{_AIFI_HF}.self_attn.out_proj.<wb>"),
    (f"{_AIFI}.norm1.<wb>", f"{_AIFI_HF}.self_attn_layer_norm.<wb>"),
    (f"{_AIFI}.linear1.<wb>", f"{_AIFI_HF}.fc1.<wb>"),
    (f"{_AIFI}.linear2.<wb>", f"{_AIFI_HF}.fc2.<wb>"),
    (f"{_AIFI}.norm2.<wb>", f"{_AIFI_HF}.final_layer_norm.<wb>"),
    ("encoder.lateral_convs.<n>.<cn>.<w>", "model.encoder.lateral_convs.<n>.<cn>.<w>"),
    ("decoder.input_proj.<n>.conv.weight", "model.decoder_input_proj.<n>.0.weight"),
    ("decoder.input_proj.<n>.norm.<w>", "model.decoder_input_proj.<n>.1.<w>"),
    (f"{_LAYER}.self_attn.out_proj.<wb>", f"{_LAYER_HF}.self_attn.out_proj.<wb>"),
    (f"{_LAYER}.norm1.<wb>", f"{_LAYER_HF}.self_attn_layer_norm.<wb>"),
    (f"{_LAYER}.cross_attn.<attn>.<wb>", f"{_LAYER_HF}.encoder_attn.<attn>.<wb>"),
    (f"{_LAYER}.linear1.<wb>", f"{_LAYER_HF}.fc1.<wb>"),
    (f"{_LAYER}.linear2.<wb>", f"{_LAYER_HF}.fc2.<wb>"),
    (f"{_LAYER}.norm3.<wb>", f"{_LAYER_HF}.final_layer_norm.<wb>"),
    ("decoder.denoising_class_embed.weight", "model.denoising_class_embed.weight"),
    ("decoder.tgt_embed.weight", "model.weight_embedding.weight"),
    ("decoder.query_pos_head.<mlp>", "model.decoder.query_pos_head.<mlp>"),
    ("decoder.enc_output.proj.<wb>", "model.enc_output.0.<wb>"),
    ("decoder.enc_output.norm.<wb>", "model.enc_output.1.<wb>"),
    ("decoder.enc_score_head.<wb>", "model.enc_score_head.<wb>"),
    ("decoder.enc_bbox_head.<mlp>", "model.enc_bbox_head.<mlp>"),
    ("decoder.dec_score_head.<n>.<wb>", "model.decoder.class_embed.<n>.<wb>"),
    ("decoder.dec_bbox_head.<n>.<mlp>", "model.decoder.bbox_embed.<n>.<mlp>"),
)  # fmt: skip
_DFINE: Pairs = (
    ("backbone.stem.<stem>.conv.weight", f"{_BACKBONE}.embedder.<stem>.convolution.weight"),
    ("backbone.stem.<stem>.bn.<w>", f"{_BACKBONE}.embedder.<stem>.normalization.<w>"),
    ("backbone.stem.<stem>.lab.<lab>", f"{_BACKBONE}.embedder.<stem>.lab.<lab>"),
    ("backbone.stages.<block>.conv.weight", f"{_BACKBONE}.encoder.stages.<block>.convolution.weight"),
    ("backbone.stages.<block>.bn.<w>", f"{_BACKBONE}.encoder.stages.<block>.normalization.<w>"),
    ("backbone.stages.<block>.lab.<lab>", f"{_BACKBONE}.encoder.stages.<block>.lab.<lab>"),
    ("encoder.<fuse>.cv1.<cn>.<w>", "model.encoder.<fuse>.conv1.<cn>.<w>"),
    ("encoder.<fuse>.cv2.0.<csp>.<cn>.<w>", "model.encoder.<fuse>.csp_rep1.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.cv2.1.<cn>.<w>", "model.encoder.<fuse>.conv2.<cn>.<w>"),
    ("encoder.<fuse>.cv3.0.<csp>.<cn>.<w>", "model.encoder.<fuse>.csp_rep2.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.cv3.1.<cn>.<w>", "model.encoder.<fuse>.conv3.<cn>.<w>"),
    ("encoder.<fuse>.cv4.<cn>.<w>", "model.encoder.<fuse>.conv4.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.0.cv1.<cn>.<w>", "model.encoder.downsample_convs.<n>.conv1.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.0.cv2.<cn>.<w>", "model.encoder.downsample_convs.<n>.conv2.<cn>.<w>"),
    (f"{_LAYER}.cross_attn.num_points_scale", f"{_LAYER_HF}.encoder_attn.num_points_scale"),
    (f"{_LAYER}.gateway.gate.<wb>", f"{_LAYER_HF}.gateway.gate.<wb>"),
    (f"{_LAYER}.gateway.norm.<wb>", f"{_LAYER_HF}.gateway.norm.<wb>"),
    ("decoder.decoder.lqe_layers.<n>.reg_conf.<mlp>", "model.decoder.lqe_layers.<n>.reg_conf.<mlp>"),
    ("decoder.up", "model.decoder.up"),
    ("decoder.reg_scale", "model.decoder.reg_scale"),
    ("decoder.pre_bbox_head.<mlp>", "model.decoder.pre_bbox_head.<mlp>"),
)  # fmt: skip
_STAGE, _STAGE_HF = "backbone.res_layers.<n>.blocks.<m>", f"{_BACKBONE}.encoder.stages.<n>.layers.<m>"
_CONVS: Pairs = (
    *((f"backbone.conv1.conv1_{i + 1}", f"{_BACKBONE}.embedder.embedder.{i}") for i in range(3)),
    *((f"{_STAGE}.branch2{letter}", f"{_STAGE_HF}.layer.{i}") for i, letter in enumerate("abc")),
    (f"{_STAGE}.short", f"{_STAGE_HF}.shortcut"),
    (f"{_STAGE}.short.conv", f"{_STAGE_HF}.shortcut.1"),  # behind an average pooling
)
_RTDETR: Pairs = (
    *((f"{ours}.conv.weight", f"{theirs}.convolution.weight") for ours, theirs in _CONVS),
    *((f"{ours}.norm.<w>", f"{theirs}.normalization.<w>") for ours, theirs in _CONVS),
    ("encoder.<fuse>.<csp>.<cn>.<w>", "model.encoder.<fuse>.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.conv3.<cn>.<w>", "model.encoder.<fuse>.conv3.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.<cn>.<w>", "model.encoder.downsample_convs.<n>.<cn>.<w>"),
    (f"{_LAYER}.norm2.<wb>", f"{_LAYER_HF}.encoder_attn_layer_norm.<wb>"),
    (f"{_LAYER}.cross_attn.<proj>.<wb>", f"{_LAYER_HF}.encoder_attn.<proj>.<wb>"),
    (f"{_LAYER}.cross_attn.num_points_scale", f"{_LAYER_HF}.encoder_attn.n_points_scale"),
)  # fmt: skip
_ATTENTION: Pairs = (
    (f"{_AIFI}.self_attn.in_proj_<wb>", f"{_AIFI_HF}.self_attn.?.<wb>"),
    (f"{_LAYER}.self_attn.in_proj_<wb>", f"{_LAYER_HF}.self_attn.?.<wb>"),
)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_HEADS = ("class_embed.", "bbox_embed.")
_REBUILT = ("decoder.anchors", "decoder.valid_mask")
_TWICE = {"decoder.decoder.up": "decoder.up", "decoder.decoder.reg_scale": "decoder.reg_scale"}
_SCALARS = tuple(_TWICE.values())
# The layout "file" -> "module", in this order; the other way round for reading.
_MODULE_NAMES = (
    (r"(\.layers\.\d+)\.fc1\.", r"\1.mlp.layers.0.", r"(\.layers\.\d+)\.mlp\.(?:layers\.0|fc1)\.", r"\1.fc1."),
    (r"(\.layers\.\d+)\.fc2\.", r"\1.mlp.layers.1.", r"(\.layers\.\d+)\.mlp\.(?:layers\.1|fc2)\.", r"\1.fc2."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj.", r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
    (r"^model\.encoder\.encoder\.", "model.encoder.aifi.", r"^model\.encoder\.aifi\.", "model.encoder.encoder."),
)
_FIRST_VERSION = KeyTable(
    {
        "decoder.enc_output.proj": "decoder.enc_output.0",
        "decoder.enc_output.norm": "decoder.enc_output.1",
        **{f"encoder.input_proj.{i}.conv": f"encoder.input_proj.{i}.0" for i in range(8)},
        **{f"encoder.input_proj.{i}.norm": f"encoder.input_proj.{i}.1" for i in range(8)},
    }
)
"""Names of later checkpoints, and of RT-DETR's first ones."""


def _templates(pairs: Iterable[tuple[str, str]]) -> Templates:
    """(source, target) with placeholders -> (regular expression, replacement)."""
    compiled = []
    for source, target in pairs:
        pattern, replacement = re.escape(source), target
        for number, mark in enumerate(_PLACEHOLDERS):
            name = f"p{number}"
            pattern = pattern.replace(re.escape(mark), f"(?P<{name}>{_PLACEHOLDERS[mark]})")
            replacement = replacement.replace(mark, rf"\g<{name}>")
        compiled.append((re.compile(pattern), replacement))
    return compiled


@dataclass(frozen=True)
class _Names:
    """The tables of one family."""

    family: str
    model: str
    """What the weights are of, in messages."""
    pairs: Pairs

    @cached_property
    def to_theirs(self) -> Templates:
        return _templates(self.pairs)

    @cached_property
    def to_ours(self) -> Templates:
        return _templates((theirs, ours) for ours, theirs in self.pairs)


_DFINE_NAMES = _Names("D-FINE", "D-FINE (DFineForObjectDetection)", _SHARED + _DFINE)
_RTDETR_NAMES = _Names("RT-DETR", "RT-DETR on ResNet-vd", _SHARED + _RTDETR)
_FUSED_TO_SPLIT = _templates(_ATTENTION)
_SPLIT_TO_FUSED = _templates((theirs, ours) for ours, theirs in _ATTENTION)


def _names_of(state: Mapping[str, Tensor]) -> _Names:
    """The family by what only RT-DETR has: a norm behind its cross-attention."""
    mark = r"decoder\.decoder\.layers\.\d+\.norm2\.\w+|model\.decoder\.layers\.\d+\.encoder_attn_layer_norm\.\w+"
    return _RTDETR_NAMES if any(re.fullmatch(mark, key) for key in state) else _DFINE_NAMES


def transformers_family(state: Mapping[str, Tensor]) -> str:
    """Name of the family whose weights these are."""
    other = _other(state)
    return _names_of(state).family if other is None else str(other.NAME)


def _other(state: Mapping[str, Tensor]) -> ModuleType | None:
    """Of ``OTHERS`` the one that knows these names."""
    return next((other for other in OTHERS if other.is_theirs(state)), None)


def to_huggingface(state: Mapping[str, Tensor], *, layout: Layout = "file") -> dict[str, Tensor]:
    """Weights of our model, or an official state dict, under the names of transformers.

    Args:
        state: state dict of the training form (not of a fused model). ``anchors`` and ``valid_mask`` have no place in
            transformers, which computes them.
        layout: names as in a folder (``file``), or as a D-FINE has them in memory (``module``); see the module's text.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed, or a pair that must agree and does not.
    """
    names = _names_of(state)
    _check_twice(state)
    theirs: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        key = _FIRST_VERSION.to_modules(key) if names is _RTDETR_NAMES else key
        if key in _REBUILT or key in _TWICE:
            continue
        if (name := _renamed(key, names.to_theirs)) is not None:
            theirs[name] = value.float() if key in _SCALARS else value
        elif (pattern := _renamed(key, _FUSED_TO_SPLIT)) is not None:
            if value.shape[0] % 3:
                raise CheckpointError(f"{key} has {value.shape[0]} rows, expected query, key and value of equal size")
            theirs.update(zip((pattern.replace("?", part) for part in _PROJECTIONS), value.chunk(3)))
        else:
            unknown.append(key)
    if unknown:
        fused = any("conv_bn_fused" in key for key in unknown)
        hint = " (a fused model cannot be converted: take the weights from before fuse())" if fused else ""
        raise CheckpointError(
            f"not weights of our {names.model}: transformers has no place for {_listed(unknown)}{hint}"
        )
    return theirs if layout == "file" else _as_module(theirs)


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers under our names; those of RT-DETR's first version, Deformable DETR and DAB-DETR
    under theirs.

    Args:
        state: ``model.state_dict()`` or the content of a folder's weights files, of transformers 4.52 or newer.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed; a missing projection; heads that are kept
            twice and differ.
    """
    if (other := _other(state)) is not None:
        published: dict[str, Tensor] = other.published_weights(state)
        return published
    names = _names_of(state)
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in _untied(_as_file(state)).items():
        if (name := _renamed(key, names.to_ours)) is not None:
            ours[name] = value
            ours.update({twin: value for twin, original in _TWICE.items() if original == name})
        elif split := re.fullmatch(rf"(.*\.self_attn\.)({'|'.join(_PROJECTIONS)})(\.\w+)", key):
            parts.setdefault(f"{split[1]}?{split[3]}", {})[split[2]] = value
        else:
            unknown.append(key)
    for pattern, projections in parts.items():
        name = _renamed(pattern, _SPLIT_TO_FUSED)
        if name is None:
            unknown.extend(pattern.replace("?", part) for part in projections)
            continue
        if missing := [pattern.replace("?", part) for part in _PROJECTIONS if part not in projections]:
            raise CheckpointError(
                f"weights of transformers' {names.family}: {_listed(missing)} missing: the file is incomplete"
            )
        ours[name] = torch.cat([projections[part] for part in _PROJECTIONS])
    if unknown:
        raise CheckpointError(f"not weights of transformers' {names.model}: no counterpart for {_listed(unknown)}")
    if names is _DFINE_NAMES or any(key.endswith(".num_points_scale") for key in ours):
        return ours
    return {_FIRST_VERSION.to_checkpoint(key): value for key, value in ours.items()}


def _renamed(key: str, rules: Templates) -> str | None:
    """The key by the first rule that fits; None where none does."""
    for pattern, replacement in rules:
        if fits := pattern.fullmatch(key):
            return fits.expand(replacement)
    return None


def _as_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in memory, with the tied heads in both places."""
    named = _substituted(state, [(pattern, replacement) for pattern, replacement, _, _ in _MODULE_NAMES])
    heads = tuple(f"model.decoder.{head}" for head in _HEADS)
    tied = {key.removeprefix("model.decoder."): value for key, value in named.items() if key.startswith(heads)}
    return {**named, **tied}


def _as_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the layout ``file``, whichever they had."""
    return _substituted(state, [(pattern, replacement) for _, _, pattern, replacement in _MODULE_NAMES])


def _substituted(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    named = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    return named


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every head once, under the decoder, where transformers reads it."""
    single = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    for key, value in state.items():
        if not key.startswith(_HEADS):
            continue
        twin = single.setdefault(f"model.decoder.{key}", value)
        if twin.shape != value.shape or not torch.equal(twin, value):
            raise CheckpointError(
                f"{key} and model.decoder.{key} must be the same weights and differ: transformers computes with "
                f"model.decoder.{key}; delete the other one from the file if that is the wanted one"
            )
    return single


def _check_twice(state: Mapping[str, Tensor]) -> None:
    for twin, original in _TWICE.items():
        if twin in state and original in state and not torch.equal(state[twin], state[original]):
            raise CheckpointError(
                f"{twin} and {original} must be the same number and differ: the checkpoint is damaged"
            )


def _listed(keys: Sequence[str]) -> str:
    """Some of the keys, and how many more there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
