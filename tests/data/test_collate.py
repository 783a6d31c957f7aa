# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import tv_tensors

from golden_cases import load_json
from isdfine.core.errors import DataError
from isdfine.data.collate import (
    BatchImageCollateFunction,
    PaddedBatchCollateFunction,
    multiscale_sizes,
    padded_share,
    scaled_sizes,
)
from isdfine.data.transforms import PixelConversion


@pytest.mark.parametrize("repeat", ["3", "4", "6", "10", "20"])
def test_official_sizes(repeat):
    golden = load_json("configs.json")["common"]["multiscale_sizes"]
    sizes = multiscale_sizes((640, 640), int(repeat))
    assert [height for height, _ in sizes] == golden["base640_by_repeat"][repeat]
    assert all(height == width for height, width in sizes)


def test_official_sizes_of_320():
    golden = load_json("configs.json")["common"]["multiscale_sizes"]
    assert [height for height, _ in multiscale_sizes((320, 320), 4)] == golden["base320_repeat4"]


def test_rectangles_keep_their_proportion():
    sizes = multiscale_sizes((320, 640), 1)
    assert sizes[5] == (320, 640)
    assert sizes[0] == (256, 480)
    assert all(side % 32 == 0 for size in sizes for side in size)
    assert multiscale_sizes((640, 320), 1) == tuple((width, height) for height, width in sizes)


def test_sizes_are_drawn_from_the_list_by_their_frequency():
    collate = BatchImageCollateFunction(640, 6)
    drawn = Counter(collate.size_at(0, epoch, batch) for epoch in range(40) for batch in range(100))
    assert set(drawn) == set(collate.sizes)
    assert drawn[640, 640] / 4000 == pytest.approx(6 / 16, abs=0.03)
    assert drawn[800, 800] / 4000 == pytest.approx(1 / 16, abs=0.02)


def test_sizes_are_a_function_of_seed_epoch_and_batch():
    one, other = BatchImageCollateFunction(640, 3), BatchImageCollateFunction(640, 3)
    keys = [(seed, epoch, batch) for seed in range(3) for epoch in range(3) for batch in range(3)]
    assert [one.size_at(*key) for key in keys] == [other.size_at(*key) for key in reversed(keys)][::-1]
    assert len({tuple(one.size_at(seed, 0, batch) for batch in range(9)) for seed in range(5)}) == 5


def test_one_size_without_repeat_and_where_the_loop_says_so():
    assert BatchImageCollateFunction(640).size_at(0, 0, 0) is None
    collate = BatchImageCollateFunction(640, 3, stop_epoch=2, ema_restart_decay=0.9999)
    assert collate.size_at(0, 2, 0) is not None
    collate.multi_scale = False  # as in the second stage: tests/solver/test_stages.py
    assert collate.size_at(0, 2, 0) is None
    assert (collate.stop_epoch, collate.ema_restart_decay) == (2, 0.9999)


def test_resize_is_nearest():
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    resized = BatchImageCollateFunction.resize(images, (96, 64))
    assert torch.equal(resized.float(), F.interpolate(images.float(), size=(96, 64)))
    assert BatchImageCollateFunction.resize(images, None) is images
    assert BatchImageCollateFunction.resize(images, (64, 32)) is images


@pytest.mark.parametrize("base", [100, (64, 50), 0])
def test_base_sizes_fit_the_strides(base):
    with pytest.raises(ValueError, match=r"base_size is .*: every side must be a multiple of 32"):
        BatchImageCollateFunction(base)


def test_repeat_is_a_count():
    for repeat in (0, 10**8):
        with pytest.raises(ValueError, match=f"base_size_repeat is {repeat}: give 1 to 1000"):
            BatchImageCollateFunction(640, repeat)


def test_what_the_second_stage_could_not_take_is_refused_before_the_first():
    with pytest.raises(ValueError, match="ema_restart_decay is 2: give at least 0 and below 1"):
        BatchImageCollateFunction(stop_epoch=3, ema_restart_decay=2)
    with pytest.raises(ValueError, match="stop_epoch is -1: give 0 or more"):
        BatchImageCollateFunction(stop_epoch=-1)


def image(height, width):
    return tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))


def test_stacks_images_and_unwraps_targets():
    boxes = tv_tensors.BoundingBoxes([[0.0, 0, 1, 1]], format="XYXY", canvas_size=(8, 9))
    images, targets = BatchImageCollateFunction()([(image(8, 9), {"boxes": boxes}), (image(8, 9), {"boxes": boxes})])
    assert images.shape == (2, 3, 8, 9)
    assert images.dtype == torch.uint8
    assert type(images) is torch.Tensor
    assert type(targets[1]["boxes"]) is torch.Tensor


def test_unequal_images():
    with pytest.raises(
        DataError, match=r"2 sizes \(height, width\): \(8, 9\), \(9, 8\): add Resize or PadToSize .* PaddedBatchCollate"
    ):
        BatchImageCollateFunction()([(image(8, 9), {}), (image(9, 8), {}), (image(8, 9), {})])


def test_images_that_are_no_tensors():
    with pytest.raises(DataError, match="samples hold a Image, not a tensor: add ConvertPILImage"):
        BatchImageCollateFunction()([(Image.new("RGB", (4, 4)), {})])


def noise(height, width):
    return tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))


