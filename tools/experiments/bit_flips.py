#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Turn one bit of a weights file, many times: it is refused, or holds exactly what was written.

python tools/experiments/bit_flips.py --flips 300

Files in turn: a checkpoint, safetensors with and without their card, an ONNX graph; small, so that headers, sums and
metadata are hit as well as weights. Ends with 1 where a file loads with other content.
"""

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isdfine.core.checkpoint import NO_SUM, SUM_KEY, check_sum, read_checkpoint, write_with_sum
from isdfine.core.checkpoint.card import Card, card_path, save_weights
from isdfine.core.command import command_parser
from isdfine.core.errors import CheckpointError
from isdfine.solver.checkpoint import save_checkpoint

STATE = {"backbone.weight": torch.arange(60.0).reshape(6, 10), "decoder.bias": torch.full((3,), 7.0)}


def read_graph(path: Path) -> Any:
    """What an ONNX graph answers."""
    import onnxruntime

    check_sum(path)
    return torch.from_numpy(onnxruntime.InferenceSession(str(path)).run(None, {})[0])


def write_files(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """The files, and what reads each."""
    from onnx import helper, numpy_helper

    files = [folder / name for name in ("last.pth", "card.safetensors", "bare.safetensors", "model.onnx")]
    save_checkpoint({"model": STATE, "progress": {"epoch": 3}}, files[0])
    for file in files[1:3]:
        save_weights(STATE, file, Card(config={"task": "detection"}))
    card_path(files[2]).unlink()
    node = helper.make_node("Constant", [], ["out"], value=numpy_helper.from_array(STATE["backbone.weight"].numpy()))
    graph = helper.make_graph([node], "tiny", [], [helper.make_tensor_value_info("out", 1, [6, 10])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {SUM_KEY: NO_SUM})
    write_with_sum(files[3], proto.SerializeToString())
    return dict(zip(files, (read_checkpoint, read_checkpoint, read_checkpoint, read_graph)))


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, with types and keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def main() -> int:
    """Run the campaign."""
    parser = command_parser(__doc__)
    parser.add_argument("--flips", type=int, default=300, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of the places")
    options = parser.parse_args()
    choose, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="bit-flips-") as folder:
        readers = list(write_files(Path(folder)).items())
        whole = {path: (path.read_bytes(), read(path)) for path, read in readers}
        for number in range(options.flips):
            path, read = readers[number % len(readers)]
            content, expected = whole[path]
            damaged, place, bit = bytearray(content), choose.randrange(len(content)), choose.randrange(8)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                outcome = "harmless" if same(read(path), expected) else "wrong"
            except CheckpointError:
                outcome = "refused"
            counts[outcome] += 1
            if outcome == "wrong":
                print(f"{path.name}, byte {place}, bit {bit}: loads with other content", flush=True)
            path.write_bytes(content)
    print(f"{options.flips} flips: {counts['refused']} refused, {counts['harmless']} harmless, {counts['wrong']} wrong")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
