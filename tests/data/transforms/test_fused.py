# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The fused augmentation against its ops one by one, and against torchvision's own transforms."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from data import official_transforms as official
from isdfine.data import transforms as T
from isdfine.data.transforms import rendering
from isdfine.data.transforms.compose import obstacle
from isdfine.data.transforms.decisions import Frame, Window, decide
from isdfine.data.transforms.rendering import Pixels, needed_scale, reduction

draws = pytest.mark.parametrize("draws", [150, pytest.param(2000, marks=pytest.mark.slow)])


def official_ops(side=96, resize=None, **crop):
    return official.our_ops(side, resize, **crop)


def boxes_of(random, count, size):
    """(count, 4) xyxy pixels, float32."""
    height, width = size
    begin, side = random.random((count, 2)) * (width, height), random.random((count, 2)) ** 2 * (width, height)
    corners = np.concatenate([begin, np.minimum(begin + side + 0.5, (width, height))], axis=1)
    return corners.astype(np.float32)


def photo(size, seed=0):
    """Smooth colours with edges, as photos have."""
    height, width = size
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 30, 20), (width // 4, height // 3, width // 2, height // 2))
    return image


def sample(random, size):
    boxes = boxes_of(random, int(random.integers(0, 9)), size)
    count = len(boxes)
    return {
        "boxes": boxes,
        "labels": np.arange(count),
        "image_id": torch.tensor([3]),
        "area": (np.arange(count) * 2.5).astype(np.float32),
        "iscrowd": np.zeros(count, np.int64),
        "orig_size": torch.tensor(size),
    }


def one_by_one(ops, image, target):
    plain = {name: torch.as_tensor(value) for name, value in target.items()}
    boxes = tv_tensors.BoundingBoxes(plain["boxes"].clone(), format="XYXY", canvas_size=(image.height, image.width))
    for op in ops:
        image, plain = op(image, {**plain, "boxes": boxes} if op is ops[0] else plain)
    return image, plain


def fused(ops, image, target, divisor=1):
    def read(scale):
        one = divisor if divisor > 1 else 1
        return Pixels(image.reduce(one) if one > 1 else image, (1 / one, 1 / one))

    return T.Compose(ops).fused_at(0)((image.height, image.width), target, read)


@pytest.mark.parametrize(
    "ops",
    [
        official_ops(),
        official_ops(resize=T.ResizeShortestEdge(64, 112), aspect_change=1.3),
        [T.RandomHorizontalFlip(), *official_ops(resize=T.ResizeToFit((64, 96)), sampler_options=[0.9, 1.0])[1:]],
        [T.RandomIoUCrop(), T.RandomZoomOut(fill=[9, 99, 200]), T.SanitizeBoundingBoxes(), T.Resize((50, 70)),
         T.RandomHorizontalFlip(), T.EmptyTransform(), T.ConvertPILImage(), T.ConvertBoxes("xyxy")],
    ],
    ids=["official", "shortest edge", "flip first", "zoom after crop"],
)  # fmt: skip
def test_the_same_decisions_boxes_and_pixels_as_one_by_one(ops):
    random = np.random.default_rng(0)
    mean, largest, drawn = [], [], 0
    for seed in range(40):
        size = tuple(random.integers(40, 140, 2).tolist())
        image, target = photo(size, seed), sample(random, size)
        torch.manual_seed(seed)
        expected, expected_target = one_by_one(ops, image, target)
        drawn_next = torch.rand(1)
        torch.manual_seed(seed)
        found, found_target = fused(ops, image, target)
        assert torch.equal(torch.rand(1), drawn_next)  # the same random numbers were used up
        assert list(found_target) == list(expected_target)
        for name, value in expected_target.items():
            assert found_target[name].dtype == value.dtype
            assert torch.equal(found_target[name], value.as_subclass(torch.Tensor))
        drawn += len(found_target["labels"])
        assert type(found) is tv_tensors.Image
        assert found.dtype == torch.uint8
        assert found.permute(1, 2, 0).is_contiguous()  # batches are made of whole images then
        difference = (found.int() - expected.int()).abs().float()
        mean.append(float(difference.mean()))
        largest.append(float(difference.flatten().sort().values[int(0.999 * difference.numel()) - 1]))
    assert drawn > 50
    assert np.mean(mean) < 0.25  # of 255: rounding, and the steps of Pillow's hue
    assert np.max(mean) < 3
    assert np.mean(largest) < 5


def test_geometry_alone_agrees_up_to_rounding():
    random = np.random.default_rng(1)
    ops = official_ops()[1:]
    for seed in range(40):
        size = tuple(random.integers(40, 140, 2).tolist())
        image, target = photo(size, seed), sample(random, size)
        torch.manual_seed(seed)
        expected, _ = one_by_one(ops, image, target)
        torch.manual_seed(seed)
        found, _ = fused(ops, image, target)
        difference = (found.int() - expected.int()).abs()
        assert difference.max() <= 2
        assert (difference > 1).float().mean() < 1e-3  # Pillow rounds between its two passes


def drawn(op, seed, size, boxes):
    """What torchvision's own transform draws, through the image and the boxes that it makes; None: unchanged."""
    torch.manual_seed(seed)
    image = Image.new("RGB", (size[1], size[0]))
    target = official.official_target(torch.from_numpy(boxes).clone(), torch.arange(len(boxes)), size)
    image, target = op(image, target)
    return (image.height, image.width), target


@draws
@pytest.mark.parametrize(
    ("op", "theirs"),
    [
        (T.RandomZoomOut(fill=0), official.official_transforms()[1]),
        (T.RandomIoUCrop(p=0.8), official.official_transforms()[2]),
        (T.RandomHorizontalFlip(), official.official_transforms()[4]),
    ],
    ids=["zoom out", "crop", "flip"],
)
def test_draws_are_those_of_torchvision(op, theirs, draws):
    random, changed = np.random.default_rng(0), 0
    for seed in range(draws):
        size = tuple(random.integers(20, 700, 2).tolist())
        boxes = boxes_of(random, int(random.integers(1, 12)), size)
        expected_size, expected = drawn(theirs, seed, size, boxes)
        torch.manual_seed(seed)
        found = decide([op], size, boxes)
        assert found.canvas == expected_size
        assert np.array_equal(found.boxes, expected["boxes"].as_subclass(torch.Tensor).numpy())
        changed += not np.array_equal(found.boxes, boxes)
    assert 0.3 * draws < changed < 0.9 * draws


@draws
def test_colours_are_those_of_torchvision(draws):
    theirs, ours = official.official_transforms()[0], T.RandomPhotometricDistort(p=0.5)
    for seed in range(draws):
        torch.manual_seed(seed)
        expected = theirs.make_params([torch.empty(3, 4, 4)])
        torch.manual_seed(seed)
        found = decide([ours], (4, 4), np.zeros((0, 4), np.float32)).distortion
        for name in ("brightness", "contrast", "saturation", "hue"):
            assert (found and getattr(found, name)) == expected[f"{name}_factor"]
        if found is not None:
            assert found.contrast_first == expected["contrast_before"]
            order = expected["channel_permutation"]
            assert found.permutation == (None if order is None else tuple(order.tolist()))


@draws
def test_whole_samples_keep_the_boxes_of_torchvision(draws):
    random, ops, kept = np.random.default_rng(2), official_ops(64), 0
    theirs = [
        official_transform for place, official_transform in enumerate(official.official_transforms(64)) if place != 7
    ]  # no pixels
    for seed in range(draws):
        size = tuple(random.integers(30, 60, 2).tolist())
        boxes = boxes_of(random, int(random.integers(1, 8)), size)
        torch.manual_seed(seed)
        image, expected = Image.new("RGB", (size[1], size[0])), official.official_target(
            torch.from_numpy(boxes).clone(), torch.arange(len(boxes)), size
        )  # fmt: skip
        for op in theirs:
            image, expected = op(image, expected)
        torch.manual_seed(seed)
        found = decide(ops, size, boxes)
        assert found.kept.tolist() == expected["labels"].tolist()
        assert np.array_equal(found.boxes, expected["boxes"].numpy())
        kept += len(found.kept)
    assert kept > draws


def test_a_reduced_image_gives_nearly_the_same_pixels():
    size, ops = (512, 640), [T.RandomHorizontalFlip(p=0.0), *official_ops(96)[5:]]
    image, target = photo(size), sample(np.random.default_rng(0), size)
    whole, reduced = (fused(ops, image, target, divisor)[0].int() for divisor in (1, 2))
    assert not torch.equal(whole, reduced)
    assert (whole - reduced).abs().float().mean() < 0.5
    zoomed = [T.RandomZoomOut(fill=0, p=1.0), *ops]
    pictures = []
    for divisor in (1, 2):
        torch.manual_seed(1)
        pictures.append(fused(zoomed, image, target, divisor)[0].int())
    assert (pictures[0] - pictures[1]).abs().float().mean() < 0.5


def test_how_much_of_a_file_is_needed():
    flip = [T.RandomHorizontalFlip(p=0.0)]
    decision = decide([*flip, T.Resize((640, 640))], (3000, 4000), np.zeros((0, 4), np.float32))
    assert needed_scale(decision) == pytest.approx(rendering.GAP * 640 / 3000)
    assert [reduction(scale) for scale in (1.0, 0.51, 0.5, 0.26, 0.25, 0.13, 0.125, 0.01)] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert needed_scale(decide([*flip, T.Resize((640, 640))], (480, 640), np.zeros((0, 4), np.float32))) == 1


def test_a_canvas_that_shows_nothing_of_the_image():
    decision = decide([T.RandomHorizontalFlip(p=0.0), T.Resize((8, 12))], (20, 30), np.zeros((0, 4), np.float32))
    decision.frame = Frame.whole((20, 30)).pad(40, 0, 0, 0).crop(0, 0, 20, 30)
    decision.fill = (1, 2, 3)
    found = rendering.render(decision, lambda scale: Pixels(Image.new("RGB", (30, 20), "white")))
    assert found.shape == (3, 8, 12)
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


def test_a_part_of_a_canvas_is_resized_as_in_the_whole_canvas():
    random, cut = np.random.default_rng(4), 0
    for seed in range(150):
        size, border = (
            random.integers(20, 90, 2).tolist(),
            (random.integers(0, 200, 4) * random.integers(0, 2, 4)).tolist(),
        )
        image, fill = photo(size, seed), tuple(random.integers(0, 256, 3).tolist())
        frame = Frame.whole(size).pad(*border)
        near = tuple((np.array(frame.size) + random.integers(-3, 4, 2)).tolist())  # torch copies what keeps its size
        final = near if seed % 3 == 0 else tuple(random.integers(24, 120, 2).tolist())
        decision = decide([T.RandomHorizontalFlip(p=seed % 2), T.Resize(final)], size, np.zeros((0, 4), np.float32))
        decision.frame, decision.fill = frame.mirror() if seed % 2 else frame, fill
        canvas = Image.new("RGB", decision.frame.size[::-1], fill)
        canvas.paste(image, tuple(border[:2]))
        whole = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)[None]
        whole = whole.flip(-1) if seed % 2 else whole
        expected = nn.functional.interpolate(whole, size=final, mode="bilinear", antialias=True)[0]
        found = rendering.render(decision, lambda scale, image=image: Pixels(image))
        assert found.shape == expected.shape
        assert (found.int() - expected.int()).abs().max() <= 1
        cut += bool((expected[:, 0] == torch.tensor(fill)[:, None]).all())
    assert cut > 40  # of which the first rows are border alone


