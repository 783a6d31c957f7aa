# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The documented names can be imported, and cost nothing until they are used."""

import subprocess
import sys

import isdfine

NAMES = {
    "Config", "Detections", "Detector", "LoadReport", "Run", "evaluate", "export", "fuse", "load_config",
    "load_weights", "train",
}  # fmt: skip


def test_the_public_names_are_there() -> None:
    assert set(isdfine.__all__) == NAMES
    assert all(getattr(isdfine, name).__name__ == name for name in NAMES)


def test_the_package_alone_imports_no_torch() -> None:
    program = "import sys, isdfine; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
