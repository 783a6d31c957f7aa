#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Look at a trained detector: a report of its evaluation, its errors, its detections, its decoder at work.

python tools/visualize.py report     -c configs/quickstart.yml -r output/quickstart/best.pth -o report
python tools/visualize.py errors     -c configs/quickstart.yml -r output/quickstart/best.pth -o errors --threshold 0.4
python tools/visualize.py detections -c configs/quickstart.yml -r output/quickstart/best.pth -o pictures --max-images 20
python tools/visualize.py fdr        -c configs/quickstart.yml -r output/quickstart/best.pth -o fdr --images page.jpg
python tools/visualize.py attention  -c configs/quickstart.yml -r output/quickstart/best.pth -o attention --objects 2
"""

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import isdfine
from isdfine.core.atomic import whole_file
from isdfine.core.errors import CheckpointError, ConfigError, DataError
from isdfine.core.log import setup_logging
from isdfine.data.dataset.detection import GroundTruth
from isdfine.data.evaluate import EvalResult
from isdfine.deploy.inspection import Inspection, inspect_image
from isdfine.deploy.load import recipe_of
from isdfine.deploy.pictures import read_rgb
from isdfine.deploy.preprocess import Prepared
from isdfine.nn.types import Detections
from isdfine.solver.evaluate import detect
from isdfine.solver.solver import Evaluation
from isdfine.viz.attention import LayerAttention, attention_figure, attention_maps_figure
from isdfine.viz.canvas import save_figure
from isdfine.viz.draw import THRESHOLD, draw_detections, side_by_side
from isdfine.viz.edge_distributions import LayerDistributions, RefinedObject, refinement_figure
from isdfine.viz.errors import KINDS, Kind, Mistakes, find_mistakes
from isdfine.viz.evaluation_plots import confusion_figure, f1_figure, precision_recall_figure
from isdfine.viz.matching import JudgedImage, match_all
from isdfine.viz.operating_points import ScoreCurve, best_common_threshold, score_curves
from isdfine.viz.report import EvaluationReport, Picture, write_report
from isdfine.viz.sheet import error_sheet

NEEDED = ("model", "postprocessor", "evaluator", "val_dataloader")
SHEET = 24
"""Errors on one sheet."""
FIRST = 8
"""Validation images that are looked at where none are named."""
MAP_QUERIES = 100
"""Queries in a picture of the whole self-attention: more could not be told apart."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("-c", "--config", required=True, help="YAML file of the run")
    run.add_argument("-r", "--resume", required=True, help="checkpoint or run folder")
    run.add_argument("-o", "--output", required=True, type=Path, help="folder to write")
    run.add_argument("-u", "--update", nargs="+", action="extend", default=[], metavar="KEY.PATH=VALUE")
    run.add_argument("-d", "--device", help="cpu, cuda or cuda:0")
    run.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    judge = argparse.ArgumentParser(add_help=False)
    judge.add_argument("--max-images", type=int, help="only the first N validation images")
    judge.add_argument("--threshold", type=float, help="smallest score (default: where the mean F1 is highest)")
    judge.add_argument("--most", type=int, default=SHEET, help="errors shown per kind (%(default)s)")
    look = argparse.ArgumentParser(add_help=False)
    look.add_argument("--images", nargs="+", default=[], metavar="IMAGE",
                      help="files, or names or ids of validation images (default: the first)")  # fmt: skip
    look.add_argument("--max-images", type=int, help=f"images at most (those of --images, else {FIRST})")
    look.add_argument("--threshold", type=float, default=THRESHOLD, help="smallest score (%(default)s)")
    layers = argparse.ArgumentParser(add_help=False)
    layers.add_argument("--objects", type=int, default=3, help="surest objects per image (%(default)s)")
    layers.add_argument("--layers", type=int, nargs="+", metavar="N", help="decoder layers, the first is 1")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("report", parents=[run, judge], help="evaluate, and write one HTML file with everything")
    one.add_argument("--samples", type=int, default=8, help="sample pictures (%(default)s)")
    commands.add_parser("errors", parents=[run, judge], help="evaluate, and write sheets of what went wrong")
    commands.add_parser("detections", parents=[run, look], help="ground truth and detections side by side")
    commands.add_parser("fdr", parents=[run, look, layers], help="edge distributions, as the paper's Figure 4")
    commands.add_parser("attention", parents=[run, look, layers], help="sampling points and attention maps")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse what would only be found out later."""
    for name in ("max_images", "objects", "most", "samples"):
        if (number := getattr(options, name, None)) is not None and number < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {number}: give 1 or more")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold {options.threshold}: give a score from 0 to 1")
    if options.output.is_file():
        raise ConfigError(f"{options.output}: is a file: choose a folder")
    if options.output.is_dir() and any(options.output.iterdir()) and not options.overwrite:
        raise ConfigError(f"{options.output}: is not empty: choose another folder, or write into it with --overwrite")


def open_run(options: argparse.Namespace) -> Evaluation:
    """The model with its weights, and the validation data."""
    overrides = [*options.update, f"resume={json.dumps(options.resume)}", "tuning=null"]
    config = isdfine.load_config(options.config, overrides + ([f"device={options.device}"] if options.device else []))
    config.require(*NEEDED)
    run = Evaluation(config)
    run.load(options.resume)
    run.model.eval()
    return run


# --- the whole validation set -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judged:
    """An evaluated validation set; images in the order of their ids."""

    run: Evaluation
    result: EvalResult
    ids: list[int]
    images: list[JudgedImage]
    curves: list[ScoreCurve]
    threshold: float
    mistakes: Mistakes

    def truth(self, index: int) -> GroundTruth:
        """Annotated boxes of an image, and the image."""
        return self.run.val_loader.dataset.ground_truth(self.ids[index])

    def detections(self, index: int) -> Detections:
        """Of one image."""
        one = self.images[index]
        return Detections(*(torch.from_numpy(field) for field in (one.labels, one.boxes_xyxy_px, one.scores)))


def judge(options: argparse.Namespace) -> Judged:
    """Detect on the validation images, once, and compare."""
    run = open_run(options)
    run.evaluator.reset()
    found: dict[int, JudgedImage] = {}
    for images, targets in tqdm(run.val_loader, desc="evaluating", unit="batch", disable=None, leave=False):
        left = len(targets) if options.max_images is None else options.max_images - len(found)
        with torch.inference_mode():
            batch = detect(run.model, run.postprocessor, images, targets)
        batch = Detections(*(field[:left].cpu() for field in batch))
        run.evaluator.update(batch, targets[:left])
        for row, target in enumerate(targets[:left]):
            found[int(target["image_id"])] = judged_image(run, int(target["image_id"]), batch, row)
        if options.max_images is not None and len(found) >= options.max_images:
            break
    result, ids = run.evaluator.summarize(), sorted(found)
    judged = [found[one] for one in ids]
    matches = match_all(judged, max_detections=run.evaluator.max_dets[-1])
    curves = score_curves(judged, matches, run.label_space.names)
    threshold = best_common_threshold(curves, THRESHOLD) if options.threshold is None else options.threshold
    mistakes = find_mistakes(judged, matches, len(run.label_space), threshold)
    return Judged(run, result, ids, judged, curves, threshold, mistakes)


def judged_image(run: Evaluation, image_id: int, batch: Detections, row: int) -> JudgedImage:
    """One image of a batch beside its annotations, as the evaluator sees both."""
    data = run.val_loader.dataset.annotations
    index = int(np.flatnonzero(data.image_ids == image_id)[0])
    boxes_xywh = data.boxes_xywh_px[data.rows(index)]
    return JudgedImage(
        data.file_names[index],
        np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1),
        data.labels[data.rows(index)],
        data.crowd[data.rows(index)],
        batch.boxes[row].double().numpy(),
        batch.labels[row].numpy(),
        batch.scores[row].double().numpy(),
    )


def sheets(judged: Judged, most: int) -> Iterator[tuple[Kind, int, list[Image.Image]]]:
    """Per kind of error its name, how many there are, and sheets with the first ``most``."""
    names = [one.name for one in judged.images]
    for kind in KINDS:
        errors = judged.mistakes.of(kind)
        pages = [errors[start : min(start + SHEET, most)] for start in range(0, min(len(errors), most), SHEET)]
        drawn = [
            error_sheet(page, lambda index: judged.truth(index).image(), names, judged.run.label_space.names)
            for page in pages
        ]
        yield kind, len(errors), drawn


def errors(options: argparse.Namespace) -> None:
    """Sheets as PNG, and all errors as CSV."""
    judged = judge(options)
    print(f"{len(judged.images)} images, score >= {judged.threshold:.3f}")
    for kind, count, pages in sheets(judged, options.most):
        for number, page in enumerate(pages, 1):
            save_picture(page, options.output / f"{kind}_{number:02}.png")
        print(f"{kind + ':':<14}{count:>7}")
    write_errors(options.output / "errors.csv", judged)
    print(f"written:      {options.output}")


def write_errors(path: Path, judged: Judged) -> None:
    """One line per error: boxes in pixels; score of a miss: the best one below the threshold at its place."""
    names = judged.run.label_space.names
    with whole_file(path, durable=False) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow("kind image class score x1 y1 x2 y2 object object_x1 object_y1 object_x2 object_y2 iou".split())
        for kind in KINDS:
            for one in judged.mistakes.of(kind):
                boxes = [
                    [""] * 4 if box is None else [f"{value:.2f}" for value in box]
                    for box in (one.box_xyxy_px, one.truth_xyxy_px)
                ]
                truth = "" if one.truth_label < 0 else names[one.truth_label]
                name = judged.images[one.image].name
                table.writerow([
                    kind, name, names[one.label], f"{one.score:.5f}", *boxes[0], truth, *boxes[1], f"{one.overlap:.4f}"
                ])  # fmt: skip


def report(options: argparse.Namespace) -> None:
    """The HTML file, and its parts as files of their own."""
    judged = judge(options)
    names, out = judged.run.label_space.names, options.output
    plots = {
        "Precision and recall": precision_recall_figure(judged.curves),
        "F1 over the threshold": f1_figure(judged.curves, judged.threshold),
        f"Confusion matrix at score {judged.threshold:.3f}": confusion_figure(judged.mistakes.confusion, names),
    }
    for name, figure in zip(("precision_recall", "f1", "confusion"), plots.values()):
        save_figure(figure, out / f"{name}.png")
    shown: dict[Kind, tuple[int, Image.Image | None]] = {}
    for kind, count, pages in sheets(judged, min(options.most, SHEET)):
        shown[kind] = (count, pages[0] if pages else None)
        if pages:
            save_picture(pages[0], out / f"errors_{kind}.png")
    samples = list(sample_pictures(judged, options.samples, out))
    page = EvaluationReport(
        title=f"Evaluation of {Path(options.resume).name} on {len(judged.images):,} images",
        facts=facts(options, judged),
        stats=judged.result.stats,
        class_aps=[one.ap for one in judged.result.per_class],
        curves=judged.curves,
        threshold=judged.threshold,
        confusion=judged.mistakes.confusion,
        plots=plots,
        samples=samples,
        errors=shown,
    )
    write_report(out / "report.html", page)
    write_numbers(out / "report.json", judged)
    print(judged.result.table())
    print(f"report: {out / 'report.html'} ({(out / 'report.html').stat().st_size / 1e6:.1f} MB)")


def sample_pictures(judged: Judged, count: int, out: Path) -> Iterator[Picture]:
    """Images spread evenly over the set, ground truth beside detections."""
    number = min(count, len(judged.images))
    for index in np.linspace(0, len(judged.images) - 1, number).round().astype(int).tolist():
        drawn = side_by_side(
            judged.truth(index), judged.detections(index), judged.run.label_space, judged.threshold
        )
        name = judged.images[index].name
        save_picture(drawn, out / f"sample_{judged.ids[index]}_{safe(Path(name).stem)}.png")
        yield Picture(name, drawn)


def facts(options: argparse.Namespace, judged: Judged) -> dict[str, str]:
    """What was evaluated with what."""
    data = judged.run.val_loader.dataset.annotations
    return {
        "checkpoint": str(Path(options.resume).resolve()),
        "config": str(Path(options.config).resolve()),
        "annotations": f"{data.place} ({len(judged.images):,} of {len(data):,} images)",
        "classes": f"{len(judged.run.label_space):,}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": f"isdfine {isdfine.__version__}, torch {torch.__version__}, device {judged.run.device}",
    }


def write_numbers(path: Path, judged: Judged) -> None:
    """The numbers of the report as JSON."""
    points = [curve.best() for curve in judged.curves]
    content: dict[str, Any] = judged.result.to_dict() | {
        "threshold": judged.threshold,
        "best": {
            curve.name: None if point is None else point._asdict() for curve, point in zip(judged.curves, points)
        },
        "confusion": judged.mistakes.confusion.tolist(),
        "errors": {kind: len(judged.mistakes.of(kind)) for kind in KINDS},
    }
    with whole_file(path, durable=False) as partial:
        partial.write_text(json.dumps(content, indent=1))


# --- chosen images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chosen:
    """An image to look at."""

    name: str
    image: Image.Image
    truth: GroundTruth | None
    """None for a file that is not in the validation set."""


def chosen_images(run: Evaluation, options: argparse.Namespace) -> Iterator[Chosen]:
    """Those named on the command line, or the first of the validation set, opened one after the other."""
    data = run.val_loader.dataset.annotations
    wanted = options.images or [str(one) for one in data.image_ids[: options.max_images or FIRST].tolist()]
    by_name: dict[str, int] = {}
    for name, image_id in zip(data.file_names, data.image_ids.tolist()):
        by_name.setdefault(Path(name).name, image_id)
    by_name |= dict(zip(data.file_names, data.image_ids.tolist()))
    by_name |= {str(one): one for one in data.image_ids.tolist()}
    for text in wanted[: options.max_images]:
        image_id = by_name.get(text)
        if image_id is not None:
            truth = run.val_loader.dataset.ground_truth(image_id)
            yield Chosen(f"{image_id}_{safe(truth.path.stem)}", truth.image(), truth)
        elif Path(text).is_file():
            yield Chosen(safe(Path(text).stem), read_rgb(Path(text)), None)
        else:
            raise DataError(f"--images {text}: neither a file nor a name or id of an image in {data.place}")


Look = Callable[[Image.Image], tuple[torch.Tensor, Prepared]]


def looker(run: Evaluation) -> Look:
    """What makes a network's input of an image, as the evaluation does."""
    recipe = recipe_of(run.config)

    def look(image: Image.Image) -> tuple[torch.Tensor, Prepared]:
        ((_, prepared),) = recipe.prepare([image])
        return recipe.to_input(torch.from_numpy(prepared.pixels).to(run.device)), prepared

    return look


