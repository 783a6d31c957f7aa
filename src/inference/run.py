# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The loop: pictures in, detections out, a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

from ..core.errors import DataError
from ..deploy.detections import Detections
from ..deploy.detector import THRESHOLD, Detector
from .sinks import Sink
from .sources import InputImage, Skipped
from .tiling import Tiling


@dataclass
class InferenceSummary:
    """What a run did."""

    pictures: int = 0
    skipped: int = 0
    interrupted: bool = False
    """Ended by Ctrl-C; everything up to there is written."""
    per_class: Counter[str] = field(default_factory=Counter)
    """Detections by class name."""


def run(
    detector: Detector,
    sources: Sequence[Iterable[InputImage | Skipped]],
    sinks: Sequence[Sink],
    *,
    threshold: float = THRESHOLD,
    tiling: Tiling | None = None,
    on_picture: Callable[[], None] = lambda: None,
    on_skip: Callable[[Skipped], None] = lambda _: None,
) -> InferenceSummary:
    """Detect in everything and write it. Memory does not depend on how much there is.

    Args:
        detector: its ``batch_size`` pictures are held at a time.
        sources: see ``open_sources``; what cannot be used is reported and passed over.
        sinks: entered already.
        threshold: smallest score.
        tiling: cut every picture into tiles; None = look at it whole.
        on_picture: called after each picture.
        on_skip: called for each that cannot be used.
    """
    summary = InferenceSummary()
    try:
        for item, detections in _answers(detector, chain.from_iterable(sources), threshold, tiling):
            if isinstance(item, Skipped) or detections is None:
                summary.skipped += 1
                on_skip(item if isinstance(item, Skipped) else Skipped(item.name, item.name))
            else:
                drawn = cache(detections.draw)
                for sink in sinks:
                    sink.write(item, detections, drawn)
                summary.pictures += 1
                summary.per_class.update(detections.names)
            on_picture()
    except KeyboardInterrupt:
        summary.interrupted = True
    return summary


def _answers(
    detector: Detector, items: Iterable[InputImage | Skipped], threshold: float, tiling: Tiling | None
) -> Iterator[tuple[InputImage | Skipped, Detections | None]]:
    """Every item with its detections, in order; what turns out unusable becomes ``Skipped``."""
    waiting: list[InputImage | Skipped] = []
    for item in items:
        waiting.append(item)
        if len(waiting) >= (1 if tiling else detector.batch_size):
            yield from _batch(detector, waiting, threshold, tiling)
            waiting = []
    yield from _batch(detector, waiting, threshold, tiling)


def _batch(
    detector: Detector, items: Sequence[InputImage | Skipped], threshold: float, tiling: Tiling | None
) -> list[tuple[InputImage | Skipped, Detections | None]]:
    frames = [item for item in items if isinstance(item, InputImage)]
    try:
        if tiling is None:
            answers = iter(detector.detect([frame.image for frame in frames], threshold))
        else:
            answers = iter([tiling.detect(detector, frame.image, threshold) for frame in frames])
    except DataError as error:  # one picture that the recipe cannot take must not cost the others of its batch
        if len(items) == 1:
            return [(Skipped(items[0].name, f"{items[0].name}: {error}"), None)]
        return [pair for item in items for pair in _batch(detector, [item], threshold, tiling)]
    return [(item, next(answers) if isinstance(item, InputImage) else None) for item in items]
