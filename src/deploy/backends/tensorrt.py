# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT 10 and 11, with PyTorch for the memory on the GPU. Experimental.

Never run: no machine of ours has TensorRT. Written against its documented Python API; the sequence of calls is tested
with a module that only looks like it.
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
from torch import Tensor

from ...core.environment import pick_device
from ...core.errors import CheckpointError, ConfigError
from ...core.extras import need
from .base import INPUTS, OUTPUTS, BackendInfo, Outputs, check_interface, info_from


def metadata_path(engine: Path) -> Path:
    """Where the texts of an engine lie, which it cannot carry itself: ``model.engine.json`` beside ``model.engine``."""
    return engine.with_name(f"{engine.name}.json")


class TensorRTBackend:
    """An engine from ``isdfine trt``, or from ``trtexec`` with the ``.onnx`` file of the same stem beside it.

    Args:
        path: the engine.
        device: ``cuda`` or ``cuda:1``; None = the first GPU.
        names: see ``base.info_from``.

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
        needed = "tensorrt (several GB, NVIDIA only, the version that built it)"
        trt = need("tensorrt", install=needed)
        self.device = pick_device(device or "cuda")
        texts = _texts(path)
        self._lock = threading.Lock()  # an execution context serves one call at a time
        self._engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            built = f" (it was built with {texts['tensorrt_version']})" if "tensorrt_version" in texts else ""
            raise CheckpointError(
                f"{path}: TensorRT {trt.__version__} cannot load it{built}, its log above says why: an engine runs "
                "only with the TensorRT version and the kind of GPU it was built with; build it again here with "
                "isdfine trt"
            )
        self._context = self._engine.create_execution_context()
        tensors = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in tensors if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        check_interface(str(path), inputs, [name for name in tensors if name not in inputs])
        self._types = {
            name: torch.from_numpy(np.empty(0, trt.nptype(self._engine.get_tensor_dtype(name)))).dtype
            for name in tensors
        }
        largest = tuple(self._engine.get_tensor_profile_shape(INPUTS[0], 0)[2])
        height, width = tuple(self._engine.get_tensor_shape(INPUTS[0]))[2:]
        self.info: BackendInfo = info_from(
            texts,
            str(path),
            f"tensorrt {trt.__version__} ({self.device})",
            uint8=self._types[INPUTS[0]] == torch.uint8,
            max_batch=int(largest[0]),
            size=(height, width) if min(height, width) > 0 else None,
            names=names,
        )
        self.precision = texts.get("precision", "unknown")
        """What the texts beside the engine say; TensorRT itself cannot be asked cheaply."""

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``; ``image_sizes`` is None, for exported graphs do not know of padding."""
        pixels = torch.from_numpy(images).to(self.device)
        if pixels.dtype == torch.uint8 and not self.info.uint8:
            pixels = self.info.recipe.to_input(pixels)
        return self.run_placed(pixels, torch.from_numpy(orig_sizes).to(self.device))

    @torch.inference_mode()
    def run_placed(self, images: Tensor, orig_sizes: Tensor) -> Outputs:
        """As ``run``, of tensors on the GPU, the images as the engine reads them."""
        given = zip(INPUTS, (images, orig_sizes))
        tensors = {name: values.to(self._types[name]).contiguous() for name, values in given}
        with self._lock:
            for name, values in tensors.items():
                if not self._context.set_input_shape(name, tuple(values.shape)):
                    raise ConfigError(
                        f"TensorRT: the engine was not built for {name} of the shape {tuple(values.shape)}: build it "
                        "with a larger batch, or for this image size"
                    )
            for name in OUTPUTS:
                shape = tuple(self._context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=self._types[name], device=self.device)
            for name, values in tensors.items():
                self._context.set_tensor_address(name, values.data_ptr())
            stream = torch.cuda.current_stream(self.device)
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("TensorRT: the engine failed; its own message stands above")
            stream.synchronize()
        labels, boxes, scores = (tensors[name].cpu() for name in OUTPUTS)
        return Outputs(labels.long().numpy(), boxes.float().numpy(), scores.float().numpy())


def _texts(path: Path) -> dict[str, str]:
    """What is known of an engine: the file beside it, else the metadata of the graph it was made from."""
    beside, graph = metadata_path(path), path.with_suffix(".onnx")
    if beside.is_file():
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
            return {str(key): str(value) for key, value in content.items()}
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{beside}: cannot be read ({error}): build the engine again") from None
    if graph.is_file():
        from .onnx import open_session

        metadata: dict[str, str] = open_session(graph).get_modelmeta().custom_metadata_map
        return metadata
    return {}
