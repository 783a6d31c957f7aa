# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Decoder layers that only training runs: inference does not know of them, and they teach."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import isdfine
from builders import TINY_DECODER, write_micro_config
from golden_cases import fill
from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.errors import CheckpointError
from isdfine.deploy.fuse import fuse
from isdfine.distill.attention import AttentionDistillation
from isdfine.distill.layers import InterLayerDistillation
from isdfine.distill.objective import Objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
from isdfine.zoo.dfine.decoder import DFINETransformer

SETTINGS = TINY_DECODER | {"num_layers": 2, "reg_max": 8}
DEEP: list[dict[str, Any]] = [
    {"num_layers": 4, "eval_idx": 1},
    {"num_layers": 4, "eval_idx": -3},
    {"num_layers": 4, "eval_idx": 1, "layer_scale": 2},
    {"num_layers": 3, "eval_idx": 1, "layer_scale": 1.5},
]
LAYERS = ("decoder.layers.", "decoder.lqe_layers.", "dec_score_head.", "dec_bbox_head.")


def build(**more: Any) -> DFINETransformer:
    torch.manual_seed(0)
    return fill.fill_module(DFINETransformer(5, **(SETTINGS | more)))


def features() -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(2, 16, 64 // stride, 64 // stride) for stride in (8, 16)]


def targets(counts: tuple[int, ...] = (3, 1)) -> list[dict[str, Tensor]]:
    return [{key: torch.from_numpy(value) for key, value in one.items()} for one in fill.random_targets(7, counts, 5)]


def criterion() -> DFINECriterion:
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, alpha=0.25, gamma=2.0)
    return DFINECriterion(matcher, weights, ["vfl", "boxes", "local"], 0.75, 2.0, num_classes=5, reg_max=8)


@pytest.mark.parametrize("head", ["fdr", "direct"])
@pytest.mark.parametrize("deep", DEEP)
def test_inference_is_that_of_a_model_without_them(deep: dict[str, Any], head: str) -> None:
    trained, shallow = build(box_head=head, **deep).eval(), build(box_head=head).eval()
    report = load_weights(shallow, trained.state_dict(), strict=False)
    assert not report.missing
    assert not report.mismatched
    assert set(report.unexpected) == set(trained.state_dict()) - set(shallow.state_dict())
    assert all(key.startswith(LAYERS) for key in report.unexpected)
    with torch.no_grad():
        want, got = shallow(features()), trained(features())
        short, plain = fuse(trained), fuse(shallow)
        fused = short(features())
    for one in (got, fused):
        assert torch.equal(one.logits, want.logits)
        assert torch.equal(one.boxes, want.boxes)
    assert {key: value.shape for key, value in short.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert sum(one.numel() for one in short.parameters()) == sum(one.numel() for one in plain.parameters())


def test_a_strict_load_names_the_layers_that_are_too_many() -> None:
    deep, shallow = build(**DEEP[0]), build()
    with pytest.raises(CheckpointError, match=r"not in the model: decoder\.layers\.2\..*or -t \(strict=False\)"):
        load_weights(shallow, deep.state_dict())


def test_shallow_weights_start_a_deep_model() -> None:
    """The other way round: what is new keeps its initial values and is reported."""
    report = load_weights(build(**DEEP[2]), build().state_dict(), strict=False)
    assert len(report.loaded) == len([key for key in build().state_dict() if key not in ("anchors", "valid_mask")])
    assert all(".2." in key or ".3." in key for key in report.missing)


@pytest.mark.parametrize("deep", DEEP)
def test_the_deepest_layer_teaches_all_others(deep: dict[str, Any]) -> None:
    model, layers = build(**deep), deep["num_layers"]
    objective = Objective(criterion())
    output = model(features(), targets())
    assert len(output.layers) == len(output.groups["dn"].layers) == layers
    context = objective.context(output, targets())
    assert context.step.matching.stack.last_layer == layers - 1
    losses = objective.terms(context)
    taught = {name for name in losses if name.startswith("loss_ddf") and "dn" not in name}
    assert taught == {f"loss_ddf_aux_{i}" for i in range(layers - 1)}
    assert {f"loss_vfl_dn_{i}" for i in range(layers)} <= set(losses)
    assert all(losses[name] > 0 for name in taught)
    sum(losses.values(), torch.zeros(())).backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]


