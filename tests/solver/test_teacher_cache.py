# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Answers of a teacher from disk: the same losses, only for the same pixels, whatever happens to the folder."""

import contextlib
import errno
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

import isdfine
import isdfine.components
from builders import write_micro_config
from detector_cases import micro_checkpoint
from isdfine.core.config.settings import CachePlan
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.data.collate import BatchImageCollateFunction
from isdfine.data.loader import Shown
from isdfine.data.transforms import RandomChoice, RandomHorizontalFlip, Resize
from isdfine.distill.context import DistillationContext
from isdfine.distill.objective import Objective
from isdfine.distill.start import Moment
from isdfine.distill.taught import Batch, Lesson, TeacherDistiller, check_cacheable, wanted
from isdfine.distill.teacher import CommonClasses, Teacher, TeacherOutput
from isdfine.nn.types import DetectorOutput, QueryGroup, Want
from isdfine.solver.fit import fit
from isdfine.solver.teacher import build_lesson
from isdfine.solver.teacher_cache import TeacherCache, describe
from isdfine.solver.train import StopTraining
from isdfine.solver.training import Training
from losses.cases import official_criterion
from taught_cases import BINS, CLASSES, SIZE, batch, detector, terms_of

PARTS = {"teacher": "A", "data": "B", "recipe": "C"}


class Scores(TeacherDistiller):
    """Scores, boxes, distributions and queries become like the teacher's, query by query."""

    names = ("loss_scores",)
    teacher_want = Want(layers=True, taps=frozenset({"hidden"}))

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        student, teacher = context.student.layers[-1], taught.output.layers[-1]
        assert student.edge_logits is not None
        assert teacher.edge_logits is not None
        pairs = [(student.logits, taught.output.layers[0].logits), (student.boxes, teacher.boxes)]
        pairs += [(student.edge_logits, teacher.edge_logits)]
        assert len(taught.output.taps["hidden"]) == 2
        return {"loss_scores": torch.stack([F.mse_loss(one, other) for one, other in pairs]).sum()}


def shown(images: Tensor, epoch: int = 0) -> list[Shown]:
    return [Shown(epoch, index, SIZE, SIZE) for index in range(len(images))]


def cache(folder: Path, gigabytes: float = 1.0, show: Callable[[Tensor], Any] = shown, **parts: str) -> TeacherCache:
    return TeacherCache(CachePlan(str(folder), 1, gigabytes), {**PARTS, **parts}, show)


class Class:
    """A student and its teacher, with or without a cache."""

    def __init__(self, kept: TeacherCache | None) -> None:
        self.student, teacher, self.asked = detector(0), detector(1), 0
        teacher.register_forward_hook(self._count)
        classes = CommonClasses.of(range(CLASSES), CLASSES)
        method = Scores(2.0)
        if kept is not None:
            kept.open(method.teacher_want)
        lesson = Lesson(Teacher(teacher), classes, cache=kept)
        self.objective = Objective(official_criterion(CLASSES, BINS), [method], lesson)

    def _count(self, *_: object) -> None:
        self.asked += 1

    def terms(self, seed: int = 0) -> dict[str, Tensor]:
        """Of a step, always with the same noise."""
        torch.manual_seed(3)
        return {name: loss.detach() for name, loss in terms_of(self.objective, self.student, batch(seed=seed)).items()}


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    """The losses of a step without a cache."""
    return Class(None).terms()


