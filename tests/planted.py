# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A small clean data set in COCO JSON, and faults to plant into it."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builders import load_tool

HEIGHT, WIDTH = 96, 128
CLASSES = ("ant", "bee", "cow")


def quiet_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """isdfine data as a module that leaves the log of other tests as it is."""
    tool = load_tool("dataset")
    monkeypatch.setattr(tool, "setup_logging", lambda: None)
    return tool


def picture(seed: int) -> Image.Image:
    """A picture that looks like no other: 6 x 8 random colours, blurred."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


class Planted:
    """The data set in memory and on disk: images are there from the start, annotations after ``write``."""

    def __init__(self, folder: Path, *, train: int = 24, val: int = 8) -> None:
        self.folder = folder
        self.content: dict[str, dict[str, Any]] = {}
        seed = 0
        for split, count in (("train", train), ("val", val)):
            (folder / split).mkdir(parents=True)
            self.content[split] = {
                "info": {"description": "planted"},
                "images": [],
                "annotations": [],
                "categories": [{"id": 3 * label + 1, "name": name} for label, name in enumerate(CLASSES)],
            }
            for number in range(count):
                seed += 1
                name = f"{split}_{number:02}.jpg"
                picture(seed).save(folder / split / name, quality=92)
                entry = {"id": seed, "file_name": name, "height": HEIGHT, "width": WIDTH}
                self.content[split]["images"].append(entry)
                for box in range(3):
                    self.box(split, number, [8 + 36 * box, 10 + seed % 40, 20.5, 30], label=(seed + box) % 3)

    def image(self, split: str, number: int) -> dict[str, Any]:
        """An image entry, to be changed."""
        return self.content[split]["images"][number]

    def file(self, split: str, number: int) -> Path:
        """Its file."""
        return self.folder / split / self.image(split, number)["file_name"]

    def box(self, split: str, number: int, bbox: list[float], *, label: int = 0, **more: Any) -> int:
        """Add an annotation; returns its id."""
        content = self.content[split]
        own = max((annotation["id"] for annotation in content["annotations"]), default=0) + 1
        area = abs(bbox[2] * bbox[3]) if len(bbox) == 4 else 0
        entry = {"id": own, "image_id": content["images"][number]["id"], "category_id": 3 * label + 1, "bbox": bbox,
                 "area": area, "iscrowd": 0}  # fmt: skip
        content["annotations"].append({**entry, **more})
        return own

    def add_image(self, split: str, name: str, file: bytes) -> int:
        """Add an image with one box; returns its position."""
        (self.folder / split / name).write_bytes(file)
        images = self.content[split]["images"]
        images.append({"id": 900 + len(images), "file_name": name, "height": HEIGHT, "width": WIDTH})
        self.box(split, len(images) - 1, [30, 30, 40, 40])
        return len(images) - 1

    def write(self) -> Path:
        """Write the annotation files; returns the folder of the data set."""
        (self.folder / "annotations").mkdir(exist_ok=True)
        for split, content in self.content.items():
            (self.folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return self.folder


def plant_everything(data: Planted) -> list[tuple[str, str, str]]:
    """Plant faults of every kind that a COCO data set can have.

    Returns:
        (kind, split, what its place or text must name) of each, for 20 queries.
    """
    expected: list[tuple[str, str, str]] = []

    def plant(kind: str, split: str, *names: object) -> None:
        expected.append((kind, split, "|".join(map(str, names))))

    data.file("train", 0).unlink()
    plant("missing image", "train", "train_00.jpg")
    data.file("val", 0).unlink()
    plant("missing image", "val", "val_00.jpg")
    whole = data.file("train", 1).read_bytes()
    data.file("train", 1).write_bytes(whole[: len(whole) // 2])
    plant("unreadable image", "train", "train_01.jpg")
    data.file("train", 2).write_bytes(b"")
    plant("unreadable image", "train", "train_02.jpg")
    data.file("val", 1).write_text("<html>not found</html>")
    plant("unreadable image", "val", "val_01.jpg")
    data.image("train", 3).update(height=2 * HEIGHT, width=2 * WIDTH)
    plant("wrong size", "train", "train_03.jpg", "256 x 192", "128 x 96")
    data.image("train", 4).update(height=WIDTH, width=HEIGHT)
    plant("wrong size", "train", "train_04.jpg", "96 x 128")
    for kind, bbox, number in (
        ("inverted box", [60, 60, -20, 10], 5), ("inverted box", [60, 60, 20, -10], 6),
        ("box outside", [130, 10, 20, 20], 5), ("box outside", [10, -50, 20, 20], 7),
        ("empty box", [50, 50, 0, 10], 8), ("empty box", [50, 50, 10, 0], 8),
        ("box beyond edge", [100, 60, 40, 20], 9), ("box beyond edge", [-3, 60, 20, 20], 9),
        ("tiny box", [70, 80, 1, 1], 10), ("tiny box", [70, 80, 12, 1.5], 11),
    ):  # fmt: skip
        own = data.box("train", number, bbox)
        plant(kind, "train", f"annotation {own} (ant)", f"train_{number:02}.jpg")
    for number in (12, 13):
        first = next(
            annotation for annotation in data.content["train"]["annotations"] if annotation["image_id"] == number + 1
        )
        own = data.box("train", number, [first["bbox"][0] + 0.3, *first["bbox"][1:]], label=(number + 1) % 3)
        plant("duplicate box", "train", f"annotation {own} ", f"annotation {first['id']},")
    first = next(annotation for annotation in data.content["train"]["annotations"] if annotation["image_id"] == 15)
    own = data.box("train", 14, [first["bbox"][0] + 1, *first["bbox"][1:]], label=15 % 3)
    plant("near-duplicate box", "train", f"annotation {own} ", "IoU 0.907")
    data.add_image("train", "again.jpg", data.file("train", 15).read_bytes())
    plant("duplicate image", "train", "again.jpg", "train_15.jpg")
    data.add_image("train", "leak.jpg", data.file("val", 2).read_bytes())
    plant("image in two splits", "train", "leak.jpg", "val_02.jpg")
    Image.open(data.file("val", 3)).save(data.folder / "smaller.jpg", quality=50)
    data.add_image("train", "near.jpg", (data.folder / "smaller.jpg").read_bytes())
    plant("near-duplicate in two splits", "train", "near.jpg", "val_03.jpg")
    Image.open(data.file("train", 16)).save(data.folder / "smaller.jpg", quality=50)
    data.add_image("train", "like.jpg", (data.folder / "smaller.jpg").read_bytes())
    plant("near-duplicate image", "train", "like.jpg", "train_16.jpg")
    (data.folder / "smaller.jpg").unlink()
    for number in range(20):
        data.box("train", 17, [4 + 6 * number, 80, 4, 12])
    plant("too many objects", "train", "train_17.jpg", "23 objects for 20 queries")
    for number in range(14):
        data.box("train", 18, [4 + 6 * number, 80, 4, 12])
    plant("many objects", "train", "train_18.jpg", "17 objects")
    picture(777).save(data.folder / "train" / "stranger.png")
    plant("unlisted file", "", "stranger.png")
    own = data.box("train", 19, [10, 60, 20, 20], category_id=99)
    plant("unknown category", "train", f"annotation {own} ", "99")
    own = data.box("train", 19, [10, 60, 20, 20], image_id=555)
    plant("unknown image", "train", f"annotation {own} ", "555")
    own = data.box("train", 19, [10, 60, 20])
    plant("bad box", "train", f"annotation {own} ", "[10, 60, 20]")
    data.image("train", 20).pop("height")
    plant("bad size", "train", "train_20.jpg")
    data.content["train"]["images"].append({**data.image("train", 21), "file_name": "train_00.jpg"})
    plant("duplicate id", "train", "image id 22 ")
    for content in data.content.values():
        content["categories"].append({"id": 40, "name": "dodo"})
    plant("class without boxes", "", "'dodo'")
    return expected
