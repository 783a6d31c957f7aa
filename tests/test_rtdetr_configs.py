# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""configs/rtdetr against the facts of the 21 official files, and files in the official arrangement and spelling."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import isdfine
from golden_cases import load_json
from isdfine.core.errors import ConfigError
from isdfine.distill.objective import build_objective
from isdfine.losses.rtdetr import RTDETRCriterion, SetCriterion
from isdfine.solver.progress import StagePlan
from isdfine.zoo.rtdetr.decoder import RTDETRTransformer, RTDETRTransformerv2

CONFIGS = Path(__file__).parent.parent / "configs"
FACTS = {name: facts for name, facts in load_json("detr/official_configs.json").items() if not name.startswith("_")}
RANDOM_START = ["PResNet.pretrained=False", "HGNetv2.pretrained=False"]
RECIPE = ("optimizer", "lr_scheduler", "lr_warmup_scheduler", "clip_max_norm", "use_amp", "use_ema", "ema", "sync_bn")


@cache
def ours(name: str) -> isdfine.Config:
    overrides = [text for text in RANDOM_START if text.split(".")[0] == FACTS[name]["backbone"]]
    return isdfine.load_config(CONFIGS / "rtdetr" / f"{Path(name).name}.yml", overrides)


def kinds(facts: dict[str, Any]) -> tuple[str, str]:
    """Names of the decoder and of the criterion."""
    return next(key for key in facts if key.startswith("RTDETRTransformer")), next(iter(facts["criterion"]))


def compare_with_facts(config: isdfine.Config, facts: dict[str, Any]) -> None:
    decoder, criterion = kinds(facts)
    for section in (facts["backbone"], "HybridEncoder", decoder):
        given = config.get(section) | ({"pretrained": True} if section == facts["backbone"] else {})
        version = {"version": "v1"} if section == "HybridEncoder" and decoder == "RTDETRTransformer" else {}
        assert {**version, **{key: given.get(key) for key in facts[section]}} == facts[section]
    assert config.get(criterion) == facts["criterion"][criterion]
    assert config.get("model") == "RTDETR"
    assert config.get("RTDETR")["decoder"] == decoder
    assert config.get("RTDETRPostProcessor") == facts["postprocessor"]
    for key in RECIPE:
        assert config.get(key) == facts[key], key
    assert config.settings.epoches == facts["epochs"]
    assert config.get("num_classes") == facts["num_classes"]
    train = config.get("train_dataloader")
    assert train["total_batch_size"] == facts["total_batch_size"]
    assert train["collate_fn"].get("scales") == facts["scales"]
    assert train["dataset"]["transforms"].get("policy") == facts["policy"]
    if facts["scales"] is not None:  # without sizes to draw there is nothing to stop
        assert train["collate_fn"].get("stop_epoch") == facts["collate_stop_epoch"]
    assert ("tuning" in config.data) == facts["starts_from_checkpoint"]


def test_there_is_a_file_for_every_official_one() -> None:
    assert {path.stem for path in (CONFIGS / "rtdetr").glob("*.yml")} == {Path(name).name for name in FACTS}


@pytest.mark.parametrize("name", FACTS)
def test_a_config_says_what_the_official_one_says(name: str) -> None:
    assert ours(name).notes == {}
    compare_with_facts(ours(name), FACTS[name])
    head = (CONFIGS / "rtdetr" / f"{Path(name).name}.yml").read_text().split("__include__")[0]
    assert f"-c configs/rtdetr/{Path(name).name}.yml" in head


@pytest.mark.parametrize("name", FACTS)
def test_a_config_builds_its_detector(name: str) -> None:
    config, facts = ours(name), FACTS[name]
    with torch.device("meta"):
        model = config.build("model")
    decoder, criterion = kinds(facts)
    assert type(model.decoder).__name__ == decoder
    assert not len(model.decoder.score_head.quality)
    assert model.encoder.pan_blocks[0].bottlenecks is not None  # cross-stage partial, as RT-DETR means HybridEncoder
    objective = build_objective(config, model)
    assert type(objective.criterion).__name__ == criterion
    assert not objective.distillers
    post = config.build("postprocessor")
    assert (post.num_top_queries, post.num_classes) == (300, facts["num_classes"])
    collate = config.build("train_dataloader.collate_fn")
    assert collate.sizes == tuple((side, side) for side in facts["scales"] or ())
    assert StagePlan.of(collate).restart_epoch is None  # RT-DETR goes on with the weights that it has


