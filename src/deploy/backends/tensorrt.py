# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT 10 and 11, with PyTorch for the memory on the GPU.

Not run: no machine of ours has TensorRT. Written against its documented Python API; the call sequence is tested with a
module that only looks like it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.environment import pick_device, require
from ...core.errors import CheckpointError, ConfigError
from .base import BackendInfo, Outputs
from .metadata import INPUTS, OUTPUTS, check_interface, info_from

VERSION = "tensorrt_version"
"""Entry of the texts beside an engine."""


def metadata_path(engine: Path) -> Path:
    """Where the texts of an engine lie, which it cannot carry itself: ``model.engine.json`` beside ``model.engine``."""
    return engine.with_name(f"{engine.name}.json")


class TensorRTBackend:
    """An engine from ``tools/export_trt.py``, or from ``trtexec`` with the ``.onnx`` file of the same stem beside it.

    Args:
        path: the engine.
        device: ``cuda`` or ``cuda:1``; None = the first GPU.
        names: see ``metadata.info_from``.

    Raises:
        CheckpointError: the file cannot be read, belongs to another TensorRT version or GPU, or is another project's.
        ConfigError: the package or a GPU is missing.
    """

    def __init__(
        self, path: str | PathLike[str], device: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file: check the path")
        trt = _package(path)
        self.device = pick_device(device or "cuda")
        self._lock = threading.Lock()  # an execution context serves one call at a time
        self._engine = _read(trt, path)
        self._context = self._engine.create_execution_context()
        count = self._engine.num_io_tensors
        kinds = {name: self._engine.get_tensor_mode(name) for name in map(self._engine.get_tensor_name, range(count))}
        inputs = [name for name, kind in kinds.items() if kind == trt.TensorIOMode.INPUT]
        check_interface(str(path), inputs, [name for name in kinds if name not in inputs])
        self._types = {name: _torch_type(trt, self._engine.get_tensor_dtype(name)) for name in kinds}
        largest = tuple(self._engine.get_tensor_profile_shape(INPUTS[0], 0)[2])
        sides = tuple(self._engine.get_tensor_shape(INPUTS[0]))[2:]
        self.info: BackendInfo = info_from(
            _metadata(path),
            str(path),
            f"tensorrt {trt.__version__} ({self.device})",
            uint8=self._types[INPUTS[0]] == torch.uint8,
            max_batch=int(largest[0]),
            size=(sides[0], sides[1]) if min(sides) > 0 else None,
            names=names,
        )
        self.precision = _metadata(path).get("precision", "unknown")
        """What the texts beside the engine say; TensorRT itself cannot be asked cheaply."""

    @torch.inference_mode()
    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], content_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``; ``content_sizes`` is None, for exported graphs do not know of padding."""
        pixels = torch.from_numpy(images).to(self.device)
        if pixels.dtype == torch.uint8 and not self.info.uint8:
            pixels = self.info.recipe.to_input(pixels)
        return self.run_placed(pixels, torch.from_numpy(orig_sizes).to(self.device))

    @torch.inference_mode()
    def run_placed(self, images: torch.Tensor, orig_sizes: torch.Tensor) -> Outputs:
        """As ``run``, of tensors on the GPU, the images as the engine reads them."""
        feed = {INPUTS[0]: images, INPUTS[1]: orig_sizes}
        with self._lock:
            labels, boxes, scores = self._execute(feed)
        return Outputs(labels.long().cpu().numpy(), boxes.float().cpu().numpy(), scores.float().cpu().numpy())

    def _execute(self, feed: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        ready = {name: one.to(self._types[name]).contiguous() for name, one in feed.items()}
        for name, one in ready.items():
            if not self._context.set_input_shape(name, tuple(one.shape)):
                raise ConfigError(
                    f"TensorRT: the engine was not built for {name} of the shape {tuple(one.shape)}: build it with a "
                    "larger batch, or for this image size"
                )
            self._context.set_tensor_address(name, one.data_ptr())
        found = []
        for name in OUTPUTS:
            shape = tuple(self._context.get_tensor_shape(name))
            found.append(torch.empty(shape, dtype=self._types[name], device=self.device))
            self._context.set_tensor_address(name, found[-1].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT: the engine failed; its own message stands above")
        stream.synchronize()
        return found


def _package(path: Path) -> Any:
    return require("tensorrt", f"{path}: running it", "tensorrt (several GB, NVIDIA only, the version that built it)")


def _read(trt: Any, path: Path) -> Any:
    said: list[str] = []

    class Log(trt.ILogger):
        """Keeps what TensorRT says of errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(text)

    runtime = trt.Runtime(Log())
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        built = _metadata(path).get(VERSION)
        reason = "; ".join([*([f"it was built with {built}"] if built else []), *(one.strip() for one in said[:1])])
        raise CheckpointError(
            f"{path}: TensorRT {trt.__version__} cannot load it{f' ({reason})' if reason else ''}: an engine runs only "
            "with the TensorRT version and the kind of GPU it was built with; build it again here with "
            "tools/export_trt.py"
        )
    return engine


def _torch_type(trt: Any, kind: Any) -> torch.dtype:
    known = {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
        trt.DataType.UINT8: torch.uint8,
    }
    if kind not in known:
        raise CheckpointError(f"TensorRT: the engine has inputs or outputs of type {kind}, which no export of ours has")
    return known[kind]


def _metadata(path: Path) -> dict[str, str]:
    beside, graph = metadata_path(path), path.with_suffix(".onnx")
    if beside.is_file():
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
            return {str(key): str(value) for key, value in content.items()}
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{beside}: cannot be read ({error}): build the engine again") from None
    if graph.is_file():
        from .onnx import read_metadata

        return read_metadata(graph)
    return {}
