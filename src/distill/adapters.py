# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Between a student and a teacher of other sizes: which level and which layer learns from which, and what brings the
student's features to the teacher's width and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import check_choice

LayerPairing = Literal["last_only", "uniform", "final_to_all"]
LAYER_PAIRINGS: tuple[str, ...] = get_args(LayerPairing)
AdapterUse = Literal["auto", "always", "none"]
ADAPTER_USES: tuple[str, ...] = get_args(AdapterUse)


def map_adapter(student: int, teacher: int, use: AdapterUse = "auto") -> nn.Module:
    """A 1x1 convolution from the student's channels to the teacher's; see :func:`token_adapter`."""
    return _adapter(student, teacher, use) or _kaiming(nn.Conv2d(student, teacher, kernel_size=1))


def token_adapter(student: int, teacher: int, use: AdapterUse = "auto", *, norm: bool = False) -> nn.Module:
    """A linear layer from the student's width to the teacher's, or the identity.

    Args:
        student, teacher: channels.
        use: ``auto``: the identity where both are equal; ``always``: a layer there too; ``none``: refuse other widths.
        norm: a layer norm behind it.

    Raises:
        ValueError: an option that is unknown, or widths that differ with ``none``.
    """
    layer = _adapter(student, teacher, use) or _kaiming(nn.Linear(student, teacher))
    return nn.Sequential(layer, nn.LayerNorm(teacher)) if norm else layer


def _adapter(student: int, teacher: int, use: AdapterUse) -> nn.Module | None:
    """The identity where no layer is needed."""
    check_choice("adapter", use, ADAPTER_USES)
    if use == "none" and student != teacher:
        raise ValueError(
            f"adapter: none, but the student has {student} channels and the teacher {teacher}: choose auto"
        )
    return nn.Identity() if student == teacher and use != "always" else None


def _kaiming(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, D, h, w) of another (height, width), bilinear; the very same where they have it."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)


def level_strides(strides: Sequence[int], levels: int) -> list[int]:
    """Strides of the maps that a decoder reads: those it gets and, where it makes coarser ones, twice the last each.

    >>> level_strides([8, 16], 3)
    [8, 16, 32]
    """
    return [*strides, *(strides[-1] << step for step in range(1, levels - len(strides) + 1))]


def level_pairs(
    student: Sequence[int], teacher: Sequence[int], level_map: Mapping[int, int] | None = None
) -> list[tuple[int, int]]:
    """(student, teacher) levels, 0-based, of equal stride; others learn nothing.

    Args:
        student, teacher: pixels per cell of their levels.
        level_map: student's level -> teacher's level, instead.

    Raises:
        ValueError: no level is paired, or the map names one that there is not.

    >>> level_pairs([8, 16, 32], [16, 32, 64])
    [(1, 0), (2, 1)]
    """
    if level_map is None:
        pairs = [(index, list(teacher).index(stride)) for index, stride in enumerate(student) if stride in teacher]
    else:
        pairs = sorted(level_map.items())
        for side, strides in enumerate((student, teacher)):
            if odd := [pair[side] for pair in pairs if not 0 <= pair[side] < len(strides)]:
                raise ValueError(
                    f"level_map names level {odd[0]} of the {('student', 'teacher')[side]}, which has levels 0 to "
                    f"{len(strides) - 1}"
                )
    if not pairs:
        raise ValueError(
            f"student and teacher have no level in common (strides {list(student)} and {list(teacher)}): pair them "
            "with level_map"
        )
    return pairs


def layers_to_teach(student: int, teacher: int, pairing: LayerPairing) -> list[tuple[int, int]]:
    """(student, teacher) decoder layers, 0-based, students ascending.

    Args:
        student, teacher: how many layers each has.
        pairing: ``last_only``: the last learns from the last; ``uniform``: each from the one at the same share of the
            depth, halves upwards; ``final_to_all``: each from the teacher's last.

    >>> layers_to_teach(3, 6, "uniform")
    [(0, 1), (1, 3), (2, 5)]
    """
    check_choice("layers", pairing, LAYER_PAIRINGS)
    if pairing == "last_only":
        return [(student - 1, teacher - 1)]
    if pairing == "final_to_all":
        return [(layer, teacher - 1) for layer in range(student)]
    # the nearest of number * teacher / student in whole numbers: halves must not depend on rounding
    nearest = ((2 * number * teacher + student) // (2 * student) for number in range(1, student + 1))
    return [(layer, max(number, 1) - 1) for layer, number in enumerate(nearest)]
