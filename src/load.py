# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The one way from a file or folder to a model, for training, evaluation, export, conversion and ``Detector`` alike.

A model is handed around as a checkpoint (of ours, of the official code, a bare state dict), as safetensors with or
without a card, or as a folder of transformers. ``open_checkpoint`` reads each of them to the same :class:`Checkpoint`;
``load_detector`` builds the model that it describes and puts the weights in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .core.checkpoint import LAST, checkpoints_in, family_of, read_checkpoint, weights_in
from .core.checkpoint.card import Card, file_sha256, read_card
from .core.checkpoint.weights import class_tensors, count_classes, load_weights, nothing_fits
from .core.config import Config, without_initial_weights
from .core.config.foreign import refuse_other_kinds
from .core.config.layers import read_tree
from .core.config.node import locate, parse_yaml
from .core.config.plan import SHARED
from .core.config.shipped import find_config
from .core.errors import CheckpointError, ConfigError
from .core.registry import IMPORTS, REGISTRY, import_components
from .data import collate as collate
from .data import transforms as transforms
from .data.label_space import MSCOCO, LabelSpace, mscoco_rows
from .weights.cache import located, published_at
from .zoo import parts as parts
from .zoo.huggingface.config import config_from_huggingface
from .zoo.huggingface.families import WEIGHTS_ONLY, class_count, label_names
from .zoo.huggingface.folder import CONFIG, HuggingFaceFolder, is_huggingface, read_folder
from .zoo.huggingface.weights import from_huggingface, transformers_family

logger = logging.getLogger(__name__)

TRANSFORMS, COLLATE = "val_dataloader.dataset.transforms", "val_dataloader.collate_fn"
"""Where a config says how images of an evaluation are prepared."""
_ANY_COUNT = 80
"""Classes of the model that only tells which of its tensors count them."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds."""

    path: Path
    form: str  # in words
    weights: dict[str, Tensor]
    """The ones to judge and to start from, those of the EMA where there is one, under our names (the official ones)."""
    weights_file: Path
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Everything else that the file or its card says: the state of a run, its config, its classes."""
    metrics: dict[str, float] = field(default_factory=dict)
    licence: str | None = None
    notes: str = ""
    """What its card says beyond that."""
    folder: HuggingFaceFolder | None = field(default=None, repr=False)

    @property
    def provenance(self) -> str:
        """One line for a card."""
        return f"{self.form}: {self.path.name}, SHA-256 {file_sha256(self.weights_file)}"

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The resolved config of the run, where the file has it.

        Raises:
            CheckpointError: its text is no YAML.
        """
        saved = self.content.get("config")
        if isinstance(saved, str):
            try:
                saved = parse_yaml(saved, f"{self.path} (config)").plain()
            except ConfigError as error:
                raise CheckpointError(f"{error}: the checkpoint is damaged; give the run's config with -c") from error
        return saved if isinstance(saved, dict) else None

    @cached_property
    def model_sections(self) -> dict[str, Any] | None:
        """The model's part of a config, where only that can be known (transformers)."""
        if self.folder is None or self.folder.config.get("model_type") in WEIGHTS_ONLY:
            return None
        return config_from_huggingface(self.folder.config, self.weights, image_size=self.folder.image_size)

    @cached_property
    def label_space(self) -> LabelSpace | None:
        """The classes, where the file names them, with their original ids; official files name none.

        Raises:
            CheckpointError: names without ids, or ids without names.
        """
        saved, known = self.content.get("label_space"), None
        try:
            known = LabelSpace.from_dict(saved) if saved else None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: its label_space cannot be read ({error}): the checkpoint is damaged, it must hold names "
                "and as many unique category_ids; keep only the weights (torch.save of the state dict), and say the "
                "names with tuning_classes"
            ) from error
        names = None if self.folder is None else label_names(self.folder.config, class_count(self.weights))
        if names is None or (known is not None and tuple(names) == known.names):
            return known  # of a card: with the original category ids, which config.json has no place for
        return MSCOCO if tuple(names) == MSCOCO.names else LabelSpace(tuple(names), tuple(range(len(names))))


