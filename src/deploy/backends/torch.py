# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch, on CPU or GPU."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.config import Config
from ...core.environment import pick_device
from ...load import LoadedDetector, load_detector
from ..fuse import fuse
from ..preprocess import recipe_of
from .base import BackendInfo, Outputs


class TorchBackend:
    """The deployed (fused) form of a model.

    Args:
        loaded: see ``load_detector``.
        device: ``cpu``, ``cuda``, ``cuda:1``; None = a GPU where there is one.
        threads: of the CPU. PyTorch has one number for the whole process, which is set.

    Raises:
        ConfigError: no such device, or a run that evaluates with operations that inference cannot do.
    """

    def __init__(self, loaded: LoadedDetector, device: str | None = None, threads: int | None = None) -> None:
        self.device, recipe = pick_device(device), recipe_of(loaded.config)
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = fuse(loaded.model, backbone=True).to(self.device)
        self.postprocessor = loaded.postprocessor.to(self.device)
        name = f"torch {torch.__version__} ({self.device})"
        self.info = BackendInfo(loaded.labels, recipe, name, takes_image_sizes=recipe.padding is not None)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        device: str | None = None,
        threads: int | None = None,
        config: str | PathLike[str] | Config | None = None,
    ) -> TorchBackend:
        """From a file or folder; see ``load_detector``."""
        return cls(load_detector(path, config), device, threads)

    @torch.inference_mode()
    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``."""
        pixels = torch.from_numpy(images).to(self.device)
        inputs = self.info.recipe.to_input(pixels) if pixels.dtype == torch.uint8 else pixels
        sizes = torch.from_numpy(orig_sizes).to(self.device)
        further = {} if image_sizes is None else {"image_sizes": torch.from_numpy(image_sizes).to(self.device)}
        labels, boxes, scores = self.postprocessor(self.model(inputs, **further), sizes)
        return Outputs(labels.cpu().numpy(), boxes.float().cpu().numpy(), scores.float().cpu().numpy())
