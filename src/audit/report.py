# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Findings as a table for people and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..core.errors import one_line
from .findings import KINDS, SEVERITIES, Finding, Split

CLEAN, FOUND = 0, 1
"""Exit codes of a check; 2 (cannot read, bad usage) is the tool's."""


def table(findings: Sequence[Finding], splits: Sequence[Split], *, examples: int = 3) -> str:
    """Counts per kind, with the meaning, what a fix does, and the first places of each."""
    lines = [
        f"{split.name}: {len(split.annotations):,} images, {len(split.annotations.ids):,} boxes, "
        f"{len(split.annotations.label_space)} classes ({split.format}, {split.annotations.place}, "
        f"images in {split.img_folder})"
        for split in splits
    ]
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, of_kind in by_kind.items():
        lines += ["", f"{KINDS[kind].severity.upper():8}{len(of_kind):>6}  {kind}: {KINDS[kind].meaning}"]
        lines += [one_line(f"{'':16}{finding.place}: {finding.text}") for finding in of_kind[:examples]]
        if len(of_kind) > examples:
            lines.append(f"{'':16}... and {len(of_kind) - examples} more (all of them: --json FILE)")
    return "\n".join([*lines, "", summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """How many of each severity, in one line."""
    counts = Counter(finding.severity for finding in findings)
    if not findings:
        return "nothing found"
    return ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in SEVERITIES)


def to_json(findings: Sequence[Finding], splits: Sequence[Split], queries: int) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "splits": [
            {
                "name": split.name,
                "format": split.format,
                "annotations": split.annotations.place,
                "images_in": str(split.img_folder),
                "images": len(split.annotations),
                "boxes": len(split.annotations.ids),
                "classes": list(split.annotations.label_space.names),
            }
            for split in splits
        ],
        "queries": queries,
        "severities": dict(Counter(finding.severity for finding in findings)),
        "kinds": dict(Counter(finding.kind for finding in findings)),
        "findings": [finding.to_dict() for finding in findings],
    }


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """0: no error (``strict``: no warning either); 1: otherwise."""
    bad = ("error", "warning") if strict else ("error",)
    return FOUND if any(finding.severity in bad for finding in findings) else CLEAN
