# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizer groups: the official assignment, and patterns that do not do what they look like."""

import logging
import re
from typing import Any

import pytest
import torch
from torch import nn

from golden_cases import load_json
from isdfine.core.errors import ConfigError
from isdfine.optim.param_groups import SGD, Adam, AdamW


def skeleton(variant: str) -> nn.Module:
    """A tree of modules with the parameters of an official model, without memory (meta device)."""
    keys = load_json(f"dfine_{variant}_keys.json")
    shared = {alias for names in keys["shared_parameters"] for alias in names[1:]}
    not_parameters = set(keys["buffers"]) | shared
    frozen = set(keys["frozen_parameters"])
    root = nn.Module()
    for name, entry in keys["state_dict"].items():
        if name in not_parameters:
            continue
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        dtype = getattr(torch, entry["dtype"])
        value = torch.empty(entry["shape"], device="meta", dtype=dtype)
        owner.register_parameter(leaf, nn.Parameter(value, requires_grad=name not in frozen))
    return root


@pytest.mark.parametrize("variant", list("nsmlx"))
def test_official_groups(variant: str) -> None:
    golden = load_json("optim_groups.json")[variant]
    section = load_json("configs.json")["variants"][f"{variant}_coco"]["optimizer"]
    optimizer = AdamW(
        skeleton(variant),
        section["groups"],
        lr=section["lr"],
        betas=section["betas"],
        weight_decay=section["weight_decay"],
    )
    assert len(optimizer.param_groups) == len(golden["groups"])
    for group, expected in zip(optimizer.param_groups, golden["groups"]):
        assert sorted(group["param_names"]) == sorted(expected["params"])
        assert sum(parameter.numel() for parameter in group["params"]) == expected["numel"]
        assert group["name"] == (expected["pattern"] or "rest")
        for option in ("lr", "weight_decay", "eps"):
            assert group[option] == expected[option]
        assert list(group["betas"]) == expected["betas"]


def tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_first_pattern_wins_and_the_rest_comes_last(caplog: pytest.LogCaptureFixture) -> None:
    entries: list[dict[str, Any]] = [{"params": r"^0\.", "lr": 0.5}, {"params": "bias", "weight_decay": 0.0}]
    with caplog.at_level(logging.WARNING):
        optimizer = SGD(tiny(), entries, lr=0.1, weight_decay=0.01)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "0.bias"],
        ["1.bias", "2.bias"],
        ["1.weight", "2.weight"],
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01]
    assert "optimizer.params[1]: 1 of the 3 parameters that 'bias' matches belong to an earlier" in caplog.text


@pytest.mark.parametrize(
    ("variant", "place", "said"),
    [
        (
            "n",
            0,
            r"\(\?!\.\*norm\|bn\) looks for norm anywhere in a name, but for bn only at the start of it; "
            r"84 parameters \(such as backbone.stem.stem1.bn.weight\) thereby belong to this group "
            r"\(lr 0.0004, weight_decay 0.0001\). To mean all of them anywhere, write \(\?!\.\*\(\?:norm\|bn\)\)",
        ),
        (
            "n",
            1,
            r"\(\?=\.\*norm\|bn\) looks for norm .*; which affects none of the parameters left here. .* write \(\?=",
        ),
        ("l", 0, r"looks for norm .*; which affects none"),
    ],
)
def test_a_slip_is_said_and_kept(variant: str, place: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    section = load_json("configs.json")["variants"][f"{variant}_coco"]["optimizer"]
    with caplog.at_level(logging.INFO):
        AdamW(skeleton(variant), section["groups"], lr=section["lr"], weight_decay=section["weight_decay"])
    lines = [
        message
        for message in caplog.messages
        if message.startswith(f"optimizer.params[{place}]") and "as written" in message
    ]
    assert len(lines) == 1
    assert re.search(said, lines[0])
    assert all(record.levelno == logging.INFO for record in caplog.records if "as written" in record.message)


def test_what_a_slip_leaves_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "a": nn.ModuleDict({"bn": nn.BatchNorm1d(2)})})
    with caplog.at_level(logging.WARNING):
        optimizer = SGD(model, [{"params": "^(?=.*norm|bn)", "weight_decay": 0.0}], lr=0.1, weight_decay=0.01)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert (
        "2 parameters (such as a.bn.weight) thereby do not belong to this group (lr 0.1, weight_decay 0)" in caplog.text
    )


def test_empty_group_is_kept_named_and_can_step(caplog: pytest.LogCaptureFixture) -> None:
    for options in ({"foreach": True}, {"foreach": False}, {"fused": True}):
        model = tiny()
        with caplog.at_level(logging.WARNING):
            optimizer = AdamW(model, [{"params": "nothing_like_it", "lr": 1.0}], lr=0.1, **options)
        assert [len(group["params"]) for group in optimizer.param_groups] == [0, 6]
        assert "the pattern 'nothing_like_it' matches no trainable parameter" in caplog.text
        before = model[0].weight.clone()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
        again = AdamW(model, [{"params": "nothing_like_it", "lr": 1.0}], lr=0.1, **options)
        again.load_state_dict(optimizer.state_dict())
        assert not torch.equal(model[0].weight, before)
        assert [group["name"] for group in again.param_groups] == ["nothing_like_it", "rest"]


def test_frozen_parameters_stay_out_and_no_entries_make_one_group() -> None:
    model = tiny()
    model[0].requires_grad_(False)
    optimizer = Adam(model, lr=0.1)
    assert [group["param_names"] for group in optimizer.param_groups] == [["1.weight", "1.bias", "2.weight", "2.bias"]]


def test_bad_entries() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.params\[0\].params: '\(oops' is not a regular expression"):
        AdamW(tiny(), [{"params": "(oops"}], lr=0.1)
    with pytest.raises(ConfigError, match=r"optimizer.params\[0\].weight_decai: .* did you mean weight_decay\?"):
        AdamW(tiny(), [{"params": "bias", "weight_decai": 0.0}], lr=0.1)
    with pytest.raises(ConfigError, match=r"optimizer.params\[0\].zzz: .* known are lr, betas"):
        AdamW(tiny(), [{"params": "bias", "zzz": 0.0}], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer.params\[1\].lr is -0.1: give 0 or more"):
        AdamW(tiny(), [{"params": "bias"}, {"params": "weight", "lr": -0.1}], lr=0.1)
    for value in ("fast", float("nan"), [0.1], None):
        with pytest.raises(ConfigError, match=r"optimizer.params\[0\].lr: expected a number, found "):
            AdamW(tiny(), [{"params": "bias", "lr": value}], lr=0.1)
    with pytest.raises(ConfigError, match="give a mapping with a regular expression as 'params'"):
        AdamW(tiny(), [{"lr": 0.1}], lr=0.1)
    with pytest.raises(ConfigError, match="has no trainable parameter: check the freeze options"):
        AdamW(tiny().requires_grad_(False), lr=0.1)
    with pytest.raises(ConfigError, match=r"optimizer.betas is \[0.9\]: give two numbers"):
        AdamW(tiny(), lr=0.1, betas=[0.9])  # type: ignore[arg-type]
