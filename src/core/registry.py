# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Names and classes: what a config may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T", bound=type)


class Registry:
    """Classes by the name a config uses. Filled while modules are imported, read-only from the first build on."""

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}
        self._frozen = False

    def register(self, cls: T) -> T:
        """Class decorator: make ``cls`` available to configs under its own name and return it unchanged."""
        name = cls.__name__
        if self._frozen:
            raise RuntimeError(f"{name} is registered after the first build: import its module before building")
        if name in self._classes:
            raise ValueError(f"the name {name} is taken by {self._classes[name].__module__}: rename one of the two")
        self._classes[name] = cls
        return cls

    def freeze(self) -> None:
        """Refuse further registrations: called by the first build."""
        self._frozen = True

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> type:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)


REGISTRY = Registry()
register = REGISTRY.register