def test_padded_batches_have_the_images_at_the_top_left():
    samples = [(noise(40, 70), {"labels": torch.tensor([1])}), (noise(65, 30), {"labels": torch.tensor([])})]
    images, targets = PaddedBatchCollateFunction(fill=7)(samples)
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == torch.uint8
    assert type(images) is torch.Tensor
    assert torch.equal(images[0, :, :40, :70], samples[0][0].as_subclass(torch.Tensor))
    assert (images[0, :, 40:] == 7).all()
    assert (images[0, :, :, 70:] == 7).all()
    assert [target["image_size"].tolist() for target in targets] == [[40, 70], [65, 30]]
    assert targets[0]["image_size"].dtype == torch.int64
    assert targets[0]["labels"].tolist() == [1]
    assert "image_size" not in samples[0][1]
    assert padded_share(torch.stack([target["image_size"] for target in targets]), (96, 96)) == pytest.approx(
        1 - (40 * 70 + 65 * 30) / 2 / 96**2
    )


def test_canvas_sides_are_the_next_multiples_of_the_stride():
    assert PaddedBatchCollateFunction()([(noise(64, 65), {})])[0].shape[-2:] == (64, 96)
    images, _ = PaddedBatchCollateFunction(stride=64)([(noise(64, 65), {})])
    assert images.shape[-2:] == (64, 128)
    assert images[0, :, 0, -1].tolist() == [124, 116, 104]  # the mean colour of photos


def test_scales_are_drawn_per_batch_and_keep_the_stride():
    collate = PaddedBatchCollateFunction(scales=[0.75, 1.0, 1.25], stop_epoch=9, ema_restart_decay=0.9)
    keys = [(0, epoch, batch) for epoch in range(9) for batch in range(20)]
    sizes = [collate.size_at(*key, (288, 384)) for key in keys]
    assert Counter(sizes).keys() == {(224, 288), (288, 384), (352, 480)}
    assert sizes == [collate.size_at(*key, (288, 384)) for key in keys]
    wide = [collate.size_at(*key, (384, 640)) for key in keys]  # another rank's canvas: the same factor
    assert {(size[0] < 288, other[0] < 384) for size, other in zip(sizes, wide)} == {(False, False), (True, True)}
    assert PaddedBatchCollateFunction().size_at(0, 0, 0, (288, 384)) is None
    with pytest.raises(ValueError, match="size of a batch depends on its canvas"):
        collate.size_at(0, 0, 0)
    collate.multi_scale = False
    assert collate.size_at(0, 9, 0, (288, 384)) is None


@pytest.mark.parametrize(("canvas", "size"), [((288, 384), (320, 416)), ((288, 384), (224, 288)), ((96, 64), (96, 64))])
def test_scaled_sizess_end_where_scaled_images_end(canvas, size):
    for height, width in ((canvas[0] // 2, canvas[1] // 2), (canvas[0] - 19, canvas[1] - 1), (1, 33), canvas):
        images = torch.zeros(1, 3, *canvas)
        images[..., :height, :width] = 1
        resized = PaddedBatchCollateFunction.resize(images, size)
        scaled = scaled_sizes(torch.tensor([[height, width]]), canvas, size)[0]
        assert scaled.tolist() == pytest.approx([height * size[0] / canvas[0], width * size[1] / canvas[1]])
        for axis, end in ((1, scaled[0]), (0, scaled[1])):
            profile = resized[0, 0].amax(dim=axis) / resized.max()
            assert profile.sum().item() == pytest.approx(end.item(), abs=0.3)  # the pixel at the end is part of both
            assert (profile > 0).sum() <= end.ceil() + 1


def test_thin_strokes_stay_where_padded_batches_get_smaller():
    images = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    images[..., 3::10] = 0  # 7 strokes of one pixel
    resized = PaddedBatchCollateFunction.resize(images, (64, 48))
    assert resized.dtype is torch.uint8
    dark = resized[0, 0, 30] < 200
    assert (dark[1:] & ~dark[:-1]).sum() + dark[0] == 7
    nearest = BatchImageCollateFunction.resize(images, (64, 48))[0, 0, 30] < 200
    assert nearest.sum() < 7  # as the published weights of D-FINE were trained, on photos


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 48}, "stride is 48: give a multiple of 32 above 0"),
        ({"stride": 0}, "stride is 0"),
        ({"fill": 256}, r"fill is 256: give a pixel value 0\.\.255, or mean"),
        ({"fill": "white"}, "fill is 'white'"),
        ({"scales": []}, r"scales is \[\]: give factors above 0"),
        ({"scales": [0.5, 0]}, r"scales is \[0.5, 0\]"),
    ],
)
def test_options_of_padded_batches(options, message):
    with pytest.raises(ValueError, match=message):
        PaddedBatchCollateFunction(**options)


def test_padded_batches_need_tensors_too():
    with pytest.raises(DataError, match="samples hold a Image, not a tensor: add ConvertPILImage"):
        PaddedBatchCollateFunction()([(Image.new("RGB", (4, 4)), {})])


@pytest.mark.parametrize("collate", [BatchImageCollateFunction, PaddedBatchCollateFunction])
def test_files_that_say_no_restart_decay_get_the_official_one(collate):
    golden = load_json("configs.json")["variants"]["x_obj365"]["multiscale"]  # its file leaves the key out
    assert collate().ema_restart_decay == golden["ema_restart_decay"]
    assert collate(ema_restart_decay=None).ema_restart_decay is None


def test_images_that_lie_pixel_by_pixel_stay_so_in_their_batch():
    values = torch.arange(2 * 32 * 64 * 3).remainder(251).to(torch.uint8)
    images = list(values.view(2, 32, 64, 3).permute(0, 3, 1, 2))
    stacked, _ = BatchImageCollateFunction(32)([(image, {}) for image in images])
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(stacked, torch.stack([image.contiguous() for image in images]))
    mixed, _ = BatchImageCollateFunction(32)([(images[0], {}), (images[1].contiguous(), {})])
    assert torch.equal(mixed, stacked)
    floats = PixelConversion()(stacked)
    assert floats.is_contiguous()  # a network gets one layout, wherever its images come from
    assert torch.equal(floats, stacked.contiguous().float() / 255)
