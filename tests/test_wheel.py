# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed from a wheel: its files, and that it trains without a checkout and without optional packages."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import isdfine
from builders import ROOT

BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"


def built(source: Path, kind: str, output: Path) -> Path:
    """The one file that ``kind`` makes of a source tree, by the build backend and without the network."""
    output.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(output)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [file] = output.iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    for name in ("src", "configs", "LICENSES"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    (tree / "tests").mkdir()
    (tree / "tests" / "test_something.py").write_text("")
    with tarfile.open(built(tree, "build_sdist", folder / "dist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(built(sdist, "build_wheel", folder / "dist")) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def metadata(wheel: Path) -> Message:
    [file] = wheel.glob("*.dist-info/METADATA")
    return Parser().parsestr(file.read_text(encoding="utf-8"))


def files(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if "__pycache__" not in path.parts}


def test_the_wheel_holds_what_a_run_needs(wheel: Path, sdist: Path) -> None:
    package = wheel / "isdfine"
    assert {path.name for path in wheel.iterdir()} == {"isdfine", f"isdfine-{isdfine.__version__}.dist-info"}
    assert files(package / "configs", "*.yml") == files(ROOT / "configs", "*.yml")
    assert {name for name in files(package, "*") if not name.startswith("configs")} == files(ROOT / "src", "*")
    [entries] = wheel.glob("*.dist-info/entry_points.txt")
    assert entries.read_text().split() == ["[console_scripts]", "isdfine", "=", "isdfine.commands:main"]
    [licence] = wheel.rglob("Apache-2.0.txt")
    assert licence.read_text() == (ROOT / "LICENSES" / "Apache-2.0.txt").read_text()
    assert not (sdist / "tests").exists()


def test_the_metadata_name_every_extra(wheel: Path) -> None:
    said = metadata(wheel)
    assert said["Version"] == isdfine.__version__
    assert f"\n## {isdfine.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert said["License"] == "Apache-2.0"
    needed = said.get_all("Requires-Dist") or []
    extras: dict[str, set[str]] = {}
    for line in needed:
        requirement, _, condition = line.partition("; extra == ")
        extras.setdefault(condition.strip('"') or "run", set()).add(requirement)
    assert {"export", "plots", "log", "video", "timm", "hub", "openvino", "all", "dev"} < extras.keys()
    assert set(said.get_all("Provides-Extra") or []) == extras.keys()  # [run] adds nothing: it is what all get
    single = extras.keys() - {"run", "all", "dev"}
    assert extras["all"] == set().union(*(extras[name] for name in single))
    assert extras["all"] < extras["dev"]
    assert not extras["run"] & extras["all"]


PLAIN_INSTALLATION = """
import contextlib, importlib, io, json, pkgutil, sys

blocked = json.loads(sys.argv[1])

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import isdfine
from isdfine.commands import main
from isdfine.core.config.shipped import SHIPPED

results = {"package": isdfine.__path__[0], "configs": str(SHIPPED)}
for module in pkgutil.walk_packages(isdfine.__path__, "isdfine."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in ("isdfine:dfine/dfine_hgnetv2_s_coco.yml", "dfine_hgnetv2_n_coco.yml"):
    isdfine.load_config(name)
results["runs"] = []
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["isdfine", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            code = main()
        except SystemExit as end:  # argparse's
            code = end.code
    results["runs"].append([code, errors.getvalue(), output.getvalue()])
results["imported"] = [name for name in blocked if name in sys.modules]
print(json.dumps(results))
"""
TRAIN = """train -c dfine_hgnetv2_n_yolo.yml -u epochs=1 device=cpu output_dir=out input_size=[64,64] num_visualized=0
train_dataloader.dataset.data=data.yaml val_dataloader.dataset.data=data.yaml train_dataloader.num_workers=0
val_dataloader.num_workers=0 train_dataloader.total_batch_size=2 val_dataloader.total_batch_size=2
HGNetv2.pretrained=False tuning_classes=null DFINETransformer.num_queries=10 DFINEPostProcessor.num_top_queries=10"""
PREDICT = "predict -m out/best.pth images/val -o found"
NEEDS = {
    "export": [
        "export -r out/best.pth -o m.onnx --images images/val",
        "predict -m model.onnx images/val -o f",
        "bench -m model.onnx",
    ],
    "plots": [
        "report -c out/config.yml -r out/best.pth -o page",
        "visualize fdr -c out/config.yml -r out/best.pth -o page",
        "data stats data.yaml -o plots",
        "ablate no.yml",
    ],
    "video": ["predict -m out/best.pth clip.mp4 -o clips"],
    "timm": ["info -c isdfine:bccd/dfine_lite0_bccd_320.yml"],
}
"""Commands by the extra that they name where it is missing."""


def write_yolo(folder: Path) -> None:
    """Two splits of two grey pictures with a bright rectangle."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(2):
            picture = random.integers(100, 140, (64, 96, 3), dtype=np.uint8)
            picture[16:48, 20:60] = 235
            Image.fromarray(picture).save(folder / "images" / split / f"{number}.png")
            (folder / "labels" / split / f"{number}.txt").write_text("0 0.4167 0.5 0.4167 0.5\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [light]\n")


def test_a_plain_installation_trains_and_names_extras(wheel: Path, tmp_path: Path) -> None:
    """As after ``pip install isdfine``, in a process that has nothing of the extras and stands in a user's folder."""
    write_yolo(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "clip.mp4").write_bytes(b"")
    requirements = [line.split(";") for line in metadata(wheel).get_all("Requires-Dist") or []]
    optional = [name.split(">=")[0] for name, *extra in requirements if extra and "all" in extra[0]]
    blocked = [*(name.replace("-", "_") for name in optional), "google", "transformers", "supervision", "tensorrt"]
    named = [(extra, line.split()) for extra, lines in NEEDS.items() for line in lines]
    runs = [TRAIN.split(), PREDICT.split(), *(line for _, line in named)]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_INSTALLATION, json.dumps(blocked), json.dumps(runs)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["package"] == str(wheel / "isdfine")
    assert found["configs"] == str(wheel / "isdfine" / "configs")
    assert found["imported"] == []
    (trained, log, table), (predicted, *_), *others = found["runs"]
    assert (trained, predicted) == (0, 0), found["runs"][:2]
    assert 'tensorboard is not installed: pip install "isdfine[log]"' in log
    assert "tensorboard --logdir" not in table
    assert {"best.pth", "config.yml", "metrics.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert len(json.loads((tmp_path / "found" / "detections.json").read_text())["images"]) == 2
    for (extra, line), (code, errors, _) in zip(named, others):
        assert code == 2, (line, errors)
        assert errors.endswith(f' is not installed: pip install "isdfine[{extra}]"\n'), (line, errors)
