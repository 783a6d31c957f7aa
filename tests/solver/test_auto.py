# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""--auto: what it chooses, what it leaves alone, and that measuring changes nothing."""

import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import isdfine
from builders import load_tool, write_micro_config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.dataset import coco
from isdfine.data.dataset.coco import parse_coco
from isdfine.solver import auto
from isdfine.solver.auto import auto_tune
from isdfine.solver.memory import Forecast
from isdfine.solver.probe import Probe
from solver.test_training import Launch, assert_same_weights

MB = 10**6


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/train.py as a module."""
    return load_tool("train")


def remembered(probe: Probe, size: tuple[int, int], usable: int, wanted: int) -> Forecast:
    """What measuring would say."""
    points = ((1, 30 * MB), (2, 40 * MB))
    return Forecast(probe.device, size, points if usable > points[0][1] else (), 20 * MB, usable)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine that is always the same: 20 MB of weights, 10 MB for each image."""
    values: dict[str, Any] = {"step": 0.01, "image": 0.01, "load": 0.001, "cores": 4, "usable": 10**10}
    values |= {"steps": [], "disturbed": ()}

    class Steps:
        """Stands in for the probe, which other tests measure with."""

        def __init__(self, config: Any, device: torch.device, loader: Any) -> None:
            self.device = device

        def seconds(self, batch: int, size: tuple[int, int]) -> float:
            values["steps"].append(batch)
            disturbed = 10 if len(values["steps"]) in values["disturbed"] else 1
            return float(disturbed * (values["step"] + batch * values["image"]))

    monkeypatch.setattr(auto, "Probe", Steps)
    monkeypatch.setattr(auto, "seconds_per_sample", lambda loader: values["load"])
    monkeypatch.setattr(auto, "usable_cores", lambda: values["cores"])
    monkeypatch.setattr(auto, "usable_bytes", lambda device: values["usable"])
    monkeypatch.setattr(auto, "measure", remembered)
    return values


def tune(folder: Path, *overrides: str, images: int = 8, **options: Any) -> tuple[dict[str, Any], str]:
    """The loader's section as it was chosen, and the lines."""
    config = isdfine.load_config(write_micro_config(folder, images=images), overrides)
    found = auto_tune(config, **options)
    section: dict[str, Any] = found.config.get("train_dataloader")
    return section, "\n".join(found.lines)


def test_the_batch_of_the_config_stays_where_nothing_is_gained(tmp_path: Path, machine: dict[str, Any]) -> None:
    section, text = tune(tmp_path, "train_dataloader.drop_last=False", images=160)
    # 8 images take 90 ms and 4 take 50 ms: 11 % faster. 16: 94 images/s against 89.
    assert section["total_batch_size"] == 8
    assert (section["num_workers"], section["prefetch_factor"]) == (1, 4)
    machine["step"] = 0.0
    section, text = tune(tmp_path, "train_dataloader.drop_last=False", images=160)
    assert section["total_batch_size"] == 4
    assert "batch 4 (config: 4): it fits, and no other" in text
    assert "by batch: 1: 100, 2: 100, 4: 100, 8: 100" in text
    assert "learning rate 0.001: fits" in text
    assert "expected: 1.64 s for an epoch of 40 steps" in text  # 40 * (40 ms + 4 * 1 ms / 4 cores)


