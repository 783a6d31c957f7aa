# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Is an ONNX file the model that it should be? Its structure is read, and ONNX Runtime is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CheckpointError
from ..backends.base import Outputs
from ..backends.graph import reason
from ..backends.onnx import open_session
from .compare import FP32, Difference, Tolerance, compare
from .sample import VerificationSample
from .structure import ExportError, read_graph, structure_problems

if TYPE_CHECKING:
    from onnx import ModelProto

BATCHES = (1, 3, 8)
FP16 = Tolerance(score=0.02, box=2.0, floor=0.1, outliers=0.05, middle=0.125)
"""Of detections with at least a tenth of the image's best score, 95 % must be this near; queries at the end of the
selection change places in half precision. Half of them must be eight times nearer. Measured in docs/export.md."""
TOLERANCES = {"fp32": FP32, "fp16": FP16}


def verify(
    path: str | Path,
    samples: Sequence[VerificationSample] = (),
    *,
    precision: str | None = None,
    dynamic_size: bool = False,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Difference]:
    """Check an ONNX file, whoever wrote it.

    Args:
        path: the file.
        samples: images with PyTorch's answers, one per size; without any only the structure is checked.
        precision: ``fp32`` or ``fp16``, what the file should be; None for what its metadata say, else fp32.
        dynamic_size: height and width must be free.
        batches: numbers of images to run together, up to 8.

    Returns: differences by case, for example ``batch 3 of 640 x 640``.

    Raises:
        ExportError: all that is wrong, with the output and the batch where a comparison failed.
    """
    proto = read_graph(path)
    named = precision or {entry.key: entry.value for entry in proto.metadata_props}.get("precision", "fp32")
    if named not in TOLERANCES:
        raise ExportError(f"{path}: its precision is {named!r}: known are {', '.join(TOLERANCES)}")
    problems = structure_problems(
        proto,
        precision=named,
        layer_norms=samples[0].layer_norms if samples else None,
        dynamic_size=dynamic_size,
    )
    if problems:
        raise ExportError(f"{path}: " + "; ".join(problems))
    if not samples:
        return {}
    differences, wrong = _run_all(session_of(path), proto, samples, batches, TOLERANCES[named])
    if wrong:
        raise ExportError(f"{path}: ONNX Runtime and PyTorch disagree: " + "; ".join(wrong))
    return differences


def session_of(path: str | Path) -> Any:
    """ONNX Runtime on the CPU, one thread per operation.

    Raises:
        ExportError: the runtime refuses the file.
    """
    try:
        return open_session(path, threads=1)
    except CheckpointError as error:
        raise ExportError(str(error)) from error


def _run_all(
    session: Any, proto: ModelProto, samples: Sequence[VerificationSample], batches: Sequence[int], tolerance: Tolerance
) -> tuple[dict[str, Difference], list[str]]:
    """Differences and problems by case."""
    differences, wrong = {}, []
    as_uint8 = proto.graph.input[0].type.tensor_type.elem_type == 2
    for sample in samples:
        height, width = sample.pixels.shape[-2:]
        for count in batches:
            case = f"batch {count} of {height} x {width}"
            try:
                outputs = _run(session, sample, count, as_uint8=as_uint8)
            except ExportError as error:
                wrong.append(f"{case}: {error}")
                continue
            expected = sample.expected.take(slice(count))
            shapes = {part.shape for part in outputs} - {part.shape for part in expected}
            if shapes:
                wrong.append(f"{case}: results of shape {shapes}, PyTorch's are {[array.shape for array in expected]}")
                continue
            differences[case] = compare(expected, outputs, sample.scale[:count], tolerance)
            wrong += [f"{case}: {problem}" for problem in differences[case].problems(tolerance)]
    return differences, wrong


def _run(session: Any, sample: VerificationSample, count: int, *, as_uint8: bool) -> Outputs:
    images: NDArray[Any] = sample.pixels[:count] if as_uint8 else sample.inputs[:count]
    feed = {"images": np.ascontiguousarray(images), "orig_target_sizes": sample.sizes[:count]}
    try:
        return Outputs(*session.run(None, feed))
    except Exception as error:  # as above
        raise ExportError(f"it does not run ({reason(error)})") from error
