# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What files of other projects say, and what that is called here.

Config files travel between the forks of RT-DETR, so keys and names of all of them turn up in one file. Three things can
become of such a word: it is another spelling of a key of ours (``RENAMED``); it is accepted although nothing here
depends on it, and a warning says so (``UNUSED``, ``UNUSED_ARGUMENTS``); or it is an error that names our way to say the
same (``INSTEAD``, ``COMPONENTS``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError
from .node import Node
from .words import WORDS

RENAMED: dict[str, str] = {
    "epochs": "epoches",  # D-FINE since 2025; its earlier files and all its relatives write epoches
    "log_step": "print_freq",  # RT-DETR
    "checkpoint_step": "checkpoint_freq",  # RT-DETR
}
"""Top-level keys with the same meaning under another name."""

RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "RTDETRTransformer": {"num_decoder_layers": "num_layers", "num_decoder_points": "num_points"},
    "ConvertBox": {"out_fmt": "fmt"},
}
"""Arguments with the same meaning under another name, by the name of the component that has them."""

_COMMAND_LINE = "a command-line option that the official code keeps in its config"
_NO_EFFECT = "it has no effect in the official code either, which builds everything from the sections"
_BASE_DECAY = "it has no effect in the official code either: the section ema says it (decay, warmups)"

UNUSED: dict[str, str] = {
    "config": f"{_COMMAND_LINE}: give the file with -c",
    "test_only": f"{_COMMAND_LINE}: give --test-only",
    "local_rank": f"{_COMMAND_LINE}: torchrun gives it",
    "print_method": "the way of printing on several processes: only rank 0 logs, the others' warnings are marked",
    "print_rank": "the process that prints: rank 0 logs, the others' warnings are marked",
    "print_rank_0": "the process that prints: rank 0 logs, the others' warnings are marked",
    "summary_dir": "TensorBoard files lie in the folder of the run: set output_dir (tensorboard: False writes none)",
    "use_wandb": "nothing is sent to Weights & Biases: TensorBoard files and JSON lines are in output_dir",
    "project_name": "the project at Weights & Biases, where nothing is sent: output_dir names the run",
    "exp_name": "the run's name at Weights & Biases, where nothing is sent: output_dir names the run",
    "last_epoch": "the epoch to go on from: -r CHECKPOINT continues a run where it stands",
    "start_epoch": "the epoch to go on from: -r CHECKPOINT continues a run where it stands",
    "ema_decay": _BASE_DECAY,
    "ema_warmups": _BASE_DECAY,
    "num_workers": f"{_NO_EFFECT}: set train_dataloader.num_workers and val_dataloader.num_workers",
    "batch_size": f"{_NO_EFFECT}: set train_dataloader.total_batch_size",
    "train_batch_size": f"{_NO_EFFECT}: set train_dataloader.total_batch_size",
    "val_batch_size": f"{_NO_EFFECT}: set val_dataloader.total_batch_size",
    "train_shuffle": f"{_NO_EFFECT}: set train_dataloader.shuffle",
    "val_shuffle": f"{_NO_EFFECT}: set val_dataloader.shuffle",
}
"""Top-level keys that are accepted and change nothing, with the reason and what does the same."""

UNUSED_ARGUMENTS: dict[str, dict[str, str]] = {
    "DataLoader": {
        "pin_memory": "memory is pinned where the run uses a GPU",
        "persistent_workers": "workers always live as long as the run",
    },
    "DFINECriterion": {
        "end_epoch": "no released criterion reads it: policy.epoch and collate_fn.stop_epoch end stage one",
    },
    **{
        name: {"remap_mscoco_category": "labels stay 0..C-1 inside; the data set maps them to category ids"}
        for name in ("DFINEPostProcessor", "RTDETRPostProcessor")
    },
    "Resize": {
        "antialias": "pictures are always reduced with antialiasing, as PIL does whatever this says",
    },
    "MultiStepLR": {
        "last_epoch": "the schedule's position is saved in checkpoints: -r CHECKPOINT continues there",
        "verbose": "the learning rate is in every log line",
    },
}
"""Arguments of components of ours that are accepted and change nothing."""

