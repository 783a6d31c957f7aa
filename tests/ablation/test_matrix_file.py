# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ablation_cases import TRIAL, read_trial, write_trial
from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.errors import ConfigError


def test_defaults(tmp_path: Path) -> None:
    matrix = read_trial(tmp_path, "base: base.yml\nseeds: [3]\nvariants: {x: {}, y: [a=1]}\n")
    assert (matrix.name, matrix.baseline, matrix.judge, matrix.metrics) == ("trial", "x", "last", ("AP", "AP50"))
    assert [run.folder.path for run in matrix.runs()] == [
        Path("output/ablations/trial/x/seed3"), Path("output/ablations/trial/y/seed3")
    ]  # fmt: skip
    assert [run.label for run in matrix.runs()] == ["x/seed3", "y/seed3"]
    assert matrix.runs()[1].overrides == ("a=1",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: trial", "nam: trial", r"trial.yml:1: nam: no such key; did you mean name\?"),
        ("base: base.yml", "base: gone.yml", r"trial.yml:3: base: .*gone.yml: no such file; paths are relative to "),
        ("base: base.yml", "base: 3", r"trial.yml:3: base: expected the name of a YAML file, found 3"),
        ("seeds: [0, 1]", "seeds: [0, 0]", r"trial.yml:4: seeds: expected a list of different whole numbers"),
        ("seeds: [0, 1]", "seeds: 3", r"trial.yml:4: seeds: expected a list .*, found 3"),
        ("seeds: [0, 1]\n", "", r"trial.yml:1: seeds: missing: an ablation needs it"),
        ("baseline: b", "baseline: z", r"trial.yml:5: baseline: no variant is called 'z'; known: a, b, c"),
        ("[AP, AR100]", "[AP, mAP]", r"trial.yml:6: metrics: expected a list of AP, AP50, .*found \['AP', 'mAP'\]"),
        ("judge: best", "judge: first", r"trial.yml:7: judge: expected last or best, found 'first'"),
        ("  a: {set", "  a/b: {set", r"trial.yml:12: variants.a/b: 'a/b' names a folder: use letters"),
        ("  a: {set", "  composed: {set", r"'composed' names a folder: .* not `composed`"),
        ("{set: [\"distillers=[]\", clip_max_norm=5]}", "7", r"trial.yml:12: variants.a: expected a mapping with set"),
        ("norm=5]", "norm]", r"trial.yml:12: variants.a.set.1: expected key.path=value, .*, found 'clip_max_norm'"),
        ("clip_max_norm=5]", "seed=5]", r"trial.yml:12: variants.a.set.1: seed is set by the ablation: list it under"),
        ("{optimizer.lr:", "{resume:", r"trial.yml:14: variants.c.set.resume: resume is set by the ablation: a run"),
        ("{include: more", "{base: more", r"trial.yml:14: variants.c.base: no such key; known: include, set"),
        ("name: trial", "name: []", r"trial.yml:1: name: expected a text, found \[\]"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TRIAL
    with pytest.raises(ConfigError, match=message):
        read_trial(tmp_path, TRIAL.replace(old, new))


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_trial(tmp_path, TRIAL.replace("seeds: [0, 1]", "seeds: []").replace("judge: best", "judge: no"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", r"trial.yml:1: an ablation file holds `key: value` lines with name, output_dir, base"),
        ("variants: {}\nbase: base.yml\nseeds: [0]\n", r"trial.yml:1: variants: expected names, each with what"),
        ("", r"an ablation file holds"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_trial(tmp_path, text)


def test_what_the_ablation_sets_itself_is_refused_on_the_command_line_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"-u output_dir=x: output_dir is set by the ablation: every run has"):
        read_matrix(write_trial(tmp_path), ("epoches=1", "output_dir=x"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yml: no such file: check the path"):
        read_matrix("nowhere.yml")
