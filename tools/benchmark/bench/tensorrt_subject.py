# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines. Not run: no machine of ours has TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isdfine.core.errors import ConfigError
from isdfine.deploy.backends.base import Outputs
from isdfine.deploy.backends.tensorrt import TensorRTBackend

from .subject import IN_GRAPH, Facts, Wanted, recipe_for


class TensorRTSubject:
    """An engine.

    Args:
        path: the file.
        wanted: device, batch, size.

    Raises:
        CheckpointError, ConfigError: see ``TensorRTBackend``; a batch that the engine was not built for.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._backend = TensorRTBackend(path, str(wanted.device))
        info = self._backend.info
        size = info.size or wanted.size
        if size is None:
            raise ConfigError(f"{path}: takes images of many sizes: give one with --size HEIGHT WIDTH")
        if info.max_batch is not None and wanted.batch > info.max_batch:
            raise ConfigError(f"{path}: was built for batches up to {info.max_batch}: give --batch {info.max_batch}")
        self.facts = Facts(
            str(path), info.backend, self._backend.precision, size, "of the engine", IN_GRAPH,
            recipe_for(info.recipe, size), info.labels, info.uint8,
        )  # fmt: skip

    def place(self, images: NDArray[Any], sizes: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """See ``Subject``."""
        device = self._backend.device
        return torch.from_numpy(images).to(device), torch.from_numpy(sizes).to(device)

    def call(self, placed: tuple[Tensor, Tensor]) -> Outputs:
        """See ``Subject``."""
        return self._backend.run_placed(*placed)
