# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A list of ops, some of which stop at an epoch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...core.registry import register
from .ops import ConvertBoxes, ConvertPILImage, PixelConversion


@register
class Compose(nn.Module):
    """Apply ops in order.

    Args:
        ops: modules that take and return (image, target).
        policy: None, ``{name: default}``, or ``{name: stop_epoch, epoch: E, ops: [class names]}``: from epoch E on the
            named ops are skipped (the official two-stage schedule).

    Raises:
        ValueError: an unknown policy, one without its entries, or one that names an op which is not in ``ops``.
    """

    def __init__(self, ops: list[nn.Module] | None = None, policy: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops or [])
        self.stop_epoch, self.stopped = _read_policy(policy, [type(op).__name__ for op in self.ops])

    @property
    def pixels(self) -> PixelConversion:
        """The conversion that ConvertPILImage asks the loader for; to [0, 1] where there is no such op."""
        return next((op.pixels for op in self.ops if isinstance(op, ConvertPILImage)), PixelConversion())

    @property
    def normalizes_boxes(self) -> bool:
        """Whether boxes leave as cxcywh fractions of the image, which criteria need."""
        return any(isinstance(op, ConvertBoxes) and op.normalize and op.fmt == "cxcywh" for op in self.ops)

    def forward(self, image: Any, target: dict[str, Tensor], epoch: int = 0) -> tuple[Any, dict[str, Tensor]]:
        """A PIL image and its target -> both after all ops that are active in ``epoch``."""
        stopping = self.stop_epoch is not None and epoch >= self.stop_epoch
        for op in self.ops:
            if not (stopping and type(op).__name__ in self.stopped):
                image, target = op(image, target)
        return image, target


def _read_policy(policy: dict[str, Any] | None, known: list[str]) -> tuple[int | None, frozenset[str]]:
    """First epoch without the ops, and their names."""
    name = (policy or {}).get("name", "default")
    if name == "default":
        return None, frozenset()
    if name == "stop_sample":
        raise ValueError(
            "Compose: policy stop_sample counts the samples of each worker process, so its effect would depend on "
            "num_workers: use {name: stop_epoch, epoch: ..., ops: [...]}"
        )
    if name != "stop_epoch":
        raise ValueError(f"Compose: policy {name!r} is unknown: use stop_epoch or default")
    given = policy or {}
    unknown = sorted(set(given) - {"name", "epoch", "ops"})
    if unknown or type(given.get("epoch")) is not int or not isinstance(given.get("ops"), (list, tuple)):
        raise ValueError(
            f"Compose: policy {policy} must be {{name: stop_epoch, epoch: whole number, ops: [class names]}}"
        )
    absent = [one for one in given["ops"] if one not in known]
    if absent:
        raise ValueError(
            f"Compose: policy.ops names {', '.join(map(str, absent))}, but ops holds {', '.join(known) or 'nothing'}: "
            "correct the name, or remove it from the policy (policy: ~ removes all)"
        )
    return given["epoch"], frozenset(given["ops"])
