# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The same few lines in a script without ``if __name__ == "__main__"`` and in a notebook, with loader workers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from builders import write_micro_config

WORKERS = '"num_visualized=0", "train_dataloader.num_workers=2", "val_dataloader.num_workers=1"'
SCRIPT = f"""
import os
import isdfine
from isdfine.core.registry import register
from isdfine.data.transforms import Resize
from isdfine.data.workers import _SpawnContext

print("once", flush=True)

@register
class Mine(Resize):
    pass

other = _SpawnContext().Process(target=os._exit, args=(7,))  # what Windows has
other.start()
run = isdfine.train("micro.yml", epochs=1, update=[{WORKERS}])
print(run.best.name, sorted(run.metrics)[:2])
other.join()
print(other.exitcode)
own = ["num_visualized=0", "val_dataloader.dataset.transforms.ops.0.type=Mine"]
for workers in (0, 1):
    result = isdfine.evaluate(run, config="micro.yml", update=[*own, f"val_dataloader.num_workers={{workers}}"])
    print(result.num_images)
"""
TRAINS = f"""
import isdfine
run = isdfine.train("micro.yml", epochs=1, output_dir="book", update=[{WORKERS}])
run
"""
INTERRUPTED = """
import signal
from isdfine.solver.callbacks import EpochListener
call = EpochListener.__call__
def interrupt(listener, report):
    signal.raise_signal(signal.SIGINT)
    call(listener, report)
EpochListener.__call__ = interrupt
try:
    isdfine.train("micro.yml", epochs=1, output_dir="stopped")
except KeyboardInterrupt as stop:
    print(stop)
EpochListener.__call__ = call
isdfine.train("micro.yml", epochs=1, output_dir="stopped", resume="stopped").epochs
"""


def test_a_script_without_a_guard_runs_once_and_its_own_classes_are_one_message(tmp_path: Path) -> None:
    write_micro_config(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "once\nbest.pth ['AP', 'AP50']\n7\n8\n", done.stderr
    message = r"(?m)^isdfine\.core\.errors\.ConfigError: what num_workers processes need .*Mine.*: a data set, "
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("Traceback") == 1 + done.stderr.count("direct cause")
    assert "Exception ignored" not in done.stderr


def test_a_notebook_shows_progress_and_can_be_interrupted(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
    write_micro_config(tmp_path)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (TRAINS, INTERRUPTED)])
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, second = ("".join(output.get("text", "") for output in cell.outputs) for cell in book.cells)
    red = [output.text for cell in book.cells for output in cell.outputs if output.get("name") == "stderr"]
    assert [text for text in red if "IProgress not found" not in text] == []  # of huggingface_hub, without ipywidgets
    assert "\repoch 0: " in first  # a line that is written over
    assert "epoch 0: AP " in first
    assert "s/step" not in first
    assert first.count("\n") < 25
    assert book.cells[0].outputs[-1].data["text/plain"].startswith("Run('book', 1 epochs, AP ")
    assert "stopped by SIGINT after step 1; everything is saved; go on with resume='stopped'\n" in second
    assert book.cells[1].outputs[-1].data["text/plain"] == "1"


RANKS = """
import isdfine
from torch import distributed
run = isdfine.train("micro.yml", epochs=1, device="cpu", update=["num_visualized=0"])
again = isdfine.train("micro.yml", weights=run.best, epochs=1, output_dir="again", device="cpu")
same = isdfine.evaluate(run, device="cpu").to_dict() == run.result.to_dict()
print(f"rank {distributed.get_rank()}: {again.epochs} {same}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_ranks_of_torchrun_train_together_and_again(tmp_path: Path) -> None:
    write_micro_config(tmp_path)
    (tmp_path / "script.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0: 1 True", "rank 1: 1 True"]
    assert "rank 1 isdfine" not in done.stderr