@dataclass(frozen=True)
class LoadedDetector:
    """A model as it was trained, in eval mode on the CPU, with all that a checkpoint tells of it."""

    model: nn.Module
    labels: LabelSpace
    config: Config
    """Checked, with the number of classes in it and nothing to load: the weights are in the model."""
    checkpoint: Checkpoint

    @cached_property
    def postprocessor(self) -> nn.Module:
        """What turns predictions into detections."""
        module: nn.Module = self.config.build("postprocessor")
        return module


def open_checkpoint(path: str | PathLike[str], *, ema: bool | None = None) -> Checkpoint:
    """Read a model, whatever its form; nothing is built.

    Args:
        path: official ``.pth``; a checkpoint of ours, or the folder of a run, which means its ``last.pth``;
            ``.safetensors`` of ours, with or without card; a folder of transformers or its weights file; a state dict
            of transformers in a ``.pth``; a name of published weights, whose config and classes are then known.
        ema: take the averaged weights (True), the plain ones (False), or the averaged ones where there are any (None).

    Raises:
        CheckpointError: it cannot be read, holds no weights, or lacks those that ``ema`` asks for.
    """
    path = located(path)
    checkpoint, published = _opened(path, ema), published_at(path)
    if published is None:
        return checkpoint
    content = {**published.content(), **checkpoint.content}
    return replace(checkpoint, content=content, licence=checkpoint.licence or published.licence)


def _opened(path: Path, ema: bool | None) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder: check the path")
    if kept := checkpoints_in(path):
        if kept[0].name != LAST:
            logger.warning("%s has no %s: %s is taken", path, LAST, kept[0])
        path = kept[0]
    if path.is_dir() or is_huggingface(path) or path.suffix == ".safetensors":
        if ema is not None:
            raise CheckpointError(f"{path}: holds one set of weights: --ema and --no-ema are for .pth checkpoints")
        return _from_folder(path) if path.is_dir() or is_huggingface(path) else _from_safetensors(path)
    return _from_torch(path, ema)


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that ``path`` means: the file itself, one of a run's folder, or transformers' folder.

    Of a run's folder it is ``last.pth``; where that is missing, ``best.pth`` or another one. A URL is an error.
    """
    path = located(path)
    kept = checkpoints_in(path)  # a run may have other files in its folder
    if not kept and path.is_dir() and is_huggingface(path):
        return path
    file = kept[0] if kept else path / LAST if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; give a .pth or .safetensors file, or the folder of a run")
    return file


def load_detector(
    path: str | PathLike[str] | Checkpoint,
    config: str | PathLike[str] | Config | None = None,
    *,
    ema: bool | None = None,
) -> LoadedDetector:
    """Read, build and check a trained model.

    Args:
        path: see :func:`open_checkpoint`; or what it returned.
        config: YAML file or config of the run, for files that carry none (official checkpoints); it wins over the
            file's own.
        ema: see :func:`open_checkpoint`.

    Raises:
        CheckpointError: the file cannot be read, carries no config, or weights and config do not fit.
        ConfigError: the config has no model.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path, ema=ema)
    model, described = build_with(checkpoint, _config_of(checkpoint, config))
    count = described.get("num_classes")
    labels = checkpoint.label_space
    if labels is None:
        labels = mscoco_rows(described, count)
    if labels is None:
        labels = LabelSpace(tuple(f"class {number}" for number in range(count)), tuple(range(count)))
    if len(labels) != count:
        raise CheckpointError(
            f"{checkpoint.path}: {len(labels)} class names for weights with {count} classes: the file is damaged"
        )
    return LoadedDetector(model, labels, described, checkpoint)


