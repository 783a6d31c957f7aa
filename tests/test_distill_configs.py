# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""configs/distill: every student with its teacher and method is built, and a batch of KITTI trains."""

import re
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import isdfine
from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.config.shipped import find_config
from isdfine.data.label_space import num_classes_of
from isdfine.distill.objective import build_objective
from isdfine.distill.taught import Lesson
from isdfine.distill.teacher import CommonClasses, Teacher
from test_detr_configs import tiny

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(path for path in (CONFIGS / "distill").glob("*/*.yml") if path.parent.name != "include")
MODELS = [path for path in FILES if "teacher:" not in path.read_text()]
RECIPES = [path for path in FILES if path not in MODELS]
KITTI = CONFIGS / "distill" / "kitti"
METHODS = {
    "clockdistill": ["CLoCKDistill"],
    "kddetr": ["KDDETR"],
    "fitnet": ["FitNet"],
    "fgd": ["FGD"],
    "mgd": ["MGD"],
    "golsd": ["GOLSD", "DistillGOLSD"],
}
"""Distillers by the first word of a recipe's name."""
NO_WEIGHTS = ["ResNet.weights=~"]


@cache
def loaded(path: Path) -> isdfine.Config:
    return isdfine.load_config(path, NO_WEIGHTS if "dfine" not in path.name else [])


_MODELS: dict[str, nn.Module] = {}


def on_meta(config: isdfine.Config) -> nn.Module:
    """The model of a config, whose tensors hold nothing; one for all files that ask for the same."""
    name = config.get("model")
    parts = (config.get(part) for part in (name, *config.get(name).values()) if isinstance(part, str))
    key = repr((name, count(config), *parts))
    if key not in _MODELS:
        with torch.device("meta"):
            _MODELS[key] = config.build("model")
    return _MODELS[key]


def teacher_file(recipe: Path) -> Path:
    """The config that a recipe says its teacher comes from: by name, or as the file of the same name beside it."""
    teacher = loaded(recipe).get("teacher")
    if "config" in teacher:
        return find_config(teacher["config"])
    return recipe.with_name(Path(teacher["checkpoint"]).stem + ".yml")


