# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of the ONNX export share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import isdfine
from isdfine.deploy.onnx.export import ExportReport
from isdfine.deploy.onnx.sample import VerificationSample

IMAGES = Path(__file__).parents[1] / "data" / "doclayout-tiny" / "val"
SIZE = (64, 64)


@dataclass(frozen=True)
class Exported:
    """A micro model, its file, and what PyTorch finds."""

    config: isdfine.Config
    model: nn.Module
    postprocessor: nn.Module
    sample: VerificationSample
    report: ExportReport

    def graph(self) -> Any:
        """Its graph, to be changed."""
        import onnx

        return onnx.load(str(self.report.path))
