# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions do not depend on the padding of a batch (docs/method.md 10.2)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isdfine.deploy.fuse import fuse
from isdfine.distill.objective import Objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.nn.types import DetectorOutput, Predictions
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dfine.encoder import HybridEncoder
from isdfine.zoo.dfine.model import DFINE

HEIGHT, WIDTH = 85, 118
"""Content of most tests: no multiple of 32; alone it needs 96 x 128."""


def detector(*, layout: str = "grid", backbone: nn.Module | None = None, seed: int = 0, **decoder: Any) -> DFINE:
    """A small D-FINE in eval mode whose weights, biases and statistics are all away from their neutral values."""
    torch.manual_seed(seed)
    backbone = backbone or HGNetv2("B0", use_lab=True, return_idx=[2, 3], freeze_at=-1, freeze_norm=False)
    channels = getattr(backbone, "channels", [512, 1024])
    encoder = HybridEncoder(
        channels, [16, 32], 16, 2, 32, use_encoder_idx=[1], expansion=0.5, depth_mult=0.5, position_layout=layout
    )
    options: dict[str, Any] = {"num_queries": 10, "num_points": 2, "num_levels": 2, "num_layers": 2, "reg_max": 8}
    options |= {"hidden_dim": 16, "nhead": 2, "dim_feedforward": 32, "num_denoising": 6}
    model = DFINE(
        backbone, encoder, DFINETransformer(3, feat_channels=[16, 16], feat_strides=[16, 32], **{**options, **decoder})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return model.eval()


def content(height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def on_canvas(height: int, width: int, *images: Tensor) -> tuple[Tensor, Tensor]:
    """Images at the top left of canvases full of noise, and their sizes."""
    canvas = torch.rand(len(images), 3, height, width)
    for place, image in zip(canvas, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas, torch.tensor([image.shape[1:] for image in images])


@torch.no_grad()
def predict(model: DFINE, images: Tensor, sizes: Tensor | None = None) -> Predictions:
    answer = model(images, image_sizes=sizes)
    assert isinstance(answer, Predictions)
    return answer


def assert_same(one: Predictions, other: Predictions, boxes: float = 1e-5, logits: float = 1e-5) -> None:
    torch.testing.assert_close(one.boxes, other.boxes, atol=boxes, rtol=0)
    torch.testing.assert_close(one.logits, other.logits, atol=logits, rtol=0)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "agnostic": {"query_select_method": "agnostic"},
    "one2many": {"query_select_method": "one2many"},
    "discrete": {"cross_attn_method": "discrete"},
    "extra levels": {"num_levels": 4},
    "stored anchors": {"eval_spatial_size": [96, 128]},
    "more queries than cells": {"num_queries": 60},
    "rt-detr": {"box_head": "direct", "merge": "residual", "cross_attn_projections": True},
    "rt-detr discrete": {"cross_attn_projections": True, "cross_attn_method": "discrete"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (96, 128)])  # the second fills its own canvas
def test_extra_padding_changes_nothing(variant: str, size: tuple[int, int]) -> None:
    model = detector(**VARIANTS[variant])
    tight = predict(model, *on_canvas(96, 128, content(*size)))
    assert tight.boxes.std() > 0.005
    for height, width in ((96, 160), (96, 192), (128, 128), (160, 128), (160, 192)):
        assert_same(predict(model, *on_canvas(height, width, content(*size))), tight)


@pytest.mark.parametrize("size", [(1, 150), (97, 31), (31, 5)])
@pytest.mark.parametrize("variant", ["default", "extra levels", "one2many"])
def test_extra_padding_changes_nothing_for_strips_and_dots(variant: str, size: tuple[int, int]) -> None:
    """Alone they fill maps of one row or column, or fewer cells than there are queries."""
    model, image = detector(**VARIANTS[variant]), content(*size)
    tight = predict(model, *on_canvas(*(-(-side // 32) * 32 for side in size), image))
    for canvas in ((96, 160), (128, 224)):
        wide = predict(model, *on_canvas(canvas[0] + 32, canvas[1], image))
        # Queries beyond the content come last and all alike; box logits of cells near the border are coarse.
        assert_same(wide, tight, boxes=1e-4, logits=1e-4)


def test_extra_padding_changes_nothing_after_fusing() -> None:
    model = detector()
    fused = fuse(model)
    tight = predict(fused, *on_canvas(96, 128, content()))
    assert_same(tight, predict(model, *on_canvas(96, 128, content())), boxes=1e-4, logits=1e-4)
    assert_same(predict(fused, *on_canvas(160, 192, content())), tight)


def test_a_batch_of_two_shapes_is_two_batches_of_one() -> None:
    model = detector()
    wide, high = content(), content(150, 70, seed=2)
    both = predict(model, *on_canvas(160, 128, wide, high))
    for row, (image, canvas) in enumerate(((wide, (96, 128)), (high, (160, 96)))):
        alone = predict(model, *on_canvas(*canvas, image))
        assert_same(Predictions(both.logits[row : row + 1], both.boxes[row : row + 1]), alone)


def test_content_that_fills_its_canvas_is_no_padding() -> None:
    model = detector()
    images = torch.stack([content(96, 128), content(96, 128, seed=2)])
    assert_same(predict(model, images, torch.tensor([[96, 128]] * 2)), predict(model, images), 1e-6, 1e-6)
    square = content(96, 96)[None]
    official = detector(layout="official")
    assert_same(predict(model, square, torch.tensor([[96, 96]])), predict(official, square), 1e-6, 1e-6)


def test_without_the_sizes_padding_does_matter() -> None:
    model = detector()
    small, large = on_canvas(96, 128, content())[0], F.pad(on_canvas(96, 128, content())[0], (0, 64, 0, 64))
    assert (predict(model, small).boxes - predict(model, large).boxes).abs().max() > 1e-2


def test_the_official_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"position_layout='official', .* set HybridEncoder.position_layout: grid"):
        predict(detector(layout="official"), *on_canvas(96, 128, content()))


@pytest.mark.parametrize("count", [1, 3])
def test_one_size_per_image(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} image sizes for 2 images: give one per image"):
        predict(detector(), torch.rand(2, 3, 96, 128), torch.tensor([[85, 118]] * count))


def test_sizes_that_are_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image 0 is 128 x 96 \(height x width\) pixels, but its canvas has 96 x 128"):
        predict(detector(), torch.rand(1, 3, 96, 128), torch.tensor([[128, 96]]))


class Pointwise(nn.Module):
    """A backbone stub: averages cells, then one convolution; it knows nothing of padding."""

    channels = (8, 12)

    def __init__(self, kernel_size: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, kernel_size, padding=kernel_size // 2) for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [conv(F.avg_pool2d(images, stride)) for conv, stride in zip(self.convs, (16, 32))]


def test_a_backbone_that_takes_no_padding() -> None:
    """Its layers are made to read cleared maps, for the time of the call."""
    for kernel_size in (1, 3):
        model = detector(backbone=Pointwise(kernel_size))
        assert not model.backbone_takes_padding
        alone = predict(model, content(96, 96)[None], torch.tensor([[96, 96]]))
        assert_same(predict(model, *on_canvas(96, 160, content(96, 96))), alone)
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_ordinary_timm_backbone() -> None:
    timm = pytest.importorskip("timm")
    body = timm.create_model("resnet10t", features_only=True, out_indices=(3, 4))  # a pooling layer in its stem
    body.channels = body.feature_info.channels()
    model = detector(backbone=body)
    for size in ((HEIGHT, WIDTH), (96, 128)):
        tight = predict(model, *on_canvas(96, 128, content(*size)))
        assert_same(predict(model, *on_canvas(160, 192, content(*size))), tight)


def targets(*counts: int) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(3)
    return [
        {
            "labels": torch.randint(3, (count,), generator=random),
            "boxes": torch.rand(count, 4, generator=random) * 0.3 + 0.3,
        }
        for count in counts
    ]


def test_training_has_finite_losses_and_gradients() -> None:
    model = detector(num_queries=40).train()  # more than the second image has cells: padded ones are selected as well
    images, sizes = on_canvas(160, 128, content(), content(50, 40, seed=2))
    output = model(images, targets(2, 0), sizes)
    assert isinstance(output, DetectorOutput)
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
    matcher = HungarianMatcher({"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0})
    criterion = DFINECriterion(matcher, weights, ["vfl", "boxes", "local"], num_classes=3, reg_max=8)
    terms = Objective(criterion)(output, targets(2, 0))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_selected_cells_lie_inside_the_content() -> None:
    model = detector(num_queries=12).train()
    images, sizes = on_canvas(160, 192, content(), content(60, 150, seed=2))
    output = model(images, targets(1, 1), sizes)
    index = output.memory_index  # 10 x 12 cells of 16 pixels, then 5 x 6 of 32
    fine = index < 120
    row = torch.where(fine, index // 12 * 16, (index - 120) // 6 * 32)
    column = torch.where(fine, index % 12 * 16, (index - 120) % 6 * 32)
    assert (row < sizes[:, :1]).all()
    assert (column < sizes[:, 1:]).all()


def test_a_scaled_batch_keeps_fractions_of_a_pixel() -> None:
    model = detector()
    images, sizes = on_canvas(128, 160, content())
    exact = predict(model, images, sizes.double() * 0.987)
    assert_same(predict(model, F.pad(images, (0, 32, 0, 64)), sizes.double() * 0.987), exact)
    assert not torch.equal(exact.boxes, predict(model, images, sizes).boxes)
