"""A real Prometheus and a real VictoriaMetrics on loopback, and the exporter they scrape: tests move its values."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from parts import missing_part
from waiting import until

READY_TIMEOUT_S = 30.0
KINDS = ("prometheus", "victoria-metrics")


class _Server(ThreadingHTTPServer):
    """A server that keeps silent of scrapers that hang up, as those do that are stopped.

    CPython 3.11 parses Python to print a traceback, and two threads that parse at once disturb each other.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Exporter:
    """What is scraped: a value by series, as ``cpu{service_id="a"}``; one that is taken out of values is gone.

    scrapes: how often each server has come, by its kind.
    """

    def __init__(self) -> None:
        self.values: dict[str, float | str] = {}
        self.scrapes: Counter[str] = Counter()
        exporter = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = "".join(f"{series} {value}\n" for series, value in exporter.values.copy().items())
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(text.encode())
                exporter.scrapes[
                    "prometheus" if "Prometheus" in self.headers["User-Agent"] else "victoria-metrics"
                ] += 1

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.target = f"127.0.0.1:{self._server.server_port}"

    def set(self, service_id: str, **values: float | str) -> None:
        """Values of one service, by metric."""
        self.values |= {f'{name}{{service_id="{service_id}"}}': value for name, value in values.items()}

    async def scraped(self, kind: str) -> None:
        """Wait until a server has what is there now.

        VictoriaMetrics finds a new series after a second or so, and remembers for ten that it did not find one.
        """
        wanted = self.scrapes[kind] + (2 if kind == "prometheus" else 10)

        async def enough() -> bool:
            return self.scrapes[kind] >= wanted

        await until(enough)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class MetricServer:
    """One of the servers as a child process, with a folder of its own; it can be killed."""

    def __init__(self, kind: str, target: str) -> None:
        self.kind = kind
        self._target = target
        program = shutil.which(kind)
        if program is None:
            missing_part(f"{kind} (Debian package {kind})")
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """The base of its API; Prometheus has a path before it here, as behind a proxy."""
        return f"http://127.0.0.1:{self.port}" + ("/prometheus" if self.kind == "prometheus" else "")

    def start(self) -> None:
        """Start it, and wait until it answers queries."""
        configuration = self.folder / "scrape.json"
        configuration.write_text(json.dumps(scraping(self._target)))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self._arguments(configuration)], cwd=self.folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (
                f"{self.kind} was not ready: {(self.folder / 'log').read_text()[-2000:]}"
            )
            time.sleep(0.05)

    def _arguments(self, configuration: Path) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        if self.kind == "prometheus":
            return [
                f"--config.file={configuration}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={address}",
                f"--web.external-url=http://{address}/prometheus",
            ]
        return [
            f"-promscrape.config={configuration}",
            f"-storageDataPath={self.folder / 'data'}",
            f"-httpListenAddr={address}",
            "-memory.allowedBytes=64MB",
        ]

    def _answers(self) -> bool:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{self.url}/api/v1/query?query=1", timeout=2) as answer,
        ):
            return answer.status == 200
        return False

    def kill(self) -> None:
        """End it without any notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it and forget its data."""
        self.kill()
        shutil.rmtree(self.folder)


def scraping(target: str) -> dict:
    """The configuration both of them read."""
    return {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "tests", "static_configs": [{"targets": [target]}]}],
    }


@contextlib.contextmanager
def running_metric_server(kind: str, target: str) -> Iterator[MetricServer]:
    """Started before its body, removed after it."""
    server = MetricServer(kind, target)
    try:
        server.start()
        yield server
    finally:
        server.remove()
