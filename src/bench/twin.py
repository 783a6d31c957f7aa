# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A detector of ``transformers`` with the weights of one of ours, to be compared with."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..core.checkpoint.card import Card
from ..core.config import Config
from ..core.errors import ConfigError
from ..core.extras import need
from ..nn.backbone.resnet import BLOCKS, STAGE_WIDTHS
from ..zoo.dab_detr.model import DABDETR
from ..zoo.deformable_detr.model import DeformableDETR
from ..zoo.huggingface import dab, deformable
from ..zoo.huggingface.config import config_to_huggingface
from ..zoo.huggingface.folder import write_folder
from ..zoo.huggingface.weights import to_huggingface

_DEFORMABLE = {
    "DeformableEncoder": {
        "dim_feedforward": "encoder_ffn_dim",
        "nhead": "encoder_attention_heads",
        "num_encoder_layers": "encoder_layers",
        "num_points": "encoder_n_points",
    },
    "DeformableDETRTransformer": {
        "hidden_dim": "d_model",
        "num_levels": "num_feature_levels",
        "dim_feedforward": "decoder_ffn_dim",
        "nhead": "decoder_attention_heads",
        "num_layers": "decoder_layers",
        "num_points": "decoder_n_points",
        "dropout": "dropout",
        "activation": "activation_function",
        "num_queries": "num_queries",
        "box_refine": "with_box_refine",
        "two_stage": "two_stage",
    },
}
"""Our arguments and the entries of their config; the defaults of both are the same."""


_DENSE = {
    "DenseEncoder": {
        "dim_feedforward": "encoder_ffn_dim",
        "nhead": "encoder_attention_heads",
        "num_encoder_layers": "encoder_layers",
    },
    "DABDETRTransformer": {
        "hidden_dim": "hidden_size",
        "dim_feedforward": "decoder_ffn_dim",
        "nhead": "decoder_attention_heads",
        "num_layers": "decoder_layers",
        "dropout": "dropout",
        "activation": "activation_function",
        "num_queries": "num_queries",
        "num_patterns": "num_patterns",
    },
}


def transformers_twin(config: Config, ours: nn.Module) -> nn.Module:
    """``DFineForObjectDetection``, or that of Deformable DETR or DAB-DETR, with the same weights.

    Args:
        config: that the model was built from, with ``num_classes`` and ``eval_spatial_size``.
        ours: the detector.

    Raises:
        ConfigError: transformers is not installed, or did not get all weights.
    """
    transformers = need("transformers", install='"transformers>=4.52"')
    if isinstance(ours, DeformableDETR):
        return _deformable_twin(transformers, config, ours)
    if isinstance(ours, DABDETR):
        return _dab_twin(transformers, config, ours)
    names = [f"class {index}" for index in range(int(config.get("num_classes")))]
    content = config_to_huggingface(config.data, num_classes=len(names), names=names)
    height, width = config.get("eval_spatial_size")
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:  # from_pretrained knows the names that transformers 5 changed
        card = Card(config=config.data)
        write_folder(Path(folder), content, to_huggingface(ours.state_dict()), card, image_size=(height, width))
        loaded: Any = transformers.DFineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    twin: nn.Module = loaded[0]
    said: dict[str, Any] = loaded[1]
    if said["missing_keys"]:
        raise ConfigError(f"transformers {transformers.__version__} did not get {sorted(said['missing_keys'])[:3]}")
    return twin


def _deformable_twin(transformers: Any, config: Config, ours: nn.Module) -> nn.Module:
    """``DeformableDetrForObjectDetection`` with losses after every layer."""
    content = _entries(config, _DEFORMABLE)
    content["two_stage_num_proposals"] = content.get("num_queries", 300)
    if "dropout" in content:  # the published code drops in all three places
        content |= {"attention_dropout": content["dropout"], "activation_dropout": content["dropout"]}
    content |= {"backbone_config": _resnet(transformers, config, ["stage2", "stage3", "stage4"])}
    twin = transformers.DeformableDetrForObjectDetection(transformers.DeformableDetrConfig(**content))
    return _with_weights(twin, ours, deformable.published_name)


def _dab_twin(transformers: Any, config: Config, ours: nn.Module) -> nn.Module:
    """``DabDetrForObjectDetection`` with losses after every layer; ConfigError for the deformable form."""
    if config.data["DABDETRTransformer"].get("cross_attention") != "dense":
        raise ConfigError("transformers has DAB-DETR with dense attention only: give a config with such a decoder")
    content = _entries(config, _DENSE) | {"backbone_config": _resnet(transformers, config, ["stage4"])}
    twin = transformers.DabDetrForObjectDetection(transformers.DabDetrConfig(**content))
    return _with_weights(twin, ours, dab.published_name)


def _entries(config: Config, rows: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Of their config what ours says."""
    content = {
        theirs: config.data[section][argument]
        for section, names in rows.items()
        for argument, theirs in names.items()
        if argument in config.data.get(section, {})
    }
    return content | {
        "num_labels": int(config.get("num_classes")), "auxiliary_loss": True, "use_timm_backbone": False,
    }  # fmt: skip


def _resnet(transformers: Any, config: Config, out_features: list[str]) -> Any:
    """Their config of our ``ResNet``."""
    depth = config.data["ResNet"]["depth"]
    return transformers.ResNetConfig(
        depths=list(BLOCKS[depth]),
        hidden_sizes=[width * (4 if depth >= 50 else 1) for width in STAGE_WIDTHS],
        layer_type="bottleneck" if depth >= 50 else "basic",
        out_features=out_features,
    )


def _with_weights(twin: nn.Module, ours: nn.Module, published_name: Callable[[str], str]) -> nn.Module:
    given = ours.state_dict(keep_vars=True)
    for key, value in twin.state_dict(keep_vars=True).items():
        name, split = re.subn(r"\.[qkv]_proj\.", ".in_proj_", published_name(key))
        part = given[name].chunk(3)["qkv".index(key.split("_proj.")[0][-1])] if split else given[name]
        value.detach().copy_(part.detach())
        value.requires_grad_(given[name].requires_grad)  # transformers 5.24 freezes the whole of its own ResNet
    return twin
