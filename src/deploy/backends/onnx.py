# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.checkpoint import check_sum
from ...core.errors import CheckpointError, ConfigError
from ...core.extras import need
from .base import INPUTS, OUTPUTS, UINT8, BackendInfo, Outputs, check_interface, info_from

_CUDA = "CUDAExecutionProvider"


class OnnxBackend:
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

    def __init__(
        self,
        path: str | PathLike[str],
        device: str | None = None,
        threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._session, self._path = open_session(path, device, threads), path
        inputs = {value.name: value for value in self._session.get_inputs()}
        check_interface(str(path), list(inputs), [value.name for value in self._session.get_outputs()])
        batch, _, *size = inputs[INPUTS[0]].shape
        self._fixed_batch = batch if isinstance(batch, int) else None
        self._type: Any = np.uint8 if UINT8 in inputs[INPUTS[0]].type else np.float32
        where = "GPU" if self._session.get_providers()[0] == _CUDA else "CPU"
        self.info: BackendInfo = info_from(
            self._session.get_modelmeta().custom_metadata_map,
            str(path),
            f"onnxruntime {need('onnxruntime', 'export').__version__} ({where})",
            uint8=self._type is np.uint8,
            max_batch=self._fixed_batch,
            size=(size[0], size[1]) if all(isinstance(side, int) for side in size) else None,
            names=names,
        )

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``; ``image_sizes`` is None, for exported graphs do not know of padding."""
        if images.dtype == np.uint8 and not self.info.uint8:
            images = self.info.recipe.to_input(torch.from_numpy(images)).numpy()
        count = len(images)
        feed = {INPUTS[0]: images, INPUTS[1]: orig_sizes.astype(np.int64, copy=False)}
        if self._fixed_batch is not None and count < self._fixed_batch:  # the rest repeats the last image
            spare = [(0, self._fixed_batch - count)]
            feed = {k: np.pad(array, spare + [(0, 0)] * (array.ndim - 1), mode="edge") for k, array in feed.items()}
        try:
            labels, boxes, scores = self._session.run(list(OUTPUTS), feed)
        except Exception as error:  # noqa: BLE001  # its exceptions have no common base but Exception
            raise CheckpointError(
                f"{self._path}: ONNX Runtime stopped at {count} images of {' x '.join(map(str, images.shape[2:]))} "
                f"({reason(error)}): the graph does not take every batch or size that its inputs promise, or memory "
                "ran out; try a batch of 1, or export it again with isdfine export"
            ) from None
        return Outputs(
            labels[:count].astype(np.int64, copy=False),
            boxes[:count].astype(np.float32, copy=False),
            scores[:count].astype(np.float32, copy=False),
        )


def open_session(
    path: str | PathLike[str], device: str | None = "cpu", threads: int | None = None, **settings: str
) -> Any:
    """An ``InferenceSession`` of a file that is whole, on the device asked for; ``settings`` are entries of its config.

    Args and errors: see ``OnnxBackend``.
    """
    path = Path(path)
    runtime = need("onnxruntime", "export")
    provider, provider_options = _provider(runtime, device)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: check the path")
    check_sum(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: what it could not optimise is nothing a user can change
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    try:
        session = runtime.InferenceSession(str(path), options, providers=[(provider, provider_options)])
    except Exception as error:  # noqa: BLE001  # its exceptions have no common base but Exception
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes): ONNX Runtime cannot load it ({reason(error)}): it is damaged, no "
            "ONNX file, or needs a newer onnxruntime"
        ) from None
    if session.get_providers()[0] != provider:  # ONNX Runtime goes on with the CPU, and says so in a log only
        raise ConfigError(
            f"{path}: this onnxruntime ({runtime.__version__}) cannot start CUDA here, its libraries are missing "
            "or of another version: install those that onnxruntime.ai names for it, or give cpu"
        )
    return session


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