def inspected(run: Evaluation, look: Look, image: Image.Image) -> Inspection:
    """The decoder's work on one image."""
    images, prepared = look(image)
    height, width = prepared.sizes[0].tolist()
    content = None if prepared.content is None else torch.from_numpy(prepared.content)
    return inspect_image(run.model, images, (height, width), content)


def detections(options: argparse.Namespace) -> None:
    """Ground truth and detections side by side; detections alone where there is no ground truth."""
    run = open_run(options)
    look = looker(run)
    for chosen in chosen_images(run, options):
        images, prepared = look(chosen.image)
        target = {"orig_size": torch.from_numpy(prepared.sizes[0])}
        if prepared.content is not None:
            target["content_size"] = torch.from_numpy(prepared.content[0])
        with torch.inference_mode():
            batch = detect(run.model, run.postprocessor, images, [target])
        found = Detections(*(field[0].cpu() for field in batch))
        if chosen.truth is None:
            drawn = draw_detections(chosen.image, found, run.label_space, options.threshold)
        else:
            drawn = side_by_side(chosen.truth, found, run.label_space, options.threshold)
        save_picture(drawn, options.output / f"{chosen.name}.png")
        print(options.output / f"{chosen.name}.png")


def fdr(options: argparse.Namespace) -> None:
    """One figure per object."""
    run = open_run(options)
    look = looker(run)
    for chosen in chosen_images(run, options):
        seen = inspected(run, look, chosen.image)
        if seen.initial_boxes_xyxy_px is None or seen.bin_weights is None or seen.inverse_curvature is None:
            raise ConfigError("fdr: this model's boxes are no distributions (box_head is direct): use attention")
        numbers = layer_numbers(options.layers or [1, len(seen.layers)], len(seen.layers))
        for rank, query in enumerate(objects_of(seen, chosen, options), 1):
            layers = [
                LayerDistributions(
                    one, edge_probabilities(seen, one)[query], seen.layers[one - 1].boxes_xyxy_px[query]
                )
                for one in numbers
            ]
            found = RefinedObject(
                caption(run, seen, query), seen.initial_boxes_xyxy_px[query], layers, seen.bin_weights,
                seen.inverse_curvature,
            )  # fmt: skip
            path = options.output / f"{chosen.name}_{rank}.png"
            save_figure(refinement_figure(chosen.image, found, f"{chosen.name}, object {rank}"), path)
            print(f"{path}: {found.caption}")


