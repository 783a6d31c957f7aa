# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Writers to services that keep runs: Weights & Biases and MLflow. A resumed run goes on with its run there."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import dist
from ..core.config.node import leaves
from ..core.errors import ConfigError
from ..core.extras import need
from ..core.registry import register
from .folder import RunFolder
from .progress import Progress
from .writers import Writer


def _known(file: Path, progress: Progress) -> str | None:
    """Name of the run there that this one goes on with; a run from its start has none."""
    return file.read_text(encoding="utf-8").strip() if progress.step and file.is_file() else None


@register
class WandB(Writer):
    """Weights & Biases: a run with the config, ``<kind>/<name>`` over ``<kind>/step``, and the best AP in its summary.

    Its files lie in the run's folder, its id in ``wandb_run_id.txt`` there.

    Args:
        project: at W&B.
        options: further arguments of ``wandb.init``: entity, name (the folder's by default), group, tags, mode, ...

    Raises:
        ConfigError: wandb is not installed, or knows no account and is to be online.
    """

    def __init__(self, project: str = "isdfine", **options: Any) -> None:
        self._wandb = need("wandb", "log")
        self._options = {"project": project, **options}
        online = (options.get("mode") or os.environ.get("WANDB_MODE") or "online") in ("online", "shared")
        if online and dist.is_main() and not self._wandb.login(prompt=False, verify=False):
            raise ConfigError("W&B knows no account here: run `wandb login`, or set WANDB_MODE=offline")

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Begin a run, or go on with that of the folder; nothing comes twice as far as W&B says what it has."""
        file = folder.path / "wandb_run_id.txt"
        options = {"dir": str(folder.path), "name": folder.path.name, "config": dict(config), **self._options}
        if (known := _known(file, progress)) is not None:
            options |= {"id": known, "resume": "allow"}
        self._run = self._wandb.init(**options)
        folder.write(file, self._run.id)
        self.view = self._run.url or ""
        kinds = ("train", "diagnostics", "val")
        self._done = {kind: self._run.summary.get(f"{kind}/step", 0) for kind in kinds}
        for kind in kinds:
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        self._run.define_metric("val/AP", step_metric="val/step", summary="max")

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Log one row."""
        if step > self._done.get(kind, 0):
            row = {**values, "epoch": epoch, "step": step}
            self._run.log({f"{kind}/{name}": value for name, value in row.items()})

    def close(self, *, failed: bool = False) -> None:
        """Wait until everything is uploaded."""
        self._run.finish(exit_code=int(failed))


@register
class MLflow(Writer):
    """MLflow: a run with the config as parameters and the metrics ``<kind>/<name>``.

    Its id lies in ``mlflow_run_id.txt`` in the run's folder.

    Args:
        experiment: made where there is none of the name.
        run_name: the folder's by default.
        tracking_uri: address of a server, or a folder; None = ``MLFLOW_TRACKING_URI``, else the folder ``mlruns``.

    Raises:
        ConfigError: mlflow is not installed.
    """

    def __init__(
        self, experiment: str = "isdfine", run_name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        # newer versions of MLflow refuse folders without this, and mlflow-skinny cannot do anything else
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._mlflow, self._entities = need("mlflow", "log"), need("mlflow.entities", "log")
        self._experiment, self._name = experiment, run_name
        self._uri = tracking_uri or (None if self._mlflow.is_tracking_uri_set() else "mlruns")

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        """Begin a run, or go on with that of the folder, where nothing comes twice."""
        self._client = client = self._mlflow.MlflowClient(self._uri)
        file, self._done = folder.path / "mlflow_run_id.txt", dict[str, int]()
        if (known := _known(file, progress)) is not None:
            self._id = client.get_run(known).info.run_id
            client.update_run(self._id, status="RUNNING")
            for kind in ("train", "diagnostics", "val"):
                past = client.get_metric_history(self._id, f"{kind}/epoch")
                self._done[kind] = max((metric.step for metric in past), default=0)
            return
        found = client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._experiment)
        self._id = client.create_run(experiment, run_name=self._name or folder.path.name).info.run_id
        folder.write(file, self._id)
        parameters = [self._entities.Param(key, str(value)) for key, value in leaves(config)]
        for first in range(0, len(parameters), 100):  # what a request may hold
            client.log_batch(self._id, params=parameters[first : first + 100])

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        """Log one batch of metrics."""
        if step > self._done.get(kind, 0):
            now = int(1000 * time.time())
            row = {**values, "epoch": epoch}
            metrics = [self._entities.Metric(f"{kind}/{name}", value, now, step) for name, value in row.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool = False) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
