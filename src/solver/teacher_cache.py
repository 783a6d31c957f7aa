# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a frozen teacher says of the images of a run, kept on disk: it looks at each view of an image once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..core import dist
from ..core.config.settings import CachePlan, TeacherPlan
from ..core.entries import DIGEST_BYTES, Entries
from ..core.errors import ConfigError, DataError
from ..core.files import why
from ..data.collate import BatchImageCollateFunction, PaddedBatchCollateFunction
from ..data.dataset.detection import DetectionDataset
from ..data.loader import DataLoader, Shown
from ..distill.taught import Batch
from ..load import LoadedDetector
from ..nn.types import DetectorOutput, Predictions, Want

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of entries; another one makes all of them another recipe's."""
_PARTS = ("teacher", "data", "recipe")
_SAME_BOX, _SAME_SHARE = 0.02, 0.5
"""Two answers are of the same image where this share of the boxes differs by less than this fraction of the image:
arithmetic on another machine swaps a few queries of nearly equal scores."""


class TeacherCache:
    """Answers of one teacher, for one data set, under one recipe.

    An answer belongs to an image as a view of the data shows it (:class:`~isdfine.data.loader.Shown`) and is an entry
    of its own, so that batches may be composed in another way. A batch of which all are there is not shown to the
    teacher; of any other it sees all images. Either way scores, distributions and ``hidden`` are rounded to half
    precision, and boxes are not: a step gives the same losses.

    Entries lie below ``teacher-T/data-D/recipe-R``, digests of what they depend on, so those of anything else are never
    read. The first batch that could be read is compared with what the teacher says: that notices what no digest sees,
    such as another version of a transform.

    Args:
        plan: the folder and its bounds.
        parts: what the answers depend on, by ``teacher``, ``data``, ``recipe``: any texts.
        shown: which images a batch holds; None for images that are none of the data set's, which are never kept.
    """

    def __init__(
        self, plan: CachePlan, parts: Mapping[str, str], shown: Callable[[Tensor], Sequence[Shown] | None]
    ) -> None:
        self.plan, self.parts, self.shown = plan, dict(parts), shown
        self.agrees: bool | None = None
        """Whether entries are what the teacher says; None: not compared yet."""
        self.place = ""
        """Below the folder."""
        self._entries: Entries | None = None

    def open(self, want: Want) -> None:
        """Find the place of the answers to what all methods want, and name others that are not used."""
        recipe = json.dumps([FORMAT, want.layers, sorted(want.taps), self.parts["recipe"]])
        texts = {**self.parts, "recipe": recipe}
        names = [f"{part}-{_digest(texts[part].encode())[:12]}" for part in _PARTS]
        self.place = os.path.join(*names)
        folder = Path(self.plan.folder)
        if dist.is_main():
            _report(folder, names)
        self._entries = Entries(
            folder,
            int(self.plan.gigabytes * 1e9),
            what="teacher cache",
            when_full="the teacher looks at all other images each time; raise teacher.cache.gigabytes, or delete what "
            "belongs to other teachers, data or recipes",
            magic=b"ISDFTCH1",
            within=self.place,
            checksum=lambda content: zlib.crc32(content).to_bytes(4, "little"),
        )

    def answer(self, batch: Batch, ask: Callable[[], DetectorOutput]) -> DetectorOutput:
        """What the teacher says of a batch; ``ask`` has it look at it."""
        digests = self._digests(batch.images)
        found = self._read(digests)
        if found is not None and self.agrees:
            return _output({name: value.to(batch.images.device, non_blocking=True) for name, value in found.items()})
        said = dict(_named(ask()))
        if found is not None:
            self._compare(found, said)
        else:
            self._write(digests, said)
        return _output(said)

    def _digests(self, images: Tensor) -> list[str]:
        """One per image; none for images that are not to be found here."""
        shown = None if self.agrees is False else self.shown(images)
        return [_digest(repr(tuple(image)).encode()) for image in shown or ()]

    def _read(self, digests: Sequence[str]) -> dict[str, Tensor] | None:
        """All images of a batch, or nothing."""
        assert self._entries is not None, "open() comes first"
        images = []
        for digest in digests:
            if (content := self._entries.read(digest)) is None:
                return None
            images.append(safetensors.torch.load(content))
        return {name: torch.stack([image[name] for image in images]) for name in images[0]} if images else None

    def _write(self, digests: Sequence[str], said: Mapping[str, Tensor]) -> None:
        assert self._entries is not None
        here = {name: value.cpu() for name, value in said.items()} if digests else {}
        for row, digest in enumerate(digests):
            image = {name: value[row].clone() for name, value in here.items()}
            self._entries.write(digest, safetensors.torch.save(image))

    def _compare(self, found: Mapping[str, Tensor], said: Mapping[str, Tensor]) -> None:
        """Whether an entry is what the teacher says of the image."""
        one, other = found["layers.0.boxes"], said["layers.0.boxes"].cpu()
        same = (one - other).abs().amax(-1) < _SAME_BOX if one.shape == other.shape else torch.zeros(1)
        self.agrees = bool(same.float().mean() >= _SAME_SHARE)
        if not self.agrees:
            logger.warning(
                "%s: the teacher cache holds other answers than the teacher gives for the same images: it is not used; "
                "delete it (has a transform or a file changed since it was filled?)", self.plan.folder,
            )  # fmt: skip


