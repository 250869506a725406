"""The clients of `drimbox bench wado`: curl for one answer, wrk for many small ones, and a bare stream as the limit."""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drimbox.entrypoints.demo_stage import StepFailed

LOOPBACK = "127.0.0.1"
PATIENCE = 300  # seconds, for any answer
BLOCK = 256 * 1024
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
_CURL = ("curl", "--silent", "--show-error", "--http1.1", "--noproxy", "*", "--max-time", str(PATIENCE))
_SAY = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}\\n"
# One thread writes requests that are made once, in turn; the last line of the output is ours.
_LUA = """
local requests, number = {}, 0
function init(arguments)
  for path in io.lines(arguments[1]) do requests[#requests + 1] = wrk.format("GET", path) end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p99_ms": %f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
# A file to one client after the other, with no more of HTTP than curl needs.
_SENDER = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    for _ in range(int(sys.argv[2])):
        connection, _ = server.accept()
        with connection, open(sys.argv[1], "rb", 0) as source:
            connection.recv(65536)
            size = os.fstat(source.fileno()).st_size
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % size)
            while block := source.read(262144):
                connection.sendall(block)
"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One answer. `size`: bytes of the body; times in seconds since the client began, connection included."""

    size: int
    first_byte: float
    total: float

    @property
    def rate(self) -> float:
        """MB of 10^6 bytes a second."""
        return self.size / self.total / 1e6


@dataclass(frozen=True, slots=True)
class Hammered:
    """Many small answers, each 200. `rate`: requests a second."""

    requests: int
    rate: float
    p99_ms: float


def check_installed(names: Mapping[str, str]) -> None:
    """Raises `StepFailed` that names the Debian package of each program that is absent."""
    absent = [package for name, package in names.items() if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if absent:
        raise StepFailed(f"not installed: apt-get install {' '.join(sorted(absent))}")


def fetch(urls: Sequence[str], headers: Sequence[str], *options: str) -> list[Transfer]:
    """GET each of `urls` with one curl, one after the other. Raises `StepFailed` for what is not 200 and whole."""
    with _curl(urls, headers, options) as running:
        return _transfers(running, urls)


def fetch_together(clients: int, url: str, headers: Sequence[str], *options: str) -> tuple[int, float]:
    """GET `url` by so many curls at once: bytes of all, seconds from the first start to the last end."""
    started = time.perf_counter()
    running = [_curl([url], headers, options) for _ in range(clients)]
    size = sum(transfer.size for one in running for transfer in _transfers(one, [url]))
    return size, time.perf_counter() - started


def _curl(urls: Sequence[str], headers: Sequence[str], options: Sequence[str]) -> subprocess.Popen[str]:
    command = [*_CURL, *options, "--write-out", _SAY]
    command += [word for header in headers for word in ("--header", header)]
    command += [word for url in urls for word in ("--output", "/dev/null", url)]
    return subprocess.Popen(  # noqa: S603 our own names
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def _transfers(running: subprocess.Popen[str], urls: Sequence[str]) -> list[Transfer]:
    said, complaint = running.communicate(timeout=PATIENCE)
    lines = [line.split() for line in said.splitlines()]
    statuses = sorted({line[0] for line in lines})
    if running.returncode or statuses != ["200"] or len(lines) != len(urls):
        raise StepFailed(f"{urls[0]} answered {statuses} to curl: {complaint.strip()[-200:]}")
    return [Transfer(int(size), float(first), float(total)) for _, size, first, total in lines]


def hammer(
    directory: Path, base: str, paths: Sequence[str], headers: Sequence[str], connections: int, seconds: int
) -> Hammered:
    """GET `paths` below `base` in turn over so many connections for `seconds`. Raises `StepFailed` for any error."""
    script, targets = directory / "wrk.lua", directory / "wrk.paths"
    script.write_text(_LUA, "utf-8")
    below = "/" + base.split("/", 3)[3]
    targets.write_text("".join(f"{below}{path}\n" for path in paths), "utf-8")
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script)]
    command += [word for header in headers for word in ("-H", header)]
    done = subprocess.run(  # noqa: S603 our own names
        [*command, base, "--", str(targets)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=PATIENCE,
    )
    said = _last_line(done.stdout)
    if done.returncode or said.get("errors") != 0 or not said["requests"]:
        raise StepFailed(f"wrk on {base}: {said or done.stderr.strip()[-200:]}")
    return Hammered(said["requests"], said["requests"] / said["seconds"], said["p99_ms"])


def _last_line(text: str) -> dict[str, Any]:
    lines = text.splitlines()
    return dict(json.loads(lines[-1])) if lines and lines[-1].startswith("{") else {}


def stream_bare(file: Path, times: int) -> tuple[float, float]:
    """MB/s of `file` over one loopback connection between two processes, 256 KiB read and sent at a time: the limit.

    Medians of so many: read by curl, which is slower than a server that does nothing else; read by a bare socket.
    """
    command = [sys.executable, "-S", "-c", _SENDER, str(file), str(2 * times)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as sender:  # noqa: S603 our own interpreter
        assert sender.stdout is not None
        port, rates = int(sender.stdout.readline()), []
        try:
            for _ in range(times):
                (transfer,) = fetch([f"http://{LOOPBACK}:{port}/"], ())
                rates.append((transfer.rate, _drain(port, file.stat().st_size)))
        finally:
            sender.terminate()
    by_curl, by_socket = zip(*rates, strict=True)
    return statistics.median(by_curl), statistics.median(by_socket)


def _drain(port: int, size: int) -> float:
    """MB/s of an answer of `size` bytes and its head, thrown away."""
    buffer, received, started = bytearray(BLOCK), 0, time.perf_counter()
    with socket.create_connection((LOOPBACK, port), PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while count := connection.recv_into(buffer):
            received += count
    if received < size:
        raise StepFailed(f"the bare stream ended after {received} bytes")
    return size / (time.perf_counter() - started) / 1e6
