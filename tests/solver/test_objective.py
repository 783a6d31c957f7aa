# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``distillers:`` in a config, from the file to the losses of a run."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from builders import write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.distill.context import Distiller
from isdfine.distill.layers import GOLSD, InterLayerDistillation
from isdfine.distill.objective import Objective, build_objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.solver.train import StepReport, train_one_epoch
from isdfine.solver.training import Training

MICRO = """
criterion: DFINECriterion
DFINECriterion:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2, loss_fgl: 0.15, loss_ddf: 1.5}
  losses: [vfl, boxes, local]
  matcher: {type: HungarianMatcher, weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}}
"""


class Model(torch.nn.Module):
    """As much of a detector as the checks look at."""

    def __init__(self, box_head: str = "fdr") -> None:
        super().__init__()
        self.decoder = torch.nn.Module()
        self.decoder.box_head = torch.nn.Module()
        self.decoder.box_head.kind = box_head  # type: ignore[assignment]


def build(folder: Path, text: str = "", *overrides: str, model: Any = None) -> Any:
    (folder / "run.yml").write_text(MICRO + text)
    config = isdfine.load_config(folder / "run.yml", overrides)
    return build_objective(config, model or Model())


@pytest.mark.parametrize("text", ["", "distillers: ~\n"])
def test_official_files_mean_go_lsd(text: str, tmp_path: Path) -> None:
    (distiller,) = build(tmp_path, text).distillers
    assert isinstance(distiller, GOLSD)
    assert distiller.weight == 1.5


def test_the_default_takes_its_arguments_from_its_section(tmp_path: Path) -> None:
    (distiller,) = build(tmp_path, "GOLSD: {temperature: 2.5}\n", "GOLSD.dn_padding=exclude").distillers
    assert (distiller.weight, distiller.temperature, distiller.dn_padding) == (1.5, 2.5, "exclude")


class PassesOn(DFINECriterion):
    def __init__(self, matcher: HungarianMatcher, **options: Any) -> None:
        super().__init__(matcher, **options)


def test_a_criterion_that_passes_its_arguments_on_gets_the_shared_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "PassesOn", PassesOn)
    text = MICRO.replace("DFINECriterion", "PassesOn")
    (tmp_path / "run.yml").write_text(f"{text}num_classes: 7\nuse_focal_loss: True\n")
    criterion = build_objective(isdfine.load_config(tmp_path / "run.yml"), Model()).criterion
    assert (criterion.num_classes, criterion.matcher.use_focal_loss, criterion.alpha) == (7, True, 0.2)
    with pytest.raises(ConfigError, match=r"PassesOn.alhpa: no such argument of PassesOn; did you mean alpha\?"):
        isdfine.load_config(tmp_path / "run.yml", ["PassesOn.alhpa=0.3"])


def test_a_child_file_drops_a_loss_of_its_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objective = build(tmp_path, "", "DFINECriterion.weight_dict.loss_fgl=~")
    assert sorted(objective.criterion.weight_dict) == ["loss_bbox", "loss_ddf", "loss_giou", "loss_vfl"]
    assert caplog.messages == []
    objective = build(tmp_path, "", "DFINECriterion.losses=[vfl, boxes]")
    assert (objective.criterion.losses, len(objective.distillers)) == (["vfl", "boxes"], 0)
    place = f"{tmp_path / 'run.yml'}:2: criterion: weight_dict"
    assert caplog.messages == [
        f"{place}.{term} has no effect: no loss of ['vfl', 'boxes'] computes it" for term in ("loss_fgl", "loss_ddf")
    ]


def test_sections_of_distillers_that_are_not_listed_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(tmp_path, "InterLayerDistillation: {weight: 0.5}\nGOLSD: {weight: 1.0}\n")
    assert [one.getMessage() for one in caplog.records] == [
        f"{tmp_path / 'run.yml'}:7: InterLayerDistillation: has no effect, because distillers does not list it"
    ]
    caplog.clear()
    build(tmp_path, "InterLayerDistillation: {weight: 0.5}\ndistillers: [InterLayerDistillation]\n")
    assert not caplog.records


