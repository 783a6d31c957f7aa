# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A zero border before a max pooling must not become the pooling's own border, which is minus infinity."""

import numpy as np
import pytest
import torch
from torch import nn

from export_cases import Exported
from isdfine.deploy.fuse import fuse
from isdfine.deploy.onnx.graph import Deployed
from isdfine.deploy.preprocess import Recipe
from isdfine.nn.backbone.hgnetv2 import LearnableAffine, Stem, Style

onnx = pytest.importorskip("onnx", reason="pip install onnx")


def stem(*, shift: float | None) -> Stem:
    """Random, whose maps go down to ``shift``; None for one without learned affines."""
    torch.manual_seed(0)
    made = Stem(4, 8, Style(nn.BatchNorm2d, use_lab=shift is not None)).eval()
    for module in made.modules():
        if isinstance(module, LearnableAffine):
            nn.init.constant_(module.bias, shift or 0)
    return made


def deployed(made: Stem) -> Stem:
    model = Deployed(nn.Sequential(made), nn.Identity(), Recipe.squash((64, 64))).model
    assert isinstance(model, nn.Sequential)
    assert isinstance(model[0], Stem)
    return model[0]


def test_negative_maps_get_their_zero_border_from_a_convolution() -> None:
    made = stem(shift=-0.5)
    guarded, images = deployed(made), torch.rand(2, 3, 64, 96)
    assert isinstance(guarded.border, nn.Conv2d)
    maps = torch.randn(2, 4, 5, 6)
    with torch.inference_mode():
        assert torch.equal(guarded.border(maps), made.border(maps))
        assert torch.equal(guarded(images), fuse(nn.Sequential(made), backbone=True)(images))


@pytest.mark.parametrize("shift", [None, 0.5])
def test_maps_that_are_never_negative_keep_their_pad(shift: float | None) -> None:
    assert isinstance(deployed(stem(shift=shift)).border, nn.ZeroPad2d)


def test_exports_are_guarded(exported: Exported) -> None:
    graph = exported.graph().graph
    makers = {node.output[0]: node for node in graph.node}
    kernels = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer}
    (pool,) = [node for node in graph.node if node.op_type == "MaxPool"]
    kernel = kernels[makers[pool.input[0]].input[1]]
    assert makers[pool.input[0]].op_type == "Conv"
    assert (kernel.shape[1:], kernel.dtype) == ((1, 2, 2), np.float32)
    assert np.array_equal(kernel, np.broadcast_to([[0, 0], [0, 1]], kernel.shape))
