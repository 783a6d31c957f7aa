# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory one forward pass takes: counted without a device, or measured on a GPU."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at a time, also of tensors on the meta device.

    What a kernel takes for itself while it works (workspaces, copies in another layout) is no tensor and not counted.
    """

    _bytes = peak = 0
    _owners: Counter[int]
    _kept: list[Tensor]

    @classmethod
    def beside(cls, existing: Iterator[Tensor]) -> LiveTensors:
        """A count in which tensors that are there before count from the start to the end."""
        live = cls()
        live._owners, live._kept = Counter(), list(existing)
        for tensor in live._kept:
            live._add(tensor)
        return live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at what it returns."""
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor):
                self._add(result)
        return results

    def _add(self, tensor: Tensor) -> None:
        """A tensor is one owner of its storage; views and results of operations in place are further ones."""
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if not self._owners[place]:
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
        self._owners[place] += 1
        weakref.finalize(tensor, self._remove, place, size)

    def _remove(self, place: int, size: int) -> None:
        self._owners[place] -= 1
        if not self._owners[place]:
            self._bytes -= size


def counted_peak(model: nn.Module, images: Tensor) -> int:
    """Bytes of weights, buffers, images and intermediate results at the peak of a pass; on the meta device without
    using any."""
    live = LiveTensors.beside(_tensors(model, images))
    with torch.no_grad(), live:
        model(images)
    return live.peak


def measured_peak(model: nn.Module, images: Tensor) -> int:
    """Bytes that PyTorch's allocator has given out on a GPU at the peak of a second pass, workspaces included.

    Args:
        model, images: on that GPU, which holds nothing else.
    """
    with torch.no_grad():
        model(images)  # libraries take what they keep
        torch.cuda.synchronize(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        model(images)
        torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each once."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def _tensors(model: nn.Module, *further: Tensor) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    yield from further
