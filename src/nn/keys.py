# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose names are not those of the modules: a table at the boundary of the state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn


def before_load(module: nn.Module, hook: Callable[..., None]) -> None:
    """Let ``hook(module, state, prefix, ...)`` change the state dict that ``load_state_dict`` is about to read."""
    module.register_load_state_dict_pre_hook(hook)


@dataclass(frozen=True)
class KeyTable:
    """Parts of keys as the modules have them, by the same parts in checkpoints.

    Both are dotted and match whole names, wherever below the module they stand: ``{"aggregation.0": "squeeze"}`` calls
    ``blocks.0.aggregation.0.weight`` ``blocks.0.squeeze.weight``.
    """

    parts: Mapping[str, str]

    def to_checkpoint(self, key: str) -> str:
        """Name in a checkpoint of what the modules call ``key``."""
        return _replaced(key, self.parts)

    def to_checkpoints(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        """(in a checkpoint, in the modules) of all keys, in the order of the modules."""
        return [(self.to_checkpoint(key), key) for key in keys]

    def to_modules(self, key: str) -> str:
        """Name in the modules of what a checkpoint calls ``key``; a name of the modules' own stays."""
        return _replaced(key, {stored: name for name, stored in self.parts.items()})

    def all_modules(self, key: str) -> list[str]:
        """:meth:`to_modules`, as :class:`PartTable` has it."""
        return [self.to_modules(key)]


@dataclass(frozen=True)
class PartTable:
    """Beginnings of keys in checkpoints and in the modules, in the order of the checkpoints.

    A part of the modules may stand there twice: it is written under both names, and read from either. So may a part of
    the checkpoints, where two modules share it: it is read into both.
    """

    rows: tuple[tuple[str, str], ...]
    """(in checkpoints, in the modules), both dotted; the first row that fits counts."""

    def to_checkpoints(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        """(in a checkpoint, in the modules) of all keys, in the order of the rows; what no row knows keeps its name
        and comes last."""
        pairs = [(stored + key[len(name) :], key) for stored, name in self.rows for key in keys if _begins(key, name)]
        known = {key for _, key in pairs}
        return pairs + [(key, key) for key in keys if key not in known]

    def to_modules(self, key: str) -> str:
        """Name in the modules of what a checkpoint calls ``key``; a name of the modules' own stays."""
        return self.all_modules(key)[0]

    def all_modules(self, key: str) -> list[str]:
        """:meth:`to_modules` with the names of all modules that share it."""
        fits = [(stored, name) for stored, name in self.rows if _begins(key, stored)]
        return [name + key[len(stored) :] for stored, name in fits if stored == fits[0][0]] or [key]


def use_table(module: nn.Module, table: KeyTable | PartTable) -> None:
    """Let ``state_dict`` write and ``load_state_dict`` read the table's names, in its order, below ``module``."""
    module.register_state_dict_post_hook(partial(_write, table))
    before_load(module, partial(_read, table))


def leave_out(module: nn.Module, *buffers: str) -> None:
    """Keep buffers of these names, wherever below ``module``, out of its state dict: what it makes for itself."""
    for part in module.modules():
        for name in [name for name in buffers if name in part._buffers]:
            part.register_buffer(name, part._buffers.pop(name), persistent=False)


def _write(
    table: KeyTable | PartTable, module: nn.Module, state: dict[str, Any], prefix: str, metadata: object
) -> None:
    own = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
    state.update((prefix + stored, own[name]) for stored, name in table.to_checkpoints(list(own)))


def _read(table: KeyTable | PartTable, module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for key in list(state):
        value = state.pop(key)
        own = table.all_modules(key[len(prefix) :]) if key.startswith(prefix) else None
        state.update({key: value} if own is None else {prefix + name: value for name in own})


def _begins(key: str, part: str) -> bool:
    return key == part or key.startswith(f"{part}.")


def _replaced(key: str, parts: Mapping[str, str]) -> str:
    dotted = f".{key}."
    for old, new in parts.items():
        dotted = dotted.replace(f".{old}.", f".{new}.")
    return dotted[1:-1]
