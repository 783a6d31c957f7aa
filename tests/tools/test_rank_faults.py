# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The campaign of rank faults, with few of them."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "experiments" / "rank_faults.py"


def campaign(count: int, *kinds: str) -> str:
    command = [sys.executable, str(SCRIPT), "--count", str(count), "--timeout", "15", "--kinds", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_rank_and_another_class_order_are_named() -> None:
    assert "2 of 2 faults were named in time" in campaign(2, "killed", "classes")


@pytest.mark.slow
def test_stopped_and_stuck_ranks_are_named() -> None:
    assert "3 of 3 faults were named in time" in campaign(3, "stopped", "loading", "evaluating")
