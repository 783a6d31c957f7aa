# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX files, ours and those of other projects, in ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.extras import need
from ..deploy.backends.base import VERSION, Outputs, info_from
from ..deploy.backends.onnx import open_session
from ..deploy.preprocess import Recipe
from .foreign import finish_for
from .subject import Facts, RunWith, recipe_for

_TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}  # fmt: skip
_IMAGES = ("images", "pixel_values")


class OnnxSubject:
    """A graph.

    Inputs are recognised by name and shape: images are ``images`` or ``pixel_values``, sizes ``orig_target_sizes``
    (width, height), ``pixel_mask`` is all ones. Files without metadata of ours get images squashed to their size, in
    [0, 1].

    Args:
        path: the file.
        wanted: device, threads, batch, size.

    Raises:
        CheckpointError: a file that ONNX Runtime cannot read.
        ConfigError: inputs or outputs that are not known, another batch or size than the file's, a missing package or
            device.
    """

    def __init__(self, path: Path, wanted: RunWith) -> None:
        runtime = need("onnxruntime", "export")
        self._runtime, self._device = runtime, wanted.device
        # its threads rest as soon as it has answered: others have their turn then
        self._session = open_session(path, str(wanted.device), wanted.threads, force_spinning_stop="1")
        self._inputs = {source.name: source for source in self._session.get_inputs()}
        self._images = _image_input(self._inputs, path)
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        self._finish, finished = finish_for(outputs, str(path))
        self._outputs = list(outputs)
        texts = self._session.get_modelmeta().custom_metadata_map
        size = size_of(self._inputs[self._images].shape, texts, wanted, path)
        where = "GPU" if wanted.device.type == "cuda" else "CPU"
        uint8 = _TYPES[self._inputs[self._images].type] is np.uint8
        recipe: Recipe | None = Recipe.squash(size)
        labels = None
        if VERSION in texts:
            info = info_from(texts, str(path), where, uint8=uint8, max_batch=None, size=None, names=None)
            recipe, labels = recipe_for(info.recipe, size), info.labels
        self.facts = Facts(
            str(path), f"onnxruntime {runtime.__version__} ({where})", texts.get("precision") or precision_of(path),
            size, "of the file", finished, recipe, labels, uint8,
        )  # fmt: skip

    def place(self, images: NDArray[Any], sizes: NDArray[np.int64]) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """See ``Subject``; ONNX Runtime's own values, on its device."""
        feed = {}
        for name, source in self._inputs.items():
            if name == self._images:
                value = images
            elif name == "orig_target_sizes":
                value = sizes
            else:
                value = np.ones((len(images), *images.shape[2:]))
            array = np.ascontiguousarray(value.astype(_TYPES[source.type], copy=False))
            feed[name] = self._runtime.OrtValue.ortvalue_from_numpy(array, *_place(self._device))
        return feed, sizes

    def call(self, placed: tuple[dict[str, Any], NDArray[np.int64]]) -> Outputs:
        """See ``Subject``."""
        feed, sizes = placed
        values = self._session.run_with_ort_values(self._outputs, feed)
        outputs = {name: value.numpy() for name, value in zip(self._outputs, values)}
        return self._finish(outputs, sizes, self.facts.size)


def _place(device: Any) -> tuple[str, int]:
    return device.type, device.index or 0


def _image_input(inputs: Mapping[str, Any], path: Path) -> str:
    images = [name for name in inputs if name in _IMAGES]
    foreign = [name for name in inputs if name not in (*_IMAGES, "orig_target_sizes", "pixel_mask")]
    types = [source.type for source in inputs.values() if source.type not in _TYPES]
    if len(images) != 1 or foreign or types or len(inputs[images[0]].shape) != 4:
        told = ", ".join(f"{name} {source.type} {source.shape}" for name, source in inputs.items())
        raise ConfigError(
            f"{path}: has the inputs {told}; known are images or pixel_values [N, 3, H, W], orig_target_sizes [N, 2] "
            "and pixel_mask [N, H, W]: export the model with these"
        )
    return images[0]


def size_of(shape: list[Any], texts: Mapping[str, str], wanted: RunWith, path: Path) -> tuple[int, int]:
    """(height, width); also checks the batch."""
    batch, _, *own = shape
    if isinstance(batch, int) and batch != wanted.batch:
        raise ConfigError(
            f"{path}: takes batches of {batch}, not {wanted.batch}: give --batch {batch}, or export it anew"
        )
    if all(isinstance(side, int) for side in own):
        if wanted.size is not None and tuple(own) != wanted.size:
            raise ConfigError(
                f"{path}: takes images of {own[0]} x {own[1]} (height x width) pixels, not "
                f"{wanted.size[0]} x {wanted.size[1]}: leave --size out, or export it for that size"
            )
        return own[0], own[1]
    known = wanted.size or _default_size(texts)
    if known is None:
        raise ConfigError(f"{path}: takes images of any size: give one with --size HEIGHT WIDTH")
    return known


def _default_size(texts: Mapping[str, str]) -> tuple[int, int] | None:
    """What the metadata say, where that is a size."""
    try:
        height, width = json.loads(texts["default_size"])
    except (LookupError, ValueError, TypeError, RecursionError):
        return None
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None


def precision_of(path: Path) -> str:
    """Of most weights in a file that does not say."""
    onnx, numpy_helper = need("onnx", "export"), need("onnx.helper", "export")
    sizes: dict[str, int] = {}
    for weight in onnx.load(str(path), load_external_data=False).graph.initializer:
        kind = str(numpy_helper.tensor_dtype_to_np_dtype(weight.data_type))
        if "float" in kind:
            sizes[kind] = sizes.get(kind, 0) + int(np.prod(weight.dims))
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    largest = max(sizes, key=lambda kind: sizes[kind]) if sizes else "unknown"
    return names.get(largest, largest)