def test_the_pairs_of_the_paper_and_its_rivals_are_there() -> None:
    pairs = [f"{family}_{pair}" for family in ("dino", "dab", "deformable") for pair in ("r101_r50", "r50_r18")]
    wanted = {f"{folder}/clockdistill_{pair}_{folder}.yml" for folder in ("kitti", "coco") for pair in pairs}
    wanted |= {f"kitti/{method}_dino_r50_r18_kitti.yml" for method in ("fitnet", "fgd", "mgd", "kddetr")}
    assert wanted <= {f"{path.parent.name}/{path.name}" for path in RECIPES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_says_what_it_is(path: Path) -> None:
    head, config = path.read_text().split("__include__")[0], loaded(path)
    assert f"-c configs/distill/{path.parent.name}/{path.name}" in head
    assert f"{config.settings.epoches} epochs" in head
    assert config.settings.output_dir == f"./output/distill/{path.parent.name}/{path.stem}"
    if path in RECIPES:
        assert config.get("teacher")["checkpoint"] in head
        assert config.get("teacher")["checkpoint"].startswith("weight/")


def built(config: isdfine.Config, student: nn.Module, teacher: isdfine.Config | None) -> list[str]:
    """Names of the methods that have met both models, once the objective is built."""
    lesson, classes = None, count(config)
    if teacher is not None:
        assert count(teacher) == classes
        lesson = Lesson(Teacher(on_meta(teacher)), CommonClasses.of(range(classes), classes))
    objective = build_objective(config, student, lesson)
    return [type(one).__name__ for one in objective.distillers]


def count(config: isdfine.Config) -> int:
    classes = config.get("num_classes") or num_classes_of(config)
    assert isinstance(classes, int)
    return classes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_builds_its_method_between_its_models(path: Path) -> None:
    source, method = teacher_file(path), path.stem.split("_")[0]
    config, teacher = loaded(path), loaded(source)
    if path.parent.name == "dfine":
        sizes = re.findall(r"_hgnetv2_(.)_", f"{source.name} {path.read_text().split('__include__')[1]}")
        assert sizes[:2] == path.stem.split("_")[-2:]
    else:
        depths = [int(one.get("ResNet.depth")) for one in (teacher, config)]
        assert path.stem.endswith("_r{}_r{}_{}".format(*depths, path.parent.name))
    assert built(config, on_meta(config), teacher) == METHODS[method]


def test_the_rows_of_table_5_build() -> None:
    matrix = read_matrix(CONFIGS / "ablations" / "distillation_table5.yml")
    rows = {run.variant: isdfine.load_config(run.config, list(run.overrides)) for run in matrix.runs() if run.seed == 0}
    assert list(rows) == ["baseline", "logit", "feature", "fdr", "fdr_ld", "fdr_go_lsd", "fdr_go_lsd_teacher"]
    found = {}
    for name, config in rows.items():
        teacher = config.get("teacher")
        assert config.get("DFINETransformer.box_head") == ("fdr" if "fdr" in name else "direct")
        found[name] = built(config, on_meta(config), teacher and loaded(find_config(teacher["config"])))
    assert found == {
        **{"baseline": [], "logit": ["LogitDistillation"], "feature": ["FitNet"], "fdr": [], "fdr_ld": ["LD"]},
        **{"fdr_go_lsd": ["GOLSD"], "fdr_go_lsd_teacher": ["GOLSD", "DistillGOLSD"]},
    }


def kitti_batch(root: Path) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Two photos of KITTI's size as the recipes on it see them, and their targets."""
    row = "Car 0 0 0 {} 150 {} 250 1 1 1 1 1 9 0\n"
    for folder in ("image_2", "label_2"):
        (root / folder).mkdir()
    for number in range(5):
        Image.new("RGB", (1242, 375), (50 * number, 90, 60)).save(root / "image_2" / f"{number}.png")
        (root / "label_2" / f"{number}.txt").write_text(row.format(100, 300) + row.format(500, 640))
    parts = {f"{part}_dataloader.dataset.root": str(root) for part in ("train", "val")}
    config = loaded(KITTI / "dino_r18_kitti.yml").with_values(parts)
    val, train = (config.build(f"{part}_dataloader.dataset") for part in ("val", "train"))
    assert (len(train), len(val), val[0][0].shape) == (4, 1, (3, 402, 1333))
    drawn = (train[epoch, index, 0] for epoch in range(8) for index in range(4))
    whole = (sample for sample in drawn if sample[0].shape[1:] == (402, 1333))  # others are crops
    batch: tuple[torch.Tensor, list[dict[str, torch.Tensor]]]
    batch = config.build("train_dataloader.collate_fn")(list(islice(whole, 2)))
    return batch


def test_photos_of_kitti_get_the_size_of_the_paper(tmp_path: Path) -> None:
    images, targets = kitti_batch(tmp_path)
    assert images.shape == (2, 3, 416, 1344)  # of strides up to 32; the rest is padding
    assert [target["image_size"].tolist() for target in targets] == [[402, 1333]] * 2


@pytest.mark.slow
def test_a_batch_of_kitti_trains(tmp_path: Path) -> None:
    images, targets = kitti_batch(tmp_path)
    config = tiny(loaded(KITTI / "clockdistill_dino_r50_r18_kitti.yml")).with_values({"num_classes": 7})
    student, teacher = config.build("model").train(), Teacher(config.build("model"))
    objective = build_objective(config, student, Lesson(teacher, CommonClasses.of(range(7), 7)))
    terms = objective.terms(objective.run(student, images, targets))
    sum(terms.values(), torch.zeros(())).backward()
    assert all(loss.isfinite() for loss in terms.values())
    assert terms["loss_lcmd_fg"] > 0
    assert not [name for name, one in student.named_parameters() if one.requires_grad and one.grad is None]
