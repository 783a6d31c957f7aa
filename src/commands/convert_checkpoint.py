# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a trained D-FINE or RT-DETR between official checkpoints, transformers folders, and safetensors with a card.

isdfine convert s.pth s.safetensors --to safetensors -c configs/dfine/dfine_hgnetv2_s_coco.yml
isdfine convert output/run/best.pth my-detector --to huggingface --licence Apache-2.0
isdfine convert my-detector official.pth --to official

The form of the input is found out. A config is needed (-c) only where the input has none: official checkpoints and bare
weights. What was written is read back and compared with the input; the tool fails where they differ.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import isdfine

from ..conversion.convert import Conversion, ConversionRequest, convert
from ..core.command import add_option, command_parser, one_line_errors
from ..core.config.node import dump_yaml
from ..core.config.shipped import SHIPPED
from ..core.errors import ConfigError, DataError
from ..data.label_space import MSCOCO, LabelSpace, mscoco_rows
from ..load import Checkpoint, open_checkpoint


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument("input", type=Path, help=".pth, .safetensors, or a folder of transformers")
    parser.add_argument("output", type=Path, help="file to write; a folder with --to huggingface")
    parser.add_argument(
        "--to", required=True, choices=("official", "huggingface", "safetensors"), dest="form", help="form to write"
    )
    add_option(parser, "config", help="YAML file the input was trained with")
    add_option(parser, "update")
    parser.add_argument("--classes", help="classes of the model: coco, or the COCO JSON file it was trained on")
    parser.add_argument("--licence", help="licence of the weights for the card, as an SPDX identifier")
    parser.add_argument("--metric", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="for the card")
    parser.add_argument("--fp16", action="store_true", help="store the weights in 16 bits")
    parser.add_argument("--inference", action="store_true", help="leave out decoder layers that only training runs")
    add_option(parser, "ema")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    return parser.parse_args(arguments)


def classes_of(text: str | None) -> LabelSpace | None:
    """The label space that --classes names."""
    if text is None or text == "coco":
        return MSCOCO if text else None
    try:
        content = json.loads(Path(text).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"--classes {text}: give coco, or a COCO JSON file ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("categories"), list):
        raise DataError(f"--classes {text}: no list of categories in it: give a COCO JSON file, or coco")
    return LabelSpace.from_coco(content, text)


def metrics_of(texts: list[str]) -> dict[str, float]:
    """NAME=VALUE pairs as numbers."""
    metrics = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            metrics[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"--metric {text}: give NAME=VALUE with a number, for example AP=0.485") from None
    return metrics


def config_of(source: Checkpoint, options: argparse.Namespace) -> isdfine.Config:
    """The config of the command line, else the one in the input, else one made for its model."""
    if options.config:
        return isdfine.load_config(options.config, options.update)
    if source.config is not None:
        if source.config.get("imports"):
            raise ConfigError(
                f"{source.path}: its config imports {source.config['imports']}, and code is not imported because a "
                "weights file says so: give the config with -c if you trust these modules"
            )
        return load_plain(source.config, options.update)
    if source.model_sections is not None:
        return made_for(source.model_sections, options.update)
    raise ConfigError(f"{source.path} ({source.form}) holds no config: give the YAML file it was trained with (-c)")


def load_plain(data: dict[str, Any], overrides: list[str]) -> isdfine.Config:
    """A config from plain data."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yml"
        path.write_text(dump_yaml(data), encoding="utf-8")
        return isdfine.load_config(path, overrides)


def made_for(sections: dict[str, Any], overrides: list[str]) -> isdfine.Config:
    """The training recipe of the size nearest to a model, with that model in it."""
    config = isdfine.load_config(recipe_for(sections), ["PResNet.pretrained=False"] if "PResNet" in sections else [])
    if sections["num_classes"] != len(MSCOCO):
        config = config.with_values(isdfine.load_config(SHIPPED / "dataset" / "custom_detection.yml").data)
    data = {**config.data, **sections, "output_dir": "./output/converted"}
    resize(data, sections["eval_spatial_size"])
    return load_plain(data, overrides)


def recipe_for(sections: dict[str, Any]) -> Path:
    """The file in ``configs`` of the size nearest to a model."""
    if "PResNet" in sections:
        version = "rtdetr" if "RTDETRTransformer" in sections else "rtdetrv2"
        epochs = "120e" if version == "rtdetrv2" and sections["PResNet"]["depth"] < 50 else "6x"
        return SHIPPED / "rtdetr" / f"{version}_r{sections['PResNet']['depth']}vd_{epochs}_coco.yml"
    name, levels = sections["HGNetv2"]["name"], len(sections["HGNetv2"]["return_idx"])
    size = {"B0": "n" if levels < 3 else "s", "B1": "s", "B2": "m", "B3": "m", "B4": "l"}.get(name, "x")
    return SHIPPED / "dfine" / f"dfine_hgnetv2_{size}_coco.yml"


def resize(data: dict[str, Any], image_size: list[int]) -> None:
    """Let the loaders of a config make images of (height, width) pixels; changes ``data``."""
    for loader in ("train_dataloader", "val_dataloader"):
        for op in data[loader]["dataset"]["transforms"]["ops"]:
            if op["type"] == "Resize":
                op["size"] = image_size
    data["train_dataloader"]["collate_fn"]["base_size"] = image_size


def labels_for(source: Checkpoint, config: isdfine.Config, given: LabelSpace | None) -> LabelSpace | None:
    """Classes: those given, those of the input, or COCO's where the config says that labels are COCO's."""
    if given is not None or source.label_space is not None:
        return given or source.label_space
    return mscoco_rows(config, config.get("num_classes") or 0)


def report(conversion: Conversion, labels: LabelSpace | None, *, inference: bool) -> None:
    """Say what was written and how it was checked."""
    print(
        f"classes:  {'unknown (give them with --classes)' if labels is None else f'{len(labels)}: {labels.describe()}'}"
    )
    print(f"checked:  {conversion.num_tensors} tensors read back; largest difference on a seeded image: "
          f"logits {conversion.logits:.2g}, boxes {conversion.boxes:.2g}")  # fmt: skip
    if conversion.rounding is not None:
        print(f"rounding: 16 bits move the 100 best scores by up to {conversion.rounding:.2g}")
    if conversion.left_out is not None:
        print(f"layers:   {conversion.left_out}")
    elif inference:
        print("layers:   all are kept: every decoder layer runs in inference (eval_idx is the last)")
    print("written:  " + "\n          ".join(map(str, conversion.files)))


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    source = open_checkpoint(options.input, ema=options.ema)
    print(f"{options.input}: {source.form}")
    config = config_of(source, options)
    labels = labels_for(source, config, classes_of(options.classes))
    wanted = ConversionRequest(
        options.form, options.output, labels, options.licence, metrics_of(options.metric), half=options.fp16,
        inference=options.inference, force=options.force, with_yaml=options.config is None,
        version=isdfine.__version__,
    )  # fmt: skip
    report(convert(source, config, wanted), labels, inference=options.inference)
    return 0
