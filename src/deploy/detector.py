# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One interface to a trained detector, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import cast, overload

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.checkpoint import refuse_url
from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError
from ..data.label_space import LabelSpace
from .backends.base import Backend, BackendInfo, Outputs
from .detections import Detections
from .pictures import Channels, Picture, as_rgb
from .preprocess import Prepared

THRESHOLD = 0.4
"""Score from which a detection counts: about where a trained D-FINE's F1 is highest."""
BATCH_SIZE = 8
_BACKENDS = {".onnx": ("onnx", "openvino"), ".engine": ("tensorrt",), ".trt": ("tensorrt",)}
"""What runs a file, by its ending; the first unless another is asked for. All else is PyTorch's."""


class Detector:
    """Images in, detections out.

    >>> detector = Detector.load("best.pth")                                           # doctest: +SKIP
    >>> for box, score, label, name in detector.detect("street.jpg", threshold=0.5):   # doctest: +SKIP
    ...     print(name, score, box)

    ``detect`` may be called from several threads at once.

    Args:
        backend: what runs the network; ``load`` chooses it by the file.
        batch_size: images per call of the network, at most.
    """

    def __init__(self, backend: Backend, *, batch_size: int = BATCH_SIZE) -> None:
        if isinstance(backend, (str, PathLike)):
            raise ConfigError(f"Detector takes a backend, not a file: write Detector.load({str(backend)!r})")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        self.backend = backend
        self.batch_size = min(batch_size, backend.info.max_batch or batch_size)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        device: str | None = None,
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        config: str | PathLike[str] | Config | None = None,
        names: Sequence[str] | None = None,
        backend: str | None = None,
    ) -> Detector:
        """Load a model; the ending says which backend runs it.

        Args:
            path: ``.onnx``: ONNX Runtime. ``.engine`` or ``.trt``: TensorRT. All else PyTorch: a checkpoint (``.pth``),
                ``.safetensors``, a folder of a run (its ``last.pth``) or of transformers, or the name of published
                weights, which are downloaded when first used.
            device: ``cpu``, ``cuda`` or ``cuda:1``; None = a GPU where there is one. OpenVINO has names of its own.
            threads: CPU threads for one call; None = the backend's choice. PyTorch sets it for the whole process.
            batch_size: images per call of the network, at most.
            config: YAML file or config of the run, for checkpoints that carry none (the official ones).
            names: class names in label order, for ONNX files and engines that carry none (official D-FINE exports).
            backend: ``openvino`` runs an ``.onnx`` file in OpenVINO; None = by the ending, as above (``onnx``,
                ``tensorrt`` or ``torch``).

        Raises:
            CheckpointError: the file is missing, damaged, another project's, or made by another TensorRT version.
            ConfigError: a device or package that is not there, or an option that this kind of file does not have.
        """
        refuse_url(path)
        path = Path(path)
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}: give 1 or more")
        fitting = _BACKENDS.get(path.suffix.lower(), ("torch",))
        backend = backend or fitting[0]
        if backend not in fitting:
            raise ConfigError(f"{path}: backend is {backend!r}: this file is run by {' or '.join(fitting)}")
        if backend == "torch":
            from .backends.torch import TorchBackend

            if names is not None:
                raise ConfigError(
                    f"{path}: names are for ONNX files and engines; the config of a checkpoint says its classes"
                )
            return cls(TorchBackend.load(path, device=device, threads=threads, config=config), batch_size=batch_size)
        if config is not None:
            raise ConfigError(f"{path}: says all by itself: leave config out")
        if backend == "onnx":
            from .backends.onnx import OnnxBackend

            return cls(OnnxBackend(path, device, threads, names), batch_size=batch_size)
        if backend == "openvino":
            from .backends.openvino import OpenVINOBackend

            return cls(OpenVINOBackend(path, device, threads, names), batch_size=batch_size)
        from .backends.tensorrt import TensorRTBackend

        if threads is not None:
            raise ConfigError("threads are for the CPU: leave them out for a TensorRT engine")
        return cls(TensorRTBackend(path, device, names), batch_size=batch_size)

    @property
    def info(self) -> BackendInfo:
        """Classes, preprocessing, device."""
        return self.backend.info

    @property
    def label_space(self) -> LabelSpace:
        """Names and original category ids of the classes."""
        return self.info.labels

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.info.names

    def __repr__(self) -> str:
        return f"Detector({self.info.backend}, {len(self.names)} classes)"

    @overload
    def detect(  # type: ignore[overload-overlap]  # a text is a path, although it is a sequence of texts too
        self, images: Picture, threshold: float = ..., *, channels: Channels = ...
    ) -> Detections: ...
    @overload
    def detect(
        self, images: Sequence[Picture], threshold: float = ..., *, channels: Channels = ...
    ) -> list[Detections]: ...

    def detect(
        self, images: Picture | Sequence[Picture], threshold: float = THRESHOLD, *, channels: Channels = "rgb"
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            images: one image, or a list (also an array or tensor of four dimensions). An image is a path, a PIL image,
                an array (H, W, 3) of uint8 **RGB**, or a tensor (3, H, W); see ``pictures.as_rgb``. What ``cv2.imread``
                returns is BGR: say ``channels="bgr"``.
            threshold: smallest score, in [0, 1].
            channels: colour order of arrays.

        Returns: one for an image, a list for a list. Boxes are pixels of the displayed image, that is after the
            rotation its EXIF data ask for.

        Raises:
            DataError: an image that cannot be read, or is of another type or shape.
        """
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
            images = list(cast(Iterable[Picture], images))
        if isinstance(images, (list, tuple)):
            return list(self.stream(images, threshold, channels=channels))
        return next(self.stream([cast(Picture, images)], threshold, channels=channels))

    __call__ = detect

    def stream(
        self, images: Iterable[Picture], threshold: float = THRESHOLD, *, channels: Channels = "rgb"
    ) -> Iterator[Detections]:
        """Detections of any number of images in their order; no more than a batch of them is in memory."""
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}: give a score from 0 to 1")
        waiting, number = iter(images), 0
        while batch := list(islice(waiting, self.batch_size)):
            ready = [as_rgb(picture, channels, f"image {number + i}") for i, picture in enumerate(batch)]
            for picture, image, (labels, boxes, scores) in zip(batch, ready, self._run(ready, threshold)):
                size = (image.height, image.width)
                yield Detections(boxes, scores, labels, self.label_space, size, picture, channels)
            number += len(batch)

    def _run(self, images: Sequence[Image.Image], threshold: float) -> list[Outputs]:
        answers: dict[int, Outputs] = {}
        for indices, prepared in self.info.recipe.prepare(images):
            labels, boxes, scores = self._detect(prepared)
            for row, index in enumerate(indices):
                kept = scores[row] >= threshold
                answers[index] = Outputs(labels[row][kept], boxes[row][kept], scores[row][kept])
        return [answers[index] for index in range(len(images))]

    def _detect(self, prepared: Prepared) -> Outputs:
        wh = np.ascontiguousarray(prepared.sizes[:, ::-1])
        if prepared.image_sizes is None or self.info.takes_image_sizes:
            outputs = self.backend.run(prepared.pixels, wh, prepared.image_sizes)
        else:  # the network takes the whole canvas for the image: its pixels are asked for, and scaled here
            canvas = np.tile(np.array(prepared.pixels.shape[:1:-1], dtype=np.int64), (len(wh), 1))
            outputs = self.backend.run(prepared.pixels, canvas)
            growth = np.tile(wh / prepared.image_sizes[:, ::-1], (1, 2))[:, None]  # (B, 1, 4)
            outputs = outputs._replace(boxes=(outputs.boxes * growth).astype(np.float32))
        _check(outputs, len(self.label_space))
        return outputs


def _check(outputs: Outputs, count: int) -> None:
    """A network whose numbers overflowed would otherwise just find nothing."""
    if not (np.isfinite(outputs.scores).all() and np.isfinite(outputs.boxes).all()):
        raise CheckpointError(
            "the network answers with numbers that are not finite: its weights have diverged, or it overflows in half "
            "precision; use an earlier checkpoint, or export it in fp32"
        )
    if outputs.labels.size and not 0 <= outputs.labels.min() <= outputs.labels.max() < count:
        raise CheckpointError(
            f"the network answers with label {outputs.labels.max()}, but there are {count} class names: they belong to "
            "another model"
        )
