# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every method with a teacher. A method that is registered and not listed here fails a test."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from forked import free_port, rank_environment, start_script
from isdfine import components as components
from isdfine.core.registry import REGISTRY
from isdfine.deploy.fuse import fuse
from isdfine.distill import methods, point_distiller
from isdfine.distill.methods.clock import TCLD
from isdfine.distill.objective import Objective
from isdfine.distill.taught import Batch, TeacherDistiller
from isdfine.nn.capture import check_want
from isdfine.nn.types import DetectorOutput, Want
from isdfine.zoo.detr import DETR
from losses.cases import official_criterion
from taught_cases import BINS, CLASSES, batch, copied, detector, taught, terms_of


@dataclass(frozen=True)
class Method:
    """How a method is tried."""

    options: dict[str, Any] = field(default_factory=dict)
    zero: tuple[str, ...] | None = None
    """Losses that are 0 where student and teacher are one; None = all."""
    same: dict[str, Any] = field(default_factory=dict)
    """Further options for that: layers pair by index, no adapters."""
    certain: dict[str, Any] = field(default_factory=dict)
    """Further options with which it draws no numbers of its own, so that two steps are alike."""
    batched: bool = False
    """Whether queries that fill up a batch are read by others, as in denoising: a share of a batch may have fewer."""
    rate: float = 0.006
    """Learning rate at which a student overfits."""


METHODS: dict[str, Method] = {
    "BoxDistillation": Method(same={"pairing": "hungarian"}, rate=0.02),
    "CLoCKDistill": Method({"targets": TCLD(general=5)}, batched=True),
    "CrossKD": Method(),
    "DETRDistill": Method(zero=tuple(f"loss_detrdistill_{term}" for term in ("l1", "giou", "features"))),
    "DistillGOLSD": Method({"start": None}, same={"pairing": "hungarian", "layers": "last"}),
    "FGD": Method({"weight": 1.0}, same={"adapter": "none"}),
    "FitNet": Method(same={"adapter": "none"}),
    "KDDETR": Method({"general": 5}),
    "LCMD": Method({"foreground": 0.1, "background": 0.1}, same={"adapter": "none"}),
    "LD": Method({"vlr": 0.0, "transport": "raw"}, same={"pairing": "hungarian", "layers": "last"}),
    "LogitDistillation": Method(same={"pairing": "hungarian"}),
    "MGD": Method({"weight": 0.01}, zero=(), certain={"masked": 0.0}),
    "TCLD": Method({"general": 5}, batched=True),
}
names = pytest.mark.parametrize("name", METHODS)


def made(name: str, **more: Any) -> TeacherDistiller:
    torch.manual_seed(11)
    method: TeacherDistiller = REGISTRY[name](**copy.deepcopy(METHODS[name].options), **more)
    return method


def prepared(name: str, student: DETR, teacher: DETR, **more: Any) -> Objective:
    torch.manual_seed(12)
    return taught(student, teacher, made(name, **more))


