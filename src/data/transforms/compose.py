# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A list of ops, some of which stop at an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision import tv_tensors

from ...core.registry import register
from ..image_cache import ImageCache
from . import ops as T
from . import sizes as S
from .decisions import DECISIONS, RANDOM, decide, fill_of, tensors
from .rendering import Read, render

_OF_BOXES = (
    *(S.Resize, S.KeepAspect, S.PadToSize, S.RandomCrop, S.RandomSizeCrop, S.RandomChoice),
    *(T.RandomHorizontalFlip, T.RandomIoUCrop, T.RandomZoomOut, T.SanitizeBoundingBoxes),
)
"""Ops that change or judge boxes in pixels."""


@register
class Compose(nn.Module):
    """Apply ops in order.

    Args:
        ops: modules that take and return (image, target).
        policy: None, ``{name: default}``, or ``{name: stop_epoch, epoch: E, ops: [class names]}``: from epoch E on the
            named ops are skipped (the official two-stage schedule).
        fused: where a data set makes samples and every active op is a known augmentation, decide them on the boxes
            first and touch every pixel once: the same crops, flips, colours and boxes for a fraction of the time.
            Pixels differ by rounding, where a large file is decoded at reduced scale, and where a crop comes between
            two resizes, of which one is left: it is sharper. Otherwise, and with False, one by one. Evaluation, where
            nothing is random, always runs one by one.
        cache: where large images are kept at reduced size; read where the ops run fused only.

    Raises:
        ValueError: an unknown policy, one without its entries, or one that names an op which is not in ``ops``; an op
            that works on boxes in pixels after ConvertBoxes has made fractions of them.
    """

    def __init__(
        self,
        ops: list[nn.Module] | None = None,
        policy: dict[str, Any] | None = None,
        *,
        fused: bool = True,
        cache: ImageCache | None = None,
    ) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops or [])
        _check_order(list(self.ops))
        self.stop_epoch, self.stopped = _read_policy(policy, [type(op).__name__ for op in self.ops])
        self.fused = fused
        self.cache = cache
        parts = [self.active(stopping) for stopping in (False, True)]
        self._early, self._late = (partial(run_fused, ops) if fused and not obstacle(ops) else None for ops in parts)

    @property
    def pixels(self) -> T.PixelConversion:
        """The conversion that ConvertPILImage asks the loader for; to [0, 1] where there is no such op."""
        return next((op.pixels for op in self.ops if isinstance(op, T.ConvertPILImage)), T.PixelConversion())

    @property
    def normalizes_boxes(self) -> bool:
        """Whether boxes leave as cxcywh fractions of the image, which criteria need."""
        return any(isinstance(op, T.ConvertBoxes) and op.normalize and op.fmt == "cxcywh" for op in self.ops)

    def forward(self, image: Any, target: dict[str, Tensor], epoch: int = 0) -> tuple[Any, dict[str, Tensor]]:
        """A PIL image and its target -> both after all ops that are active in ``epoch``, one by one."""
        for op in self.active(self._stopping(epoch)):
            image, target = op(image, target)
        return image, target

    def active(self, stopping: bool) -> list[nn.Module]:
        """The ops before and after the epoch at which some stop."""
        return [op for op in self.ops if not (stopping and type(op).__name__ in self.stopped)]

    def fused_at(self, epoch: int) -> Callable[..., tuple[Tensor, dict[str, Tensor]]] | None:
        """``run_fused`` with the ops that are active in ``epoch``, where they can be one step."""
        return self._late if self._stopping(epoch) else self._early

    def describe(self) -> str:
        """How the augmentations run, in words; empty where there are none."""
        if not is_random(list(self.ops)):
            return ""
        early, late = (self._way(self.active(stopping)) for stopping in (False, True))
        return early if self.stop_epoch is None or early == late else f"{early}; from epoch {self.stop_epoch} on {late}"

    def _stopping(self, epoch: int) -> bool:
        return self.stop_epoch is not None and epoch >= self.stop_epoch

    def _way(self, ops: list[nn.Module]) -> str:
        reason = obstacle(ops) if self.fused else "fused: False"
        if reason is None:
            return "fused" if self.cache is None else f"fused, large images from {self.cache.folder}"
        unused = "" if self.cache is None else f", without the cache {self.cache.folder}"
        return f"one by one ({reason}){unused}"


