# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Putting config trees on top of each other: files, their includes, overrides, and keys that stand for many."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .node import MAX_DEPTH, MAX_VALUES, Node, VainNull, locate, parse_yaml, read_yaml
from .shipped import find_config, nearest_config

INCLUDE = "__include__"
MAX_FILES = 100
"""Files of a config, each counted as often as it is included: the official ones have up to ten."""

EPOCHS = "epoches"
RENAMED = {"epochs": EPOCHS, "log_step": "print_freq", "checkpoint_step": "checkpoint_freq"}
"""Other spellings of top-level keys."""
_OF_EVERY_FORMAT = ("transforms",)

Replaced = list[tuple[Node, Node]]
"""Components that were replaced by ones of another ``type``: the earlier mapping and the later one."""


def merge(earlier: Node, later: Node, replaced: Replaced | None = None) -> Node:
    """``later`` on top of ``earlier``.

    Mappings merge key by key; anything else is replaced. Two mappings that both name a ``type`` and disagree describe
    different components, so the later one replaces the earlier instead of inheriting its arguments, save the
    ``transforms`` of data sets, which do not depend on the format; ``replaced`` collects such pairs.
    """
    old, new = earlier.value, later.value
    if not isinstance(old, dict) or not isinstance(new, dict):
        return later
    if "type" in old and "type" in new and old["type"].value != new["type"].value:
        if replaced is not None:
            replaced.append((earlier, later))
        old = {name: old[name] for name in _OF_EVERY_FORMAT if name in old}
    both = {name: merge(old[name], child, replaced) if name in old else _fresh(child) for name, child in new.items()}
    merged = {**old, **both}
    return Node(merged, later.origin, later.key)


def _fresh(child: Node) -> Node:
    """A later entry that no earlier one is below: as null it takes nothing away."""
    return VainNull(None, child.origin, child.key) if child.value is None else child


def read_tree(
    path: str | Path,
    replaced: Replaced | None = None,
    *,
    _from: str = "",
    _open: tuple[Path, ...] = (),
    _read: list[int] | None = None,
) -> Node:
    """One YAML file with everything it includes; its own keys win over its includes, later includes over earlier ones.

    Args:
        path: the file.
        replaced: collects components that a later file replaces by one of another type.

    Raises:
        ConfigError: missing file, unreadable YAML, a root that is not a mapping, a cycle of includes, or more than
            ``MAX_FILES`` files or ``MAX_VALUES`` values.
    """
    path, read = Path(path), [] if _read is None else _read  # values of every file so far
    shown = _shown(path)
    if path.suffix == ".py":
        raise ConfigError(
            f"{shown}: a Python config, as mmdetection, detrex and detectron2 have them: only YAML is read here; start "
            "from a file of configs/dfine and set what differs with -u"
        )
    try:
        own = read_yaml(path, shown)
    except ConfigError as error:
        near = None if path.exists() else nearest_config(path)
        others = f"; the package has {near}" if near else ""
        place = f" (included at {_from})" if _from else ""
        raise ConfigError(f"{error}{others}{place}") from error
    real = path.resolve()
    if real in _open:
        chain = " -> ".join(_shown(file) for file in (*_open, real))
        raise ConfigError(f"{_from}: {INCLUDE}: the files include each other: {chain}")
    read.append(sum(1 for _ in own.walk()))
    if len(read) > MAX_FILES or sum(read) > MAX_VALUES:
        what = f"{MAX_FILES} files" if len(read) > MAX_FILES else f"{MAX_VALUES} values"
        raise ConfigError(f"{_from}: {INCLUDE}: more than {what} with all that is included: include less")
    if own.value is None:
        own = Node({}, own.origin, "")
    if not isinstance(own.value, dict):
        kind, place = type(own.value).__name__, f" (included at {_from})" if _from else ""
        raise ConfigError(f"{own.origin}: a config file must hold `key: value` lines, found a {kind}{place}")
    below = _renamed(Node({name: child for name, child in own.value.items() if name != INCLUDE}, own.origin, ""))
    tree = Node({}, own.origin, "")
    for entry in _included(own):
        included = read_tree(
            find_config(entry.value, path.parent), replaced, _from=entry.origin, _open=(*_open, real), _read=read
        )
        tree = with_layer(tree, merge(tree, included, replaced))
    return with_layer(tree, merge(tree, below, replaced))


def _renamed(own: Node) -> Node:
    """One file's top level with our spelling of its keys.

    Raises:
        ConfigError: a setting stands there under both names.
    """
    children = {}
    for name, child in own.value.items():
        if (ours := RENAMED.get(name)) is not None and ours in own.value:
            raise ConfigError(f"{child.origin}: {name}: the same setting as {ours}, which is there too: keep one")
        children[ours or name] = child if ours is None else replace(child, key=ours)
    return replace(own, value=children)