WITHOUT_EFFECT = "accepted, but without effect here: "

ACTIVE_ARGUMENTS: dict[str, dict[str, tuple[Any, str]]] = {
    "DFINECriterion": {"share_matched_indices": (False, "every layer is scored on the last layer's matches")},
    "DFINETransformer": {"box_noise_scale": (1.0, "boxes of denoising queries get that much noise")},
}
"""Arguments that the official code accepts and ignores, with the value that it works with, and what they do here."""

_FLAT_COSINE = "DEIM's schedule is lr_scheduler: {type: FlatCosine, lr_gamma, warmup_iter, flat_epochs, no_aug_epochs}"
_SIZES = "the sizes follow from base_size (3/4 to 5/4 of it in steps of 32): set base_size and base_size_repeat"
_GO_LSD = "an option of the distiller, with its default: write distillers: [{type: GOLSD"
_MIXED = "mixing of images is not available yet: remove it"

INSTEAD: dict[str, str] = {
    **{word: text for text, words in WORDS.items() for word in words},
    "lrsheduler": _FLAT_COSINE,
    "lr_gamma": _FLAT_COSINE,
    "warmup_iter": _FLAT_COSINE,
    "flat_epoch": _FLAT_COSINE,
    "no_aug_epoch": _FLAT_COSINE,
    "DataLoader.workers": "write num_workers",
    "DataLoader.batch": "write total_batch_size",
    "AdamW.learning_rate": "write lr",
    "DFINECriterion.temperature": f"{_GO_LSD}, temperature: 5.0}}]",
    "DFINECriterion.dn_padding": f"{_GO_LSD}, dn_padding: include}}]",
    "DFINECriterion.dn_counts": f"{_GO_LSD}, dn_counts: shared}}]",
    "BatchImageCollateFunction.scale_ori_repeat": "write base_size_repeat",
    "BatchImageCollateFunction.mixup_prob": _MIXED,
    "BatchImageCollateFunction.mixup_epochs": _MIXED,
    "BatchImageCollateFunction.copyblend_prob": _MIXED,
    "BatchImageCollateFunction.copyblend_epochs": _MIXED,
    "BatchImageCollateFunction.copyblend_type": _MIXED,
    "BatchImageCollateFunction.area_threshold": _MIXED,
    "BatchImageCollateFunction.num_objects": _MIXED,
    "BatchImageCollateFunction.random_num_objects": _MIXED,
    "BatchImageCollateFunction.with_expand": _MIXED,
    "BatchImageCollateFunction.expand_ratios": _MIXED,
    "Compose.mosaic_prob": _MIXED,
    "DFINETransformer.mlp_act": "DEIM's other activations are not available yet: leave it out",
    "DFINETransformer.num_decoder_layers": "RT-DETR's name: write num_layers",
    "DFINETransformer.num_decoder_points": "RT-DETR's name: write num_points",
    "DFINETransformer.position_embed_type": "only sine tables exist: leave it out",
    "DFINE.multi_scale": _SIZES.replace("base_size and", "train_dataloader.collate_fn.base_size and"),
    "Resize.max_size": "to keep the aspect ratio write ResizeShortestEdge or ResizeToFit in place of Resize",
    "ConvertBoxes.out_fmt": "RT-DETR's name: write fmt",
    "PadToSize.spatial_size": "RT-DETR's name: write size",
}
"""Keys (``key`` or ``Component.argument``) that are errors, with our way to say the same."""


class Foreign(NamedTuple):
    """A component that another project has."""

    origin: str
    """Projects whose files use the name."""
    ours: str | None
    """Registered name of what does the same or comes nearest."""
    same: bool = False
    """True where ``ours`` does the same; False where it is only the nearest thing."""


