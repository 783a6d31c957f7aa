# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The memory forecast, the refusal of what does not fit, and running out in a step."""

import os
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import isdfine
from builders import load_tool, write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.solver import memory
from isdfine.solver.memory import Forecast, activations, check_memory, is_out_of_memory, measure, measure_run, refuse
from isdfine.solver.probe import Probe, aside, boxes_of, storage_bytes
from isdfine.solver.resources import free_memory, usable_cores
from isdfine.solver.training import Training
from solver.test_padded_training import write_padded_config

CPU = torch.device("cpu")
MB = 10**6


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/train.py as a module."""
    return load_tool("train")


@pytest.fixture(scope="module", autouse=True)
def _small() -> None:
    """The real B0: with a small one batches do not decide what a run needs."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(isdfine.load_config(write_micro_config(tmp_path_factory.mktemp("run"))))


def line(*points: tuple[int, int], usable: int = 1000, held: int = 100) -> Forecast:
    return Forecast(CPU, (64, 96), points, held, usable)


def test_the_line_through_measured_batches() -> None:
    straight = line((1, 200), (2, 300))
    assert straight.per_image == 100
    assert [straight.peak(batch) for batch in (1, 2, 5)] == [200, 300, 600]
    assert straight.fits == 9  # 1000 = 100 + 9 * 100
    assert straight.peak(9) <= straight.usable < straight.peak(10)


def test_an_open_line_takes_the_careful_slope() -> None:
    open_line = line((1, 300), (2, 310))
    assert open_line.per_image == (310 - 100) / 2
    assert open_line.peak(4) == 310 + 2 * 105
    one = line((1, 200))
    assert (one.per_image, one.fits) == (100, 9)


def test_a_batch_that_failed_does_not_fit_whatever_the_line_says() -> None:
    class Full:
        device = torch.device("cuda")

        def held_bytes(self) -> int:
            return 100

        def peak_bytes(self, batch: int, size: tuple[int, int]) -> int:
            if batch > 4:
                raise torch.OutOfMemoryError("no")
            return 100 + 100 * batch

        optim = SimpleNamespace(optimizer=SimpleNamespace(zero_grad=lambda **_: None))

    forecast = measure(Full(), (64, 96), 10_000, 32)  # type: ignore[arg-type]
    assert [batch for batch, _ in forecast.points] == [1, 2, 4]
    assert forecast.fits == 7


def test_what_was_measured_above_the_limit_is_read_between_the_points() -> None:
    found = line((1, 200), (2, 300), (4, 500), usable=410)
    assert found.fits == 3
    assert line((1, 200), (2, 300), usable=150).fits == 0
    assert line(usable=50).fits == 0


def test_the_forecast_meets_a_measured_larger_batch(run: Training) -> None:
    size = (192, 192)  # large enough that images and not weights decide
    found = measure_run(run, size, 4)
    assert found.points[-1][0] <= 4
    with aside():
        measured = Probe(run.config, CPU, run.train_loader).peak_bytes(8, size)
    assert measured == pytest.approx(found.peak(8), rel=0.1)
    assert measured > 1.5 * found.points[-1][1]


def test_more_pixels_and_more_moments_need_more(run: Training) -> None:
    config = run.config
    with aside():
        small = Probe(config, CPU, run.train_loader)
        frugal = Probe(config.with_values({"optimizer": {"type": "SGD"}, "use_ema": False}), CPU, run.train_loader)
        assert small.peak_bytes(1, (192, 192)) > small.peak_bytes(1, (96, 96)) > small.held_bytes()
        weights = sum(parameter.nbytes for parameter in run.model.parameters())
        assert 2.9 * weights < small.held_bytes() - frugal.held_bytes() < 3.2 * weights  # two moments and the average


def test_a_teacher_is_held_too(run: Training, tmp_path: Path) -> None:
    labels = run.train_loader.dataset.label_space.to_dict()
    content = {"model": run.model.state_dict(), "config": run.config.dump(), "label_space": labels}
    torch.save(content, tmp_path / "teacher.pth")
    learns = {"teacher": {"checkpoint": str(tmp_path / "teacher.pth")}, "distillers": [{"type": "LogitDistillation"}]}
    with aside():
        probe = Probe(run.config.with_values(learns), CPU, run.train_loader)
    held = probe.held_bytes()
    probe.trained.objective.lesson = None
    weights = storage_bytes([*run.model.parameters(), *run.model.buffers()])
    assert held - probe.held_bytes() == pytest.approx(weights, rel=0.01)