def _included(own: Node) -> list[Node]:
    entry = own.value.get(INCLUDE)
    if entry is None or entry.value is None:
        return []
    entries = entry.value if isinstance(entry.value, list) else [entry]
    for entry in entries:
        if not isinstance(entry.value, str):
            kind = type(entry.value).__name__
            raise ConfigError(f"{entry.origin}: {INCLUDE}: expected a file name or a list of them, found a {kind}")
        if not entry.value.endswith((".yml", ".yaml")):  # messages about another file would show what is in it
            raise ConfigError(f"{entry.origin}: {INCLUDE}: {entry.value!r} is no YAML file (.yml, .yaml)")
    return list(entries)


def _shown(path: Path) -> str:
    """Relative to the working folder where that is shorter: places are read by people."""
    text = os.path.normpath(path)
    relative = os.path.relpath(text)
    return min(text, relative, key=len)


def apply_overrides(tree: Node, overrides: Iterable[str], replaced: Replaced | None = None) -> Node:
    """Command-line overrides ``a.b.c=value`` on top of ``tree``, in order; the value is YAML.

    Args:
        replaced: collects components that get another type.

    Raises:
        ConfigError: no ``=``, an empty key, a value that is not YAML, or a key that leads through a scalar or past a
            list's end. The message holds the override's text.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        origin = f"override {text if len(text) <= 80 else text[:77] + '...'!r}"
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{origin}: expected key.path=value, for example optimizer.lr=1e-4")
        if len(parts) > MAX_DEPTH:
            raise ConfigError(f"{origin}: a key of {len(parts)} parts: at most {MAX_DEPTH}")
        parts[0] = RENAMED.get(parts[0], parts[0])
        tree = put(tree, parts, parse_yaml(value, origin, key=".".join(parts), origin=origin), replaced)
    return tree


def apply_values(tree: Node, values: dict[str, Any], origin: str) -> Node:
    """The same with Python values by dotted key."""
    for key, value in values.items():
        tree = put(tree, key.split("."), locate(value, origin, key))
    return tree


def put(tree: Node, parts: list[str], value: Node, replaced: Replaced | None = None) -> Node:
    """``tree`` with ``value`` merged in at the path ``parts``; missing mappings on the way are made."""
    if not parts:
        return merge(tree, value, replaced)
    head, rest = parts[0], parts[1:]
    if isinstance(tree.value, list):
        if not head.isdigit() or int(head) >= len(tree.value):
            length = f"{tree.key} is a list of {len(tree.value)}"
            raise ConfigError(f"{value.origin}: {length}, so {head!r} must be an index below {len(tree.value)}")
        index = int(head)
        changed = put(tree.value[index], rest, value, replaced)
        return Node([*tree.value[:index], changed, *tree.value[index + 1 :]], tree.origin, tree.key)
    if tree.value is not None and not isinstance(tree.value, dict):
        raise ConfigError(f"{value.origin}: {tree.key} is {tree.value!r} ({tree.origin}), which has no key {head!r}")
    children = tree.value or {}
    name = next((known for known in children if str(known) == head), head)
    old = children.get(name, Node(None, value.origin, tree.at(head)))
    below = put(old, rest, value, replaced) if rest or name in children else _fresh(value)
    new = Node({**children, name: below}, tree.origin, tree.key)
    if replaced is not None and parts == ["type"] and isinstance(old.value, str) and old.value != value.value:
        replaced.append((tree, replace(new, origin=value.origin)))
    return new


INPUT_SIZE = "input_size"
_STACKING = ("BatchImageCollateFunction", "BatchImageCollateFuncion", "default_collate_fn")
"""Names of the collate function that ``base_size`` belongs to: RT-DETR's two repositories have their own."""

_SCHEDULE = re.compile(
    r"(?:^|\.)(?:milestones|T_max|flat_epochs|no_aug_epochs|stop_epoch|policy\.epoch)$|^freeze\.[^.]+\.epochs$"
)
"""Dotted keys that count epochs from the start or to the end of a run."""
_STRIDE = 32
_OTHER_SIZES = ("ResizeShortestEdge", "RandomShortestSize", "ResizeToFit", "RandomCrop", "RandomSizeCrop", "PadToSize")
"""Ops that decide the size of images in another way than ``Resize``."""


@dataclass(frozen=True)
class Moved(Node):
    """A value of the schedule that follows the number of epochs."""

    was: Any
    """What the file below says."""


