# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...core.errors import ConfigError
from ...core.extras import need
from .base import INPUTS, OUTPUTS
from .graph import GraphBackend, check_file, unreadable


@cache
def _core() -> Any:
    """One for the whole process, never given back.

    OpenVINO's CPU plugin gives the thread that calls it another stack for signals, and frees that memory with the last
    user of the plugin, whatever thread that is in: the next signal, Ctrl-C for one, would then end the process with a
    segmentation fault (2026.4).
    """
    return need("openvino", "openvino").Core()


class OpenVINOBackend(GraphBackend):
    """A graph from ``isdfine export``, computed in the precision of the file.

    Args:
        path: the ``.onnx`` file.
        device: one that OpenVINO finds: ``cpu``, ``gpu``, ``npu``; None = the CPU.
        threads: of the CPU, for one call; None = OpenVINO's choice (all cores).
        names: see ``base.info_from``.

    Raises:
        CheckpointError: the file cannot be read, or is the model of another project.
        ConfigError: the package is missing, or has no such device.
    """

    runtime = "OpenVINO"

    def __init__(
        self,
        path: str | PathLike[str],
        device: str | None = None,
        threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        path, openvino, core = Path(path), need("openvino", "openvino"), _core()
        chosen, known = (device or "cpu").upper(), core.available_devices
        if chosen not in known:
            raise ConfigError(f"device is {device!r}, OpenVINO finds here only {', '.join(known).lower()}: give one")
        if threads is not None and chosen != "CPU":
            raise ConfigError(f"threads are for the CPU: leave them out for {device}")
        check_file(path)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}  # its own choice is bf16 where the processor has it
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            graph = core.read_model(path)
            self._compiled = core.compile_model(graph, chosen, settings)
        except RuntimeError as error:
            raise unreadable(path, self.runtime, "openvino", error) from None
        inputs = {value.any_name: value for value in graph.inputs}
        super().__init__(
            path,
            f"openvino {openvino.__version__.partition('-')[0]} ({chosen})",
            inputs={
                name: [None if side.is_dynamic else side.get_length() for side in value.partial_shape]
                for name, value in inputs.items()
            },
            outputs=[value.any_name for value in graph.outputs],
            uint8=INPUTS[0] in inputs and inputs[INPUTS[0]].element_type == openvino.Type.u8,
            metadata=graph.get_rt_info("framework").value if graph.has_rt_info("framework") else {},
            names=names,
        )

    def _call(self, feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        # a request of its own for every call, for threads; copies, because share_inputs crashed in 2026.4
        answers = self._compiled.infer_new_request(feed)
        return [answers[name] for name in OUTPUTS]
