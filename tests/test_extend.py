# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of one's own, from ``tests/extend/parts.py`` by ``tests/extend/run.yml``: trained, killed, resumed, exported,
run. ``docs/extend.md`` shows both files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import isdfine
from builders import ROOT, SIZE, load_tool, train_until_killed, write_coco
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.deploy.detector import Detector
from isdfine.distill.context import DistillationContext, Distiller, predicting_layers
from isdfine.nn.types import DetectorOutput, Predictions, Want
from isdfine.solver.fit import fit
from isdfine.solver.solver import Evaluation
from isdfine.solver.training import Training

HERE = Path(__file__).parent / "extend"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of the page beside data, in the working folder; once, for a process knows one module of a name."""
    folder = tmp_path_factory.mktemp("extend")
    write_coco(folder / "data")
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    here, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    yield folder / "run.yml"
    torch.set_num_threads(threads)
    os.chdir(here)


@pytest.fixture(scope="module")
def whole(config: Path) -> Training:
    """A run from its start to its end, in ``whole``."""
    run = Training(isdfine.load_config(config, ["output_dir=whole"]))
    before = {name: value.clone() for name, value in run.trained.state_dict().items()}
    fit(run)
    run.before = before  # type: ignore[attr-defined]
    return run


def test_parts_of_ones_own_are_trained(whole: Training) -> None:
    (line, *_) = (json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines())
    terms = {"loss_area", "loss_area_enc_0", "loss_vfl_truth_1", "loss_ddf_truth_0"}
    assert terms | {"loss_hidden_aux_0", "loss_2_hidden_aux_0"} < set(line)
    before, after = whole.before, whole.trained.state_dict()  # type: ignore[attr-defined]
    for part in ("model.backbone.stem.0.weight", "model.encoder.projections.0.weight", "model.sources.0.content"):
        assert not torch.equal(after[part], before[part]), part
    for number in (1, 2):
        name = f"objective.distillers.{number}.adapter.weight"
        assert not torch.equal(after[name], before[name]), name


def test_a_writer_and_a_callback_of_ones_own(whole: Training) -> None:
    notes = Path("whole/notes.txt").read_text().splitlines()
    judged = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    wanted = [
        f"epoch {line['epoch']}, step {line['step']}: AP {line['AP']:.3f}" for line in judged if line["kind"] == "val"
    ]
    assert notes == wanted
    assert len(notes) == 2
    assert torch.load("whole/worst.pth", weights_only=True)["progress"]["epoch"] in (1, 2)


def test_a_killed_run_resumes_to_the_same_bits(config: Path, whole: Training) -> None:
    code, output = train_until_killed(config, save_every_steps=1)
    assert code == -signal.SIGKILL, output
    resumed = Training(isdfine.load_config(config, ["output_dir=killed", "resume=killed"]))
    resumed.resume("killed")
    assert resumed.progress.step == 3
    fit(resumed)
    one, two = (torch.load(f"{name}/last.pth", weights_only=True) for name in ("whole", "killed"))
    for key in ("model", "objective"):
        assert one[key].keys() == two[key].keys()
        assert all(torch.equal(value, two[key][name]) for name, value in one[key].items())


def test_a_post_processor_judges_exports_and_detects(config: Path, whole: Training) -> None:
    picture = Path("data/images/000.png")
    given = ["-c", str(config), "-r", "whole/last.pth", "-o", "model.onnx", "--images", str(picture.parent)]
    assert load_tool("export_onnx").main(given) == 0
    found = Detector.load("whole/last.pth", config=config).detect(picture, 0.0)
    again = Detector.load("model.onnx").detect(picture, 0.0)
    assert len(found) == len(again) == 5  # as many as it keeps
    torch.testing.assert_close(torch.as_tensor(found.scores), torch.as_tensor(again.scores), rtol=1e-3, atol=1e-4)
    judged = Evaluation(isdfine.load_config(config))
    judged.load("whole/last.pth")
    assert type(judged.postprocessor).__name__ == "BestPerQuery"
    assert all(batch.scores.shape[-1] == 5 for _, batch in judged.sample_detections(2))
    assert judged.evaluate() == whole.evaluate(whole.judged_model)


def test_a_frozen_teacher(config: Path, whole: Training) -> None:
    """Another model in eval mode and without gradient says all that a training step sees, and is nobody's part."""
    given = "distillers=[{type: TeacherDistillation, teacher: whole/last.pth}]"
    run = Training(isdfine.load_config(config, [given, "output_dir=student", "epoches=1", "ema.decay=0.5"]))
    (distiller,) = run.criterion.distillers
    (teacher,) = distiller.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    asked: list[tuple[DetectorOutput, Predictions]] = []
    want = Want(True, frozenset({"backbone", "neck", "memory", "hidden"}), frozenset({"self_attention"}))
    inner = distiller.forward

    def ask(context: DistillationContext) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            everything = teacher(context.images, image_sizes=context.image_sizes, want=want)
            asked.append((everything, teacher(context.images, image_sizes=context.image_sizes)))
        losses: dict[str, torch.Tensor] = inner(context)
        return losses

    distiller.forward = ask
    fit(run)
    everything, plain = asked[-1]
    assert not teacher.training
    assert everything.taps.keys() == want.taps
    assert len(everything.layers) == len(everything.taps["hidden"]) == len(everything.attention.queries) == 2
    torch.testing.assert_close(everything.layers[-1].boxes, plain.boxes)
    assert not any(tensor.requires_grad for tensor in (plain.logits, everything.layers[0].logits))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    own = {id(weight) for weight in teacher.parameters()}
    held = [weight for group in run.optim.optimizer.param_groups for weight in group["params"]]
    assert not own & {id(weight) for weight in (*held, *run.trained.parameters(), *run.judged_model.parameters())}
    saved = torch.load("student/last.pth", weights_only=True)
    assert set(saved["objective"]) == {"distillers.0.adapter.weight", "distillers.0.adapter.bias"}
    assert saved["model"].keys() == run.model.state_dict().keys()


