# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import isdfine
from builders import write_micro_config
from isdfine.ablation import layers
from isdfine.ablation.layers import LayerResults, answering_layer, cached_layers, layer_metrics, values_by_layer
from isdfine.core.config import Config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.evaluate import CocoEvaluator, EvalResult
from isdfine.solver.solver import Evaluation


def fingerprint(evaluator: CocoEvaluator) -> EvalResult:
    """Stands in for COCO's metrics, which are zero for weights that nobody trained: sums over all detections."""
    evaluator._read()  # the last batch, as the metrics do
    seen = sorted(evaluator._seen, key=lambda image: image.image_id)
    boxes = float(sum(abs(detections.boxes_xyxy_px).sum() for detections in seen))
    return EvalResult({"AP": float(sum(detections.scores.sum() for detections in seen)), "AP50": boxes}, [], len(seen))


@pytest.fixture
def micro(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Config, Path]:
    """The micro config with three layers, and weights of no meaning in which every layer says something else."""
    head = getattr(request, "param", "fdr")
    overrides = ["DFINETransformer.num_layers=3", f"DFINETransformer.box_head={head}"]
    config = isdfine.load_config(write_micro_config(tmp_path), overrides)
    model = Evaluation(config).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.decoder.state_dict(keep_vars=True).items():  # type: ignore[union-attr]
            if weight.is_floating_point() and weight.requires_grad and "norm" not in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    checkpoint = tmp_path / "last.pth"
    torch.save({"model": model.state_dict()}, checkpoint)
    return config, checkpoint


@pytest.mark.parametrize("micro", ["fdr", "direct"], indirect=True)
def test_every_layer_answers_as_if_it_were_the_last(
    micro: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = micro
    monkeypatch.setattr(CocoEvaluator, "summarize", fingerprint)
    layers = layer_metrics(config, checkpoint)
    assert layers.answers == 2
    alone = []
    for index in range(3):
        run = Evaluation(config.with_values({"DFINETransformer.eval_idx": index}))
        run.load(checkpoint)
        alone.append(run.evaluate())
    assert list(layers.stats) == [result.stats for result in alone]
    assert [result.num_images for result in alone] == [8, 8, 8]
    assert len({stats["AP50"] for stats in layers.stats}) == 3


def test_parts_before_the_decoder_run_once_a_batch(micro: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config, checkpoint = micro
    calls = []
    build = Config.build

    def counted(self: Config, name: str, **given: object) -> object:
        built = build(self, name, **given)
        if name == "model":
            built.backbone.register_forward_hook(lambda *_: calls.append("backbone"))
            built.backbone.stem.register_forward_hook(lambda *_: calls.append("stem"))
        return built

    monkeypatch.setattr(Config, "build", counted)
    layer_metrics(config, checkpoint)
    assert calls.count("stem") == 2  # batches of four, eight images
    assert calls.count("backbone") == 2


def test_the_answering_layer_need_not_be_the_last(micro: tuple[Config, Path], tmp_path: Path) -> None:
    config, checkpoint = micro
    measured = cached_layers(config.with_values({"DFINETransformer.eval_idx": 1}), checkpoint, tmp_path / "layers.json")
    assert (measured.answers, len(measured.stats)) == (1, 3)
    assert measured.parameters == sum(parameter.numel() for parameter in Evaluation(config).model.parameters())
    assert set(measured.stats[0]) >= {"AP", "AP50", "AR100"}


def test_results_are_kept_until_the_checkpoint_changes(
    micro: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = micro
    cache = tmp_path / "layers.json"
    first = cached_layers(config, checkpoint, cache)

    def measured(_config: Config, path: Path) -> LayerResults:
        raise RuntimeError(f"measured {path}")

    monkeypatch.setattr(layers, "layer_metrics", measured)
    assert cached_layers(config, checkpoint, cache) == first
    os.utime(checkpoint, ns=(0, 0))
    with pytest.raises(RuntimeError, match="measured"):
        cached_layers(config, checkpoint, cache)
    checkpoint.unlink()  # to save space: it has been measured
    assert cached_layers(config, checkpoint, cache) == first
    cache.unlink()
    with pytest.raises(CheckpointError, match=r"last.pth is gone: AP over layers is measured from it"):
        cached_layers(config, checkpoint, cache)
    assert json.loads(json.dumps(first.stats[0])) == first.stats[0]


def test_models_without_layers_that_answer_are_refused(micro: tuple[Config, Path]) -> None:
    with pytest.raises(ConfigError, match="Linear has no decoder whose layers can answer one by one"):
        answering_layer(nn.Linear(1, 1))
    config, checkpoint = micro
    with pytest.raises(ConfigError, match="trained with aux_loss: False: its early layers have no trained heads"):
        layer_metrics(config.with_values({"DFINETransformer.aux_loss": False}), checkpoint)


def test_values_by_layer() -> None:
    def result(*aps: float) -> LayerResults:
        return LayerResults(len(aps) - 1, 1, tuple({"AP": ap} for ap in aps))

    assert values_by_layer([result(0.1, 0.2), result(0.3, 0.4)], "AP") == [[0.1, 0.3], [0.2, 0.4]]
    assert values_by_layer([], "AP") == []
    with pytest.raises(ConfigError, match=r"runs of one variant have \[1, 2\] decoder layers"):
        values_by_layer([result(0.1), result(0.1, 0.2)], "AP")
