# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Decoder layers that only training runs: more of them, and wider ones, to teach those that eval mode runs."""

from __future__ import annotations

from ..core.errors import check_counts


def layer_plan(
    dim: int, feedforward_dim: int, num_layers: int, num_heads: int, *, scale: float, eval_idx: int, aux_loss: bool
) -> tuple[list[int], list[int]]:
    """Channels of every layer and of its feed-forward net: ``scale`` times as many after ``eval_idx``.

    The layers up to ``eval_idx`` do not know of the later ones: in eval mode a detector predicts as without them, and
    ``deploy.fuse`` drops them. In training the deepest layer is the last: it gets the losses without suffix and teaches
    by GO-LSD (future work of the D-FINE paper; ``eval_idx`` and ``layer_scale`` of the official code).

    Raises: ValueError for options that could not act, or would leave the eval layer untrained.
    """
    check_counts(most=64, num_layers=num_layers)
    if not -num_layers <= eval_idx < num_layers:
        raise ValueError(
            f"eval_idx {eval_idx} is not one of the {num_layers} decoder layers: choose one of 0..{num_layers - 1}, or "
            f"of -{num_layers}..-1 counted from the last, or change num_layers"
        )
    if scale < 1:
        raise ValueError(f"layer_scale must be at least 1, got {scale}: layers after eval_idx can only be wider")
    kept, wide = range(num_layers)[eval_idx] + 1, round(scale * dim)
    if scale != 1 and kept == num_layers:
        raise ValueError(
            f"layer_scale {scale} widens the layers after eval_idx, but eval_idx {eval_idx} is the last of "
            f"{num_layers}: raise num_layers, or leave layer_scale out"
        )
    if scale != 1 and wide % num_heads:
        raise ValueError(
            f"the layers after eval_idx have {wide} channels, which do not split into {num_heads} heads: "
            f"change layer_scale ({scale}), hidden_dim ({dim}) or nhead"
        )
    if not aux_loss and kept != num_layers:
        raise ValueError(
            f"aux_loss: False trains the predictions of the last layer only, but eval_idx is {eval_idx}: "
            "set aux_loss: True, or eval_idx: -1"
        )
    later = num_layers - kept
    return [dim] * kept + [wide] * later, [feedforward_dim] * kept + [round(scale * feedforward_dim)] * later
