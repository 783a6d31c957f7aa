# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of each decoder layer's own boxes: what self-distillation is meant to lift in the early layers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isdfine.core.config import Config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.core.files import whole_file
from isdfine.data.evaluate import EvalResult
from isdfine.solver.evaluate import detect
from isdfine.solver.solver import Evaluation

logger = logging.getLogger(f"isdfine.{__name__}")

_SHARED = ("backbone", "encoder")
"""Parts in front of the decoder: computed once for all layers of a batch."""
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


def layer_metrics(config: Config, checkpoint: Path) -> tuple[list[EvalResult], Evaluation]:
    """Evaluate the boxes and scores of every decoder layer, as if each were the one that answers.

    Every layer has its own heads, trained by the auxiliary losses; layer i is judged by running the decoder up to it
    (``eval_idx`` = i). One pass over the validation data serves all layers.

    Args:
        config: of the run.
        checkpoint: its EMA weights are judged where it has them, as an evaluation in training does.

    Returns:
        One result per layer, first to last, and the evaluation that made them.

    Raises:
        ConfigError: a decoder without layers of its own, or trained without auxiliary losses.
    """
    run = Evaluation(config.with_values({"resume": str(checkpoint), "tuning": None}))
    run.load(checkpoint)
    decoder = refinement(run.model)
    own = decoder.eval_idx
    evaluators = [run.config.build("evaluator", dataset=run.val_loader.dataset) for _ in decoder.layers]
    kept = _Kept(run.model.eval())
    try:
        with torch.inference_mode():
            for images, targets in run.val_loader:
                kept.forget()
                for index, evaluator in enumerate(evaluators):
                    decoder.eval_idx = index
                    evaluator.update(detect(run.model, run.postprocessor, images, targets), targets)
        return [evaluator.summarize() for evaluator in evaluators], run
    finally:
        decoder.eval_idx = own
        kept.release()


def refinement(model: nn.Module) -> Any:
    """The module that runs the decoder layers and knows which one answers (``layers``, ``eval_idx``).

    Raises:
        ConfigError: there is none, or its early layers have no trained heads.
    """
    found = getattr(model, "decoder", None)
    if not isinstance(getattr(found, "eval_idx", None), int) or not hasattr(found, "layers"):
        raise ConfigError(
            f"{type(model).__name__} has no decoder whose layers can answer one by one (decoder.eval_idx)"
        )
    if not getattr(found, "aux_loss", True):
        raise ConfigError("the decoder was trained with aux_loss: False: its early layers have no trained heads")
    return found


class _Kept:
    """Lets the parts in front of the decoder answer from memory until told to forget; shapes and values are theirs."""

    def __init__(self, model: nn.Module) -> None:
        self._values: dict[str, Any] = {}
        self._parts = {name: part for name in _SHARED if isinstance(part := getattr(model, name, None), nn.Module)}
        for name, part in self._parts.items():
            part.forward = self._remembered(name, part.forward)

    def _remembered(self, name: str, forward: Any) -> Any:
        def answer(*arguments: Any, **named: Any) -> Any:
            if name not in self._values:
                self._values[name] = forward(*arguments, **named)
            return self._values[name]

        return answer

    def forget(self) -> None:
        """Before the next batch."""
        self._values.clear()

    def release(self) -> None:
        """Give the parts their own forward back."""
        for part in self._parts.values():
            del part.forward


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
    results, run = layer_metrics(config, checkpoint)
    found = LayerResults(
        refinement(run.model).eval_idx,
        sum(one.numel() for one in run.model.parameters()),
        tuple(one.stats for one in results),
    )
    content = {"of": mark, "answers": found.answers, "parameters": found.parameters, "stats": list(found.stats)}
    with whole_file(cache) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return found


def known_layers(checkpoint: Path, cache: Path) -> LayerResults | None:
    """What was measured before of the same checkpoint file, or of one that was deleted since; None where nothing was.

    Raises:
        ConfigError: the file of results cannot be read.
    """
    if not cache.is_file():
        return None
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        found = LayerResults(known["answers"], known["parameters"], tuple(known["stats"]))
        return found if _mark(checkpoint) in (None, known["of"]) else None
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
    depths = {len(one.stats) for one in results}
    if len(depths) > 1:
        raise ConfigError(f"runs of one variant have {sorted(depths)} decoder layers: rerun those of another model")
    return [[one.stats[index][metric] for one in results] for index in range(depths.pop() if depths else 0)]
