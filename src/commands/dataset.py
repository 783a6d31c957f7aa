# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Check, describe, convert, divide and look at detection data sets. Sources are only read, never changed.

isdfine data check   data/mine                              # what is wrong with it?
isdfine data check   data/mine --fix data/mine_fixed        # and a corrected copy
isdfine data check   -c configs/quickstart.yml              # the data of a run, against its queries
isdfine data stats   data/mine -o stats                     # plots and numbers
isdfine data convert data/mine --to yolo -o data/mine_yolo  # coco, voc, yolo, crowdhuman
isdfine data split   data/all.json -o data/parts --parts train=0.8 val=0.2
isdfine data show    data/mine -o pictures --count 20

PATH is a folder in any common layout (COCO JSON in it or in annotations/, exports of CVAT, Label Studio and Roboflow,
VOC with lists or as LabelImg writes it, YOLO with data.yaml, obj.data or classes.txt, CrowdHuman odgt, KITTI), or one
annotation file. Or name the splits: --split train=a.json:images and so on.

A corrected copy that would lack more than 5 % of a split's boxes or images is refused (--allow-loss).

Exit codes: 0 nothing bad, 1 check found errors (with --strict: or warnings) or refused the copy, 2 cannot be read or
bad usage, 130 Ctrl-C.
What an error or Ctrl-C stops on the way leaves no half-written folder.
"""

import argparse
import io
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import isdfine

from ..audit import configured, partition, report, samples, sources, statistics, writers
from ..audit.check import check_with, read_files
from ..audit.findings import KINDS, Finding, Split
from ..audit.fix import Corrected, TooMuchLost, corrected
from ..audit.naming import check_report, filled, new_folder, write_json, write_text
from ..core.command import INTERRUPTED, add_option, check_least, command_parser, one_line_errors
from ..core.environment import setup_logging
from ..core.errors import DataError
from ..core.extras import need
from ..data.dataset.images import limit_pixels

ALLOWED_LOSS = 0.05
"""Share of the boxes that a corrected copy may lack without being asked for."""

QUERIES = 300
"""Queries of the published D-FINE models, used where neither the command line nor a config says a number."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("path", nargs="?", metavar="PATH", help="folder of a data set, or an annotation file")
    add_option(source, "config", help="YAML file of a run: look at its training and validation data")
    add_option(source, "update")
    source.add_argument("--split", action="append", default=[], metavar="NAME=PATH[:IMAGES]", dest="splits",
                      help="one split of the data, may be given several times")  # fmt: skip
    source.add_argument(
        "--format", choices=("auto", *sources.READ), default="auto", help="format of the data (default: found out)"
    )
    source.add_argument("--image-folder", metavar="DIR", help="where the images are, if that cannot be found")
    add_option(source, "max_pixels")
    source.add_argument("--workers", type=int, help="threads that read images (default: one per core)")
    output = argparse.ArgumentParser(add_help=False)
    add_option(output, "output", required=True, metavar="DIR", help="new or empty folder")

    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", parents=[source], help="find what is wrong")
    check.add_argument("--queries", type=int, help=f"queries of the model (default: the config's, else {QUERIES})")
    check.add_argument("--json", metavar="FILE", help="write all findings as JSON")
    check.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    check.add_argument("--fix", metavar="DIR", help="write a corrected copy into a new folder")
    check.add_argument("--images", choices=("copy", "link"), default="copy", help="images of the corrected copy")
    check.add_argument("--allow-loss", type=float, default=ALLOWED_LOSS, metavar="SHARE",
                     help="of boxes or images that the copy may lack, 0 to 1: else it is not written "
                     f"(default: {ALLOWED_LOSS})")  # fmt: skip
    check.add_argument("--examples", type=int, default=3, help="places shown per kind of finding")
    stats = commands.add_parser("stats", parents=[source, output], help="plots and numbers")
    stats.add_argument("--json", metavar="FILE", help="write the numbers as JSON too")
    convert = commands.add_parser("convert", parents=[source, output], help="write it in another format")
    convert.add_argument("--to", required=True, choices=sources.FORMATS, help="format to write")
    convert.add_argument("--images", choices=("copy", "link", "none"), default="copy", help="link: symbolic links")
    split = commands.add_parser("split", parents=[source, output], help="divide it into parts")
    split.add_argument(
        "--parts", nargs="+", required=True, metavar="NAME=FRACTION", help="names and shares of the parts"
    )
    split.add_argument(
        "--group-by", metavar="REGEX", help="images whose names give the same (first group) stay together"
    )
    split.add_argument("--seed", type=int, default=0, help="of the parts")
    split.add_argument("--to", choices=sources.FORMATS, default="coco", help="format of the parts (default: coco)")
    split.add_argument("--images", choices=("copy", "link", "none"), default="none",
                     help="none: one COCO file per part, for the images where they are")  # fmt: skip
    show = commands.add_parser("show", parents=[source, output], help="draw boxes on images")
    show.add_argument("--count", type=int, default=16, help="pictures to write")
    show.add_argument("--seed", type=int, default=0, help="of the choice of pictures")
    show.add_argument("--class", metavar="NAME", dest="class_name", help="only images with this class")
    show.add_argument("--ids", nargs="+", default=[], help="image ids or file names")
    show.add_argument("--only-problems", action="store_true", help="only images that check finds something about")
    return parser.parse_args(arguments)


