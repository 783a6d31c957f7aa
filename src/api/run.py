# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate in one call."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import isdfine

from .. import components as components
from ..core import dist
from ..core.command import INTERRUPTED
from ..core.config import Config
from ..core.config.node import locate
from ..core.errors import ConfigError
from ..core.registry import IMPORTS
from ..data.evaluate import EvalResult, shown
from ..deploy.detector import Detector
from ..load import open_checkpoint
from ..solver import fit
from ..solver.auto import auto_tune
from ..solver.folder import RunFolder
from ..solver.memory import check_memory, is_out_of_memory, out_of_memory
from ..solver.solver import Evaluation
from ..solver.train import StopTraining
from ..solver.training import Training
from ..viz.draw import save_comparison
from .session import group, overrides, session

logger = logging.getLogger(__name__)

NEEDED_TO_TEST = ("model", "postprocessor", "evaluator", "val_dataloader")
"""Sections of the config without which nothing can be judged."""


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training: the metrics of its best weights, and where its files lie."""

    folder: Path
    """``output_dir``."""
    result: EvalResult
    """Of the best weights on the validation data, per class too."""
    epochs: int
    """That it was trained for, with those before it was resumed."""

    @property
    def metrics(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl and average recalls, fractions in [0, 1]; -1 where there is no such object."""
        return self.result.stats

    @property
    def best(self) -> Path:
        """Checkpoint with the best AP; the last one where the validation data hold no object."""
        best = RunFolder(self.folder).best
        return best if best.exists() else self.last

    @property
    def last(self) -> Path:
        """The newest checkpoint, to resume from."""
        return RunFolder(self.folder).last

    @property
    def config(self) -> Path:
        """The resolved config as YAML."""
        return RunFolder(self.folder).config

    def history(self, kind: str = "val") -> list[dict[str, Any]]:
        """What was reported while it ran, in its order: ``val`` of every evaluation, ``train`` of losses.

        Raises:
            ConfigError: the run did not keep it.
        """
        path = RunFolder(self.folder).metrics
        if not path.is_file():
            raise ConfigError(f"{path}: not there: JsonLines, which writes it, must be among the writers")
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [record for record in records if record["kind"] == kind]

    def table(self) -> str:
        """The metrics as text, one line per class."""
        return self.result.table()

    def detector(self, **options: Any) -> Detector:
        """The best weights, ready to detect; ``options`` are those of :meth:`Detector.load`."""
        return Detector.load(self.best, **options)

    def __repr__(self) -> str:
        ap, ap50 = (shown(self.metrics[name]) for name in ("AP", "AP50"))
        return f"Run({str(self.folder)!r}, {self.epochs} epochs, AP {ap}, AP50 {ap50})"


def train(
    config: str | Path | Config,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    epochs: int | None = None,
    output_dir: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    device: str | None = None,
    seed: int | None = None,
    auto: bool = False,
    update: Iterable[str] = (),
) -> Run:
    """Train a detector, as ``isdfine train`` does.

    Ctrl-C (a notebook's stop button) ends it after the step under way and saves everything; ``resume`` goes on from
    there to the same bits. It works in scripts without ``if __name__ == "__main__"``, and under torchrun, where every
    rank calls it. Afterwards random generators, signal handlers and logging are what they were before.

    Args:
        config: YAML file, name of one in the package (``dfine_hgnetv2_s_coco.yml``), or a loaded config.
        data: folder of a data set; layout, parts and classes are found, and a fifth of the images becomes validation
            data where there is none. None = what the config says.
        weights: checkpoint, or name of published weights, from whose fitting weights the run starts, class heads by
            name. Not with ``resume``.
        epochs: passes over the training data, 1 or more; the schedule of the config moves along.
        output_dir: folder of checkpoints, logs and pictures. One run, one folder.
        resume: checkpoint, or folder of a run, to continue.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None = a GPU where there is one.
        seed: of weights, data order, augmentation and denoising.
        auto: choose batch, loader workers and prefetch for this machine.
        update: any keys of the config, as ``-u`` takes them: ``["optimizer.lr=1e-4", "print_freq=10"]``.

    Raises:
        ConfigError, DataError, CheckpointError: a mistake in config, data or weights, in one message.
        NonFiniteError: a loss that is not finite, by name.
        KeyboardInterrupt: Ctrl-C; what was done so far is saved. SIGTERM does the same and raises SystemExit(143).
    """
    try:
        with session():
            named = {"epochs": epochs, "output_dir": output_dir, "resume": resume, "tuning": weights}
            texts = overrides(update, data, **named, device=device, seed=seed)
            loaded = isdfine.load_config(config, texts)
            with group(loaded, f"train, auto={auto}"):
                return _trained(loaded, auto=auto)
    except StopTraining as stop:
        reason = f"{stop}; go on with resume={loaded.settings.output_dir!r}"
        code = stop.exit_code
    if code == INTERRUPTED:  # outside the handler, whose traceback keeps what the step held
        raise KeyboardInterrupt(reason)
    raise SystemExit(code)


