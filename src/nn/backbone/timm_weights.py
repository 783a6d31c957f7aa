# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Names, licences and files of the weights that timm publishes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...core.errors import CheckpointError
from ...core.weights import load_weights

logger = logging.getLogger(__name__)

_SHOWN = 5
# What timm raises where it cannot fetch weights: no network, no such file, cut-off file.
_FETCH_ERRORS = (OSError, RuntimeError, ValueError)
_FREE_LICENCES = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"})
"""Licences as timm spells them that let anyone use the weights for anything."""
_UNSTATED = (None, "", "unknown")
_TEXTS = {
    "dinov3-license": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
}


def check_name(timm: Any, name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        ValueError: with the nearest names, or the tags that the architecture has.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), _SHOWN)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the names"
        raise ValueError(f"TimmBackbone name={name!r}: timm {timm.__version__} has no such model; {hint}")
    published = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in published:
        raise ValueError(
            f"TimmBackbone name={name!r}: timm {timm.__version__} has no such weights of {architecture}; "
            f"choose one of {', '.join(published) or '(none)'}, or leave the part after the dot out"
        )


def check_published(timm: Any, name: str) -> None:
    """Refuse ``pretrained`` for a model of which timm publishes no weights.

    Raises:
        ValueError: with similar models that have weights.
    """
    architecture = name.partition(".")[0]
    if timm.list_pretrained(f"{architecture}.*"):
        return
    trained = sorted({one.partition(".")[0] for one in timm.list_pretrained()})
    near = difflib.get_close_matches(architecture, trained, _SHOWN, cutoff=0.5)
    raise ValueError(
        f"TimmBackbone pretrained: timm {timm.__version__} has no published weights of {architecture}: "
        f"choose {' or '.join(near) or 'another model'}, give a file as weights, or set pretrained: False to start "
        "from random weights"
    )


def check_licence(timm: Any, name: str, accepted: str | None) -> None:
    """Refuse weights whose licence restricts their use, unless it was accepted by its name.

    Raises:
        ValueError: with the licence, where to read it, and the key.
    """
    config = timm.get_pretrained_cfg(name)
    licence = config.license if config is not None else None
    if licence in _UNSTATED:
        logger.warning("timm states no licence for the weights of %s: look at where they come from", name)
        return
    if licence in _FREE_LICENCES or accepted == licence:
        return
    page = _TEXTS.get(licence) or f"https://huggingface.co/{config.hf_hub_id or 'timm'}"
    given = f"not {accepted!r} (accept_license)" if accepted is not None else "which restricts what they may serve for"
    raise ValueError(
        f"TimmBackbone: the weights of {name} have the licence {licence!r}, {given}: read it at {page} and, if you "
        f"agree to it, set TimmBackbone.accept_license: {licence}; without weights (weights: ~, pretrained: False) "
        "the architecture needs no consent"
    )


def published_weights(timm: Any, name: str, img_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """State dict of timm's published weights, with the head: timm checks that it is complete only for whole models.

    Args:
        img_size: (height, width) to which timm fits position tables; None = as published.

    Raises:
        CheckpointError: no network, or a broken file.
    """
    size = {} if img_size is None else {"img_size": img_size}
    try:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True, **size).state_dict()
    except _FETCH_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise CheckpointError(
            f"TimmBackbone: the weights of {name} cannot be fetched ({reason}): get the file where there is a network, "
            "say model.safetensors from huggingface.co/timm, and give its path as TimmBackbone.weights with "
            "pretrained: False; or set both off to start from random weights"
        ) from error
    return state


def tensors_of(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Weights in a file as timm, torchvision or its training script write it."""
    for candidate in (content.get("state_dict_ema"), content.get("state_dict"), content.get("model"), content):
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            tensors = {key: value for key, value in candidate.items() if isinstance(value, Tensor)}
            return {key.removeprefix("module."): value for key, value in tensors.items()}
    raise CheckpointError(f"{path}: no weights in it: expected a state dict, bare or under state_dict or model")


def fill(body: nn.Module, whole: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Load ``state`` of the whole model into its feature part; only what the feature part lacks may stay unused.

    Args:
        body: feature part, changed in place; its names are those of the whole model.
        whole: the same model with its head; only its names are read.
    """
    unused = set(whole.state_dict()) - set(body.state_dict())
    try:
        report = load_weights(body, {key: value for key, value in state.items() if key not in unused}, strict=False)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: these are not weights of timm's {name} ({error})") from error
    if not report.complete:
        wrong = {
            "missing in the file": report.missing,
            "unknown to the model": report.unexpected,
            "of another shape": [f"{one.name} {one.file_shape} for {one.model_shape}" for one in report.mismatched],
        }
        raise CheckpointError(
            f"{source}: these are not weights of timm's {name}: {len(report.loaded)} tensors fit; "
            + "; ".join(f"{len(keys)} {what}: {_listed(keys)}" for what, keys in wrong.items() if keys)
            + ": give the file that belongs to this name, or the name that belongs to the file"
        )
    left_out = len(unused & set(state))
    logger.info("%s: %d tensors loaded, %d of unused parts left out", source, len(report.loaded), left_out)


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
