# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a trained detector as ONNX, and compare it with PyTorch in ONNX Runtime before the file gets its name.

isdfine export -r output/run/best.pth
isdfine export -c configs/dfine/dfine_hgnetv2_s_coco.yml -r dfine_s_coco.pth -o s.onnx --precision fp16
isdfine export -r my-detector --dynamic-size --uint8 --images my_photos

Inputs: images [N,3,H,W], orig_target_sizes [N,2] (width, height); outputs: labels, boxes, scores. See docs/export.md.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import isdfine

from ..core.command import add_option, command_parser, one_line_errors
from ..core.errors import ConfigError, DataError
from ..deploy.onnx.export import ExportReport, export_onnx, trtexec_line
from ..deploy.onnx.graph import DEFAULT_OPSET, GraphForm
from ..deploy.onnx.sample import JITTERS, images_in
from ..deploy.onnx.structure import TENSORRT_OPSETS, ExportError
from ..deploy.preprocess import Recipe, image_size_of, recipe_of
from ..load import LoadedDetector, load_detector

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "doclayout-tiny"
"""Pages in a checkout."""
ENGINE_BATCHES = (1, 1, 8)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    add_option(parser, "config", help="YAML file of the run; needed for files that carry none")
    parser.add_argument("-r", "--resume", type=Path, required=True, metavar="CHECKPOINT",
                        help=".pth, .safetensors, or a folder of transformers")  # fmt: skip
    add_option(parser, "output", help="file to write; default: the checkpoint's name with .onnx, in this folder")
    add_option(parser, "update")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp32", help="of weights and arithmetic inside the graph"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels, multiples of 32")
    parser.add_argument("--dynamic-size", action="store_true", help="leave height and width free, in steps of 32")
    parser.add_argument("--uint8", action="store_true", help="images are uint8; scaling is inside the graph")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="version of the ONNX operators")
    parser.add_argument("--images", type=Path, help="folder of real images to compare on; default: the validation set")
    add_option(parser, "ema")
    return parser.parse_args(arguments)


def sized(options: argparse.Namespace) -> tuple[LoadedDetector, Recipe, tuple[int, int]]:
    """Model, preprocessing and size, the one asked for: tables of another size are not carried along."""
    config = isdfine.load_config(options.config, options.update) if options.config else None
    if options.update and config is None:
        raise ConfigError("-u changes a config: give it with -c")
    loaded = load_detector(options.resume, config, ema=options.ema)
    recipe = recipe_of(loaded.config)
    own = recipe.size or image_size_of(loaded.config)
    size = (options.size[0], options.size[1]) if options.size else own
    form = GraphForm(size, options.dynamic_size, options.uint8, options.opset)  # refuses impossible sizes and opsets
    if recipe.padding is not None and not options.size:
        raise ConfigError(
            f"{options.resume}: evaluated on padded batches, and the graph has no input for the size of the content: "
            "give --size HEIGHT WIDTH, which squashes images to one size, and evaluate that"
        )
    wanted = None if form.dynamic_size else list(size)
    if loaded.config.get("eval_spatial_size") != wanted:
        config = loaded.config.with_values({"eval_spatial_size": wanted})
        loaded = load_detector(options.resume, config, ema=options.ema)
    return loaded, recipe_of(loaded.config), size


def comparison_images(options: argparse.Namespace, loaded: LoadedDetector) -> Path:
    """Folder of images: the one given, the run's validation set, or the pages of a checkout."""
    if options.images is not None:
        return Path(options.images)
    run = isdfine.load_config(options.config, options.update).data if options.config else loaded.checkpoint.config
    folder = (((run or {}).get("val_dataloader") or {}).get("dataset") or {}).get("img_folder")
    if isinstance(folder, str) and Path(folder).is_dir():
        return Path(folder)
    if not BUNDLED.is_dir():
        raise DataError("no images to compare with: give a folder of real ones with --images")
    return BUNDLED


def metadata_of(loaded: LoadedDetector) -> dict[str, str]:
    """What the file says about its classes and its origin."""
    return {
        "isdfine_version": isdfine.__version__,
        "names": json.dumps(list(loaded.labels.names), ensure_ascii=False),
        "ids": json.dumps(list(loaded.labels.category_ids)),
        "source": loaded.checkpoint.provenance,
        "licence": loaded.checkpoint.licence or "unknown",
    }


def describe(report: ExportReport, folder: Path, size: tuple[int, int], options: argparse.Namespace) -> None:
    """Say what was written and how it was checked."""
    print(f"compared: ONNX Runtime with PyTorch on images of {folder}")
    if report.unstable or report.jitter < JITTERS[0]:
        print(f"          {report.unstable} images left out: PyTorch's own answer jumps there when pixels change by "
              f"{report.jitter:g}")  # fmt: skip
    if report.jitter < JITTERS[0]:
        print(f"          (by {JITTERS[0]:g} it jumps on all: this model is unusually sensitive)")
    for case, difference in report.differences.items():
        excused = (
            f", of {difference.compared} detections up to {difference.allowed} left out" if difference.allowed else ""
        )
        print(f"          {case}: scores {difference.score:.2g}, boxes {difference.box:.2g} px{excused}")
    print(f"half:     {report.share.describe()}")
    print(f"written:  {report.path} ({report.path.stat().st_size / 1e6:.1f} MB, {report.nodes} nodes, "
          f"{report.seconds:.0f} s)")  # fmt: skip
    if options.opset in TENSORRT_OPSETS:
        line = trtexec_line(report.path, size, dynamic_size=options.dynamic_size, batches=ENGINE_BATCHES)
    else:
        line = f"misreads GridSample of opset {options.opset} (docs/export.md): export with --opset {DEFAULT_OPSET}"
    print(f"TensorRT: {line}")


def default_output(checkpoint: Path) -> Path:
    """``best.onnx`` here for ``output/run/best.pth``, ``my.model.onnx`` for a folder ``my.model``."""
    name = checkpoint.resolve().name
    return Path(f"{name if checkpoint.is_dir() else Path(name).stem}.onnx")


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command: 2 for a mistake of the user, 1 for a graph that is not the model; each is one line."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    output = options.output or default_output(options.resume)
    try:
        loaded, recipe, size = sized(options)
        folder = comparison_images(options, loaded)
        report = export_onnx(
            loaded.model, loaded.postprocessor, output, size=size, images=images_in(folder),
            precision=options.precision, dynamic_size=options.dynamic_size, uint8_input=options.uint8,
            metadata=metadata_of(loaded), recipe=recipe, opset=options.opset,
        )  # fmt: skip
        describe(report, folder, size, options)
    except ExportError as error:
        print(f"error: export failed, nothing was written: {error}", file=sys.stderr)
        return 1
    return 0
