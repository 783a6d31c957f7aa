# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images, folders, videos or a camera, and write pictures, COCO JSON, YOLO text files, CSV.

isdfine predict -m output/run/best.pth photos/ -o found
isdfine predict -m model.onnx "photos/**/*.jpg" clip.mp4 -o found --save images,video,coco,csv
isdfine predict -m model.onnx aerial.tif -o found --tile 640 640 --overlap 0.25

The exit code is 0 if everything was read, 1 if something was skipped, 2 if nothing could start, 130 after Ctrl-C: what
was found up to there is written then too (a camera is ended in this way).
"""

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import isdfine

from ..core.command import INTERRUPTED, add_option, check_folder, check_least, command_parser, one_line_errors
from ..core.errors import ConfigError
from ..data.dataset.images import limit_pixels
from ..deploy.detector import BATCH_SIZE, THRESHOLD
from ..inference.run import InferenceSummary, run
from ..inference.sinks import CocoJson, Pictures, Sink, Table, Videos, Yolo
from ..inference.sources import ImageFiles, ImageSource, open_sources
from ..inference.tiling import Tiling
from ..inference.video import Video

KINDS = ("images", "video", "coco", "yolo", "csv")
LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pixels above which Pillow takes a file for an attack."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder, pattern, video, stream, number of a camera"
    )
    parser.add_argument(
        "-m",
        "--model",
        required=True,
        help=".pth, .safetensors, transformers folder, .onnx, .engine, or a name that isdfine weights list shows",
    )
    add_option(parser, "output", required=True, help="folder to write")
    add_option(parser, "config", help="YAML file of the run, for checkpoints that carry none")
    parser.add_argument("--names", type=Path, help="file with a class name per line, for an official ONNX export")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="smallest score (%(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH_SIZE, help="images per call of the network (%(default)s)")
    parser.add_argument("--save", metavar="KINDS", help=f"of {','.join(KINDS)}; usually coco and images or video")
    parser.add_argument("--yolo-scores", action="store_true", help="a sixth column with the score in YOLO files")
    parser.add_argument("--recursive", action="store_true", help="folders with those below them")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of videos, use each N-th frame")
    parser.add_argument("--tile", type=int, nargs=2, metavar=("H", "W"), help="cut large images into tiles")
    parser.add_argument("--overlap", type=float, help="share of a tile that its neighbour sees too (0.2)")
    parser.add_argument("--tile-whole", action="store_true", help="look at the whole image besides its tiles")
    add_option(parser, "max_pixels", default=LARGEST, help="largest image that is decoded (%(default)s)")
    add_option(parser, "device")
    parser.add_argument("--backend", help="openvino runs .onnx files in OpenVINO instead of ONNX Runtime")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    add_option(parser, "overwrite")
    return parser.parse_args(arguments)


def tiling_of(options: argparse.Namespace) -> Tiling | None:
    """How images are cut, None for not at all."""
    if options.tile is None:
        if options.overlap is not None or options.tile_whole:
            raise ConfigError("--overlap and --tile-whole are for tiles: add --tile HEIGHT WIDTH")
        return None
    overlap = 0.2 if options.overlap is None else options.overlap
    return Tiling((options.tile[0], options.tile[1]), overlap, options.tile_whole)


def kinds_of(options: argparse.Namespace, sources: Sequence[ImageSource]) -> list[str]:
    """What is to be written; without --save COCO JSON, pictures of images, and videos of videos."""
    videos = any(source.clip for source in sources)
    images = any(not source.clip for source in sources)
    if options.every > 1 and not videos:
        raise ConfigError(f"--every {options.every}: none of the sources is a video: leave it out")
    usual = ["coco", *(["images"] if images else []), *(["video"] if videos else [])]
    kinds = usual if options.save is None else [kind.strip() for kind in options.save.split(",") if kind.strip()]
    if not kinds or (unknown := [kind for kind in kinds if kind not in KINDS]):
        raise ConfigError(
            f"--save {options.save}: give some of {','.join(KINDS)}{f', not {unknown[0]}' if kinds else ''}"
        )
    if "video" in kinds and not videos:
        raise ConfigError("--save video: none of the sources is a video: leave it out")
    if options.yolo_scores and "yolo" not in kinds:
        raise ConfigError("--yolo-scores: no YOLO files are written: add --save yolo")
    return kinds


def sinks_of(
    kinds: Sequence[str], options: argparse.Namespace, sources: Sequence[ImageSource], detector: isdfine.Detector
) -> list[Sink]:
    """One writer per kind."""
    folder, labels = options.output, detector.label_space
    names = [name for source in sources if isinstance(source, ImageFiles) for name in source.names]
    made: dict[str, Sink] = {
        "coco": CocoJson(folder / "detections.json", labels),
        "csv": Table(folder / "detections.csv"),
        "yolo": Yolo(folder / "labels", labels, scores=options.yolo_scores, names=names),
        "images": Pictures(folder / "images", names),
        "video": Videos(folder / "videos"),
    }
    return [sink for kind, sink in made.items() if kind in kinds]


def keep_apart(sources: Sequence[ImageSource], output: Path) -> None:
    """Refuse to write pictures, videos and labels where the sources themselves lie."""
    for source in sources:
        if isinstance(source, ImageFiles):
            folders = {os.path.dirname(source.root / name) for name in source.names}
        else:
            folders = {os.path.dirname(source.place)} if isinstance(source, Video) else set()
        for folder in map(Path, map(os.path.realpath, folders)):
            for written in (output / "images", output / "videos"):
                if written.resolve() in (folder, *folder.parents):
                    raise ConfigError(f"{folder}: holds sources, and -o {output} writes there: choose another folder")


def check(options: argparse.Namespace) -> None:
    """Refuse what would only be found out later."""
    check_least(options, every=1, max_pixels=1)
    if not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold {options.threshold}: give a score from 0 to 1")
    check_folder(options.output, overwrite=options.overwrite)


def class_names(path: Path | None) -> list[str] | None:
    """The lines of a file."""
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--names {path}: cannot be read ({error})") from None


def infer(options: argparse.Namespace) -> InferenceSummary:
    """Do everything that the command line asks for."""
    check(options)
    tiling = tiling_of(options)
    sources = open_sources(options.sources, recursive=options.recursive, every=options.every)
    kinds = kinds_of(options, sources)
    keep_apart(sources, options.output)
    detector = isdfine.Detector.load(
        options.model, device=options.device, threads=options.threads, batch_size=options.batch,
        config=options.config, names=class_names(options.names), backend=options.backend,
    )  # fmt: skip
    counts = [source.count for source in sources]
    total = None if None in counts else sum(count or 0 for count in counts)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, unit=" pictures", disable=not sys.stderr.isatty()))
        sinks = [stack.enter_context(sink) for sink in sinks_of(kinds, options, sources, detector)]
        return run(
            detector, sources, sinks, threshold=options.threshold, tiling=tiling, on_picture=bar.update,
            on_skip=lambda skipped: bar.write(f"skipped: {skipped.reason}", file=sys.stderr),
        )  # fmt: skip


def report(summary: InferenceSummary, seconds: float, output: Path) -> None:
    """The end of a run in a few lines."""
    classes = ", ".join(f"{name} {count}" for name, count in summary.per_class.most_common(10))
    more = f" and {len(summary.per_class) - 10} more classes" if len(summary.per_class) > 10 else ""
    speed = f", {summary.pictures / seconds:.1f} per second" if summary.pictures else ""
    print(f"pictures:   {summary.pictures} in {seconds:.1f} s{speed}" + (" (ended by Ctrl-C)" * summary.interrupted))
    print(f"detections: {summary.per_class.total()}{f' ({classes}{more})' if classes else ''}")
    print(f"skipped:    {summary.skipped}")
    print(f"written:    {output}")


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    before = Image.MAX_IMAGE_PIXELS
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            limit_pixels(options.max_pixels)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # odd EXIF data of readable images
            summary = infer(options)
    except OSError as error:
        place = error.filename or options.output
        raise ConfigError(f"{place}: {error.strerror or error}: check permissions and free space") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before
    report(summary, time.perf_counter() - start, options.output)
    return INTERRUPTED if summary.interrupted else int(summary.skipped > 0)