def edge_probabilities(seen: Inspection, number: int) -> Any:
    """(Q, 4, N + 1) after a layer of an FDR decoder."""
    found = seen.layers[number - 1].edge_probabilities
    assert found is not None
    return found


def attention(options: argparse.Namespace) -> None:
    """Per object its sampling points and the queries it attends to, per image the whole self-attention."""
    run = open_run(options)
    look = looker(run)
    for chosen in chosen_images(run, options):
        seen = inspected(run, look, chosen.image)
        numbers = layer_numbers(options.layers or range(1, len(seen.layers) + 1), len(seen.layers))
        for rank, query in enumerate(objects_of(seen, chosen, options), 1):
            layers = [layer_attention(seen, one, query) for one in numbers]
            path = options.output / f"{chosen.name}_{rank}.png"
            save_figure(attention_figure(chosen.image, caption(run, seen, query), query, layers), path)
            print(f"{path}: {caption(run, seen, query)}")
        maps = [seen.layers[one - 1].self_attention for one in numbers]
        path = options.output / f"{chosen.name}_self_attention.png"
        save_figure(attention_maps_figure(maps, numbers, seen.surest(MAP_QUERIES)), path)
        print(path)


def layer_attention(seen: Inspection, number: int, query: int) -> LayerAttention:
    """What a query looks at in a layer."""
    layer = seen.layers[number - 1]
    return LayerAttention(
        number, layer.references_xyxy_px[query], layer.points_px[query], layer.point_weights[query],
        layer.point_levels, layer.self_attention[query], layer.references_xyxy_px,
    )  # fmt: skip


