# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import math
import tracemalloc
from random import Random

import pytest

from data import coco_files
from isdfine.core.errors import DataError
from isdfine.data.dataset import coco_json
from isdfine.data.dataset.coco import parse_coco
from isdfine.data.dataset.json_lists import check_keys, load_all, loads, read_list, read_lists

CONTENT = {
    "info": {"annotations": [1], "text": 'a "quoted" \\ } ] text, "categories": [7] é'},
    "images": [{"id": 1.5, "s": [[1, 2], [3.25]]}, {"id": 123456789}, None, True, [], "x", -4e3],
    "annotations": [],
    "categories": [{"id": 1, "name": "ünï"}],
    "version": 12345,
}


def read(path, *keys):
    return {key: load_all(texts, key, path) for key, texts in zip(keys, read_lists(path, keys))}


def same(one, two):
    return repr(one) == repr(two)  # of NaN, too


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_same_as_json(tmp_path, indent, mark):
    path = tmp_path / "x.json"
    path.write_text(mark + json.dumps(CONTENT, indent=indent, ensure_ascii=False), encoding="utf-8")
    keys = ("images", "annotations", "categories")
    assert read(path, *keys) == {key: CONTENT[key] for key in keys}


def test_whatever_lies_in_the_elements(tmp_path):
    """Objects, lists of objects, text that looks like the end of one."""
    random = Random(0)
    odd = [{"x": 1}, [{"y": 2}, {"z": [{}]}], "}, {", '"}, {"', "], {", {}, [], 5, {"a": {"b": [{"c": 1}, {"d": 2}]}}]
    odd += [math.nan, [math.inf, -math.inf], "NaN", 'a "NaN", Infinity', 10**400, "\udcfc\ud800", "\\ud800"]
    path = tmp_path / "x.json"
    for number in range(120):
        content = {
            key: [{"id": k, "odd": random.choice(odd)} for k in range(random.randint(0, 12))] for key in "abc"
        } | {"last": [1, {}, {}, "}, {"]}
        indent, separators = random.choice([None, 1]), random.choice([(",", ":"), (", ", ": ")])
        path.write_text(json.dumps(content, indent=indent, separators=separators))
        assert same(read(path, *content), content), number


def test_a_mistake_among_many_objects_is_found(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"images": [' + '{"id": 1},\n' * 500 + '{"id" 2},\n' + '{"id": 1},\n' * 500 + '{"id": 3}]}')
    with pytest.raises(DataError, match=r"x.json:501: not a JSON file \(expected ':', byte 5518"):
        read(path, "images")


def test_a_list_at_the_end_is_found_from_there(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"info": {"categories": [1]}, "images": [0, oh no], "categories" : [{"id": 4}]\n}\n')
    assert read_list(path, "categories") == [{"id": 4}]  # the broken part was not looked at


@pytest.mark.parametrize(
    "text",
    [
        '{"categories": [2], "images": [0]}',
        '{"categories": [2], "info": {"x": 1, "categories": [3]}}',
        '{"categories": [2], "info": "\\", \\"categories\\": [3]}"}',
    ],
)
def test_a_list_elsewhere_is_found_too(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert read_list(tmp_path / "x.json", "categories") == [2]


def test_a_list_that_nobody_wants_takes_no_memory(tmp_path):
    unwanted = ",".join(['{"a": [1, 2, 3], "b": "c"}'] * 100_000)
    (tmp_path / "x.json").write_text(f'{{"annotations": [{unwanted}], "categories": [2], "images": []}}')
    tracemalloc.start()
    try:
        assert read_list(tmp_path / "x.json", "categories") == [2]
        assert tracemalloc.get_traced_memory()[1] < 2 * len(unwanted)
    finally:
        tracemalloc.stop()


def test_few_entries_are_objects_at_a_time(tmp_path, monkeypatch):
    data = coco_files.content()
    data["annotations"] = [coco_files.annotation(k, 7, 9, [1, 1, 5, 5 + k]) for k in range(25)]
    data["annotations"][13]["bbox"][0] = "1"
    path = coco_files.write(tmp_path, data, images=False)[1]
    sizes, receive = [], coco_json.BoxEntries.receive
    monkeypatch.setattr(coco_json, "_BATCH", 10)
    monkeypatch.setattr(
        coco_json.BoxEntries, "receive", lambda self, boxes: (sizes.append(len(boxes)), receive(self, boxes))[1]
    )
    found = parse_coco(path)
    assert sizes == [10, 10, 5]
    assert found.ids.tolist() == list(range(25))
    assert found.boxes_xywh_px.tolist() == [[1, 1, 5, 5 + k] for k in range(25)]


def test_a_file_may_be_cut_short_once_it_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": [{"id": number} for number in range(1000)]}))
    texts = read_lists(path, ["images"])[0]
    path.write_bytes(b"")  # of a mapped file the rest is gone then, and whoever reads it is killed by SIGBUS
    assert [loads(text)["id"] for text in texts] == list(range(1000))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: the annotation file cannot be opened .*check ann_file"):
        read(tmp_path / "none.json", "images")
    with pytest.raises(DataError, match="cannot be opened"):
        read(tmp_path, "images")
    with pytest.raises(DataError, match="cannot be opened"):
        read_list(tmp_path / "none.json", "categories")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("not json", r"x\.json:1: not a JSON file \(invalid character, byte"),
        ("", "it ends at byte 0, at the end of the file: it is cut off"),
        ("\xff\xfe", "can't decode"),
        ('{"images": ["\xe9"], "categories": []}', r"x\.json: images\[0\]: .*can't decode"),
        ('{"images": [0, ' + "1" * 5000 + '], "categories": []}', r"x\.json: images\[1\]: Exceeds the limit"),
        ('{"images": [' + "[" * 3000 + "]" * 3000 + '], "categories": []}', "nested too deeply"),
        ("[]", "no list called images, categories at the top level"),
        ('{"images": []}', "no list called categories at the top level"),
        ('{"images": {}, "categories": []}', "no list called images at the top level"),
        ('{"images": [],\n"categories": [1],"images": 5}', r"\(the key 'images' occurs twice\)"),
        (
            '{"images": [0], "categories": [1],"images": [5]}',
            r"x\.json: not a JSON file \(the key 'images' occurs twic",
        ),
        ('{"images": [0], "x": 1, "categories": [1],"x": [5]}', r"\(the key 'x' occurs twice\)"),
        ('{"images": []} x', r"x\.json:1: not a JSON file \(trailing characters"),
        ('{"images": [1 2]}', r"expected ',' or ']', byte 14"),
        ('{"images" []}', "expected ':'"),
        ("{images: []}", "object keys must be strings"),
        ('{"images": [1,]}', "trailing comma in array"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": [NaN, oh]}', "invalid character, byte 17"),
        ('{\n"images":\n[{"id": 1},\n {"id": 2, "fi', r"x\.json:4: not a JSON file .*it is cut off"),
        ('{\n"images":\n[{"id": 1},\n', r"x\.json:4: .*at the end of the file: it is cut off, or was not written"),
    ],
)
def test_no_coco_file(tmp_path, text, match):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=match) as caught:
        read(tmp_path / "x.json", "images", "categories")
    assert str(caught.value).startswith(str(tmp_path / "x.json"))


