# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models to be timed without a checkpoint: random weights that a runtime cannot simplify more than trained ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..core.config import Config, without_initial_weights
from ..deploy.preprocess import image_size_of
from .model_info import DEFAULT_CLASSES

_AROUND_ONE, _AROUND_ZERO = 0.1, 0.05


def random_detector(config: Config, size: Sequence[int] | None = None) -> tuple[nn.Module, Config]:
    """A model in eval mode whose weights are the same in every call, and the config it was built from.

    Args:
        config: with a section ``model``. Where it says no ``num_classes``, COCO's 80 are taken; nothing pretrained is
            read.
        size: (height, width) in pixels; None = the config's own.
    """
    config.require("model")
    config = without_initial_weights(config)
    height, width = size or image_size_of(config)
    classes = config.get("num_classes") or DEFAULT_CLASSES
    config = config.with_values({"num_classes": classes, "eval_spatial_size": [height, width]})
    torch.manual_seed(0)
    model: nn.Module = config.build("model").eval()
    leave_neutral_starts(model)
    return model, config


def leave_neutral_starts(model: nn.Module) -> None:
    """Move what starts as nothing but ones or zeros, as training does; by a seed of its own, in place.

    Learned scales start at 1 and shifts at 0, and runtimes take such a product or sum out of the graph (ONNX Runtime:
    NoopElimination), which they cannot do with a trained model's. Ones come to lie in 0.9 .. 1.1, zeros in
    -0.05 .. 0.05, in weights, biases and statistics of norms alike.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.state_dict().values():  # of the model itself, no copies
            if not value.is_floating_point():
                continue
            for start, reach in ((1.0, _AROUND_ONE), (0.0, _AROUND_ZERO)):
                if (value == start).all():
                    value.copy_(start + reach * (2 * torch.rand(value.shape, generator=draw) - 1))
                    break