def test_an_epoch_keeps_ten_steps(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine.update(step=0.1, image=0.0)  # further images cost nothing
    assert tune(tmp_path, images=80)[0]["total_batch_size"] == 8
    assert tune(tmp_path, images=8)[0]["total_batch_size"] == 4


def test_steps_that_take_too_long_are_not_measured(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine.update(step=0.0, image=3.0)
    section, text = tune(tmp_path, images=80)
    assert section["total_batch_size"] == 4
    assert "by batch: 1: 0.333" in text


def test_a_long_step_is_taken_once_and_a_disturbed_one_does_not_count(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine.update(step=0.0, image=6.0)
    tune(tmp_path)
    assert machine["steps"] == [1]
    machine.update(image=0.01, disturbed=(3,), steps=[])
    _, text = tune(tmp_path, "train_dataloader.total_batch_size=1")
    assert machine["steps"] == [1, 1, 1]
    assert "a step of 1 takes 10 ms" in text


def test_one_step_does_for_memory_and_time_of_a_very_slow_model(
    tmp_path: Path, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "measure", lambda *of: replace(remembered(*of), points=((1, 30 * MB),), size=(128, 192)))
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # measuring took 20 s
    _, text = tune(tmp_path)
    assert machine["steps"] == []
    assert "images a second at 64x96 by batch: 1: 0.2" in text  # a quarter of the pixels in 5 s
    one = Forecast(torch.device("cpu"), (10, 10), ((1, MB),), MB, MB)

    class Timed(Probe):
        def __init__(self) -> None:
            """Takes one second for every step."""

        def seconds(self, batch: int, size: tuple[int, int]) -> float:
            return 1.0

    def of_one(memory: Forecast, seconds: float) -> float:
        return auto._Steps(Timed(), (5, 10), memory, seconds)(1)

    assert of_one(one, 20.0) == 10.0
    assert of_one(one, 10.0) == 1.0
    assert of_one(replace(one, points=((1, MB), (2, MB))), 20.0) == 1.0
    assert of_one(replace(one, device=torch.device("cuda")), 20.0) == 1.0  # libraries load for so long


def test_compiled_steps_are_announced_as_faster(tmp_path: Path, machine: dict[str, Any]) -> None:
    assert tune(tmp_path, "compile=True")[1].endswith("start of workers; of the eager model: compile makes it faster")
    assert tune(tmp_path)[1].endswith("for an epoch of 2 steps, without evaluation and the start of workers")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500 ms"), (100, "100 s"), (600, "10 min"), (9000, "2.5 h"), (1.2e8, "1,389 days")]
)
def test_times_are_in_units_of_their_size(seconds: float, text: str) -> None:
    assert auto.duration(seconds) == text


def test_what_the_data_set_warns_of_while_it_is_measured_is_heard(
    tmp_path: Path, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def a_full_cache(loader: Any) -> float:
        logging.getLogger("isdfine.data.image_cache").warning("the image cache is full")
        return 0.001

    monkeypatch.setattr(auto, "seconds_per_sample", a_full_cache)
    tune(tmp_path)
    assert "the image cache is full" in caplog.text


def test_what_a_start_refuses_is_refused_before_anything_is_measured(tmp_path: Path, machine: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth").touch()
    with pytest.raises(ConfigError, match=r"holds another run \(last\.pth\): continue it with -r"):
        tune(tmp_path)
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        tune(tmp_path, f"output_dir={tmp_path / 'other'}", f"tuning={tmp_path / 'gone.pth'}")
    assert machine["steps"] == []


def test_memory_limits_the_batch_and_the_rate_is_explained(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["usable"] = 52 * MB
    section, text = tune(tmp_path)
    assert section["total_batch_size"] == 3
    assert "the config's does not fit" in text
    assert "learning rate 0.001: unchanged, though it was chosen for 4 images a step" in text
    machine["usable"] = 1000
    with pytest.raises(ConfigError, match="not even one image fits"):
        tune(tmp_path)


def test_what_an_override_says_stays_and_what_a_file_says_does_not(tmp_path: Path, machine: dict[str, Any]) -> None:
    section, text = tune(tmp_path, "train_dataloader.total_batch_size=2", "train_dataloader.num_workers=3")
    assert (section["total_batch_size"], section["num_workers"]) == (2, 3)
    assert "batch 2 (config: 2): given with -u" in text
    assert "num_workers 3 (config: 3): given with -u" in text
    machine["usable"] = 1000
    with pytest.raises(ConfigError, match=r"not even one image fits"):
        tune(tmp_path, "train_dataloader.total_batch_size=2")


def test_a_batch_for_each_process_stays_one(tmp_path: Path, machine: dict[str, Any]) -> None:
    path = write_micro_config(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["train_dataloader"]["batch_size"] = tree["train_dataloader"].pop("total_batch_size")
    path.write_text(yaml.safe_dump(tree))
    tuned = auto_tune(isdfine.load_config(path)).config
    assert tuned.get("train_dataloader.batch_size") == 4
    assert tuned.get("train_dataloader.total_batch_size") is None


def test_slow_loading_gets_workers_up_to_the_cores(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["load"] = 0.02
    section, _ = tune(tmp_path, "train_dataloader.total_batch_size=4")
    assert section["num_workers"] == 2  # 1.25 * 4 * 20 ms / 50 ms
    machine["load"] = 1.0
    section, _ = tune(tmp_path, "train_dataloader.total_batch_size=4")
    assert section["num_workers"] == 3


def test_a_resumed_run_keeps_its_batch(tmp_path: Path, machine: dict[str, Any]) -> None:
    section, text = tune(tmp_path, images=160, keep_batch=True)
    assert section["total_batch_size"] == 4
    assert "kept, because the run is resumed" in text


def test_ranks_take_the_smallest_choice(
    tmp_path: Path, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = auto.Choice(3, 0.3, 0.5, 3, {})
    mine = auto.Choice(4, 0.2, 0.1, 8, {"prefetch_factor": 1})
    packed = [(choice.batch, choice.step_s / choice.batch, choice.load_s, choice.cores) for choice in (mine, other)]
    monkeypatch.setattr("isdfine.core.dist.gather_objects", lambda own: packed if own == packed[0] else [own])
    common = auto._common(mine)
    assert (common.batch, common.workers, common.prefetch) == (3, 2, 1)  # workers: one core is left to the step
    assert common.step_s == pytest.approx(0.3)
    assert common.load_s == 0.5


def test_weights_are_those_of_a_run_without(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements; only the choice is held to what the config says."""
    torch.set_num_threads(1)
    config = write_micro_config(tmp_path)
    plain, tuned = tmp_path / "plain", tmp_path / "tuned"
    opened: list[str] = []
    monkeypatch.setattr(coco, "parse_coco", lambda path, **more: opened.append(path) or parse_coco(path, **more))
    fixed = ["epoches=1", "num_visualized=0", "train_dataloader.total_batch_size=4", "train_dataloader.num_workers=0"]
    assert tool.main(["-c", str(config), "-u", *fixed, f"output_dir={plain}"]) == 0
    in_a_plain_run = len(opened)
    assert tool.main(["-c", str(config), "--auto", "-u", *fixed, f"output_dir={tuned}"]) == 0
    assert len(opened) == 2 * in_a_plain_run == 4  # the annotations of both loaders, once
    assert_same_weights(plain / "last.pth", tuned / "last.pth")
    saved = isdfine.load_config(tuned / "config.yml")
    assert saved.get("train_dataloader.prefetch_factor") == 4


@pytest.mark.slow
def test_two_ranks_choose_together(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    output = Launch(config, "--auto", "-u", "epoches=1", processes=2).succeed()
    assert output.count("auto: batch ") == 1
    assert "for each of 2 processes (config: 2)" in output
    assert isdfine.load_config(tmp_path / "run" / "config.yml").get("train_dataloader.total_batch_size") in (2, 4)
