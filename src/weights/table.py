# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The table of published weights (``table.yml``)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ..core.config.layers import read_tree
from ..core.config.node import parse_yaml
from ..core.config.shipped import PREFIX, find_config
from ..data.classes import class_list

HUB = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights as their authors published them: one file, or a repository of Hugging Face with transformers' folder."""

    name: str
    source: str
    """The page that states all this."""
    licence: str
    folder: str = HUB
    """URL of what ``file`` or ``repository`` is in."""
    file: str | None = None
    repository: str | None = None
    config: str | None = None
    """The package's config of the model; None = the weights say it themselves, or are of a backbone only."""
    classes: str | None = None
    """List of class names whose order the rows of the heads have, a key of ``data.classes.BUILT_IN``."""
    sha256: str | None = None
    """Of the file, where the authors state it."""

    @property
    def url(self) -> str:
        """Where they can be got."""
        return f"{self.folder}/{self.file or self.repository}"

    def content(self) -> dict[str, Any]:
        """What a checkpoint of ours would say about itself, of the table's knowledge: ``config``, ``label_space``."""
        known: dict[str, Any] = {}
        if self.config is not None:
            known["config"] = read_tree(find_config(f"{PREFIX}{self.config}")).plain()
        if self.classes is not None:
            known["label_space"] = class_list(self.classes).to_dict()
        return known


def _read() -> dict[str, Published]:
    groups = parse_yaml(files(__package__ or __name__).joinpath("table.yml").read_text(encoding="utf-8"), "table.yml")
    return {
        name: Published(name=name, **{key: value for key, value in group.items() if key != "weights"}, **own)
        for group in groups.plain()
        for name, own in group["weights"].items()
    }


TABLE = _read()
"""Published weights by name."""
