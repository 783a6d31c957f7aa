# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation that never changes, one over the batches of all ranks; group normalisation of padded maps.

The second also on a CPU, where ``torch.nn.SyncBatchNorm`` refuses to run. The first two replace the norms of a built
network, and keep the activation that timm's norms (``BatchNormAct2d``) hold, which torch's converter drops without a
word.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import dist
from .cpu import frozen_norm, trains_on_cpu
from .keys import before_load
from .padding import Padding


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
        before_load(self, _drop_batch_counter)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, D, H, W)."""
        constants = (self.running_mean, self.running_var, self.weight, self.bias)
        if trains_on_cpu(self, maps):
            return frozen_norm(maps, *constants, self.eps)
        return F.batch_norm(maps, *constants, training=False, eps=self.eps)

    def extra_repr(self) -> str:
        """Text inside the brackets when the module is printed."""
        return f"{self.num_features}, eps={self.eps}"


class _Activating(nn.Module):
    """Stands before a norm as a base class: what the norm gives is activated, as by timm's ``BatchNormAct2d``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(maps)))
        return activated


class _FrozenNormAct2d(_Activating, FrozenBatchNorm2d):
    pass


def _activates(norm: nn.Module) -> bool:
    return {name for name, _ in norm.named_children()} == {"drop", "act"}


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
    if type(norm) is not nn.BatchNorm2d and not _activates(norm):
        raise ValueError(f"a {type(norm).__name__} cannot be frozen: leave freeze_norm out")
    if norm.running_mean is None or norm.running_var is None or norm.weight is None:
        raise ValueError("a batch norm without statistics or without weights cannot be frozen: leave freeze_norm out")
    kind = _FrozenNormAct2d if _activates(norm) else FrozenBatchNorm2d
    frozen = kind(norm.num_features, eps=norm.eps)
    for key in ("weight", "bias", "running_mean", "running_var"):
        setattr(frozen, key, getattr(norm, key).detach().clone())
    for key, child in norm.named_children():
        setattr(frozen, key, child)
    return frozen.train(norm.training)


def _drop_batch_counter(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    # load_state_dict passes its own copy of the dictionary, so the caller's stays whole
    state.pop(prefix + "num_batches_tracked", None)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the global batch; alone it is the same computation.

    Ranks may hold batches of different sizes, also none. Every rank must call it equally often, in the same order.

    Shapes: (B, D, H, W) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or dist.world_size() == 1:
            return super().forward(input)
        # Two rounds (mean, then squared distance from it) because E[x^2] - E[x]^2 cancels in float32.
        maps = input.float()
        per_channel = (0, 2, 3)
        own_count = maps.new_full((1,), input.numel() // input.shape[1])
        sums = _AllReduceSum.apply(torch.cat([maps.sum(per_channel), own_count]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError(f"batch norm needs at least 2 values per channel over all ranks, got {int(count)}")
        mean = sums[:-1] / count
        centred = maps - mean[:, None, None]
        variance = _AllReduceSum.apply(centred.square().sum(per_channel)) / count
        self._follow(mean.detach(), variance.detach(), count)
        normalised: Tensor = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.weight is not None:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics, with the unbiased variance, as BatchNorm does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)


def convert_sync_batchnorm(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Make every BatchNorm of a model use the statistics of all ranks. Parameters and keys stay the same objects.

    Other subclasses of BatchNorm than timm's stay as they are.

    Args:
        model: changed in place; call it before the model is wrapped for distributed training.
        device: the run's device; CUDA takes torch's own layer, anything else ours.

    Returns:
        The model (another object only if the model itself is a BatchNorm).
    """
    on_gpu = torch.device(device).type == "cuda"
    if type(model) is nn.BatchNorm2d:
        return _synced(model, nn.SyncBatchNorm if on_gpu else SyncedBatchNorm2d)
    if isinstance(model, nn.BatchNorm2d) and _activates(model):
        return _synced(model, _TorchSyncedNormAct if on_gpu else _SyncedNormAct2d)
    for name, child in model.named_children():
        setattr(model, name, convert_sync_batchnorm(child, device))
    return model


class _SyncedNormAct2d(_Activating, SyncedBatchNorm2d):
    pass


class _TorchSyncedNormAct(_Activating, nn.SyncBatchNorm):
    pass


def _synced(norm: nn.BatchNorm2d, kind: type[SyncedBatchNorm2d] | type[nn.SyncBatchNorm]) -> nn.Module:
    synced = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(synced, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(synced, name, buffer)
    for name, child in norm.named_children():
        setattr(synced, name, child)
    return synced.train(norm.training)


class _AllReduceSum(torch.autograd.Function):
    """Sum over the ranks; the gradient is summed over the ranks as well, because each of them read the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch_dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch_dist.all_reduce(total)
        return total


class PaddedGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494) whose statistics are those of the cells that hold an image.

    Where padding is visible they are those of the whole map, as in the published code of Deformable DETR.

    Shapes: (B, D, H, W) -> the same, with anything in padded cells.
    """

    def forward(self, input: Tensor, padding: Padding | None = None) -> Tensor:
        if padding is None or padding.visible:
            return super().forward(input)
        groups = input.float().unflatten(1, (self.num_groups, -1))  # (B, groups, D / groups, H, W)
        inside = ~padding.mask((input.shape[2], input.shape[3]))[:, None]
        whole = (2, 3, 4)
        count = inside.sum(whole, keepdim=True) * groups.shape[2]
        centred = groups - (groups * inside).sum(whole, keepdim=True) / count
        variance = (centred.square() * inside).sum(whole, keepdim=True) / count
        normalised: Tensor = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)
