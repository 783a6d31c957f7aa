# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "benchmark" / "open_annotations.py"


def test_a_small_file_is_made_opened_and_measured():
    command = [sys.executable, str(SCRIPT), "--images", "50", "--boxes", "300"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "50 images, 300 boxes, 80 classes\n" in output
    assert re.search(
        r"open: \d+\.\d s wall, \d+\.\d s CPU\npeak resident memory \d+ MiB \(\d+ MiB of it before", output
    )
