# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import yaml
from PIL import Image

import isdfine
from builders import micro_sections, write_coco
from isdfine.core.errors import DataError
from isdfine.data.dataset.image_folder import ImageFolder
from isdfine.data.evaluate import CocoEvaluator
from isdfine.solver.solver import Evaluation


def write(root):
    (root / "sub" / ".hidden").mkdir(parents=True)
    for name in ("b.png", "sub/a.JPG", "a.jpeg", ".x.png", "sub/.hidden/c.png"):
        Image.new("RGB", (60, 40)).save(root / name, format="PNG")
    (root / "notes.txt").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(root / "turned.jpg", exif=exif)
    (root / "sub" / "round").symlink_to(root)  # a link that would never end
    return str(root)


def test_images_in_order_of_their_names_upright(tmp_path):
    dataset = ImageFolder(write(tmp_path), num_classes=2)
    assert dataset.annotations.file_names == ("a.jpeg", "b.png", "sub/a.JPG", "turned.jpg")
    assert dataset.label_space.names == ("class 0", "class 1")
    image, target = dataset[3]
    assert image.size == (40, 60)
    assert target["orig_size"].tolist() == [60, 40]
    assert target["boxes"].shape == (0, 4)
    assert target["image_id"].tolist() == [3]
    assert ImageFolder(str(tmp_path), subset=["b", "turned"]).annotations.image_ids.tolist() == [1, 3]
    assert len(ImageFolder(str(tmp_path)).label_space) == 0


def test_it_cannot_be_evaluated(tmp_path):
    evaluator = CocoEvaluator(dataset=ImageFolder(write(tmp_path)))
    with pytest.raises(
        DataError, match=r"images without annotations \(ImageFolder\) cannot be evaluated, only predicted"
    ):
        evaluator.reset()


def test_a_run_cannot_be_judged_on_it(tmp_path):
    sections = micro_sections(write_coco(tmp_path), tmp_path / "run")
    section = {"type": "ImageFolder", "img_folder": str(tmp_path / "images")}
    sections["val_dataloader"]["dataset"] = {**section, "transforms": {"type": "Compose", "ops": []}}
    (tmp_path / "micro.yml").write_text(yaml.safe_dump(sections))
    with pytest.raises(DataError, match=r"images: val_dataloader holds images without annotations \(ImageFolder\) and"):
        Evaluation(isdfine.load_config(tmp_path / "micro.yml"))


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder: check img_folder"):
        ImageFolder(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"no image in this folder \(\.apng, .*\.webp\): check img_folder"):
        ImageFolder(str(tmp_path))
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"a.jpg: cannot be read as an image .*: replace the file or remove its entry"):
        ImageFolder(str(tmp_path))
