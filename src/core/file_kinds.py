# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are given as a config or a checkpoint and are something else: what they are, and what to do with them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from os import PathLike
from typing import Any

from .errors import CheckpointError, ConfigError
from .located import Located

_YOLO_DATA = (
    "this describes a data set for Ultralytics, not a run: name the file as `data` of YoloDetection in a config of "
    "yours (configs/dataset/yolo_detection.yml), with train_dataloader.dataset.data=THIS_FILE"
)
_YOLO_MODEL = (
    "this describes a network for Ultralytics, not a run: such networks are not built here; start from a file of "
    "configs/dfine, for example configs/dfine/custom/dfine_hgnetv2_s_custom.yml"
)
_YOLO_ARGUMENTS = (
    "these are training arguments of Ultralytics, not a run: start from a file of configs/dfine and set what differs "
    "with -u, for example epoches, train_dataloader.total_batch_size and optimizer.lr"
)
_PADDLE = "this is a config of PaddleDetection, which has other components: start from a file of configs/dfine"
_TRANSFORMERS = (
    "this is the config of a transformers checkpoint, not a run: convert that folder with tools/convert_checkpoint.py "
    "and start from the result with -t"
)
_COCO = "this is a COCO annotation file, not a run: name it as ann_file of CocoDetection in a config"

_KINDS: tuple[tuple[str, Callable[[dict[Any, Located]], bool], str], ...] = (
    ("names", lambda top: bool({"train", "val", "test", "path", "nc"} & set(top)), _YOLO_DATA),
    ("backbone", lambda top: isinstance(top["backbone"].value, list), _YOLO_MODEL),
    ("head", lambda top: isinstance(top["head"].value, list), _YOLO_MODEL),
    ("imgsz", lambda top: "epochs" in top or "epoches" in top or "data" in top, _YOLO_ARGUMENTS),
    ("_BASE_", lambda top: True, _PADDLE),
    ("architecture", lambda top: isinstance(top["architecture"].value, str), _PADDLE),
    ("model_type", lambda top: "architectures" in top or "transformers_version" in top, _TRANSFORMERS),
    ("annotations", lambda top: "images" in top or "categories" in top, _COCO),
)
"""A key that gives a file of another kind away, what must hold besides, and what to do with such a file."""


def refuse_python(name: str) -> None:
    """See that a config is no Python file.

    Raises:
        ConfigError: a config of mmdetection, detrex or another project that writes them in Python.
    """
    if name.endswith(".py"):
        raise ConfigError(
            f"{name}: a Python config, as mmdetection, detrex and detectron2 have them: only YAML is read here; start "
            "from a file of configs/dfine and set what differs with -u"
        )


def refuse_other_kinds(tree: Located) -> None:
    """See that a file describes a run.

    Raises:
        ConfigError: a data set, network or argument file of Ultralytics, or a config of another framework.
    """
    for key, holds, text in _KINDS:
        if key in tree.value and holds(tree.value):
            raise ConfigError(f"{tree.value[key].origin}: {key}: {text}")


def refuse_url(path: str | PathLike[str]) -> None:
    """See that a checkpoint is a path.

    Raises:
        CheckpointError: a URL, which is not fetched.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=.)", str(path))  # a Path has joined its slashes; C:/ is a drive
    if found is not None:
        url = f"{found[1]}://{str(path)[found.end() :]}"
        raise CheckpointError(
            f"{url} is a URL, and nothing is downloaded here: fetch it first (curl -LO {shlex.quote(url)}), then give "
            "the path of the file"
        )
