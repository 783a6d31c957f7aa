# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a run has trained, with any box head, can be exported, run, converted, and started from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isdfine
from builders import SIZE, write_micro_config
from detector_cases import pictures
from isdfine.conversion.convert import ConversionRequest, convert
from isdfine.core.errors import CheckpointError
from isdfine.deploy.detector import Detector
from isdfine.deploy.onnx.graph import Deployed, GraphForm, to_onnx
from isdfine.deploy.preprocess import recipe_of
from isdfine.load import load_detector, open_checkpoint
from isdfine.solver.fit import fit
from isdfine.solver.solver import Evaluation
from isdfine.solver.training import Training

pytestmark = pytest.mark.usefixtures("small_backbone")
DIRECT = [
    "DFINETransformer={box_head: direct, merge: residual, cross_attn_projections: True}",
    "DFINECriterion={use_uni_set: False, losses: [vfl, boxes], weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2}}",
    "distillers=[]",
]
"""As configs/roadmap/1..7: the head of RT-DETR, which has neither distributions nor a ``reg_scale``."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``best.pth`` of two steps of training."""
    folder = tmp_path_factory.mktemp("direct")
    config = isdfine.load_config(write_micro_config(folder), [*DIRECT, "epoches=1", f"output_dir={folder / 'run'}"])
    run = Training(config)
    assert len(run.train_loader) == 2
    fit(run)
    return folder / "run" / "best.pth"


def test_a_direct_head_is_detected_with(trained: Path, tmp_path: Path) -> None:
    detector = Detector.load(trained, device="cpu")
    for found in detector.detect(pictures(tmp_path), threshold=0.0):
        assert len(found) > 0
        assert np.isfinite(found.boxes).all()


def test_a_direct_head_is_exported(trained: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    images, graph, loaded = pictures(tmp_path), tmp_path / "direct.onnx", load_detector(trained)
    recipe = recipe_of(loaded.config)
    proto = to_onnx(Deployed(loaded.model, loaded.postprocessor, recipe), GraphForm(SIZE))
    classes = {"names": '["dark", "light"]', "ids": json.dumps(loaded.labels.category_ids)}
    onnx.helper.set_model_props(proto, {"isdfine_version": "0", **classes, **recipe.to_metadata()})
    onnx.save(proto, graph)
    exported, own = (Detector.load(path, device="cpu").detect(images[0], 0.0) for path in (graph, trained))
    np.testing.assert_allclose(exported.scores, own.scores, atol=1e-4)
    np.testing.assert_allclose(exported.boxes, own.boxes, atol=1e-2)


@pytest.mark.parametrize(("form", "name"), [("safetensors", "m.safetensors"), ("official", "m.pth")])
def test_a_direct_head_is_converted(trained: Path, tmp_path: Path, form: str, name: str) -> None:
    source = open_checkpoint(trained)
    config = isdfine.load_config(trained.parent / "config.yml")
    convert(source, config, ConversionRequest(form, tmp_path / name, source.label_space))  # type: ignore[arg-type]
    first, second = load_detector(trained), load_detector(tmp_path / name)
    assert first.labels == second.labels
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(first.model(image).boxes, second.model(image).boxes)


def test_a_direct_head_is_judged_and_started_from(trained: Path, tmp_path: Path) -> None:
    config = trained.parent / "config.yml"
    assert Evaluation(isdfine.load_config(config, [f"resume={trained}"])).load(trained).complete
    run = Training(isdfine.load_config(config, [f"tuning={trained}", f"output_dir={tmp_path / 'next'}"]))
    assert run.tune_from(trained).complete


def test_a_checkpoint_of_another_family_is_named(trained: Path, tmp_path: Path) -> None:
    config = isdfine.load_config(write_micro_config(tmp_path))
    family = "these are the weights of RT-DETR, another family of detectors than D-FINE"
    with pytest.raises(CheckpointError, match=family):
        load_detector(trained, config)
    with pytest.raises(CheckpointError, match=family):
        Evaluation(config.with_values({"resume": str(trained)})).load(trained)