def with_layer(earlier: Node, merged: Node, *, keep_schedule: bool = False) -> Node:
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
        merged = changed(merged, lambda node: _moved(node, earlier, merged) if id(node) in kept else node)
    given = merged.value.get(INPUT_SIZE)
    if given is None or given.value is None or given is earlier.value.get(INPUT_SIZE):
        return merged
    size, sizes = _size(given), {id(node) for node in _sizes(merged)} & kept
    return changed(merged, lambda node: locate(size, given.origin, node.key) if id(node) in sizes else node)


def settle(tree: Node) -> Node:
    """The finished tree with ``input_size`` carried out everywhere, and without that key.

    Raises:
        ConfigError: a size that says something else, or a loader whose images get their size in another way.
    """
    node = tree.value.get(INPUT_SIZE)
    if node is None:
        return tree
    tree = Node({name: child for name, child in tree.value.items() if name != INPUT_SIZE}, tree.origin, tree.key)
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


def with_sizes_of_batches(tree: Node) -> Node:
    """The finished tree in which the sizes of ``RTDETR.multi_scale`` stand where they are drawn from: in the collate
    function.

    RT-DETR's first repository resizes batches in the model, to sizes in the model's section.
    """
    section, loader = tree.value.get("RTDETR"), tree.value.get("train_dataloader")
    if section is None or not isinstance(section.value, dict) or "multi_scale" not in section.value:
        return tree
    scales = section.value["multi_scale"]
    rest = {name: child for name, child in section.value.items() if name != "multi_scale"}
    top = {**tree.value, "RTDETR": Node(rest, section.origin, section.key)}
    if loader is not None and isinstance(loader.value, dict):
        collate = loader.value.get("collate_fn") or Node("BatchImageCollateFunction", scales.origin, "")
        kind = {"type": collate} if isinstance(collate.value, str) else collate.value
        given = Node({"scales": scales, **kind}, collate.origin, "train_dataloader.collate_fn")
        top["train_dataloader"] = Node({**loader.value, "collate_fn": given}, loader.origin, loader.key)
    return Node(top, tree.origin, tree.key)


def describe_moved(tree: Node) -> str | None:
    """What follows the number of epochs, in one line; None where nothing does."""
    moved = [node for node in tree.walk() if isinstance(node, Moved)]
    if not moved:
        return None
    epochs = tree.value[EPOCHS]
    listed = ", ".join(f"{node.key} {node.was} -> {node.plain()}" for node in moved)
    moves = f"{epochs.origin}: {EPOCHS} {epochs.value} moves the schedule in proportion"
    return f"{moves}: {listed} (a key that is given stays)"


def _moved(node: Node, earlier: Node, merged: Node) -> Node:
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


def _sizes(node: Node) -> Iterator[Node]:
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


def _size(node: Node) -> list[int]:
    """Value of ``input_size``: [height, width], or one side of a square."""
    size = _pair(node.plain())
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if not whole or any(side < _STRIDE or side % _STRIDE for side in size):
        raise ConfigError(
            f"{node.origin}: {INPUT_SIZE}: expected [height, width] in multiples of {_STRIDE}, such as [320, 320], "
            f"found {node.plain()!r}"
        )
    return [int(side) for side in size]


def _check_ops(loader: Node, given: Node) -> None:
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


def _with_missing_sizes(tree: Node, given: Node, size: list[int]) -> Node:
    """The tree with the sizes that no file gives: their defaults are others."""

    def with_base_size(node: Node) -> Node:
        if node.key != "train_dataloader.collate_fn" or not isinstance(node.value, dict) or "base_size" in node.value:
            return node
        kind = node.value.get("type")
        if kind is None or kind.value not in _STACKING:
            return node
        children = {**node.value, "base_size": locate(size, given.origin, node.at("base_size"))}
        return Node(children, node.origin, node.key)

    evaluated = locate(size, given.origin, "eval_spatial_size")
    return changed(Node({**tree.value, "eval_spatial_size": evaluated}, tree.origin, tree.key), with_base_size)


def changed(node: Node, change: Callable[[Node], Node]) -> Node:
    """The tree with ``change`` applied from the leaves' side; what it leaves alone stays the same object."""
    new = change(node)
    if new is not node or not isinstance(node.value, (dict, list)):
        return new
    if isinstance(node.value, dict):
        children = {name: changed(child, change) for name, child in node.value.items()}
        same = all(child is node.value[name] for name, child in children.items())
        return node if same else Node(children, node.origin, node.key)
    items = [changed(child, change) for child in node.value]
    same = all(new is old for new, old in zip(items, node.value))
    return node if same else Node(items, node.origin, node.key)
