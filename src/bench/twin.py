# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The D-FINE of ``transformers`` with the weights of one of ours, to be compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from ..core.checkpoint.card import Card
from ..core.config import Config
from ..core.errors import ConfigError
from ..core.extras import need
from ..zoo.huggingface.config import config_to_huggingface
from ..zoo.huggingface.folder import write_folder
from ..zoo.huggingface.weights import to_huggingface


def transformers_twin(config: Config, ours: nn.Module) -> nn.Module:
    """``DFineForObjectDetection`` with the same weights.

    Args:
        config: that the model was built from, with ``num_classes`` and ``eval_spatial_size``.
        ours: the detector.

    Raises:
        ConfigError: transformers is not installed, or did not get all weights.
    """
    transformers = need("transformers", install='"transformers>=4.52"')
    names = [f"class {index}" for index in range(int(config.get("num_classes")))]
    content = config_to_huggingface(config.data, num_classes=len(names), names=names)
    height, width = config.get("eval_spatial_size")
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:  # from_pretrained knows the names that transformers 5 changed
        card = Card(config=config.data)
        write_folder(Path(folder), content, to_huggingface(ours.state_dict()), card, image_size=(height, width))
        loaded: Any = transformers.DFineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    twin: nn.Module = loaded[0]
    said: dict[str, Any] = loaded[1]
    if said["missing_keys"]:
        raise ConfigError(f"transformers {transformers.__version__} did not get {sorted(said['missing_keys'])[:3]}")
    return twin
