# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import errno
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from file_server import FileServer
from isdfine.core.errors import CheckpointError
from isdfine.weights import download
from isdfine.weights.download import download as fetch

CONTENT = random.Random(1).randbytes(3_000_000)


def test_what_is_served_is_what_is_written(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"] = CONTENT
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert server.requests == [("GET", "/a.pth", None)]


def test_a_cut_transfer_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"], server.cut_after = CONTENT, [1_200_000]
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [wanted for *_, wanted in server.requests] == [None, "bytes=1200000-"]


def test_after_three_cuts_the_part_is_kept_for_the_next_command(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"], server.cut_after = CONTENT, [500_000] * 3
    with pytest.raises(CheckpointError, match=r"\(1,500,000 of 3,000,000 bytes came\); 1,500,000 bytes are kept in "):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.requests[-1][-1] == "bytes=1500000-"


def test_parts_of_two_versions_are_not_joined(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"], server.cut_after = CONTENT, [500_000] * 3
    with pytest.raises(CheckpointError):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    server.files["/a.pth"], server.etag = CONTENT[::-1], '"2"'
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_mark_of_its_version_a_file_is_fetched_anew(
    server: FileServer, tmp_path: Path, etag: str | None
) -> None:
    server.files["/a.pth"], server.cut_after, server.etag = CONTENT, [500_000], etag
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [wanted for *_, wanted in server.requests] == [None, None]


def test_a_whole_part_that_was_not_renamed_starts_over(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"] = CONTENT
    (tmp_path / "a.pth.part").write_bytes(CONTENT)
    (tmp_path / "a.pth.part.etag").write_text('"1"')
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_page_in_place_of_the_file_is_not_taken_for_it(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"], server.content_type = b"<html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(CheckpointError, match=r"a\.pth: a web page came in place of the file: open the address in a"):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_kill_before_a_part_is_emptied_leaves_no_mark_of_another_version(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(**_: Any) -> None:
        raise KeyboardInterrupt

    server.files["/a.pth"], server.etag = CONTENT, '"2"'
    (tmp_path / "a.pth.part").write_bytes(CONTENT[::-1][:500_000])
    (tmp_path / "a.pth.part.etag").write_text('"1"')
    with monkeypatch.context() as patch:
        patch.setattr(download, "tqdm", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_asked_for_once(server: FileServer, tmp_path: Path) -> None:
    place = tmp_path / "gone.pth"
    with pytest.raises(CheckpointError) as caught:
        fetch(f"{server.url}/gone.pth", place)
    assert str(caught.value) == (
        f"{server.url}/gone.pth cannot be downloaded (HTTP 404 Not Found): try again, or get the file elsewhere and "
        f"put it at {place}"
    )
    assert len(server.requests) == 1


def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.pth"], server.failures = CONTENT, [503, 502]
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    server.failures = [503] * 3
    with pytest.raises(CheckpointError, match=r"\(HTTP 503 Service Unavailable\)"):
        fetch(f"{server.url}/a.pth", tmp_path / "b.pth")


def test_a_server_that_is_silent_is_given_up(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    server.files["/a.pth"], server.slow_s = CONTENT, 0.3
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(timed out\): try again"):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth")


@pytest.mark.usefixtures("server")
def test_no_network_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(CheckpointError) as caught:
        fetch(f"http://127.0.0.1:{port}/a.pth", tmp_path / "a.pth")
    assert "cannot be downloaded (Connection refused): try again, or get the file elsewhere" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_taken_for_the_network(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A progress bar whose first step is the one in which the disk is full."""

        def __init__(self, **_: Any) -> None: ...
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...
        def update(self, _: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    server.files["/a.pth"] = CONTENT
    monkeypatch.setattr(download, "tqdm", Full)
    with pytest.raises(OSError, match="No space left on device"):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert len(server.requests) == 1