def layer_numbers(wanted: Sequence[int], count: int) -> list[int]:
    """Decoder layers in ascending order, each once."""
    if wrong := [one for one in wanted if not 1 <= one <= count]:
        raise ConfigError(f"--layers {wrong[0]}: the decoder has the layers 1 to {count}")
    return sorted(set(wanted))


def objects_of(seen: Inspection, chosen: Chosen, options: argparse.Namespace) -> list[int]:
    """Queries of the surest objects; says so where there are none."""
    queries = seen.surest(options.objects, options.threshold)
    if not queries:
        print(f"{chosen.name}: nothing with a score of at least {options.threshold:g}: lower --threshold")
    return queries


def caption(run: Evaluation, seen: Inspection, query: int) -> str:
    """Class and score of a query."""
    label = int(seen.scores[query].argmax())
    return f"{run.label_space.names[label]} {seen.scores[query, label]:.2f}"


def safe(stem: str) -> str:
    """A name without what file systems do not like."""
    return re.sub(r"[^\w.-]+", "_", stem)[:80]


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with whole_file(path, durable=False) as partial:
        image.save(partial, format="PNG")


COMMANDS = {"report": report, "errors": errors, "detections": detections, "fdr": fdr, "attention": attention}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    setup_logging()
    try:
        check(options)
        COMMANDS[options.command](options)
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
