# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The parts and the state of a training run; ``fit.py`` runs it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core import dist
from ..core.checkpoint import read_checkpoint
from ..core.checkpoint.weights import LoadReport, load_weights
from ..core.config import Config
from ..core.config.settings import EarlyStop
from ..core.errors import CheckpointError, ConfigError
from ..data.dataset.detection import DetectionDataset
from ..data.loader import DataLoader
from ..distill.objective import Objective
from ..load import Checkpoint, checkpoint_file, open_checkpoint
from ..nn.norm import convert_sync_batchnorm
from ..optim.ema import ModelEMA
from .callbacks import Callback
from .checkpoint import check_moments, rng_state, run_state, save_checkpoint, seed_everything, set_rng_state
from .folder import FolderLock, RunFolder
from .opening import introduce
from .progress import Progress, StagePlan
from .solver import Evaluation, check_classes, compare_data
from .speed import compile_for
from .trained import Trained, build_optim
from .tuning import ClassTables, tune
from .writers import writers_of

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1


class Training(Evaluation):
    """A run: model, data, optimiser and everything that is saved between steps.

    Args:
        config: a loaded config with all sections.
        train_data: the data set of ``train_dataloader``, where it was read already; None reads it.
    """

    def __init__(self, config: Config, *, train_data: DetectionDataset | None = None) -> None:
        self.folder = folder_of(config)  # before the data is read, which may take minutes
        self.class_tables = ClassTables.of(config.settings)
        self.resumed_from: Path | None = None
        self.tuned: LoadReport | None = None
        """What became of the checkpoint that the run started from."""
        self._folder_lock: FolderLock | None = None
        self.batch_shape: tuple[int, ...] | None = None
        """(B, 3, H, W) of the training step under way; None before the first one and in evaluations."""
        self.writers = writers_of(config)
        """On rank 0 ``fit`` opens them."""
        self.callbacks: list[Callback] = config.build("callbacks") if config.get("callbacks") is not None else []
        super().__init__(config)
        config, settings = self.config, self.settings
        given = {} if train_data is None else {"dataset": train_data}
        self.train_loader: DataLoader = config.build("train_dataloader", **given).to(self.device)
        compare_data("train_dataloader", self.train_loader.dataset)
        _check_loaders(self.train_loader, self.val_loader)
        if settings.sync_bn and dist.world_size() > 1:
            self.model = convert_sync_batchnorm(self.model, self.device).to(self.device)
        self.trained = Trained.of(config, self.model, self.device, self.label_space, self.train_loader)
        self.criterion: Objective = self.trained.objective
        self.plan = StagePlan.of(self.train_loader.collate_fn)
        self.optim, self.freeze = build_optim(config, self.trained, self.device, len(self.train_loader))
        self.base_decay = self.optim.ema.decay
        compile_for(config, self.model, self.device, self.train_loader.collate_fn)
        self.progress = Progress()
        self.early_stop = EarlyStop.of(settings.early_stop)
        if self.early_stop is not None and self.early_stop.metric not in self.evaluator.metrics:
            known = ", ".join(self.evaluator.metrics)
            raise ConfigError(f"early_stop.metric is {self.early_stop.metric!r}: choose one of {known}")
        introduce(self)
        # Each rank draws its own noise from here on; the weights above came from one seed.
        seed_everything((self.settings.seed or 0) + 1000 * dist.rank())

    @property
    def judged_model(self) -> nn.Module:
        """The weights that are evaluated and selected: the EMA where there is one."""
        return self.optim.ema.module

    def tune_from(self, path: str | Path) -> LoadReport:
        """Start from the weights that fit (``-t``), class heads by class name; the EMA starts there too.

        The report is logged; ``fit`` writes it to ``load_report.json`` in the run's folder.
        """
        self.tuned = tune(self.model, open_checkpoint(path), self.label_space, self.class_tables)
        if isinstance(self.optim.ema, ModelEMA):
            self.optim.ema.module.load_state_dict(self.model.state_dict())
        return self.tuned

    def resume(self, path: str | Path) -> None:
        """Continue where a checkpoint stands (``-r``); ``path`` is a file or the folder of a run.

        Raises:
            CheckpointError: not a training checkpoint, of another model, or of other classes.
        """
        if _continues_in(self.folder, path):
            self.claim_folder()  # before the state is read: a run that goes on would write a newer one
        file, state = run_state(path)
        check_classes(Checkpoint(file, "state of a run", state["model"], file, state), self.label_space)
        self._load_weights(state, file)
        self._load_optim(state, file)
        self.resumed_from = file.parent
        self.progress = Progress.from_dict(state["progress"])
        if self.progress.batch > len(self.train_loader):
            raise CheckpointError(
                f"{file} stands at batch {self.progress.batch} of an epoch, which has {len(self.train_loader)} batches "
                "here: resume with the data and the batch size of the run"
            )
        if len(state["rng"]) != dist.world_size():
            logger.warning(
                "%s was written by %d process(es), this run has %d: it continues, but not bit-identically",
                file, len(state["rng"]), dist.world_size(),
            )  # fmt: skip
        else:
            set_rng_state(state["rng"][dist.rank()])
        logger.info("resumed %s: epoch %d, batch %d", file, self.progress.epoch, self.progress.batch)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, as after resuming a run that came to its end, where the last checkpoint is."""
        complete = self.resumed_from is None or RunFolder(self.resumed_from).last.exists()
        return (self.progress.epoch >= self.settings.epoches or self.ends_early) and complete

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the stage that the run stands in, between two epochs."""
        early, progress = self.early_stop, self.progress
        return early is not None and progress.batch == 0 and progress.waiting.evaluations >= early.patience

    @property
    def ends_early(self) -> bool:
        """Whether that stage is the last one."""
        return self.out_of_patience and not self.plan.lies_ahead(self.progress.epoch, self.settings.epoches)

    def _load_weights(self, state: dict[str, Any], file: Path) -> None:
        """Of the model, and of what is trained beside it; checkpoints hold the latter since version 0.2."""
        load_weights(self.model, state["model"])
        saved, own = state.get("objective", {}), self.criterion.state_dict()
        if odd := sorted(saved.keys() ^ own.keys()) or [key for key in own if saved[key].shape != own[key].shape]:
            raise CheckpointError(
                f"{file} holds {len(saved)} weights of criterion and distillers, this run has {len(own)}; they differ "
                f"in {odd[0]}: resume with the config.yml beside it, or start a run from its model with -t"
            )
        self.criterion.load_state_dict(saved)

    def _load_optim(self, state: dict[str, Any], file: Path) -> None:
        groups = self.optim.optimizer.param_groups
        wanted = [{key: group[key] for key in _GROUP_OPTIONS if key in group} for group in groups]
        try:
            self.optim.load_state_dict(state["optim"])
            check_moments(self.optim.optimizer, file)
        except CheckpointError:
            raise
        except (LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(
                f"{file} does not fit this run's optimiser or EMA ({error}): resume with the config.yml beside it"
            ) from error

        _lay_out_as_weights(self.optim.optimizer)
        for group, options in zip(self.optim.optimizer.param_groups, wanted):
            changed = {key: (group[key], value) for key, value in options.items() if group[key] != value}
            for key, (old, new) in changed.items():
                logger.warning("%s of group %r was %s in %s, this run sets %s", key, group.get("name"), old, file, new)
            group.update(options)

    @property
    def saved_config(self) -> Config:
        """The resolved config as it is saved: without the checkpoint this process started from."""
        return self.config.with_values({"resume": None, "tuning": None, "tuning_classes": None})

    @property
    def config_text(self) -> str:
        """The same as YAML."""
        return self.saved_config.dump()

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint, about: weights, their average, two moments."""
        weights: dict[str, Tensor] = self.model.state_dict()
        return 4 * sum(tensor.nbytes for tensor in weights.values())

    def claim_folder(self) -> None:
        """Keep other processes from writing into the run's folder, by the main rank.

        Raises:
            ConfigError: another process does already, another run has been saved there meanwhile, or it cannot be
                written.
        """
        if dist.is_main() and self._folder_lock is None:
            self._folder_lock = FolderLock(self.folder)
            if not _continues_in(self.folder, self.settings.resume):
                self.folder.check_free()

    def check_folder(self, step: int) -> None:
        """Raise :class:`CheckpointError` where the folder was deleted or moved since it was claimed."""
        if self._folder_lock is not None:
            self._folder_lock.check(step)

    def release_folder(self) -> None:
        """Let others write into the run's folder."""
        if self._folder_lock is not None:
            self._folder_lock.release()
            self._folder_lock = None

    def bring_best(self) -> None:
        """A run that goes on in another folder takes its best checkpoints along.

        Raises:
            CheckpointError: the best checkpoint is not beside the one that was resumed.
        """
        source = self.resumed_from
        if source is None or self.progress.best.best is None:
            return
        for path in (self.folder.best, self.folder.best_stage_one):
            beside = source / path.name
            if not path.exists() and beside.exists():
                shutil.copyfile(beside, path)
        if not self.folder.best.exists():
            raise CheckpointError(
                f"{source / self.folder.best.name} is missing: the best of the run (AP "
                f"{100 * self.progress.best.best:.1f}) must lie beside the checkpoint that is resumed; put it back, "
                "or start a new run with -t"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; called on all ranks (each adds its random state)."""
        optim, beside = self.optim.state_dict(), self.criterion.state_dict()
        return {
            "format": CHECKPOINT_FORMAT,
            "model": self.model.state_dict(),
            **({"objective": beside} if beside else {}),
            "ema": optim["ema"],  # where official tools look for weights; the same tensors, stored once
            "optim": optim,
            "progress": self.progress.to_dict(),
            "rng": dist.gather_objects(rng_state()),
            "label_space": self.label_space.to_dict(),
            "config": self.config_text,
        }

    def save(self, *paths: Path) -> None:
        """Write the present state to every path, atomically, by the main rank."""
        state = self.state_dict()
        with dist.busy("saving"):
            if dist.is_main():
                self.check_folder(self.progress.step)
                for path in paths:
                    save_checkpoint(state, path)
            dist.barrier()

    def restart_from_stage_one(self) -> None:
        """Load the best weights of stage one, with their optimiser and EMA, and lower the EMA decay.

        The epoch and the schedule go on: only weights and their statistics go back.
        """
        if self.progress.best.best is None:
            raise CheckpointError(
                "stage two starts from the best checkpoint of stage one, but no evaluation gave an AP: the validation "
                "data holds no box; set train_dataloader.collate_fn.stop_epoch to null, or give boxes to evaluate on"
            )
        if not self.folder.best_stage_one.is_file():
            raise CheckpointError(
                f"{self.folder.best_stage_one} is missing: stage two starts from the best checkpoint of stage one; "
                "put it back, or turn the second stage off with -u train_dataloader.collate_fn.stop_epoch=null"
            )
        state = read_checkpoint(self.folder.best_stage_one)
        self._load_weights(state, self.folder.best_stage_one)
        schedule = self.optim.schedule.state_dict()
        self._load_optim({"optim": {**state["optim"], "schedule": schedule}}, self.folder.best_stage_one)
        decay = self.base_decay
        if self.settings.ema_restart_effective:
            decay = (self.plan.restart_decay or decay) - self.progress.best.resets * self.plan.decay_step
        self.optim.ema.set_decay(decay)
        logger.info("back to the best weights of stage one, EMA decay %.5f", decay)


def _lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give moments the memory layout of their weights: fused optimisers go through both as if they had one layout.

    A checkpoint may come from a run with another ``channels_last``.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


_GROUP_OPTIONS = ("weight_decay", "betas", "eps", "momentum", "amsgrad", "nesterov", "dampening")
"""What a parameter group says beside its learning rate, which the schedule writes."""


def folder_of(config: Config) -> RunFolder:
    """Where a run writes.

    Raises:
        ConfigError, CheckpointError: another run is there, or what this one shall start from is not.
    """
    folder = RunFolder(Path(config.settings.output_dir))
    if config.settings.tuning is not None:
        checkpoint_file(config.settings.tuning)
    if not _continues_in(folder, config.settings.resume):
        folder.check_free()
    else:
        folder.check_idle()
    return folder


def _continues_in(folder: RunFolder, resume: str | Path | None) -> bool:
    return resume is not None and checkpoint_file(resume).resolve().parent == folder.path.resolve()


def _check_loaders(train: DataLoader, val: DataLoader) -> None:
    if dist.world_size() > 1 and not train.even:
        raise ConfigError(
            "train_dataloader: with several processes set shuffle: True or drop_last: True; otherwise ranks would have "
            "different numbers of batches and wait for each other forever"
        )
    ours, theirs = train.dataset.label_space, val.dataset.label_space
    if ours.names != theirs.names:  # ids may differ: YOLO counts from 0, the COCO file of the same data from 1
        raise ConfigError(
            f"train_dataloader has the classes {ours.describe()}, val_dataloader {theirs.describe()}: "
            "both must have the same names in the same order"
        )
