#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of a run's checkpoint in PyTorch and of its exported graphs in ONNX Runtime, on the same batches.

python tools/experiments/export_ap.py -c configs/quickstart.yml -r output/quickstart/last.pth fp32.onnx fp16.onnx
python tools/experiments/export_ap.py ... --pages train      # the pages that the quickstart learns by heart

The loader's images are what the graphs get, so only their arithmetic is compared. CPU, one thread per operation.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import isdfine
from isdfine.core.command import add_option, command_parser
from isdfine.deploy.onnx.verify import session_of
from isdfine.load import load_detector
from isdfine.nn.types import BatchDetections
from isdfine.solver.evaluate import evaluate


class Graph(torch.nn.Module):
    """An exported file where a model is expected: it keeps the images, and the graph runs as post-processing."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = session_of(path)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> the same images."""
        return images

    def detections(self, predictions: Any, orig_target_sizes: torch.Tensor) -> BatchDetections:
        """Images (B, 3, H, W) in place of predictions, sizes (B, 2) as width, height -> what the graph finds."""
        pixels = predictions.numpy()
        if self.session.get_inputs()[0].type == "tensor(uint8)":
            pixels = np.rint(pixels * 255).astype(np.uint8)
        feed = {"images": pixels, "orig_target_sizes": orig_target_sizes.numpy()}
        return BatchDetections(*(torch.from_numpy(column) for column in self.session.run(None, feed)))


def main(arguments: list[str] | None = None) -> int:
    """Print one line per model."""
    parser = command_parser(__doc__)
    add_option(parser, "config", required=True)
    parser.add_argument("-r", "--resume", required=True, help="checkpoint")
    parser.add_argument("--pages", choices=("train", "val"), default="val", help="split of a COCO folder of that name")
    parser.add_argument("graphs", type=Path, nargs="+", help=".onnx files")
    options = parser.parse_args(arguments)
    config = isdfine.load_config(options.config)
    if options.pages == "train":
        data = config.get("train_dataloader.dataset")
        place = {f"val_dataloader.dataset.{key}": data[key] for key in ("img_folder", "ann_file")}
        config = config.with_values(place)
    loader = config.build("val_dataloader")
    loaded = load_detector(options.resume, config)
    evaluator = config.build("evaluator", dataset=loader.dataset)
    base = evaluate(loaded.model, loaded.postprocessor, loader, evaluator).stats
    print(f"{'PyTorch':<40} AP {100 * base['AP']:.2f}  AP50 {100 * base['AP50']:.2f}")
    for path in options.graphs:
        graph = Graph(path)
        stats = evaluate(graph, graph.detections, loader, evaluator).stats
        moved = 100 * (stats["AP"] - base["AP"])
        print(f"{path.name:<40} AP {100 * stats['AP']:.2f}  AP50 {100 * stats['AP50']:.2f}  ({moved:+.2f} points)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
