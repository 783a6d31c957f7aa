# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes that are drawn for every image, and DETR's augmentation, which is made of them."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import v2

import isdfine
from data.transforms.test_fused import fused, one_by_one, photo, sample
from data.transforms.test_ops import sample as pair
from isdfine.core.errors import ConfigError
from isdfine.data import transforms as T
from isdfine.data.collate import BatchImageCollateFunction, PaddedBatchCollateFunction
from isdfine.data.dataset.targets import describe_limits, smallest_kept
from isdfine.data.loader import _check_image_size
from isdfine.data.transforms.compose import obstacle
from isdfine.data.transforms.sizes import final_sizes

EDGES = [48, 56, 64, 72, 80]


def detr_ops(edges=EDGES, longest=133, first=(40, 50, 60), crop=(38, 60)):
    """DETR's list at a tenth of its sizes."""
    resize = T.RandomShortestSize(edges, longest)
    cut = [T.RandomShortestSize(list(first)), T.RandomSizeCrop(*crop), T.RandomShortestSize(edges, longest)]
    return [
        *(T.RandomHorizontalFlip(), T.RandomChoice([[resize], cut]), T.SanitizeBoundingBoxes()),
        *(T.ConvertPILImage(), T.ConvertBoxes()),
    ]


def ways(ops):
    """The list with the choice made: whole images, crops."""
    choice = next(op for op in ops if isinstance(op, T.RandomChoice))
    place = ops.index(choice)
    return [[*ops[:place], *own, *ops[place + 1 :]] for own in choice.lists]


def test_draws_are_those_of_torchvision():
    names = [v2.Lambda(lambda one, name=name: name) for name in "abc"]
    theirs = v2.RandomChoice(names, p=[1.0, 2.0, 3.0])
    ours = T.RandomChoice([[], [T.EmptyTransform()], [T.EmptyTransform(), T.EmptyTransform()]], p=[1.0, 2.0, 3.0])
    short = v2.RandomShortestSize(EDGES, 133)
    for seed in range(50):
        torch.manual_seed(seed)
        name, size = theirs("x"), short.make_params([torch.zeros(3, 80, 80)])["size"]
        torch.manual_seed(seed)
        assert len(ours.drawn()) == "abc".index(name)
        assert T.RandomShortestSize(EDGES, 133).drawn().shortest_edge == size[0]


@pytest.mark.parametrize("way", [0, 1], ids=["whole", "crop"])
def test_the_same_decisions_and_boxes_fused_as_one_by_one(way):
    ops = ways(detr_ops())[way]
    random, differences = np.random.default_rng(0), []
    for seed in range(40):
        size = tuple(random.integers(40, 140, 2).tolist())
        image, target = photo(size, seed), sample(random, size)
        torch.manual_seed(seed)
        expected, expected_target = one_by_one(ops, image, target)
        drawn_next = torch.rand(1)
        torch.manual_seed(seed)
        found, found_target = fused(ops, image, target)
        assert torch.equal(torch.rand(1), drawn_next)  # the same random numbers were used up
        for name, value in expected_target.items():
            torch.testing.assert_close(found_target[name], value.as_subclass(torch.Tensor), rtol=0, atol=1e-6)
        assert found.shape == expected.shape
        differences.append(float((found.int() - expected.int()).abs().float().mean()))
    assert np.mean(differences) < (0.1, 2.5)[way]  # one resampling where the ops have two: crops come out sharper


@pytest.mark.parametrize("divisor", [1, 2])
def test_a_crop_shows_the_right_part_of_the_image(divisor):
    """On a picture whose colours rise evenly, which a resize does not change: they tell the place, to a pixel."""
    rows, columns = np.mgrid[:96, :144]
    image = Image.fromarray(np.stack([rows * 2, columns * 1.7, 0 * rows], axis=-1).astype(np.uint8))
    ops, target = ways(detr_ops())[1], sample(np.random.default_rng(0), (96, 144))
    for seed in range(20):
        torch.manual_seed(seed)
        expected, _ = one_by_one(ops, image, target)
        torch.manual_seed(seed)
        found, _ = fused(ops, image, target, divisor)
        inner = (found.int() - expected.int()).abs()[:, 4:-4, 4:-4]
        assert inner.max() <= 3


def test_sizes_of_detr():
    """At its own sizes: the short side of what leaves is drawn from the list unless the long one would exceed 1333."""
    edges = list(range(480, 801, 32))
    ops = detr_ops(edges, 1333, (400, 500, 600), (384, 600))
    image, target = photo((480, 640)), sample(np.random.default_rng(0), (480, 640))
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        found, _ = fused(ops, image, target)
        short, long = sorted(found.shape[1:])
        assert long <= 1333
        assert short in edges
        seen.add((short, long == round(short * 4 / 3)))
    assert {whole for _, whole in seen} == {True, False}
    assert len({short for short, _ in seen}) > 8