def _trained(config: Config, *, auto: bool) -> Run:
    run = prepare(config, auto=auto)
    try:
        if run.finished:
            logger.warning("nothing to train: %s is finished; give more epochs to go on", run.resumed_from)
        result = complete(run)
    finally:
        run.train_loader.close()
        run.val_loader.close()
    return Run(run.folder.path, result, run.progress.epoch)


def prepare(config: Config, *, auto: bool = False, say: Callable[[str], None] = logger.info) -> Training:
    """A run that is ready to begin or to go on.

    Args:
        config: with what it starts from (``resume``, ``tuning``).
        auto: choose batch, loader workers and prefetch for this machine; ``say`` is told why.
    """
    config.require(*NEEDED_TO_TEST, "criterion", "optimizer", "train_dataloader")
    settings = config.settings
    if auto:
        chosen = auto_tune(config, keep_batch=settings.resume is not None)
        if dist.is_main():
            say("\n".join(chosen.lines))
        run = Training(chosen.config, train_data=chosen.train_data)
    else:
        run = Training(config)
    if settings.resume:
        run.resume(settings.resume)
    elif settings.tuning:
        run.tune_from(settings.tuning)
    if not auto and not run.finished:  # auto has measured it
        check_memory(run)
    return run


def complete(run: Training, *, exits: bool = False) -> EvalResult:
    """Train to the end, and draw detections of the best weights on validation images beside the ground truth.

    Memory that runs out becomes one line with the batch that should fit.

    Args:
        exits: whether a second signal ends the process.
    """
    try:
        result = fit.fit(run, exits=exits)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        if dist.is_main():
            _draw(run)
        return result
    raise out_of_memory(run)  # outside the handler, whose traceback keeps what the step held


def _draw(run: Training) -> None:
    run.folder.pictures.mkdir(exist_ok=True)
    for image_id, detections in run.sample_detections(run.settings.num_visualized, run.judged_model):
        truth = run.val_loader.dataset.ground_truth(image_id)
        save_comparison(run.folder.pictures / f"{image_id}_{truth.path.stem}.png", truth, detections, run.label_space)


def evaluate(
    checkpoint: str | Path | Run,
    data: str | Path | None = None,
    *,
    config: str | Path | Config | None = None,
    device: str | None = None,
    update: Iterable[str] = (),
) -> EvalResult:
    """Judge a checkpoint on validation data, as ``isdfine val`` does.

    Args:
        checkpoint: file, folder of a run (its last one), or a :class:`Run` (its best one).
        data: folder of a data set, whose validation part is taken; None = what the config says.
        config: of the run, for files that carry none (the official ones); it wins over the file's own.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None = a GPU where there is one.
        update: any keys of the config, as ``-u`` takes them.

    Returns:
        Metrics: ``stats`` by name, ``per_class``, ``table()``.

    Raises:
        ConfigError, DataError, CheckpointError: a mistake in config, data or weights, in one message.
    """
    path = checkpoint.best if isinstance(checkpoint, Run) else checkpoint
    with session():
        if config is None:
            config = checkpoint.config if isinstance(checkpoint, Run) else config_of(path)
        loaded = isdfine.load_config(config, overrides(update, data, resume=path, device=device))
        with group(loaded, "evaluate"):
            return judge(loaded)


def config_of(path: str | Path) -> Config:
    """The config that a checkpoint was trained with, or the newest one of a folder.

    Raises:
        ConfigError: it holds none, or one that imports modules.
    """
    saved = open_checkpoint(path).config
    if saved is None:
        raise ConfigError(f"{path}: holds no config: give the YAML file it was trained with (-c, config)")
    if names := saved.get(IMPORTS):
        raise ConfigError(
            f"{path}: its config imports {names}, and code is not run because a weights file says so: if you trust it, "
            "give the YAML file of the run, such as the config.yml beside it (-c, config)"
        )
    file = Path(path, "config.yml") if Path(path).is_dir() else Path(path)  # in its own folder the schedule stays
    return Config(locate(saved, str(path)), str(file))


def judge(config: Config) -> EvalResult:
    """Metrics of the checkpoint that a config names (``resume``, or ``tuning``)."""
    checkpoint = config.settings.resume or config.settings.tuning
    if checkpoint is None:
        raise ConfigError("an evaluation needs a checkpoint: give it with -r")
    config.require(*NEEDED_TO_TEST)
    run = Evaluation(config)
    run.load(checkpoint)
    try:
        return run.evaluate(on_batch=dist.moved)
    finally:
        run.val_loader.close()
