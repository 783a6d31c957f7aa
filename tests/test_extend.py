# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of one's own, from ``tests/extend/parts.py`` by ``tests/extend/run.yml``: trained, killed, resumed, exported,
run. ``docs/extend.md`` shows both files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import isdfine
from builders import ROOT, SIZE, load_tool, micro_sections, write_coco
from isdfine.core.errors import ConfigError
from isdfine.deploy.detector import Detector
from isdfine.solver.fit import fit
from isdfine.solver.training import Training

HERE = Path(__file__).parent / "extend"
KILLED = """
import os, signal, sys, torch
import isdfine
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
torch.set_num_threads(1)
run = Training(isdfine.load_config(sys.argv[1], ["output_dir=killed", "save_every_steps=1"]))
save = run.save
def save_and_die(*paths):
    save(*paths)
    if run.progress.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
run.save = save_and_die
fit(run)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files beside data and a base config; once, for a process knows one module of a name."""
    folder = tmp_path_factory.mktemp("extend")
    sections = micro_sections(write_coco(folder / "data"), folder / "run")
    for name in ("HGNetv2", "HybridEncoder", "DFINECriterion", "optimizer", "DFINE", "criterion"):
        del sections[name]
    sections["DFINE"] = {"decoder": "DFINETransformer"}
    (folder / "base.yml").write_text(yaml.safe_dump(sections))
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    return folder / "run.yml"


def test_parts_of_ones_own_train_resume_export_and_detect(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = Training(isdfine.load_config(config, ["output_dir=whole"]))
    before = {name: value.clone() for name, value in whole.trained.state_dict().items()}
    fit(whole)
    (line, *_) = (json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines())
    terms = {"loss_area", "loss_area_enc_0", "loss_vfl_truth_1", "loss_ddf_truth_0"}
    assert terms | {"loss_hidden_aux_0", "loss_2_hidden_aux_0"} < set(line)
    after = whole.trained.state_dict()
    for part in ("model.backbone.stem.0.weight", "model.encoder.projections.0.weight", "model.sources.0.content"):
        assert not torch.equal(after[part], before[part]), part
    for number in (1, 2):
        name = f"objective.distillers.{number}.adapter.weight"
        assert not torch.equal(after[name], before[name]), name

    ended = subprocess.run([sys.executable, "-c", KILLED, str(config)], capture_output=True, text=True, check=False)
    assert ended.returncode == -9, ended.stderr
    resumed = Training(isdfine.load_config(config, ["output_dir=killed", "resume=killed"]))
    resumed.resume("killed")
    assert resumed.progress.step == 3
    fit(resumed)
    one, two = (torch.load(f"{name}/last.pth", weights_only=True) for name in ("whole", "killed"))
    for key in ("model", "objective"):
        assert one[key].keys() == two[key].keys()
        assert all(torch.equal(value, two[key][name]) for name, value in one[key].items())
    torch.set_num_threads(threads)

    picture = sorted((config.parent / "data" / "images").iterdir())[0]
    given = ["-c", str(config), "-r", "whole/last.pth", "-o", "model.onnx", "--images", str(picture.parent)]
    assert load_tool("export_onnx").main(given) == 0
    found = Detector.load("whole/last.pth", config=config).detect(picture, 0.0)
    again = Detector.load("model.onnx").detect(picture, 0.0)
    torch.testing.assert_close(torch.as_tensor(found.scores), torch.as_tensor(again.scores), rtol=1e-3, atol=1e-4)


def test_a_source_of_another_width_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    narrow = isdfine.load_config(config, ["DFINE.sources.0.hidden_dim=8", "num_classes=2"])
    model = narrow.build("model").train()
    target = {"labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}
    message = "query group 'truth' has queries of width 8, the decoder's have 16: give its source the decoder's hidden"
    with pytest.raises(ConfigError, match=message) as raised:  # what the tools print as one line
        model(torch.rand(1, 3, *SIZE), [target])
    assert "\n" not in str(raised.value)


def test_the_document_shows_the_code_that_runs() -> None:
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), flags=re.S)
    for language, file in (("python", "parts.py"), ("yaml", "run.yml")):
        shown = "\n\n\n".join(text.strip() for kind, text in blocks if kind == language)
        text = (HERE / file).read_text()
        assert shown == text.partition("Apache-2.0\n")[2].strip(), f"docs/extend.md and tests/extend/{file} differ"


RANKS = """
import sys, torch
import isdfine
from isdfine.core import dist
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
torch.set_num_threads(1)
dist.init("cpu")
run = Training(isdfine.load_config(sys.argv[1], ["output_dir=ranks", "epoches=1"]))
before = {name: value.clone() for name, value in run.criterion.state_dict().items()}
fit(run)
first, second = dist.gather_objects(run.criterion.state_dict())
assert before and all(torch.equal(value, second[name]) for name, value in first.items())
assert all(not torch.equal(value, first[name]) for name, value in before.items())
dist.shutdown()
"""


@pytest.mark.slow
def test_ranks_share_the_gradients_of_a_distillers_weights(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    Path("ranks.py").write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, "ranks.py", str(config)], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