def own(objective: Objective, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the method alone."""
    return {key: terms[key] for key in objective.methods[0].names}


def losses(objective: Objective, student: DETR, given: tuple | None = None, **moment: Any) -> dict[str, Tensor]:
    torch.manual_seed(13)
    return own(objective, terms_of(objective, student, given, **moment))


def test_all_methods_are_listed() -> None:
    registered = {
        name for name in REGISTRY
        if issubclass(REGISTRY[name], TeacherDistiller) and REGISTRY[name].__module__.startswith(methods.__name__)
    }  # fmt: skip
    assert registered == set(METHODS)


@names
def test_a_student_that_is_its_teacher_learns_nothing(name: str) -> None:
    student = detector(0)
    found = losses(prepared(name, student, copied(student), **METHODS[name].same), student)
    zero = METHODS[name].zero
    for key, loss in found.items():
        if zero is None or key in zero:
            assert abs(loss) < 1e-6, key
        else:
            assert loss > 0, key
    other = losses(prepared(name, student, detector(1)), student)
    assert all(loss > 0 for loss in other.values()), other


@names
def test_the_teacher_stays_as_it_is_and_the_student_learns(name: str) -> None:
    student, teacher = detector(0), detector(1)
    before = copy.deepcopy(teacher.state_dict())
    keys = list(student.state_dict())
    objective = prepared(name, student, teacher)
    weights = [weight for weight in (*student.parameters(), *objective.parameters()) if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-4)
    for number in range(5):
        torch.stack([*losses(objective, student, step_number=number).values()]).sum().backward()
        assert any(weight.grad is not None and weight.grad.any() for weight in student.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert list(student.state_dict()) == keys, "a student is saved and exported without adapters"


@names
def test_all_adapters_learn(name: str) -> None:
    """Weights beside the model that no loss reaches would stop a run of several processes."""
    student, teacher = detector(0), detector(1, dim=32)
    objective = prepared(name, student, teacher)
    torch.stack([*terms_of(objective, student).values()]).sum().backward()
    named = objective.methods[0].named_parameters()
    assert [key for key, weight in named if weight.requires_grad and weight.grad is None] == []


@names
def test_the_order_of_images_does_not_matter(name: str) -> None:
    student, (images, targets) = detector(0), batch((3, 1, 2))
    objective = prepared(name, student, detector(1), **METHODS[name].certain)
    found, turned = (
        losses(objective, student, (images, targets)),
        losses(objective, student, (images.flip(0), targets[::-1])),
    )
    for key, loss in found.items():
        torch.testing.assert_close(turned[key], loss, rtol=1e-4, atol=1e-7)


@names
@pytest.mark.parametrize("kind", ["no_boxes", "one_empty", "padded", "one_query"])
def test_odd_batches(name: str, kind: str) -> None:
    options = {"num_queries": 1} if kind == "one_query" else {}
    student, teacher = detector(0, **options), detector(1, **options)
    given = batch({"no_boxes": (0, 0), "one_empty": (2, 0)}.get(kind, (2, 1)), padded=kind == "padded")
    objective = prepared(name, student, teacher)
    found = losses(objective, student, given)
    total = torch.stack([*found.values()]).sum()
    assert total.isfinite(), found
    total.backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@names
def test_bf16(name: str) -> None:
    student, teacher = detector(0), detector(1)
    objective = prepared(name, student, teacher, **METHODS[name].certain)
    exact = losses(objective, student)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(objective, student)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found.values())
    assert all((found[key] - exact[key]).abs() < 0.2 * exact[key].abs() + 1e-3 for key in exact)


@names
def test_off_means_off(name: str) -> None:
    """With a weight of 0 all other losses are those of a run without a teacher, to the bit."""
    student = detector(0)
    torch.manual_seed(13)
    alone = terms_of(Objective(official_criterion(CLASSES, BINS), []), student)
    options = {**METHODS[name].options, "weight": 0.0}
    objective = taught(student, detector(1), REGISTRY[name](**options))
    torch.manual_seed(13)
    beside = terms_of(objective, student)
    assert all(torch.equal(beside[key], loss) for key, loss in alone.items())
    assert not any(beside[key] for key in objective.methods[0].names)


@names
def test_other_losses_do_not_change(name: str) -> None:
    """Points of a method are invisible to the queries that detect."""
    student = detector(0, num_denoising=0)
    alone = terms_of(Objective(official_criterion(CLASSES, BINS), []), student)
    beside = terms_of(prepared(name, student, detector(1)), student)
    for key, loss in alone.items():
        torch.testing.assert_close(beside[key], loss, rtol=1e-5, atol=1e-6)


@names
def test_a_missing_tap_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step, with what there is."""
    objective = prepared(name, detector(0), detector(1))
    method = objective.methods[0]
    monkeypatch.setattr(DETR, "taps", frozenset({"skin"}))
    for want in (method.want, method.teacher_want):
        if want.taps:
            with pytest.raises(ValueError, match=r"DETR has no tap .*: choose among skin"):
                check_want(detector(0), want)


class Memory:
    """What a teacher said of the one batch that there is."""

    def __init__(self) -> None:
        self.said: DetectorOutput | None = None

    def open(self, want: Want) -> None:
        """Nothing to prepare."""

    def answer(self, batch: Batch, ask: Callable[[], DetectorOutput]) -> DetectorOutput:
        """Ask once."""
        self.said = self.said or ask()
        return self.said


@names
def test_a_student_overfits_its_teacher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ground truth, on eight images: what it is taught can be learned."""
    method, student = METHODS[name], detector(0, num_denoising=0)
    monkeypatch.setattr(point_distiller, "step_generator", lambda _, __: torch.Generator().manual_seed(0))
    objective = taught(student, detector(1), made(name, **method.certain), cache=Memory(), beta=0.0)
    weights = [weight for weight in (*student.parameters(), *objective.parameters()) if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=method.rate)
    given, found = batch((1, 2, 0, 3, 1, 2, 1, 2), size=(64, 64)), []
    for _ in range(10):
        total = torch.stack([*terms_of(objective, student, given).values()]).sum()
        found.append(float(total.detach()))
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found[-1] < 0.9 * found[0], found


def deployed_shapes(model: DETR) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in fuse(model).state_dict().items()}


@names
def test_what_is_deployed_has_no_trace_of_the_teacher(name: str) -> None:
    student = detector(0)
    torch.stack([*losses(prepared(name, student, detector(1, dim=32)), student).values()]).sum().backward()
    assert deployed_shapes(student) == deployed_shapes(detector(2))


RANK = """
import json, sys
sys.path[:0] = [{tests!r}]
import torch
from isdfine.core import dist
from distill.test_methods import of_rank
dist.init("cpu")
print(json.dumps(of_rank(dist.rank(), dist.world_size())))
dist.shutdown()
"""


def of_rank(rank: int, world_size: int) -> dict[str, float]:
    """Losses of every method without chance, of one rank's share of a batch; random points are those of the step."""
    found = {}
    for name, method in METHODS.items():
        # queries that fill up the batch are the same where every share has an image with as many boxes
        images, targets = batch((3, 1, 3, 0) if method.batched else (3, 1, 0, 2), padded=True)
        share = slice(rank * len(images) // world_size, (rank + 1) * len(images) // world_size)
        student = detector(0, num_denoising=0)
        objective = prepared(name, student, detector(1), **method.certain)
        with mock.patch.object(point_distiller, "step_generator", lambda step, _: torch.Generator().manual_seed(step)):
            terms = losses(objective, student, (images[share], targets[share]))
        found |= {f"{name}.{key}": float(loss.detach()) for key, loss in terms.items()}
    return found


def test_two_processes_are_one(tmp_path: Path) -> None:
    """The mean over ranks is the loss of the whole batch: normalisers count the batch of all ranks."""
    port, script = free_port(), RANK.format(tests=str(Path(__file__).parents[1]))
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    processes = [start_script(script, log=log, **rank_environment(rank, port)) for rank, log in enumerate(logs)]
    for process in processes:
        process.join(120)
    texts = [log.read_text() for log in logs]
    assert [process.exitcode for process in processes] == [0, 0], texts
    ranks = [json.loads(text.splitlines()[-1]) for text in texts]
    whole = of_rank(0, 1)
    means = {key: sum(rank[key] for rank in ranks) / 2 for key in whole}
    assert means == pytest.approx(whole, rel=1e-4, abs=1e-7)
