# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Look at a trained detector: a report of its evaluation, its errors, its detections, its decoder at work.

isdfine report     -r output/quickstart/best.pth -o report
isdfine visualize errors     -r output/quickstart/best.pth -o errors --threshold 0.4
isdfine visualize detections -r output/quickstart/best.pth -o pictures --max-images 20
isdfine visualize fdr        -r output/quickstart/best.pth -o fdr --images page.jpg
isdfine visualize attention  -r output/quickstart/best.pth -o attention --objects 2
isdfine visualize distillation -r output/student/best.pth -o taught -u teacher.checkpoint=output/teacher/best.pth
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import isdfine

from ..api.run import config_of
from ..core.command import add_option, check_folder, check_least, command_parser, one_line_errors, write_json
from ..core.environment import setup_logging
from ..core.errors import ConfigError
from ..core.extras import need
from ..core.files import whole_file
from ..data.dataset.detection import GroundTruth
from ..data.evaluate import EvalResult
from ..deploy.inspection import inspect_image
from ..deploy.preprocess import recipe_of
from ..distill.memory_difference import MEMORY, MemoryLevel, memory_differences, memory_levels
from ..distill.pairing import in_students_columns
from ..distill.taught import Lesson
from ..nn.boxes import xyxy_to_cxcywh
from ..nn.padding import IMAGE_SIZE
from ..nn.types import BatchDetections, Want
from ..plots.attention import attention_figure, attention_maps_figure
from ..plots.chosen_images import ChosenImage, chosen_images, file_stem
from ..plots.distillation import ComparedImage, ComparedLevel, distillation_figure
from ..plots.edge_distributions import refinement_figure
from ..plots.evaluation_plots import confusion_figure, f1_figure, precision_recall_figure
from ..solver.evaluate import detect
from ..solver.solver import Evaluation
from ..solver.teacher import build_lesson
from ..viz.canvas import save_figure
from ..viz.draw import THRESHOLD, draw_detections, side_by_side
from ..viz.errors import Judgement, Kind, judge
from ..viz.fonts import legible_name
from ..viz.matching import JudgedImage
from ..viz.report import EvaluationReport, Picture, write_report
from ..viz.sheet import SHEET, error_sheets

NEEDED = ("model", "postprocessor", "evaluator", "val_dataloader")
WITH_FIGURES = ("report", "fdr", "attention", "distillation")
FIRST = 8
"""Validation images that are looked at where none are named."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    run = argparse.ArgumentParser(add_help=False)
    add_option(run, "config", help="YAML file of the run; may be left out: the checkpoint holds its own")
    run.add_argument("-r", "--resume", required=True, help="checkpoint or run folder")
    add_option(run, "output", required=True, help="folder to write")
    add_option(run, "update")
    add_option(run, "device")
    add_option(run, "overwrite")
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
    layers.add_argument("--layers", type=int, nargs="+", default=[], metavar="N", help="decoder layers, the first is 1")

    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser(
        "report", parents=[run, judge], help="evaluate, and write one HTML file with everything"
    )
    whole.add_argument("--samples", type=int, default=8, help="sample pictures (%(default)s)")
    commands.add_parser("errors", parents=[run, judge], help="evaluate, and write sheets of what went wrong")
    commands.add_parser("detections", parents=[run, look], help="ground truth and detections side by side")
    commands.add_parser("fdr", parents=[run, look, layers], help="edge distributions, as the paper's Figure 4")
    commands.add_parser("attention", parents=[run, look, layers], help="sampling points and attention maps")
    commands.add_parser("distillation", parents=[run, look], help="teacher and student: boxes, memory, LCMD's masks")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse what would only be found out later."""
    check_least(options, max_images=1, objects=1, most=1, samples=1)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold {options.threshold}: give a score from 0 to 1")
    check_folder(options.output, overwrite=options.overwrite)
    if options.command in WITH_FIGURES:
        need("matplotlib", "plots")


