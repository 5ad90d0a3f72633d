"""A web server on loopback that gives out a folder: with ETags and ranges or without, and with faults."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from object_server import forget_buckets


@dataclass
class WebServer:
    """What the server does, and what it was asked.

    Attributes
    ----------
    ranges, etags : bool
        Whether it answers requests for ranges, and says ETags; without those it says Last-Modified.
    forbidden : bool
        Whether it answers 403 where it has no file, as buckets do that may not be listed.
    share : float
        Of requests that it answers with 503.
    later : dict of str to bytes
        What it answers in place of a file from the second request on, by path.
    """

    folder: Path
    ranges: bool = True
    etags: bool = True
    forbidden: bool = False
    share: float = 0.0
    later: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(0)
        self._lock = threading.Lock()

    def fails(self, request: str) -> bool:
        with self._lock:
            self.requests.append(request)
            failed = self._draw.random() < self.share
            self.faults += failed
            return failed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[WebServer]:
        owner = self

        class Handler(_Handler):
            server_of_files = owner

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
                forget_buckets()


class _Handler(SimpleHTTPRequestHandler):
    """Folders are 404: nothing is listed."""

    server_of_files: WebServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        owner = self.server_of_files
        seen = f"{self.command} {self.path}" in owner.requests
        if owner.fails(f"{self.command} {self.path}"):
            self._send(503, {}, b"busy", body)
            return
        path = owner.folder / unquote(self.path).lstrip("/")
        if not path.is_file():
            self._send(403 if owner.forbidden else 404, {}, b"no such file", body)
            return
        data = path.read_bytes()
        if seen:
            data = owner.later.get(self.path, data)
        headers = {"Last-Modified": self.date_time_string(int(path.stat().st_mtime))}
        if owner.etags:
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not owner.ranges:
            self._send(200, headers, data, body)
            return
        first = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
        last = min(int(wanted[2]), len(data) - 1) if wanted[1] and wanted[2] else len(data) - 1
        if first >= len(data):
            self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"", body)
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, headers, data[first : last + 1], body)

    def _send(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
