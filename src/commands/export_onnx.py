# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write a trained detector as ONNX, and compare it with PyTorch in ONNX Runtime before the file gets its name.

isdfine export -r output/run/best.pth
isdfine export -c configs/dfine/dfine_hgnetv2_s_coco.yml -r dfine_s_coco.pth -o s.onnx --precision fp16
isdfine export -r my-detector --dynamic-size --uint8 --images my_photos

Inputs: images [N,3,H,W], orig_target_sizes [N,2] (width, height); outputs: labels, boxes, scores. See docs/export.md.
"""

import argparse
import logging
import sys
from pathlib import Path

import isdfine

from ..core.command import add_option, command_parser, one_line_errors
from ..deploy.onnx.export import ExportReport, trtexec_line
from ..deploy.onnx.graph import DEFAULT_OPSET
from ..deploy.onnx.sample import JITTERS
from ..deploy.onnx.structure import TENSORRT_OPSETS, ExportError

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


def describe(report: ExportReport, options: argparse.Namespace) -> None:
    """Say what was written and how it was checked."""
    print(f"compared: ONNX Runtime with PyTorch on images of {report.images}")
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
        line = trtexec_line(report.path, report.size, dynamic_size=options.dynamic_size, batches=ENGINE_BATCHES)
    else:
        line = f"misreads GridSample of opset {options.opset} (docs/export.md): export with --opset {DEFAULT_OPSET}"
    print(f"TensorRT: {line}")


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command: 2 for a mistake of the user, 1 for a graph that is not the model; each is one line."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        report = isdfine.export(
            options.resume, options.output, config=options.config, size=options.size, precision=options.precision,
            dynamic_size=options.dynamic_size, uint8_input=options.uint8, opset=options.opset, images=options.images,
            ema=options.ema, update=options.update,
        )  # fmt: skip
        describe(report, options)
    except ExportError as error:
        print(f"error: export failed, nothing was written: {error}", file=sys.stderr)
        return 1
    return 0
