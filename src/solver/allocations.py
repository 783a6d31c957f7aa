# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What steps take of a CPU's memory, as torch's own allocator and storages tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ..optim.step import Optim


def peak_of_allocations(work: Callable[[], object]) -> int:
    """Most bytes that a call holds at once, beyond what was there before; CPU.

    The allocator reports every block as it comes and goes, temporaries inside operators included (libraries that have
    memory of their own, as oneDNN's scratch pads, are not seen).
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    live = peak = 0
    for change in _changes(recorded):
        live += change
        peak = max(peak, live)
    return peak


def _changes(recorded: profile) -> Iterator[int]:
    """Signed sizes of allocations in the order of time."""
    results = recorded.profiler.kineto_results if recorded.profiler is not None else None
    assert results is not None, "the profiler has stopped, so it has results"
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]  # torch types them partly
    yield from (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def lasting_tensors(model: nn.Module, optim: Optim) -> list[Tensor]:
    """Weights, average and moments: what outlives a step."""
    weights = [tensor for part in (model, optim.ema.module) for tensor in (*part.parameters(), *part.buffers())]
    moments = [value for state in optim.optimizer.state.values() for value in state.values()]
    return weights + [value for value in moments if isinstance(value, Tensor)]


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """What tensors hold in memory, each storage once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
