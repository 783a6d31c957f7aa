# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation over the batches of all ranks, also on CPU, where ``torch.nn.SyncBatchNorm`` refuses to run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from ..core import dist


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
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
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

    timm's norms that activate too (``BatchNormAct2d``) keep their activation, which torch's converter drops without a
    word. Other subclasses of BatchNorm stay as they are.

    Args:
        model: changed in place; call it before the model is wrapped for distributed training.
        device: the run's device; CUDA takes torch's own layer, anything else ours.

    Returns:
        The model (another object only if the model itself is a BatchNorm).
    """
    on_gpu = torch.device(device).type == "cuda"
    if type(model) is nn.BatchNorm2d:
        return _synced(model, nn.SyncBatchNorm if on_gpu else SyncedBatchNorm2d)
    if isinstance(model, nn.BatchNorm2d) and set(dict(model.named_children())) == {"drop", "act"}:
        return _synced(model, _TorchSyncedNormAct if on_gpu else _SyncedNormAct2d)
    for name, child in model.named_children():
        setattr(model, name, convert_sync_batchnorm(child, device))
    return model


class _SyncedNormAct2d(SyncedBatchNorm2d):
    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


class _TorchSyncedNormAct(nn.SyncBatchNorm):
    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


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
