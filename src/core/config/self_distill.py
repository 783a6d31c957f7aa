# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A ``self_distill`` section, as early drafts had it, said as the ``distillers`` list that means the same."""

from __future__ import annotations

import json
from typing import Any

KEY = "self_distill"

_BOX = {
    "direction": "direction",
    "span": "span",
    "lambda_inter": "weight",
    "weight": "weight",
    "T": "temperature",
    "temperature": "temperature",
    "match_weight": "match_weight",
    "logits_residual_detach": "detach_chain",
    "class_kd": "class_weight",
}
_ATTENTION = {
    "direction": "direction",
    "span": "span",
    "lambda_attn": "weight",
    "weight": "weight",
    "tau": "temperature",
    "omega_q": "row_weight",
    "queries": "queries",
    "query_subsample": "query_subsample",
    "loss": "loss",
}
_GO_LSD = ("weight", "temperature")


def instead(section: Any) -> str:
    """What to write in place of a ``self_distill`` section with this (plain) content, for a message.

    Only arguments that exist under both are carried over.
    """
    section = section if isinstance(section, dict) else {}
    box, attention = section.get("box"), section.get("attention")
    box = box if isinstance(box, dict) else {}
    components = []
    scheme = box.get("scheme", "go_lsd")
    if scheme == "inter_layer":
        components.append(_component("InterLayerDistillation", box, _BOX))
    elif scheme not in ("off", False):  # YAML 1.1 reads a bare off as False
        components.append(_component("GOLSD", box, {old: new for old, new in _BOX.items() if new in _GO_LSD}))
    if attention:
        components.append(_component("AttentionDistillation", attention, _ATTENTION))
    return f"write distillers: [{', '.join(components)}]"


def _component(name: str, given: Any, renamed: dict[str, str]) -> str:
    given = given if isinstance(given, dict) else {}
    arguments = {new: given[old] for old, new in renamed.items() if given.get(old) is not None}
    said = [f"type: {name}", *(f"{key}: {_scalar(value)}" for key, value in arguments.items())]
    return f"{{{', '.join(said)}}}"


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
