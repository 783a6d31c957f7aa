# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Any convolutional backbone of timm (github.com/huggingface/pytorch-image-models) that delivers feature maps."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CheckpointError
from ...core.registry import register
from ...core.weights import load_weights, read_checkpoint

logger = logging.getLogger(__name__)

_USUAL_STRIDES = (8, 16, 32)
_SHOWN = 5
# What timm raises where it cannot fetch weights: no network, no such file, no weights for this model, cut-off file.
_FETCH_ERRORS = (OSError, RuntimeError, ValueError)


@register
class TimmBackbone(nn.Module):
    """A timm model without its classification head; channels, strides, mean and std are read from timm.

    Args:
        name: timm's name, for example ``tf_efficientnet_lite0`` or ``convnext_tiny.fb_in1k`` (after the dot: which
            published weights; their mean and std are used).
        out_indices: which of timm's feature maps to return, ascending, counted from 0. ``None``: those with strides 8,
            16 and 32. (The first map has stride 2 in some models and 4 in others.)
        pretrained: fetch timm's published weights (needs the network or timm's cache).
        weights: file with weights of this timm model (``.pth``, ``.safetensors``). Its classification head is left out;
            everything else must fit.
        drop_path_rate: share of residual branches left out in training (stochastic depth), in [0, 1).

    Attributes:
        channels: channels of every returned map.
        strides: image pixels per cell of every returned map.

    Raises:
        ValueError: unknown name, maps it does not have, a model without usable maps, or timm is not installed.
        CheckpointError: the weights cannot be fetched, read or do not fit.

    Shapes: (B, 3, H, W) in [0, 1], not normalised -> one (B, channels[i], H / strides[i], W / strides[i]) per map;
    H and W are multiples of the largest stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ValueError(f"TimmBackbone: pretrained and weights={weights!r} are both set: keep one of the two")
        timm = _import_timm()
        _check_name(timm, name)
        with torch.device("meta"):  # shapes only: what the whole model has
            whole = timm.create_model(name)
        chosen = _chosen_maps(name, [one["reduction"] for one in whole.feature_info], out_indices)
        self.body = _feature_model(timm, name, chosen, drop_path_rate)
        self.channels: list[int] = list(self.body.feature_info.channels())
        self.strides: list[int] = list(self.body.feature_info.reduction())
        cfg = timm.data.resolve_model_data_config(self.body)
        self.register_buffer("mean", torch.tensor(cfg["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"])[:, None, None], persistent=False)
        if weights is not None:
            _fill(self.body.model, whole, _tensors_of(read_checkpoint(weights), weights), name, weights)
        elif pretrained:
            _fill(self.body.model, whole, _published(timm, name), name, f"timm's published weights of {name}")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the chosen maps, finest first."""
        return list(self.body((images - self.mean) / self.std))


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ValueError("TimmBackbone needs a package: pip install timm") from error
    return timm


def _check_name(timm: Any, name: str) -> None:
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


def _chosen_maps(name: str, strides: Sequence[int], out_indices: Sequence[int] | None) -> tuple[int, ...]:
    """Indices of the maps to return; refuses those the model does not have."""
    offered = ", ".join(f"{index} (stride {stride})" for index, stride in enumerate(strides))
    if out_indices is None:
        chosen = tuple(index for index, stride in enumerate(strides) if stride in _USUAL_STRIDES)
        if tuple(strides[index] for index in chosen) != _USUAL_STRIDES:
            raise ValueError(f"TimmBackbone {name} has no maps of strides 8, 16, 32: choose out_indices of {offered}")
        return chosen
    if not out_indices or list(out_indices) != sorted(set(out_indices) & set(range(len(strides)))):
        raise ValueError(
            f"TimmBackbone out_indices={list(out_indices)}: {name} has the maps {offered}; "
            "give one or more of them in ascending order, each once"
        )
    return tuple(out_indices)


def _feature_model(timm: Any, name: str, chosen: tuple[int, ...], drop_path_rate: float) -> Any:
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"TimmBackbone drop_path_rate={drop_path_rate}: expected a share in [0, 1)")
    options = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    try:
        # "getter" keeps the names of the whole model, drops what no chosen map needs (parameters without gradient would
        # stop distributed training) and gives (B, D, H, W) for every architecture.
        return timm.create_model(name, features_only=True, feature_cls="getter", out_indices=chosen, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(f"TimmBackbone drop_path_rate={drop_path_rate}: {name} has none; leave it out") from error


def _published(timm: Any, name: str) -> dict[str, Tensor]:
    """State dict of timm's published weights, with the head: timm checks that it is complete only for whole models."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except _FETCH_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise CheckpointError(
            f"TimmBackbone: the weights of {name} cannot be fetched ({reason}): get the file where there is a network, "
            "say model.safetensors from huggingface.co/timm, and give its path as TimmBackbone.weights with "
            "pretrained: False; or set both off to start from random weights"
        ) from error


def _tensors_of(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Weights in a file as timm, torchvision or its training script write it."""
    for candidate in (content.get("state_dict_ema"), content.get("state_dict"), content.get("model"), content):
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            tensors = {key: value for key, value in candidate.items() if isinstance(value, Tensor)}
            return {key.removeprefix("module."): value for key, value in tensors.items()}
    raise CheckpointError(f"{path}: no weights in it: expected a state dict, bare or under state_dict or model")


def _fill(body: nn.Module, whole: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
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
