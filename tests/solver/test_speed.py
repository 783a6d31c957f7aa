# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Faster options leave the numbers alone, and a compiler that is missing does not end a run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.data.collate import BatchImageCollateFunction, CollateFunction, PaddedBatchCollateFunction
from isdfine.distill.objective import build_objective
from isdfine.solver import speed
from isdfine.solver.speed import compile_for, compile_parts, runs_compiled, use_channels_last
from isdfine.solver.training import Training

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself looks at it
TARGETS = [
    {"boxes": torch.tensor([[0.4, 0.5, 0.3, 0.2], [0.6, 0.4, 0.2, 0.5]]), "labels": torch.tensor([0, 1])},
    {"boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]]), "labels": torch.tensor([1])},
]


@pytest.fixture
def config(tmp_path: Path) -> isdfine.Config:
    return isdfine.load_config(write_micro_config(tmp_path), ["num_classes=2"])


def losses_of(config: isdfine.Config, model: nn.Module, size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    """Of one batch from a seed."""
    objective = build_objective(config, model)
    torch.manual_seed(3)
    images = torch.rand(2, 3, *size)
    losses: dict[str, Tensor] = objective(model.train()(images, TARGETS), TARGETS)
    return losses


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_channels_last_gives_the_same_losses(config: isdfine.Config) -> None:
    model = config.build("model")
    twin = copy.deepcopy(model)
    use_channels_last(twin)
    weights = [
        parameter
        for parameter in twin.parameters()
        if parameter.dim() == 4 and parameter.shape[1] > 1 and parameter.shape[2] > 1
    ]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    check_equal(losses_of(config, twin), losses_of(config, model))


def test_a_run_applies_what_its_config_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[nn.Module, str | None]] = []
    monkeypatch.setattr(speed, "compile_parts", lambda model, *, mode: compiled.append((model, mode)))
    file = write_micro_config(tmp_path)
    run = Training(isdfine.load_config(file, ["channels_last=true", "compile=true"]))
    assert compiled == [(run.model, None)]
    for model in (run.model, run.judged_model):
        conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1)
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert Training(isdfine.load_config(file)).settings.keeps_channels_last("cpu")
    plain = Training(isdfine.load_config(file, ["channels_last=false"]))
    conv = next(
        module for module in plain.model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    )
    assert conv.weight.is_contiguous()
    assert len(compiled) == 1


@pytest.mark.parametrize("layout", ["true", "false"])
def test_a_run_goes_on_in_another_layout(tmp_path: Path, layout: str) -> None:
    # a fused optimiser walks through weights and moments as if they lay alike: moments of other elements, silently
    file, other = write_micro_config(tmp_path), "false" if layout == "true" else "true"
    run = Training(isdfine.load_config(file, [f"channels_last={other}"]))
    optimizer = run.optim.optimizer
    for weight in run.model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    run.save(run.folder.last)
    again = Training(isdfine.load_config(file, [f"channels_last={layout}", f"resume={run.folder.last}"]))
    again.resume(run.folder.last)
    for parameter, two in zip(run.model.parameters(), again.model.parameters()):
        parameter.grad = torch.randn_like(parameter)
        two.grad = torch.empty_like(two).copy_(parameter.grad)
    for some in (optimizer, again.optim.optimizer):
        some.step()
    for (name, parameter), two in zip(run.model.named_parameters(), again.model.parameters()):
        torch.testing.assert_close(parameter, two, rtol=0, atol=1e-7, msg=name)


class Parts(nn.Module):
    """Small, with the parts that are compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.encoder = Doubled()

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = self.encoder([self.backbone(images)])
        return maps[0]


class Doubled(nn.Module):
    """Of a list of maps, as an encoder."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, D, H, W) each."""
        return [2 * feature_map for feature_map in maps]


class Counting:
    """A backend that runs what it gets; ``broken`` makes it fail from the first graph of a model on."""

    def __init__(self, *, broken: bool = False) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.broken = broken

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Any:
        maps = [tuple(source.shape) for source in inputs if source.dim() == 4 and len(source) == 2]
        self.shapes += maps
        if maps and self.broken:
            raise RuntimeError("this graph is beyond me")
        return graph.forward


def test_every_size_is_compiled_once_also_beyond_what_torch_keeps_per_function() -> None:
    model, backend = Parts(), Counting()
    assert compile_parts(model, backend=backend)
    assert model.state_dict().keys() == Parts().state_dict().keys()
    sizes = [(8 + 2 * index, 16) for index in range(10)]
    for size in sizes:
        model(torch.rand(2, 3, *size)).sum().backward()
    wanted = [(2, channels, *size) for size in sizes for channels in (3, 4)]
    assert backend.shapes == wanted
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in reversed(sizes):
            model(torch.rand(2, 3, *size))
    assert backend.shapes == wanted


