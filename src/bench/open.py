# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From what a command line names to a model that can be timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError
from ..data.label_space import LabelSpace
from ..deploy.onnx.graph import Deployed, GraphForm, to_onnx
from ..deploy.onnx.half import to_half
from ..deploy.preprocess import image_size_of, recipe_of
from ..load import load_detector
from ..weights.cache import located
from .onnx_subject import OnnxSubject
from .openvino_subject import OpenVINOSubject
from .random_weights import random_detector
from .subject import RunWith, Subject, recipe_for
from .torch_subject import TensorRTSubject, TorchSubject, check_mode, facts_of

BackendName = Literal["eager", "compile", "graph", "onnx", "openvino", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
Read = Callable[[Path, Sequence[str]], Config]
_YAML, _ENGINES = (".yml", ".yaml"), (".engine", ".trt")


@dataclass(frozen=True)
class Named:
    """What one word of the command line says: ``[BACKEND:]PATH[+CHECKPOINT]``."""

    text: str
    path: Path
    backend: BackendName
    checkpoint: Path | None = None

    @property
    def built_here(self) -> bool:
        """Whether the model is built in PyTorch, so that a precision can be asked for."""
        return self.path.suffix not in (".onnx", *_ENGINES)


def parse(text: str, default: BackendName | None = None) -> Named:
    """Read one word.

    Args:
        text: a config (random weights), a config with a checkpoint behind a plus sign, a checkpoint, a folder of
            transformers, an ``.onnx`` file or an engine; before it a backend and a colon.
        default: backend of models in PyTorch where the word names none; None = eager.

    Raises:
        ConfigError: a backend that does not fit the file.
    """
    head, colon, rest = text.partition(":")
    given = head if colon and head in BACKENDS else None
    place, checkpoint = rest if given else text, ""
    if not Path(place).exists():  # a plus sign may be part of a name
        place, _, checkpoint = place.partition("+")
    path = located(place)
    own: BackendName | None = "onnx" if path.suffix == ".onnx" else "tensorrt" if path.suffix in _ENGINES else None
    backend = given or own or default or "eager"
    if own is not None and backend != own and (own, backend) != ("onnx", "openvino"):
        raise ConfigError(f"{text}: {path.suffix} files are run by {own}: leave {backend} out")
    if own is None and backend == "tensorrt":
        raise ConfigError(f"{text}: TensorRT runs engines: make one with isdfine trt and give the .engine file")
    if own is None and backend == "openvino":
        raise ConfigError(f"{text}: OpenVINO runs ONNX files: make one with isdfine export and give the .onnx file")
    if checkpoint and path.suffix not in _YAML:
        raise ConfigError(f"{text}: a checkpoint after + belongs to a config (.yml): give the checkpoint alone")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file: give [BACKEND:]PATH[+CHECKPOINT], backends {', '.join(BACKENDS)}")
    return Named(text, path, backend, Path(checkpoint) if checkpoint else None)


def open_subject(named: Named, wanted: RunWith, read: Read) -> Subject:
    """A model, ready to be called.

    Args:
        named: which.
        wanted: how.
        read: reads a config with its changes, ``isdfine.load_config``: which components there are is known there.

    Raises:
        ConfigError, CheckpointError: it cannot be read, built, or run as wanted.
    """
    if named.backend == "tensorrt":
        return TensorRTSubject(named.path, wanted)
    if named.backend == "openvino":
        return OpenVINOSubject(named.path, wanted)
    if not named.built_here:
        return OnnxSubject(named.path, wanted)
    if named.backend != "onnx":
        check_mode(named.backend, wanted.device)  # before the seconds that building takes
    elif wanted.precision == "bf16":
        raise ConfigError(f"{named.text}: ONNX files are written in fp32 or fp16: give --precision fp16")
    deployed, size, weights, labels = _built(named, wanted, read)
    if named.backend == "onnx":
        return _as_onnx(deployed, named, size, weights, labels, wanted)
    facts = facts_of(deployed, named.text, named.backend, size, wanted.precision, weights)
    return TorchSubject(deployed, replace(facts, labels=labels), wanted, named.backend)


def _built(named: Named, wanted: RunWith, read: Read) -> tuple[Deployed, tuple[int, int], str, LabelSpace | None]:
    """Model with post-processing, (height, width), what its weights are, and its classes."""
    if named.path.suffix in _YAML and named.checkpoint is None:
        return _random(read(named.path, wanted.updates), wanted)
    file = named.checkpoint or named.path
    if wanted.updates and named.checkpoint is None:
        raise ConfigError(f"{named.text}: -u changes a config: give CONFIG.yml+CHECKPOINT")
    config = None if named.checkpoint is None else read(named.path, wanted.updates)
    loaded = load_detector(file, config)
    size = wanted.size or recipe_of(loaded.config).size or image_size_of(loaded.config)
    if loaded.config.get("eval_spatial_size") not in (None, list(size)):
        loaded = load_detector(file, loaded.config.with_values({"eval_spatial_size": list(size)}))
    return Deployed(loaded.model, loaded.postprocessor, recipe_of(loaded.config)), size, f"of {file}", loaded.labels


def _random(config: Config, wanted: RunWith) -> tuple[Deployed, tuple[int, int], str, None]:
    model, config = random_detector(config, wanted.size)
    size = image_size_of(config)
    return Deployed(model, config.build("postprocessor"), recipe_of(config)), size, "random", None


def _as_onnx(
    deployed: Deployed, named: Named, size: tuple[int, int], weights: str, labels: LabelSpace | None, wanted: RunWith
) -> OnnxSubject:
    """Exported as isdfine export does, without its comparison, and gone when it is loaded."""
    proto = to_onnx(deployed, GraphForm(size))
    if wanted.precision == "fp16":
        proto = to_half(proto)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        subject = OnnxSubject(path, replace(wanted, size=size))
    subject.facts = replace(
        subject.facts, source=named.text, precision=wanted.precision, weights=weights, labels=labels,
        recipe=recipe_for(deployed.recipe, size),
    )  # fmt: skip
    return subject
