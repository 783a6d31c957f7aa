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
    (docs/method.md 2.1), in train and eval mode alike. It goes through ``F.batch_norm`` because that is one pass
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


class _FrozenNormAct2d(FrozenBatchNorm2d):
    """The same behind which the layer itself activates, as timm's ``BatchNormAct2d`` does."""

    drop: nn.Module
    act: nn.Module

    def forward(self, maps: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(maps)))


def freeze_batch_norms(network: nn.Module) -> int:
    """Replace every batch norm inside a network by one whose statistics and affine map are constants.

    Names in the state dict stay (``num_batches_tracked`` goes), values too; timm's norms that activate keep their
    activation.

    Args:
        network: changed in place.

    Returns: number of norms replaced; 0 where the network has none.
    """
    replaced = 0
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, _frozen(child))
            replaced += 1
        else:
            replaced += freeze_batch_norms(child)
    return replaced


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    children = dict(norm.named_children())
    if type(norm) is not nn.BatchNorm2d and set(children) != {"drop", "act"}:
        raise ValueError(f"a {type(norm).__name__} cannot be frozen: leave freeze_norm out")
    if norm.running_mean is None or norm.running_var is None or norm.weight is None:
        raise ValueError("a batch norm without statistics or without weights cannot be frozen: leave freeze_norm out")
    kind = _FrozenNormAct2d if children else FrozenBatchNorm2d
    frozen = kind(norm.num_features, eps=norm.eps)
    for key in ("weight", "bias", "running_mean", "running_var"):
        setattr(frozen, key, getattr(norm, key).detach().clone())
    for key, child in children.items():
        setattr(frozen, key, child)
    return frozen.train(norm.training)


def _drop_batch_counter(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    # load_state_dict passes its own copy of the dictionary, so the caller's stays whole
    state.pop(prefix + "num_batches_tracked", None)