def open_run(options: argparse.Namespace) -> Evaluation:
    """The model with its weights, and the validation data."""
    if Path(options.resume).suffix in (".onnx", ".engine"):
        raise ConfigError(
            f"--resume {options.resume}: pictures need the checkpoint it was exported from; "
            "isdfine predict draws the detections of exported models"
        )
    overrides = [*options.update, f"resume={json.dumps(options.resume)}", "tuning=null"]
    overrides += [f"device={options.device}"] if options.device else []
    config = isdfine.load_config(options.config or config_of(options.resume), overrides)
    config.require(*NEEDED)
    run = Evaluation(config)
    run.load(options.resume)
    run.model.eval()
    return run


# --- the whole validation set -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evaluated:
    """An evaluated validation set; images in the order of their ids."""

    run: Evaluation
    result: EvalResult
    ids: list[int]
    judgement: Judgement

    def truth(self, index: int) -> GroundTruth:
        """Annotated boxes of an image, and the image."""
        return self.run.val_loader.dataset.ground_truth(self.ids[index])

    def detections(self, index: int) -> BatchDetections:
        """Of one image."""
        image = self.judgement.images[index]
        return BatchDetections(
            *(torch.from_numpy(field) for field in (image.labels, image.boxes_xyxy_px, image.scores))
        )

    def sheets(self, most: int) -> Iterator[tuple[Kind, int, list[Image.Image]]]:
        """Per kind of error how many there are, and sheets with the first ``most``."""
        return error_sheets(self.judgement, most, lambda index: self.truth(index).image())


def evaluate(options: argparse.Namespace) -> Evaluated:
    """Detect on the validation images, once, and compare."""
    run = open_run(options)
    run.evaluator.reset()
    images_by_id: dict[int, JudgedImage] = {}
    for images, targets in tqdm(run.val_loader, desc="evaluating", unit="batch", disable=None, leave=False):
        left = len(targets) if options.max_images is None else options.max_images - len(images_by_id)
        with torch.inference_mode():
            batch = detect(run.model, run.postprocessor, images, targets)
        batch = BatchDetections(*(field[:left].cpu() for field in batch))
        run.evaluator.update(batch, targets[:left])
        for row, target in enumerate(targets[:left]):
            images_by_id[int(target["image_id"])] = judged_image(run, int(target["image_id"]), batch, row)
        if options.max_images is not None and len(images_by_id) >= options.max_images:
            break
    result, ids = run.evaluator.summarize(), sorted(images_by_id)
    judgement = judge(
        [images_by_id[image_id] for image_id in ids], run.label_space.names, options.threshold,
        max_detections=run.evaluator.max_dets[-1],
    )  # fmt: skip
    return Evaluated(run, result, ids, judgement)


def judged_image(run: Evaluation, image_id: int, batch: BatchDetections, row: int) -> JudgedImage:
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


def errors(options: argparse.Namespace) -> None:
    """Sheets as PNG, and all errors as CSV."""
    evaluated = evaluate(options)
    judgement = evaluated.judgement
    print(f"{len(judgement.images)} images, score >= {judgement.threshold:.3f}")
    for kind, total, pages in evaluated.sheets(options.most):
        for number, page in enumerate(pages, 1):
            save_picture(page, options.output / f"{kind}_{number:02}.png")
        print(f"{kind + ':':<14}{total:>7}")
    judgement.write_errors(options.output / "errors.csv")
    print(f"written:      {options.output}")


