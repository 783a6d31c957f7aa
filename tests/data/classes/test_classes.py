# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Built-in class lists, the table of synonyms, and lists in files of every kind."""

import json
from pathlib import Path

import pytest

from golden_cases import load_json
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.classes import BUILT_IN, class_list, squeezed, synonyms
from isdfine.solver.tuning import map_classes


def official_rows() -> list[int]:
    """Row (0-based, of 365) of the Objects365 class that stands for each COCO class in the official code."""
    rows: list[int] = load_json("configs.json")["common"]["coco_to_obj365_ids"]["ids"]
    return rows


def test_lists_have_their_sizes_and_ids() -> None:
    sizes = {name: len(read()) for name, read in BUILT_IN.items()}
    assert sizes == {"coco": 80, "coco_91": 91, "objects365": 365, "objects365_366": 366, "voc": 20}
    objects = class_list("objects365")
    assert objects.category_ids == tuple(range(1, 366))
    assert [objects.names[label] for label in (0, 1, 37, 196, 299, 364)] == [
        *("Person", "Sneakers", "Moniter/TV", "Cigar/Cigarette ", "Tape Measur/ Ruler", "Table Tennis "),
    ]
    padded = class_list("objects365_366")
    assert padded.names[1:] == objects.names
    assert padded.category_ids == tuple(range(366))
    assert class_list("voc").names == tuple(sorted(class_list("voc").names))


def test_the_table_gives_the_official_objects365_rows_in_both_directions() -> None:
    rows = official_rows()
    coco, objects, table = class_list("coco").names, class_list("objects365").names, synonyms()
    assert len(rows) == 80
    assert list(map_classes(objects, coco, table).rows) == rows
    official_366 = map_classes(class_list("objects365_366").names, coco, table)
    assert list(official_366.rows) == [row + 1 for row in rows]
    back = map_classes(coco, objects, table)
    assert {row: source for row, source in enumerate(back.rows) if source is not None} == {
        row: index for index, row in enumerate(rows)
    }


def test_voc_is_all_in_coco_and_objects365() -> None:
    voc = class_list("voc").names
    assert map_classes(class_list("coco").names, voc, synonyms()).new == []
    assert map_classes(class_list("objects365").names, voc, synonyms()).new == []
    assert len(map_classes(voc, class_list("coco").names, synonyms()).new) == 80 - 20


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_list_has_two_names_of_one_group(name: str) -> None:
    table, names = synonyms(), class_list(name).names
    assert len({table.get(squeezed(name), squeezed(name)) for name in names}) == len(names)


def test_corrected_spellings_and_open_images_habits() -> None:
    corrected = ["Monitor/TV", "Basket", "Billiards", "Hot-air balloon", "Camel", "Formula 1", "Table Tennis Paddle"]
    objects = class_list("objects365").names
    taken = map_classes(objects, corrected, synonyms()).taken
    assert taken == ["Moniter/TV", "Bakset", "Billards", "Hotair ballon", "Campel", "Formula 1 ", "Table Teniis paddle"]
    open_images = ["Television", "Mobile phone", "Houseplant", "Doughnut", "Computer keyboard", "Cattle", "Ski"]
    assert map_classes(class_list("coco").names, open_images, synonyms()).new == []
    documents = map_classes(["text", "title", "list", "table", "figure"], DOCLAYNET, synonyms())
    assert [name for name in documents.taken if name is not None] == [
        "list",
        "figure",
        "title",
        "table",
        "text",
        "title",
    ]


DOCLAYNET = [
    *("Caption", "Footnote", "Formula", "List-item", "Page-footer", "Page-header", "Picture", "Section-header"),
    *("Table", "Text", "Title"),
]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "cat\n\n  hot dog\r\n"),
        ("names.txt", "\ufeffcat\nhot dog\n"),
        ("names.yml", "[cat, hot dog]"),
        ("data.yaml", "train: a\nnc: 2\nnames:\n  0: cat\n  1: hot dog\n"),
        ("data.yaml", "names: ['cat', 'hot dog']"),
        ("names.json", '["cat", "hot dog"]'),
        ("names.json", '{"names": ["cat", "hot dog"]}'),
        ("coco.json", '{"images": [], "categories": [{"id": 7, "name": "hot dog"}, {"id": 2, "name": "cat"}]}'),
    ],
)
def test_lists_in_files(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert class_list(tmp_path / file).names == ("cat", "hot dog")


def test_categories_of_a_large_coco_file(tmp_path: Path) -> None:
    images = [{"id": index, "file_name": "x" * 100} for index in range(12_000)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"categories": [{"id": 3, "name": "cat"}], "images": images}))
    assert path.stat().st_size > 1 << 20
    assert (class_list(path).names, class_list(path).category_ids) == (("cat",), (3,))


def test_numbers_are_names_too(tmp_path: Path) -> None:
    (tmp_path / "digits.yml").write_text("[0, 1, 2]")
    assert class_list(tmp_path / "digits.yml").names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "a.txt",
            "cat\nCat\ncat\n",
            r"a.txt:3: the class name 'cat' is that of another row too \(.*a.txt:1\): rename one",
        ),
        ("a.txt", " \n", r"a.txt: the list of class names is empty"),
        ("a.yml", "- yes\n- cat\n", r"a.yml:1: True is no class name: write a text, in quotes"),
        ("a.yml", "nmaes: [a]\n", r"a.yml:1: expected a list of class names, or names: \[...\], found"),
        ("a.yml", "\nnames:\n  1: a\n  2: b\n", r"a.yml:2: names must be numbered 0, 1, 2"),
        ("a.yml", "names: cat\n", r"a.yml:1: expected a list of class names, found 'cat'"),
        ("a.yml", "first_id: -1\nnames: [a]\n", r"a.yml:1: first_id is the id of the first class, 0 or more, not -1"),
        ("a.yml", "[a, b", r"a.yml:[12]: not valid YAML"),
        ("a.json", "{", r"a.json: not a JSON file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        class_list(tmp_path / file)


def test_files_that_are_no_text_and_bad_categories(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(ConfigError, match=r"a.txt: cannot be read as text .*: give a file with class names"):
        class_list(tmp_path / "a.txt")
    (tmp_path / "b.json").write_text('{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}')
    with pytest.raises(DataError, match=r"b.json"):
        class_list(tmp_path / "b.json")


def test_an_unknown_list_names_the_choices() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'object365' is no list of class names \(did you mean objects365\?\): choose coco, coco_91, objects365, "
        r"objects365_366, voc, or give a file",
    ):
        class_list("object365")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("groups:\n  - [cat, Kitty Cat]\n")
    table = synonyms(tmp_path / "mine.yml")
    assert map_classes(["kitty-cat", "tvmonitor"], ["Cat", "television"], table).rows == (0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups:\n  - [a, b]\n  - [c, A]\n", r"mine.yml:3: 'A' is in another group too \(.*mine.yml:2\)"),
        ("groups:\n  - [a]\n", r"mine.yml:2: expected a list of two or more names"),
        ("groups:\n  - a\n", r"mine.yml:2: expected a list of two or more names"),
        ("- [a, b]\n", r"mine.yml:1: expected groups: \[\[name, another name\], ...\], found"),
        ("", r"mine.yml:1: expected groups"),
        ("groups:\n  - [a, null]\n", r"mine.yml:2: None is no class name"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        synonyms(tmp_path / "mine.yml")


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"class_synonyms gone.yml: no such file"):
        synonyms("gone.yml")