_RT = "RT-DETR"
_RT2 = "RT-DETRv2"
_D = "D-FINE"
_DEIM = "DEIM"
_DEIM2 = "DEIMv2"
_MM = "mmdetection"
_DX = "detrex"
_HF = "transformers"
_UL = "Ultralytics"
_RF = "RF-DETR"
_PP = "PaddleDetection"

MODELS: dict[str, str] = {
    "RTv4": "RT-DETRv4",
    "RTv4Criterion": "RT-DETRv4",
    "DEIM": f"{_DEIM} and {_DEIM2}",
    "DEIMv2": _DEIM2,
    "DETR": f"{_MM}, {_DX} and {_PP}",
    "DINO": f"{_MM} and {_DX}",
    "DABDETR": _DX,
    "DeformableDETR": f"{_MM} and {_DX}",
    "LWDETR": "LW-DETR",
    "RFDETR": _RF,
    "RFDETRBase": _RF,
    "YOLO": _UL,
    "RTDETRDetectionModel": _UL,
    "RTDetrForObjectDetection": _HF,
    "RTDetrV2ForObjectDetection": _HF,
    "DEIMTransformer": _DEIM2,
    "DINOTransformer": _PP,
    "DinoTransformer": _DX,
    "RTDETRDecoder": _UL,
    "LiteEncoder": _DEIM2,
    "HybridEncoderAsymConv": _RT2,
    "DEIMCriterion": f"{_DEIM} and {_DEIM2}",
    "DINOCriterion": _DX,
}
"""Parts of other detectors and the projects whose files name them. With parts of D-FINE instead it is another model."""

_OTHER_MODEL = "another model than D-FINE and RT-DETR, which is not supported yet"

_FAMILIES = re.compile(r"[a-z-]{0,16}detr|dino|deim|yolo(?!_?d)|rtv4|rtmdet|faster|sparsercnn", re.IGNORECASE)
"""How the names of other detectors and of their parts begin, in any version and spelling."""

COMPONENTS: dict[str, Foreign] = {
    # detectors
    "RTv4PostProcessor": Foreign("RT-DETRv4", "DFINEPostProcessor", True),
    "DFineForObjectDetection": Foreign(_HF, "DFINE", True),
    # decoders and encoders
    "CSPPAN": Foreign(f"{_RT2} and {_D}", "HybridEncoder"),
    # criteria, matchers, post-processors
    "HungarianAssigner": Foreign(_MM, "HungarianMatcher"),
    "DETRPostProcess": Foreign(_PP, "DFINEPostProcessor"),
    "PostProcessor": Foreign(f"{_DEIM} and {_DEIM2}", "DFINEPostProcessor", True),
    "PostProcess": Foreign(f"DETR, LW-DETR and {_RF}", "DFINEPostProcessor", True),
    # backbones
    "MResNet": Foreign(f"{_RT2} and {_D}", "TimmBackbone"),
    "ResNet": Foreign(f"{_MM} and {_PP}", "TimmBackbone"),
    "CSPResNet": Foreign(f"{_RT2} and {_D}", "TimmBackbone"),
    "SwinTransformer": Foreign(f"{_MM} and {_PP}", "TimmBackbone"),
    "CSPDarkNet": Foreign(f"{_RT2} and {_D}", "TimmBackbone"),
    "PPHGNetV2": Foreign(_PP, "HGNetv2", True),
    "DINOv3STAs": Foreign(_DEIM2, "TimmBackbone"),
    "TorchVisionModel": Foreign(f"{_RT2} and {_D}", "TimmBackbone"),
    "TimmModel": Foreign(f"{_RT2} and {_D}", "TimmBackbone"),
    # data
    "COCODataSet": Foreign(_PP, "CocoDetection", True),
    "CocoDataset": Foreign(_MM, "CocoDetection", True),
    "VOCDataSet": Foreign(_PP, "VOCDetection", True),
    "VOCDataset": Foreign(_MM, "VOCDetection", True),
    "YOLODataset": Foreign(_UL, "YoloDetection", True),
    "CrowdHumanDataset": Foreign(_MM, "CrowdHumanDetection", True),
    "Objects365V2Dataset": Foreign(_MM, "Objects365Detection", True),
    "CocoDetection_share_memory": Foreign("forks of RT-DETR", "CocoDetection", True),
    "CustomCocoEvaluator": Foreign("forks of RT-DETR", "CocoEvaluator"),
    "CocoMetric": Foreign(_MM, "CocoEvaluator", True),
    # transforms
    "Mosaic": Foreign(f"{_DEIM} and {_DEIM2}", None),
    "Mixup": Foreign(f"{_DEIM} and {_UL}", None),
    "MixUp": Foreign(f"{_DEIM} and {_UL}", None),
    "CopyBlend": Foreign(_DEIM2, None),
    "Normalize": Foreign(f"{_RT2}, {_D} and {_DEIM2}", "ConvertPILImage"),
    "ConvertImageDtype": Foreign(_RT, "ConvertPILImage", True),
    "PILToTensor": Foreign(f"{_RT} and {_RT2}", "ConvertPILImage", True),
    # schedules, optimisers, averages
    "FlatCosineLRScheduler": Foreign(f"{_DEIM} and {_DEIM2}", "FlatCosine", True),
    "OneCycleLR": Foreign(f"{_RT2} and {_D}", "FlatCosine"),
    "LambdaLR": Foreign(f"{_RT2} and {_D}", "MultiStepLR"),
    "ExponentialMovingAverage": Foreign(_RT2, "ModelEMA"),
    "EMAHook": Foreign(_MM, "ModelEMA"),
    "OptimWrapper": Foreign(_MM, "AdamW"),
    **{name: Foreign("other recipes", "AdamW") for name in ("Adamax", "NAdam", "RAdam", "RMSProp", "Lion")},
    **{name: Foreign("other recipes", "AdamW", True) for name in ("adamw", "ADAMW", "auto")},
}
"""Components that files of other projects name and this one does not have."""