def report(options: argparse.Namespace) -> None:
    """The HTML file, and its parts as files of their own."""
    evaluated = evaluate(options)
    judgement, out = evaluated.judgement, options.output
    plots = {
        "Precision and recall": precision_recall_figure(judgement.curves),
        "F1 over the threshold": f1_figure(judgement.curves, judgement.threshold),
        f"Confusion matrix at score {judgement.threshold:.3f}": confusion_figure(
            judgement.mistakes.confusion, judgement.names
        ),
    }
    for name, figure in zip(("precision_recall", "f1", "confusion"), plots.values()):
        save_figure(figure, out / f"{name}.png")
    shown: dict[Kind, tuple[int, Image.Image | None]] = {}
    for kind, total, pages in evaluated.sheets(min(options.most, SHEET)):
        shown[kind] = (total, pages[0] if pages else None)
        if pages:
            save_picture(pages[0], out / f"errors_{kind}.png")
    page = EvaluationReport(
        title=f"Evaluation of {Path(options.resume).name} on {len(judgement.images):,} images",
        facts=facts(options, evaluated),
        stats=evaluated.result.stats,
        class_aps=[row.ap for row in evaluated.result.per_class],
        curves=judgement.curves,
        threshold=judgement.threshold,
        confusion=judgement.mistakes.confusion,
        plots=plots,
        samples=list(sample_pictures(evaluated, options.samples, out)),
        errors=shown,
    )
    write_json(out / "report.json", evaluated.result.to_dict() | judgement.numbers())
    write_report(out / "report.html", page)
    print(evaluated.result.table())
    print(f"report: {out / 'report.html'} ({(out / 'report.html').stat().st_size / 1e6:.1f} MB)")


def sample_pictures(evaluated: Evaluated, most: int, out: Path) -> Iterator[Picture]:
    """Images spread evenly over the set, ground truth beside detections."""
    images, threshold = evaluated.judgement.images, evaluated.judgement.threshold
    for index in np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist():
        drawn = side_by_side(evaluated.truth(index), evaluated.detections(index), evaluated.run.label_space, threshold)
        save_picture(drawn, out / f"sample_{evaluated.ids[index]}_{file_stem(images[index].name)}.png")
        yield Picture(images[index].name, drawn)


def facts(options: argparse.Namespace, evaluated: Evaluated) -> dict[str, str]:
    """What was evaluated with what."""
    run = evaluated.run
    data = run.val_loader.dataset.annotations
    return {
        "checkpoint": str(Path(options.resume).resolve()),
        "config": str(Path(options.config or options.resume).resolve()),
        "annotations": f"{data.place} ({len(evaluated.ids):,} of {len(data):,} images)",
        "classes": f"{len(run.label_space):,}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": f"isdfine {isdfine.__version__}, torch {torch.__version__}, device {run.device}",
    }


# --- chosen images ----------------------------------------------------------------------------------------------------


def chosen_by(options: argparse.Namespace, run: Evaluation) -> Iterator[ChosenImage]:
    """Those named on the command line, or the first of the validation set."""
    dataset = run.val_loader.dataset
    first = dataset.annotations.image_ids[: options.max_images or FIRST]
    wanted = options.images[: options.max_images] or [str(image_id) for image_id in first.tolist()]
    return chosen_images(wanted, dataset, recipe_of(run.config), run.device)


def detections(options: argparse.Namespace) -> None:
    """Ground truth and detections side by side; detections alone where there is no ground truth."""
    run = open_run(options)
    for chosen in chosen_by(options, run):
        target = {"orig_size": torch.tensor(chosen.size, device=run.device)}
        if chosen.image_sizes is not None:
            target[IMAGE_SIZE] = chosen.image_sizes[0].to(run.device)
        with torch.inference_mode():
            batch = detect(run.model, run.postprocessor, chosen.images, [target])
        answer = BatchDetections(*(field[0].cpu() for field in batch))
        if chosen.truth is None:
            drawn = draw_detections(chosen.image, answer, run.label_space, options.threshold)
        else:
            drawn = side_by_side(chosen.truth, answer, run.label_space, options.threshold)
        path = options.output / f"{chosen.name}.png"
        save_picture(drawn, path)
        print(path)


