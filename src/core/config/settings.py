# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: what is neither a model, nor data, nor an optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Top-level keys of a config that steer the run. Names that official D-FINE files use keep their spelling.

    Raises:
        ConfigError: values out of range, all of them in one message.
    """

    task: Literal["detection"] = "detection"
    """What is trained. Only detection exists; the key stands in every official file."""

    output_dir: str = "./output"
    """Folder of checkpoints, logs and pictures, relative to the working folder. One run, one folder."""

    seed: int | None = 0
    """Start of every random stream, 0 or more. 0 as the official launches use; None is read as 0."""

    epoches: int = 72
    """Passes over the training data, 1 or more. 72 is the official base schedule (6x)."""

    clip_max_norm: float = 0.0
    """Largest global gradient norm, 0 = no clipping. The D-FINE recipe sets 0.1; 0 changes nothing by itself."""

    use_amp: bool = False
    """Mixed precision. Off by default because it changes numbers."""

    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Arithmetic of the forward pass. None: fp16 where ``use_amp`` is set and a GPU is used, else fp32 (official)."""

    eval_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network in evaluations, ``--test-only`` included; boxes and scores are float32 in any case.
    fp32 as official. fp16 moved the AP of the quickstart's checkpoint by 0.03 points, bf16 by 0.2 (on its 24 training
    pages) to 0.5 (on 8 others)."""

    channels_last: bool | None = None
    """Keep the channels of a pixel together in memory: the same numbers up to rounding. None: on a CPU, where a step of
    D-FINE-N took a fifth less and one of S no longer; not on a GPU, where it can pay in mixed precision."""

    compile: bool | Literal["reduce-overhead"] = False
    """Compile backbone and encoder with ``torch.compile`` for training, once for each size of images (multi-scale: up
    to 13, a minute or more each). What depends on the number of boxes stays eager. Where it fails, the run goes on
    without. ``reduce-overhead`` records CUDA graphs of them as well, where torch can (images of one size, no
    accumulation; not tried on a GPU yet)."""

    use_ema: bool = False
    """Evaluate and keep the moving average of the weights (section ``ema``)."""

    sync_bn: bool = False
    """Batch statistics over all processes. Matters below about 8 images per process."""

    find_unused_parameters: bool = False
    """Handed to DistributedDataParallel. Every parameter of our models is used, so the search only costs time."""

    print_freq: int = 100
    """Steps between log lines, 1 or more. 100 as official: a line about every half minute on one GPU."""

    checkpoint_freq: int = 12
    """Epochs between numbered checkpoints, 1 or more; best and last are always kept. 12 as official."""

    accumulate_steps: int = 1
    """Batches whose gradients are added before an optimiser step, 1 or more."""

    eval_every: int = 1
    """Epochs between evaluations, 1 or more; the last epoch is always evaluated. 1 as official."""

    save_every: int = 1
    """Epochs between saves of the last checkpoint, 1 or more; the last epoch and signals always save. 1 as official."""

    save_every_steps: int | None = None
    """Extra saves of the last checkpoint inside epochs, in batches, 1 or more; None = none."""

    freeze: dict[str, Any] | None = None
    """What is frozen at first: ``{backbone: {steps: 2000}}`` (or ``epochs``; ``stages: k`` for the stem and the first k
    stages only, for ever where no steps follow; ``warmup``: steps of its learning rate's rise, 500). None: nothing."""

    early_stop: dict[str, Any] | None = None
    """End a stage of training that no longer helps: ``{patience: 20, min_delta: 0.001, metric: AP}``. After
    ``patience`` evaluations in a row (1 or more) without one above the best before them by more than ``min_delta``
    (0 or more, of metrics from 0 to 1; default 0), stage two begins at once, or the run ends where that has begun or
    there is none. ``metric`` is any of an evaluation; default AP, by which the best weights are chosen. None: never."""

    device: str | None = None
    """``cpu``, ``cuda`` or ``cuda:0``; None = a GPU where there is one."""

    resume: str | None = None
    """Checkpoint to continue from: weights, optimiser, schedule, random state and position in the data."""

    tuning: str | None = None
    """Checkpoint whose fitting weights start a new run (fine-tuning)."""

    tuning_classes: str | None = None
    """Whose classes the rows of ``tuning`` are, where the file does not say: coco, coco_91, objects365, objects365_366,
    voc, or a file with names. None: a list of as many classes that holds all of the data's, or is held by them, is
    assumed; else rows are taken as they are if they are as many as the data's classes, else start anew."""

    teacher: dict[str, Any] | None = None
    """A trained detector from which ``distillers`` with a teacher learn (docs/distillation.md): ``{checkpoint: FILE}``,
    and as wanted ``config`` (for files that carry none), ``classes`` (a list of names as for ``tuning_classes``),
    ``precision`` (fp32, bf16 or fp16), ``resize`` ([height, width] of the images it sees), ``alpha`` and ``beta``
    (factors of its losses and of all others, 1), ``allow_no_gt`` (lets beta be 0), ``cache`` (``{folder, views,
    gigabytes}``: keep its answers). None: no teacher."""

    class_synonyms: str | None = None
    """YAML file with groups of class names that mean the same, for ``tuning``; None = the table of the package."""

    max_pixels: int | None = None
    """Largest image that is decoded, 1 or more; None = Pillow's limit against decompression bombs, 178,956,970."""

    num_visualized: int = 8
    """Validation pictures drawn at the end, 0 or more. 8 fit one screen."""

    tensorboard: bool = True
    """Whether TensorBoard may be among the writers: False leaves it out, of the usual ones too."""

    diagnostics: bool = True
    """Write overlaps, divergences and entropies of the decoder layers with every log line (``diagnostics/...``)."""

    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite stops the run (naming the term) or skips that step."""

    memory_forecast: bool | None = None
    """Measure before training whether the batch fits at the largest size, and stop if it does not. None: on GPUs, where
    it takes a second or two; on a CPU it would take as long as two small steps or more, so there a forward pass of an
    image or two finds what cannot fit. False: neither."""

    ema_restart_effective: bool = True
    """Whether stage two's EMA decay takes effect. The official code sets it in vain; False reproduces that."""

    def __post_init__(self) -> None:
        if self.seed is None:  # what official configs mean by leaving it out
            object.__setattr__(self, "seed", 0)
        problems = range_problems(**asdict(self))
        if problems:
            raise ConfigError("\n".join(f"{name}: {text}" for name, text in problems.items()))

    def keeps_channels_last(self, device_type: str) -> bool:
        """Whether a run keeps channels innermost on a kind of device (``cpu``, ``cuda``), in evaluations too."""
        return device_type == "cpu" if self.channels_last is None else self.channels_last

    def training_precision(self, device_type: str) -> str:
        """Name of what training computes in on a kind of device (``cpu``, ``cuda``)."""
        return self.precision or ("fp16" if self.use_amp and device_type == "cuda" else "fp32")


_AT_LEAST = {
    "seed": 0,
    "epoches": 1,
    "clip_max_norm": 0,
    "print_freq": 1,
    "checkpoint_freq": 1,
    "accumulate_steps": 1,
    "eval_every": 1,
    "save_every": 1,
    "save_every_steps": 1,
    "max_pixels": 1,
    "num_visualized": 0,
}


def range_problems(**values: object) -> dict[str, str]:
    """Settings outside their range, by name, with what was expected; values of the right type are assumed."""
    problems = {
        name: f"expected {least} or more, found {values[name]!r}"
        for name, least in _AT_LEAST.items()
        # `not >=` also catches NaN
        if isinstance(values.get(name), (int, float)) and not values[name] >= least  # type: ignore[operator]
    }
    if isinstance(seed := values.get("seed"), int) and seed >= 2**63:
        problems["seed"] = f"expected a number below 2**63, found {seed}"
    for name in ("output_dir", "resume", "tuning"):
        if values.get(name) == "":  # -r "$CHECKPOINT" without such a variable would start anew
            problems[name] = "expected a path, found an empty text"
    if (problem := freeze_problem(values.get("freeze"))) is not None:
        problems["freeze"] = problem
    if (problem := early_stop_problem(values.get("early_stop"))) is not None:
        problems["early_stop"] = problem
    if (problem := teacher_problem(values.get("teacher"))) is not None:
        problems["teacher"] = problem
    if values.get("resume") and values.get("tuning"):
        problems["tuning"] = (
            f"set together with resume ({values['resume']!r}): resume continues a run, tuning starts one; keep one"
        )
    return problems


_EXAMPLE = "write freeze: {backbone: {steps: 2000}}"
_LEAST = {"steps": 1, "epochs": 1, "stages": 0, "warmup": 0}


@dataclass(frozen=True)
class FreezePlan:
    """Which part of the backbone is frozen, and how long."""

    stages: int | None = None
    """The stem and this many stages; None = the whole backbone."""
    steps: int | None = None
    """Optimizer steps; with None and no ``epochs`` the part never trains."""
    epochs: int | None = None
    """The same in epochs."""
    warmup: int = 500
    """Steps after that over which the learning rate of what was frozen rises linearly from 0; 0 for none."""

    @classmethod
    def of(cls, setting: Mapping[str, Any] | None) -> FreezePlan | None:
        """From a setting in which :func:`freeze_problem` finds nothing; None where nothing is frozen."""
        return cls(**setting["backbone"]) if setting and setting.get("backbone") is not None else None

    def until(self, steps_per_epoch: int) -> int | None:
        """The first step that trains everything; None = none does."""
        return self.epochs * steps_per_epoch if self.epochs is not None else self.steps


def freeze_problem(setting: object) -> str | None:
    """What is wrong with a value of ``freeze``, and what to write instead; None where it is fine."""
    if setting is None:
        return None
    if not isinstance(setting, Mapping):
        return f"expected a mapping, found {setting!r}: {_EXAMPLE}"
    for part in setting:
        if part == "trigger":
            return "trigger is not available: the backbone is frozen as long as steps or epochs say; remove it"
        if part != "backbone":
            return f"no part {part!r} can be frozen: {_EXAMPLE}"
    backbone = setting.get("backbone")
    if backbone is None:
        return None
    if not isinstance(backbone, Mapping) or not backbone:
        return f"backbone: expected a mapping with steps, epochs or stages, found {backbone!r}: {_EXAMPLE}"
    return _problem_of(backbone)


def _problem_of(backbone: Mapping[Any, Any]) -> str | None:
    for key, value in backbone.items():
        if key not in _LEAST:
            return f"backbone.{key}: no such key; known are {', '.join(_LEAST)}"
        if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[key]:
            return f"backbone.{key}: expected a whole number of {_LEAST[key]} or more, found {value!r}"
    ends = [key for key in ("steps", "epochs") if key in backbone]
    if len(ends) == 2:
        return "backbone: steps and epochs are both set: keep one of the two"
    if not ends and "stages" not in backbone:
        return f"backbone: say for how many steps or epochs, or how many stages never train: {_EXAMPLE}"
    if not ends and "warmup" in backbone:
        return "backbone.warmup follows steps or epochs: set one of them, or remove it"
    return None


@dataclass(frozen=True)
class EarlyStop:
    """When a stage of training ends before its last epoch."""

    patience: int
    """Evaluations in a row without an improvement, 1 or more."""
    min_delta: float = 0.0
    """An evaluation that is above the best one by no more than this is no improvement."""
    metric: str = "AP"
    """Of an evaluation; higher is better."""

    @classmethod
    def of(cls, setting: Mapping[str, Any] | None) -> EarlyStop | None:
        """From a setting in which :func:`early_stop_problem` finds nothing; None where nothing ends early."""
        return cls(**setting) if setting is not None else None


def early_stop_problem(setting: object) -> str | None:
    """What is wrong with a value of ``early_stop``, and what to write instead; None where it is fine."""
    example = "write early_stop: {patience: 20, min_delta: 0.001}"
    if setting is None:
        return None
    if not isinstance(setting, Mapping) or "patience" not in setting:
        return f"expected a mapping with patience, found {setting!r}: {example}"
    if odd := [key for key in setting if key not in ("patience", "min_delta", "metric")]:
        return f"{odd[0]}: no such key; known are patience, min_delta, metric"
    patience, min_delta, metric = setting["patience"], setting.get("min_delta", 0), setting.get("metric", "AP")
    if type(patience) is not int or patience < 1:
        return f"patience: expected a whole number of 1 or more, found {patience!r}"
    if type(min_delta) not in (int, float) or not 0 <= min_delta < 1:
        return f"min_delta: expected a number from 0 to below 1, in units of the metric, found {min_delta!r}"
    return None if isinstance(metric, str) else f"metric: expected the name of a metric such as AP, found {metric!r}"


@dataclass(frozen=True)
class TeacherPlan:
    """Whom a run learns from."""

    checkpoint: str
    """File or folder of a trained detector of any family."""
    config: str | None = None
    """YAML file of its run, for files that carry none."""
    classes: str | None = None
    """Name of a list, or a file, with its classes, for files that name none."""
    precision: str = "fp32"
    """Of its forward pass."""
    resize: Sequence[int] | None = None
    """(height, width) of the images that it sees; None: what the student sees."""
    alpha: float = 1.0
    """Factor of the losses of methods with a teacher."""
    beta: float = 1.0
    """Factor of all other losses."""
    allow_no_gt: bool = False
    """Whether beta may be 0."""
    cache: CachePlan | None = None
    """Where its answers are kept; None: it is asked at every step."""

    @classmethod
    def of(cls, setting: Mapping[str, Any] | None) -> TeacherPlan | None:
        """From a setting in which :func:`teacher_problem` finds nothing; None without a teacher."""
        if setting is None:
            return None
        cache = setting.get("cache")
        return cls(**{**setting, "cache": None if cache is None else CachePlan(**cache)})


@dataclass(frozen=True)
class CachePlan:
    """Where a teacher's answers are kept."""

    folder: str
    """Made where it is missing; runs may share it."""
    views: int
    """After how many epochs images are shown as before, 1 or more."""
    gigabytes: float = 50.0
    """Of the folder; what is more is answered anew each time."""


def cache_problem(setting: object) -> str | None:
    """What is wrong with a value of ``teacher.cache``, and what to write instead; None where it is fine."""
    known = [item.name for item in fields(CachePlan)]
    if not isinstance(setting, Mapping) or not {"folder", "views"} <= setting.keys() <= set(known):
        return f"expected a mapping with {', '.join(known)}, found {setting!r}: write {{folder: DIR, views: 4}}"
    folder, views, gigabytes = setting["folder"], setting["views"], setting.get("gigabytes", 1)
    if not isinstance(folder, str) or not folder:
        return f"folder: expected a path, found {folder!r}"
    if type(views) is not int or views < 1:
        return f"views: expected the epochs after which augmentation repeats, 1 or more, found {views!r}"
    if type(gigabytes) not in (int, float) or not 0 < gigabytes < math.inf:
        return f"gigabytes: expected a number above 0, found {gigabytes!r}"
    return None


def teacher_problem(setting: object) -> str | None:
    """What is wrong with a value of ``teacher``, and what to write instead; None where it is fine."""
    example = "write teacher: {checkpoint: FILE}"
    if setting is None:
        return None
    if not isinstance(setting, Mapping) or not isinstance(setting.get("checkpoint"), str):
        return f"expected a mapping with a checkpoint, found {setting!r}: {example}"
    known = [item.name for item in fields(TeacherPlan)]
    if odd := [key for key in setting if key not in known]:
        return f"{odd[0]}: no such key; known are {', '.join(known)}"
    if (cache := setting.get("cache")) is not None and (problem := cache_problem(cache)) is not None:
        return f"cache: {problem}"
    plan = TeacherPlan(**setting)
    if plan.precision not in ("fp32", "bf16", "fp16"):
        return f"precision: choose one of fp32, bf16, fp16, found {plan.precision!r}"
    if plan.resize is not None and not _two_sides(plan.resize):
        return f"resize: expected [height, width] in pixels, found {plan.resize!r}"
    for name, value in (("alpha", plan.alpha), ("beta", plan.beta)):
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            return f"{name}: expected a number of 0 or more, found {value!r}"
    if plan.beta == 0 and not plan.allow_no_gt:
        return "beta is 0: the student would not see its ground truth; set allow_no_gt: True if that is meant"
    return None


def _two_sides(size: object) -> bool:
    return isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
