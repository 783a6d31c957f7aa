# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a criterion refuses: options that contradict each other, and outputs that do not fit the options.

Only shapes and options are read: they are known to the host, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..core.errors import ConfigError, check_non_negative, check_share
from ..nn.types import DetectorOutput, Predictions

LOSSES = {
    "vfl": ("loss_vfl",),
    "focal": ("loss_focal",),
    "boxes": ("loss_bbox", "loss_giou"),
    "local": ("loss_fgl", "loss_ddf"),
}
"""What an entry of ``losses`` computes; ``weight_dict`` weighs the single terms."""


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Refuse an option that is none of the choices (ValueError)."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(repr, choices))}")


def check_weights(weight_dict: Mapping[str, float], losses: Sequence[str]) -> None:
    """Every loss and every weighted term must be known, and one loss at least must weigh something (ValueError)."""
    for kind, names, known in (
        ("losses: no loss", losses, [*LOSSES]),
        ("weight_dict: no term", weight_dict, [term for terms in LOSSES.values() for term in terms]),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"DFINECriterion.{kind} named {', '.join(unknown)}; choose from {', '.join(known)}")
    for term, weight in weight_dict.items():
        check_non_negative(f"DFINECriterion.weight_dict.{term}", weight)
    if not any(weight_dict.get(term) for name in losses for term in LOSSES[name]):
        terms = [term for name in losses for term in LOSSES[name]] or ["those of at least one loss"]
        raise ValueError(f"DFINECriterion: no loss weighs anything; give weights to {', '.join(terms)}")


def idle_parts(weight_dict: Mapping[str, float], losses: Sequence[str]) -> list[str]:
    """Weights without their loss, and losses without any weight: neither is computed, as in the official code."""
    asked = [term for name in losses for term in LOSSES[name]]
    spare = [term for term in weight_dict if term not in asked]
    weightless = [name for name in losses if not any(term in weight_dict for term in LOSSES[name])]
    return [
        *(f"weight_dict.{term} has no effect: no loss of {list(losses)} computes it" for term in spare),
        *(f"the loss {name} has no effect: weight_dict has no {' or '.join(LOSSES[name])}" for name in weightless),
    ]


def check_focal(who: str, alpha: float, gamma: float) -> None:
    """Refuse a share outside 0..1 and an exponent below 0 (ValueError)."""
    check_share(f"{who}.alpha", alpha)
    check_non_negative(f"{who}.gamma", gamma)


def check_output(output: DetectorOutput, num_classes: int, reg_max: int | None) -> None:
    """Compare an output's shapes with the criterion's options.

    Args:
        num_classes: classes every head must have; encoder proposals may be class-agnostic instead.
        reg_max: highest bin N every decoder layer must have, or None when distributions are not scored.

    Raises:
        ConfigError: naming the place and both numbers.
    """
    for place, one, is_layer in _all_predictions(output):
        classes = one.logits.shape[-1]
        if classes != num_classes and not (classes == 1 and place == "proposals"):
            raise ConfigError(
                f"{place}.logits have {classes} classes but DFINECriterion.num_classes is {num_classes}: "
                "give model and criterion the same num_classes"
            )
        if is_layer and reg_max is not None:
            _check_edges(place, one, reg_max)
    if reg_max is not None and (output.up is None or output.reg_scale is None):
        raise ConfigError("losses ask for 'local', but the output has no up and reg_scale: needs an FDR head")


def _check_edges(place: str, layer: Predictions, reg_max: int) -> None:
    if layer.edge_logits is None or layer.initial_boxes is None:
        raise ConfigError(f"losses ask for 'local', but {place} has no edge distributions: needs an FDR head")
    values, expected = layer.edge_logits.shape[-1], 4 * (reg_max + 1)
    if values != expected:
        raise ConfigError(
            f"{place}.edge_logits have {values} values per query, but DFINECriterion.reg_max {reg_max} asks for "
            f"4 * (reg_max + 1) = {expected}: give decoder and criterion the same reg_max"
        )


def _all_predictions(output: DetectorOutput) -> Iterator[tuple[str, Predictions, bool]]:
    """Every prediction set with its place, and whether it is a decoder layer."""
    heads = [("", output.layers, output.initial)]
    heads += [(f"groups[{name!r}].", group.layers, group.initial) for name, group in output.groups.items()]
    for prefix, layers, initial in heads:
        yield from ((f"{prefix}layers[{i}]", one, True) for i, one in enumerate(layers))
        if initial is not None:
            yield f"{prefix}initial", initial, False
    if output.proposals is not None:
        yield "proposals", output.proposals, False
