# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Shipped RT-DETR configs through the whole house: trained, killed, resumed, exported, fused, timed and used.

One of them becomes RT-DETR + FDR + GO-LSD by YAML alone.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import isdfine
from builders import SIZE, load_tool, micro_sections, train_until_killed, write_coco
from isdfine.deploy.detector import Detector
from isdfine.deploy.fuse import fuse
from isdfine.load import load_detector
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
from rtdetr_cases import filled

CONFIGS = Path(__file__).parents[3] / "configs" / "rtdetr"
FDR_AND_GO_LSD: dict[str, Any] = {
    "RTDETRTransformerv2": {"box_head": "fdr"},
    "RTDETRCriterionv2": {
        "losses": ["vfl", "boxes", "local"],
        "weight_dict": {"loss_fgl": 0.15, "loss_ddf": 1.5},
        "use_uni_set": True,
    },
    "distillers": [{"type": "GOLSD"}],
}
SMALL = {"hidden_dim": 16, "nhead": 2, "dim_feedforward": 24}


def write_run(folder: Path, name: str, further: dict[str, Any]) -> Path:
    """A shipped config and what a user writes below it: data, sizes for a test of seconds, and ``further``."""
    micro = micro_sections(write_coco(folder / "data", images=8, boxes=(2, 1, 3)), folder / "run")
    kept = ("output_dir", "epoches", "print_freq", "device", "tensorboard", "num_visualized", "eval_spatial_size")
    loaders = ("train_dataloader", "val_dataloader", "lr_warmup_scheduler", "ema")
    sections = {key: micro[key] for key in (*kept, *loaders)}
    sections["train_dataloader"]["collate_fn"] |= {"scales": None}
    sections["train_dataloader"]["dataset"]["transforms"] |= {"policy": None}
    decoder = "RTDETRTransformerv2" if "v2" in name else "RTDETRTransformer"
    sections |= {
        "__include__": [str(CONFIGS / f"{name}.yml")],
        **{"num_classes": 2, "remap_mscoco_category": False, "use_amp": False},
        "PResNet": {"pretrained": False},
        "HybridEncoder": SMALL,
        decoder: SMALL | {"feat_channels": [16, 16, 16], "num_queries": 12, "num_denoising": 6},
        "RTDETRPostProcessor": {"num_top_queries": 10},
    }
    (folder / "run.yml").write_text(yaml.safe_dump(sections))
    (folder / "further.yml").write_text(yaml.safe_dump({"__include__": ["run.yml"], **further}))
    return folder / "further.yml"


def test_a_shipped_config_from_training_to_the_latency_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is killed after its third step and resumed ends bit for bit as one that nobody touched."""
    run = write_run(tmp_path, "rtdetr_r18vd_6x_coco", {})
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit(Training(isdfine.load_config(run, ["output_dir=whole"])))
    code, output = train_until_killed(run, save_every_steps=3)
    assert code == -signal.SIGKILL, output
    resumed = Training(isdfine.load_config(run, ["output_dir=killed", "resume=killed"]))
    resumed.resume("killed")
    assert resumed.progress.step == 3
    fit(resumed)
    torch.set_num_threads(threads)
    whole, killed = (torch.load(f"{name}/last.pth", weights_only=True) for name in ("whole", "killed"))
    for weights, others in ((whole["model"], killed["model"]), (whole["ema"]["module"], killed["ema"]["module"])):
        assert list(weights) == list(others)
        assert all(torch.equal(value, others[key]) for key, value in weights.items())

    detector = Detector.load("whole/last.pth")
    assert len(detector(min((tmp_path / "data" / "images").iterdir()), threshold=0.0).scores) == 10
    agrees_when_fused("whole/last.pth", "direct")
    arguments = ["--rounds", "3", "--repeats", "1", "--warmup", "1", "--device", "cpu", "--size", *map(str, SIZE)]
    assert load_tool("benchmark/latency").main(["-m", "whole/last.pth", *arguments]) == 0
    assert "last" in capsys.readouterr().out


def test_fdr_and_go_lsd_by_yaml_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, resumed, exported (compared with PyTorch at batch 1, 3 and 8), and used."""
    run = write_run(tmp_path, "rtdetrv2_r18vd_120e_coco", FDR_AND_GO_LSD)
    monkeypatch.chdir(tmp_path)
    train = load_tool("train")
    assert train.main(["-c", str(run), "-u", "epoches=1"]) == 0
    assert train.main(["-c", "run/config.yml", "-r", "run/last.pth", "-u", "epoches=2"]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["epoch"] > lines[0]["epoch"]
    assert {"loss_fgl", "loss_ddf_aux_0", "loss_ddf_dn_0"} <= {name for line in lines for name in line}
    picture = min((tmp_path / "data" / "images").iterdir())
    given = ["-r", "run/last.pth", "-o", "detector.onnx", "--images", str(picture.parent)]
    assert load_tool("export_onnx").main(given) == 0
    rows, exported = (rows_of(path, picture) for path in ("run/last.pth", "detector.onnx"))
    apart = (rows[:, None] - exported).abs().amax(-1)
    assert apart.amin(0).max() < 1e-3  # as sets: near ties change places
    assert apart.amin(1).max() < 1e-3
    agrees_when_fused("run/last.pth", "fdr")


def rows_of(path: str, picture: Path) -> torch.Tensor:
    """(D, 6): box, score and class of each detection."""
    detections = Detector.load(path)(picture, threshold=0.0)
    columns = [torch.as_tensor(getattr(detections, name)).double() for name in ("boxes", "scores", "labels")]
    return torch.cat([columns[0], columns[1][:, None], columns[2][:, None]], 1)


def agrees_when_fused(checkpoint: str, box_head: str) -> None:
    model = load_detector(checkpoint).model
    assert model.decoder.box_head.kind == box_head
    image = torch.rand(2, 3, *SIZE)
    with torch.inference_mode():
        answer, reference = fuse(model)(image), model(image)
    torch.testing.assert_close(answer.logits.sort(dim=1).values, reference.logits.sort(dim=1).values, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("rtdetr_r18vd_6x_coco", "rtdetr_r18vd"),
        pytest.param("rtdetrv2_r18vd_120e_coco", "rtdetrv2_r18vd", marks=pytest.mark.slow),
    ],
)
def test_an_official_checkpoint_is_exported_in_full_size(config: str, name: str, tmp_path: Path) -> None:
    """ONNX Runtime agrees with PyTorch at batch 1, 3 and 8; images of 128 x 128 are the smallest for 300 queries."""
    torch.save({"ema": {"module": filled(name).state_dict()}}, tmp_path / "official.pth")
    images = write_coco(tmp_path / "data", images=8).parent / "images"
    given = ["-c", str(CONFIGS / f"{config}.yml"), "-r", str(tmp_path / "official.pth"), "--size", "128", "128"]
    assert load_tool("export_onnx").main([*given, "-o", str(tmp_path / "m.onnx"), "--images", str(images)]) == 0
    assert len(Detector.load(tmp_path / "m.onnx")(min(images.iterdir()), threshold=0.0).scores) == 300
