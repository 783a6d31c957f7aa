# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from isdfine.core.errors import DataError
from isdfine.data.dataset.annotations import Collected
from isdfine.data.dataset.prepare import PreparedDataset, with_class_count
from isdfine.data.label_space import LabelSpace


def annotations(ids=(1, 3), files=("a.png", "b.png", "c.png")):
    """Image i has i boxes of class i % 2; boxes 10 x 10."""
    collected = Collected()
    for index, name in enumerate(files):
        collected.add(name, index, (40, 60), [[0, 0, 10, 10]] * index, [index % 2] * index)
    return collected.annotations(LabelSpace(("ant", "bee"), ids), "x.json", "")


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def prepare(data, folder, **options):
    """The annotations that a data set of such ones goes on with."""
    data = data if data.folder else replace(data, folder=str(folder))
    return PreparedDataset(lambda subset, upright: subset.of(data), None, **options).annotations


def test_what_fits_stays_as_it_is(tmp_path):
    data = replace(annotations(), folder=str(tmp_path))
    assert prepare(data, touch(tmp_path, "a.png", "b.png", "c.png"), num_classes=2) is data


def test_ids_become_labels_where_the_count_says_so(caplog):
    found = with_class_count(annotations(), 4)
    assert found.labels.tolist() == [3, 1, 1]
    assert found.label_space.names == ("(unused 0)", "ant", "(unused 2)", "bee")
    assert "2 outputs stay unused" in caplog.text
    assert with_class_count(annotations(ids=(0, 1)), 2).labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("ids", "count", "options"),
    [((1, 3), 3, {}), ((1, 3), 5, {}), ((-1, 3), 4, {}), ((1, 3), 4, {"fixed_labels": True}), ((1, 3), 1, {})],
)
def test_other_counts_are_refused(ids, count, options):
    with pytest.raises(
        DataError, match=rf"num_classes is {count}, but x.json has 2 classes: .*Set num_classes: 2, leave"
    ):
        with_class_count(annotations(ids), count, **options)


def test_the_subset_comes_before_the_files(tmp_path):
    found = prepare(annotations(), touch(tmp_path, "c.png"), subset=["c"])
    assert found.file_names == ("c.png",)
    assert len(found.labels) == 2
    with pytest.raises(DataError, match=r"2 of 3 images that x.json lists are missing: a.png, b.png; check img_folder"):
        prepare(annotations(), tmp_path)


def test_every_format_has_its_boxes_checked(tmp_path, caplog):
    data = annotations()
    data.boxes_xywh_px[0] = [70, 0, 10, 10]
    folder = touch(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(
        DataError, match=r"1 of 3 boxes cover nothing .*annotation ids 1 \(in b.png\): correct them, or"
    ):
        prepare(data, folder)
    prepare(data, folder, invalid_boxes="drop")
    assert "1 of 3 boxes cover nothing of their image (1 outside the image)" in caplog.text
    assert np.array_equal(prepare(data, folder, invalid_boxes="drop").ids, [1, 2, 3])


def test_classes_that_differ_in_case_are_kept_with_a_warning(tmp_path, caplog):
    collected = Collected()
    collected.add("a.png", 1, (40, 60), [[0, 0, 10, 10]], [1])
    chess = collected.annotations(LabelSpace.from_names(["K", "k"], "x.json"), "x.json", "")
    assert prepare(chess, touch(tmp_path, "a.png")).label_space.names == ("K", "k")
    assert "x.json: the classes 'K' and 'k' differ in case or spaces only: two classes" in caplog.text
