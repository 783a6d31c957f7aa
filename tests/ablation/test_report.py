# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isdfine.ablation.layers import LayerResults
from isdfine.ablation.matrix import Change, Judge, Matrix
from isdfine.ablation.report import summary_table, to_dict, write_report
from isdfine.ablation.results import Outcome, Results

APS = {"plain": (0.40, 0.42, 0.41), "good": (0.42, 0.44, 0.4301), "same": (0.41, 0.41, 0.41), "few": (0.5, None, None)}
"""AP by seed of every variant; None = not run."""


def results(folder: Path, *, data: str = "", judge: Judge = "last", layers: bool = True) -> Results:
    variants = tuple(Change(name, overrides=("a=1",)) for name in APS)
    matrix = Matrix(
        folder / "trial.yml", "trial", folder, folder / "base.yml", (0, 1, 2), "plain", ("AP", "APl"), judge,
        (Change(data),), variants,
    )  # fmt: skip
    trial = Results(matrix)
    for run in matrix.runs():
        ap = APS[run.variant][run.seed]
        if ap is None:
            trial.missing[run.label] = "not run"
            continue
        stats = {"AP": ap, "APl": -1.0}
        curve = [(10, {"AP": ap / 2, "APl": -1.0}), (20, stats)]
        by_layer = LayerResults(1, 1_234_567, ({"AP": ap - 0.1}, {"AP": ap}, {"AP": ap + 0.01}))
        trial.outcomes.append(
            Outcome(run, stats, 1, 20, curve, 0.5, f"hash_{run.variant}", by_layer if layers else None)
        )
    return trial


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Cells of the table under a heading, by first cell."""
    lines = text.split(heading, 1)[1].strip().splitlines()
    table = lines[: next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {cell[0]: cell[1:] for cell in cells}


def write(trial: Results) -> str:
    return write_report(trial, train="isdfine train", command="isdfine ablate trial.yml").read_text()


def test_the_summary_has_means_paired_differences_and_verdicts(tmp_path: Path) -> None:
    table = rows("#\n" + summary_table(results(tmp_path), ""), "#")
    assert table["variant"] == ["seeds", "AP", "APl", "AP minus `plain`, paired", "verdict on AP"]
    assert table["`plain`"] == ["3 of 3", "41.00 ± 1.00", "-", "baseline", ""]
    # differences 2, 2, 2.01 points
    assert table["`good`"] == ["3 of 3", "43.00 ± 1.00", "-", "+2.00 ± 0.01", "**higher**"]
    assert table["`same`"] == ["3 of 3", "41.00 ± 0.00", "-", "+0.00 ± 1.00", "**no difference shown**"]
    assert table["`few`"] == ["1 of 3", "50.00", "-", "+10.00", "**not enough seeds (1 of 3)**"]


def test_the_report_says_everything_a_reader_needs(tmp_path: Path) -> None:
    text = write(results(tmp_path))
    assert "10 of 12 runs are finished and used" in text
    assert "after the last epoch (nothing is selected on the evaluated data)" in text
    differences = rows(text, "### Differences to `plain`")
    assert differences["`same`"] == [
        "AP", "3", "+0.00 ± 1.00", "0: +1.00, 1: -1.00, 2: +0.00", "-2.48 to +2.48", "1.000", "1.15",
        "no difference shown",
    ]  # fmt: skip
    assert differences["`few`"] == ["AP", "1", "+10.00", "0: +10.00", "-", "-", "-", "not enough seeds (1 of 3)"]
    assert "exceeds 2 times its standard error" in text
    assert (
        "claims one 18 % of the time with 3 seeds, which over the 2 comparisons of this table makes about 0.4" in text
    )
    by_layer = rows(text, "### AP of each decoder layer's boxes")
    assert by_layer["`plain`"] == ["3", "baseline", "", "10.00 ± 0.00", "31.00 ± 1.00", "41.00 ± 1.00", "42.00 ± 1.00"]
    assert by_layer["`good`"][1:4] == ["+2.00 ± 0.01", "higher", "10.00 ± 0.00"]
    assert by_layer["`few`"] == ["1", "+10.00", "not enough seeds (1 of 3)", "10.00", "40.00", "50.00", "51.00"]
    assert rows(text, "## Every run")["good/seed2"] == ["1", "20", "43.01", "-", "0.500"]
    assert "- few/seed1: not run\n- few/seed2: not run" in text
    assert rows(text, "on what else the machine did.")["`good`"] == ["hash_good", "1.23 M"]
    assert "\nisdfine ablate trial.yml\n" in text
    assert f"isdfine train -c {tmp_path / 'base.yml'} -u a=1 --seed 0 --output-dir {tmp_path / 'good/seed0'}" in text


def test_selection_on_the_evaluated_data_is_said(tmp_path: Path) -> None:
    text = write(results(tmp_path, judge="best"))
    assert "the highest AP (selected on the evaluated data: every value is optimistic)" in text


def test_plots_are_drawn_and_named_in_the_report(tmp_path: Path) -> None:
    text = write(results(tmp_path, data="cells"))
    assert "## cells" in text
    for name in ("cells_AP_over_steps.png", "cells_AP_over_layers.png"):
        assert f"]({name})" in text
        with Image.open(tmp_path / name) as image:
            assert (np.asarray(image.convert("L")) < 250).mean() > 0.01
    assert not list(tmp_path.glob("*.tmp"))


def test_without_layers_there_is_no_such_table_and_no_plot(tmp_path: Path) -> None:
    text = write(results(tmp_path, layers=False))
    assert "decoder layer" not in text
    assert [path.name for path in tmp_path.glob("*.png")] == ["AP_over_steps.png"]


def test_an_empty_matrix_is_reported_as_such(tmp_path: Path) -> None:
    trial = results(tmp_path)
    trial.missing = {outcome.run.label: "not run" for outcome in trial.outcomes} | trial.missing
    trial.outcomes = []
    text = write(trial)
    assert "0 of 12 runs are finished" in text
    assert text.count(": not run") == 12
    assert rows("#\n" + summary_table(trial, ""), "#")["`good`"] == ["0 of 3", "-", "-", "-", "no common seed"]
    assert not list(tmp_path.glob("*.png"))


def test_the_json_report_holds_the_same_as_fractions(tmp_path: Path) -> None:
    trial = results(tmp_path)
    write(trial)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == json.loads(json.dumps(to_dict(trial)))
    assert len(content["runs"]) == 10
    assert content["runs"][0]["stats"]["AP"] == pytest.approx(0.40)
    assert content["runs"][0]["layers"][0]["AP"] == pytest.approx(0.30)
    good = next(comparison for comparison in content["comparisons"] if comparison["variant"] == "good")
    assert good["mean"] == pytest.approx(0.0200333, abs=1e-6)
    assert (good["metric"], good["verdict"], good["seeds"]) == ("AP", "higher", [0, 1, 2])
    assert [row["variant"] for row in content["first_layer"]] == ["good", "same", "few"]
    assert content["first_layer"][0]["mean"] == pytest.approx(good["mean"])
    assert content["missing"] == {"few/seed1": "not run", "few/seed2": "not run"}


def test_curves_use_the_steps_that_all_runs_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isdfine.ablation import plots

    trial = results(tmp_path)
    trial.outcomes[0].curve.insert(1, (15, {"AP": 0.3, "APl": -1.0}))
    drawn, titles = {}, []

    def save(path: Path, curves: object, *, title: str, **_: object) -> None:
        drawn[path.name] = curves
        titles.append(title)

    monkeypatch.setattr(plots, "save_curves", save)
    plots.draw_plots(trial, "")
    assert titles == ["AP over training steps: trial", "AP of each decoder layer's boxes: trial"]
    plain, _, _, few = drawn["AP_over_steps.png"]
    assert (plain.name, list(plain.x), list(few.x)) == ("plain", [10, 20], [10, 20])
    assert plain.y[1] == pytest.approx([40, 42, 41])
    assert few.y == [pytest.approx([25]), pytest.approx([50])]
    assert list(drawn["AP_over_layers.png"][0].x) == [1, 2, 3]


def test_teachers_gaps_sizes_and_cost(tmp_path: Path) -> None:
    trial = results(tmp_path)
    changed = {"good": {"teacher": {"AP": 0.61}, "peak_mib": ("resident", 812.4)}, "same": {"teacher": {"AP": 0.40}}}
    trial.outcomes = [
        replace(outcome, stats={**outcome.stats, "APm": 0.2}, **changed.get(outcome.run.variant, {}))
        for outcome in trial.outcomes
    ]
    last = max(at for at, outcome in enumerate(trial.outcomes) if outcome.run.variant == "good")
    trial.outcomes[last] = replace(trial.outcomes[last], seconds_per_step=1.0, peak_mib=("resident", 700.0))
    text = write(trial)
    table = rows(text, "### Teacher, sizes of objects, cost")
    assert table["variant"] == [
        "teacher AP", "AP", "gap closed", "APs", "APm", "APl", "s per step", "peak memory",
    ]  # fmt: skip
    sizes = ["-", "20.00 ± 0.00", "-"]
    assert table["`plain`"] == ["-", "41.00 ± 1.00", "-", *sizes, "0.500", "-"]
    assert table["`good`"][2] == "10 %"  # 2.003 points of 20
    assert table["`good`"][0] == "61.00"
    assert table["`good`"][6:] == ["0.667", "812 MiB resident"]  # mean and maximum over seeds
    assert table["`same`"][:3] == ["40.00", "41.00 ± 0.00", "-"]  # below the baseline: there is no gap
    assert "says no more than the verdict allows" in text
    good = next(run for run in to_dict(trial)["runs"] if run["variant"] == "good")
    assert (good["teacher"], good["peak_mib"]) == ({"AP": 0.61}, {"resident": 812.4})
