# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path

import pytest
from PIL import ImageFont

from isdfine.viz import fonts
from isdfine.viz.fonts import cut, family_for, font_for, legible, legible_name, shortened


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fonts but those that come with Pillow and matplotlib."""
    monkeypatch.setattr(fonts, "_installed", tuple)
    for cached in (fonts.face_of, fonts._warn_once):
        cached.cache_clear()


@pytest.mark.parametrize("word", ["person", "Größe", "ñandú", "Ćwierć łódź", "кошка", "ελληνικά", "wait …"])
def test_letters_are_letters_not_empty_boxes(bare_machine: None, word: str) -> None:
    assert legible_name(word, 3) == word
    font = font_for(word, 20)
    unknown = bytes(font.getmask("\U0010fffd"))
    drawn = {letter: bytes(font.getmask(letter)) for letter in set(word) - {" "}}
    assert unknown not in drawn.values()
    assert len(set(drawn.values())) == len(drawn)


def test_letters_that_no_font_has(bare_machine: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert legible_name("汽车", 3) == "class 3"
        assert legible("汽车_7.png") == "??_7.png"
    (said,) = caplog.messages
    assert "apt install fonts-noto-core fonts-noto-cjk" in said


def test_an_installed_font_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib

    broken = tmp_path / "broken.ttf"
    other = Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf")
    fonts.face_of.cache_clear()
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_installed", lambda: (str(broken), str(other)))
    letter = min(fonts._letters(str(other)) - fonts._letters(fonts._own_face()))
    assert legible(letter) == letter
    assert font_for(letter, 12).getname()[0] == family_for(letter) == "STIXGeneral"
    fonts.face_of.cache_clear()


def test_one_line_of_printable_letters() -> None:
    assert legible(" two\nlines\tand a bell\x07 ") == "two lines and a bell"


def test_long_texts_keep_both_ends_and_fit() -> None:
    font = ImageFont.load_default(13)
    assert shortened("short.png", 200, font) == "short.png"
    assert [cut("abcdefgh", most) for most in (8, 7, 4, 2)] == ["abcdefgh", "abc…fgh", "ab…h", "a…"]
    short = shortened("a_very_long_name_of_a_file_in_a_folder_number_000123.png", 200, font)
    assert short.startswith("a_very")
    assert short.endswith("123.png")
    assert "…" in short
    assert 150 < font.getlength(short) <= 200
    assert shortened("a long text", 3, font) == "…"