def decoder_figures(options: argparse.Namespace) -> None:
    """One figure per object of its edge distributions, or of its attention; then also the self-attention per image."""
    run = open_run(options)
    for chosen in chosen_by(options, run):
        seen = inspect_image(run.model, chosen.images, chosen.size, chosen.image_sizes)
        queries = seen.surest(options.objects, options.threshold)
        if not queries:
            print(f"{chosen.name}: nothing with a score of at least {options.threshold:g}: lower --threshold")
        for rank, query in enumerate(queries, 1):
            label = int(seen.scores[query].argmax())
            name, score = run.label_space.names[label], f"{seen.scores[query, label]:.2f}"
            path = options.output / f"{chosen.name}_{rank}.png"
            caption, title = f"{legible_name(name, label)} {score}", f"{chosen.name}, object {rank}"
            if options.command == "fdr":
                figure = refinement_figure(chosen.image, seen, query, caption, options.layers, title)
            else:
                figure = attention_figure(chosen.image, seen, query, caption, options.layers)
            save_figure(figure, path)
            print(f"{path}: {name} {score}")
        if options.command == "attention":
            path = options.output / f"{chosen.name}_self_attention.png"
            save_figure(attention_maps_figure(seen, options.layers), path)
            print(path)


def distillation(options: argparse.Namespace) -> None:
    """Teacher and student of a run on the same image, one figure each."""
    run = open_run(options)
    lesson = build_lesson(run.config, run.label_space, run.device)
    if lesson is None:
        raise ConfigError(f"{options.resume} has learned from no teacher: name one, -u teacher.checkpoint=FILE")
    levels: list[MemoryLevel] = []
    try:
        levels = memory_levels(run.model, lesson.teacher)
    except ValueError as error:
        print(f"memory and masks are left out: {error}")
    for chosen in chosen_by(options, run):
        seen = compared(run, lesson, levels, chosen)
        path = options.output / f"{chosen.name}.png"
        save_figure(distillation_figure(chosen.image, seen, run.label_space, options.threshold, chosen.name), path)
        print(path)


@torch.inference_mode()
def compared(run: Evaluation, lesson: Lesson, levels: list[MemoryLevel], chosen: ChosenImage) -> ComparedImage:
    """What teacher and student say of an image; the teacher in the classes that both know, as it is learned from."""
    images, truth, want = chosen.images, chosen.truth, Want(taps=MEMORY if levels else frozenset())
    image_sizes = None if chosen.image_sizes is None else chosen.image_sizes.to(run.device)
    canvas = (images.shape[-2], images.shape[-1])
    size = torch.tensor(chosen.size[::-1], dtype=torch.float32, device=run.device)  # width, height
    expected = lesson.teacher(images, image_sizes, want=want)
    own = run.model(images, image_sizes=image_sizes, want=want)
    columns = own.layers[-1].logits.shape[-1]
    teacher, student = (
        BatchDetections(*(field[0].cpu() for field in run.postprocessor(predictions, size[None])))
        for predictions in (in_students_columns(expected.layers[-1], lesson.classes, columns), own.layers[-1])
    )
    boxes = images.new_zeros(0, 4) if truth is None else xyxy_to_cxcywh(truth.boxes.to(size) / size.repeat(2))
    differences = memory_differences(levels, own, expected, boxes[None], canvas, image_sizes)
    maps = [
        ComparedLevel(level.stride, *(field[0].cpu().numpy() for field in difference))
        for level, difference in zip(levels, differences)
    ]
    inside = canvas if image_sizes is None else image_sizes[0].tolist()
    span = (chosen.size[0] * canvas[0] / inside[0], chosen.size[1] * canvas[1] / inside[1])
    return ComparedImage(truth, teacher, student, maps, span, all(level.same_width for level in levels))


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with whole_file(path, durable=False) as partial:
        image.save(partial, format="PNG")


COMMANDS = {
    "report": report,
    "errors": errors,
    "detections": detections,
    "fdr": decoder_figures,
    "attention": decoder_figures,
    "distillation": distillation,
}


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    setup_logging()
    check(options)
    COMMANDS[options.command](options)
    return 0
