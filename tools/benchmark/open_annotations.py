#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How long a COCO file of a given size takes to open, and how much memory.

    python tools/benchmark/open_annotations.py                      # COCO train2017: 118,287 images, 860,001 boxes
    python tools/benchmark/open_annotations.py --images 1000 --boxes 8000

The file is made anew (seeded, every box with a polygon, as COCO's are) in a temporary folder and opened in a fresh
process; wall time, CPU time and peak resident memory of that process are printed, with and without its start.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from isdfine.core.command import command_parser

MEAN_POINTS = 22
"""Points of a polygon on average: makes a file of train2017's size (about 450 MB)."""


def write(path: Path, images: int, boxes: int, seed: int) -> None:
    """A COCO file with 80 classes of gapped ids; annotations in random order of images, as COCO's."""
    random = np.random.default_rng(seed)
    ids = random.choice(600_000, images, replace=False)
    owners = ids[random.integers(0, images, boxes)].tolist()
    classes = random.choice(np.arange(1, 91), 80, replace=False)
    entries = {
        "images": ({
            "license": 3, "file_name": f"{number:012}.jpg", "height": 480, "width": 640, "id": number,
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg",
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
        } for number in ids.tolist()),
        "annotations": (_box(random, number, image, classes) for number, image in enumerate(owners, 1)),
        "categories": ({"supercategory": "none", "id": number, "name": f"class {number}"}
                       for number in sorted(classes.tolist())),
    }  # fmt: skip
    with path.open("w") as file:
        file.write('{"info": {"description": "made by open_annotations.py"}, "licenses": []')
        for key, rows in entries.items():
            file.write(f', "{key}": [')
            for number, row in enumerate(rows):
                file.write((", " if number else "") + json.dumps(row))
            file.write("]")
        file.write("}")


def _box(random: np.random.Generator, number: int, image: int, classes: np.ndarray) -> dict[str, object]:
    x, y, w, h = np.round(random.uniform((0, 0, 5, 5), (400, 300, 200, 150)), 2).tolist()
    points = random.poisson(MEAN_POINTS - 3) + 3
    polygon = np.round(random.uniform((x, y), (x + w, y + h), (points, 2)), 2).ravel().tolist()
    return {"segmentation": [polygon], "area": round(w * h * 0.6, 4), "iscrowd": 0, "image_id": image,
            "bbox": [x, y, w, h], "category_id": int(random.choice(classes)), "id": number}  # fmt: skip


def measure(path: Path) -> None:
    """Open the file in this process and print the figures."""
    from isdfine.data.dataset.coco import parse_coco

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    annotations = parse_coco(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{len(annotations)} images, {len(annotations.ids)} boxes, {len(annotations.label_space)} classes")
    print(f"open: {wall:.1f} s wall, {cpu:.1f} s CPU")
    print(f"peak resident memory {usage.ru_maxrss / 1024:.0f} MiB ({imported / 1024:.0f} MiB of it before: imports)")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__)
    parser.add_argument("--images", type=int, default=118_287, help="in the made-up file")
    parser.add_argument("--boxes", type=int, default=860_001, help="in the made-up file")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up boxes")
    parser.add_argument("--file", type=Path, help="open this file instead of making one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        measure(options.file)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "instances.json"
        if options.file is None:
            write(path, options.images, options.boxes, options.seed)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB", flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--child", "--file", str(path)], check=True)
        print(f"whole process, with imports: {time.perf_counter() - started:.1f} s wall")
    return 0


if __name__ == "__main__":
    sys.exit(main())