def test_a_criterion_from_scratch(config: Path) -> None:
    """One that has nothing of ours trains, resumes to the same bits and evaluates."""
    given = ["criterion=NearestCriterion", "distillers=[]", "optimizer.params=~"]
    whole = Training(isdfine.load_config(config, [*given, "output_dir=scratch"]))
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    fit(whole)
    line = json.loads(Path("scratch/metrics.jsonl").read_text().splitlines()[0])
    assert {name for name in line if name.startswith("loss_")} == {"loss_box", "loss_class"}
    name = "decoder.dec_score_head.1.weight"
    assert not torch.equal(whole.model.state_dict()[name], before[name])
    half = Training(isdfine.load_config(config, [*given, "output_dir=half", "epoches=1"]))
    fit(half)
    rest = Training(isdfine.load_config(config, [*given, "output_dir=half", "resume=half"]))
    rest.resume("half")
    fit(rest)
    assert all(torch.equal(value, rest.model.state_dict()[key]) for key, value in whole.model.state_dict().items())


def test_a_source_of_another_width_is_named(config: Path) -> None:
    narrow = isdfine.load_config(config, ["DFINE.sources.0.hidden_dim=8", "num_classes=2"])
    model = narrow.build("model").train()
    target = {"labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}
    message = "query group 'truth' has queries of width 8, the decoder's have 16: give its source the decoder's hidden"
    with pytest.raises(ConfigError, match=message) as raised:  # what the tools print as one line
        model(torch.rand(1, 3, *SIZE), [target])
    assert "\n" not in str(raised.value)


class Mistaken(Distiller):
    """Asks for a tap that no model has, or for a layer that this one has not."""

    def __init__(self, tap: str = "hidden", layer: int = 0) -> None:
        super().__init__()
        self.want, self.layer = Want(taps=frozenset({tap})), layer

    def check(self, model: torch.nn.Module, criterion: object) -> None:
        if self.layer >= (layers := predicting_layers(model)):
            raise ValueError(f"Mistaken reads decoder layer {self.layer}, but {layers} predict in training")

    def forward(self, context: DistillationContext) -> dict[str, torch.Tensor]:
        return {"loss_mistaken": context.student.taps["hidden"][self.layer].mean()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["DFINETransformer.box_head=direct", "distillers=[GOLSD]"], "GOLSD compares edge distributions, but the dec"),
        (["distillers=[{type: Mistaken, tap: hiden}]"], "0: DFINE has no tap hiden: choose among backbone, hidden,"),
        (["distillers=[{type: Mistaken, layer: 2}]"], "Mistaken reads decoder layer 2, but 2 predict in training"),
        (["DFINE.sources.0.hidden_dim=8"], "query group 'truth' has queries of width 8, the decoder's have 16"),
        (["distillers=[{type: TeacherDistillation, teacher: no.pth}]"], "no.pth: no such file or folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_line_before_the_first_step(
    config: Path,
    given: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Mistaken", Mistaken)
    assert load_tool("train").main(["-c", str(config), "-u", *given, "output_dir=refused"]) == 2
    told = capsys.readouterr().err + caplog.text
    assert sum(message in line for line in told.splitlines()) == 1
    assert "Traceback" not in told
    assert not list(Path("refused").glob("*.pth"))


def test_weights_that_shall_stay_as_they_are(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen on purpose they are saved, and not trained."""

    class Frozen(Mistaken):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)

        def forward(self, context: DistillationContext) -> dict[str, torch.Tensor]:
            return {"loss_frozen": context.student.taps["hidden"][0].square().mean() * self.scale}

    monkeypatch.setitem(REGISTRY._classes, "Frozen", Frozen)
    run = Training(isdfine.load_config(config, ["distillers=[Frozen]", "output_dir=frozen", "epoches=1"]))
    fit(run)
    assert torch.load("frozen/last.pth", weights_only=True)["objective"] == {"distillers.0.scale": 1}
    held = [weight for group in run.optim.optimizer.param_groups for weight in group["params"]]
    assert not any(weight is run.criterion.distillers[0].scale for weight in held)


def test_the_document_shows_the_code_that_runs() -> None:
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), flags=re.S)
    python = "\n\n\n".join(text.strip() for kind, text in blocks if kind == "python")
    yaml = [text.strip() for kind, text in blocks if kind == "yaml"]
    for shown, file in zip([python, *yaml], ["parts.py", "run.yml", "base.yml"], strict=True):
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
def test_ranks_share_the_gradients_of_a_distillers_weights(config: Path) -> None:
    Path("ranks.py").write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, "ranks.py", str(config)], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