def build_with(checkpoint: Checkpoint, config: Config) -> tuple[nn.Module, Config]:
    """The model of a config with a checkpoint's weights, in eval mode, and the config with their class count in it.

    How many classes there are, the class heads say; which tensors these are, the model says (``class_rows``).

    Raises:
        CheckpointError: no class heads among the weights, or weights of another model.
    """
    weights, source = checkpoint.weights, str(checkpoint.path)
    known = config.get("num_classes") or _ANY_COUNT
    config = _with_count(config, known)
    model: nn.Module = config.build("model")
    count = count_classes(weights, class_tensors(model))
    if count is None:
        raise CheckpointError(nothing_fits(model, weights, source))
    if count != known:
        config = _with_count(config, count)
        model = config.build("model")
    load_weights(model, weights, source=source)
    return model.eval(), config


def _with_count(config: Config, num_classes: int) -> Config:
    """The config as it is kept with weights: nothing to load, the class count written down."""
    nothing = {key: None for key in ("resume", "tuning") if config.get(key) is not None}
    return without_initial_weights(config, **nothing, num_classes=num_classes)


def inference_config(data: Mapping[str, Any], place: str, num_classes: int = _ANY_COUNT) -> Config:
    """The sections of model, post-processor and evaluation transforms; data, losses and schedules are left out.

    The transforms are the section ``Compose``, whatever place of the data they have in the run's config.
    ``num_classes`` is for files that leave the number to data, which need not be here.
    """
    wanted = {key: data[key] for key in ("model", "postprocessor") if data.get(key) is not None}
    for dotted in (TRANSFORMS, COLLATE):
        section = _section(data, dotted)
        section = {"type": section} if isinstance(section, str) else section
        if section is not None:
            name = section.get("type", "Compose")
            own = {key: value for key, value in section.items() if key != "type"}
            wanted[name] = {**(data.get(name) or {}), **own}
    kept = {key: data[key] for key in (*SHARED, *_words(wanted, data)) if data.get(key) is not None}
    kept.setdefault("num_classes", num_classes)
    return Config(locate({**kept, **wanted}, place), place)


def _from_folder(path: Path) -> Checkpoint:
    folder = read_folder(path)
    version = folder.config.get("transformers_version") or "unknown"
    form = f"transformers {transformers_family(folder.weights)} folder (transformers {version})"
    try:
        card = read_card(folder.weights_file)
    except CheckpointError as error:  # the model was saved again by transformers since
        logger.warning("%s; the card is left out", error)
        card = None
    return _with_card(path, form, from_huggingface(folder.weights), folder.weights_file, card, folder)


def _from_safetensors(path: Path) -> Checkpoint:
    weights, card = read_checkpoint(path), read_card(path)
    if _is_huggingface_state(weights) and (path.parent / CONFIG).is_file():
        return _from_folder(path)
    if _is_huggingface_state(weights):
        form = f"transformers {transformers_family(weights)} weights without config.json"
        return Checkpoint(path, form, from_huggingface(weights), path)
    form = "safetensors without card"
    if card is not None:
        form = f"isdfine safetensors with card (isdfine {card.version or '?'}, {card.date or 'no date'})"
    return _with_card(path, form, weights_in(weights, str(path)), path, card)


def _with_card(
    path: Path, form: str, weights: dict[str, Tensor], file: Path, card: Card | None,
    folder: HuggingFaceFolder | None = None,
) -> Checkpoint:  # fmt: skip
    if card is None:
        return Checkpoint(path, form, weights, file, folder=folder)
    content = {"config": card.config, "label_space": card.label_space}
    return Checkpoint(path, form, weights, file, content, card.metrics, card.licence, card.notes, folder)