def test_a_single_answering_layer_has_nobody_to_teach(tmp_path: Path) -> None:
    model = Model()
    model.decoder.num_predicting_layers = 1  # type: ignore[assignment]
    assert not list(build(tmp_path, model=model).distillers)
    for name in ("GOLSD", "InterLayerDistillation"):
        message = (
            rf"run.yml:7: distillers.0: {name} needs two decoder layers or more, but 1 predicts in training: raise"
        )
        with pytest.raises(ConfigError, match=message):
            build(tmp_path, f"distillers: [{name}]\n", model=model)


def test_a_given_list_replaces_the_default(tmp_path: Path) -> None:
    assert not list(build(tmp_path, "distillers: []\n").distillers)
    text = """
distillers:
  - {type: InterLayerDistillation, direction: shallow_to_deep, span: 2, ramp: [0.1, 0.2]}
InterLayerDistillation: {weight: 0.5, span: 3}
"""
    (one,) = build(tmp_path, text).distillers
    assert isinstance(one, InterLayerDistillation)
    assert (one.direction, one.span, one.weight, one.ramp.end) == ("shallow_to_deep", 2, 0.5, 0.2)
    (one,) = build(tmp_path, "distillers:\n  - GOLSD\n").distillers
    assert isinstance(one, GOLSD)


def test_the_command_line_sets_lists_and_arguments(tmp_path: Path) -> None:
    given = "distillers=[{type: InterLayerDistillation, direction: shallow_to_deep}]"
    (one,) = build(tmp_path, "", given).distillers
    assert one.direction == "shallow_to_deep"
    (one,) = build(tmp_path, "distillers: [{type: GOLSD}]\n", "distillers.0.temperature=2.5").distillers
    assert (one.temperature, one.weight) == (2.5, 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distillers: [{type: InterLayer}]",
         r"run.yml:7: distillers.0: distillers knows no 'InterLayer'; known: .*GOLSD, InterLayerDistillation"),
        ("distillers:\n- GOLSD\n- {type: InterLayerDistillation, direction: sideways}",
         r"run.yml:9: distillers.1.direction: expected one of 'deep_to_shallow', 'shallow_to_deep', found 'sideways'"),
        ("distillers: [{type: InterLayerDistillation, directon: deep_to_shallow}]",
         r"distillers.0.directon: no such argument of InterLayerDistillation; did you mean direction\?"),
        ("distillers: [{type: InterLayerDistillation, span: 0}]",
         r"run.yml:7: distillers.0: InterLayerDistillation.span is 0: give the distance"),
        ("distillers: {type: GOLSD}", r"run.yml:7: distillers: expected a list of components, found .* write - {type"),
        ("distillers: GOLSD", r"run.yml:7: distillers: expected a list of components, found 'GOLSD' \(str\)"),
        ("distillers: [{direction: deep_to_shallow}]", r"run.yml:7: distillers.0: expected component .*needs `type: "),
        ("distillers: [~]", r"run.yml:7: distillers.0: expected component .*, found None"),
        ("distillers: [{type: LinearWarmup}]",
         r"run.yml:7: distillers.0: distillers knows no 'LinearWarmup'; known: .*GOLSD, InterLayerDistillation.* "
         r"\(LinearWarmup is registered, but does not derive from the base class of distillers\)"),
        ("distillers: [InterLayerDistilation]",
         r"run.yml:7: distillers.0: distillers knows no .*; did you mean InterLayerDistillation\?"),
        ("distillers: [GOLSD, GOLSD]", r"run.yml:7: distillers.1: GOLSD stands there twice"),
        ("distillers: [{type: GOLSD}, GOLSD]", r"run.yml:7: distillers.1: GOLSD stands there twice with the same arg"),
        ("distillers:\n- GOLSD\n- InterLayerDistillation",
         r"run.yml:\d: distillers.1: InterLayerDistillation compares the edge .*, as GOLSD \(distillers.0\) does, and"),
        ("distillers: [InterLayerDistillation, GOLSD]", r"run.yml:7: distillers.1: GOLSD compares .*: keep one of the"),
        ("distillers: [{type: InterLayerDistillation, weight: -1}]",
         r"run.yml:7: distillers.0: InterLayerDistillation.weight is -1: give 0 or more"),
        ("distillers: [{type: InterLayerDistillation, ramp: [0.5, 0.2]}]",
         r"run.yml:7: distillers.0: InterLayerDistillation.ramp is \[0.5, 0.2\]: give \[start, end\] as shares of"),
        ("distillers: [{type: InterLayerDistillation, ramp: 0.2}]",
         r"run.yml:7: distillers.0.ramp: expected list of float, found 0.2 \(float\)"),
        ("distillers: [3]", r"run.yml:7: distillers.0: expected component \(a class name, .*, found 3 \(int\)"),
        ("distillers: off", r"run.yml:7: distillers: expected a list of components, found False .*; \[\] for none"),
        ("GOLSD: {temperature: -1}", r"run.yml:7: GOLSD: GOLSD.temperature is -1: give a number above 0"),
        ("DFINECriterion.temperature: 5", r"no such top-level key"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, text + "\n")


