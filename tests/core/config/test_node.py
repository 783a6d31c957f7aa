# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import os
import time
from pathlib import Path

import pytest

from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.config.layers import apply_overrides, read_tree
from isdfine.core.config.node import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml
from isdfine.core.errors import ConfigError
from isdfine.data.classes import class_list, synonyms
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.yolo import yolo_label_space

LEVELS = range(1, 9)
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in LEVELS
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in LEVELS
)
LADDER = "a0: &a0 [x]\n" + "".join(f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 2000))

HOSTILE = {
    "aliases": (BOMB, r":5: more than 100000 values, with aliases written out"),
    "merged aliases": (MERGE_BOMB, r":\d: more than 100000 values"),
    "many values": (f"a: [{'1,' * 100_001}]", r":1: more than 100000 values"),
    "nested lists": (f"a: {'[' * 500}{']' * 500}", r":1: nested more than 64 levels deep: flatten it"),
    "nested far too deep": (f"a: {'[' * 100_000}", r":1: (nested more than|not valid YAML: exceeded maximum nesting)"),
    "nested by aliases": (LADDER, r":64: nested more than 64 levels deep"),
    "long number": (f"a: {'7' * 5000}", r":1: a: '7{20}... \(5000 characters\)' cannot be read as a whole number$"),
    "beyond 64 bits": ("a: {b: 18446744073709551616}", r":1: a.b: '18446744073709551616' is too long for a number"),
    "long number as key": (f"{'7' * 1000}: 1", r":1: '7{20}... \(1000 characters\)' is too long for a number"),
    "no number": ("\na: !!int x", r":2: a: 'x' cannot be read as a whole number"),
    "no truth value": ("a: !!bool maybe", r":1: a: 'maybe' cannot be read as true or false"),
    "date": ("a: !!timestamp 2020-02-31", r":1: a: the tag '.*timestamp' is not allowed: write plain text"),
    "binary": ("a: !!binary aGVsbG8=", r":1: a: the tag '.*binary' is not allowed"),
    "set": ("a: !!set {b, c}", r":1: a: the tag '.*set' is not allowed"),
    "equals sign": ("=: 1", r":1: the tag '.*value' is not allowed"),
    "keys that are equal": ("a: {1: x, true: y}", r":1: a.true: duplicate key, first on line 1"),
    "NUL": ("a: 1\0", r": not valid YAML: unacceptable character #x0000: .*, position 4$"),
    "NUL in a text": ('a: {b: "x\\0y"}', r":1: a.b: 'x\\x00y' holds a NUL character"),
    "key for the terminal": (
        '"a\\e[2J\\nerror": 1',
        r":1: the key 'a\\x1b\[2J\\nerror' has characters that cannot be shown",
    ),
    "half a character": ("a: \udce9", r": not UTF-8 text: write it in UTF-8$"),
    "tab": ("a:\n\tb: 1", r":2: not valid YAML: found character that cannot start any token"),
    "two documents": ("a: 1\n---\nb: 2", r":2: not valid YAML: but found another document"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_one_line_at_once(text: tuple[str, str]) -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=text[1]) as caught:
        parse_yaml(text[0], "c.yml")
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 10
    with pytest.raises(ConfigError) as caught:
        apply_overrides(parse_yaml("{}", "c.yml"), [f"a={text[0]}"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_every_reader_of_yaml_has_these_bounds(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yml"
    file.write_text(BOMB)
    for read in (read_yaml, read_tree, class_list, synonyms, read_matrix):
        with pytest.raises(ConfigError, match=r"bomb.yml:5: more than 100000 values"):
            read(file)
    problems = Problems(collect=True)
    yolo_label_space(file, problems)
    assert (problems.found[0].kind, problems.found[0].place) == ("broken line", f"{file}:5")


def test_what_is_no_text_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yml")
    for name in ("pipe.yml", "/dev/zero", "."):
        with pytest.raises(ConfigError, match=r": not a regular file: check the path"):
            read_yaml(tmp_path / name)
    for name in ("nowhere.yml", "a\0b.yml"):
        with pytest.raises(ConfigError, match=r"no such file: check the path"):
            read_yaml(tmp_path / name)
    with pytest.raises(ConfigError, match=r"cannot be read \(File name too long\)"):
        read_yaml(tmp_path / ("x" * 300))
    with (tmp_path / "long.yml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"long.yml: 16777217 bytes, while YAML files have 16777216 at most"):
        read_yaml(tmp_path / "long.yml")


def test_encodings(tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text("ä: ö", encoding="utf-8-sig")
    assert read_yaml(file).plain() == {"ä": "ö"}
    for encoding in ("utf-16", "latin-1"):
        file.write_text("ä: ö", encoding=encoding)
        with pytest.raises(ConfigError, match=r"c.yml: not UTF-8 text: is this a YAML file\? If so, save it as UTF-8"):
            read_yaml(file)


def test_what_is_within_the_bounds_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse_yaml(f"a: {'[' * depth}{']' * depth}", "c.yml").plain()["a"] is not None
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}", "c.yml").plain()["b"] == {"x": 1, "y": [{"x": 1}] * 2}
    assert parse_yaml("a: 18446744073709551615", "c.yml").plain() == {"a": 2**64 - 1}


def test_fans_and_chains_of_includes_end(tmp_path: Path) -> None:
    for level in range(300):
        (tmp_path / f"chain{level}.yml").write_text(f"__include__: chain{level + 1}.yml\n")
        (tmp_path / f"fan{level}.yml").write_text(f"__include__: [{f'fan{level + 1}.yml,' * 10}]\n")
    (tmp_path / "fan10.yml").write_text("seed: 1")
    for name in ("chain0.yml", "fan0.yml"):
        with pytest.raises(ConfigError, match=r".yml:1: __include__: more than 100 files with all that is included"):
            read_tree(tmp_path / name)
    (tmp_path / "long.yml").write_text(f"imports: [{'a,' * 60_000}]")
    (tmp_path / "twice.yml").write_text("__include__: [long.yml, long.yml]")
    with pytest.raises(ConfigError, match=r"twice.yml:1: __include__: more than 100000 values"):
        read_tree(tmp_path / "twice.yml")


def test_an_include_shows_nothing_of_a_file_that_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password: hunter2\n")
    (tmp_path / "c.yml").write_text("__include__: secret\n")
    with pytest.raises(ConfigError) as caught:
        read_tree(tmp_path / "c.yml")
    assert str(caught.value).endswith("c.yml:1: __include__: 'secret' is no YAML file (.yml, .yaml)")
    (tmp_path / "c.yml").write_text("__include__: ~nobody_here/c.yml\n")
    with pytest.raises(ConfigError, match="no such file"):
        read_tree(tmp_path / "c.yml")


def test_an_override_with_a_long_key() -> None:
    with pytest.raises(ConfigError, match=r"override 'a\.a\..*\.\.\.': a key of 2001 parts: at most 64"):
        apply_overrides(parse_yaml("{}", "c.yml"), [f"a{'.a' * 2000}=1"])
