# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the image cache and the teacher cache share, between processes; the rest is tested where they are."""

import signal
import subprocess
import sys
from pathlib import Path

from isdfine.core.entries import Entries

_SCRIPT = """
import hashlib, os, signal, sys
from pathlib import Path
from isdfine.core.entries import Entries

what, folder = sys.argv[1:]
entries = Entries(Path(folder), 10**9, what="cache", when_full="", magic=b"TESTTEST")
if what == "dies":
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
found = 0
for turn in range(40):
    for number in range(10):
        content = bytes([number]) * 50_000
        digest = hashlib.blake2b(content, digest_size=24).hexdigest()
        kept = entries.read(digest)
        assert kept in (None, content), "half an entry, or another's"
        found += kept is not None
        entries.write(digest, content)
print(found)
"""


def start(what: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, what, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_kill_while_writing_leaves_no_entry(tmp_path: Path) -> None:
    with start("dies", tmp_path) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".tmp"]
    with start("lives", tmp_path) as process:
        printed, errors = process.communicate()
    assert (printed, errors) == ("390\n", "")


def test_two_processes_write_and_read_the_same_entries(tmp_path: Path) -> None:
    both = [start("lives", tmp_path) for _ in range(2)]
    for process in both:
        printed, errors = process.communicate()
        assert errors == ""
        assert int(printed) >= 390
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 10


def test_entries_of_other_places_count(tmp_path: Path) -> None:
    digest = "ab" * 24
    for place in ("a/b", "c"):
        Entries(tmp_path, 10**6, what="cache", when_full="", magic=b"TESTTEST", within=place).write(digest, b"x" * 999)
    assert (tmp_path / "a" / "b" / "ab" / digest[2:]).is_file()
    full = Entries(tmp_path, 2000, what="cache", when_full="", magic=b"TESTTEST", within="d")
    full.write(digest, b"x")
    assert full.read(digest) is None
    other = Entries(tmp_path, 2000, what="cache", when_full="", magic=b"TESTTEST", within="c")
    assert other.read(digest) == b"x" * 999
    assert Entries(tmp_path, 10**6, what="cache", when_full="", magic=b"SOMEELSE", within="c").read(digest) is None
