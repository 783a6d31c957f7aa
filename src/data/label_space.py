# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Class names, original category ids and the contiguous index between them: one object for data, models and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import DataError

_SHOWN = 100
"""Classes that a message lists before it abbreviates: COCO's 80 fit, Objects365's 365 do not."""


@dataclass(frozen=True)
class LabelSpace:
    """C classes in ascending order of their original ids; the position is the label 0..C-1 that models see.

    Raises:
        DataError: unequal lengths, or ids that are not ascending and unique.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise DataError(
                f"{len(self.names)} class names for {len(self.category_ids)} category ids: give one name per id"
            )
        if any(a >= b for a, b in zip(self.category_ids, self.category_ids[1:])):
            raise DataError(
                f"category ids {self.category_ids} are not ascending and unique: sort them, with their names"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_coco(cls, content: Mapping[str, Any], place: str = "annotations") -> LabelSpace:
        """The categories of a COCO file, whatever their order in it.

        Args:
            content: the parsed JSON; only ``categories`` is read.
            place: file name for messages.

        Raises:
            DataError: a category without integer id or name, an id or a name that occurs twice, no categories.
        """
        named: dict[int, str] = {}
        for category in content["categories"]:
            if not isinstance(category, Mapping) or type(category.get("id")) is not int or "name" not in category:
                raise DataError(f"{place}: category {category!r} needs an integer id and a name")
            number, name = category["id"], str(category["name"])
            if number in named:
                raise DataError(
                    f"{place}: category id {number} occurs twice ({named[number]!r} and {name!r}): keep one"
                )
            if name in named.values():
                first = next(one for one, known in named.items() if known == name)
                raise DataError(f"{place}: category name {name!r} occurs twice (ids {first} and {number}): rename one")
            named[number] = name
        if not named:
            raise DataError(f"{place}: the list of categories is empty: add {{id, name}} for every class")
        ids = sorted(named)
        return cls(tuple(named[one] for one in ids), tuple(ids))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints and exports; ``from_dict`` reads it back to an equal object."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """Read what ``to_dict`` wrote."""
        return cls(tuple(map(str, data["names"])), tuple(map(int, data["category_ids"])))

    @cached_property
    def _index(self) -> dict[int, int]:
        return {one: index for index, one in enumerate(self.category_ids)}

    def index_of(self, category_id: int) -> int:
        """Contiguous label of an original category id.

        Raises:
            DataError: an unknown id; the message lists the known ones.
        """
        if category_id not in self._index:
            raise DataError(f"category id {category_id} is not one of the {len(self)} known classes: {self.describe()}")
        return self._index[category_id]

    def describe(self) -> str:
        """``id=name`` of every class, abbreviated for long lists."""
        shown = [f"{one}={name}" for one, name in zip(self.category_ids[:_SHOWN], self.names)]
        return ", ".join([*shown, f"... ({len(self) - _SHOWN} more)"] if len(self) > _SHOWN else shown)


class ConfigReader(Protocol):
    """What is needed of a config: plain values by dotted key."""

    def get(self, dotted: str, default: Any = None) -> Any: ...


def num_classes_of(config: ConfigReader) -> int | None:
    """Class count of the training data that a config names (validation data where it has no training data).

    Returns:
        None where the config names no annotation file.

    Raises:
        DataError: the file is missing or not COCO JSON.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        section = config.get(f"{loader}.dataset")
        if not isinstance(section, Mapping) or not section.get("ann_file"):
            continue
        remap = section.get("remap_mscoco_category", config.get("remap_mscoco_category"))
        return len(MSCOCO if remap else _label_space_of(Path(section["ann_file"])))
    return None


def _label_space_of(path: Path) -> LabelSpace:
    from .dataset.annotations import read_json  # here, because annotations.py imports this module

    return LabelSpace.from_coco(read_json(path), str(path))


_MSCOCO_TABLE = """
    1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light, 11 fire
    hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22
    elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34 frisbee,
    35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
    43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple,
    54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch, 64
    potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell
    phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors, 88
    teddy bear, 89 hair drier, 90 toothbrush
"""


def _mscoco() -> LabelSpace:
    entries = [entry.strip().split(" ", 1) for entry in " ".join(_MSCOCO_TABLE.split()).split(",")]
    return LabelSpace(tuple(name for _, name in entries), tuple(int(number) for number, _ in entries))


MSCOCO = _mscoco()
"""The 80 classes of COCO detection with their original ids, which leave gaps up to 90."""
