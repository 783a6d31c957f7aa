# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From parsed annotations to those a run uses: subset, class count, files, boxes. Every format goes this way."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.errors import ConfigError, DataError
from .. import Ints
from ..label_space import MSCOCO
from ..transforms.compose import Compose
from .annotations import Annotations, check_files
from .detection import DetectionDataset
from .frame import Upright
from .layout import placed_lines

logger = logging.getLogger(__name__)

_COPY = re.compile(r"\.rf\.[^./]+(?=\.)")
"""What Roboflow puts into the names of an image's augmented copies: they belong into one part."""


@dataclass(frozen=True)
class Subset:
    """Which images of a data set are used.

    Args:
        chosen: a fraction in (0, 1]; two fractions [begin, end] between which the draw is used; a text file with one
            image per line; or a list of images; None = all. An image is given by its file name; or by its id, base name
            or stem, where that is one image only.
        seed: of a fraction's draw. With one seed a smaller fraction is part of every larger one, and which images are
            drawn depends on their names alone (with their folder, where a format gives absolute names), not on their
            order or on the machine. [0, 0.2] and [0.2, 1] divide the images: none is in both, whether it is listed
            twice or augmented by Roboflow.

    Raises:
        ConfigError: a fraction outside (0, 1], fractions that are no begin and end.
    """

    chosen: float | str | Sequence[str] | tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.chosen, (int, float)) and not 0 < self.chosen <= 1:
            raise ConfigError(f"subset is {self.chosen}: give a fraction above 0 and at most 1, a list, or a text file")
        if self.stretch and not 0 <= self.stretch[0] < self.stretch[1] <= 1:
            raise ConfigError(
                f"subset is {list(self.stretch)}: give fractions [begin, end] with 0 <= begin < end <= 1 (ids as text)"
            )

    @property
    def stretch(self) -> tuple[float, float] | None:
        """Where the used part of the draw begins and ends; None where fractions do not say what is used."""
        if isinstance(self.chosen, (int, float)):
            return 0.0, float(self.chosen)
        if (
            isinstance(self.chosen, (list, tuple))
            and [type(item) in (int, float) for item in self.chosen] == [True] * 2
        ):
            return float(self.chosen[0]), float(self.chosen[1])
        return None

    def of(self, annotations: Annotations) -> Annotations:
        """The chosen images of annotations that were read completely.

        Raises:
            DataError: see ``indices``.
        """
        if self.chosen is None:
            return annotations
        ids = annotations.image_ids.tolist()
        return annotations.take(self.indices(annotations.file_names, ids, annotations.place))

    def indices(self, file_names: Sequence[str], image_ids: Sequence[int] | None, place: str) -> Ints:
        """Positions of the chosen images, ascending.

        Args:
            file_names: of n images.
            image_ids: theirs; None where the format has none.
            place: who lists them, for messages.

        Raises:
            DataError: the text file cannot be read, or names no image or several.
        """
        if self.chosen is None:
            return np.arange(len(file_names))
        if self.stretch:
            indices = self._drawn(file_names, *self.stretch)
        elif isinstance(self.chosen, str):
            try:
                lines = placed_lines(Path(self.chosen))
            except (OSError, UnicodeDecodeError) as error:
                text = f"{self.chosen}: the list of a subset cannot be read ({error}): check subset"
                raise DataError(text) from error
            indices = _named(lines, file_names, image_ids, place)
        else:
            assert not isinstance(self.chosen, (int, float)), "a stretch, too"
            named = [(f"subset, entry {number}", str(item)) for number, item in enumerate(self.chosen, 1)]
            indices = _named(named, file_names, image_ids, place)
        if not len(indices) and file_names:
            raise DataError(f"{place}: subset {self.chosen} of {len(file_names)} images is none of them: widen it")
        logger.info("%s: %d of %d images (subset)", place, len(indices), len(file_names))
        return np.unique(indices)

    def _drawn(self, file_names: Sequence[str], begin: float, end: float) -> Ints:
        key, whole = self.seed.to_bytes(8, "little", signed=True), isinstance(self.chosen, (int, float))
        names = file_names if whole else [_COPY.sub("", name) for name in file_names]
        draws = [hashlib.blake2b(os.fsencode(name), digest_size=8, key=key).digest() for name in names]
        order = sorted(set(draws))
        # A fraction takes one image at least, and a part leaves one at least to the other.
        first, last = (min(max(share > 0, round(share * len(order))), len(order) - (share < 1 and not whole))
                       for share in (begin, end))  # fmt: skip
        taken = set(order[first:last])
        return np.array([index for index, draw in enumerate(draws) if draw in taken], dtype=np.int64)


