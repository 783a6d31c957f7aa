# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Hooks see what the decoder does, change nothing, and are gone afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import isdfine
from builders import SIZE, write_micro_config
from figure_cases import bars, patch
from hf_cases import filled
from isdfine.core.errors import ConfigError
from isdfine.deploy.fuse import fuse
from isdfine.deploy.inspection import Inspection, inspect_image
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.boxes import cxcywh_to_xyxy
from isdfine.plots.attention import attention_figure, attention_maps_figure
from isdfine.plots.edge_distributions import EDGES, edges_of, refinement_figure
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.dab_detr.model import DABDETR
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.deformable_detr.model import DeformableDETR
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder

ORIGINAL = (320, 640)
"""(height, width) of the image that was resized to the network's."""


def detector(folder: Path, *overrides: str) -> nn.Module:
    config = isdfine.load_config(write_micro_config(folder), ["num_classes=2", *overrides])
    return filled(config).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return detector(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def seen(model: nn.Module, images: Tensor) -> Inspection:
    return inspect_image(model, images, ORIGINAL)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_answer_is_the_same_and_nothing_is_left_behind(model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        before = model(images)
    hooked, state = hooks(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = inspect_image(model, images, ORIGINAL)
    assert hooks(model) == hooked
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    scale = torch.tensor([ORIGINAL[1], ORIGINAL[0]] * 2)
    assert torch.equal(torch.from_numpy(found.scores), before.logits[0].sigmoid())
    assert torch.equal(torch.from_numpy(found.boxes_xyxy_px), cxcywh_to_xyxy(before.boxes[0]) * scale)
    with torch.inference_mode():
        assert torch.equal(model(images).logits, before.logits)


def test_layers_hang_together(seen: Inspection, model: nn.Module) -> None:
    first, last = seen.layers
    assert np.array_equal(last.boxes_xyxy_px, seen.boxes_xyxy_px)
    assert last.references_xyxy_px == pytest.approx(first.boxes_xyxy_px, abs=1e-3)
    assert not np.allclose(first.references_xyxy_px, first.boxes_xyxy_px)
    for layer in seen.layers:
        assert layer.points_px.shape == (8, 2, 4, 2)
        assert layer.point_weights.sum(-1) == pytest.approx(np.ones((8, 2)), abs=1e-5)
        assert layer.self_attention.sum(-1) == pytest.approx(np.ones(8), abs=1e-5)
        assert layer.self_attention.std() > 0
        assert layer.point_levels.tolist() == [0, 0, 1, 1]
        assert layer.edge_probabilities is not None
        assert layer.edge_probabilities.sum(-1) == pytest.approx(np.ones((8, 4)), abs=1e-5)
    assert (seen.inverse_curvature, len(seen.bin_weights if seen.bin_weights is not None else ())) == (4.0, 9)


def test_self_attention_is_that_of_torch(model: nn.Module, images: Tensor, seen: Inspection) -> None:
    """``torch.nn.MultiheadAttention`` with the same weights gives the same map."""
    layer = model.decoder.layers[0]
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    theirs.load_state_dict(layer.self_attn.state_dict())
    inputs = []
    handle = layer.self_attn.register_forward_pre_hook(lambda _, args: inputs.append(args))
    with torch.inference_mode():
        model(images)
        handle.remove()
        content, position = inputs[0][:2]
        _, expected = theirs(content + position, content + position, content, need_weights=True)
    assert seen.layers[0].self_attention == pytest.approx(expected[0].numpy(), abs=1e-6)


def test_points_are_those_that_grid_sample_is_given(
    model: nn.Module, images: Tensor, seen: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with the weights that are told, what is read there gives the layer's own answer."""
    reads: list[tuple[Tensor, Tensor]] = []
    grid_sample = functional.grid_sample

    def note(values: Tensor, grid: Tensor, **settings: object) -> Tensor:
        reads.append((grid, grid_sample(values, grid, **settings)))
        return reads[-1][1]

    monkeypatch.setattr(functional, "grid_sample", note)
    answers: list[Tensor] = []
    attentions = [layer.cross_attn for layer in model.decoder.layers]
    handles = [
        attention.register_forward_hook(lambda _, __, answer: answers.append(answer)) for attention in attentions
    ]
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    levels = len(reads) // len(answers)
    for number, (layer, answer) in enumerate(zip(seen.layers, answers)):
        own = reads[number * levels : (number + 1) * levels]
        places = (torch.cat([grid for grid, _ in own], dim=2).transpose(0, 1) + 1) / 2  # (Q, heads, P, 2)
        assert layer.points_px == pytest.approx(places.numpy() * [ORIGINAL[1], ORIGINAL[0]], abs=1e-3)
        weights = torch.from_numpy(layer.point_weights).transpose(0, 1)[:, None]  # (heads, 1, Q, P)
        update = (torch.cat([read for _, read in own], dim=3) * weights).sum(dim=-1)  # (heads, D / heads, Q)
        assert torch.allclose(update.flatten(0, 1).T, answer[0], atol=1e-6)


def test_the_figure_of_a_model_shows_its_boxes(seen: Inspection) -> None:
    """Read off the plot: initial edge and the sum of P(n) W(n) give the drawn edge, which is the model's."""
    assert seen.initial_boxes_xyxy_px is not None
    assert seen.bin_weights is not None
    assert seen.inverse_curvature is not None
    query = seen.surest(1)[0]
    for layer in seen.layers:
        assert layer.edge_probabilities is not None
        edges = edges_of(
            seen.initial_boxes_xyxy_px[query], layer.edge_probabilities[query], seen.bin_weights, seen.inverse_curvature
        )
        assert np.abs(edges - layer.boxes_xyxy_px[query]).max() < 1e-4 * max(ORIGINAL)
    figure = refinement_figure(Image.new("RGB", ORIGINAL[::-1]), seen, query, "x")
    drawn, initial = (patch(figure, name).get_bbox().extents for name in ("refined", "initial"))
    sides = np.tile(initial[2:] - initial[:2], 2) / seen.inverse_curvature
    for column, edge in enumerate(EDGES):
        mean = bars(figure, f"PW/2/{edge}").sum()
        place = initial[column] + (-1 if column < 2 else 1) * mean * sides[column]
        assert abs(place - drawn[column]) < 1e-4 * max(ORIGINAL)
        assert abs(place - seen.boxes_xyxy_px[query, column]) < 1e-4 * max(ORIGINAL)


def test_padding_does_not_move_anything(tmp_path: Path, images: Tensor) -> None:
    """Everything is told in pixels of the image, wherever it lies in its canvas."""
    model = detector(tmp_path, "HybridEncoder.position_layout=grid", "eval_spatial_size=null")
    plain = inspect_image(model, images, ORIGINAL, torch.tensor([SIZE]))
    wider = torch.zeros(1, 3, SIZE[0] + 32, SIZE[1] + 64)
    wider[:, :, : SIZE[0], : SIZE[1]] = images
    padded = inspect_image(model, wider, ORIGINAL, torch.tensor([SIZE]))
    for layer, other in zip(plain.layers, padded.layers):
        order = np.lexsort(layer.references_xyxy_px.T), np.lexsort(other.references_xyxy_px.T)
        for name in ("references_xyxy_px", "boxes_xyxy_px", "points_px", "point_weights"):
            expected, got = getattr(layer, name)[order[0]], getattr(other, name)[order[1]]
            assert got == pytest.approx(expected, abs=1e-3 * max(ORIGINAL)), name


def test_models_without_distributions(tmp_path: Path, images: Tensor) -> None:
    model = detector(tmp_path, "DFINETransformer.box_head=direct")
    found = inspect_image(model, images, ORIGINAL)
    assert (found.initial_boxes_xyxy_px, found.bin_weights, found.inverse_curvature) == (None, None, None)
    assert all(layer.edge_probabilities is None for layer in found.layers)
    assert np.array_equal(found.layers[-1].boxes_xyxy_px, found.boxes_xyxy_px)
    assert np.array_equal(found.layers[0].boxes_xyxy_px, found.layers[1].references_xyxy_px)


def test_only_layers_that_answer(tmp_path: Path, images: Tensor) -> None:
    model = detector(tmp_path, "DFINETransformer.num_layers=3", "DFINETransformer.eval_idx=1")
    assert len(inspect_image(model, images, ORIGINAL).layers) == 2


def test_the_deployed_form_is_the_same(model: nn.Module, images: Tensor, seen: Inspection) -> None:
    found = inspect_image(fuse(model), images, ORIGINAL)
    assert found.boxes_xyxy_px == pytest.approx(seen.boxes_xyxy_px, abs=0.05)
    assert len(found.layers) == 2


def test_refusals(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ConfigError, match="Linear has no decoder of our parts"):
        inspect_image(nn.Linear(1, 1).eval(), images, ORIGINAL)
    with pytest.raises(ValueError, match="one image in eval mode, got 2"):
        inspect_image(model, images.repeat(2, 1, 1, 1), ORIGINAL)


def test_an_error_on_the_way_leaves_no_hooks(model: nn.Module) -> None:
    hooked = hooks(model)
    with pytest.raises(RuntimeError):
        inspect_image(model, torch.rand(1, 4, *SIZE), ORIGINAL)
    assert hooks(model) == hooked


def test_surest(seen: Inspection) -> None:
    best = seen.scores.max(axis=1)
    order = seen.surest(3)
    assert best[order].tolist() == sorted(best.tolist(), reverse=True)[:3]
    assert seen.surest(100, threshold=2.0) == []


# --- pictures of some layers ------------------------------------------------------------------------------------------

IMAGE = Image.new("RGB", SIZE[::-1])


def inspect(folder: Path, *overrides: str) -> Inspection:
    model = detector(folder, "DFINETransformer.num_layers=3", *overrides)
    return inspect_image(model, torch.rand(1, 3, *SIZE), SIZE)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspect(tmp_path_factory.mktemp("three"))


def titles(figure) -> str:
    return " ".join(axes.get_title() for part in (figure, *figure.subfigs) for axes in part.get_axes())


def test_first_and_last_layer_unless_others_are_named(three: Inspection) -> None:
    figure = refinement_figure(IMAGE, three, 4, "cat")
    assert [f"left, layer {layer}" in titles(figure) for layer in (1, 2, 3)] == [True, False, True]
    assert patch(figure, "refined").get_bbox().extents == pytest.approx(three.boxes_xyxy_px[4], abs=1e-3)
    assert "left, layer 2" in titles(refinement_figure(IMAGE, three, 4, "cat", [2]))


def test_all_layers_unless_some_are_named(three: Inspection) -> None:
    for draw in (
        lambda layers: attention_figure(IMAGE, three, 4, "cat", layers),
        lambda layers: attention_maps_figure(three, layers),
    ):
        assert [f"layer {layer}" in titles(draw(())) for layer in (1, 2, 3)] == [True] * 3
        assert [f"layer {layer}" in titles(draw([3, 1])) for layer in (1, 2, 3)] == [True, False, True]


def test_layers_that_are_not_there(three: Inspection) -> None:
    assert list(three.numbered([3, 1, 3])) == [1, 3]
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match=f"--layers {wrong}: the decoder has the layers 1 to 3"):
            three.numbered([1, wrong])


def test_no_distributions(tmp_path: Path) -> None:
    direct = inspect(tmp_path, "DFINETransformer.box_head=direct")
    with pytest.raises(ConfigError, match="box_head is direct"):
        refinement_figure(IMAGE, direct, 0, "cat")
    assert "layer 3" in titles(attention_figure(IMAGE, direct, 0, "cat"))


def test_dense_attention_is_points_too(images: Tensor) -> None:
    """One per cell of the image; what each head mixes is what its weights say, and the padding has none."""
    sizes = {"hidden_dim": 32, "nhead": 2, "dim_feedforward": 32}
    encoder = DenseEncoder([512], num_encoder_layers=1, **sizes)
    layers = {"cross_attention": "dense", "feat_channels": [32], "feat_strides": [32], "num_layers": 2}
    torch.manual_seed(0)
    decoder = DABDETRTransformer(3, num_queries=7, **layers, **sizes)  # type: ignore[arg-type]
    model = DABDETR(ResNet(18, [3], pretrained=False), encoder, decoder).eval()
    found = inspect_image(model, images, ORIGINAL, torch.tensor([[40, 96]]))
    cells = 2 * 3  # of 32 pixels in 64 x 96, of which the second row reaches over the end of the image
    assert len(found.layers) == 2
    for layer in found.layers:
        assert layer.points_px.shape == (7, 2, cells, 2)
        np.testing.assert_allclose(layer.point_weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(layer.points_px[0, 0, :, 0], np.tile(ORIGINAL[1] * np.array([1, 3, 5]) / 6, 2), 1e-5)
    padded = inspect_image(model, images, ORIGINAL, torch.tensor([[32, 96]]))
    assert not padded.layers[0].point_weights[..., 3:].any()


def test_layers_that_start_from_points(images: Tensor) -> None:
    sizes = {"hidden_dim": 32, "nhead": 2, "dim_feedforward": 32}
    encoder = DeformableEncoder([512], [32], num_levels=1, num_encoder_layers=1, **sizes)
    layers = {"feat_channels": [32], "feat_strides": [32], "num_levels": 1, "num_layers": 2}
    decoder = DeformableDETRTransformer(3, num_queries=7, **layers, **sizes)  # type: ignore[arg-type]
    model = DeformableDETR(ResNet(18, [3], pretrained=False), encoder, decoder).eval()
    first, last = inspect_image(model, images, ORIGINAL).layers
    assert np.array_equal(first.references_xyxy_px[:, :2], first.references_xyxy_px[:, 2:])
    assert (last.boxes_xyxy_px[:, 2:] > last.boxes_xyxy_px[:, :2]).all()
    np.testing.assert_allclose(first.point_weights.sum(-1), 1, atol=1e-5)
