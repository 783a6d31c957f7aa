# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The page: complete, escaped, offline; and opened in a real browser where there is one."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isdfine.plots.evaluation_plots import confusion_figure, f1_figure, precision_recall_figure
from isdfine.viz.errors import KINDS, find_mistakes
from isdfine.viz.matching import match_all
from isdfine.viz.operating_points import score_curves
from isdfine.viz.report import LARGEST_PX, EvaluationReport, Picture, page, write_report
from judged_cases import random_images

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NAMES = ["cat", "<script>alert(1)</script>", "dog & co"]


def report() -> EvaluationReport:
    images = random_images(0, 20)
    matches = match_all(images)
    curves = score_curves(images, matches, NAMES)
    found = find_mistakes(images, matches, 3, 0.4)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 4000, 3), dtype=np.uint8))
    return EvaluationReport(
        title="Evaluation <of> a run",
        facts={"checkpoint": "best.pth", "path": "a & b"},
        stats={"AP": 0.4321, "AP50": 0.7, "APs": -1.0, "AR100": 0.5},
        class_aps=[0.1, 0.2, -1.0],
        curves=curves,
        threshold=0.4,
        confusion=found.confusion,
        plots={
            "Precision and recall": precision_recall_figure(curves),
            "F1": f1_figure(curves, 0.4),
            "Confusion matrix": confusion_figure(found.confusion, NAMES),
        },
        samples=[Picture("one <image>.png", picture)],
        errors={kind: (len(found.of(kind)), picture if kind == "miss" else None) for kind in KINDS},
    )


class Reader(HTMLParser):
    """Collects tags, attributes and text, and sees that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data.strip())


def test_everything_is_on_the_page() -> None:
    given = report()
    read = Reader(page(given))
    for text in (
        "Evaluation <of> a run",
        "a & b",
        *NAMES,
        "one <image>.png",
        "43.2",
        "AR with 100 detections per image",
    ):
        assert text in read.text
    for curve in given.curves:
        best = curve.best()
        assert best is not None
        assert f"{best.threshold:.3f}" in read.text
        assert f"{100 * curve.ap:.1f}" in read.text
    inside = given.confusion[:-1, :-1].copy()
    np.fill_diagonal(inside, 0)
    assert f"{inside.max():,}" in read.text
    for kind, (count, _) in given.errors.items():
        assert f"{KINDS[kind]}: {count:,}" in read.text
    assert read.text[read.text.index("AP of small objects (below 32 x 32 px)") + 1] == "-"


def test_nothing_is_loaded_from_elsewhere() -> None:
    read = Reader(page(report()))
    assert not [tag for tag, _ in read.tags if tag in ("script", "iframe", "object", "embed", "audio", "video")]
    links = [value for _, attributes in read.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(links) == 6
    assert all(link is not None and link.startswith("data:") for link in links)
    assert not re.search(r"https?:|url\(|@import", page(report()).replace("http-equiv", ""))
    policy = next(
        attributes["content"]
        for _, attributes in read.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_are_whole_and_not_larger_than_needed() -> None:
    read = Reader(page(report()))
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(pictures) == 5
    for picture in pictures:
        assert picture["alt"]
        assert picture["src"] is not None
        with Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1]))) as image:
            image.load()
            assert max(image.size) <= LARGEST_PX


def test_no_confusions_at_all(tmp_path: Path) -> None:
    given = report()
    given.confusion[:-1, :-1] = 0
    write_report(tmp_path / "r" / "report.html", given)
    assert "No object was taken for one of another class." in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.slow
def test_a_browser_opens_it_without_a_complaint(tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}) is installed")
    write_report(tmp_path / "report.html", report())
    complaining = tmp_path / "complaining.html"
    complaining.write_text("<script>console.error('seen by the test')</script>")
    shown, said = {}, {}
    for file in (tmp_path / "report.html", complaining):
        shot = tmp_path / f"{file.stem}.png"
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--window-size=1200,2400",
             file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        said[file.stem] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        with Image.open(shot) as picture:
            shown[file.stem] = np.asarray(picture.convert("RGB"))
    assert len(said["complaining"]) == 1, "the browser must tell what pages complain about"
    assert not said["report"]
    assert shown["report"].shape == (2400, 1200, 3)
    assert len(np.unique(shown["report"].reshape(-1, 3), axis=0)) > 100
