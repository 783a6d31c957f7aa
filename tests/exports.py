# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Small hand-made exports as annotation tools write them: file names and texts; pictures are drawn.

All say the same: ``a`` has a cat and a dog, ``b`` a dog.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isdfine.data.dataset.detection import DetectionDataset
from planted import HEIGHT, WIDTH, picture

Box = tuple[str, tuple[int, int, int, int]]
BOXES: dict[str, list[Box]] = {
    "a": [("cat", (8, 6, 40, 24)), ("dog", (60, 20, 32, 40))],
    "b": [("dog", (10, 8, 64, 48))],
}
"""Class and x, y, width, height of each image's objects."""
Files = Mapping[str, str | int]
"""Content by path; a number is the seed of a picture."""


_TAIL = "\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>"
"""What an object of Pascal VOC has before its box."""


def write(root: Path, files: Files) -> Path:
    """Make the files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            picture(content).save(path, quality=92)
        else:
            path.write_text(content, encoding="utf-8")
    return root


def coco(
    names: Mapping[str, str],
    *,
    ids: Sequence[int] = (1, 2),
    first: int = 1,
    image: Mapping[str, Any] | None = None,
    annotation: Mapping[str, Any] | None = None,
    category: Mapping[str, Any] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
    **top: Any,
) -> dict[str, Any]:
    """COCO detection JSON.

    Args:
        names: file name of each image.
        ids: of the categories cat and dog.
        first: id of the first image and annotation.
        image, annotation, category: what the tool writes more into each entry.
        more: categories before these.
        top: what it writes more at the top.
    """
    content: dict[str, Any] = {**top, "images": [], "annotations": [], "categories": [*more]}
    numbers = dict(zip(("cat", "dog"), ids))
    content["categories"] += [{"id": number, "name": name, **(category or {})} for name, number in numbers.items()]
    for index, (stem, name) in enumerate(names.items(), first):
        size = {"width": WIDTH, "height": HEIGHT}
        content["images"].append({"id": index, **size, "file_name": name, **(image or {})})
        for label, (x, y, w, h) in BOXES[stem]:
            content["annotations"].append(
                {"id": len(content["annotations"]) + first, "image_id": index, "category_id": numbers[label],
                 "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "area": float(w * h),
                 "bbox": [x, y, w, h], "iscrowd": 0, **(annotation or {})}
            )  # fmt: skip
    return content


def rows(stem: str, classes: Sequence[str] = ("cat", "dog")) -> str:
    """A label file of YOLO."""
    lines = []
    for label, (x, y, w, h) in BOXES[stem]:
        numbers = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
        lines.append(" ".join([str(classes.index(label)), *(f"{number:.6f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def xml(stem: str, *, filename: str, head: str = "", tail: str = "", corners: str = "{:.0f}") -> str:
    """An annotation file of Pascal VOC.

    Args:
        head: before the size, as the tool writes it.
        tail: within each object, before its box.
        corners: how a number is written.
    """
    objects = []
    for label, (x, y, w, h) in BOXES[stem]:
        ends = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h))
        box = "".join(f"\n\t\t\t<{tag}>{corners.format(value)}</{tag}>" for tag, value in ends)
        objects.append(f"\n\t<object>\n\t\t<name>{label}</name>{tail}\n\t\t<bndbox>{box}\n\t\t</bndbox>\n\t</object>")
    size = f"<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n\t</size>"
    return (
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{filename}</filename>{head}\n\t{size}\n\t"
        f"<segmented>0</segmented>{''.join(objects)}\n</annotation>\n"
    )


def cvat_coco() -> Files:
    content = coco(
        {"a": "a.jpg", "b": "b.jpg"},
        image={"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
        annotation={"attributes": {"occluded": False, "rotation": 0.0}},
        category={"supercategory": ""},
        licenses=[{"name": "", "id": 0, "url": ""}],
        info={"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
    )
    mask = {"counts": [100, 6, 90, 6, WIDTH * HEIGHT - 202], "size": [HEIGHT, WIDTH]}  # of the brush
    content["annotations"][0]["segmentation"] = mask
    return {"annotations/instances_default.json": json.dumps(content), "images/default/a.jpg": 1,
            "images/default/b.jpg": 2}  # fmt: skip


def cvat_yolo() -> Files:
    return {
        "obj.data": "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n",
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        **{f"obj_train_data/{stem}.txt": rows(stem) for stem in BOXES},
        "obj_train_data/a.jpg": 1,
        "obj_train_data/b.jpg": 2,
    }


def cvat_ultralytics(prefix: str = "") -> Files:
    return {
        "data.yaml": "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n",
        "train.txt": "".join(f"{prefix}images/train/{stem}.jpg\n" for stem in BOXES),
        **{f"labels/train/{stem}.txt": rows(stem) for stem in BOXES},
        "images/train/a.jpg": 1,
        "images/train/b.jpg": 2,
    }


def cvat_voc() -> Files:
    head = "\n\t<source>\n\t\t<database>Unknown</database>\n\t\t<annotation>Unknown</annotation>\n\t</source>"
    tail = (
        "\n\t\t<truncated>0</truncated>\n\t\t<occluded>0</occluded>\n\t\t<difficult>0</difficult>\n\t\t<attributes>"
        "<attribute><name>rotation</name><value>0.0</value></attribute></attributes>"
    )
    texts = {stem: xml(stem, filename=f"{stem}.jpg", head=head, tail=tail, corners="{:.1f}") for stem in BOXES}
    return {
        "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:51,221,255::\n",
        "ImageSets/Main/default.txt": "a\nb\n",
        "JPEGImages/a.jpg": 1,
        "JPEGImages/b.jpg": 2,
        **{f"Annotations/{stem}.xml": text for stem, text in texts.items()},
    }


def label_studio_coco() -> Files:
    content = coco(
        {"a": "images/3fa1b2c4-a.jpg", "b": "images/77d0e1f2-b.jpg"},
        ids=(0, 1),
        first=0,
        annotation={"ignore": 0, "segmentation": []},
        info={"year": 2024, "version": "1.0", "description": "", "contributor": "Label Studio", "url": "",
              "date_created": "2024-05-01 10:00:00.000000"},
    )  # fmt: skip
    return {"result.json": json.dumps(content, indent=2), "images/3fa1b2c4-a.jpg": 1, "images/77d0e1f2-b.jpg": 2}


def label_studio_yolo() -> Files:
    notes = {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
             "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"}}  # fmt: skip
    return {
        "classes.txt": "cat\ndog\n",
        "notes.json": json.dumps(notes),
        "images/3fa1b2c4-a.jpg": 1,
        "images/77d0e1f2-b.jpg": 2,
        "labels/3fa1b2c4-a.txt": rows("a"),
        "labels/77d0e1f2-b.txt": rows("b"),
    }


def label_studio_voc() -> Files:
    head = "\n\t<source>\n\t\t<database>MyDatabase</database>\n\t</source>\n\t<owner>\n\t\t<name>me</name>\n\t</owner>"
    texts = {stem: xml(stem, filename=f"3fa1b2c4-{stem}", head=head, tail=_TAIL) for stem in BOXES}
    return {"images/3fa1b2c4-a.jpg": 1, "images/3fa1b2c4-b.jpg": 2,
            **{f"Annotations/3fa1b2c4-{stem}.xml": text for stem, text in texts.items()}}  # fmt: skip


_README = "pets - v1 2024-05-01\nThis dataset was exported via roboflow.com on May 1, 2024\n"
_NAMES = {"a": "a_jpg.rf.0a1b2c3d4e5f.jpg", "b": "b_jpg.rf.9f8e7d6c5b4a.jpg"}


def roboflow_coco(train: str = "train", valid: str = "valid") -> Files:
    files: dict[str, str | int] = {"README.dataset.txt": _README, "README.roboflow.txt": _README}
    for folder, stem, seed in ((train, "a", 1), (valid, "b", 2)):
        content = coco(
            {stem: _NAMES[stem]}, first=0,
            image={"license": 1, "date_captured": "2024-05-01T10:00:00+00:00"},
            annotation={"segmentation": []},
            category={"supercategory": "pets"},
            more=[{"id": 0, "name": "pets", "supercategory": "none"}],
            info={"year": "2024", "version": "1", "description": "Exported from roboflow.com", "contributor": "",
                  "url": "https://public.roboflow.com/object-detection/undefined", "date_created": "2024-05-01"},
            licenses=[{"id": 1, "url": "", "name": "Public Domain"}],
        )  # fmt: skip
        files |= {f"{folder}/_annotations.coco.json": json.dumps(content), f"{folder}/{_NAMES[stem]}": seed}
    return files


def roboflow_yolo(train: str = "train", valid: str = "valid", images: str = "images", labels: str = "labels") -> Files:
    stems = {stem: name.removesuffix(".jpg") for stem, name in _NAMES.items()}
    return {
        "data.yaml": (
            f"train: ../{train}/{images}\nval: ../{valid}/{images}\ntest: ../test/images\n\nnc: 2\n"
            "names: ['cat', 'dog']\n\nroboflow:\n  workspace: me\n  project: pets\n  version: 1\n  license: CC BY 4.0\n"
            "  url: https://universe.roboflow.com/me/pets/dataset/1\n"
        ),
        "README.roboflow.txt": _README,
        f"{train}/{images}/{_NAMES['a']}": 1,
        f"{train}/{labels}/{stems['a']}.txt": rows("a"),
        f"{valid}/{images}/{_NAMES['b']}": 2,
        f"{valid}/{labels}/{stems['b']}.txt": rows("b"),
    }


def roboflow_voc() -> Files:
    files: dict[str, str | int] = {"README.roboflow.txt": _README}
    for folder, stem, seed in (("train", "a", 1), ("valid", "b", 2)):
        text = xml(stem, filename=_NAMES[stem], tail=f"{_TAIL}\n\t\t<occluded>0</occluded>")
        files |= {f"{folder}/{_NAMES[stem]}": seed, f"{folder}/{_NAMES[stem].removesuffix('.jpg')}.xml": text}
    return files


def labelimg_voc(images: str = "images", annotations: str = "annotations") -> Files:
    texts = {
        stem: xml(stem, filename=f"{stem}.jpg", tail=_TAIL,
                  head=f"\n\t<path>C:\\me\\{stem}.jpg</path>\n\t<source>\n\t\t<database>Unknown</database>\n\t</source>")
        for stem in BOXES
    }  # fmt: skip
    return {f"{images}/a.jpg": 1, f"{images}/b.jpg": 2, **{f"{annotations}/{stem}.xml": texts[stem] for stem in BOXES}}


def labelimg_yolo() -> Files:
    return {"classes.txt": "cat\ndog\n", "a.jpg": 1, "b.jpg": 2, "a.txt": rows("a"), "b.txt": rows("b")}


def labelme_script() -> Files:
    """By labelme's own labelme2coco.py."""
    content = coco(
        {"a": "JPEGImages/a.jpg", "b": "JPEGImages/b.jpg"},
        first=0,
        image={"license": 0, "url": None, "date_captured": None},
        category={"supercategory": None},
        more=[{"id": 0, "name": "_background_", "supercategory": None}],
        info={"description": None, "url": None, "version": None, "year": 2024, "contributor": None,
              "date_created": "2024-05-01 10:00:00.000000"},
        licenses=[{"url": None, "id": 0, "name": None}],
        type="instances",
    )  # fmt: skip
    pictures = {f"{folder}/{stem}.jpg": seed for folder, more in (("JPEGImages", 0), ("Visualization", 2))
                for seed, stem in enumerate(BOXES, 1 + more)}  # fmt: skip
    return {"annotations.json": json.dumps(content), **pictures}


