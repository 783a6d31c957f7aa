# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Any backbone of timm (github.com/huggingface/pytorch-image-models) that delivers feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.checkpoint import read_checkpoint
from ...core.extras import need
from ...core.registry import register
from ..norm import freeze_batch_norms
from ..padding import Padding, cleared_reads
from .stages import leaf_stages, parts_up_to, stage_of
from .timm_weights import (
    check_licence,
    check_name,
    check_published,
    fill,
    published_weights,
    tensors_of,
    under_timms_names,
    weights_named_in,
)

_USUAL_STRIDES = (8, 16, 32)
_TRIAL_SIZE = (96, 160)
"""Height and width on which a model must deliver the maps it announces: neither square nor a multiple of 7."""


class ReadFromTimm(nn.Module):
    """What a config may say of a timm model although timm says it: compared, never set.

    Args:
        channels, strides: of the returned maps.
        mean, std: of the images that the model was trained with.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._said = {"channels": channels, "strides": strides, "mean": mean, "std": std}


@register
class TimmBackbone(ReadFromTimm):
    """A timm model without its classification head; channels, strides, mean and std are read from timm.

    Args:
        name: timm's name, for example ``tf_efficientnet_lite0`` or ``convnext_tiny.fb_in1k`` (after the dot: which
            published weights; their mean and std are used).
        out_indices: which of timm's feature maps to return, ascending, counted from 0. ``None``: those with strides 8,
            16 and 32. (The first map has stride 2 in some models and 4 in others.)
        pretrained: fetch timm's published weights (needs the network or timm's cache). ``None``: no; that random
            weights are wanted is not said, so the log points it out.
        weights: file with weights of this timm model (``.pth``, ``.safetensors``). Its classification head is left out;
            everything else must fit.
        drop_path_rate: share of residual branches left out in training (stochastic depth), in [0, 1).
        freeze_at: number of stages that are not trained: -1 none, 0 the stem alone, k the stem and the first k stages
            (stage 1 ends at stride 4, stage 4 at stride 32). What is frozen stays in eval mode, so its statistics and
            its drop path stand still too, and it costs no backward pass.
        freeze_norm: batch norms as constants (buffers) in all stages.
        accept_license: name of the weights' licence where it restricts their use, for example ``dinov3-license``;
            asked for with ``pretrained``, and with ``weights`` where the name or the path of the file says which
            published ones they are.
        img_size: (height, width) in pixels, the only size from then on, for models that cannot take any size.
        said: see :class:`ReadFromTimm`.

    Attributes:
        channels: channels of every returned map.
        strides: image pixels per cell of every returned map.
        starts_from: where the weights come from; None = random, and nobody asked for that.

    Raises:
        ValueError: unknown name, maps or stages it does not have, a model without usable maps or without batch norms
            to freeze, expectations that do not hold, a licence not accepted, or timm is not installed.
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
        pretrained: bool | None = None,
        weights: str | None = None,
        drop_path_rate: float = 0.0,
        freeze_at: int = -1,
        freeze_norm: bool = False,
        *,
        accept_license: str | None = None,
        img_size: Sequence[int] | None = None,
        **said: Any,
    ) -> None:
        super().__init__(**said)
        need("timm.data", "timm")
        timm = need("timm", "timm")
        _check_weights(timm, name, pretrained, weights, accept_license)
        with torch.device("meta"):  # shapes only: what the whole model has
            whole = timm.create_model(name)
        chosen = _chosen_maps(name, [stage["reduction"] for stage in whole.feature_info], out_indices)
        options = _options(drop_path_rate, img_size, fixed=bool(whole.pretrained_cfg.get("fixed_input_size")))
        _try_out(timm, name, chosen, options)
        self.name, self.img_size = name, options.get("img_size")
        self.body = _feature_model(timm, name, chosen, options)
        self.channels: list[int] = list(self.body.feature_info.channels())
        self.strides: list[int] = list(self.body.feature_info.reduction())
        self._check_maps()
        if freeze_norm and freeze_batch_norms(self.body.model) == 0:
            raise ValueError(
                f"TimmBackbone freeze_norm: {name} has no batch norm: leave it out; freeze_at keeps whole stages fixed"
            )
        maps = [(stage["module"], stage["reduction"]) for stage in whole.feature_info[: chosen[-1] + 1]]
        self._leaf_stages = leaf_stages(self.body.model, maps)
        self._frozen = self._freeze(freeze_at)
        self._set_normalisation(timm.data.resolve_model_data_config(self.body))
        self.starts_from = self._load(timm, whole, pretrained, weights)

    def forward(self, images: Tensor, padding: Padding | None = None) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the chosen maps, finest first; ``padding`` as in ``cleared_reads``."""
        if self.img_size is not None and tuple(images.shape[-2:]) != self.img_size:
            raise ValueError(
                f"TimmBackbone {self.name} was built for images of {self.img_size} (height, width; img_size), got "
                f"{tuple(images.shape[-2:])}: resize to that size, and set collate_fn.base_size_repeat: ~ (one size)"
            )
        normalised = (images - self.mean) / self.std
        if padding is None:
            return list(self.body(normalised))
        with cleared_reads(self.body, padding):  # padded pixels are 0 to a network that may see them, too
            return list(self.body(padding.clear(normalised)))

    def train(self, mode: bool = True) -> TimmBackbone:
        """Training or eval mode; what ``freeze_at`` froze stays in eval mode."""
        super().train(mode)
        for name in self._frozen:  # by name: converting the norms replaces modules
            self.body.model.get_submodule(name).eval()
        return self

    @property
    def num_stages(self) -> int:
        """Number of the last stage (the stem is 0); -1 where timm does not say where the stages are."""
        return max(self._leaf_stages.values(), default=-1)

    def stage_of(self, name: str) -> int:
        """Stage of the parameter or module called ``name``, counted from 0 for the stem."""
        return stage_of(name.removeprefix("body.model."), self._leaf_stages)

    def _load(self, timm: Any, whole: nn.Module, pretrained: bool | None, weights: str | None) -> str | None:
        """Load what was asked for; returns what the backbone starts from."""
        if weights is not None:
            state = under_timms_names(whole, tensors_of(read_checkpoint(weights), weights))
            fill(self.body.model, whole, state, self.name, weights)
            return weights
        if pretrained:
            source = f"timm's published weights of {self.name}"
            fill(self.body.model, whole, published_weights(timm, self.name, self.img_size), self.name, source)
            return source
        return "random weights (pretrained: False)" if pretrained is False else None

    def _freeze(self, freeze_at: int) -> list[str]:
        """Stop the training of the first stages; returns the names of these modules."""
        last = self.num_stages
        if freeze_at not in range(-1, last + 1):
            offered = f"0 (stem) to {last} (all stages)" if last >= 0 else "nothing else: its stages are not known"
            raise ValueError(
                f"TimmBackbone freeze_at={freeze_at}: {self.name} offers -1 (freeze nothing) and {offered}"
            )
        if freeze_at < 0:
            return []
        for key, parameter in self.body.model.named_parameters():
            if self.stage_of(key) <= freeze_at:
                parameter.requires_grad_(False)
        return parts_up_to(self.body.model, self._leaf_stages, freeze_at)

    def _check_maps(self) -> None:
        """Compare channels and strides with what the config says about them, if it does."""
        read = {"channels": self.channels, "strides": self.strides}
        channels, strides = (list(given if (said := self._said[key]) is None else said) for key, given in read.items())
        if (channels, strides) != (self.channels, self.strides):
            raise ValueError(
                f"backbone {self.name} provides {self.channels} at strides {self.strides}, config asks "
                f"{channels} at strides {strides}: correct or leave out channels and strides, they are "
                "read from timm"
            )

    def _set_normalisation(self, data_config: dict[str, Any]) -> None:
        for key in ("mean", "std"):
            values, wanted = list(data_config[key]), self._said[key]
            if wanted is not None and not (len(wanted) == len(values) and all(map(math.isclose, values, wanted))):
                raise ValueError(
                    f"TimmBackbone {key}: {self.name} was trained with {values}, config asks {list(wanted)}: "
                    f"leave {key} out, it is read from timm"
                )
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)


def _check_weights(timm: Any, name: str, pretrained: bool | None, weights: str | None, accepted: str | None) -> None:
    if pretrained and weights is not None:
        raise ValueError(f"TimmBackbone: pretrained and weights={weights!r} are both set: keep one of the two")
    check_name(timm, name)
    if pretrained:
        check_published(timm, name)
    if pretrained or (weights is not None and "." in name):
        check_licence(timm, name, accepted)
    elif weights is not None:  # without a tag only the file's path can tell whose weights it holds
        for published in weights_named_in(timm, name, weights):
            check_licence(timm, published, accepted)


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


def _options(drop_path_rate: float, img_size: Sequence[int] | None, fixed: bool) -> dict[str, Any]:
    """Arguments of the timm model; ``fixed``: its published weights are for one image size."""
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"TimmBackbone drop_path_rate={drop_path_rate}: expected a share in [0, 1)")
    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    if img_size is not None:
        if len(img_size) != 2 or min(img_size) < 1:
            raise ValueError(f"TimmBackbone img_size={list(img_size)}: give (height, width) in pixels")
        options["img_size"] = tuple(img_size)
    elif fixed:
        options["dynamic_img_size"] = True
    return options


def _feature_model(timm: Any, name: str, chosen: tuple[int, ...], options: dict[str, Any]) -> Any:
    try:
        # "getter" keeps the names of the whole model, drops what no chosen map needs (parameters without gradient would
        # stop distributed training) and gives (B, D, H, W) for every architecture.
        return timm.create_model(name, features_only=True, feature_cls="getter", out_indices=chosen, **options)
    except TypeError as error:
        if "dynamic_img_size" in options and "dynamic_img_size" in str(error):
            rest = {key: value for key, value in options.items() if key != "dynamic_img_size"}
            return _feature_model(timm, name, chosen, rest)
        refused = next((key for key in options if key in str(error)), None)
        if refused is not None:
            raise ValueError(f"TimmBackbone {refused}={options[refused]}: {name} has none; leave it out") from error
        if "feature_cls" not in str(error):
            raise
        raise ValueError(f"TimmBackbone {name}: timm cannot take feature maps from it; choose another model") from error


def _try_out(timm: Any, name: str, chosen: tuple[int, ...], options: dict[str, Any]) -> None:
    """Run a copy without numbers on one image: does it take such a size, and are the maps what timm announces?"""
    height, width = options.get("img_size", _TRIAL_SIZE)
    with torch.device("meta"), torch.no_grad():
        model = _feature_model(timm, name, chosen, options).eval()
        info = model.feature_info
        try:
            shapes = [tuple(level.shape[1:]) for level in model(torch.empty(1, 3, height, width))]
        except (AssertionError, RuntimeError, ValueError) as error:  # what timm's models raise for sizes they refuse
            raise _size_refused(name, (height, width), str(error), "img_size" in options) from error
    announced = [(c, height // s, width // s) for c, s in zip(info.channels(), info.reduction())]
    if shapes != announced:
        reason = f"its maps are {shapes} instead of {announced} (channels, height, width)"
        raise _size_refused(name, (height, width), reason, "img_size" in options)


def _size_refused(name: str, size: tuple[int, int], reason: str, given: bool) -> ValueError:
    reason = (reason or "no reason given").split("\n")[0][:150]
    if given:
        return ValueError(
            f"TimmBackbone img_size={list(size)}: {name} cannot take it ({reason}): give (height, width) that suits "
            "its windows, or choose a convolutional model"
        )
    return ValueError(
        f"TimmBackbone {name} does not take images of any size (tried {size[0]} x {size[1]}: {reason}): give "
        "img_size: [height, width], which is then the only size (no multi-scale training), or choose a convolutional "
        "model"
    )
