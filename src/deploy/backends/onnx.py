# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...core.errors import ConfigError
from ...core.extras import need
from .base import INPUTS, OUTPUTS, UINT8
from .graph import GraphBackend, check_file, unreadable

_CUDA = "CUDAExecutionProvider"


class OnnxBackend(GraphBackend):
    """A graph from ``isdfine export``.

    Args:
        path: the ``.onnx`` file.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None = CUDA where this build of ONNX Runtime has it.
        threads: used for one image; None = ONNX Runtime's choice (all cores).
        names: see ``base.info_from``.

    Raises:
        CheckpointError: the file cannot be read, or is the model of another project.
        ConfigError: the package is missing, or has no such device.
    """

    runtime = "ONNX Runtime"

    def __init__(
        self,
        path: str | PathLike[str],
        device: str | None = None,
        threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._session = open_session(path, device, threads)
        inputs = {value.name: value for value in self._session.get_inputs()}
        where = "GPU" if self._session.get_providers()[0] == _CUDA else "CPU"
        super().__init__(
            path,
            f"onnxruntime {need('onnxruntime', 'export').__version__} ({where})",
            inputs={
                name: [side if isinstance(side, int) else None for side in value.shape]
                for name, value in inputs.items()
            },
            outputs=[value.name for value in self._session.get_outputs()],
            uint8=INPUTS[0] in inputs and UINT8 in inputs[INPUTS[0]].type,
            metadata=self._session.get_modelmeta().custom_metadata_map,
            names=names,
        )

    def _call(self, feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        answers: list[NDArray[Any]] = self._session.run(list(OUTPUTS), feed)
        return answers


def open_session(
    path: str | PathLike[str], device: str | None = "cpu", threads: int | None = None, **settings: str
) -> Any:
    """An ``InferenceSession`` of a file that is whole, on the device asked for; ``settings`` are entries of its config.

    Args and errors: see ``OnnxBackend``.
    """
    path = Path(path)
    runtime = need("onnxruntime", "export")
    provider, provider_options = _provider(runtime, device)
    check_file(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: what it could not optimise is nothing a user can change
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    try:
        session = runtime.InferenceSession(str(path), options, providers=[(provider, provider_options)])
    except Exception as error:  # noqa: BLE001  # its exceptions have no common base but Exception
        raise unreadable(path, OnnxBackend.runtime, "onnxruntime", error) from None
    if session.get_providers()[0] != provider:  # ONNX Runtime goes on with the CPU, and says so in a log only
        raise ConfigError(
            f"{path}: this onnxruntime ({runtime.__version__}) cannot start CUDA here, its libraries are missing "
            "or of another version: install those that onnxruntime.ai names for it, or give cpu"
        )
    return session


def _provider(runtime: Any, device: str | None) -> tuple[str, dict[str, Any]]:
    known = runtime.get_available_providers()
    kind, _, number = (device or ("cuda" if _CUDA in known else "cpu")).partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"device is {device!r}: give cpu, cuda or cuda:0")
    if kind == "cpu":
        return "CPUExecutionProvider", {}
    if _CUDA not in known:
        raise ConfigError(
            f"device is {device}, but this onnxruntime ({runtime.__version__}) knows only {', '.join(known)}: "
            "pip install onnxruntime-gpu in place of onnxruntime, or give cpu"
        )
    return _CUDA, {"device_id": int(number or 0), "use_tf32": 0}
