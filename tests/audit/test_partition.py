# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from isdfine.audit.classes import class_counts
from isdfine.audit.limits import lost_of_source
from isdfine.audit.partition import (
    divide,
    divided,
    groups_by_content,
    groups_by_name,
    join_groups,
    merged,
    parse_parts,
    shares_table,
)
from isdfine.audit.pixels import read_pixels
from isdfine.audit.sources import discover, read_all
from isdfine.core.errors import DataError
from isdfine.data.dataset.annotations import Collected
from isdfine.data.label_space import LabelSpace
from planted import HEIGHT, WIDTH, Planted, picture

PARTS = {"train": 0.7, "val": 0.2, "test": 0.1}


def skewed(images=400, seed=0):
    """Five classes, each about five times rarer than the one before."""
    random, collected = np.random.default_rng(seed), Collected()
    for number in range(images):
        labels = [label for label in range(5) for _ in range(random.poisson(2.0 / 4**label))]
        collected.add(f"scene{number // 4}_{number}.jpg", number, (64, 64), [[1, 1, 9, 9]] * len(labels), labels)
    return collected.annotations(LabelSpace(tuple("abcde"), (1, 2, 3, 4, 5)), "made", "")


def shares(data, part_of):
    counts = np.zeros((3, 6))
    owners = np.repeat(part_of, np.diff(data.offsets))
    np.add.at(counts, (owners, data.labels), 1)
    np.add.at(counts, (part_of, 5), 1)
    return counts / counts.sum(axis=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_is_shared_as_asked(seed):
    data = skewed()
    rare = int((data.labels == 4).sum())
    assert rare < 10
    shared = shares(data, divide(data, PARTS, range(len(data)), seed=seed))
    np.testing.assert_allclose(shared[:, [0, 1, 2, 5]], np.array([[0.7, 0.2, 0.1]]).T.repeat(4, 1), atol=0.02)
    np.testing.assert_allclose(shared[:, 4], [0.7, 0.2, 0.1], atol=1 / rare)


def test_chance_alone_is_worse():
    data = skewed()
    random = np.random.default_rng(0).choice(3, size=len(data), p=[0.7, 0.2, 0.1])
    mine = divide(data, PARTS, range(len(data)), seed=0)
    wanted = np.array([[0.7], [0.2], [0.1]])
    assert np.abs(shares(data, mine) - wanted).sum() < 0.5 * np.abs(shares(data, random) - wanted).sum()


def test_the_same_seed_gives_the_same_parts_and_another_one_others():
    data = skewed()
    first, again, other = (divide(data, PARTS, range(len(data)), seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_groups_stay_together_and_shares_hold():
    data = skewed()
    groups = groups_by_name(data, r"(scene\d+)_")
    part_of = divide(data, PARTS, groups, seed=0)
    assert all(len({part_of[i] for i in range(len(data)) if groups[i] == group}) == 1 for group in set(groups))
    np.testing.assert_allclose(shares(data, part_of)[:, 0], [0.7, 0.2, 0.1], atol=0.05)


def test_equal_files_and_equal_names_are_joined_through_each_other():
    assert len(set(join_groups(["a", "b", "b", "c", "d"], [1, 1, 2, 3, 3]))) == 2
    first = join_groups(["a", "b", "b", "c", "d"], [1, 1, 2, 3, 3])
    assert first[0] == first[1] == first[2]
    assert first[3] == first[4]


def test_copies_of_a_file_are_one_group(tmp_path):
    data = Planted(tmp_path, train=3, val=2)
    data.add_image("train", "again.jpg", data.file("train", 1).read_bytes())
    data.file("train", 2).unlink()
    split = read_all(discover(data.write()))[0]
    groups = groups_by_content(read_pixels([split.path(index) for index in range(4)]), split)
    assert groups[3] == groups[1]
    assert len(set(groups)) == 3


def test_no_part_is_left_empty():
    data = skewed(images=4)
    assert set(divide(data, PARTS, range(4), seed=0).tolist()) == {0, 1, 2}
    with pytest.raises(DataError, match="made: 2 groups of images cannot be divided into 3 parts"):
        divide(data, PARTS, [0, 0, 1, 1], seed=0)


def test_splits_are_merged_before_they_are_divided(tmp_path):
    splits = read_all(discover(Planted(tmp_path, train=6, val=3).write()))
    whole = merged(splits)
    assert len(whole.annotations) == 9
    assert all(whole.path(index).is_file() for index in range(9))
    np.testing.assert_array_equal(class_counts(whole), class_counts(splits[0]) + class_counts(splits[1]))
    parts = divided(whole, divide(whole.annotations, {"a": 0.5, "b": 0.5}, range(9), seed=0), {"a": 0.5, "b": 0.5})
    assert sum(len(part.annotations) for part in parts) == 9
    table = shares_table(parts, {"a": 0.5, "b": 0.5})
    assert "a (50.0%)" in table
    assert all(name in table for name in ("images", "boxes", "ant", "bee", "cow"))
    assert merged(splits[:1]) is splits[0]
    assert "masks and other fields than boxes are not kept" in lost_of_source(whole)[0]


def test_splits_of_two_frames_become_upright(tmp_path):
    data = Planted(tmp_path, train=2, val=2)
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(500).save(data.file("val", 0), exif=exif)
    train, val = read_all(discover(data.write()))
    whole = merged([train, replace(val, annotations=replace(val.annotations, upright=False))])
    before, after = val.annotations.boxes_xywh_px[0], whole.annotations.boxes_xywh_px[len(train.annotations.ids)]
    assert whole.annotations.upright
    assert after.tolist() == [WIDTH - before[0] - before[2], HEIGHT - before[1] - before[3], *before[2:]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["train", "val=0.5"], "--parts train: write NAME=FRACTION"),
        (["train=1.5", "val=0.5"], "--parts train=1.5: write NAME=FRACTION"),
        (["a/b=0.5", "val=0.5"], "--parts a/b=0.5: write"),
        (["train=0.5", "train=0.5"], "--parts names train twice"),
        (["train=0.8", "val=0.1"], "sum to 1 .they sum to 0.9"),
        (["train=0.5"], "two or more"),
    ],
)
def test_parts_that_make_no_sense(texts, message):
    with pytest.raises(DataError, match=message):
        parse_parts(texts)
    assert parse_parts(["train=0.75", "val=0.25"]) == {"train": 0.75, "val": 0.25}


def test_group_expressions_that_make_no_sense():
    data = skewed(images=3)
    with pytest.raises(DataError, match=r"--group-by \(: not a regular expression"):
        groups_by_name(data, "(")
    with pytest.raises(DataError, match=r"--group-by x: does not match the file name scene0_0\.jpg"):
        groups_by_name(data, "x")
