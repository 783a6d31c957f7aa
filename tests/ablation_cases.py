# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Ablation files, and run folders as a training leaves them, without the training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from isdfine.ablation.matrix import Matrix, Trial
from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.config.node import dump_yaml

TRIAL = """\
name: trial
output_dir: out
base: base.yml
seeds: [0, 1]
baseline: b
metrics: [AP, AR100]
judge: best
data:
  small: {}
  large: {base: other.yml, set: ["epoches=3"]}
variants:
  a: {set: ["distillers=[]", clip_max_norm=5]}
  b:
  c: {include: more.yml, set: {optimizer.lr: 1e-3, distillers: [{type: GOLSD}]}}
"""


def write_trial(folder: Path, text: str = TRIAL) -> Path:
    for name in ("base.yml", "other.yml", "more.yml"):
        (folder / name).write_text("epoches: 1\n")
    path = folder / "trial.yml"
    path.write_text(text)
    return path


def read_trial(folder: Path, text: str = TRIAL, **options: str) -> Matrix:
    return read_matrix(write_trial(folder, text), **options)  # type: ignore[arg-type]


PER_EPOCH = 2
"""Steps of the micro run's epochs."""


def write_matrix(folder: Path, **changes: Any) -> Path:
    """An ablation of the micro config in ``folder``: two learning rates, three seeds."""
    sections = {
        "name": "micro",
        "output_dir": str(folder / "out"),
        "base": "micro.yml",
        "seeds": [0, 1, 2],
        "baseline": "plain",
        "variants": {"plain": {}, "slow": {"set": ["optimizer.lr=0.0005"]}},
        **changes,
    }
    path = folder / "ablation.yml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def finish(run: Trial, config: Mapping[str, Any], aps: Sequence[float]) -> None:
    """Leave what a finished run leaves, with one AP per epoch; AP50 is 0.2 more."""
    folder = run.folder.path
    folder.mkdir(parents=True)
    saved = {**config, "num_classes": 2, "resume": None, "tuning": None, "tuning_classes": None}
    run.folder.config.write_text(dump_yaml(saved))
    lines: list[dict[str, Any]] = []
    for epoch, ap in enumerate(aps):
        place = {"step": PER_EPOCH * (epoch + 1), "epoch": epoch}
        measured = {"seconds_per_step": 0.1 * (epoch + 1), "peak_resident_mib": 700.0 - 10 * epoch}
        lines.append({"kind": "train", **place, "loss": 9.0, **measured})
        lines.append({"kind": "val", **place, "AP": ap, "AP50": ap + 0.2, "APl": -1.0})
    run.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
