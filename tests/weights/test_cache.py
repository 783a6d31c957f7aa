# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import logging
import os
import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from file_server import FileServer
from isdfine.commands import weights as command
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.load import checkpoint_file, open_checkpoint
from isdfine.weights import cache
from isdfine.weights.cache import cache_folder, fetch, file_of, located, place_of, record_of
from isdfine.weights.table import HUB, TABLE, Published

CONTENT = random.Random(2).randbytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def one(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Weights that the server has, in the table as ``micro-coco``."""
    server.files["/micro_coco.pth"] = CONTENT
    entry = Published(name="micro-coco", source="page", licence="MIT", folder=server.url, file="micro_coco.pth")
    monkeypatch.setitem(TABLE, entry.name, entry)
    return entry


def with_sum(one: Published, sha256: str, monkeypatch: pytest.MonkeyPatch) -> Published:
    entry = Published(**{**vars(one), "sha256": sha256})
    monkeypatch.setitem(TABLE, entry.name, entry)
    return entry


def test_a_name_is_downloaded_once_and_recorded(server: FileServer, one: Published) -> None:
    assert [located("micro-coco"), checkpoint_file("micro-coco")] == [file_of(one)] * 2
    assert file_of(one).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert json.loads(record_of(file_of(one)).read_text()) == {"name": "micro-coco", "from": one.url, "sha256": SHA256}


def test_a_path_goes_before_a_name(
    server: FileServer, one: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "micro-coco").write_bytes(b"")
    assert located("micro-coco") == Path("micro-coco")
    assert located("gone/micro-coco") == Path("gone/micro-coco")
    assert not server.requests


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("ask", [located, open_checkpoint, checkpoint_file])
def test_an_unknown_name_is_answered_with_the_nearest(ask: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        ask("dfine-s-cocoo")  # type: ignore[operator]
    assert str(caught.value) == (
        "dfine-s-cocoo: no such file or folder, and no weights of this name, did you mean dfine-s-coco? isdfine "
        "weights list shows the names"
    )
    with pytest.raises(CheckpointError, match="is a URL, and nothing is downloaded here"):
        ask("https://somewhere.org/dfine_s_coco.pth")  # type: ignore[operator]


def test_a_file_of_another_sum_is_removed(one: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = with_sum(one, "ab" * 32, monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        fetch(entry)
    assert str(caught.value) == (
        f"{file_of(entry)} has the SHA-256 {SHA256}, not {'ab' * 32} (page): the file is removed; get it anew with "
        "isdfine weights get micro-coco"
    )
    assert not file_of(entry).exists()
    assert not record_of(file_of(entry)).exists()
    assert fetch(with_sum(one, SHA256, monkeypatch)) == file_of(one)


def test_a_file_that_changed_since_its_download_is_removed(server: FileServer, one: Published) -> None:
    fetch(one)
    file_of(one).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match=f"not {SHA256} .*micro_coco.pth.json.*the file is removed; get it anew"):
        located("micro-coco")
    assert not file_of(one).exists()
    server.files["/micro_coco.pth"] = CONTENT[::-1]
    with pytest.raises(CheckpointError, match=r"if its authors changed it, remove .*micro_coco.pth.json before"):
        located("micro-coco")
    record_of(file_of(one)).unlink()
    assert located("micro-coco").read_bytes() == CONTENT[::-1]


def test_a_changed_file_that_cannot_be_removed_is_not_used(one: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(one)
    file_of(one).write_bytes(b"other")

    def refuse(_: Path) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CheckpointError, match=r"not to be used, and cannot be removed \(Read-only file system\)"):
        fetch(one)


def test_a_damaged_record_is_named(one: Published) -> None:
    fetch(one)
    record_of(file_of(one)).write_text("{")
    with pytest.raises(CheckpointError, match=r"micro_coco.pth.json: no record of a download .*remove it and "):
        fetch(one)


@pytest.mark.parametrize("variable", ["ISDFINE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_says_what_to_put_where(
    server: FileServer, one: Published, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CheckpointError) as caught:
        fetch(one)
    assert str(caught.value) == (
        f"micro-coco is not in the cache, and {variable} forbids downloads: get {server.url}/micro_coco.pth elsewhere "
        f"and put it at {file_of(one)}"
    )
    with pytest.raises(CheckpointError, match=r"get config.json, preprocessor_config.json, model.safetensors of http"):
        located("dfine-s-coco-hf")
    file_of(one).parent.mkdir(parents=True, exist_ok=True)
    file_of(one).write_bytes(CONTENT)
    assert fetch(one) == file_of(one)
    assert json.loads(record_of(file_of(one)).read_text())["sha256"] == SHA256
    assert not server.requests


def test_a_cache_that_cannot_be_written_is_one_line(one: Published, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError) as caught:
        fetch(one)
    assert str(caught.value).startswith(
        f"micro-coco: the cache {tmp_path / 'cache' / 'weights'} cannot be written (Not a directory): set ISDFINE_CACHE"
    )
    assert "\n" not in str(caught.value)


def test_weights_in_a_cache_that_cannot_be_written_are_used(
    one: Published, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(one)
    record_of(file_of(one)).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(cache, "take_lock", refuse)
    with caplog.at_level(logging.WARNING, logger="isdfine"):
        assert fetch(one) == file_of(one)
    assert "its SHA-256 is not recorded, because the cache cannot be written (Read-only file system)" in caplog.text


def test_two_who_ask_at_the_same_time_download_once(
    server: FileServer, one: Published, caplog: pytest.LogCaptureFixture
) -> None:
    server.slow_s = 0.1
    with caplog.at_level(logging.INFO, logger="isdfine"), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: fetch(one), range(4))) == {file_of(one)}
    assert len(server.requests) == 1
    assert "micro-coco: waiting for another process, which downloads it" in caplog.text
    assert file_of(one).read_bytes() == CONTENT


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISDFINE_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.delenv("ISDFINE_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "isdfine" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "isdfine" / "weights"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "isdfine" / "weights"


def test_a_repository_of_hugging_face_becomes_a_folder(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    entry = Published(name="hub-micro", source="page", licence="MIT", folder=server.url, repository="a/b")
    for name in cache.HUB_FILES:
        server.files[f"/a/b/resolve/main/{name}"] = name.encode()
    monkeypatch.setitem(TABLE, entry.name, entry)
    assert located("hub-micro") == place_of(entry) == cache_folder() / "hub-micro"
    assert {path.name for path in place_of(entry).glob("*.*")} > set(cache.HUB_FILES)
    asked = len(server.requests)
    assert located("hub-micro") == place_of(entry)
    assert len(server.requests) == asked
    assert json.loads(record_of(file_of(entry)).read_text())["from"] == f"{server.url}/a/b"
    shutil.rmtree(place_of(entry))
    del server.files["/a/b/resolve/main/model.safetensors"]
    with pytest.raises(CheckpointError, match=r"/a/b cannot be downloaded \(.*404.*put them into .*hub-micro"):
        located("hub-micro")


def test_without_the_package_the_extra_is_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'pip install "isdfine\[hub\]"'):
        located("dfine-s-coco-hf")
    assert not server.requests


def test_every_entry_says_where_it_is_from_and_fits_a_config() -> None:
    for name, entry in TABLE.items():
        assert (entry.file is None) != (entry.repository is None), name
        assert entry.source.startswith("https://"), name
        assert entry.licence, name
        assert (entry.folder == HUB) == (entry.repository is not None), name
        assert "." not in name, name  # or it would be taken for a file
    assert len({place_of(entry) for entry in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("name", ["dfine-n-coco", "dfine-s-obj365", "rtdetr-r18vd-coco", "rtdetrv2-r18vd-dsp-coco"])
def test_classes_and_config_of_an_entry_have_the_same_count(name: str) -> None:
    content = TABLE[name].content()
    assert len(content["label_space"]["names"]) == content["config"]["num_classes"]


def test_the_command(
    server: FileServer, one: Published, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(["path", "micro-coco"]) == 1
    assert capsys.readouterr().out == f"{file_of(one)}\n"
    assert command.main(["get", "micro-coco"]) == 0
    assert command.main(["path", "micro-coco"]) == 0
    assert capsys.readouterr().out == f"{file_of(one)}\n" * 2
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("* micro-coco ") and line.endswith(one.url) for line in listed)
    assert len(listed) == len(TABLE) + 2
    assert command.main(["get", "dfine-coco-s"]) == 2
    assert "error: dfine-coco-s: no weights of this name, did you mean dfine-" in capsys.readouterr().err
    monkeypatch.setenv("ISDFINE_OFFLINE", "1")
    assert command.main(["get", "dfine-s-coco"]) == 2
    assert "error: dfine-s-coco is not in the cache, and ISDFINE_OFFLINE" in capsys.readouterr().err
