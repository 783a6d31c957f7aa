# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Files of isdfine export in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deploy.backends.base import Outputs
from ..deploy.backends.openvino import OpenVINOBackend
from .onnx_subject import precision_of, size_of
from .subject import IN_GRAPH, Facts, RunWith, recipe_for


class OpenVINOSubject:
    """A graph with metadata of ours; its input is copied inside the measured time.

    Args:
        path: the file.
        wanted: device, threads, batch, size.

    Raises:
        CheckpointError: a file that OpenVINO cannot read, or another project's.
        ConfigError: another batch or size than the file's, a missing package or device.
    """

    def __init__(self, path: Path, wanted: RunWith) -> None:
        self._backend = OpenVINOBackend(path, str(wanted.device), wanted.threads)
        info = self._backend.info
        size = size_of([info.max_batch, 3, *(info.size or (None, None))], {}, wanted, path)
        self.facts = Facts(
            str(path), info.backend, precision_of(path), size, "of the file", IN_GRAPH, recipe_for(info.recipe, size),
            info.labels, info.uint8,
        )  # fmt: skip

    def place(self, images: NDArray[Any], sizes: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """See ``Subject``."""
        return images, sizes

    def call(self, placed: tuple[NDArray[Any], NDArray[np.int64]]) -> Outputs:
        """See ``Subject``."""
        return self._backend.run(*placed)
