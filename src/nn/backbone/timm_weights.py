# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Names, licences and files of the weights that timm publishes."""

from __future__ import annotations

import difflib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from ...core.checkpoint.weights import load_weights
from ...core.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN = 5
# What timm raises where it cannot fetch weights: no network, no such file, cut-off file.
_FETCH_ERRORS = (OSError, RuntimeError, ValueError)
# What timm's conversions raise where a file is for another architecture: they look up what they expect in it.
_CONVERT_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_FREE_LICENCES = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"})
"""Licences as timm spells them that let anyone use the weights for anything."""
_UNSTATED = (None, "", "unknown")
_HUB = "https://huggingface.co"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_CONNECT_SECONDS = 5.0
_REMEDY = "give the file that belongs to this name, or the name that belongs to the file"
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
    trained = sorted({model.partition(".")[0] for model in timm.list_pretrained()})
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


def weights_named_in(timm: Any, architecture: str, path: str) -> list[str]:
    """Published weights of an architecture whose tag stands in a path, whatever separates its words.

    People keep the name when they fetch a file by hand: ``convnext_tiny.dinov3_lvd1689m/model.safetensors`` as timm
    writes it, ``dinov3_convnext_tiny_pretrain_lvd1689m.pth`` as its authors do.
    """
    words = set(_words(path))
    models = timm.list_pretrained(f"{architecture}.*")
    return [model for model in models if words.issuperset(_words(model.partition(".")[2]))]


def published_weights(timm: Any, name: str, img_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """State dict of timm's published weights, with the head: timm checks that it is complete only for whole models.

    Args:
        img_size: (height, width) to which timm fits position tables; None = as published.

    Raises:
        CheckpointError: no network, or a broken file.
    """
    options: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        hub_id = timm.get_pretrained_cfg(name).hf_hub_id
        cached = _cached_file(hub_id) if hub_id else None
        if cached is not None:  # custom_load means formats that only the original files have
            options["pretrained_cfg_overlay"] = {"file": cached, "custom_load": False}
        elif hub_id:
            _check_connection()
        with torch.random.fork_rng(devices=()):  # so that what is built next starts the same with a file instead
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True, **options).state_dict()
    except _FETCH_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise CheckpointError(
            f"TimmBackbone: the weights of {name} cannot be fetched ({reason}): get the file where there is a network, "
            "say model.safetensors from huggingface.co/timm, and give its path as TimmBackbone.weights with "
            "pretrained: False; or set both off to start from random weights"
        ) from error
    return state


def _cached_file(hub_id: str) -> str | None:
    """The file where an earlier download left it; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = hub_id.partition("@")
    paths = (try_to_load_from_cache(repository, name, revision=revision or None) for name in _HUB_FILES)
    return next((path for path in paths if isinstance(path, str)), None)


def _check_connection() -> None:
    """Fail within seconds where there is no network; the hub's own client tries again for almost a minute.

    Raises:
        OSError: no connection, and no proxy that would make one.
    """
    if {"https", "all"} & set(getproxies()):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or _HUB)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"no connection to {address.hostname}: {error}") from error


def tensors_of(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Weights in a file as timm, torchvision or its training script write it."""
    for candidate in (content.get("state_dict_ema"), content.get("state_dict"), content.get("model"), content):
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            tensors = {key: value for key, value in candidate.items() if isinstance(value, Tensor)}
            return {key.removeprefix("module."): value for key, value in tensors.items()}
    raise CheckpointError(f"{path}: no weights in it: expected a state dict, bare or under state_dict or model")


def under_timms_names(whole: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict as timm itself reads it: its architectures convert the files of their authors and older ones.

    Args:
        whole: the model with its head; only names and shapes are read.
        state: what a file holds.

    Returns: ``state`` where timm has no conversion, or where more names fit without it.
    """
    convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    own = whole.state_dict()
    if convert is None or own.keys() == state.keys():
        return state
    try:
        converted: Mapping[str, Tensor] = convert(dict(state), whole)
    except _CONVERT_ERRORS as error:
        logger.debug("timm's conversion does not know this file: %r", error)
        return state
    return converted if len(own.keys() & converted.keys()) > len(own.keys() & state.keys()) else state


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
        raise CheckpointError(f"{source}: these are not weights of timm's {name} ({error}); {_REMEDY}") from error
    if not report.complete:
        wrong = {
            "missing in the file": report.missing,
            "unknown to the model": report.unexpected,
            "of another shape": [
                f"{misfit.name} {misfit.file_shape} for {misfit.model_shape}" for misfit in report.mismatched
            ],
        }
        raise CheckpointError(
            f"{source}: these are not weights of timm's {name}: {len(report.loaded)} tensors fit; "
            + "; ".join(f"{len(keys)} {what}: {_listed(keys)}" for what, keys in wrong.items() if keys)
            + f": {_REMEDY}"
        )
    left_out = len(unused & set(state))
    logger.info("%s: %d tensors loaded, %d of unused parts left out", source, len(report.loaded), left_out)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
