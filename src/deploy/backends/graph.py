# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the runtimes of ONNX files share: the check of the file, batches of a fixed size, messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.checkpoint import check_sum
from ...core.errors import CheckpointError
from .base import INPUTS, BackendInfo, Outputs, check_interface, info_from


class GraphBackend(ABC):
    """A graph from ``isdfine export``, or an official one.

    Args:
        path: the ``.onnx`` file.
        name: runtime, version and device, for people.
        inputs: shapes by name, None where they are free.
        outputs: names.
        uint8: the type of ``images``; else float32.
        metadata, names: see ``base.info_from``.

    Raises:
        CheckpointError: the model of another project.
    """

    runtime: ClassVar[str]

    def __init__(
        self,
        path: str | PathLike[str],
        name: str,
        *,
        inputs: Mapping[str, Sequence[int | None]],
        outputs: Sequence[str],
        uint8: bool,
        metadata: Mapping[str, str],
        names: Sequence[str] | None,
    ) -> None:
        check_interface(str(path), list(inputs), outputs)
        self._path = path
        batch, _, height, width = inputs[INPUTS[0]]
        size = None if height is None or width is None else (height, width)
        self.info: BackendInfo = info_from(
            metadata, str(path), name, uint8=uint8, max_batch=batch, size=size, names=names
        )

    @abstractmethod
    def _call(self, feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Labels, boxes and scores; called from several threads at once."""

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``; ``image_sizes`` is None, for exported graphs do not know of padding."""
        if images.dtype == np.uint8 and not self.info.uint8:
            images = self.info.recipe.to_input(torch.from_numpy(images)).numpy()
        count, fixed = len(images), self.info.max_batch
        feed = {INPUTS[0]: images, INPUTS[1]: orig_sizes.astype(np.int64, copy=False)}
        if fixed is not None and count < fixed:  # the rest repeats the last image
            spare = [(0, fixed - count)]
            feed = {k: np.pad(array, spare + [(0, 0)] * (array.ndim - 1), mode="edge") for k, array in feed.items()}
        try:
            labels, boxes, scores = self._call(feed)
        except Exception as error:  # noqa: BLE001  # exceptions of runtimes have no common base but Exception
            raise CheckpointError(
                f"{self._path}: {self.runtime} stopped at {count} images of {' x '.join(map(str, images.shape[2:]))} "
                f"({reason(error)}): the graph does not take every batch or size that its inputs promise, or memory "
                "ran out; try a batch of 1, or export it again with isdfine export"
            ) from None
        return Outputs(
            labels[:count].astype(np.int64, copy=False),
            boxes[:count].astype(np.float32, copy=False),
            scores[:count].astype(np.float32, copy=False),
        )


def check_file(path: Path) -> None:
    """Refuse a file that is missing or damaged.

    Raises:
        CheckpointError: see ``core.checkpoint.check_sum``.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: check the path")
    check_sum(path)


def unreadable(path: Path, runtime: str, package: str, error: Exception) -> CheckpointError:
    """What to raise where a runtime refuses a file."""
    return CheckpointError(
        f"{path} ({path.stat().st_size} bytes): {runtime} cannot load it ({reason(error)}): it is damaged, no "
        f"ONNX file, or needs a newer {package}"
    )


def reason(error: Exception) -> str:
    """What a runtime says, in one line; the first one, without OpenVINO's places in its own source."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("Exception from ")]
    return (lines or [type(error).__name__])[0].strip()[:300]
