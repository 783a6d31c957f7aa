# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""All checks of a data set, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .boxes import check_boxes, check_ids, check_targets
from .classes import check_classes, check_objects
from .findings import KINDS, SEVERITIES, Finding, Split
from .pictures import check_files, check_lookalikes, check_orphans, check_repeated, check_unlisted, with_true_sizes
from .pixels import FilePixels, Progress, read_pixels, silent


def check(
    splits: Sequence[Split],
    *,
    queries: int = 300,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[Finding]:
    """Everything that is wrong with a data set, the worst first.

    Args:
        splits: its parts, read with collected problems.
        queries: detections that the model can make of an image.
        workers: threads that decode images, None for one per core.
        progress: wraps long loops.
    """
    return check_with(splits, read_files(splits, workers=workers, progress=progress), queries=queries)


def read_files(
    splits: Sequence[Split], *, workers: int | None = None, progress: Progress = silent
) -> dict[Path, FilePixels]:
    """The image files of all entries, each read once."""
    paths = [split.path(index) for split in splits for index in range(len(split.annotations))]
    return read_pixels(paths, workers=workers, progress=progress)


def check_with(splits: Sequence[Split], pixels: Mapping[Path, FilePixels], *, queries: int = 300) -> list[Finding]:
    """``check`` for images that were read already."""
    findings: list[Finding] = []
    for split in splits:
        said = {(finding.kind, finding.place, finding.text) for finding in findings}
        findings += [
            Finding(problem.kind, split.name, problem.place, problem.text)
            for problem in split.problems
            if (problem.kind, problem.place, problem.text) not in said  # of a file that splits share
        ]
        findings += check_files(split, pixels)
        sized = with_true_sizes(split, pixels)
        findings += [*check_targets(sized), *check_boxes(sized)]
        findings += check_ids(split)
        findings += check_objects(split, queries)
        findings += check_orphans(split)
    findings += check_repeated(splits, pixels)
    findings += check_lookalikes(splits, pixels)
    findings += check_unlisted(splits)
    findings += check_classes(splits)
    order = list(KINDS)
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), order.index(finding.kind)))
