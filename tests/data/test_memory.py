# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Resident memory of a run's data over many epochs."""

import gc
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from data import coco_files, official_transforms
from isdfine.data.collate import BatchImageCollateFunction
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.loader import DataLoader
from isdfine.data.transforms import Compose

EPOCHS = 20
SETTLED = 5
"""Epochs after which allocators have what they need."""


def resident_mb(pid):
    """Memory of a process that is not shared with others, and that part of shared memory which falls to it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_over_epochs(workers):
    folder = coco_files.TINY
    data = CocoDetection(
        str(folder / "train"), str(folder / "annotations" / "train.json"), Compose(official_transforms.our_ops(320))
    )
    loader = DataLoader(
        data, batch_size=4, shuffle=True, num_workers=workers, collate_fn=BatchImageCollateFunction(320, 2)
    )
    used = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
        gc.collect()
        processes = ["self", *(active_child.pid for active_child in multiprocessing.active_children())]
        used.append(sum(resident_mb(process) for process in processes))
    loader.close()
    slope = np.polyfit(np.arange(SETTLED, EPOCHS), used[SETTLED:], 1)[0]
    assert slope < 1, [round(megabytes) for megabytes in used]  # MB per epoch