@pytest.mark.parametrize("option", ["temperature", "dn_padding", "dn_counts"])
def test_options_that_moved_are_shown_their_place(option: str, tmp_path: Path) -> None:
    message = rf"DFINECriterion.{option}: no such argument .* write distillers: \[{{type: GOLSD, {option}: "
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, "", f"DFINECriterion.{option}=5")


def test_what_the_model_or_the_criterion_cannot_serve_is_refused(tmp_path: Path) -> None:
    direct = Model("direct")
    with pytest.raises(ConfigError, match=r"run.yml:7: distillers.0: InterLayerDistillation compares edge distributi"):
        build(tmp_path, "distillers: [InterLayerDistillation]\n", model=direct)
    with pytest.raises(
        ConfigError, match=r"run.yml:2: criterion: GOLSD compares edge distributions, but the decoder's"
    ):
        build(tmp_path, model=direct)
    own = "DFINECriterion.use_uni_set=False"
    with pytest.raises(ConfigError, match=r"run.yml:2: criterion: GOLSD weighs queries by the union of all matches"):
        build(tmp_path, "", own)
    with pytest.raises(
        ConfigError, match=r"override 'distillers=\[Inter.*': distillers.0: InterLayerDistillation weigh"
    ):
        build(tmp_path, "", own, "distillers=[InterLayerDistillation]")
    assert build(tmp_path, "distillers: []\n", own, model=direct).criterion.use_uni_set is False
    (tmp_path / "bare.yml").write_text(MICRO.replace(", loss_ddf: 1.5", "") + "distillers: [GOLSD]\n")
    with pytest.raises(
        ConfigError, match=r"bare.yml:7: distillers.0: GOLSD.weight is null and the criterion's weight_d"
    ):
        build_objective(isdfine.load_config(tmp_path / "bare.yml"), Model())


def test_what_is_no_criterion_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text("criterion: {type: LinearWarmup}\n")
    message = r"run.yml:1: criterion: LinearWarmup is no criterion: it needs match\(output, targets\) and terms\(step\)"
    with pytest.raises(ConfigError, match=message):
        build_objective(isdfine.load_config(tmp_path / "run.yml"), Model())


def test_every_registered_distiller_is_built_from_its_defaults(tmp_path: Path) -> None:
    names = [name for name in REGISTRY if issubclass(REGISTRY[name], Distiller)]
    assert {"GOLSD", "InterLayerDistillation"} <= set(names)
    for name in names:
        (tmp_path / "run.yml").write_text(MICRO + f"distillers: [{name}]\n")
        config = isdfine.load_config(tmp_path / "run.yml")
        (one,) = config.build("distillers")
        assert type(one).__name__ == name
        assert isdfine.load_config(config_file(tmp_path, config.dump())).data == config.data


def config_file(folder: Path, text: str) -> Path:
    path = folder / "saved.yml"
    path.write_text(text)
    return path


def start(config: Path, *overrides: str, resume: Path | None = None) -> Training:
    run = Training(isdfine.load_config(config, [*overrides, *([f"resume={resume}"] if resume else [])]))
    if resume:
        run.resume(resume)
    return run


def one_epoch(run: Training) -> list[StepReport]:
    """Train on all batches once, without evaluation."""
    reports: list[StepReport] = []
    run.train_loader.set_epoch(run.progress.epoch)
    run.model.train()
    run.optim.start_epoch(len(run.train_loader))
    train_one_epoch(
        lambda images, targets: run.trained(images, targets, run.optim.schedule.progress),
        run.train_loader,
        run.optim,
        max_norm=run.settings.clip_max_norm,
        window=nullcontext,
        on_step=reports.append,
    )
    run.progress.epoch += 1
    return reports


