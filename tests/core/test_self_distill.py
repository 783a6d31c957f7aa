# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The key ``self_distill`` in a config is answered with our way to say the same, which loads."""

import re
from pathlib import Path

import pytest

import isdfine
from isdfine import components
from isdfine.core.config.self_distill import instead
from isdfine.core.errors import ConfigError

assert components


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{}", "[{type: GOLSD}]"),
        ("~", "[{type: GOLSD}]"),
        ("{box: {scheme: go_lsd, T: 2.5}}", "[{type: GOLSD, temperature: 2.5}]"),
        ("{box: {scheme: off}}", "[]"),
        ("{box: {scheme: 'off'}, attention: {direction: shallow_to_deep}}",
         "[{type: AttentionDistillation, direction: shallow_to_deep}]"),
        ("{box: {scheme: inter_layer, direction: shallow_to_deep, lambda_inter: 0.5, logits_residual_detach: true}}",
         "[{type: InterLayerDistillation, direction: shallow_to_deep, weight: 0.5, detach_chain: true}]"),
        ("{box: {scheme: inter_layer, span: 2}, attention: {tau: 2, lambda_attn: 0.3}}",
         "[{type: InterLayerDistillation, span: 2}, {type: AttentionDistillation, weight: 0.3, temperature: 2}]"),
        ("{box: {scheme: inter_layer, class_kd: 0.25}}", "[{type: InterLayerDistillation, class_weight: 0.25}]"),
    ],
)  # fmt: skip
def test_the_equivalent_list_is_shown_and_loads(section: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text(f"seed: 1\nself_distill: {section}\n")
    message = rf"run.yml:2: self_distill: no such top-level key; write distillers: {re.escape(expected)}$"
    with pytest.raises(ConfigError, match=message):
        isdfine.load_config(file)
    file.write_text(f"distillers: {expected}\n")
    isdfine.load_config(file)


def test_other_content_is_answered_too() -> None:
    assert instead("go_lsd") == "write distillers: [{type: GOLSD}]"
    assert instead({"box": "inter_layer"}) == "write distillers: [{type: GOLSD}]"
