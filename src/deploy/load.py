# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A trained model, ready to answer, from any file it is kept in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ..core.checkpoint.weights import load_weights
from ..core.config import Config
from ..core.config.layers import read_tree
from ..core.config.node import locate
from ..core.config.plan import SHARED
from ..core.errors import CheckpointError, ConfigError
from ..core.registry import IMPORTS, REGISTRY, Registry, import_components
from ..data.collate import BatchImageCollateFunction, PaddedBatchCollateFunction
from ..data.label_space import MSCOCO, LabelSpace
from ..data.transforms import Compose
from ..nn.backbone.hgnetv2 import HGNetv2
from ..nn.backbone.resnet import PResNet
from ..nn.backbone.timm import TimmBackbone
from ..zoo.dfine.decoder import DFINETransformer
from ..zoo.dfine.encoder import HybridEncoder
from ..zoo.dfine.huggingface_config import class_count
from ..zoo.dfine.model import DFINE
from ..zoo.dfine.postprocess import DFINEPostProcessor
from .convert import image_size_of, resolved
from .preprocess import Recipe
from .source import Source, open_source

_PARTS: tuple[type, ...] = (
    *(DFINE, HGNetv2, PResNet, TimmBackbone, HybridEncoder, DFINETransformer, DFINEPostProcessor),
    *(Compose, BatchImageCollateFunction, PaddedBatchCollateFunction),
)
"""Classes that a config of inference names, besides the ops of ``Compose`` and what users registered."""
_SLOTS = ("model", "postprocessor")
_TRANSFORMS, _COLLATE = "val_dataloader.dataset.transforms", "val_dataloader.collate_fn"
_COLLATES = "CollateFunction"


@dataclass(frozen=True)
class LoadedModel:
    """Everything that turns an image into detections."""

    model: nn.Module
    """In eval mode, on the CPU, as trained (``fuse`` makes the deployed form)."""
    postprocessor: nn.Module
    labels: LabelSpace
    recipe: Recipe
    """How images are prepared."""
    config: Config
    """The parts of the run's config that inference needs, checked."""
    source: Source


def load_model(
    path: str | PathLike[str], config: str | PathLike[str] | Config | None = None, *, ema: bool | None = None
) -> LoadedModel:
    """Read, build and check a trained model.

    Args:
        path: whatever ``open_source`` reads: ``.pth``, ``.safetensors``, a folder of transformers.
        config: YAML file or config of the run, for files that carry none (official checkpoints); it wins over the
            file's own.
        ema: averaged weights of a ``.pth``, plain ones, or averaged ones where there are any (None).

    Raises:
        CheckpointError: the file cannot be read, carries no config, or weights and config do not fit.
        ConfigError: the config has no model, or evaluates with operations that inference cannot do.
    """
    source = open_source(path, ema=ema)
    count = class_count(source.weights)
    found = resolved(_config_of(source, config, count), count)  # no weights to start from: the file brings all
    model: nn.Module = found.build("model")
    load_weights(model, source.weights, source=str(path))
    labels = source.label_space or _labels_without_names(found, count)
    if len(labels) != count:
        raise CheckpointError(
            f"{path}: {len(labels)} class names for weights with {count} classes: the file is damaged"
        )
    return LoadedModel(model.eval(), found.build("postprocessor"), labels, recipe_of(found), found, source)


def recipe_of(config: Config) -> Recipe:
    """How a run prepares images for evaluation; squashed to ``eval_spatial_size`` where it does not say.

    Args:
        config: a run's, or what ``load_model`` made of it.

    Raises:
        ConfigError: operations that inference cannot do.
    """
    small = config if config.get("val_dataloader") is None else _inference_config(config.data, config.path)
    if small.get("Compose") is None:
        return Recipe.squash(image_size_of(small))
    collate = next((name for name in small.registry if name.endswith(_COLLATES) and small.get(name) is not None), None)
    return Recipe.of_evaluation(small.build("Compose"), None if collate is None else small.build(collate))


def _config_of(source: Source, given: str | PathLike[str] | Config | None, classes: int) -> Config:
    if isinstance(given, Config):
        return _inference_config(given.data, given.path, classes)
    if given is not None:
        tree = read_tree(Path(given))
        return _with_modules(tree.plain(), str(given), classes, lambda: import_components(tree))
    found, file = (source.config, "config") if source.config is not None else (source.model_sections, "config.json")
    if found is None:
        raise CheckpointError(
            f"{source.path} ({source.form}) holds no config: give the YAML file it was trained with (config=..., "
            "on the command line -c)"
        )
    return _with_modules(found, f"{source.path} ({file})", classes, None)


def _with_modules(
    data: Mapping[str, Any], place: str, classes: int, run_imports: Callable[[], object] | None
) -> Config:
    """``_inference_config``; modules under ``imports`` are loaded only where a part of it comes from them.

    ``run_imports`` loads them; None where a weights file names them, which is no reason to run code.
    """
    try:
        return _inference_config(data, place, classes)
    except ConfigError as error:
        names = data.get(IMPORTS)
        if not names:
            raise
        if run_imports is None:
            modules = ", ".join(map(str, names)) if isinstance(names, list) else names
            raise CheckpointError(
                f"{str(error).splitlines()[0]}; it may come from the modules {modules} of its author, and code is not "
                "run because a weights file says so: if you trust them, give the YAML file of the run (-c FILE, "
                "config=FILE), or import them before"
            ) from error
    run_imports()
    return _inference_config(data, place, classes)


def _inference_config(data: Mapping[str, Any], place: str, classes: int | None = None) -> Config:
    """The sections of model, post-processor and evaluation transforms; data, losses and schedules are left out.

    A registry of its own is used, because building closes it: whoever detects first may still train afterwards.
    ``classes`` is their number in the weights, for files that leave it to data which need not be here.
    """
    registry = Registry()
    for cls in {**{one.__name__: one for one in _PARTS}, **{name: REGISTRY[name] for name in REGISTRY}}.values():
        registry.alias(cls.__name__, cls)  # it may have another project's name as well, and come twice
    kept = {key: value for key, value in data.items() if key in registry or key in SHARED or key in _SLOTS}
    if classes is not None and kept.get("num_classes") is None:
        kept["num_classes"] = classes
    for dotted in (_TRANSFORMS, _COLLATE):
        section = _section(data, dotted)
        if isinstance(section, str):
            section = {"type": section}
        if section is not None:
            name = section.get("type", "Compose")
            own = {key: value for key, value in section.items() if key != "type"}
            kept[name] = {**(kept.get(name) or {}), **own}
    return Config(locate(kept, place), place, registry)


def _section(data: Mapping[str, Any], dotted: str) -> Any:
    """A nested section; a data set's arguments may stand in a section of its own as well."""
    found: Any = data
    for part in dotted.split("."):
        if isinstance(found, str):
            found = data.get(found)
        if not isinstance(found, Mapping):
            return None
        elsewhere = data.get(found["type"]) if isinstance(found.get("type"), str) else None
        found = {**(elsewhere or {}), **found}.get(part)
    return found


def _labels_without_names(config: Config, count: int) -> LabelSpace:
    if count == len(MSCOCO) and config.get("remap_mscoco_category"):
        return MSCOCO
    return LabelSpace(tuple(f"class {one}" for one in range(count)), tuple(range(count)))
