"""`drimbox bench report`: HL7v2 reports through the real door, from the first byte to the acknowledgement.

The door is a process of its own. Every AA is answered after two fsynced documents and a commit. The peer of the run
is the `hl7` package: it splits the same message into fields, and checks and keeps nothing.
"""

from __future__ import annotations

import base64
import random
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from drimbox.domain.hl7v2 import read_message
from drimbox.entrypoints.bench_exams import open_appliance, report_of
from drimbox.entrypoints.demo_stage import StepFailed, wait_for
from fixtures.report_pdf import one_page_pdf
from fixtures.reports import END, ReportSpec, frame, make_cda, make_oru

CONNECTIONS = 4
LARGE_PDF, USUAL_PDF = 1_000_000, 165_000  # bytes; drim-m-data 7: a real PDF has 165 kB
PARSED = 5
PATIENCE = 30.0


def bench_report(directory: Path, count: int) -> dict[str, Any]:
    """Latency of a 1 MB report alone, then what four connections sustain with large and with usual reports."""
    with open_appliance(directory) as (stage, _):
        door = stage.start("mllp", "--config", stage.config)
        port = stage.world["appliance"]["mllp"]["port"]
        wait_for(lambda: _listens(port), PATIENCE, "the MLLP door does not listen")
        numbers = iter(range(10**9))
        alone = _exchange(port, _messages(directory, numbers, max(count // 4, 4), LARGE_PDF))
        large = _sustained(directory, numbers, port, count, LARGE_PDF)
        usual = _sustained(directory, numbers, port, count, USUAL_PDF)
        memory = {"after_large": _resident(door.pid)}
        _sustained(directory, numbers, port, count, LARGE_PDF)
        memory["after_large_again"] = _resident(door.pid)
    return {
        "reports_of_1_mb_alone_ms": _spread(alone),
        "four_connections_1_mb": large,
        "four_connections_usual": usual,
        "resident_mb": memory,
        "reading": _reading(directory),
    }


def _sustained(directory: Path, numbers: Any, port: int, count: int, pdf: int) -> dict[str, Any]:
    share = max(count // CONNECTIONS, 1)
    files = [_messages(directory, numbers, share, pdf) for _ in range(CONNECTIONS)]
    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as senders:
        spent = [one for times in senders.map(lambda f: _exchange(port, f), files) for one in times]
    seconds = time.perf_counter() - started
    size = files[0][0].stat().st_size
    for file in (one for share in files for one in share):
        file.unlink()
    return {
        "messages": len(spent),
        "message_bytes": size,
        "messages_per_second": round(len(spent) / seconds, 1),
        "answer_ms": _spread(spent),
    }


def _messages(directory: Path, numbers: Any, count: int, pdf: int) -> list[Path]:
    """Framed messages as files: what a sender reads must cost it little."""
    files = []
    for number in (next(numbers) for _ in range(count)):
        file = directory / f"message{number}"
        file.write_bytes(frame(make_message(number, pdf)))
        files.append(file)
    return files


def make_message(number: int, pdf_bytes: int) -> bytes:
    """An ORU^R01 whose CDA holds a PDF of that size: the page of the fixtures and a comment that does not compress."""
    report = report_of(number)
    page = one_page_pdf(ReportSpec().text)
    ballast = random.Random(number).randbytes((pdf_bytes - len(page)) // 2).hex().encode("ascii")  # noqa: S311 weight, no secret
    pdf = page + b"%" + ballast
    cda = make_cda(report).replace(base64.b64encode(page), base64.b64encode(pdf))
    return make_oru(cda, report, control_id=f"BENCH{number}")


def _exchange(port: int, files: list[Path]) -> list[float]:
    """Seconds from the first byte sent to the last byte of each AA, on one connection."""
    spent = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for file in files:
            content = file.read_bytes()
            started = time.perf_counter()
            connection.sendall(content)
            answer = b""
            while not answer.endswith(END):
                piece = connection.recv(65_536)
                if not piece:
                    raise StepFailed("the door closed the connection")
                answer += piece
            spent.append(time.perf_counter() - started)
            if b"MSA|AA" not in answer:
                raise StepFailed(f"a message was not accepted: {answer[:300]!r}")
    return spent


def _reading(directory: Path) -> dict[str, Any]:
    """Milliseconds to read one large message: ours with every check, `hl7` without."""
    message = make_message(10**9, LARGE_PDF)
    ours = _best(lambda: read_message(message))
    try:
        peer = import_module("hl7")
    except ImportError:
        return {"read_message_ms": ours, "hl7_parse_ms": None, "ratio_to_hl7": None}
    text = message.decode("utf-8")
    theirs = _best(lambda: peer.parse(text))
    return {"read_message_ms": ours, "hl7_parse_ms": theirs, "ratio_to_hl7": round(theirs / ours, 2)}


def _best(call: Any) -> float:
    times = []
    for _ in range(PARSED):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(min(times) * 1000, 2)


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median": round(statistics.median(ordered) * 1000, 1),
        "p95": round(ordered[int(len(ordered) * 0.95)] * 1000, 1),
        "max": round(ordered[-1] * 1000, 1),
    }


def _resident(pid: int) -> float:
    """Resident memory of a process, in MB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(kilobytes) / 1024, 1)


def _listens(port: int) -> bool | None:
    with socket.socket() as probe:
        return True if probe.connect_ex(("127.0.0.1", port)) == 0 else None
