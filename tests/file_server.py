# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A web server on this machine that answers as the hosts of weights do, with the faults a test wants of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` (path -> content); ``requests`` are the methods, paths and ranges it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut_after: list[int] = []
        """Of the next answers, bytes after which the connection is closed."""
        self.failures: list[int] = []
        """Codes of the next answers."""
        self.slow_s = 0.0
        self.etag: str | None = '"1"'
        self.content_type = "application/octet-stream"

    @property
    def url(self) -> str:
        """Of the folder that it serves."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, wanted))
        time.sleep(self.server.slow_s)
        content = self.server.files.get(self.path)
        if self.server.failures or content is None:
            self.send_response(self.server.failures.pop(0) if self.server.failures else 404)
            self.send_header("Content-Length", "0")
            self.send_header("X-Error-Code", "EntryNotFound")  # of Hugging Face
            self.end_headers()
            return
        same = self.headers.get("If-Range", self.server.etag) == self.server.etag
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and same else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted and same else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("X-Repo-Commit", "0" * 40)  # of Hugging Face
        if self.server.etag is not None:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        if not head:
            end = start + self.server.cut_after.pop(0) if self.server.cut_after else len(content)
            self.wfile.write(content[start:end])


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server that runs while the block does."""
    server = FileServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
