# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.audit.check import check
from isdfine.audit.samples import choose
from isdfine.audit.sources import discover, read_all
from isdfine.core.errors import DataError
from planted import Planted


def names(samples):
    return [sample.split.annotations.file_names[sample.index] for sample in samples]


def test_the_seed_decides_and_the_order_is_that_of_the_data(tmp_path):
    splits = read_all(discover(Planted(tmp_path).write()))
    first, again, other = (names(choose(splits, count=6, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first == sorted(first, key=lambda name: (name.startswith("val"), name))
    assert len(choose(splits, count=1000)) == 32


def test_images_of_a_class_by_id_and_with_findings(tmp_path):
    data = Planted(tmp_path, train=4, val=2)
    for content in data.content.values():
        content["annotations"] = [annotation for annotation in content["annotations"] if annotation["category_id"] != 4]
    own = data.box("train", 2, [4, 5, 30, 20], label=1)
    bad = data.box("train", 3, [60, 60, -10, -20])
    splits = read_all(discover(data.write()))
    assert names(choose(splits, count=9, class_name="bee")) == ["train_02.jpg"]
    assert names(choose(splits, count=1, ids=["val_01.jpg", "1"])) == ["val_01.jpg", "train_00.jpg"]
    (sample,) = choose(splits, count=9, findings=check(splits))
    marked = sample.marked()
    assert names([sample]) == ["train_03.jpg"]
    assert marked.names[int(marked.labels[-1])] == "ant: inverted box"
    assert marked.boxes[-1].tolist() == [50, 40, 60, 60]
    assert sample.image().size == (128, 96)
    assert {own, bad} <= set(splits[0].annotations.ids.tolist())
    with pytest.raises(DataError, match="--class dodo: no such class; there are ant, bee, cow"):
        choose(splits, count=1, class_name="dodo")
    with pytest.raises(DataError, match="--ids 77: no image has this id or file name"):
        choose(splits, count=1, ids=["77"])
    with pytest.raises(DataError, match="no image is left to show"):
        choose(splits, count=1, findings=[])


def test_an_image_of_another_size_than_its_entry_can_be_looked_at(tmp_path):
    data = Planted(tmp_path, train=3, val=2)
    data.image("train", 0).update(height=500, width=600)
    data.file("train", 1).write_bytes(b"")
    data.box("train", 2, [1, 1, 100, 90], iscrowd=1)
    samples = choose(read_all(discover(data.write())), count=9)
    assert samples[0].image().size == (128, 96)
    assert samples[1].image() is None
    assert "ant: crowd" in samples[2].marked().names