def test_the_list_is_that_of_the_recipe():
    recipe = Path(__file__).parents[3] / "configs" / "dfine" / "include" / "dataloader.yml"
    ops = yaml.safe_load(recipe.read_text())["train_dataloader"]["dataset"]["transforms"]["ops"]
    given = [{name: value for name, value in op.items() if name != "type"} for op in ops]
    built = [getattr(T, op["type"])(**options) for op, options in zip(ops, given)]
    assert [str(vars(op)) for op in built] == [str(vars(our_op)) for our_op in official.our_ops()]


def test_frames_are_mirrored_in_any_order():
    frame = Frame.whole((40, 60)).pad(10, 5, 30, 15)
    assert frame.size == (60, 100)
    assert frame.mirror().crop(0, 0, 60, 70) == frame.crop(30, 0, 60, 70).mirror()
    assert frame.mirror().pad(1, 0, 2, 0) == frame.pad(2, 0, 1, 0).mirror()
    assert frame.crop(10, 5, 40, 60).filled
    assert Window(5, 5, 5, 9).empty


class Custom(T.RandomHorizontalFlip):
    """Whatever a user writes, even on top of a known op."""


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda ops: [Custom(), *ops], "Custom must see the image"),
        (lambda ops: [*ops[:4], T.RandomCrop((32, 32)), *ops[4:]], "RandomCrop must see the image"),
        (lambda ops: ops[5:], "nothing is random"),
        (lambda ops: ops[:-1], "the last op is ConvertPILImage, not ConvertBoxes"),
        (lambda ops: [*ops[:-1], T.ConvertBoxes(normalize=False)], "not ConvertBoxes with normalize: True"),
        (lambda ops: [*ops[:-2], T.ConvertBoxes()], "ConvertPILImage is not the last op but one"),
        (lambda ops: [*ops[:5], *ops[6:]], "0 ops resize, not one"),
        (lambda ops: [ops[5], *ops], "2 ops resize, not one"),
        (lambda ops: [ops[5], *ops[:5], *ops[6:]], "RandomPhotometricDistort.* comes after Resize"),
        (lambda ops: [ops[0], *ops], "RandomPhotometricDistort occurs twice"),
        (lambda ops: [ops[1], ops[0], *ops[2:]], "RandomPhotometricDistort comes after a crop or a zoom"),
        (lambda ops: [T.RandomZoomOut(fill=7), *ops[1:]], "RandomZoomOut occurs with several colours"),
    ],
)
def test_what_cannot_be_fused_is_said_and_runs_one_by_one(change, match):
    ops = change(official_ops())
    assert re.search(match, obstacle(ops) or "")
    assert T.Compose(ops).fused_at(0) is None