def renamed(own: Node) -> Node:
    """One file's top level with our spelling of its keys.

    Raises:
        ConfigError: a setting stands there under both names.
    """
    for other, name in RENAMED.items():
        if other in own.value and name in own.value:
            node = own.value[other]
            raise ConfigError(f"{node.origin}: {other}: the same setting as {name}, which is there too: keep one")
    children = {RENAMED.get(name, name): _moved(name, child) for name, child in own.value.items()}
    return Node(children, own.origin, own.key)


def _moved(name: object, child: Node) -> Node:
    return Node(child.value, child.origin, RENAMED[name]) if isinstance(name, str) and name in RENAMED else child


def renamed_arguments(component: str, given: Mapping[Any, Node]) -> dict[Any, Node]:
    """The arguments of one component with our spelling of their names; ours wins where both are there."""
    names = RENAMED_ARGUMENTS.get(component, {})
    moved = {names[name]: node for name, node in given.items() if name in names}
    return moved | {name: node for name, node in given.items() if name not in names}


def unused_key(name: object) -> str | None:
    """Why a top-level key changes nothing; None for keys that are not accepted so."""
    return UNUSED.get(str(name))


def unused_argument(component: str, argument: object) -> str | None:
    """Why an argument of a component changes nothing; None for arguments that are not accepted so."""
    return UNUSED_ARGUMENTS.get(component, {}).get(str(argument))


def wakes_up(component: str, argument: object, value: Any) -> str | None:
    """What an argument does here that the official code ignores; None where the value is the one that it works with."""
    official, effect = ACTIVE_ARGUMENTS.get(component, {}).get(str(argument), (value, ""))
    if value == official:
        return None
    return f"the official code accepts this and works with {official}; here it acts: {effect}"


def key_hint(name: object) -> str:
    """``; ...`` with our way to say what a foreign key or ``Component.argument`` says; empty where it is unknown."""
    text = INSTEAD.get(str(name))
    return f"; {text}" if text else component_hint(name) or _word_hint(str(name).lower().replace("-", "_"))


def _word_hint(word: str) -> str:
    return f"; {INSTEAD[word]}" if word in INSTEAD else ""