def test_a_crop_by_hand():
    image, target = pair(boxes=((10.0, 10.0, 30.0, 20.0), (0.0, 0.0, 4.0, 4.0)))
    crop = T.RandomSizeCrop(20, 50)
    for seed in range(20):
        torch.manual_seed(seed)
        window = crop.window(40, 60)
        torch.manual_seed(seed)
        cut, changed = crop(image, target)
        assert (cut.height, cut.width) == (window["height"], window["width"])
        assert 20 <= cut.height <= 40
        assert 20 <= cut.width <= 50
        offset = torch.tensor([window["left"], window["top"]] * 2)
        limits = torch.tensor([cut.width, cut.height] * 2)
        assert torch.equal(
            changed["boxes"].as_subclass(torch.Tensor),
            (target["boxes"] - offset).clamp(min=torch.zeros(4), max=limits.float()),
        )
        pixels = np.asarray(image)[window["top"] :, window["left"] :][: cut.height, : cut.width]
        assert np.array_equal(np.asarray(cut), pixels)
    assert crop.window(10, 30)["height"] == 10  # shorter than the smallest crop: whole


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: T.RandomShortestSize([]), "min_size is empty"),
        (lambda: T.RandomShortestSize([50, 90], 80), "shortest_edge is 90 and longest_edge 80"),
        (lambda: T.RandomSizeCrop(30, 20), "min_size is 30 and max_size 20"),
        (lambda: T.RandomSizeCrop(0, 20), "give pixels above 0"),
        (lambda: T.RandomChoice([[]]), "1 lists in transforms"),
        (lambda: T.RandomChoice([[], []], [1.0]), "for each a weight"),
        (lambda: T.RandomChoice([[], []], [-1.0, 2.0]), "weight of at least 0"),
        (lambda: T.RandomChoice([[], [T.ConvertPILImage()]]), "ConvertPILImage in one of the lists: move it behind"),
        (lambda: T.Compose([T.ConvertBoxes(), T.RandomChoice([[], []])]), "RandomChoice after ConvertBoxes"),
    ],
)
def test_bad_values(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("own", "match"),
    [
        ([T.Resize((32, 32)), T.Resize((64, 64))], "2 ops resize, not one"),
        ([T.Resize((32, 32)), T.RandomSizeCrop(8, 16)], "1 ops resize, not one"),
        ([T.RandomCrop((8, 8)), T.Resize((32, 32))], "RandomCrop must see the image"),
        ([T.RandomSizeCrop(8, 16), T.RandomPhotometricDistort(), T.Resize((32, 32))], "comes after a crop or a zoom"),
    ],
)
def test_every_way_must_be_able_to_run_fused(own, match):
    tail = [T.ConvertPILImage(), T.ConvertBoxes()]
    assert obstacle([T.RandomChoice([[T.Resize((32, 32))], own]), *tail]).endswith(match)
    assert obstacle([T.RandomChoice([[T.Resize((32, 32))], [T.Resize((64, 64))]]), *tail]) is None


def test_what_memory_and_limits_go_by():
    sizes = np.array([[48, 64]])
    ops = detr_ops()
    assert final_sizes(ops, sizes).max(axis=0).tolist() == [126, 126]  # 60 x 38 with a short side of 80
    assert final_sizes([T.RandomHorizontalFlip()], sizes).tolist() == [[48, 64]]
    assert final_sizes([T.RandomSizeCrop(20, 50)], sizes).max(axis=0).tolist() == [50, 50]  # at most
    assert smallest_kept(ops, sizes) == pytest.approx(np.array([[0.6, 0.6, 0.36]]), rel=0.01)
    assert describe_limits(ops).endswith("at the size after RandomShortestSize")


class Images:
    def __init__(self, ops):
        self.transforms = T.Compose(ops)


def test_images_of_drawn_sizes_need_padded_batches():
    for op, match in ((detr_ops()[1], "RandomShortestSize keeps"), (T.RandomSizeCrop(8, 16), "RandomSizeCrop draws")):
        with pytest.raises(ConfigError, match=f"{match} .*PaddedBatchCollateFunction"):
            _check_image_size(Images([op]), BatchImageCollateFunction())
        _check_image_size(Images([op]), PaddedBatchCollateFunction())
    fixed = T.RandomChoice([[T.Resize((64, 64))], [T.Resize((65, 64))]])
    with pytest.raises(ConfigError, match=r"Resize to \[65, 64\]"):
        _check_image_size(Images([fixed]), BatchImageCollateFunction())


def test_a_config_gives_lists_of_ops(tmp_path):
    ops = yaml.safe_load(
        "[{type: RandomChoice, transforms: [[{type: Resize, size: [32, 32]}], "
        "[{type: RandomShortestSize, min_size: [40, 50]}, {type: RandomSizeCrop, min_size: 8, max_size: 16}]]}]"
    )
    (tmp_path / "run.yml").write_text(yaml.safe_dump({"Compose": {"ops": ops}}))
    choice = isdfine.load_config(tmp_path / "run.yml").build("Compose").ops[0]
    assert [[type(op).__name__ for op in own] for own in choice.lists] == [
        ["Resize"],
        ["RandomShortestSize", "RandomSizeCrop"],
    ]