def test_the_teacher_gets_no_gradient_from_its_pupils() -> None:
    model = build(**DEEP[2])
    losses = Objective(criterion())(model(features(), targets()), targets())
    losses["loss_ddf_aux_1"].backward()
    deeper = tuple(f"{part}{i}." for part in LAYERS for i in (2, 3))
    wide = [one for name, one in model.state_dict(keep_vars=True).items() if name.startswith(deeper)]
    assert len(wide) > 40
    assert all(one.grad is None or not one.grad.any() for one in wide)
    assert model.box_head.layers[1].layers[2].weight.grad.any()


def test_other_distillers_work_across_widths() -> None:
    """Maps of neighbouring layers have the same shape whatever the layers' widths."""
    model = build(**DEEP[2])
    distillers = [InterLayerDistillation(), AttentionDistillation(ramp=[0, 0])]
    for one in distillers:
        one.check(model, criterion())
    objective = Objective(criterion(), distillers)
    losses = objective(model(features(), targets(), want=objective.want), targets(), 1.0)
    named = {name for name in losses if "isd" in name or "attn" in name}
    assert {"loss_isd_aux_0", "loss_isd_aux_2", "loss_attn_0", "loss_attn_2"} <= named
    sum(losses.values(), torch.zeros(())).backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_scale": 2}, "layer_scale 2 widens the layers after eval_idx, but eval_idx -1 is the last of 2: raise"),
        (
            {"num_layers": 3, "eval_idx": 1, "layer_scale": 1.1},
            r"have 18 channels, which do not split into 4 heads: cha",
        ),
        (
            {"num_layers": 3, "eval_idx": 1, "aux_loss": False},
            "aux_loss: False trains the predictions of the last layer only",
        ),
        (
            {"num_layers": 3, "eval_idx": 3},
            r"eval_idx 3 is not one of the 3 decoder layers: choose one of 0\.\.2, or of",
        ),
        (
            {"num_layers": 3, "eval_idx": -4},
            r"eval_idx -4 is not .* or of -3\.\.-1 counted from the last, or change num_l",
        ),
        ({"num_layers": 3, "eval_idx": 1, "layer_scale": 0.5}, "layer_scale must be at least 1, got 0.5"),
    ],
)
def test_options_that_cannot_act(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_run_evaluates_and_averages_the_answering_layer(tmp_path: Path) -> None:
    """What the run measures, and the averaged weights it keeps, are those of the shallow detector."""
    deep = ["DFINETransformer.num_layers=3", "DFINETransformer.eval_idx=0", "DFINETransformer.layer_scale=2"]
    path = write_micro_config(tmp_path, images=4)
    config = isdfine.load_config(path, [*deep, "epoches=1", "num_visualized=0"])
    run = Training(config)
    fit(run)
    trained = config.with_values({"num_classes": 2}).build("model").eval()
    shallow = isdfine.load_config(path, ["DFINETransformer.num_layers=1", "num_classes=2"]).build("model").eval()
    assert load_weights(trained, tmp_path / "run" / "last.pth").complete
    report = load_weights(shallow, tmp_path / "run" / "last.pth", strict=False)
    assert not report.missing
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(trained(images).boxes, shallow(images).boxes)
    averaged = run.judged_model.eval()
    trained.to(memory_format=torch.channels_last)  # as a run keeps its model on a CPU: the kernels round alike
    with torch.no_grad():
        assert torch.equal(averaged(images).logits, trained(images).logits)


def test_the_example_files() -> None:
    config = isdfine.load_config(Path(__file__).parents[2] / "configs" / "dfine" / "dfine_hgnetv2_n_coco_depth6.yml")
    plain = isdfine.load_config(Path(__file__).parents[2] / "configs" / "dfine" / "dfine_hgnetv2_n_coco.yml")
    with torch.device("meta"):
        deep, size_n = fuse(config.build("model")), fuse(plain.build("model"))
        wide = config.with_values({"DFINETransformer.layer_scale": 2}).build("DFINETransformer")
    assert {key: one.shape for key, one in deep.state_dict().items()} == {
        key: one.shape for key, one in size_n.state_dict().items()
    }
    assert wide.widths == [128] * 3 + [256] * 3
    include = isdfine.load_config(
        Path(__file__).parents[2] / "configs" / "dfine" / "include" / "train_width.yml", ["num_classes=1"]
    )
    assert include.get("DFINETransformer") == {"layer_scale": 2}
