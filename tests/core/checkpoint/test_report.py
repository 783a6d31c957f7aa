# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The table of what became of every tensor, and its JSON."""

import json

from isdfine.core.checkpoint.weights import LoadReport, MappedRows, Mismatch
from isdfine.solver.tuning import map_classes


def report() -> LoadReport:
    classes = map_classes(["Person", "Moniter/TV", "x"], ["zeppelin", "person", "tv"], {"moniter/tv": "=", "tv": "="})
    return LoadReport(
        "old.pth",
        loaded=["backbone.a", "backbone.b", "decoder.c"],
        mapped=[
            *(MappedRows(f"decoder.dec_score_head.{index}.bias", 2, 3) for index in range(6)),
            MappedRows("decoder.table.weight", 2, 3, padding=1),
        ],
        missing=["decoder.layers.3.a", "decoder.layers.4.a"],
        unexpected=["fc.weight"],
        mismatched=[Mismatch("encoder.w", (2, 3), (2, 4)), Mismatch("decoder.i", (1,), (1,), "not whole")],
        kept=["decoder.anchors"],
        classes=classes,
        notes=["a word"],
    )


def test_table() -> None:
    assert report().table().splitlines() == [
        "old.pth: 3 tensors loaded, 7 by class name, 2 of another shape, 2 missing, 1 unexpected, 1 kept",
        "  loaded       backbone: 2 tensors",
        "  loaded       decoder: 1 tensor",
        "  mapped       decoder.dec_score_head.0..5.bias (6 tensors): 2 of 3 rows by class name",
        "  mapped       decoder.table.weight: 2 of 3 rows by class name (its padding row stays)",
        "  initialised  encoder.w: [2, 3] in the file, [2, 4] in the model",
        "  initialised  decoder.i: not whole",
        "  initialised  decoder.layers.3..4.a (2 tensors): not in the file",
        "  unused       fc.weight: not in the model",
        "  kept         decoder.anchors",
        "  same class   person",
        "  class        tv <- Moniter/TV (row 1)",
        "  new class    zeppelin",
        "  note         a word",
    ]


def test_json_has_every_tensor_and_class() -> None:
    data = json.loads(json.dumps(report().to_dict()))
    assert data["classes"] == {
        "model": ["zeppelin", "person", "tv"],
        "source": [None, "Person", "Moniter/TV"],
        "source_rows": [None, 0, 1],
    }
    assert {tensor["status"] for tensor in data["tensors"].values()} == {
        "loaded",
        "mapped",
        "initialised",
        "unused",
        "kept",
    }
    assert len(data["tensors"]) == 3 + 7 + 2 + 2 + 1 + 1
    assert data["tensors"]["decoder.table.weight"] | {"detail": ""} == {
        "status": "mapped", "rows": 2, "of": 3, "detail": "",
    }  # fmt: skip
    assert data["tensors"]["decoder.layers.4.a"] == {"status": "initialised", "detail": "not in the file"}
    assert data["notes"] == ["a word"]


def test_a_head_without_any_known_class_is_initialised() -> None:
    one = LoadReport("old.pth", mapped=[MappedRows("head.bias", 0, 3)])
    assert one.initialised == ["head.bias"]
    assert "initialised  head.bias: none of its 3 classes is in the file" in one.table()
    assert one.to_dict()["tensors"]["head.bias"]["status"] == "initialised"


def test_braces_in_names_do_no_harm() -> None:
    table = LoadReport("x", unexpected=["a{b}.0.c", "a{b}.1.c"], kept=["{}.0"]).table()
    assert "a{b}.0..1.c (2 tensors)" in table
    assert "{}.0" in table