def test_stages_are_fused_each_for_itself():
    named = ["RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop"]
    compose = T.Compose(official_ops(), {"name": "stop_epoch", "epoch": 3, "ops": named})
    assert compose.describe() == "fused"
    assert len(compose.fused_at(2).args[0]) == 9
    assert len(compose.fused_at(3).args[0]) == 6
    half = T.Compose(
        [*official_ops()[:4], Custom(), *official_ops()[4:]], {"name": "stop_epoch", "epoch": 3, "ops": ["Custom"]}
    )
    assert half.describe() == "one by one (Custom must see the image); from epoch 3 on fused"
    assert half.fused_at(0) is None
    assert half.fused_at(3) is not None
    assert T.Compose(official_ops(), fused=False).describe() == "one by one (fused: False)"
    assert T.Compose(official_ops(), fused=False).fused_at(0) is None
    assert T.Compose([T.Resize((32, 32)), T.ConvertPILImage()]).describe() == ""


def test_an_op_of_the_users_own_still_runs():
    class Invert(nn.Module):
        def forward(self, image, target):
            return Image.eval(image, lambda value: 255 - value), target

    ops = [Invert(), *official_ops()[4:]]
    compose = T.Compose(ops)
    assert compose.describe() == "one by one (Invert must see the image)"
    target = official.official_target(
        torch.tensor([[1.0, 2.0, 30.0, 20.0]]), torch.zeros(1, dtype=torch.int64), (40, 60)
    )
    image, target = compose(photo((40, 60)), target)
    assert image.shape == (3, 96, 96)
    assert len(target["boxes"]) == 1
