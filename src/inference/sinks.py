# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where detections go: pictures, videos, COCO JSON, YOLO text files, CSV. Each writes as it goes.

A sink is a context manager: files of a whole run get their names when it ends well, and are removed after an error.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from ..core.errors import cell, one_line
from ..core.files import whole_file
from ..data.label_space import LabelSpace
from ..deploy.detections import BOX_DIGITS, SCORE_DIGITS, Detections
from .sources import InputImage
from .video import VideoWriter

_KEPT = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Endings that drawn pictures keep; others become PNG."""
_QUALITY = 92


class Sink(Protocol):
    """Takes the detections of one picture after another."""

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """``drawn`` gives the picture with its boxes; it is drawn once for all sinks, and only if one asks."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Pictures:
    """Every picture with its boxes, under its own name in ``folder``.

    Args:
        folder: to write.
        names: of all pictures, so that what ``a.tif`` becomes does not take the place of another's ``a.tif.png``.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ()) -> None:
        self.folder = folder
        self._names = frozenset(names)

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """See ``Sink``."""
        name = frame.name
        if PurePath(name).suffix.lower() not in _KEPT:
            name += ".png"
            while name in self._names:
                name += ".png"
        path = self.folder / name
        form = Image.registered_extensions()[path.suffix.lower()]
        with whole_file(path, durable=False) as partial:
            drawn().save(partial, format=form, quality=_QUALITY, subsampling=0)  # sharp coloured lines

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class Videos:
    """Every video with its boxes as ``folder/NAME.mp4``, without sound; single pictures are passed over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = ""
        self._open = ExitStack()
        self._writer: VideoWriter | None = None

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """See ``Sink``."""
        if frame.clip is None:
            return
        picture = drawn()
        if self._writer is None or frame.clip.name != self._name:
            self._open.close()
            self._name = frame.clip.name
            path, size = self.folder / f"{self._name}.mp4", (picture.height, picture.width)
            self._writer = self._open.enter_context(VideoWriter(path, frame.clip.rate, size))
        self._writer.write(picture, frame.seconds)

    def __enter__(self) -> Videos:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the last video; after an error it is removed, those before it stay."""
        self._open.__exit__(kind, error, trace)


class CocoJson:
    """One COCO file: ``images``, ``annotations`` with a ``score``, ``categories`` with the original ids.

    Both long lists are written as they come; the second waits in a file beside the first.
    """

    def __init__(self, path: Path, labels: LabelSpace) -> None:
        self.path, self.labels = path, labels
        self._stack = ExitStack()
        self._images = self._annotations = 0

    def __enter__(self) -> CocoJson:
        self._rows = self.path.with_name(self.path.name + ".images.tmp")
        self._stack.callback(self._rows.unlink, missing_ok=True)
        partial = self._stack.enter_context(whole_file(self.path))
        self._main: IO[str] = self._stack.enter_context(open(partial, "w", encoding="utf-8"))
        self._side: IO[str] = self._stack.enter_context(open(self._rows, "w+", encoding="utf-8"))
        categories = [{"id": number, "name": name} for number, name in zip(self.labels.category_ids, self.labels.names)]
        self._main.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')
        return self

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """See ``Sink``."""
        self._images += 1
        image: dict[str, Any] = {"id": self._images, "file_name": PurePath(frame.name).as_posix()}
        image |= {"height": detections.size[0], "width": detections.size[1]}
        if frame.clip is not None:
            image |= {"video": frame.clip.name, "frame": frame.number, "seconds": frame.seconds}
        self._side.write(_separated(self._images, image))
        for entry in detections.to_coco(self._images):
            self._annotations += 1
            area = round(entry["bbox"][2] * entry["bbox"][3], BOX_DIGITS)
            entry = {"id": self._annotations, **entry, "area": area, "iscrowd": 0}
            self._main.write(_separated(self._annotations, entry))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put both parts together; after an error nothing is left."""
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._main.write('],\n"images": [')
            self._side.seek(0)
            shutil.copyfileobj(self._side, self._main)
            self._main.write("]}\n")


def _separated(number: int, entry: dict[str, Any]) -> str:
    return ("\n" if number == 1 else ",\n") + json.dumps(entry, ensure_ascii=False)


class Yolo:
    """A text file per picture in ``folder``: ``class cx cy w h`` as fractions of the image, clipped to it.

    Args:
        folder: gets ``classes.txt`` with the names in label order too.
        labels: the classes.
        scores: add the score as a sixth column, which tools for annotated data refuse.
        names: of all pictures, to tell ``a.jpg`` from ``a.png``: where two share a stem, or it is that of
            ``classes.txt``, the text file has the whole name of the picture before its ``.txt``.
    """

    def __init__(self, folder: Path, labels: LabelSpace, *, scores: bool = False, names: Sequence[str] = ()) -> None:
        self.folder, self.labels, self.scores = folder, labels, scores
        stems = Counter(str(PurePath(name).with_suffix("")) for name in names)
        self._shared = {stem for stem, count in stems.items() if count > 1} | {"classes"} | set(names)

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """See ``Sink``."""
        stem = str(PurePath(frame.name).with_suffix(""))
        with whole_file(self.folder / f"{frame.name if stem in self._shared else stem}.txt", durable=False) as partial:
            partial.write_text("".join(self._rows(detections)), encoding="utf-8")

    def _rows(self, detections: Detections) -> list[str]:
        detections = detections.clipped()
        height, width = detections.size
        low, high = detections.boxes[:, :2].astype(np.float64), detections.boxes[:, 2:].astype(np.float64)
        values = np.concatenate([(low + high) / 2, high - low], axis=1) / [width, height, width, height]
        rows = []
        for box, label, score in zip(values.tolist(), detections.labels.tolist(), detections.scores.tolist()):
            if min(box[2:]) > 0:
                last = f" {score:.{SCORE_DIGITS}f}" if self.scores else ""
                rows.append(f"{label} " + " ".join(f"{value:.6f}" for value in box) + f"{last}\n")
        return rows

    def __enter__(self) -> Yolo:
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / "classes.txt", durable=False) as partial:
            partial.write_text("".join(f"{name}\n" for name in self.labels.names), encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class Table:
    """One CSV file with a row per detection."""

    HEAD = ("file", "frame", "seconds", "x1", "y1", "x2", "y2", "score", "label", "category_id", "name")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> Table:
        partial = self._stack.enter_context(whole_file(self.path))
        file = self._stack.enter_context(open(partial, "w", encoding="utf-8", newline=""))
        self._rows = csv.writer(file)
        self._rows.writerow(self.HEAD)
        return self

    def write(self, frame: InputImage, detections: Detections, drawn: Callable[[], Image.Image]) -> None:
        """See ``Sink``."""
        file = cell(one_line(frame.name))
        place: tuple[object, ...] = (file, "", "")
        if frame.clip is not None:
            place = (file, frame.number, "" if frame.seconds is None else f"{frame.seconds:.3f}")
        ids = detections.label_space.category_ids
        for box, score, label, name in detections:
            corners = [f"{value:.{BOX_DIGITS}f}" for value in box]
            self._rows.writerow([*place, *corners, f"{score:.{SCORE_DIGITS}f}", label, ids[label], cell(name)])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file its name; after an error it is removed."""
        self._stack.__exit__(kind, error, trace)