def test_a_probe_leaves_no_trace(run: Training) -> None:
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    measure_run(run, (64, 96), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert not run.optim.optimizer.state
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_padded_batches_are_measured_as_padded_ones(tmp_path: Path) -> None:
    config = isdfine.load_config(write_padded_config(tmp_path), ["num_classes=2"])
    loader = config.build("train_dataloader")
    with aside():
        probe = Probe(config, CPU, loader)
        found = measure(probe, loader.largest_size, 10**10, 1)
        _, targets = probe.batch(2, found.size)
    assert found.size == (96, 128)
    assert found.points[0][1] > found.held
    assert [target["image_size"].tolist() for target in targets] == [[96, 128]] * 2


def test_boxes_of_the_fullest_and_of_the_mean_image(run: Training) -> None:
    assert boxes_of(run.train_loader) == (3, 2)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    tight = line((1, 200 * MB), (2, 300 * MB), usable=450 * MB, held=100 * MB)
    refuse(tight, 3)
    with pytest.raises(
        ConfigError,
        match=r"a batch of 4 images of 64x96 \(the largest size\) needs about 0.50 GB and 0.45 GB of cpu are usable: a "
        r"batch of 3 fits: set train_dataloader.total_batch_size=3, with accumulate_steps",
    ):
        refuse(tight, 4)
    with pytest.raises(ConfigError, match=r"not even 1 image of 64x96 fits into 0.05 GB of cpu: not even one image"):
        refuse(line(usable=50 * MB), 1)


def test_the_forecast_stops_a_run_before_its_folder_is_made(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "usable_bytes", lambda device: 45 * MB)
    config = write_micro_config(tmp_path)
    assert tool.main(["-c", str(config), "-u", "memory_forecast=True", "train_dataloader.total_batch_size=8"]) == 2
    assert "a batch of 8 images of 64x96" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_activations_are_less_than_a_step_takes_and_leave_no_trace(run: Training) -> None:
    size = (192, 192)  # large enough that images decide
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state, modes = torch.get_rng_state(), [module.training for module in run.model.modules()]
    one, widest = activations(run.model, 1, size, run.optim.precision)
    two, _ = activations(run.model, 2, size, run.optim.precision)
    with aside():
        probe = Probe(run.config, CPU, run.train_loader)
        measured = probe.peak_bytes(2, size) - probe.peak_bytes(1, size)
    assert 0.7 * measured < two - one <= measured / memory.AT_LEAST
    assert 0 < widest < one
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in run.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert not any(module._forward_hooks for module in run.model.modules())


def test_on_a_cpu_what_cannot_fit_is_refused_before_every_run(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(write_micro_config(tmp_path))
    monkeypatch.setattr(memory, "free_memory", lambda swap: 20 * MB)
    assert tool.main(["-c", config, "-u", "train_dataloader.total_batch_size=8"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: train_dataloader: a batch of 8 images of 64x96 (the largest size) needs at least ")
    assert re.search("and 0.02 GB of memory are free: a batch of [2-4] fits: set train_dataloader.total_batch", error)
    assert not (tmp_path / "run").exists()


def estimated(folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, *overrides: str) -> None:
    """The check before a run where so many bytes are free."""
    monkeypatch.setattr(memory, "free_memory", lambda swap: free)
    check_memory(Training(isdfine.load_config(write_micro_config(folder), overrides)))


def test_an_estimate_refuses_nothing_that_could_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with aside():
        run = Training(isdfine.load_config(write_micro_config(tmp_path)))
        need = Probe(run.config, CPU, run.train_loader).peak_bytes(4, (64, 96))
    estimated(tmp_path, monkeypatch, need)
    # a batch is never larger than the data set
    estimated(
        tmp_path, monkeypatch, 2 * need, "train_dataloader.total_batch_size=1000", "train_dataloader.drop_last=False"
    )
    caplog.clear()
    estimated(tmp_path, monkeypatch, 10 * need)
    assert "may end the run" not in caplog.text
    monkeypatch.setattr("isdfine.solver.training.compile_for", lambda *_: None)  # the trial of it takes ten seconds
    for unchecked in ("memory_forecast=False", "compile=True"):
        estimated(tmp_path, monkeypatch, 1, unchecked)


def test_large_images_are_estimated_from_smaller_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial must not be what the system ends."""
    tried = []

    def tell(model: object, batch: int, size: tuple[int, int], *_: object, **__: object) -> tuple[int, int]:
        tried.append(size)
        return batch * MB, 1

    monkeypatch.setattr(memory, "LARGE", 32 * 32)
    monkeypatch.setattr(memory, "activations", tell)
    with pytest.raises(ConfigError, match=r"a batch of 4 images of 64x96 \(the largest size\) needs at least 0.02 GB"):
        estimated(tmp_path, monkeypatch, 20 * MB)  # 0.9 of 4 images, each with 6 times the pixels
    estimated(tmp_path, monkeypatch, 25 * MB)
    assert set(tried) == {(32, 32)}


def test_what_will_hardly_fit_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Training(isdfine.load_config(write_micro_config(tmp_path)))
    kept, _ = activations(run.model, 4, (64, 96), run.optim.precision)
    estimated(tmp_path, monkeypatch, int(1.05 * kept))
    assert "so the system may end the run: a batch of 2 fits: set train_dataloader.total_batch_size=2" in caplog.text


def test_an_evaluation_that_cannot_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "activations", lambda *_, **__: (1, 10**6))
    with pytest.raises(ConfigError, match=r"val_dataloader: evaluating 4 images of 64x96 at once needs at least .*=1$"):
        estimated(tmp_path, monkeypatch, 3 * 10**6)
    estimated(tmp_path, monkeypatch, 5 * 10**6)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_in_a_step_names_size_batch_and_what_fits(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    from isdfine.optim.step import Optim

    step, calls = Optim.step, iter(range(100))

    def fails_in_the_second(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise error
        return step(*arguments)

    monkeypatch.setattr(Optim, "step", fails_in_the_second)
    assert tool.main(["-c", str(write_micro_config(tmp_path))]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: cpu ran out of memory in a step of 4 images of 64x96: a batch of 3 fits: set ")


def test_running_out_in_an_evaluation_points_there(run: Training) -> None:
    assert run.batch_shape is None
    with pytest.raises(ConfigError, match=r"outside training steps: lower val_dataloader.total_batch_size \(4 images"):
        raise memory.out_of_memory(run)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def machine(folder: Path, files: dict[str, str]) -> Path:
    """A file system with those files."""
    for name, text in {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:  500 kB\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


LIMITED = {"memory.max": "400000\n", "memory.current": "150000\n", "cpu.max": "100000 100000\n"}
GROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("own", "where"),
    [
        (None, GROUP),
        ("0::/\n", GROUP),
        ("0::/slurm/job_1/step\n", f"{GROUP}/slurm/job_1/step"),
        ("0::/slurm/job_1/step\n", f"{GROUP}/slurm/job_1"),  # what holds for the job holds for its steps
    ],
)
def test_limits_of_a_control_group_count(tmp_path: Path, own: str | None, where: str) -> None:
    files = {f"{where}/{name}": text for name, text in LIMITED.items()}
    machine(tmp_path, files if own is None else files | {"proc/self/cgroup": own})
    assert free_memory(tmp_path) == 250_000
    assert usable_cores(tmp_path) == 1
    (tmp_path / where / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 512_000


def test_pages_of_files_can_be_freed_and_swap_counts_where_asked(tmp_path: Path) -> None:
    stat = "anon 100\nfile 60000\ninactive_file 30000\nactive_file 20000\n"
    limited = {f"{GROUP}/{name}": text for name, text in {**LIMITED, "memory.stat": stat}.items()}
    machine(tmp_path, {**limited, "proc/meminfo": "MemAvailable:  500 kB\nSwapFree: 100 kB\n"})
    assert free_memory(tmp_path) == 300_000
    assert free_memory(tmp_path, swap=True) == 300_000 + 102_400
    (tmp_path / GROUP / "memory.stat").write_text(f"total_inactive_file 7\ntotal_active_file 5\n{stat}")
    assert free_memory(tmp_path) == 250_012


def test_limits_of_version_1_count(tmp_path: Path) -> None:
    files = {"memory.limit_in_bytes": "300000\n", "memory.usage_in_bytes": "100000\n"}
    own = {"proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n"}
    machine(tmp_path, own | {f"{GROUP}/memory/job/{name}": text for name, text in files.items()})
    assert free_memory(tmp_path) == 200_000


def test_a_limit_of_address_space_counts(tmp_path: Path) -> None:
    title = "Limit                     Soft Limit           Hard Limit           Units     \n"
    pages = 10
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 5000
    machine(tmp_path, {"proc/self/statm": f"{pages} 5 1 1 0 1 0\n"})
    for text, free in (("unlimited", 512_000), (str(limit), 5000), ("1000", 0)):
        (tmp_path / "proc/self/limits").write_text(f"{title}Max address space         {text}  unlimited  bytes\n")
        assert free_memory(tmp_path) == free