def test_no_distillers_is_the_run_without_the_weight_of_ddf(tmp_path: Path) -> None:
    states, terms = {}, {}
    for name in ("off", "removed", "default"):
        config = write_micro_config(tmp_path / name)
        if name == "removed":
            config.write_text(re.sub(r"\n *loss_ddf: 1.5", "", config.read_text()))
        run = start(config, *(["distillers=[]"] if name == "off" else []))
        assert ("loss_ddf" in run.criterion.criterion.weight_dict) == (name != "removed")
        terms[name] = set(one_epoch(run)[-1].terms)
        states[name] = run.model.state_dict()
    for key, value in states["removed"].items():
        assert torch.equal(states["off"][key], value), key
    assert any(not torch.equal(states["default"][key], value) for key, value in states["removed"].items())
    assert terms["off"] == terms["removed"]
    assert {name for name in terms["default"] if "ddf" in name} == terms["default"] - terms["off"] != set()


class Progress(Distiller):
    """Logs the progress it is given."""

    def forward(self, context: Any) -> dict[str, torch.Tensor]:
        return {"loss_progress": context.step.matching.boxes.iou.new_full((), context.progress)}


def test_progress_counts_optimiser_steps_over_accumulation_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Progress", Progress)
    config = write_micro_config(tmp_path, images=6)
    given = ["distillers=[Progress]", "accumulate_steps=2", "train_dataloader.total_batch_size=2", "epoches=2"]

    def seen(reports: list[StepReport]) -> list[float]:
        return [float(one.terms["loss_progress"]) for one in reports]

    run = start(config, *given)
    # 3 batches an epoch in windows of 2 and 1: four optimiser steps in all
    assert seen(one_epoch(run)) == [0.0, 0.0, 0.25]
    run.folder.create(run.config_text)
    run.save(run.folder.last)
    assert "distillers: [Progress]" in (run.folder.path / "config.yml").read_text()
    resumed = start(config, *given, resume=run.folder.last)
    assert seen(one_epoch(resumed)) == [0.5, 0.5, 0.75]
    assert resumed.optim.schedule.progress == 1.0


def test_a_run_with_inter_layer_distillation_trains_and_says_so(tmp_path: Path) -> None:
    given = "distillers=[{type: InterLayerDistillation, direction: shallow_to_deep, class_weight: 0.5}]"
    run = start(write_micro_config(tmp_path), given)
    terms = one_epoch(run)[-1].terms
    assert {"loss_isd", "loss_isd_cls", "loss_isd_dn_1"} <= set(terms)
    assert not any("ddf" in name for name in terms)
    assert all(value.isfinite() for value in terms.values())
    assert "direction: shallow_to_deep" in run.config_text


def test_in_a_real_decoder_no_gradient_reaches_the_teaching_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = start(write_micro_config(tmp_path), "distillers=[]")
    heads = run.model.decoder.box_head.layers
    for one in heads.parameters():  # zero at the start: all layers would agree
        torch.nn.init.normal_(one, std=0.3)
    images, targets = next(iter(run.train_loader))
    output = run.model.train()(images, targets)

    def reached(**options: Any) -> list[bool]:
        """Which layer's head the distillation moves."""
        objective = Objective(run.criterion.criterion, [InterLayerDistillation(**options)])
        terms = objective(output, targets)
        total = torch.stack([value for name, value in terms.items() if "isd" in name]).sum()
        parameters = [list(head.parameters()) for head in heads]
        found = torch.autograd.grad(total, [p for of in parameters for p in of], retain_graph=True, allow_unused=True)
        sizes = [0.0 if one is None else float(one.abs().max()) for one in found]
        return [max(sizes[: len(sizes) // 2]) > 1e-6, max(sizes[len(sizes) // 2 :]) > 1e-6]

    assert reached() == [True, False]
    assert reached(direction="shallow_to_deep") == [True, True]  # through the chain of logits
    assert reached(direction="shallow_to_deep", detach_chain=True) == [False, True]
