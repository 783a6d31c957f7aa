# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of each decoder layer's own boxes: what self-distillation is meant to lift in the early layers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.command import write_json
from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError
from ..nn.padding import image_sizes_of
from ..nn.types import Want
from ..solver.solver import Evaluation

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class LayerResults:
    """Metrics of each decoder layer of one checkpoint."""

    answers: int
    """Index of the layer that answers in eval mode."""
    parameters: int
    """Of the model as it is trained."""
    stats: tuple[dict[str, float], ...]
    """One per layer, first to last: metrics as an evaluation reports them, fractions in [0, 1]."""


def layer_metrics(config: Config, checkpoint: Path) -> LayerResults:
    """Evaluate the boxes and scores of every decoder layer, as if each were the one that answers.

    Every layer has its own heads, trained by the auxiliary losses. One pass over the validation data serves all.

    Args:
        config: of the run.
        checkpoint: its EMA weights are judged where it has them, as an evaluation in training does.

    Raises:
        ConfigError: a decoder without layers of its own, or trained without auxiliary losses.
    """
    run = Evaluation(config.with_values({"resume": str(checkpoint), "tuning": None}))
    run.load(checkpoint)
    model = run.model.eval()
    answers, depth = answering_layer(model)
    evaluators = [run.config.build("evaluator", dataset=run.val_loader.dataset) for _ in range(depth)]
    with torch.inference_mode():
        for images, targets in run.val_loader:
            sizes_hw = torch.stack([target["orig_size"] for target in targets])
            output = model(images, **image_sizes_of(targets), want=Want(layers=True))
            for evaluator, predictions in zip(evaluators, output.layers, strict=True):
                evaluator.update(run.postprocessor(predictions, sizes_hw.flip(-1)), targets)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return LayerResults(answers, parameters, tuple(evaluator.summarize().stats for evaluator in evaluators))


def answering_layer(model: nn.Module) -> tuple[int, int]:
    """Index of the decoder layer that answers in eval mode, and how many layers there are.

    Raises:
        ConfigError: see ``layer_metrics``.
    """
    decoder: Any = getattr(model, "decoder", None)
    index = getattr(decoder, "eval_idx", None)
    if not isinstance(index, int) or not hasattr(decoder, "layers"):
        raise ConfigError(
            f"{type(model).__name__} has no decoder whose layers can answer one by one (decoder.eval_idx)"
        )
    if not getattr(decoder, "aux_loss", True):
        raise ConfigError("the decoder was trained with aux_loss: False: its early layers have no trained heads")
    return index, len(decoder.layers)


def cached_layers(config: Config, checkpoint: Path, cache: Path) -> LayerResults:
    """:func:`layer_metrics`, or what it found before for the same checkpoint file.

    Args:
        config, checkpoint: of the run.
        cache: JSON file beside it.

    Raises:
        CheckpointError: there is neither the checkpoint nor a cache.
    """
    known = known_layers(checkpoint, cache)
    if known is not None:
        return known
    mark = _mark(checkpoint)
    if mark is None:
        raise CheckpointError(f"{checkpoint} is gone: AP over layers is measured from it")
    logger.info("AP of each decoder layer of %s", checkpoint)
    measured = layer_metrics(config, checkpoint)
    write_json(cache, {"of": mark, **asdict(measured)})
    return measured


def known_layers(checkpoint: Path, cache: Path) -> LayerResults | None:
    """What was measured before of the same checkpoint file, or of one that was deleted since; None where nothing was.

    Raises:
        ConfigError: the file of results cannot be read.
    """
    if not cache.is_file():
        return None
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        measured = LayerResults(known["answers"], known["parameters"], tuple(known["stats"]))
        return measured if _mark(checkpoint) in (None, known["of"]) else None
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{cache}: cannot be read ({error}): delete it, and it is measured again") from error


def _mark(checkpoint: Path) -> dict[str, Any] | None:
    """What tells one checkpoint file from another; None where there is none."""
    if not checkpoint.is_file():
        return None
    status = checkpoint.stat()
    return {"format": FORMAT, "name": checkpoint.name, "bytes": status.st_size, "modified": status.st_mtime_ns}


def values_by_layer(results: Sequence[LayerResults], metric: str) -> list[list[float]]:
    """One list per layer with the values of all runs.

    Raises:
        ConfigError: the runs have different numbers of layers.
    """
    depths = {len(layers.stats) for layers in results}
    if len(depths) > 1:
        raise ConfigError(f"runs of one variant have {sorted(depths)} decoder layers: rerun those of another model")
    return [[layers.stats[index][metric] for layers in results] for index in range(depths.pop() if depths else 0)]
