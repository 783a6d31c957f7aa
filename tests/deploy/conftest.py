# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One exported micro model for all tests of a session: an export takes ten seconds, and most tests change its graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export_cases import IMAGES, SIZE, Exported
from hf_cases import filled, micro
from isdfine.core.checkpoint import SUM_KEY
from isdfine.deploy.onnx.export import export_onnx
from isdfine.deploy.onnx.sample import draw_sample, images_in
from isdfine.deploy.preprocess import Recipe

TEXTS = {"isdfine_version": "0", "names": '["dark", "light"]', "ids": "[3, 7]"}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The micro model in float32."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"pip install {package}")
    folder = tmp_path_factory.mktemp("export")
    config = micro(folder)
    model, postprocessor = filled(config), config.build("postprocessor")
    paths = images_in(IMAGES)
    report = export_onnx(model, postprocessor, folder / "micro.onnx", size=SIZE, images=paths, metadata=TEXTS)
    sample = draw_sample(model, postprocessor, paths, Recipe.squash(SIZE))
    return Exported(config, model, postprocessor, sample, report)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a graph and give its path."""

    def write(proto: Any) -> Path:
        path = tmp_path / "changed.onnx"
        kept = [entry for entry in proto.metadata_props if entry.key != SUM_KEY]  # changed on purpose
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        path.write_bytes(proto.SerializeToString())
        return path

    return write