def _check_order(ops: list[nn.Module]) -> None:
    """Fractions are no boxes in pixels: ops that move, cut or drop boxes would leave them as they are."""
    fractions = next((at for at, op in enumerate(ops) if isinstance(op, T.ConvertBoxes) and op.normalize), len(ops))
    late = [type(op).__name__ for op in ops[fractions + 1 :] if isinstance(op, (*_OF_BOXES, T.ConvertBoxes))]
    if late:
        raise ValueError(
            f"Compose: {', '.join(late)} after ConvertBoxes, which makes fractions of boxes in pixels: move "
            "ConvertBoxes to the end of ops"
        )


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
    epoch = given.get("epoch")
    if unknown or type(epoch) is not int or epoch < 0 or not isinstance(given.get("ops"), (list, tuple)):
        raise ValueError(f"Compose: policy {policy} must be {{name: stop_epoch, epoch: 0 or more, ops: [class names]}}")
    absent = [name for name in given["ops"] if name not in known]
    if absent:
        raise ValueError(
            f"Compose: policy.ops names {', '.join(map(str, absent))}, but ops holds {', '.join(known) or 'nothing'}: "
            "correct the name, or remove it from the policy (policy: ~ removes all)"
        )
    return epoch, frozenset(given["ops"])


_GEOMETRY = (T.RandomZoomOut, T.RandomIoUCrop)
_RESIZES = (S.Resize, S.KeepAspect)


def run_fused(
    ops: Sequence[nn.Module], size: tuple[int, int], target: dict[str, Any], read: Read
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make a sample.

    Args:
        ops: for which ``obstacle`` finds none.
        size: (height, width) of the image.
        target: as ``DetectionDataset`` has it, with boxes (n, 4) as float32 xyxy pixels; arrays or tensors.
        read: decodes the image.

    Returns:
        As the ops would: uint8 image (3, H, W) and the target.
    """
    decision = decide(ops, size, target["boxes"])
    return tv_tensors.Image(render(decision, read)), tensors(decision, target)


def is_random(ops: Sequence[nn.Module]) -> bool:
    """Whether there is an augmentation: without one the ops are an evaluation, whose pixels must not change at all."""
    return any(isinstance(op, RANDOM) for op in ops)


def obstacle(ops: Sequence[nn.Module]) -> str | None:
    """Why a list of ops cannot run fused, in words; None if it can."""
    ways = S.paths(ops)
    unknown = dict.fromkeys(type(op).__name__ for way in ways for op in way if type(op) not in DECISIONS)
    if unknown:
        return f"{', '.join(unknown)} must see the image"
    if not is_random(ops):
        return "nothing is random"
    return next((reason for way in ways if (reason := _order(way))), None)


def _order(ops: Sequence[nn.Module]) -> str | None:
    """Why known ops cannot run fused in their order."""
    last = type(ops[-1]).__name__
    if not isinstance(ops[-1], T.ConvertBoxes) or not ops[-1].normalize or _count(ops, T.ConvertBoxes) > 1:
        return f"the last op is {last}, not ConvertBoxes with normalize: True"
    if _count(ops, T.ConvertPILImage) != 1 or not isinstance(ops[-2], T.ConvertPILImage):
        return "ConvertPILImage is not the last op but one"
    between = [0]
    """Resizes before, between and after crops of the canvas: two in a row would be seen in the pixels."""
    for op in ops:
        between[-1] += isinstance(op, _RESIZES)
        between += [0] * isinstance(op, S.RandomSizeCrop)
    if between[-1] != 1 or max(between) > 1:
        return f"{sum(between)} ops resize, not one"
    resize = next(place for place, op in enumerate(ops) if isinstance(op, _RESIZES))
    late = [type(op).__name__ for op in ops[resize:] if isinstance(op, (*_GEOMETRY, T.RandomPhotometricDistort))]
    if late:
        return f"{', '.join(late)} comes after {type(ops[resize]).__name__}"
    colours = [place for place, op in enumerate(ops) if isinstance(op, T.RandomPhotometricDistort)]
    if len(colours) > 1:
        return "RandomPhotometricDistort occurs twice"
    if colours and any(isinstance(op, (*_GEOMETRY, S.RandomSizeCrop)) for op in ops[: colours[0]]):
        return "RandomPhotometricDistort comes after a crop or a zoom"
    borders = [op for op in ops if isinstance(op, T.RandomZoomOut)]
    if len({fill_of(op) for op in borders}) > 1:
        return "RandomZoomOut occurs with several colours"
    return None


def _count(ops: Sequence[nn.Module], kind: type | tuple[type, ...]) -> int:
    return sum(isinstance(op, kind) for op in ops)
