# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train variants x seeds x data sets from one YAML file, and write what the comparison shows. Guide: docs/ablate.md.

isdfine ablate configs/ablations/self_distillation_bccd.yml            # trains what is not done, reports
isdfine ablate configs/ablations/self_distillation_bccd.yml --dry-run  # checks everything, prints the commands
isdfine ablate configs/ablations/self_distillation_bccd.yml --report-only

Exit codes: 0 all asked runs are done, 1 some failed (the others went on), 2 bad usage or config or nowhere to write,
130 stopped by Ctrl-C or SIGTERM (every training has saved its state; start again to go on).
"""

import argparse
import logging
import math
import shlex
import sys
from pathlib import Path

# Waiting threads sleep instead of spinning: with several processes on few cores a run starts several times sooner.
import isdfine

from ..ablation.ablation import check_buildable, commands, pending, put_aside
from ..ablation.matrix import Matrix
from ..ablation.matrix_file import read_matrix
from ..ablation.report import summary_table, write_report
from ..ablation.results import Configs, Layers, Results, collect
from ..ablation.runner import Failure, Interrupted, Runner
from ..core.command import INTERRUPTED, add_option, command_parser, one_line_errors
from ..core.environment import setup_logging
from ..core.errors import ConfigError
from ..core.extras import need
from ..core.files import take_lock

logger = logging.getLogger("isdfine.ablate")

TRAIN = (sys.executable, "-m", "isdfine", "train")
"""The process of a run."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument("matrix", type=Path, help="YAML file with variants, seeds and data")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="trainings at a time (default 1)")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="train these variants only")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="train these seeds only")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the commands")
    parser.add_argument("--report-only", action="store_true", help="train nothing; write the report from what is there")
    parser.add_argument("--redo", action="store_true", help="train runs anew whose config has changed since")
    parser.add_argument("--no-layers", action="store_true", help="do not measure AP of each decoder layer")
    add_option(parser, "update", help="overrides of every run")
    parser.add_argument("--output-dir", help="instead of the file's output_dir")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}: give 1 or more")
    if options.report_only and (options.dry_run or options.redo):
        parser.error("--report-only trains nothing: leave --dry-run and --redo away")
    return options


def train(matrix: Matrix, configs: Configs, options: argparse.Namespace, command: str) -> list[Failure]:
    """Train what is not done, reporting after every run; with --dry-run only check it and print the commands."""

    def report_so_far() -> None:
        try:
            write(matrix, configs, options, command, "known")
        except (OSError, ConfigError) as error:  # the trainings matter more; the report at the end says it again
            logger.error("the report could not be written: %s", error)

    left = pending(matrix.selected(options.only, options.seeds), configs, redo=options.redo)
    runner = Runner(TRAIN, configs.plain, options.jobs, on_end=report_so_far)
    check_buildable(left, configs)
    if options.dry_run:
        for line in commands(left, runner):
            print(shlex.join(line))
        print(f"{len(left)} run(s) to train", file=sys.stderr)
        return []
    put_aside(left)
    try:
        return runner.train([run for run, _ in left])
    except Interrupted:
        report_so_far()
        raise


def write(
    matrix: Matrix, configs: Configs, options: argparse.Namespace, command: str, how: Layers
) -> tuple[Results, Path]:
    """Write the report about all runs; one command at a time does. What is not known is measured, or left open."""
    held = take_lock(matrix.output_dir / ".report.lock", patience_s=math.inf)
    assert held is not None  # it has waited
    with held:
        layers: Layers = "leave out" if options.no_layers else how
        results = collect(matrix, configs, layers=layers, teachers=how == "measure")
        return results, write_report(results, train="isdfine train", command=command)


def report(matrix: Matrix, configs: Configs, options: argparse.Namespace, command: str) -> None:
    """Measure what is not known yet, write the report and print its first tables."""
    results, path = write(matrix, configs, options, command, "measure")
    for data in matrix.data:
        print(f"{data.name}\n{summary_table(results, data.name)}\n".lstrip())
    for label, why in results.missing.items():
        print(f"missing: {label}: {why}")
    for note in results.notes:
        print(f"note: {note}")
    print(f"report: {path}")


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    setup_logging(level=logging.INFO)
    need("matplotlib", "plots")  # its report has plots: not to be found out after hours of training
    given = sys.argv[1:] if arguments is None else arguments
    command = f"isdfine ablate {shlex.join(given)}"
    try:
        matrix = read_matrix(options.matrix, tuple(options.update), options.output_dir)
        matrix.selected(options.only, options.seeds)
        matrix.write_composed()
        configs = Configs(isdfine.load_config)
        configs.check(matrix.runs())  # also of runs that are not asked for: the report is about all
        failures = [] if options.report_only else train(matrix, configs, options, command)
        if not options.dry_run:
            report(matrix, configs, options, command)
    except OSError as error:
        raise ConfigError(f"{error}: free space, or give another --output-dir; what is trained stays") from error
    except (Interrupted, KeyboardInterrupt):
        print("stopped; start the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    for failure in failures:
        first = failure.reason.partition("\n")[0]  # the rest was logged when it happened
        print(f"failed: {failure.run.label}: {first}", file=sys.stderr)
    return 1 if failures else 0