DOUBLED = {
    "flat": '{"id": 1, "bbox": [1, 2, 3, 4],\n"bbox": [5, 6, 7, 8]}',
    "spaces": '{"id" : 1, \n"id" : 2}',
    "escaped": '{"id": 1,\n"\\u0069d": 2}',
    "inside": '{"id": 1,\n"attributes": {"a": 1, "b": {"c": 1, "c": 1}}}',
    "in a list": '{"id": 1,\n"parts": [3, {"c": 1, "c": 2}]}',
    "beside signs": '{"id": 1,\n"name": "a\\": {b: \\":", "name": "c"}',
    "polygons": '{"segmentation": [[1,\n2]], "segmentation": [[3]]}',
}


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("name", DOUBLED)
def test_a_key_twice_is_named_with_its_element(tmp_path, name, sound):
    entry = '{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0,'
    texts = [entry + '"segmentation": [[1,\n2]], "id": 7, "area": 1}'] * 3
    texts[1] = (entry if sound else "{") + DOUBLED[name][1:]
    data = json.dumps({**coco_files.content(), "annotations": "@"})
    path = tmp_path / "x.json"
    path.write_text(data.replace('"@"', f"[{','.join(texts)}]"))
    said = r"x\.json: annotations\[1\]: the key '\w+' occurs twice in one object: remove one of them$"
    with pytest.raises(DataError, match=said):
        parse_coco(path)
    with pytest.raises(DataError, match=said):
        read_list(path, "annotations")
    read_lists(path, ["images", "annotations"])  # nobody looks at the elements
    assert read_list(path, "images") == coco_files.content()["images"]


def test_keys_of_several_objects_may_be_the_same(tmp_path):
    entries = [
        {"id": 1, "url": "http://x", "name": 'a": b'},
        {"id": 2, "attributes": {"id": 3, "more": {"id": 4}}, "list": [{"id": 5}, [{"id": 6}], 7]},
        {"segmentation": [[1, 2]], "bbox": [1, 2, 3, 4]},
        {"segmentation": {"counts": [3, 4], "size": [5, 6]}},
        {},
        5,
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"annotations": entries}))
    check_keys(read_lists(path, ["annotations"])[0], "annotations", path, 0)
    assert read(path, "annotations")["annotations"] == entries
    assert read_list(path, "annotations") == entries


def test_the_file_is_read_as_it_is_where_numbers_are_none(tmp_path):
    """NaN and Infinity are no JSON, and other readers write them: what is theirs is said of the entry, not the file."""
    path = tmp_path / "x.json"
    path.write_text('{"a": [NaN, -Infinity, {"x": Infinity, "y": "NaN"}], "b": [{"\\udcfc": 1}, "\xff"]}', "utf-8")
    texts = read_lists(path, ["a", "b"])
    assert same([[loads(text) for text in part] for part in texts],
                [[math.nan, -math.inf, {"x": math.inf, "y": "NaN"}], [{"\udcfc": 1}, "\xff"]])  # fmt: skip
