# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models on torch's tensors: PyTorch's own (eager, compiled, or as a CUDA graph) and TensorRT engines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..deploy.backends.base import Outputs
from ..deploy.backends.tensorrt import TensorRTBackend
from ..deploy.onnx.graph import Deployed
from ..nn.attention import QuerySelfAttention
from .subject import IN_GRAPH, Facts, Precision, RunWith, recipe_for

Mode = Literal["eager", "compile", "graph"]
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_HALVED = (nn.Conv2d, nn.Linear, QuerySelfAttention)
Answer = tuple[Tensor, Tensor, Tensor]


class TorchSubject:
    """A detector in PyTorch.

    In fp16 and bf16 the weights of convolutions, linear layers and attention are stored so, and autocast keeps in fp32
    what needs it, as the run's own evaluation does. In fp32 convolutions do without TF32, which PyTorch would
    use on a GPU: the same fp32 as the other backends'.

    Args:
        deployed: fused model and post-processing, on the CPU; it is moved and, in half precision, changed.
        facts: about it.
        wanted: device, precision, batch.
        mode: ``eager``; ``compile``, torch.compile with its default settings; ``graph``, a CUDA graph of the eager
            calls.

    Raises:
        ConfigError: a CUDA graph on the CPU.
    """

    def __init__(self, deployed: Deployed, facts: Facts, wanted: RunWith, mode: Mode) -> None:
        check_mode(mode, wanted.device)
        self.facts = facts
        self._device = wanted.device
        self._type = _TYPES.get(wanted.precision)
        torch.backends.cudnn.allow_tf32 = False
        if self._type is not None:
            for layer in deployed.modules():
                if isinstance(layer, _HALVED):
                    layer.to(self._type)
        self._module = deployed.to(wanted.device)
        self._run: Callable[[Tensor, Tensor], Answer] = self._module
        if mode == "compile":
            self._run = torch.compile(self._module)
        elif mode == "graph":
            height, width = facts.size
            self._run = self._captured((wanted.batch, 3, height, width))

    def place(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """See ``Subject``."""
        return torch.from_numpy(images).to(self._device), torch.from_numpy(sizes).to(self._device)

    @torch.inference_mode()
    def call(self, placed: tuple[Tensor, Tensor]) -> Outputs:
        """See ``Subject``."""
        with self._autocast():
            labels, boxes, scores = self._run(*placed)
        return Outputs(labels.cpu().numpy(), boxes.float().cpu().numpy(), scores.float().cpu().numpy())

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._type)

    @torch.inference_mode()
    def _captured(self, shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], Answer]:
        """Record one call; not run on our machines, written after PyTorch's documentation of ``torch.cuda.graph``."""
        images = torch.rand(shape, device=self._device)
        sizes = torch.tensor([[shape[3], shape[2]]] * shape[0], device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), self._autocast():
            for _ in range(3):
                self._module(images, sizes)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), self._autocast():
            answer: Answer = self._module(images, sizes)

        def replay(new_images: Tensor, new_sizes: Tensor) -> Answer:
            images.copy_(new_images)
            sizes.copy_(new_sizes)
            graph.replay()
            return answer

        return replay


def check_mode(mode: Mode, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Raises:
        ConfigError: a CUDA graph on the CPU.
    """
    if mode == "graph" and device.type != "cuda":
        raise ConfigError(f"graph: CUDA graphs need a GPU, the device is {device}: use eager or compile here")


def facts_of(
    deployed: Deployed, source: str, mode: Mode, size: tuple[int, int], precision: Precision, weights: str
) -> Facts:
    """Facts about a model in PyTorch, its classes left open."""
    backend = f"torch {torch.__version__} {'CUDA graph' if mode == 'graph' else mode}"
    return Facts(source, backend, precision, size, weights, IN_GRAPH, recipe_for(deployed.recipe, size))


class TensorRTSubject:
    """A TensorRT engine. Not run: no machine of ours has TensorRT.

    Args:
        path: the file.
        wanted: device, batch, size.

    Raises:
        CheckpointError, ConfigError: see ``TensorRTBackend``; a batch that the engine was not built for.
    """

    def __init__(self, path: Path, wanted: RunWith) -> None:
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
