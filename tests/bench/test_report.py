# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from isdfine.bench.report import NETWORK, Measurement
from isdfine.bench.subject import IN_GRAPH, Facts
from isdfine.bench.timing import Timing, TimingPlan
from isdfine.core.command import write_json
from isdfine.deploy.preprocess import Recipe


def a_run() -> Measurement:
    """Two models, the second a fifth slower in every round; no small objects in the data."""
    facts = Facts("m.onnx", "tests", "fp32", (32, 64), "of the file", IN_GRAPH, Recipe.squash((32, 64)))
    fast = Timing(tuple((seconds, seconds) for seconds in (0.010, 0.030, 0.010)))
    slow = Timing(tuple(tuple(1.2 * second for second in turn) for turn in fast.rounds))
    metrics = {"AP": 0.5, "APs": float("nan")}
    return Measurement(
        {"a": fast, "b": slow}, {"a": facts, "b": facts}, TimingPlan(3, 2, 1), 1, NETWORK, {"cpu": "some"},
        {"a": metrics, "b": metrics},
    )  # fmt: skip


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    file = tmp_path / "new folder" / "found.json"
    write_json(file, a_run().plain())
    content = json.loads(file.read_text(), parse_constant=refuse)
    second = content["models"]["b"]
    assert second["coco"] == {"AP": 0.5, "APs": None}
    assert second["time_over_a"]["median"] == pytest.approx(1.2)
    assert second["seconds_by_round"] == [pytest.approx([0.012, 0.012]), pytest.approx([0.036, 0.036]), [0.012, 0.012]]
    assert (second["size"], second["resize"], second["summary"]["calls"]) == ([32, 64], "squash", 6)
    assert content["plan"] == {"rounds": 3, "repeats": 2, "warmup": 1, "seed": 0}
    assert content["machine"] == {"cpu": "some"}


def test_the_table() -> None:
    heading, first, second = a_run().table().splitlines()
    assert heading.split()[-6:] == ["images/s", "time", "/", "a", "quartiles", "AP"]
    assert first.split() == ["a", "tests", "fp32", "32x64", "10.00", "30.00", "30.00", "150.0", "100.0", "1", "50.00"]
    assert second.split()[-6:] == ["83.3", "1.200", "1.200", "..", "1.200", "50.00"]