def progress(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """A bar on a terminal, nothing elsewhere."""
    bar: Iterable[Any] = tqdm(items, total=total, desc=title, disable=None, leave=False)
    return bar


def open_splits(options: argparse.Namespace) -> tuple[list[Split], int]:
    """What the command line names, read; and the queries of its config."""
    check_least(options, queries=1, workers=1, count=1, examples=1, max_pixels=1)
    limit_pixels(options.max_pixels)
    given = [bool(options.path), bool(options.splits), bool(options.config)]
    if sum(given) != 1:
        raise DataError("give one source: PATH, or --split NAME=PATH (as often as needed), or -c CONFIG")
    queries = QUERIES
    if options.config:
        config = isdfine.load_config(options.config, options.update)
        limit_pixels(options.max_pixels or config.settings.max_pixels)
        named, queries = configured.sources_of(config), configured.queries_of(config) or QUERIES
    elif options.splits:
        named = [sources.parse_split(text, format=options.format) for text in options.splits]
    else:
        named = sources.discover(options.path, format=options.format, images=options.image_folder)
    return sources.read_all(named), queries


def open_sound(options: argparse.Namespace) -> list[Split]:
    """Splits of which everything could be read: what is written anew must not lack entries in silence."""
    splits, _ = open_splits(options)
    problems = [problem for split in splits for problem in split.problems if KINDS[problem.kind].severity == "error"]
    if problems:
        raise DataError(f"{problems[0]} ({len(problems)} such problems): run check with --fix first")
    return splits


def find(options: argparse.Namespace, splits: list[Split], queries: int) -> tuple[list[Finding], Any]:
    """Findings, and the pixels they rest on."""
    pixels = read_files(splits, workers=options.workers, progress=progress)
    return check_with(splits, pixels, queries=queries), pixels


def check(options: argparse.Namespace) -> int:
    """Report what is wrong; with --fix write a corrected copy and check that too."""
    if options.json:
        check_report(options.json)
    if not 0 <= options.allow_loss <= 1:
        raise DataError(f"--allow-loss {options.allow_loss:g}: give a share from 0 to 1")
    splits, queries = open_splits(options)
    target = new_folder(options.fix, "--fix", splits) if options.fix else None
    queries = options.queries or queries
    refused, left = None, list[Finding]()
    try:
        with filled(target) if target is not None else nullcontext() as folder:
            findings, pixels = find(options, splits, queries)
            content = report.to_json(findings, splits, queries)
            print(report.table(findings, splits, examples=options.examples))
            if folder is not None:
                fixed = corrected(splits, findings, pixels)
                content["changes"], content["losses"] = fixed.changes, [str(toll) for toll in fixed.tolls]
                write_copy(options, splits, fixed, folder)
    except TooMuchLost as error:
        refused = error
    if target is not None and refused is None:
        ops = {split.name: split.ops for split in splits}
        again = sources.read_all(sources.discover(target, format=copy_format(splits)))
        again = [replace(split, ops=ops.get(split.name, ())) for split in again]
        left = find(options, again, queries)[0]
        print(f"\n{len(content['changes'])} changes; the copy in {target}: {report.summary(left)}")
        if any(finding.severity != "note" for finding in left):
            print("what is left in the copy, for a person to decide:", report.table(left, again), sep="\n")
    if options.json:
        write_json(Path(options.json), content)
    if refused is not None:
        print(f"error: --fix {target}: {refused}", file=sys.stderr)
        return report.FOUND
    return report.exit_code([*findings, *left], strict=options.strict)


def write_copy(options: argparse.Namespace, splits: list[Split], fixed: Corrected, folder: Path) -> None:
    """Write the corrected copy and say what was changed and what is lost."""
    tolls = [str(toll) for toll in fixed.tolls]
    try:
        fixed.check_losses(options.allow_loss)
    except TooMuchLost:
        print("", *fixed.changes, *tolls, sep="\n")
        raise
    form = copy_format(splits)
    fixed.changes.extend(writers.write_dataset(fixed.splits, folder, form, images=options.images, progress=progress))
    write_text(folder / "changes.log", "".join(f"{line}\n" for line in [*fixed.changes, *tolls]))
    print("", *fixed.changes, *tolls, sep="\n")


def copy_format(splits: list[Split]) -> str:
    """The splits' own format, COCO where they have several or one that is only read."""
    formats = {split.format for split in splits} & set(sources.FORMATS)
    return formats.pop() if len(formats) == 1 else "coco"


def stats(options: argparse.Namespace) -> int:
    """Plots and numbers of every split."""
    from ..audit.plots import save_plots

    need("matplotlib", "plots")
    if options.json:
        check_report(options.json)
    splits, _ = open_splits(options)
    numbers = [statistics.statistics_of(split) for split in splits]
    summaries = {described.name: statistics.summary_of(described) for described in numbers}
    print(statistics.summary_table(summaries))
    target = new_folder(options.output, "-o", splits)
    with filled(target) as folder:
        print(*(target / plot.name for plot in save_plots(numbers, folder)), sep="\n")
        write_json(folder / "summary.json", summaries)
    if options.json:
        write_json(Path(options.json), summaries)
    return 0


def convert(options: argparse.Namespace) -> int:
    """Write the data set in another format."""
    splits = open_sound(options)
    target = new_folder(options.output, "-o", splits)
    with filled(target) as folder:
        remarks = writers.write_dataset(splits, folder, options.to, images=options.images, progress=progress)
    print(*remarks, *(f"{split.name}: {len(split.annotations):,} images, {len(split.annotations.ids):,} boxes"
                      for split in splits), target, sep="\n")  # fmt: skip
    return 0


def split(options: argparse.Namespace) -> int:
    """Divide a data set and say what each part got."""
    parts = partition.parse_parts(options.parts)
    whole = partition.merged(open_sound(options))
    target = new_folder(options.output, "-o", [whole])
    with filled(target) as folder:
        by_name = partition.groups_by_name(whole.annotations, options.group_by) if options.group_by else None
        content = partition.groups_by_content(read_files([whole], workers=options.workers, progress=progress), whole)
        groups = partition.join_groups(content, by_name or content)
        divided = partition.divided(whole, partition.divide(whole.annotations, parts, groups, seed=options.seed), parts)
        remarks = writers.write_dataset(divided, folder, options.to, images=options.images, progress=progress)
    print(partition.shares_table(divided, parts), "", *remarks, target, sep="\n")
    return 0


def show(options: argparse.Namespace) -> int:
    """Draw the boxes of some images."""
    from ..viz.draw import draw_boxes

    splits, queries = open_splits(options)
    output = new_folder(options.output, "-o", splits)
    with filled(output) as folder:
        findings = find(options, splits, queries)[0] if options.only_problems else None
        chosen = samples.choose(splits, count=options.count, seed=options.seed, class_name=options.class_name,
                                ids=options.ids, findings=findings)  # fmt: skip
        for number, sample in enumerate(progress(chosen, len(chosen), "pictures")):
            name = Path(sample.split.annotations.file_names[sample.index])
            marked, picture = sample.marked(), sample.image()
            target = output / f"{number:03}_{sample.split.name.replace('/', '_')}_{name.stem}.png"
            if picture is not None:
                draw_boxes(picture, marked, marked).save(folder / target.name)
            print(f"{target if picture is not None else 'no picture'}: {name}, {len(marked.labels)} boxes",
                  *(f"    {finding.kind}: {finding.text}" for finding in sample.findings), sep="\n")  # fmt: skip
    return 0


COMMANDS = {"check": check, "stats": stats, "convert": convert, "split": split, "show": show}


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    setup_logging()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        return COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half written", file=sys.stderr)
        return INTERRUPTED
