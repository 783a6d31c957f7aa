# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train, resume, fine-tune or evaluate a detector described by a YAML file.

isdfine train -c configs/quickstart.yml
isdfine train -c configs/quickstart.yml --auto    # batch, workers and prefetch for this machine
torchrun --nproc_per_node=4 -m isdfine train -c configs/dfine/dfine_hgnetv2_l_coco.yml -u output_dir=runs/l
"""

import argparse
import logging
import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import isdfine  # torch comes with the first thing that needs it, after the first line of the log

from ..core.command import INTERRUPTED, MISUSE, add_option, command_parser
from ..core.environment import setup_logging
from ..core.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RankError

if TYPE_CHECKING:
    from ..data.evaluate import EvalResult
    from ..solver.training import Training

logger = logging.getLogger("isdfine.train")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; the options that only set a config value are shorthands for -u."""
    parser = command_parser(__doc__)
    add_option(parser, "config", help="YAML file of the run; with -r it may be left out: the checkpoint holds its own")
    add_option(parser, "update", help="set any key of the config; lists and maps as YAML: 'a.b=[1, 2]'")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("-r", "--resume", help="checkpoint or run folder to continue (or to judge with --test-only)")
    start.add_argument(
        "-t",
        "--tuning",
        help="checkpoint, or name of published weights, whose fitting weights start a new run (class heads by name)",
    )
    parser.add_argument(
        "--tuning-classes",
        metavar="LIST",
        help="classes of a -t checkpoint that names none: coco, coco_91, objects365, objects365_366, voc, or a file",
    )
    parser.add_argument("--test-only", action="store_true", help="evaluate the checkpoint given with -r and end")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and end")
    parser.add_argument(
        "--data", metavar="FOLDER", help="data set; its layout (COCO, YOLO, VOC, ...), parts and classes are found"
    )
    parser.add_argument("--epochs", type=int, help="passes over the training data; the schedule moves along")
    add_option(parser, "device")
    parser.add_argument(
        "--seed", type=int, help="of weights, data order, augmentation and denoising (config key: seed)"
    )
    parser.add_argument("--use-amp", action="store_true", help="mixed precision")
    add_option(parser, "max_pixels")
    parser.add_argument("--output-dir", help="folder of the run: checkpoints, logs, pictures (config key: output_dir)")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="choose batch, loader workers and prefetch for this machine; what -u says of them stays",
    )
    options = parser.parse_args(arguments)
    if options.config is None and options.resume is None:
        parser.error("give a config with -c, or a checkpoint or run folder with -r")
    return options


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """All overrides as KEY=VALUE, the shorthands last."""
    from ..api.session import overrides

    given = ("resume", "tuning", "tuning_classes", "device", "seed", "epochs", "output_dir", "max_pixels")
    named = {name: getattr(arguments, name) for name in given}
    return overrides(arguments.update, arguments.data, **named, use_amp=True if arguments.use_amp else None)


def test(config: isdfine.Config) -> None:
    """Evaluate one checkpoint and print its table."""
    from ..api.run import judge
    from ..core import dist

    result = judge(config)
    if dist.is_main():
        print(result.table())


def train(config: isdfine.Config, *, auto: bool = False) -> None:
    """Train, then print the table of the best weights and where everything lies."""
    from ..api.run import complete, prepare
    from ..core import dist

    run = prepare(config, auto=auto, say=partial(print, flush=True))
    lines = [already_finished(run)] if run.finished else summary(run, complete(run, exits=True))
    if dist.is_main():
        print("\n".join(lines))


def summary(run: "Training", result: "EvalResult") -> list[str]:
    """What a run ended with, and where it lies."""
    lines = [result.table(), f"best checkpoint:  {run.folder.best}"]
    if run.settings.num_visualized:
        lines.append(f"pictures:         {run.folder.pictures} (left: ground truth, right: detections)")
    lines += [f"curves:           {writer.view}" for writer in run.writers if writer.view]
    again = shlex.join(["isdfine", "val", *_config(run, run.folder.path), "-r", str(run.folder.best)])
    return [*lines, f"judge it again:   {again}"]


def _config(run: "Training", folder: Path) -> list[str]:
    """What a run with code of the user's needs besides -r: a checkpoint alone makes no code run."""
    return ["-c", str(folder / run.folder.config.name)] if run.config.get("imports") else []


def already_finished(run: "Training") -> str:
    """That nothing is left to train, and how to go on."""
    folder, epochs = run.resumed_from or run.folder.path, run.settings.epoches
    change = "early_stop=null" if run.ends_early else f"epochs={2 * run.progress.epoch}"
    more = shlex.join(["isdfine", "train", *_config(run, folder), "-r", str(folder), "-u", change])
    return (
        f"nothing to train: {folder} is finished ({run.progress.epoch} epochs done, epochs is {epochs}); "
        f"to go on: {more}"
    )


def program(arguments: list[str] | None = None) -> int:
    """``main`` in a process of its own: it says at once that it has begun, and Ctrl-C during imports is silent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("RANK", "0") == "0":
        setup_logging()
        logger.info("starting: torch, the config and the annotations are read first, which may take a while")
    return main(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0 done; 2 a mistake of the user, in one message; 130 or 143 stopped by Ctrl-C or SIGTERM, with
        everything saved (the process of every rank ends so; torchrun itself then ends with 1).
    """
    options = parse_arguments(arguments)
    setup_logging()  # for what the config has to say; the rank is known later
    from ..api.run import config_of
    from ..api.session import join
    from ..core import dist
    from ..solver.train import StopTraining

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        given = overrides_of(options)
        config = isdfine.load_config(options.config or config_of(options.resume), given)
        if options.tuning_classes and not config.settings.tuning:
            raise ConfigError(
                "--tuning-classes says whose classes a checkpoint given with -t knows: add -t, or drop it"
            )
        if options.auto and (options.test_only or options.print_config):
            raise ConfigError("--auto chooses for a training run: leave it out with --test-only and --print-config")
        if options.print_config:
            print(config.dump(), end="")
            return 0
        join(config)
        setup_logging(dist.rank())
        from ..solver.solver import compare_configs

        with dist.naming_ranks():
            compare_configs(config, f"test_only={options.test_only}, auto={options.auto}")
            if options.test_only:
                test(config)
            else:
                train(config, auto=options.auto)
        dist.shutdown()  # not after an error: leaving the group could wait for ranks that wait for this one
    except StopTraining as stopped:
        dist.shutdown()  # all ranks have left the loop after the same step
        return stopped.exit_code
    except KeyboardInterrupt:  # before training, or the second one
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends the process without a traceback
        dist.leave("interrupted")
        print("interrupted: go on with -r from what was saved, if anything was", file=sys.stderr)
        return INTERRUPTED
    except (ConfigError, DataError, CheckpointError, NonFiniteError, RankError) as error:
        dist.leave(str(error))
        print(f"error: {error}", file=sys.stderr)
        return MISUSE
    except BaseException as error:
        dist.leave(f"{type(error).__name__}: {error}")
        raise
    return 0