def labelme_shapes(stem: str) -> str:
    """LabelMe's own file of one image."""
    shapes = [
        {"label": label, "points": [[x, y], [x + w, y + h]], "group_id": None, "shape_type": "rectangle", "flags": {}}
        for label, (x, y, w, h) in BOXES[stem]
    ]
    return json.dumps({"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg",
                       "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}, indent=2)  # fmt: skip


def labelme_package() -> Files:
    """By the package labelme2coco, beside LabelMe's own files."""
    content = coco({"a": "a.jpg", "b": "b.jpg"}, ids=(0, 1), category={"supercategory": "cat"})
    return {"dataset.json": json.dumps(content), "a.jpg": 1, "b.jpg": 2,
            **{f"{stem}.json": labelme_shapes(stem) for stem in BOXES}}  # fmt: skip


def via2_coco() -> Files:
    content = coco(
        {"a": "a.jpg", "b": "b.jpg"}, first=0, category={"supercategory": "type"},
        image={"license": 1, "flickr_url": "", "coco_url": "", "date_captured": ""},
        info={"year": 2024, "version": "1", "description": "Exported using VGG Image Annotator", "contributor": "",
              "url": "http://www.robots.ox.ac.uk/~vgg/software/via/", "date_created": "Wed May 01 2024"},
        licenses=[{"id": 1, "name": "Unknown", "url": ""}],
    )  # fmt: skip
    for annotation in content["annotations"]:
        annotation |= {"image_id": str(annotation["image_id"]), "segmentation": annotation["segmentation"][0]}
    return {"via_export_coco.json": json.dumps(content), "a.jpg": 1, "b.jpg": 2}


def via3_coco() -> Files:
    content = coco(
        {"a": "a.jpg", "b": "b.jpg"}, ids=(0, 1), category={"supercategory": "class"},
        image={"license": 0, "coco_url": "a.jpg", "width": -1, "height": -1, "date_captured": "", "flickr_url": ""},
        annotation={"iscrowd": False},
    )  # fmt: skip
    return {"pets-coco.json": json.dumps(content), "a.jpg": 1, "b.jpg": 2}


def supervisely_coco() -> Files:
    files: dict[str, str | int] = {}
    for folder, stem, seed in (("train", "a", 1), ("val", "b", 2)):
        content = coco(
            {stem: f"{stem}.jpg"}, first=1,
            image={"license": "None", "url": "None", "id": 19425323, "date_captured": "2024-05-01T10:00:00.000Z"},
            annotation={"image_id": 19425323, "segmentation": []},
            info={"description": "", "url": "None", "version": "1.0", "year": 2024, "contributor": "me",
                  "date_created": "2024-05-01T10:00:00.000Z"},
            licenses=[{"url": "None", "id": 0, "name": "None"}],
        )  # fmt: skip
        for category in content["categories"]:
            category["supercategory"] = category["name"]
        files |= {f"{folder}/annotations/instances.json": json.dumps(content), f"{folder}/images/{stem}.jpg": seed}
    return files


def v7_coco() -> Files:
    content = coco(
        {"a": "a.jpg", "b": "b.jpg"}, ids=(1023345654, 3879841128),
        image={"license": 0, "coco_url": "https://darwin.v7labs.com/api/1", "flickr_url": "", "date_captured": "",
               "darwin_url": "https://darwin.v7labs.com/datasets/1", "tag_ids": []},
        annotation={"extra": {}},
        category={"supercategory": "root"},
        info={"description": "Exported from Darwin", "url": "", "version": 1, "year": 2024, "contributor": ""},
        licenses=[{"url": "n/a", "id": 0, "name": "placeholder license"}],
        tag_categories=[],
    )  # fmt: skip
    return {"pets.json": json.dumps(content), "images/a.jpg": 1, "images/b.jpg": 2}


def makesense_coco() -> Files:
    content = coco({"a": "a.jpg", "b": "b.jpg"}, info={"description": "my-project-name"})
    return {"labels_my-project-name_2024-05-01-10-00-00.json": json.dumps(content), "a.jpg": 1, "b.jpg": 2}


CASES = {
    "CVAT COCO": (cvat_coco(), {"default": "ab"}, ()),
    "CVAT YOLO": (cvat_yolo(), {"train": "ab"}, ()),
    "CVAT Ultralytics": (cvat_ultralytics(), {"train": "ab"}, ()),
    "CVAT Ultralytics, older": (cvat_ultralytics("data/"), {"train": "ab"}, ()),
    "CVAT VOC": (cvat_voc(), {"default": "ab"}, ()),
    "Label Studio COCO": (label_studio_coco(), {"result": "ab"}, ()),
    "Label Studio YOLO": (label_studio_yolo(), {"train": "ab"}, ()),
    "Label Studio VOC": (label_studio_voc(), {"all": "ab"}, ()),
    "Roboflow COCO": (roboflow_coco(), {"train": "a", "valid": "b"}, ("class without boxes",)),
    "Roboflow COCO, capitals": (
        roboflow_coco("Train", "Valid"), {"Train": "a", "Valid": "b"}, ("class without boxes",)
    ),
    "Roboflow YOLO": (roboflow_yolo(), {"train": "a", "val": "b"}, ("class not in evaluation",)),
    "Roboflow YOLO, capitals": (
        roboflow_yolo("Train", "Valid", "Images", "Labels"),
        {"train": "a", "val": "b"},
        ("class not in evaluation",),
    ),
    "Roboflow VOC": (roboflow_voc(), {"train": "a", "valid": "b"}, ("class not in evaluation",)),
    "LabelImg VOC": (labelimg_voc(), {"all": "ab"}, ()),
    "LabelImg VOC, beside": (labelimg_voc(".", "."), {"all": "ab"}, ()),
    "LabelImg VOC, capitals": (labelimg_voc("Images", "Labels"), {"all": "ab"}, ()),
    "LabelImg YOLO": (labelimg_yolo(), {"train": "ab"}, ()),
    "LabelMe to COCO, its script": (labelme_script(), {"annotations": "ab"}, ("class without boxes",)),
    "LabelMe to COCO, package": (labelme_package(), {"dataset": "ab"}, ()),
    "VIA 2 COCO": (via2_coco(), {"via_export_coco": "ab"}, ("odd entry",)),  # numbers as text
    "Supervisely COCO": (supervisely_coco(), {"train": "a", "val": "b"}, ()),
    "V7 COCO": (v7_coco(), {"pets": "ab"}, ()),
    "makesense COCO": (makesense_coco(), {"labels_my-project-name_2024-05-01-10-00-00": "ab"}, ()),
}  # fmt: skip
"""Files; images of each split that is found; kinds of findings, which are true of the export."""


def objects_of(data: DetectionDataset) -> dict[str, list[Box]]:
    """What training gets of each image, by the last letter of its name before the suffix."""
    objects = {}
    for index, name in enumerate(data.annotations.file_names):
        stem = re.sub(r"(_jpg\.rf.*)?\.jpg$", "", name)[-1]
        target = data[index][1]
        corners = [[round(value) for value in box] for box in target["boxes"].tolist()]
        labels = [data.label_space.names[label] for label in target["labels"].tolist()]
        objects[stem] = [(label, (x, y, x1 - x, y1 - y)) for label, (x, y, x1, y1) in zip(labels, corners)]
    return objects