def test_live_and_cached_give_the_same_losses(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    group = Class(cache(tmp_path))
    made, compared, read = group.terms(), group.terms(), group.terms()
    assert group.asked == 2, "the first batch that could be read is compared with the teacher"
    assert same(made, compared)
    assert same(made, read)
    assert len(entries(tmp_path)) == 2
    another = Class(cache(tmp_path))
    assert same(another.terms(), made)
    assert same(another.terms(), made)
    assert another.asked == 1
    for name, loss in alone.items():
        assert torch.equal(made[name], loss) == (name != "loss_scores"), name
    torch.testing.assert_close(made["loss_scores"], alone["loss_scores"], rtol=1e-3, atol=0)


def test_an_answer_is_kept_whole(tmp_path: Path) -> None:
    (images, targets), teacher = batch(), Teacher(detector(1))
    kept, want = cache(tmp_path), Want(layers=True, taps=frozenset({"hidden"}))
    kept.open(want)
    given = Batch(images, targets, None, Moment(0, 0, 0.0))
    live = teacher(images, want=want)
    for _ in range(3):
        found = kept.answer(given, lambda: live)
        for one, other in zip([*found.layers, found.initial], [*live.layers, live.initial], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one.boxes, other.boxes)
            for name in ("logits", "edge_logits", "initial_boxes"):
                value, exact = getattr(one, name), getattr(other, name)
                assert (value is None) == (exact is None), name
                if exact is not None:
                    assert value.dtype == torch.float32
                    torch.testing.assert_close(value, exact, rtol=2**-11, atol=1e-7)
        assert found.up is not None
        assert torch.equal(found.up, live.up)
        assert torch.equal(found.reg_scale, live.reg_scale)
        for value, exact in zip(found.taps["hidden"], live.taps["hidden"], strict=True):
            torch.testing.assert_close(value, exact, rtol=2**-11, atol=1e-7)
        assert found.proposals is None


def test_images_are_found_in_other_batches(tmp_path: Path) -> None:
    """An entry is an image's; a batch with a new image is shown to the teacher, all of it."""
    (images, targets), teacher, asked = batch((1, 1, 1, 1)), Teacher(detector(1)), []
    kept, want = cache(tmp_path, show=lambda _: chosen), Want()
    kept.open(want)

    def answer(rows: list[int]) -> DetectorOutput:
        nonlocal chosen
        chosen = [Shown(0, row, SIZE, SIZE) for row in rows]

        def ask() -> DetectorOutput:
            asked.append(rows)
            return teacher(images[rows], want=want)

        return kept.answer(Batch(images[rows], targets, None, Moment(0, 0, 0.0)), ask)

    chosen: list[Shown] = []
    answer([0, 1])
    answer([1, 0])
    answer([2, 1])
    found = answer([2, 0, 1])
    assert asked == [[0, 1], [1, 0], [2, 1]]
    exact = teacher(images[[2, 0, 1]], want=want)
    torch.testing.assert_close(found.layers[-1].boxes, exact.layers[-1].boxes, rtol=0, atol=1e-5)
    answer([3])
    assert asked[-1] == [3]
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("part", ["teacher", "data", "recipe"])
def test_a_stale_cache_is_named_and_not_used(part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Class(cache(tmp_path)).terms()
    before = [path.read_bytes() for path in entries(tmp_path)]
    group = Class(cache(tmp_path, **{part: "another"}))
    assert f"kept answers of another {part}: not used here" in caplog.text
    assert str(entries(tmp_path)[0].parents[1]) in caplog.text
    group.terms()
    group.terms()
    assert group.asked == 2
    assert len(entries(tmp_path)) == 4
    assert all(content in [path.read_bytes() for path in entries(tmp_path)] for content in before)


def test_other_wants_are_another_recipe(tmp_path: Path) -> None:
    for want in (Want(), Want(layers=True), Want(taps=frozenset({"hidden"}))):
        kept = cache(tmp_path)
        kept.open(want)
        (images, targets), teacher = batch(), Teacher(detector(1))
        given = Batch(images, targets, None, Moment(0, 0, 0.0))
        kept.answer(given, lambda: teacher(images, want=want))  # noqa: B023
    assert len(entries(tmp_path)) == 6


def test_answers_for_other_pixels_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after a change in the code of a transform, which no digest sees."""
    first = Class(cache(tmp_path))
    first.terms(seed=1)
    group, expected = Class(cache(tmp_path)), Class(cache(tmp_path / "other")).terms()
    for _ in range(2):
        assert same(group.terms(), expected)
    assert group.asked == 2
    assert caplog.text.count("other answers than the teacher gives for the same images: it is not used") == 1


def test_images_that_are_none_of_the_data_are_not_kept(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    group = Class(cache(tmp_path, show=lambda _: None))
    assert group.terms().keys() == alone.keys()
    group.terms()
    assert group.asked == 2
    assert entries(tmp_path) == []


def test_no_space_is_named_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Class(cache(tmp_path / "roomy")).terms()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    folder = tmp_path / "cache"
    group = Class(cache(folder))
    assert all(same(group.terms(), expected) for _ in range(2))
    assert group.asked == 2
    assert entries(folder) == []
    assert caplog.text.count(f"{folder}: the teacher cache cannot be written (No space left on device)") == 1


def test_what_is_over_the_limit_is_answered_live(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = Class(cache(tmp_path / "roomy")).terms()
    group = Class(cache(tmp_path / "small", gigabytes=1e-8))
    assert all(same(group.terms(), expected) for _ in range(2))
    assert group.asked == 2
    assert len(entries(tmp_path / "small")) == 1, "one above the limit, which stays"
    assert caplog.text.count("the teacher cache is full (0.0 GB): the teacher looks at all other images each time") == 1


def test_a_damaged_entry_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    group = Class(cache(tmp_path))
    expected = group.terms()
    whole = entries(tmp_path)[0].read_bytes()
    entries(tmp_path)[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert same(group.terms(), expected)
    assert "this entry of the teacher cache is damaged" in caplog.text
    assert entries(tmp_path)[0].read_bytes() == whole


class Final(Scores):
    teacher_want = Want()


class Maps(Scores):
    teacher_want = Want(taps=frozenset({"neck", "memory", "hidden"}))


class Points(Scores):
    def teacher_groups(self, batch: Batch) -> list[QueryGroup]:
        return []


class Head(Scores):
    live = True


@pytest.mark.parametrize(
    ("method", "needs"),
    [(Maps, "tap memory, tap neck"), (Points, "answer to further queries"), (Head, "modules")],
)
def test_methods_that_read_more_are_refused(method: type[TeacherDistiller], needs: str) -> None:
    text = f"{method.__name__} needs the teacher's {needs}, and teacher.cache holds its predictions only: remove"
    with pytest.raises(ValueError, match=text):
        check_cacheable(method())
    check_cacheable(Scores())


def test_which_methods_of_ours_a_cache_can_serve() -> None:
    """As docs/distillation.md says."""
    served = set()
    for name in REGISTRY:
        if issubclass(REGISTRY[name], TeacherDistiller) and REGISTRY[name].__module__.startswith("isdfine."):
            with contextlib.suppress(ValueError):
                check_cacheable(REGISTRY[name]())
                served.add(name)
    assert served == {"BoxDistillation", "DistillGOLSD", "LD", "LogitDistillation"}


def test_what_is_kept_does_not_depend_on_who_begins_when(tmp_path: Path) -> None:
    """The second method wants more, and begins at the second step, which finds all it wants."""
    first, later = Final(), Scores(start={"mode": "step", "value": 1})
    kept, teacher, asked = cache(tmp_path), detector(1), []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    lesson = Lesson(Teacher(teacher), CommonClasses.of(range(CLASSES), CLASSES), cache=kept)
    kept.open(wanted([first, later]))
    images, targets = batch()
    answers = [lesson.ask([first, later], Batch(images, targets, None, Moment(step, 0, 0.0))) for step in range(3)]
    assert [len(answer.output.layers) for answer in answers if answer is not None] == [2, 2, 2]
    assert all(answer is not None and len(answer.output.taps["hidden"]) == 2 for answer in answers)
    assert len(asked) == 2
    assert len(entries(tmp_path)) == 2


def test_descriptions_of_transforms() -> None:
    ops = [RandomHorizontalFlip(p=0.5), Resize((64, 96))]
    assert describe(ops) == describe([RandomHorizontalFlip(p=0.5), Resize((64, 96))])
    assert describe(ops) != describe([RandomHorizontalFlip(p=0.4), Resize((64, 96))])
    assert describe(ops) != describe([RandomHorizontalFlip(p=0.5), Resize((64, 64))])
    assert describe(ops) != describe(ops[::-1])
    assert describe(RandomChoice([ops, ops[:1]])) != describe(RandomChoice([ops, ops[1:]]))
    assert "0x" not in str(describe([object(), partial(shown, epoch=1), shown]))


def settings(config: Path, teacher: Path, name: str) -> list[str]:
    """Of a run with a teacher whose answers go to ``cache`` beside the config."""
    given = [f"output_dir={config.parent / name}", f"teacher.checkpoint={teacher}", "distillers=[{type: Scores}]"]
    return [*given, f"teacher.cache={{folder: {config.parent / 'cache'}, views: 1}}"]


def prepare(config: Path, teacher: Path, name: str, *overrides: str, resume: Path | None = None) -> Training:
    given = [*settings(config, teacher, name), *overrides, *([f"resume={resume}"] if resume else [])]
    run = Training(isdfine.load_config(config, given))
    if resume:
        run.resume(resume)
    return run


def weights(run: Training) -> dict[str, Tensor]:
    return run.model.state_dict()


def asked(run: Training) -> list[int]:
    """Sizes of the batches that the teacher sees."""
    seen: list[int] = []
    lesson = run.criterion.lesson
    assert lesson is not None
    lesson.teacher.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Config of a run of two epochs of four batches, and a teacher of its classes."""
    monkeypatch.setitem(REGISTRY._classes, "Scores", Scores)
    (tmp_path / "teacher").mkdir()
    config = write_micro_config(tmp_path)
    content = yaml.safe_load(config.read_text()) | {"eval_every": 2, "num_visualized": 0}
    content["train_dataloader"]["total_batch_size"] = 2
    config.write_text(yaml.safe_dump(content))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield config, micro_checkpoint(tmp_path / "teacher")
    torch.set_num_threads(threads)


def test_a_run_is_resumed_to_the_bit(setting: tuple[Path, Path], tmp_path: Path) -> None:
    """Stopped in its first epoch, when half of the answers are there, and with a cache that another run has filled."""
    config, teacher = setting
    whole = prepare(config, teacher, "whole")
    seen = asked(whole)
    fit(whole)
    assert seen == [2] * 5, "an epoch, and the comparison"
    shutil.rmtree(tmp_path / "cache")
    part = prepare(config, teacher, "part")
    terms, count = part.criterion.terms, itertools.count(1)

    def stopping(context: DistillationContext) -> dict[str, Tensor]:
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms(context)

    part.criterion.terms = stopping  # type: ignore[method-assign]
    with pytest.raises(StopTraining):
        fit(part)
    assert len(entries(tmp_path / "cache")) == 4
    rest = prepare(config, teacher, "part", resume=part.folder.last)
    seen = asked(rest)
    fit(rest)
    assert seen == [2] * 3
    assert same(weights(rest), weights(whole))
    again = prepare(config, teacher, "again", "epoches=1")
    seen = asked(again)
    fit(again)
    assert seen == [2]


def test_data_that_cannot_be_cached_is_refused(setting: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixed(BatchImageCollateFunction):
        """May mix images."""

    config, teacher = setting
    monkeypatch.setitem(REGISTRY._classes, "Mixed", Mixed)
    with pytest.raises(
        ConfigError, match=r"teacher\.cache: train_dataloader\.collate_fn is Mixed, which may mix the im"
    ):
        prepare(config, teacher, "run", "train_dataloader.collate_fn.type=Mixed")


def test_a_run_refuses_a_method_that_reads_more(setting: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config, teacher = setting
    monkeypatch.setitem(REGISTRY._classes, "Head", Head)
    with pytest.raises(ConfigError, match=r"distillers\.0: Head needs the teacher's modules, and teacher\.cache holds"):
        prepare(config, teacher, "run", "distillers=[{type: Head}]")


def test_what_the_answers_depend_on(setting: tuple[Path, Path], tmp_path: Path) -> None:
    """Every change below has a place of its own; what changes no pixel has none."""
    config, teacher = setting

    def place(*overrides: str) -> str:
        loaded = isdfine.load_config(config, [*settings(config, teacher, "run"), *overrides])
        loader = loaded.build("train_dataloader")
        lesson = build_lesson(loaded, loader.dataset.label_space, torch.device("cpu"), loader)
        assert lesson is not None
        assert isinstance(lesson.cache, TeacherCache)
        lesson.cache.open(Want())
        return lesson.cache.place

    ops = "train_dataloader.dataset.transforms.ops"
    same_place = [(), ("train_dataloader.total_batch_size=4",), ("epoches=5",), ("train_dataloader.num_workers=1",)]
    others = ["train_dataloader.seed=3", "teacher.precision=bf16", "teacher.resize=[32, 32]", f"{ops}.1.p=0.4"]
    others += ["train_dataloader.dataset.transforms.fused=False"]
    assert len({place(*overrides) for overrides in same_place}) == 1
    found = {place(), *map(place, others)}
    (tmp_path / "data" / "images" / "000.png").write_bytes(
        (tmp_path / "data" / "images" / "000.png").read_bytes() + b" "
    )
    found.add(place())
    saved = torch.load(teacher, weights_only=True)
    saved["model"]["decoder.dec_score_head.1.bias"] += 1e-3
    torch.save(saved, teacher)
    found.add(place())
    assert len(found) == len(others) + 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            "{folder: x}",
            r"teacher: cache: expected a mapping with folder, views, gigabytes, found .*write \{folder: DI",
        ),
        ("{folder: x, views: 0}", "cache: views: expected the epochs after which augmentation repeats, 1 or more"),
        ("{folder: '', views: 1}", "cache: folder: expected a path"),
        ("{folder: x, views: 1, gigabytes: 0}", "cache: gigabytes: expected a number above 0, found 0"),
        ("{folder: x, views: 1, keep: 1}", "cache: expected a mapping with folder, views, gigabytes"),
        ("x", "cache: expected a mapping"),
    ],
)
def test_bad_settings(given: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text(f"teacher: {{checkpoint: a.pth, cache: {given}}}")
    with pytest.raises(ConfigError, match=text):
        isdfine.load_config(tmp_path / "run.yml")
