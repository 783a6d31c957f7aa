# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A run of version 0.1, stopped after step 3 of 4, goes on as version 0.1 would have.

The file is the micro run's ``last.pth`` (seed 3, the backbone of ``tests/kills.py``), written by version 0.1; what that
version's own resumed run ended with stands below. On the machine that wrote it the two are equal to the last bit.
"""

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import isdfine
from builders import write_coco
from isdfine.nn.backbone.hgnetv2 import VARIANTS
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
from kills import SMALL

LOSS = 33.97955504562986
"""Total of step 4."""
SUMS = {"model": 3636.732662575359, "ema": 3657.0156451271296, "moments": 1240.603914265917}
"""Of all absolute values, at the end."""


def total(tensors: Any) -> float:
    return float(
        sum(
            tensor.double().abs().sum()
            for tensor in tensors
            if isinstance(tensor, Tensor) and tensor.is_floating_point()
        )
    )


def test_it_goes_on_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "B0", SMALL)
    monkeypatch.chdir(tmp_path)
    write_coco(Path("data"), images=8)
    Path("part").mkdir()
    Path("part/last.pth").write_bytes(lzma.decompress((Path(__file__).parent / "checkpoint_0_1.pth.xz").read_bytes()))
    shutil.copyfile("part/last.pth", "part/best.pth")
    state = torch.load("part/last.pth", weights_only=True)
    Path("config.yml").write_text(state["config"])
    run = Training(isdfine.load_config("config.yml", ["output_dir=part", "resume=part"]))
    run.resume("part")
    assert run.progress.step == 3
    fit(run)
    lines = [json.loads(line) for line in Path("part/metrics.jsonl").read_text().splitlines()]
    (loss,) = (line["loss"] for line in lines if line["kind"] == "train" and line["step"] == 4)
    assert loss == pytest.approx(LOSS, rel=1e-5)
    end = torch.load("part/last.pth", weights_only=True)
    assert end["model"].keys() == state["model"].keys()
    moments = [value for of_weight in end["optim"]["optimizer"]["state"].values() for value in of_weight.values()]
    sums = {"model": end["model"].values(), "ema": end["ema"]["module"].values(), "moments": moments}
    assert {name: total(tensors) for name, tensors in sums.items()} == pytest.approx(SUMS, rel=1e-5)