def _family_hint(name: object) -> str:
    """That a name listed nowhere is of another family: the most similar name of ours would be another model."""
    if not isinstance(name, str) or "." in name or (family := _FAMILIES.match(name)) is None:
        return ""
    return f"; {name} looks like a part of {family.group()}, {_OTHER_MODEL}"


def component_hint(name: object) -> str:
    """``; ...`` with the project that has the component and our name for it; empty where it is unknown."""
    found = COMPONENTS.get(name) if isinstance(name, str) else None
    if isinstance(name, str) and name.endswith((".pt", ".pth", ".safetensors")):
        return "; weights to start from are given with tuning (-t)"
    if isinstance(name, str) and name in MODELS:
        return f"; {name} is a part of {MODELS[name]}, {_OTHER_MODEL}"
    if found is None:
        return _family_hint(name)
    if found.ours is None:
        return f"; {name} of {found.origin} is not available here yet: leave it out"
    if found.same:
        return f"; did you mean {found.ours}? {name} is its name in {found.origin}"
    return f"; did you mean {found.ours}? It is the nearest here: {name} of {found.origin} is not available yet"


_YOLO_DATA = (
    "this describes a data set for Ultralytics, not a run: name the file as `data` of YoloDetection in a config of "
    "yours (configs/dataset/yolo_detection.yml), with train_dataloader.dataset.data=THIS_FILE"
)
_YOLO_MODEL = (
    "this describes a network for Ultralytics, not a run: such networks are not built here; start from a file of "
    "configs/dfine, for example configs/dfine/custom/dfine_hgnetv2_s_custom.yml"
)
_YOLO_ARGUMENTS = (
    "these are training arguments of Ultralytics, not a run: start from a file of configs/dfine and set what differs "
    "with -u, for example epoches, train_dataloader.total_batch_size and optimizer.lr"
)
_PADDLE = "this is a config of PaddleDetection, which has other components: start from a file of configs/dfine"
_TRANSFORMERS = (
    "this is the config of a transformers checkpoint, not a run: convert that folder with tools/convert_checkpoint.py "
    "and start from the result with -t"
)
_COCO = "this is a COCO annotation file, not a run: name it as ann_file of CocoDetection in a config"

_KINDS: tuple[tuple[str, Callable[[dict[Any, Node]], bool], str], ...] = (
    ("names", lambda top: bool({"train", "val", "test", "path", "nc"} & set(top)), _YOLO_DATA),
    ("backbone", lambda top: isinstance(top["backbone"].value, list), _YOLO_MODEL),
    ("head", lambda top: isinstance(top["head"].value, list), _YOLO_MODEL),
    ("imgsz", lambda top: "epochs" in top or "epoches" in top or "data" in top, _YOLO_ARGUMENTS),
    ("_BASE_", lambda top: True, _PADDLE),
    ("architecture", lambda top: isinstance(top["architecture"].value, str), _PADDLE),
    ("model_type", lambda top: "architectures" in top or "transformers_version" in top, _TRANSFORMERS),
    ("annotations", lambda top: "images" in top or "categories" in top, _COCO),
)
"""A key that gives a file of another kind away, what must hold besides, and what to do with such a file."""


def refuse_python(name: str) -> None:
    """See that a config is no Python file.

    Raises:
        ConfigError: a config of mmdetection, detrex or another project that writes them in Python.
    """
    if name.endswith(".py"):
        raise ConfigError(
            f"{name}: a Python config, as mmdetection, detrex and detectron2 have them: only YAML is read here; start "
            "from a file of configs/dfine and set what differs with -u"
        )


def refuse_other_kinds(tree: Node) -> None:
    """See that a file describes a run.

    Raises:
        ConfigError: a data set, network or argument file of Ultralytics, or a config of another framework.
    """
    for key, holds, text in _KINDS:
        if key in tree.value and holds(tree.value):
            raise ConfigError(f"{tree.value[key].origin}: {key}: {text}")
