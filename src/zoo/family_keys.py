# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the published code of Deformable-DETR, DAB-DETR, DN-DETR and DINO calls the parts of a detector.

Rows are (in checkpoints, in the modules of the whole detector), in the order of published state dicts, as
``nn.keys.PartTable`` reads them. A part that is registered twice there is written under both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.checkpoint.remedies import Remedy
from ..nn.keys import PartTable
from .heads import BoxHead, FDRBoxHead, ScoreHead

Rows = tuple[tuple[str, str], ...]

ENCODER: Rows = (
    ("transformer.level_embed", "encoder.level_embed"),
    ("transformer.encoder.layers", "encoder.layers"),
    ("transformer.encoder.query_scale", "encoder.query_scale"),
)
BACKBONE: Rows = (("input_proj", "encoder.input_proj"), ("backbone.0.body", "backbone"))
SINE_POSITION: Rows = (
    ("transformer.decoder.query_scale", "decoder.position.scale"),
    ("transformer.decoder.ref_point_head", "decoder.position.head"),
)
"""Of :class:`~isdfine.zoo.positions.SineQueryPosition`."""
DECODER_NORM: Rows = (("transformer.decoder.norm", "decoder.norm"),)


@dataclass(frozen=True)
class PublishedNames:
    """Names of one detector in published checkpoints; its decoder knows them (``names``)."""

    decoder: Rows = ()
    """Of what is in the decoder."""
    class_rows: Mapping[str, int] = field(default_factory=dict)
    """Which of them have a row per class, and how many rows stand behind these."""
    remedies: tuple[Remedy, ...] = ()
    """What to do where a checkpoint has other names or shapes."""

    @property
    def table(self) -> PartTable:
        """Of the whole detector."""
        return PartTable((*ENCODER, *self.decoder, *BACKBONE))


def layer_rows(count: int) -> Rows:
    """Decoder layers with deformable attention, whose norms are numbered in another order: the first belongs to the
    cross-attention, the second to the self-attention before it."""
    theirs = ("cross_attn", "norm1", "self_attn", "norm2", "linear1", "linear2", "norm3")
    ours = ("cross_attn", "norm2", "self_attn", "norm1", "linear1", "linear2", "norm3")
    return tuple(
        (f"transformer.decoder.layers.{index}.{their}", f"decoder.layers.{index}.{our}")
        for index in range(count)
        for their, our in zip(theirs, ours)
    )


def score_rows(head: ScoreHead, count: int, *, numbered: bool = True, in_decoder: bool = False) -> Rows:
    """Class heads after ``count`` layers: a shared one has all their numbers, or none where it is not ``numbered``.

    With ``in_decoder`` they are registered in the published decoder as well.
    """
    return _head_rows("class_embed", "decoder.score_head.layers", count if numbered else 0, head.shared, in_decoder)


def box_rows(head: BoxHead, count: int, *, numbered: bool = True, in_decoder: bool = True) -> Rows:
    """Box heads, see :func:`score_rows`. With distributions the first direct head is left, and theirs have the names
    that they have in D-FINE."""
    if not isinstance(head, FDRBoxHead):
        shared = getattr(head, "shared", False)
        return _head_rows("bbox_embed", "decoder.box_head.layers", count if numbered else 0, shared, in_decoder)
    first = "bbox_embed.0" if numbered else "bbox_embed"
    return (
        ("up", "decoder.box_head.bins.up"),
        ("reg_scale", "decoder.box_head.bins.reg_scale"),
        *twice(((first, "decoder.box_head.initial"),), in_decoder),
        ("dec_bbox_head", "decoder.box_head.layers"),
    )


def box_remedies(head: BoxHead) -> tuple[Remedy, ...]:
    """For checkpoints of a decoder with the other kind of box head."""
    if isinstance(head, FDRBoxHead):
        return (
            Remedy(
                "missing",
                "dec_bbox_head",
                "the file has no distributions: set box_head: direct, or train them from it (-t)",
            ),
        )
    return (Remedy("unexpected", "dec_bbox_head", "the file has distributions: set box_head: fdr"),)


def query_remedy(name: str) -> Remedy:
    """For checkpoints with another number of learned queries in the table of this name."""
    text = "num_queries is {model}, the file has {file} queries: set num_queries: {file}"
    return Remedy("mismatched", name, text)


def denoising_remedy(num_denoising: int) -> Remedy:
    """For checkpoints of training with denoising queries, whose labels have a table, in models without, and reverse."""
    if num_denoising:
        return Remedy(
            "missing",
            "label_enc",
            "the file has no denoising queries: set num_denoising: 0, or train them from it (-t)",
        )
    return Remedy("unexpected", "label_enc", "the file has denoising queries: set num_denoising above 0")


def twice(rows: Rows, in_decoder: bool = True) -> Rows:
    """With ``in_decoder`` the rows under the published decoder too, and those first."""
    return (*((f"transformer.decoder.{their}", our) for their, our in rows if in_decoder), *rows)


def _head_rows(name: str, part: str, count: int, shared: bool, in_decoder: bool) -> Rows:
    """``count`` 0: one head without a number."""
    numbered = tuple((f"{name}.{index}", f"{part}.{0 if shared else index}") for index in range(count))
    return twice(numbered or ((name, f"{part}.0"),), in_decoder)
