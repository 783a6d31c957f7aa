# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that stand for many: ``epoches`` moves the schedule of the files below it, ``input_size`` sets every image size.

A layer is a file's own keys, an included file, or all overrides together; each goes on top of what came before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError
from .located import Located, locate

EPOCHS = "epoches"
INPUT_SIZE = "input_size"

_SCHEDULE = re.compile(
    r"(?:^|\.)(?:milestones|T_max|flat_epochs|no_aug_epochs|stop_epoch|policy\.epoch)$|^freeze\.[^.]+\.epochs$"
)
"""Dotted keys that count epochs from the start or to the end of a run."""
_STRIDE = 32
_OTHER_SIZES = ("ResizeShortestEdge", "ResizeToFit", "RandomCrop", "PadToSize")
"""Ops that decide the size of images in another way than ``Resize``."""


@dataclass(frozen=True)
class Moved(Located):
    """A value of the schedule that follows the number of epochs."""

    was: Any
    """What the file below says."""


def with_layer(earlier: Located, merged: Located, *, keep_schedule: bool = False) -> Located:
    """What a later layer's epochs and input size mean for the keys that it does not give itself.

    Args:
        earlier: everything below the layer.
        merged: the layer on top of it.
        keep_schedule: leave the schedule where it is, whatever the number of epochs.

    Raises:
        ConfigError: an input size that is no (height, width).
    """
    kept = {id(node) for node in earlier.walk()}
    if not keep_schedule:
        merged = _changed(merged, lambda node: _moved(node, earlier, merged) if id(node) in kept else node)
    given = merged.value.get(INPUT_SIZE)
    if given is None or given.value is None or given is earlier.value.get(INPUT_SIZE):
        return merged
    size, sizes = _size(given), {id(node) for node in _sizes(merged)} & kept
    return _changed(merged, lambda node: locate(size, given.origin, node.key) if id(node) in sizes else node)


def settle(tree: Located) -> Located:
    """The finished tree with ``input_size`` carried out everywhere, and without that key.

    Raises:
        ConfigError: a size that says something else, or a loader whose images get their size in another way.
    """
    node = tree.value.get(INPUT_SIZE)
    if node is None:
        return tree
    tree = Located({name: child for name, child in tree.value.items() if name != INPUT_SIZE}, tree.origin, tree.key)
    if node.value is None:
        return tree
    size = _size(node)
    for loader in ("train_dataloader", "val_dataloader"):
        if loader in tree.value and isinstance(tree.value[loader].value, dict):
            _check_ops(tree.value[loader], node)
    for other in _sizes(tree):
        if _pair(other.plain()) != size:
            raise ConfigError(
                f"{other.origin}: {other.key} is {other.plain()}, but {INPUT_SIZE} is {size} ({node.origin}): "
                "one of the two must go"
            )
    return _with_missing_sizes(tree, node, size)


def describe_moved(tree: Located) -> str | None:
    """What follows the number of epochs, in one line; None where nothing does."""
    moved = [node for node in tree.walk() if isinstance(node, Moved)]
    if not moved:
        return None
    epochs = tree.value[EPOCHS]
    listed = ", ".join(f"{node.key} {node.was} -> {node.plain()}" for node in moved)
    moves = f"{epochs.origin}: {EPOCHS} {epochs.value} moves the schedule in proportion"
    return f"{moves}: {listed} (a key that is given stays)"


def _moved(node: Located, earlier: Located, merged: Located) -> Located:
    """A value of the schedule in proportion to the epochs that a later layer sets; other values as they are."""
    before, after = (layer.value.get(EPOCHS) for layer in (earlier, merged))
    if before is None or after is None or not _SCHEDULE.search(node.key):
        return node
    old, new = before.value, after.value
    if type(old) is not int or type(new) is not int or old < 1 or new < 1:
        return node

    def scaled(epoch: Any) -> Any:
        if type(epoch) is not int or epoch <= 0 or epoch > max(old, new):  # no epoch, or beyond the end before and now
            return epoch
        moved = max(1, round(epoch * new / old))
        return min(moved, max(1, new - 1)) if epoch < old else moved  # what was inside the run stays inside

    plain = node.plain()
    moved = [scaled(epoch) for epoch in plain] if isinstance(plain, list) else scaled(plain)
    if moved == plain:
        return node
    return Moved(locate(moved, after.origin, node.key).value, after.origin, node.key, plain)


def _sizes(node: Located) -> Iterator[Located]:
    """Every size of images that a tree gives: of ``Resize``, ``base_size`` and ``eval_spatial_size``."""
    if isinstance(node.value, dict):
        kind = node.value.get("type")
        for name, child in node.value.items():
            is_size = name in ("base_size", "eval_spatial_size")
            is_size |= name == "size" and (node.key == "Resize" or (kind is not None and kind.value == "Resize"))
            if not is_size:
                yield from _sizes(child)
            elif child.value is not None:
                yield child
    elif isinstance(node.value, list):
        for child in node.value:
            yield from _sizes(child)


def _pair(size: Any) -> Any:
    """A side as (height, width); anything else as it is."""
    return [size, size] if type(size) is int else size


def _size(node: Located) -> list[int]:
    """Value of ``input_size``: [height, width], or one side of a square."""
    size = _pair(node.plain())
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if not whole or any(side < _STRIDE or side % _STRIDE for side in size):
        raise ConfigError(
            f"{node.origin}: {INPUT_SIZE}: expected [height, width] in multiples of {_STRIDE}, such as [320, 320], "
            f"found {node.plain()!r}"
        )
    return [int(side) for side in size]


def _check_ops(loader: Located, given: Located) -> None:
    """Refuse an input size for a loader whose images it would not reach."""
    names = [
        node.value["type"].value for node in loader.walk() if isinstance(node.value, dict) and "type" in node.value
    ]
    other = next((name for name in names if name in _OTHER_SIZES), None)
    if other is None and "Resize" in names:
        return
    why = f"has {other}, which sizes images in its own way" if other else "has no Resize"
    raise ConfigError(
        f"{given.origin}: {INPUT_SIZE} sets the size of Resize, but {loader.key} ({loader.origin}) {why}: set its ops "
        "and eval_spatial_size one by one, and leave this key out"
    )


def _with_missing_sizes(tree: Located, given: Located, size: list[int]) -> Located:
    """The tree with the sizes that no file gives: their defaults are others."""

    def with_base_size(node: Located) -> Located:
        if node.key != "train_dataloader.collate_fn" or not isinstance(node.value, dict) or "base_size" in node.value:
            return node
        kind = node.value.get("type")
        if kind is None or kind.value != "BatchImageCollateFunction":
            return node
        children = {**node.value, "base_size": locate(size, given.origin, node.at("base_size"))}
        return Located(children, node.origin, node.key)

    evaluated = locate(size, given.origin, "eval_spatial_size")
    return _changed(Located({**tree.value, "eval_spatial_size": evaluated}, tree.origin, tree.key), with_base_size)


def _changed(node: Located, change: Callable[[Located], Located]) -> Located:
    """The tree with ``change`` applied from the leaves' side; what it leaves alone stays the same object."""
    new = change(node)
    if new is not node or not isinstance(node.value, (dict, list)):
        return new
    if isinstance(node.value, dict):
        children = {name: _changed(child, change) for name, child in node.value.items()}
        same = all(child is node.value[name] for name, child in children.items())
        return node if same else Located(children, node.origin, node.key)
    items = [_changed(child, change) for child in node.value]
    same = all(new is old for new, old in zip(items, node.value))
    return node if same else Located(items, node.origin, node.key)