def build_cache(plan: TeacherPlan, loaded: LoadedDetector, loader: DataLoader, place: str) -> TeacherCache | None:
    """The cache that a config asks for, and let the training data repeat as it needs.

    Args:
        place: of the teacher's section, for messages.

    Raises:
        ConfigError: batches in which an image's pixels may depend on the others.
        DataError: an image file is gone.
    """
    if plan.cache is None:
        return None
    collate, transforms = loader.collate_fn, loader.dataset.transforms
    if type(collate) not in (BatchImageCollateFunction, PaddedBatchCollateFunction):
        raise ConfigError(
            f"{place}.cache: train_dataloader.collate_fn is {type(collate).__name__}, which may mix the images of a "
            "batch, so what the teacher sees is no image of the data: remove teacher.cache, or use "
            "BatchImageCollateFunction or PaddedBatchCollateFunction"
        )
    loader.views = plan.cache.views
    kept = transforms.cache and (transforms.cache.side, transforms.cache.quality)
    recipe = {
        "transforms": describe(transforms.ops), "stop": [transforms.stop_epoch, sorted(transforms.stopped)],
        "fused": transforms.fused, "images": kept, "collate": [type(collate).__name__, getattr(collate, "fill", None)],
        "seed": loader.seed, "precision": plan.precision, "resize": plan.resize,
    }  # fmt: skip
    parts = {
        "teacher": weights_digest(loaded.model) + loaded.config.dump(),
        "data": data_digest(loader.dataset),
        "recipe": json.dumps(recipe, sort_keys=True),
    }
    return TeacherCache(plan.cache, parts, loader.shown)


def _report(folder: Path, names: Sequence[str]) -> None:
    """Name what lies in the folder and is not this run's."""
    ours = folder.joinpath(*names).is_dir()
    for other in sorted(folder.glob("/".join(f"{part}-*" for part in _PARTS))):
        theirs = other.relative_to(folder).parts
        differ = [part for part, own, name in zip(_PARTS, names, theirs) if own != name]
        if differ:
            level = logging.INFO if ours else logging.WARNING
            logger.log(level, "%s: kept answers of another %s: not used here", other, " and ".join(differ))


def weights_digest(model: nn.Module) -> str:
    """Of all weights and statistics."""
    parts = []
    for name, tensor in model.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {_digest(content.numpy())}")
    return _digest("\n".join(parts).encode())


def data_digest(dataset: DetectionDataset) -> str:
    """Of the annotations (augmentations depend on boxes), and the names and sizes of the image files.

    Raises:
        DataError: a file is gone.
    """
    data, hashed = dataset.annotations, hashlib.blake2b(digest_size=DIGEST_BYTES)
    for array in (data.image_ids, data.sizes, data.offsets, data.labels, data.boxes_xywh_px, data.crowd):
        hashed.update(array.tobytes())
    try:
        sizes = [os.stat(dataset.img_folder / name).st_size for name in data.file_names]
    except OSError as error:
        raise DataError(f"{data.place}: {error.filename}: {why(error)}") from error
    hashed.update(json.dumps([data.file_names, sizes, data.upright]).encode())
    return hashed.hexdigest()


def describe(value: Any) -> Any:
    """A value as plain data: objects by their class and public attributes."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple | nn.ModuleList):
        return [describe(item) for item in value]
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    own = {name: describe(item) for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    parts = {name: describe(part) for name, part in value.named_children()} if isinstance(value, nn.Module) else {}
    named = re.sub(r" at 0x[0-9a-f]+", "", f"{describe(type(value))} {value}")  # addresses are another run's others
    return {"class": describe(type(value)), **own, **parts} if own or parts else named


def _digest(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


_FIELDS = tuple(field.name for field in fields(Predictions))
_CONSTANTS = ("up", "reg_scale")


def _named(output: DetectorOutput) -> Iterator[tuple[str, Tensor]]:
    """What is kept, by name: an image per row, boxes in full and all else in half precision."""
    heads = {f"layers.{index}": layer for index, layer in enumerate(output.layers)}
    heads |= {} if output.initial is None else {"initial": output.initial}
    for head, predictions in heads.items():
        for name in _FIELDS:
            if (value := getattr(predictions, name)) is not None:
                yield f"{head}.{name}", value.float() if "boxes" in name else value.half()
    for index, hidden in enumerate(output.taps.get("hidden", ())):
        yield f"hidden.{index}", hidden.half()
    for name in _CONSTANTS:
        if (value := getattr(output, name)) is not None:
            yield name, value.float().expand(len(output.layers[0].boxes), *value.shape)


def _output(named: Mapping[str, Tensor]) -> DetectorOutput:
    """The inverse, in float32."""

    def head(prefix: str) -> Predictions:
        return Predictions(**{name: named[key].float() for name in _FIELDS if (key := f"{prefix}.{name}") in named})

    layers, hidden = (
        sum(name.startswith(f"{kind}.") and name.endswith(end) for name in named)
        for kind, end in (("layers", ".boxes"), ("hidden", ""))
    )
    return DetectorOutput(
        [head(f"layers.{index}") for index in range(layers)],
        initial=head("initial") if "initial.boxes" in named else None,
        taps={"hidden": tuple(named[f"hidden.{index}"].float() for index in range(hidden))} if hidden else {},
        **{name: named[name][0] for name in _CONSTANTS if name in named},  # type: ignore[arg-type]
    )
