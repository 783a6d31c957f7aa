# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What images cost in memory at least, from a forward pass of one or two: cheap enough before every run on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..nn.padding import CONTENT_SIZE, content_sizes_of
from ..optim.precision import Precision


class Activations(NamedTuple):
    """Bytes of one forward pass, both less than a run takes: losses, denoising queries and buffers come on top."""

    kept: int
    """What a training step keeps for its backward pass."""
    widest: int
    """Input and output of the layer where both together are largest: an evaluation holds at least these."""


def activations(
    model: nn.Module, batch: int, size: tuple[int, int], precision: Precision, *, padded: bool = False
) -> Activations:
    """Let images pass through the model and count; weights, gradients, modes and random states are not touched.

    Args:
        model: the run's detector, on a CPU.
        batch: images.
        size: (height, width) of the images.
        precision: of training.
        padded: whether batches say where their images end.
    """
    kept: dict[int, Tensor] = {}
    widest = 0

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other gets its address
        return tensor

    def compare(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal widest
        tensors = [one for one in (*inputs, output) if isinstance(one, Tensor)]
        widest = max(widest, sum(one.nbytes for one in tensors))

    lasting = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    target = {CONTENT_SIZE: torch.tensor(size, dtype=torch.float32)} if padded else {}
    images = torch.full((batch, 3, *size), 0.5)
    with (
        _at_rest(model, compare),
        torch.enable_grad(),
        precision.autocast(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model(images, **content_sizes_of([target] * batch))
    return Activations(
        sum(one.untyped_storage().nbytes() for place, one in kept.items() if place not in lasting), widest
    )


@contextlib.contextmanager
def _at_rest(model: nn.Module, compare: Any) -> Iterator[None]:
    """Evaluation mode, in which no statistic moves, with ``compare`` after every layer; and back."""
    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_hook(compare) for module in modes if not any(True for _ in module.children())]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
