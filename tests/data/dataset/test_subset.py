# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import random
from itertools import pairwise

import numpy as np
import pytest

from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.prepare import Subset

NAMES = [f"folder{index % 3}/image{index:03}.jpg" for index in range(200)]


def draw(fraction, seed=0, names=NAMES):
    return {names[index] for index in Subset(fraction, seed).indices(names, range(len(names)), "x").tolist()}


def test_smaller_fractions_are_part_of_larger_ones():
    drawn = [draw(fraction) for fraction in (0.001, 0.1, 0.2, 0.55, 1.0)]
    assert [len(share) for share in drawn] == [1, 20, 40, 110, 200]
    assert all(a <= b for a, b in pairwise(drawn))


def test_a_draw_depends_on_names_and_seed_alone():
    shuffled = NAMES[:]
    random.Random(3).shuffle(shuffled)
    assert draw(0.3) == draw(0.3, names=shuffled)
    assert draw(0.3) != draw(0.3, seed=1)
    assert draw(0.3, seed=-1) != draw(0.3)


@pytest.mark.parametrize("count", [2, 3, 7, 200])
def test_stretches_divide_the_images(count):
    """Each image is in one part, whatever the number, and however often it is listed."""
    names = [name for name in NAMES[:count] for _ in range(2)]
    parts = [draw(stretch, names=names) for stretch in ([0, 0.2], (0.2, 0.5), [0.5, 1.0]) if count > 2]
    parts = parts or [draw(stretch, names=names) for stretch in ([0, 0.2], [0.2, 1])]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count
    assert all(parts)
    indices = [index for part in ([0, 0.2], [0.2, 1]) for index in Subset(part).indices(names, None, "x")]
    assert sorted(indices) == list(range(2 * count))


def test_a_stretch_depends_on_names_and_seed_alone():
    assert draw([0, 0.3]) == draw(0.3) == draw([0, 0.3], names=NAMES[::-1])
    assert draw([0, 0.3]) != draw([0, 0.3], seed=1)


@pytest.mark.parametrize("stretch", [[0.5, 0.2], [0.2, 0.2], [0, 1.5], [-0.1, 1], [12, 7]])
def test_stretches_that_are_none(stretch):
    with pytest.raises(ConfigError, match=r"give fractions \[begin, end\] with 0 <= begin < end <= 1 .ids as text"):
        Subset(stretch)


def test_a_stretch_without_an_image():
    with pytest.raises(DataError, match=r"x: subset \[0.5, 0.51\] of 10 images is none of them: widen it"):
        draw([0.5, 0.51], names=NAMES[:10])


def test_everything_and_order():
    assert Subset().indices(NAMES, range(200), "x").tolist() == list(range(200))
    found = Subset(0.5).indices(NAMES, range(200), "x")
    assert np.all(np.diff(found) > 0)


def test_images_by_name(tmp_path):
    names, ids = ["a/x.jpg", "b/x.jpg", "b/y.png"], [10, 20, 7]
    assert Subset(["b/x.jpg", "7"]).indices(names, ids, "d").tolist() == [1, 2]
    assert Subset(["y", "y.png", "10"]).indices(names, ids, "d").tolist() == [0, 2]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb/y.png\r\n\r\n a/x.jpg \r\n")
    assert Subset(str(tmp_path / "list.txt")).indices(names, ids, "d").tolist() == [0, 2]


def test_only_line_ends_end_a_line(tmp_path):
    names = ["a\x0cb.jpg", "c\u2028d.jpg", "e.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names[:2]), encoding="utf-8")
    assert Subset(str(tmp_path / "list.txt")).indices(names, None, "d").tolist() == [0, 1]


def test_names_that_cannot_be_used(tmp_path):
    names, ids = ["a/x.jpg", "b/x.jpg"], [1, 2]
    with pytest.raises(
        DataError, match=r"subset, entry 2: d has no image 'z.jpg': give file names as the annotations d"
    ):
        Subset(["1", "z.jpg"]).indices(names, ids, "d")
    with pytest.raises(DataError, match=r"'x.jpg' may be any of a/x.jpg, b/x.jpg: give the whole file name"):
        Subset(["x.jpg"]).indices(names, ids, "d")
    with pytest.raises(DataError, match=r"'1' may be any of a/x.jpg, b/1.jpg: give the whole file name"):
        Subset(["1"]).indices(["a/x.jpg", "b/1.jpg"], ids, "d")
    assert Subset(["1"]).indices(["a/x.jpg", "b/1.jpg"], None, "d").tolist() == [1]
    with pytest.raises(DataError, match="d: subset is an empty list"):
        Subset([]).indices(names, ids, "d")
    (tmp_path / "list.txt").write_text("a/x.jpg\nnone\n")
    with pytest.raises(DataError, match=r"list.txt:2: d has no image 'none'"):
        Subset(str(tmp_path / "list.txt")).indices(names, ids, "d")
    with pytest.raises(DataError, match=r"no.txt: the list of a subset cannot be read .*: check subset"):
        Subset(str(tmp_path / "no.txt")).indices(names, ids, "d")


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1])
def test_fractions_outside(fraction):
    with pytest.raises(ConfigError, match="give a fraction above 0 and at most 1"):
        Subset(fraction)
