# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A small COCO file with everything that needs a rule: gaps in the ids, a crowd, boxes outside, inverted and empty."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TINY = Path(__file__).parents[2] / "data" / "doclayout-tiny"


def shared_data(name: str) -> Path:
    """A folder of the data that is not committed, or skip."""
    root = Path(os.environ.get("ISDFINE_DATA", "../shared/data"))
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is not there: set ISDFINE_DATA to the folder that holds {name}")
    return root / name


def content() -> dict[str, Any]:
    """Images 7 (40 x 60) and 3 (50 x 50); categories 9 = zebra, 2 = ant, listed in reverse."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 3, "file_name": "sub/b.png", "height": 50, "width": 50},
        ],
        "categories": [{"id": 9, "name": "zebra"}, {"id": 2, "name": "ant"}],
        "annotations": [
            annotation(11, 3, 9, [10, 10, 20, 30]),
            annotation(12, 7, 2, [50, 30, 20.5, 20]),
            annotation(13, 7, 9, [0, 0, 60, 40], iscrowd=1),
            annotation(14, 7, 9, [5, 5, 10, 10], area=77.5),
        ],
    }


def annotation(number: int, image: int, category: int, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def write(folder: Path, data: Any = None, *, images: bool = True) -> tuple[Path, Path]:
    """(image folder, annotation file)."""
    data = content() if data is None else data
    root = folder / "images"
    (root / "sub").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for entry in data["images"] if images else ():
        pixels = random.integers(0, 256, (entry["height"], entry["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / entry["file_name"])
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return root, path
