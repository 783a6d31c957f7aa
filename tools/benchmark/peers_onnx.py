#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write ONNX files of other projects' detectors, to compare their latency with tools/benchmark/latency.py.

python tools/benchmark/peers_onnx.py transformers -c configs/dfine/dfine_hgnetv2_n_coco.yml -o theirs_n.onnx
python tools/benchmark/peers_onnx.py ultralytics yolo11n yolo11s -o /tmp/yolo

transformers: its D-FINE of the same size, with the random weights our config starts from, in the form of optimum's
export: pixel_values in, logits and pred_boxes out; post-processing stays outside. Needs transformers.
ultralytics: models from their YAML with random weights (nothing is downloaded), 640 x 640. The package is AGPL and no
dependency of this project: run this command in an environment of its own (pip install ultralytics onnx), where isdfine
need not be installed. With random weights NMS has next to nothing to do.
Exit codes: 0, 2 something that is missing.
"""

import argparse
import contextlib
import importlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # its run-time checks have no form in ONNX


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = parser.add_subparsers(dest="peer", required=True)
    ours = peers.add_parser("transformers", help="D-FINE of transformers")
    ours.add_argument("-c", "--config", required=True, help="YAML file of our model of that size")
    ours.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    yolo = peers.add_parser("ultralytics", help="YOLO models")
    yolo.add_argument("models", nargs="+", metavar="NAME", help="yolo11n, yolo11s, ...")
    yolo.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    yolo.add_argument("--size", type=int, default=640, help="side of the square input in pixels")
    return parser.parse_args(arguments)


def package(name: str) -> Any:
    """A package, or a line that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"error: {name} is missing here ({error}): pip install {name}") from None


def write_transformers(config_file: str, output: Path) -> None:
    """D-FINE of transformers, float32, batch 1."""
    transformers, isdfine = package("transformers"), package("isdfine")
    package("torch")
    import torch

    from isdfine.bench.random_weights import random_detector
    from isdfine.bench.twin import transformers_twin
    from isdfine.core.files import whole_file

    ours, config = random_detector(isdfine.load_config(config_file))
    theirs = transformers_twin(config, ours).eval()
    height, width = config.get("eval_spatial_size")

    class Raw(torch.nn.Module):
        """Only what an export has as outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = theirs

        def forward(self, pixel_values: Any) -> tuple[Any, Any]:
            """(B, 3, H, W) -> logits (B, Q, C), boxes cxcywh (B, Q, 4)."""
            output = self.model(pixel_values=pixel_values)
            return output.logits, output.pred_boxes

    program = torch.onnx.export(
        Raw().eval(), (torch.rand(1, 3, height, width),), dynamo=True, opset_version=18, verbose=False,
        input_names=["pixel_values"], output_names=["logits", "pred_boxes"], external_data=False,
    )  # fmt: skip
    assert program is not None  # dynamo=True returns one
    with whole_file(output) as partial:
        program.save(str(partial))
    print(f"written: {output} (transformers {transformers.__version__}, {height} x {width}, random weights)")


def write_ultralytics(names: list[str], folder: Path, size: int) -> None:
    """YOLO models from their YAML, float32, batch 1."""
    before, folder = Path.cwd(), folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:  # it writes its settings, and the file where it is started
        os.environ["YOLO_CONFIG_DIR"], os.environ["YOLO_VERBOSE"] = scratch, "False"
        ultralytics = package("ultralytics")
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(scratch)
        try:
            for name in names:
                with contextlib.redirect_stdout(io.StringIO()):
                    written = ultralytics.YOLO(f"{name}.yaml").export(format="onnx", imgsz=size, simplify=False)
                target = folder / f"{name}.onnx"
                shutil.move(Path(scratch) / written, target)
                print(f"written: {target} (ultralytics {ultralytics.__version__}, {size} x {size}, random weights)")
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {name}: {error}") from None
        finally:
            os.chdir(before)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    try:
        if options.peer == "transformers":
            write_transformers(options.config, options.output)
        else:
            write_ultralytics(options.models, options.output, options.size)
    except SystemExit as error:
        print(error, file=sys.stderr)
        return 2
    except ValueError as error:  # isdfine's errors are of this kind
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
