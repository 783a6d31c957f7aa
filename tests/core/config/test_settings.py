# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import ast
import dataclasses
import inspect
import itertools

import pytest

from isdfine.core.config import settings
from isdfine.core.config.settings import RunSettings
from isdfine.core.errors import ConfigError


def test_defaults_are_valid_and_frozen() -> None:
    made = RunSettings()
    assert (made.seed, made.epoches, made.precision) == (0, 72, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 1  # type: ignore[misc]


def test_no_seed_is_seed_zero() -> None:
    assert RunSettings(seed=None).seed == 0


def test_all_problems_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        RunSettings(epoches=0, clip_max_norm=float("nan"), save_every_steps=0, resume="a.pth", tuning="b.pth")
    assert str(caught.value).splitlines() == [
        "epoches: expected 1 or more, found 0",
        "clip_max_norm: expected 0 or more, found nan",
        "save_every_steps: expected 1 or more, found 0",
        "tuning: set together with resume ('a.pth'): resume continues a run, tuning starts one; keep one",
    ]


@pytest.mark.parametrize("name", ["output_dir", "resume", "tuning"])
def test_an_empty_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a path, found an empty text$"):
        RunSettings(**{name: ""})  # type: ignore[arg-type]


def test_every_field_is_documented() -> None:
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef) and node.name == "RunSettings"
    ]
    fields = [field.name for field in dataclasses.fields(RunSettings)]
    documented = [
        node.target.id
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    ]
    assert documented == fields


def test_a_seed_beyond_64_bits_is_refused() -> None:
    assert RunSettings(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ConfigError, match=r"seed: expected a number below 2\*\*63, found 9223372036854775808"):
        RunSettings(seed=2**63)
