# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from isdfine.core.errors import DataError
from isdfine.data import transforms as T

HEIGHT, WIDTH = 40, 60


def sample(boxes=((10.0, 10.0, 30.0, 20.0), (0.0, 5.0, 60.0, 40.0))):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    count = len(boxes)
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes).reshape(-1, 4), format="XYXY", canvas_size=(HEIGHT, WIDTH)
        ),
        "labels": torch.arange(count),
        "area": torch.arange(count) * 10.0,
        "iscrowd": torch.zeros(count, dtype=torch.int64),
        "image_id": torch.tensor([1]),
        "orig_size": torch.tensor([HEIGHT, WIDTH]),
    }
    return Image.fromarray(pixels), target


def test_resize_to_rows_and_columns():
    image, target = T.Resize((80, 30))(*sample())
    assert image.size == (30, 80)
    assert target["boxes"].tolist() == [[5, 20, 15, 40], [0, 10, 30, 80]]
    assert target["orig_size"].tolist() == [HEIGHT, WIDTH]
    expected = sample()[0].resize((30, 80), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("size", [640, [640], [0, 5], [3.5, 4]])
def test_sizes_are_pairs(size):
    with pytest.raises(ValueError, match=r"Resize: size is .*: give \[height, width\] in pixels"):
        T.Resize(size)


def test_sanitize_keeps_rows_together():
    boxes = ((10.0, 10.0, 10.5, 20.0), (0.0, 5.0, 60.0, 40.0), (5.0, 5.0, 5.0, 9.0), (1.0, 1.0, 9.0, 9.0))
    _, target = T.SanitizeBoundingBoxes(min_size=1)(*sample(boxes))
    assert target["labels"].tolist() == [1, 3]
    assert target["area"].tolist() == [10.0, 30.0]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["boxes"].tolist() == [[0, 5, 60, 40], [1, 1, 9, 9]]
    assert target["image_id"].tolist() == [1]


def test_flip():
    image, target = T.RandomHorizontalFlip(p=1.0)(*sample())
    assert target["boxes"].tolist() == [[30, 10, 50, 20], [0, 5, 60, 40]]
    assert image.getpixel((0, 0)) == sample()[0].getpixel((WIDTH - 1, 0))


def test_zoom_out_fills_and_moves_the_boxes_along():
    torch.manual_seed(0)
    image, target = T.RandomZoomOut(fill=0, side_range=(2.0, 2.0), p=1.0)(*sample())
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    left, top = target["boxes"][1, 0].item(), target["boxes"][1, 1].item() - 5
    cut = image.crop((left, top, left + WIDTH, top + HEIGHT))
    assert np.array_equal(np.asarray(cut), np.asarray(sample()[0]))


@pytest.mark.parametrize("seed", range(8))
def test_iou_crop_keeps_boxes_inside(seed):
    torch.manual_seed(seed)
    image, target = T.SanitizeBoundingBoxes()(*T.RandomIoUCrop(p=1.0)(*sample()))
    height, width = F.get_size(image)
    assert len(target["boxes"]) == len(target["labels"]) == len(target["area"]) >= 1
    assert (target["boxes"] >= 0).all()
    assert (target["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_iou_crop_leaves_images_alone_that_it_cannot_crop():
    image, _ = T.RandomIoUCrop(p=0.0)(*sample())
    assert image.size == (WIDTH, HEIGHT)
    image, target = T.RandomIoUCrop(p=1.0)(*sample(()))
    assert image.size == (WIDTH, HEIGHT)
    assert len(target["boxes"]) == 0
    speck = Image.new("RGB", (2, 2))
    boxes = {"boxes": tv_tensors.BoundingBoxes([[0.0, 0, 2, 2]], format="XYXY", canvas_size=(2, 2))}
    assert T.RandomIoUCrop(p=1.0)(speck, boxes)[0] is speck


def test_iou_crop_must_be_able_to_give_up():
    with pytest.raises(ValueError, match=r"RandomIoUCrop.p is -1: give a number from 0 to 1"):
        T.RandomIoUCrop(p=-1)
    with pytest.raises(ValueError, match=r"sampler_options \[0.5\] holds no value of at least 1"):
        T.RandomIoUCrop(sampler_options=[0.5])


def cropped_aspects(**options):
    """Aspect ratios of crops of an image of 60 x 40, relative to its own."""
    crop, found = T.RandomIoUCrop(p=1.0, sampler_options=[0.0, 1.0], **options), []
    for seed in range(60):
        torch.manual_seed(seed)
        image, _ = crop(*sample())
        found.append(image.width / image.height / (WIDTH / HEIGHT))
    return found


def test_iou_crop_can_keep_near_the_aspect_of_the_image():
    free, near = cropped_aspects(), cropped_aspects(aspect_change=1.2)
    assert max(free) > 1.25
    assert min(free) < 0.75
    assert len(set(near)) > 10
    assert all(1 / 1.2 - 1e-9 <= ratio <= 1.2 + 1e-9 for ratio in near)
    assert max(cropped_aspects(aspect_change=1.2, max_aspect_ratio=1.5)) <= 1
    with pytest.raises(ValueError, match=r"aspect_change is 0\.5: give a factor of at least 1"):
        T.RandomIoUCrop(aspect_change=0.5)


def test_photometric_distortion_changes_pixels_only():
    torch.manual_seed(0)
    image, target = T.RandomPhotometricDistort(p=1.0)(*sample())
    assert image.size == (WIDTH, HEIGHT)
    assert not np.array_equal(np.asarray(image), np.asarray(sample()[0]))
    assert torch.equal(target["boxes"], sample()[1]["boxes"])
    assert torch.equal(target["area"], sample()[1]["area"])


def test_crop():
    image, target = T.RandomCrop((20, 30))(*sample())
    assert image.size == (30, 20)
    assert target["boxes"].canvas_size == (20, 30)


def test_pad_keeps_detections_in_original_pixels():
    image, target = T.PadToSize((80, 90), fill=7)(*sample())
    assert image.size == (90, 80)
    assert image.getpixel((89, 79)) == (7, 7, 7)
    assert torch.equal(torch.Tensor(target["boxes"]), torch.Tensor(sample()[1]["boxes"]))
    assert target["labels"].tolist() == [0, 1]
    _, normalised = T.ConvertBoxes("xyxy")(image, target)
    height, width = target["orig_size"].tolist()
    restored = normalised["boxes"] * torch.tensor([width, height, width, height])
    assert torch.allclose(restored, sample()[1]["boxes"].as_subclass(torch.Tensor))


def test_pad_does_not_shrink():
    with pytest.raises(DataError, match=r"\(40, 60\) does not fit into \(32, 64\): put a Resize before it"):
        T.PadToSize((32, 64))(*sample())


def test_pixels_stay_bytes_and_say_what_they_become():
    op = T.ConvertPILImage(dtype="float32", scale=True)
    image, _ = op(*sample())
    assert type(image) is tv_tensors.Image
    assert image.dtype == torch.uint8
    reference = torch.from_numpy(np.array(sample()[0])).permute(2, 0, 1)
    assert torch.equal(op.pixels(image.as_subclass(torch.Tensor)), reference.float() / 255.0)
    assert torch.equal(T.ConvertPILImage(scale=False).pixels(reference), reference.float())


def test_other_pixel_types_are_refused():
    with pytest.raises(ValueError, match="dtype is 'float16', but models read float32"):
        T.ConvertPILImage(dtype="float16")


def test_boxes_by_hand():
    _, target = T.ConvertBoxes(fmt="cxcywh", normalize=True)(*sample())
    assert type(target["boxes"]) is torch.Tensor
    expected = torch.tensor([[20 / 60, 15 / 40, 20 / 60, 10 / 40], [0.5, 22.5 / 40, 1.0, 35 / 40]])
    assert torch.allclose(target["boxes"], expected)
    _, target = T.ConvertBoxes(fmt="xywh", normalize=False)(*sample())
    assert target["boxes"].tolist() == [[10, 10, 20, 10], [0, 5, 60, 35]]
    _, target = T.ConvertBoxes()(*sample(()))
    assert target["boxes"].shape == (0, 4)


def test_unknown_box_format():
    with pytest.raises(ValueError, match="fmt is 'yxyx': choose cxcywh, xyxy or xywh"):
        T.ConvertBoxes(fmt="yxyx")


def test_empty_transform():
    image, target = sample()
    assert T.EmptyTransform()(image, target)[0] is image


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [  # width, height: the table of docs/method.md 10.1
        ((612, 792), 480, (480, 621)),
        ((612, 792), 640, (640, 828)),
        ((595, 842), 480, (480, 679)),
        ((595, 842), 640, (640, 906)),
        ((1280, 720), 480, (853, 480)),
        ((1280, 720), 640, (928, 522)),
        ((1025, 1025), 480, (480, 480)),
        ((1025, 1025), 640, (640, 640)),
        ((400, 2000), 480, (186, 928)),
        ((400, 2000), 640, (186, 928)),
        ((1, 4000), 640, (1, 928)),  # at least one pixel
    ],
)
def test_shortest_edge_by_the_table(size, short, expected):
    width, height = size
    assert T.ResizeShortestEdge(short, 928).size_of(height, width) == expected[::-1]


def test_the_largest_size_that_fits():
    assert T.ResizeToFit((277, 370)).size_of(480, 640) == (277, 369)
    assert T.ResizeToFit((277, 370)).size_of(640, 480) == (277, 208)
    assert T.ResizeToFit([100, 50]).size_of(10, 10) == (50, 50)  # enlarges
    sizes = [(height, width) for height in range(1, 60, 7) for width in range(1, 60, 7)]
    for height, width in sizes:
        found = T.ResizeToFit((30, 41)).size_of(height, width)
        assert found[0] == 30 or found[1] == 41
        assert found[0] <= 30
        assert found[1] <= 41


@pytest.mark.parametrize("resize", [T.ResizeShortestEdge(30, 900), T.ResizeToFit((30, 50))])
def test_keeping_the_aspect_moves_the_boxes_along(resize):
    image, target = resize(*sample())  # 40 x 60
    assert image.size == (45, 30)
    assert target["boxes"].tolist() == [[7.5, 7.5, 22.5, 15], [0, 3.75, 45, 30]]
    assert target["boxes"].canvas_size == (30, 45)
    assert target["orig_size"].tolist() == [HEIGHT, WIDTH]
    expected = sample()[0].resize((45, 30), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("edges", [(0, 10), (20, 10), (-1, -1)])
def test_edges_that_contradict_each_other(edges):
    with pytest.raises(ValueError, match=f"shortest_edge is {edges[0]} and longest_edge {edges[1]}: give pixels"):
        T.ResizeShortestEdge(*edges)


def test_a_box_to_fit_into_has_two_sides():
    with pytest.raises(ValueError, match=r"ResizeToFit: size is 7: give \[height, width\] in pixels"):
        T.ResizeToFit(7)