def test_evaluations_and_copies_are_eager() -> None:
    model, backend = Parts(), Counting()
    assert compile_parts(model, backend=backend)
    twin = copy.deepcopy(model)
    images = torch.rand(2, 3, 8, 16)
    twin(images)
    assert not backend.shapes
    model.eval()(images)
    assert not backend.shapes
    assert not runs_compiled(model)
    for parameter, other in zip(model.parameters(), twin.parameters()):
        other.data.copy_(parameter + 1)
    assert not torch.equal(twin.eval()(images), model(images))  # it computes with its own weights
    model.train()(images)
    assert len(backend.shapes) == 2
    assert runs_compiled(model)
    assert not runs_compiled(twin)


def test_sizes_without_end_run_eagerly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(speed, "SIZES", 2)
    model, backend = Parts(), Counting()
    assert compile_parts(model, backend=backend)
    for side in (8, 10, 12, 14, 8, 10):
        assert model(torch.rand(2, 3, side, 16)).shape == (2, 4, side, 16)
    assert [shape for shape in backend.shapes if shape[1] == 3] == [(2, 3, 8, 16), (2, 3, 10, 16)]
    assert caplog.text.count("compile: backbone has met 2 sizes of batches: further ones run eagerly") == 1


def test_a_part_that_cannot_be_compiled_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    model = Parts()
    plain = copy.deepcopy(model)
    assert compile_parts(model, backend=Counting(broken=True))  # the small function before was no problem
    images = torch.rand(2, 3, 8, 16)
    for _ in range(2):
        assert torch.equal(model(images), plain(images))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    ending = "cannot be compiled (RuntimeError: this graph is beyond me): it runs eagerly from here on"
    assert said == [f"compile: backbone {ending}", f"compile: encoder {ending}"]
    assert not runs_compiled(model)
    for name, value in plain.state_dict().items():  # statistics count every batch once
        assert torch.equal(model.state_dict()[name], value), name


def test_without_a_compiler_the_run_goes_on(
    config: isdfine.Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmany more lines")

    monkeypatch.setattr(torch, "compile", broken)
    model = config.build("model")
    assert not compile_parts(model)
    assert "torch.compile does not work here (No working C++ compiler found): the run goes on without" in caplog.text
    assert not compile_parts(nn.Linear(2, 2))
    assert "compile: the model has no part named backbone or encoder, so nothing is compiled" in caplog.text


def test_a_compiler_that_fails_on_gradients_is_noticed_before_the_run() -> None:
    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        def forward(*values: Tensor) -> Any:
            return tuple(Refusing.apply(one) for one in graph.forward(*values))

        return forward

    assert not compile_parts(Parts(), backend=backend)


class Refusing(torch.autograd.Function):
    """Has no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        raise RuntimeError("no gradient")


def test_what_the_setting_compile_means(
    config: isdfine.Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    modes: list[str | None] = []
    monkeypatch.setattr(speed, "compile_parts", lambda model, *, mode: modes.append(mode))
    model, gpu, fixed = config.build("model"), torch.device("cuda"), BatchImageCollateFunction()
    varied, padded = BatchImageCollateFunction(base_size_repeat=3), PaddedBatchCollateFunction()

    def ask(collate: CollateFunction, device: torch.device = gpu, **values: Any) -> None:
        compile_for(config.with_values(values), model, device, collate)

    ask(fixed)
    ask(padded, compile=True)
    assert not modes
    assert "compile: PaddedBatchCollateFunction makes batches of any size" in caplog.text
    ask(varied, compile=True)
    ask(fixed, compile="reduce-overhead")
    assert modes == [None, "reduce-overhead"]
    for message, collate, device, more in (
        ("records CUDA graphs, but the run uses cpu: write compile: True, or", fixed, torch.device("cpu"), {}),
        (r"one per size, but the sizes of batches change: .*base_size_repeat=null", varied, gpu, {}),
        (r"one per size, but the sizes of batches change", padded, gpu, {}),
        (r"cannot be added up over 2 batches: write compile: True, or", fixed, gpu, {"accumulate_steps": 2}),
    ):
        with pytest.raises(ConfigError, match=f"compile: reduce-overhead .*{message}"):
            ask(collate, device, compile="reduce-overhead", **more)


def test_compile_is_yes_no_or_that_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compile: expected bool or one of 'reduce-overhead'"):
        isdfine.load_config(write_micro_config(tmp_path), ["compile=max-autotune"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_losses_are_the_eager_ones(config: isdfine.Config, backend: str) -> None:
    model = config.build("model")
    twin = copy.deepcopy(model)
    assert compile_parts(twin, backend=backend)
    assert twin.state_dict().keys() == model.state_dict().keys()
    for size in ((64, 96), (96, 96)):
        found, expected = losses_of(config, twin, size), losses_of(config, model, size)
        check_equal(found, expected)
        sum(found.values()).backward()
        sum(expected.values()).backward()
    gradients = [(parameter.grad, other.grad) for parameter, other in zip(model.parameters(), twin.parameters())]
    norms = [(one.norm(), (one - other).norm()) for one, other in gradients if one is not None and other is not None]
    whole, apart = (torch.stack(some).norm() for some in zip(*norms))
    assert apart < 2e-2 * whole  # weights moved by 1e-7 change it by 0.2 %, another memory layout by 0.4 %
    with torch.compiler.set_stance("fail_on_recompile"):
        check_equal(losses_of(config, twin, (64, 96)), losses_of(config, model, (64, 96)))
