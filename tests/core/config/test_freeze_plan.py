# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the key ``freeze`` may say."""

import re
from pathlib import Path
from typing import Any

import pytest

import isdfine
from builders import write_micro_config
from isdfine.core.config.settings import FreezePlan, freeze_problem
from isdfine.core.errors import ConfigError


def test_lengths_in_steps_epochs_or_for_ever() -> None:
    assert FreezePlan.of(None) is None
    assert FreezePlan.of({"backbone": None}) is None
    assert FreezePlan.of({"backbone": {"steps": 7}}) == FreezePlan(steps=7, warmup=500)
    ends = [{"steps": 7}, {"epochs": 2}, {"stages": 1}, {"stages": 0, "epochs": 1, "warmup": 0}]
    plans = [FreezePlan.of({"backbone": end}) for end in ends]
    assert [plan and plan.until(10) for plan in plans] == [7, 20, None, 10]


@pytest.mark.parametrize("setting", [None, {}, {"backbone": None}, {"backbone": {"stages": 0}}])
def test_sound_settings(setting: Any) -> None:
    assert freeze_problem(setting) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("backbone", r"expected a mapping, found 'backbone': write freeze: \{backbone: \{steps: 2000\}\}"),
        ({"encoder": {"steps": 1}}, r"no part 'encoder' can be frozen"),
        ({"backbone": {"steps": 1}, "trigger": "auto"}, r"trigger is not available"),
        ({"backbone": "steps:2000"}, r"expected a mapping with steps, epochs or stages, found 'steps:2000'"),
        ({"backbone": {}}, r"expected a mapping with steps"),
        ({"backbone": {"step": 1}}, r"backbone\.step: no such key; known are steps, epochs, stages, warmup"),
        ({"backbone": {"steps": 0}}, r"backbone\.steps: expected a whole number of 1 or more, found 0"),
        ({"backbone": {"steps": 1.5}}, r"backbone\.steps: expected a whole number"),
        ({"backbone": {"stages": True}}, r"backbone\.stages: expected a whole number of 0 or more, found True"),
        ({"backbone": {"steps": 1, "epochs": 1}}, r"steps and epochs are both set: keep one"),
        ({"backbone": {"warmup": 5}}, r"say for how many steps or epochs, or how many stages"),
        ({"backbone": {"stages": 1, "warmup": 5}}, r"backbone\.warmup follows steps or epochs"),
    ],
)
def test_what_is_refused(setting: Any, message: str) -> None:
    assert re.search(message, freeze_problem(setting) or "")


def test_a_config_with_a_mistake_says_where(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    sound = isdfine.load_config(config, ["freeze.backbone.steps=3"])
    assert sound.settings.freeze == {"backbone": {"steps": 3}}
    with config.open("a") as file:
        file.write("freeze: {backbone: {step: 3}}\n")
    with pytest.raises(ConfigError, match=r"micro\.yml:\d+: freeze: backbone\.step: no such key"):
        isdfine.load_config(config)