def _from_torch(path: Path, ema: bool | None) -> Checkpoint:
    content = read_checkpoint(path)
    has_ema = isinstance(content.get("ema"), Mapping) and "module" in content["ema"]
    if ema and not has_ema:
        raise CheckpointError(f"{path}: no averaged weights (ema.module) in it: leave --ema out")
    if ema is False and has_ema and "model" not in content:
        raise CheckpointError(f"{path}: only averaged weights (ema.module) in it: leave --no-ema out")
    chosen = {key: value for key, value in content.items() if key != "ema"} if ema is False else content
    weights = weights_in(chosen, str(path))
    which = "averaged weights" if has_ema and ema is not False else "plain weights"
    if _is_huggingface_state(weights):
        form = f"transformers {transformers_family(weights)} state dict"
        return Checkpoint(path, form, from_huggingface(weights), path)
    if "label_space" not in content and "config" not in content:
        form = f"official {(family_of(weights) or 'D-FINE').removeprefix('a ')} checkpoint ({which})"
        return Checkpoint(path, form, weights, path, content)
    texts = {key: content[key] for key in ("licence", "notes") if isinstance(content.get(key), str)}
    return Checkpoint(path, f"isdfine checkpoint ({which})", weights, path, content, _metrics(content, path), **texts)


def _is_huggingface_state(state: Mapping[str, object]) -> bool:
    """Whether tensors have the names of transformers."""
    places = ("model.backbone.model.", "model.backbone.conv_encoder.", "model.encoder_input_proj.")
    return any(str(key).startswith(places) for key in state)


def _metrics(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Those a conversion wrote, else the AP of a run's ``best*.pth``; its other checkpoints did not get it."""
    if isinstance(content.get("metrics"), Mapping):
        return {str(name): float(value) for name, value in content["metrics"].items()}
    best = content.get("progress")
    for _ in range(2):  # Progress.best is a record, whose best is the AP
        best = best.get("best") if isinstance(best, Mapping) else None
    return {"AP": float(best)} if isinstance(best, (int, float)) and path.name.startswith("best") else {}


def _config_of(checkpoint: Checkpoint, given: str | PathLike[str] | Config | None) -> Config:
    """What inference needs of the config that is given, or else of the checkpoint's own.

    Modules under ``imports`` are loaded where a part comes from them and a file of the user names them; that a weights
    file does so is no reason to run code.
    """
    classes = len(checkpoint.label_space or ()) or _ANY_COUNT
    if isinstance(given, Config):
        return inference_config(given.data, given.path, classes)
    tree = None if given is None else read_tree(find_config(given))
    if tree is not None:
        if "model" not in tree.value:
            refuse_other_kinds(tree)
        data, place = tree.plain(), str(given)
    else:
        own = checkpoint.config
        data, file = (checkpoint.model_sections, CONFIG) if own is None else (own, "config")
        place = f"{checkpoint.path} ({file})"
    if data is None:
        raise CheckpointError(
            f"{checkpoint.path} ({checkpoint.form}) holds no config: give the YAML file it was trained with "
            "(config=..., on the command line -c)"
        )
    try:
        return inference_config(data, place, classes)
    except ConfigError as error:
        names = data.get(IMPORTS)
        if not names:
            raise
        if tree is None:
            modules = ", ".join(map(str, names)) if isinstance(names, list) else names
            raise CheckpointError(
                f"{str(error).splitlines()[0]}; it may come from the modules {modules} of its author, and code is not "
                "run because a weights file says so: if you trust them, give the YAML file of the run (-c FILE, "
                "config=FILE), or import them before"
            ) from error
    import_components(tree)
    return inference_config(data, place, classes)


def _words(value: Any, data: Mapping[str, Any]) -> set[str]:
    """Sections of ``data`` that a value names, directly or through the sections that it names."""
    named: set[str] = set()
    unread: list[Any] = [value]
    while unread:
        part = unread.pop()
        if isinstance(part, Mapping):
            unread += part.values()
        elif isinstance(part, (list, tuple)):
            unread += part
        elif isinstance(part, str) and part in REGISTRY and part in data and part not in named:
            named.add(part)
            unread.append(data[part])
    return named


def _section(data: Mapping[str, Any], dotted: str) -> Any:
    """A nested section; a data set's arguments may stand in a section of its own as well."""
    section: Any = data
    for part in dotted.split("."):
        if isinstance(section, str):
            section = data.get(section)
        if not isinstance(section, Mapping):
            return None
        elsewhere = data.get(section["type"]) if isinstance(section.get("type"), str) else None
        section = {**(elsewhere or {}), **section}.get(part)
    return section
