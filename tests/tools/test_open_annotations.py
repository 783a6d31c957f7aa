# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import re
import sys
from pathlib import Path

from builders import load_tool


def test_a_small_file_is_made_opened_and_measured(monkeypatch, capsys):
    tool = load_tool("benchmark/open_annotations")

    def run(command, check):
        """What the fresh process does, without its imports."""
        python, script, *arguments = command
        assert (python, Path(script).name, check) == (sys.executable, "open_annotations.py", True)
        assert tool.main(arguments) == 0

    monkeypatch.setattr(tool.subprocess, "run", run)
    assert tool.main(["--images", "50", "--boxes", "300"]) == 0
    output = capsys.readouterr().out
    assert "50 images, 300 boxes, 80 classes\n" in output
    assert re.search(
        r"open: \d+\.\d s wall, \d+\.\d s CPU\npeak resident memory \d+ MiB \(\d+ MiB of it before", output
    )
