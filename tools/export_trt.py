#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Build a TensorRT engine (10 or 11) from an ONNX file of tools/export_onnx.py, on the GPU that will run it.

python tools/export_trt.py s.onnx
python tools/export_trt.py s.onnx -o s.engine --batches 1 8 32 --timing-cache trt.cache
python tools/export_trt.py free.onnx --sizes 320 320 640 640 960 960

Precision is that of the graph: export it with --precision fp16 for an FP16 engine. Not run on a GPU by its authors yet.
"""

import argparse
import logging
import sys
from pathlib import Path

from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.deploy.onnx.structure import ExportError
from isdfine.deploy.tensorrt_engine import Batches, build_engine


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help=".onnx file")
    parser.add_argument("-o", "--output", type=Path, help="file to write; default: the graph's name with .engine")
    parser.add_argument("--batches", type=int, nargs=3, default=(1, 1, 8), metavar=("LEAST", "BEST", "MOST"))
    parser.add_argument("--sizes", type=int, nargs=6, metavar=("H", "W", "H", "W", "H", "W"),
                        help="least, best and most size of a graph of free size")  # fmt: skip
    parser.add_argument("--timing-cache", type=Path, help="file that keeps the timings of this GPU")
    parser.add_argument("--workspace", type=float, default=4.0, metavar="GB", help="memory that kernels may use")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command: 2 for a mistake of the user, 1 for an engine that is not the graph; each is one line."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    flat = options.sizes
    try:
        report = build_engine(
            options.graph,
            options.output or options.graph.with_suffix(".engine"),
            batches=Batches(*options.batches),
            sizes=None if flat is None else [(flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5])],
            timing_cache=options.timing_cache,
            workspace_gb=options.workspace,
        )
    except (ConfigError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"error: nothing was written: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {report.path} ({report.precision}; {report.half_layers} of {report.layers} layers in half precision)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
