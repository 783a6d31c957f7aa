# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation that never changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine map, all four kept as buffers.

    The value is ``x * s + (bias - running_mean * s)`` with ``s = weight / sqrt(running_var + eps)``
    (spec/dfine.md section 2), in train and eval mode alike. It goes through ``F.batch_norm`` because that is one pass
    over the map, keeps half precision under autocast, and is exported as one operator that runtimes fold into the
    convolution.
    Loading a checkpoint of a trainable norm works: its ``num_batches_tracked`` is dropped.

    Args:
        num_features: channels D.
        eps: added to the variance.

    Shapes: (B, D, H, W) -> the same.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_load_state_dict_pre_hook(_drop_batch_counter)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, D, H, W)."""
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def extra_repr(self) -> str:
        """Text inside the brackets when the module is printed."""
        return f"{self.num_features}, eps={self.eps}"


def _drop_batch_counter(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    # load_state_dict passes its own copy of the dictionary, so the caller's stays whole
    state.pop(prefix + "num_batches_tracked", None)
