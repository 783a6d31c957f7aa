# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from data import coco_files
from isdfine.core.errors import DataError
from isdfine.data.dataset.annotations import Collected, check_files, files_present
from isdfine.data.dataset.coco import parse_coco
from isdfine.data.dataset.problems import Problems
from isdfine.data.label_space import LabelSpace

SPACE = LabelSpace(("ant", "bee"), (0, 1))


def test_collected_image_by_image():
    collected = Collected()
    collected.add("a.png", 4, (10, 20), [[1, 2, 3, 4], [0, 0, 1, 1]], [1, 0], [False, True])
    collected.add("b.png", 5, (30, 40))
    collected.add("c.png", 6, (30, 40), [[5, 5, 2.5, 2]], [1])
    found = collected.annotations(SPACE, "list.txt", "root", upright=True)
    assert (found.place, found.folder, found.upright, found.file_names) == (
        "list.txt", "root", True, ("a.png", "b.png", "c.png"),
    )  # fmt: skip
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.area_px.tolist() == [12, 1, 5]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.crowd.tolist() == [False, True, False]
    assert found.ids.tolist() == [1, 2, 3]
    assert Collected().annotations(SPACE, "", "").boxes_xywh_px.shape == (0, 4)


def test_some_images_of_many(tmp_path):
    data = parse_coco(coco_files.write(tmp_path, images=False)[1])
    both = data.take([1, 0])
    assert both.file_names == ("sub/b.png", "a.png")
    assert both.sizes.tolist() == [[50, 50], [40, 60]]
    assert both.offsets.tolist() == [0, 1, 4]
    assert both.ids.tolist() == [11, 12, 13, 14]
    assert data.take([1]).area_px.tolist() == [600.0]
    assert data.take([]).offsets.tolist() == [0]
    same = data.take([0, 1])
    assert all(
        np.array_equal(getattr(same, name), getattr(data, name)) for name in ("boxes_xywh_px", "labels", "crowd")
    )


def test_missing_images_are_named(tmp_path):
    root, _ = coco_files.write(tmp_path)
    check_files(root, ["a.png", "sub/b.png"], "x.json")
    with pytest.raises(
        DataError, match=r"4 of 5 images that x.json lists are missing: b.png, sub/a.png, no/a.png, \.\.\.;"
    ):
        check_files(root, ["a.png", "b.png", "sub/a.png", "no/a.png", "no/b.png"], "x.json")
    with pytest.raises(
        DataError, match=r"missing: sub\\b.png; .*; did you mean 'sub/b.png'\? \(paths of Windows: write / for \\\)"
    ):
        check_files(root, ["sub\\b.png"], "x.json")
    with pytest.raises(DataError, match=r"nowhere: no such image folder \(for x.json\): check img_folder"):
        check_files(root / "nowhere", ["a.png"], "x.json")


def test_only_files_are_images(tmp_path):
    root, _ = coco_files.write(tmp_path)
    (root / "d.png").mkdir()
    (root / "dead.png").symlink_to(root / "none.png")
    (root / "round.png").symlink_to(root / "round.png")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "linked").symlink_to(root / "sub")
    names = ["link.png", "linked/b.png", "d.png", "dead.png", "round.png", "", "sub/"]
    assert files_present(root, names).tolist() == [True, True] + [False] * 5


def test_missing_images_are_collected(tmp_path):
    root, _ = coco_files.write(tmp_path)
    problems = Problems(collect=True)
    names = ["a.png", "b.png", str(root / "sub" / "b.png")]
    assert check_files(root, names, "x.json", problems).tolist() == [True, False, True]
    assert [(problem.kind, problem.place) for problem in problems.found] == [("missing image", str(root / "b.png"))]
    assert "not there, but x.json lists it: add it or remove its entry" in problems.found[0].text
    assert not check_files(root / "nowhere", ["a.png"], "x.json", problems).any()