def _named(
    wanted: Sequence[tuple[str, str]], file_names: Sequence[str], image_ids: Sequence[int] | None, place: str
) -> Ints:
    """Positions of the images that (where it stands, name) pairs mean."""
    bases = [os.path.basename(name) for name in file_names]
    whole = _positions(file_names)
    ways = [
        _positions([] if image_ids is None else [str(number) for number in image_ids]),
        _positions(bases),
        _positions([os.path.splitext(name)[0] for name in bases]),
    ]
    indices = []
    for origin, name in wanted:
        meant = whole.get(name) or sorted({index for way in ways for index in way.get(name, [])})
        if not meant:
            raise DataError(
                f"{origin}: {place} has no image {name!r}: give file names as the annotations do, ids, or base names"
            )
        if len({file_names[index] for index in meant}) > 1:
            both = ", ".join(file_names[index] for index in meant[:3])
            raise DataError(f"{origin}: {name!r} may be any of {both}: give the whole file name")
        indices += meant
    if not indices:
        raise DataError(f"{place}: subset is an empty list: give images, or leave subset out")
    return np.array(indices, dtype=np.int64)


def _positions(names: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        positions.setdefault(name, []).append(index)
    return positions


def with_class_count(annotations: Annotations, num_classes: int | None, *, fixed_labels: bool = False) -> Annotations:
    """Check a configured class count; where it is the largest id + 1, the ids become the labels.

    That is how official files for Objects365 (366 for ids 1..365), CrowdHuman and many custom sets are written.

    Args:
        fixed_labels: the order of labels was given otherwise (classes, remap_mscoco_category).

    Raises:
        DataError: any other count; lists the classes of the data and the remedy.
    """
    space = annotations.label_space
    if num_classes is None or num_classes == len(space):
        return annotations
    if num_classes == max(space.category_ids) + 1 > len(space) and min(space.category_ids) >= 0 and not fixed_labels:
        logger.warning(
            "%s: num_classes is %d, the largest category id + 1, for %d classes: the ids are the labels, as in "
            "official files, and %d outputs stay unused; leave num_classes out to have one output per class",
            annotations.place, num_classes, len(space), num_classes - len(space),
        )  # fmt: skip
        labels = np.array(space.category_ids, dtype=np.int64)[annotations.labels]
        return replace(annotations, label_space=space.with_unused_ids(), labels=labels)
    if space == MSCOCO:
        raise DataError(
            f"num_classes is {num_classes}, but {annotations.place} is read with COCO's {len(space)} classes: set "
            f"remap_mscoco_category: False for classes of your own, or num_classes: {len(space)}"
        )
    raise DataError(
        f"num_classes is {num_classes}, but {annotations.place} has {len(space)} classes: {space.describe()}. "
        f"Set num_classes: {len(space)}, leave it out to have it read from the data, or correct the annotation file"
    )


def report_boxes_without_area(annotations: Annotations, rule: str) -> None:
    """Say how many boxes have nothing inside their image: empty, inverted, or outside.

    Args:
        rule: ``error``: inverted boxes and boxes outside are mistakes; ``drop``: they are left out like empty ones,
            with one warning, as the official recipe does in silence.

    Raises:
        DataError: there are inverted boxes or boxes outside, and the rule is ``error``.
    """
    rows = annotations.without_area()
    if not rows.size:
        return
    width, height = annotations.boxes_xywh_px[rows, 2:].T
    inverted, empty = (width < 0) | (height < 0), (width == 0) | (height == 0)
    counts: Mapping[str, int] = {
        "inverted": int(inverted.sum()),
        "of zero size": int((empty & ~inverted).sum()),
        "outside the image": int((~empty & ~inverted).sum()),
    }
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    owners = np.searchsorted(annotations.offsets, rows[:5], side="right") - 1
    names = ", ".join(dict.fromkeys(annotations.file_names[index] for index in owners.tolist()))
    text = (
        f"{annotations.place}: {rows.size} of {len(annotations.ids)} boxes cover nothing of their image ({kinds}), "
        f"annotation ids {', '.join(map(str, annotations.ids[rows[:5]]))}{', ...' if rows.size > 5 else ''} "
        f"(in {names})"
    )
    if rule == "error" and (inverted | ~empty).any():
        raise DataError(f"{text}: correct them, or leave them out with invalid_boxes: drop (in the dataset section)")
    logger.warning("%s: not used as training targets", text)


class PreparedDataset(DetectionDataset):
    """Annotated images of any format: read, checked against what a config says, and ready for training or evaluation.

    Args:
        parse: gives the annotations for ``subset`` and ``upright``; they know the folder of their images.
        transforms: applied to (image, target).
        fixed_labels: see ``with_class_count``.
        num_classes: class count to check against; None takes the data's. The largest id + 1 is taken as official files
            mean it: see ``with_class_count``.
        invalid_boxes: ``error`` stops on boxes that are inverted (negative width or height) or wholly outside their
            image, which are mistakes of a conversion; ``drop`` leaves them out with a warning, as the official recipe
            does in silence. Boxes of zero width or height are left out with a warning in both cases.
        allow_no_targets: train (with a warning) although no box is left to learn from: all are crowd regions, fractions
            of their image or too small, or there is none. Otherwise that stops a training before it begins.
        subset: part of the images: a fraction in (0, 1], a list of file names or ids (as text: YAML reads 000012 as
            another number), a text file with one per line, or two fractions: ``[0, 0.2]`` of one data set and
            ``[0.2, 1]`` of another divide the images.
        subset_seed: of a fraction's draw; with one seed a smaller fraction is part of every larger one.
        upright: whether boxes belong to pictures as EXIF turns them and viewers show them (True), or as they are stored
            (False). ``auto``: what the sizes of images on their side say of the file; without such images, True.

    Raises:
        DataError: see the parser; a class count that is not the data's, missing images, invalid boxes.
        ConfigError: a fraction outside (0, 1].
    """

    def __init__(
        self,
        parse: Callable[..., Annotations],
        transforms: Compose | None,
        fixed_labels: bool = False,
        /,
        *,
        num_classes: int | None = None,
        invalid_boxes: Literal["error", "drop"] = "error",
        allow_no_targets: bool = False,
        subset: float | str | list[str] | tuple[float, float] | None = None,
        subset_seed: int = 0,
        upright: Upright = "auto",
    ) -> None:
        parsed = parse(subset=Subset(subset, subset_seed), upright=upright)
        annotations = with_class_count(parsed, num_classes, fixed_labels=fixed_labels)
        place, names = annotations.place, annotations.file_names
        for name, other in annotations.label_space.alike():
            logger.warning(
                "%s: the classes %r and %r differ in case or spaces only: two classes; rename one if they are one",
                place, name, other,
            )  # fmt: skip
        check_files(parsed.folder, names, place)
        if twice := len(names) - len(set(names)):
            logger.warning(
                "%s: %d of %d images are listed more than once; each entry counts, in training and in metrics",
                place, twice, len(names),
            )  # fmt: skip
        report_boxes_without_area(annotations, invalid_boxes)
        super().__init__(annotations, parsed.folder, transforms, allow_no_targets=allow_no_targets)