def tiny(name: str) -> isdfine.Config:
    decoder, _ = kinds(FACTS[name])
    hgnet = FACTS[name]["backbone"] == "HGNetv2"
    channels = [256, 512, 1024] if hgnet else [128, 256, 512]
    part = {"HGNetv2.name": "B0"} if hgnet else {"PResNet.depth": 18}
    layers = min(3, FACTS[name][decoder]["num_layers"])
    values = {
        "HybridEncoder": {"in_channels": channels, "hidden_dim": 16, "dim_feedforward": 24},
        decoder: {
            **{"feat_channels": [16, 16, 16], "hidden_dim": 16, "dim_feedforward": 24, "num_layers": layers},
            **{"num_queries": 12, "num_denoising": 6},
        },
        "eval_spatial_size": [64, 64],
        "num_classes": 3,
    }
    return ours(name).with_values({**part, **values})


def two_steps(config: isdfine.Config) -> None:
    """Two training steps, the second on a batch without any box; then an answer in eval mode."""
    torch.manual_seed(0)
    model = config.build("model")
    objective = build_objective(config, model)
    optimizer = config.build("optimizer", model=model)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.4, 0.2, 0.2]])
    targets = [{"labels": torch.tensor([1, 2]), "boxes": boxes}, {"labels": torch.zeros(0).long(), "boxes": boxes[:0]}]
    for truth in (targets, [targets[1], targets[1]]):
        terms = objective(model.train()(torch.rand(2, 3, 64, 96), truth), truth)
        loss = sum(terms.values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
        optimizer.step()
    with torch.inference_mode():
        answer = model.eval()(torch.rand(1, 3, 64, 96))
    assert answer.logits.isfinite().all()


@pytest.mark.parametrize("name", FACTS)
def test_a_small_form_of_a_config_trains(name: str) -> None:
    two_steps(tiny(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_a_config_trains(name: str) -> None:
    decoder, _ = kinds(FACTS[name])
    two_steps(ours(name).with_values({decoder: {"num_queries": 100}}))


V1_OPS = [
    {"type": "RandomPhotometricDistort", "p": 0.5},
    {"type": "SanitizeBoundingBox", "min_size": 1},
    {"type": "Resize", "size": [640, 640]},
    {"type": "ToImageTensor"},
    {"type": "ConvertDtype"},
    {"type": "SanitizeBoundingBox", "min_size": 1},
    {"type": "ConvertBox", "out_fmt": "cxcywh", "normalize": True},
]


def written(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))


def dataset(ops: list[dict[str, Any]] | None) -> dict[str, Any]:
    paths = {"img_folder": "./dataset/coco/train2017/", "ann_file": "./dataset/coco/train2017.json"}
    transforms = {"type": "Compose", "ops": ops}
    return {"type": "CocoDetection", **paths, "return_masks": False, "transforms": transforms}


@pytest.mark.parametrize("name", FACTS)
def test_official_files_of_the_second_repository_load(name: str, tmp_path: Path) -> None:
    """Spread over files as there: data, runtime, loader, optimiser, model, and the run that changes them."""
    facts = FACTS[name]
    base = FACTS["rtdetr/rtdetr_r50vd_6x_coco" if name.startswith("rtdetr/") else "rtdetrv2/rtdetrv2_r50vd_6x_coco"]
    decoder, criterion = kinds(base)
    loader = {"type": "DataLoader", "dataset": dataset(None), "shuffle": True, "num_workers": 4, "drop_last": True}
    collate = {"type": "BatchImageCollateFuncion", "scales": base["scales"]}
    policy = {} if base["policy"] is None else {"policy": base["policy"]}
    if base["collate_stop_epoch"] is not None:
        collate["stop_epoch"] = base["collate_stop_epoch"]
    train = {"dataset": {"transforms": {"ops": ours(name).get("train_dataloader")["dataset"]["transforms"]["ops"]}}}
    train["dataset"]["transforms"] |= policy
    optim = ("optimizer", "lr_scheduler", "lr_warmup_scheduler", "clip_max_norm", "use_ema", "ema", "use_amp")
    section = {"backbone": "PResNet", "encoder": "HybridEncoder", "decoder": decoder}
    written(
        tmp_path,
        {
            "dataset/data.yml": {
                "task": "detection",
                "evaluator": {"type": "CocoEvaluator", "iou_types": ["bbox"]},
                "num_classes": facts["num_classes"],
                "remap_mscoco_category": facts["num_classes"] == 80,
                "train_dataloader": loader | {"collate_fn": {"type": "BatchImageCollateFuncion"}},
            },
            "runtime.yml": {
                **{"print_freq": 100, "output_dir": "./logs", "checkpoint_freq": 1, "sync_bn": True},
                **{"find_unused_parameters": False, "scaler": {"type": "GradScaler", "enabled": True}},
            },
            "include/dataloader.yml": {"train_dataloader": {**train, "collate_fn": collate, "total_batch_size": 16}},
            "include/optimizer.yml": {"epoches": base["epochs"]} | {key: base[key] for key in optim},
            "include/model.yml": {
                **{"model": "RTDETR", "criterion": criterion, "postprocessor": "RTDETRPostProcessor"},
                **{"use_focal_loss": True, "eval_spatial_size": [640, 640], "RTDETR": section},
                **{key: base[key] for key in ("PResNet", "HybridEncoder", decoder)},
                **{"RTDETRPostProcessor": base["postprocessor"], criterion: base["criterion"][criterion]},
            },
        },
    )
    includes = [
        "dataset/data.yml",
        "runtime.yml",
        *(f"include/{one}.yml" for one in ("dataloader", "optimizer", "model")),
    ]
    changes = {
        "__include__": [f"./{one}" for one in includes],
        "output_dir": "./output/run",
        "RTDETR": {"backbone": facts["backbone"]},
        "HybridEncoder": facts["HybridEncoder"],
        **{key: facts[key] for key in (facts["backbone"], decoder)},
        "epoches": facts["epochs"],
        "optimizer": {"type": "AdamW", "params": facts["optimizer"]["params"]},
        "train_dataloader": {
            "total_batch_size": facts["total_batch_size"],
            "dataset": {"transforms": {"policy": {"epoch": facts["policy"]["epoch"]}}} if facts["policy"] else {},
            "collate_fn": {"scales": facts["scales"]}
            | ({"stop_epoch": facts["collate_stop_epoch"]} if facts["collate_stop_epoch"] else {}),
        },
    }
    if facts["starts_from_checkpoint"]:
        changes["tuning"] = "https://example.org/trained.pth"
    written(tmp_path, {"run.yml": changes})
    config = isdfine.load_config(tmp_path / "run.yml", [f"{facts['backbone']}.pretrained=False"])
    assert config.notes == {}
    compare_with_facts(config, facts)
    assert StagePlan.of(config.build("train_dataloader.collate_fn")).restart_epoch is None  # misspelt as it is there
    with torch.device("meta"):
        state = config.build("model").state_dict()
        assert {key: one.shape for key, one in state.items()} == {
            key: one.shape for key, one in ours(name).build("model").state_dict().items()
        }


def first_repository(**changes: Any) -> dict[str, Any]:
    """One file that says what those of RT-DETR's first repository say, in their words."""
    loader = {"type": "DataLoader", "dataset": dataset(V1_OPS), "shuffle": True, "batch_size": 4, "num_workers": 4}
    return {
        **{"task": "detection", "num_classes": 80, "remap_mscoco_category": True, "use_focal_loss": True},
        **{"model": "RTDETR", "criterion": "SetCriterion", "postprocessor": "RTDETRPostProcessor"},
        "find_unused_parameters": True,
        "train_dataloader": loader | {"drop_last": True, "collate_fn": "default_collate_fn"},
        "RTDETR": {
            **{"backbone": "PResNet", "encoder": "HybridEncoder", "decoder": "RTDETRTransformer"},
            "multi_scale": [480, 512, 640, 640, 800],
        },
        "PResNet": {"depth": 18, "return_idx": [1, 2, 3], "freeze_norm": False, "pretrained": False},
        "HybridEncoder": {
            **{"in_channels": [128, 256, 512], "hidden_dim": 256, "expansion": 0.5, "pe_temperature": 10000},
            "eval_spatial_size": [640, 640],
        },
        "RTDETRTransformer": {
            **{"feat_channels": [256, 256, 256], "num_decoder_layers": 3, "num_queries": 300, "num_denoising": 100},
            "eval_spatial_size": [640, 640],
        },
        "RTDETRPostProcessor": {"num_top_queries": 300},
        "SetCriterion": FACTS["rtdetr/rtdetr_r18vd_6x_coco"]["criterion"]["RTDETRCriterion"],
        **changes,
    }


def test_official_files_of_the_first_repository_load(tmp_path: Path) -> None:
    written(tmp_path, {"run.yml": first_repository()})
    config = isdfine.load_config(tmp_path / "run.yml")
    with torch.device("meta"):
        model = config.build("model")
    shapes = {key: [list(one.shape), str(one.dtype)[6:]] for key, one in model.state_dict().items()}
    assert shapes == load_json("detr/rtdetr_r18vd_keys.json")["keys"]
    assert type(build_objective(config, model).criterion) is SetCriterion
    collate = config.build("train_dataloader.collate_fn")
    assert collate.sizes == ((480, 480), (512, 512), (640, 640), (640, 640), (800, 800))
    ops = config.build("train_dataloader.dataset.transforms").ops
    assert [type(one).__name__ for one in ops][1:] == [
        *("SanitizeBoundingBoxes", "Resize", "ConvertPILImage", "ConvertPILImage"),
        *("SanitizeBoundingBoxes", "ConvertBoxes"),
    ]
    assert ops[-1].fmt == "cxcywh"


def test_the_same_names_mean_d_fine_below_d_fine(tmp_path: Path) -> None:
    text = {
        "model": "DFINE",
        "DFINE": {"backbone": "HGNetv2", "encoder": "HybridEncoder", "decoder": "DFINETransformer"},
    }
    (tmp_path / "run.yml").write_text(json.dumps(text | {"HGNetv2": {"name": "B0"}, "num_classes": 3}))
    config = isdfine.load_config(tmp_path / "run.yml")
    with torch.device("meta"):
        assert not hasattr(config.build("HybridEncoder").pan_blocks[0], "bottlenecks")
    assert StagePlan.of(config.build("BatchImageCollateFunction")).restart_epoch is None
    config = isdfine.load_config(tmp_path / "run.yml", ["BatchImageCollateFunction.stop_epoch=3"])
    assert StagePlan.of(config.build("BatchImageCollateFunction")).restart_epoch == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"RTDETRTransformer": {"num_layer": 3}},
            "num_layer: no such argument of RTDETRTransformer; did you mean num_la",
        ),
        ({"RTDETRTransformer": {"version": "v3"}}, "RTDETRTransformer.version: expected one of 'v1', 'v2', found 'v3'"),
        ({"HybridEncoder": {"version": "dfine"}}, "HybridEncoder.version: expected one of 'v1', 'v2', found 'dfine'"),
        (
            {"RTDETRTransformer": {"position_embed_type": "learned"}},
            "RTDETRTransformer.position_embed_type: expected one of 'sine', found 'learned'",
        ),
        (
            {"RTDETRTransformer": {"box_head": "fdrr"}},
            "RTDETRTransformer.box_head: expected one of 'fdr', 'direct', fou",
        ),
        ({"RTDETR": {"multi_scale": "640"}}, "RTDETR.multi_scale: expected list of int .*, found '640'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    sections = first_repository()
    written(tmp_path, {"run.yml": sections | {name: sections[name] | part for name, part in changes.items()}})
    with pytest.raises(ConfigError, match=message):
        isdfine.load_config(tmp_path / "run.yml")


def test_the_versions_differ_in_names_only() -> None:
    assert issubclass(RTDETRTransformer, RTDETRTransformerv2)
    assert issubclass(SetCriterion, RTDETRCriterion)


def test_go_lsd_on_offsets_is_refused() -> None:
    """Before the first step, with the key of the decoder that the config has."""
    config = ours("rtdetrv2/rtdetrv2_r18vd_120e_coco").with_values(
        {"RTDETRCriterionv2": {"use_uni_set": True}, "distillers": [{"type": "GOLSD", "weight": 1.5}]}
    )
    with torch.device("meta"):
        model = config.build("model")
    with pytest.raises((ValueError, ConfigError), match=r"'direct': set RTDETRTransformerv2\.box_head: fdr, or take"):
        build_objective(config, model)
