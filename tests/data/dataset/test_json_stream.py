# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from random import Random
from unittest import mock

import pytest

from isdfine.core.errors import DataError
from isdfine.data.dataset import json_stream
from isdfine.data.dataset.json_stream import read_list, read_lists

CONTENT = {
    "info": {"annotations": [1], "text": 'a "quoted" \\ } ] text, "categories": [7] é'},
    "images": [{"id": 1.5, "s": [[1, 2], [3.25]]}, {"id": 123456789}, None, True, [], "x", -4e3],
    "annotations": [],
    "categories": [{"id": 1, "name": "ünï"}],
    "version": 12345,
}


def read(path, *keys):
    found = {key: [] for key in keys}
    firsts = []

    def receiver(key):
        def receive(batch, first):
            assert first == len(found[key])
            firsts.append(first)
            found[key].extend(batch)

        return receive

    read_lists(path, {key: receiver(key) for key in keys})
    return found


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_same_as_json_whatever_the_window(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    monkeypatch.setattr(json_stream, "_BATCH", 3)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=False), encoding="utf-8")
    keys = ("images", "annotations", "categories")
    assert read(path, *keys) == {key: CONTENT[key] for key in keys}


@pytest.mark.parametrize("chunk", [1, 3, 50, 1 << 20])
def test_lists_of_numbers_can_be_passed_over(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    boxes = [
        {"segmentation": [[1.5, 2], [3, -4e-3]], "bbox": [1, 2]},
        {"segmentation": [], "text": '"segmentation": [1]'},
        {"a": 1, "segmentation": {"counts": [1, 2]}},
        {"segmentation": ["x"], "id": 3},
        {"id": 4, "segmentation": [1]},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"annotations": boxes}))
    found = []
    read_lists(path, {"annotations": lambda batch, _: found.extend(batch)}, skip="segmentation")
    whole = [one["segmentation"] for one in boxes]
    assert [one.get("segmentation") for one in found] == [0, 0, whole[2], whole[3], 0]
    assert [{**one, "segmentation": two} for one, two in zip(found, whole)] == boxes


def test_objects_are_read_many_at_a_time_and_one_by_one_where_the_cut_is_wrong(tmp_path, monkeypatch):
    """Whatever lies inside them: objects, lists of objects, text that looks like the end of one."""
    random = Random(0)
    odd = [{"x": 1}, [{"y": 2}, {"z": [{}]}], "}, {", '"}, {"', "], {", {}, [], 5, {"a": {"b": [{"c": 1}, {"d": 2}]}}]
    path = tmp_path / "x.json"
    calls = mock.Mock(side_effect=json.JSONDecoder().raw_decode)
    for number in range(120):
        monkeypatch.setattr(json_stream, "_CHUNK", random.choice([5, 40, 200, 1 << 16]))
        monkeypatch.setattr(json_stream, "_BATCH", random.choice([1, 3, 100]))
        content = {
            key: [{"id": k, "odd": random.choice(odd)} for k in range(random.randint(0, 12))] for key in "abc"
        } | {"last": [1, {}, {}, "}, {"]}
        indent, separators = random.choice([None, 1]), random.choice([(",", ":"), (", ", ": ")])
        path.write_text(json.dumps(content, indent=indent, separators=separators))
        assert read(path, *content) == content, number
    content = {"images": [{"id": k} for k in range(1000)], "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(content))
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 16)
    monkeypatch.setattr(json_stream.json, "JSONDecoder", lambda: mock.Mock(raw_decode=calls))
    assert read(path, *content) == content
    assert calls.call_count < 10


def test_a_mistake_among_many_objects_is_found(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"images": [' + '{"id": 1},\n' * 500 + '{"id" 2},\n' + '{"id": 1},\n' * 500 + '{"id": 3}]}')
    with pytest.raises(DataError, match=r"x.json:501: not a JSON file \(Expecting ':' delimiter"):
        read(path, "images")


def test_mistakes_behind_skipped_lists_have_their_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"annotations": [{"segmentation": [1,\n2,\n3]},\n {"id" 5}]}')
    with pytest.raises(DataError, match=r"x.json:4: not a JSON file \(Expecting ':' delimiter, character 53\)"):
        read_lists(path, {"annotations": lambda batch, _: None}, skip="segmentation")


def test_a_list_at_the_end_is_found_from_there(tmp_path, monkeypatch):
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


def test_a_list_at_the_beginning_is_found_without_the_rest(tmp_path):
    (tmp_path / "x.json").write_text('{"categories": [2], "images": [0, oh no')
    assert read_list(tmp_path / "x.json", "categories") == [2]


def test_a_list_that_nobody_wants_is_read_piece_by_piece(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(json_stream, "_ignore", lambda batch, first: sizes.append(len(batch)))
    monkeypatch.setattr(json_stream, "_BATCH", 2)
    (tmp_path / "x.json").write_text('{"annotations": [1, 2, 3, 4, 5], "categories": [2], "images": []}')
    assert read_list(tmp_path / "x.json", "categories") == [2]
    assert sizes == [2, 2, 1]


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
        ("not json", "Expecting value, character 0"),
        ("", "Expecting value, at the end of the file: it is cut off"),
        ("\xff\xfe", "can't decode"),
        ('{"images": [' + "1" * 5000 + "]}", r"x\.json:1: not a JSON file \(Exceeds the limit"),
        ("[]", "no list called images, categories at the top level"),
        ('{"images": []}', "no list called categories at the top level"),
        ('{"images": {}, "categories": []}', "no list called images at the top level"),
        ('{"images": [],\n"images": 5}', r"x\.json:2: not a JSON file \(the key 'images' occurs twice, character 24\)"),
        ('{"images": []} x', r"x\.json:1: not a JSON file \(Extra data"),
        ('{"images": [1 2]}', "Expecting ',' delimiter, character 14"),
        ('{"images" []}', "Expecting ':' delimiter"),
        ("{images: []}", "Expecting property name"),
        ('{"images": [1,]}', "Expecting value"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        (
            '{\n"images":\n[{"id": 1},\n {"id": 2, "fi',
            r"x\.json:4: not a JSON file .*Unterminated string .*it is cut off",
        ),
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
    "the skipped": '{"segmentation": [[1,\n2]], "segmentation": [[3]]}',
}


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
@pytest.mark.parametrize("name", DOUBLED)
def test_a_key_twice_is_named_with_its_line(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    good = '{"segmentation": [[1,\n2]], "id": 7, "t": "a: b"}'
    path.write_text(f'{{"images": [],\n"annotations": [\n{good},\n{DOUBLED[name]}, {good}\n]}}')
    receivers = {"annotations": lambda batch, first: None}
    with pytest.raises(DataError, match=r"x\.json:5: the key '\w+' occurs twice in one object: remove one of them$"):
        read_lists(path, receivers, skip="segmentation")
    with pytest.raises(DataError, match=r"x\.json:5: the key"):
        read_list(path, "annotations")
    read_lists(path, {"images": lambda batch, first: None})  # nobody looks at the others


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_keys_of_several_objects_may_be_the_same(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    entries = [
        {"id": 1, "url": "http://x", "name": 'a": b'},
        {"id": 2, "attributes": {"id": 3, "more": {"id": 4}}, "list": [{"id": 5}, [{"id": 6}], 7]},
        {"segmentation": [[1, 2]], "bbox": [1, 2, 3, 4]},
        {},
        5,
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"annotations": entries}))
    assert read(path, "annotations")["annotations"] == entries
    assert read_list(path, "annotations") == entries
