"""Partners that read slowly, not at all, or leave; and one that has a whole study converted: what others notice.

Real sockets with TLS and small receive buffers, at the public door of a served appliance.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydicom import dcmwrite

from drimbox.entrypoints.bench_exams import images_of, report_of
from drimbox.entrypoints.bench_wado_exam import Exam
from drimbox.entrypoints.bench_wado_peers import bring, image_headers, set_options
from drimbox.entrypoints.bench_wado_processes import find_command, memory_mb
from drimbox.entrypoints.demo_stage import Stage, start_appliance, start_world
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.quick_stage import open_quick_stage

MB = 1_000_000
STALL_SECONDS = 3
PLACES = 24
MOST_GROWTH, MOST_DRIFT = 60.0, 15.0  # MB, of all web processes together
MOST_WAIT = 0.25  # seconds to the first byte of a single instance, median
RECEIVE_BUFFER = 64 * 1024
BULK, VIEWER, OTHER = "127.0.0.2", "127.0.0.1", "127.0.0.3"  # addresses that the clients call from
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
JPEG_LOSSLESS = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.70'
JPEG_LS = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.80'


@dataclass(eq=False)
class Partner:
    """One partner DRIMBox: a connection of its own for each request, one request at a time."""

    house: House
    address: str = VIEWER
    timeout: float = 60
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    first_byte: float = 0.0  # seconds from the request to the head of the answer
    read: int = 0  # bytes of the body so far
    tail: bytes = b""  # the last of them
    parts: int = 0  # that began so far
    whole: bool = False

    def open(self, path: str, accept: str = AS_STORED) -> Partner:
        """Send a GET and read the head of the answer."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        plain.settimeout(self.timeout)
        plain.bind((self.address, 0))
        place = urlsplit(self.house.public)
        plain.connect((place.hostname, place.port))
        self.connection = self.house.context.wrap_socket(plain, server_hostname=place.hostname)
        lines = [f"GET {place.path}{path} HTTP/1.1", f"Host: {place.netloc}", f"Accept: {accept}"]
        lines += ["Connection: close", *self.house.headers]
        started = time.perf_counter()
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        received = self.connection.recv(16384)
        self.first_byte = time.perf_counter() - started
        while b"\r\n\r\n" not in received:
            received += self.connection.recv(16384)
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *rows = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
        self._take(rest)
        return self

    def drain(self, rate: float | None = None, until: threading.Event | None = None) -> Partner:
        """Read to the end, `rate` bytes a second, or until told, then leave.

        An answer that ended early is not `whole`.
        """
        started, before = time.perf_counter(), self.read
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            while not (until and until.is_set()) and (block := self.connection.recv(16384)):
                self._take(block)
                if rate:
                    due = started + (self.read - before) / rate
                    time.sleep(max(0.0, due - time.perf_counter()))
        self.leave()
        length = self.headers.get("content-length")
        closed = f"--{self.boundary}--\r\n".encode("ascii")
        self.whole = self.tail.endswith(b"0\r\n\r\n") if length is None else self.read == int(length)
        self.whole = self.whole and closed in self.tail
        return self

    def leave(self) -> None:
        """Close the connection, whatever is on its way."""
        self.connection.close()

    @property
    def boundary(self) -> str:
        found = re.search(r"boundary=([0-9a-zA-Z]+)", self.headers.get("content-type", ""))
        return found[1] if found else ""

    def _take(self, block: bytes) -> None:
        delimiter = f"--{self.boundary}\r\n".encode("ascii")
        joint = self.tail[-len(delimiter) :] + block
        self.parts += joint.count(delimiter) - self.tail[-len(delimiter) :].count(delimiter)
        self.read += len(block)
        self.tail = (self.tail + block)[-256:]


@dataclass
class House:
    """A served appliance, and an exam of it that is published."""

    stage: Stage
    exam: Exam
    headers: Sequence[str]
    context: ssl.SSLContext

    @property
    def public(self) -> str:
        return str(self.stage.world["appliance"]["public"])

    @property
    def study(self) -> str:
        return f"/studies/{self.exam.study}"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.exam.files)

    @property
    def web(self) -> int:
        """The process that serves, with its children."""
        return find_command(self.stage.processes[-1].pid, "web")

    def memory(self) -> float:
        return memory_mb(self.web)["pss"]

    def trace(self, event: str) -> list[dict[str, Any]]:
        """What the trace says of retrievals that ended so."""
        return [one for one in self.stage.ask("exams", "trace", self.exam.study) if one["event"] == event]

    def wait_for_cuts(self, why: str, count: int, seconds: float = 20) -> list[dict[str, Any]]:
        deadline, found = time.monotonic() + seconds, list[dict[str, Any]]()
        while time.monotonic() < deadline and len(found) < count:
            time.sleep(0.1)
            found = [one for one in self.trace("RETRIEVAL_CUT") if one["detail"]["why"] == why]
        return found


@contextlib.contextmanager
def open_house(directory: Path, spec: StudySpec, frames: int = 1) -> Iterator[House]:
    """`frames`: how often the picture of each file is repeated."""
    directory.mkdir(exist_ok=True)
    report = report_of(0)
    files, paths = write_files(directory / "files", spec, frames)
    exam = Exam(spec.study_instance_uid, (), tuple(paths), tuple(files), report)
    with open_quick_stage(directory) as stage:
        start_world(stage)
        web = {"max_streams": PLACES, "stall_timeout": STALL_SECONDS}
        set_options(Path(stage.config), {"web": web, "policy": {"settle_after": 1}})
        start_appliance(stage)
        kos = bring(stage, [exam])
        context = ssl.create_default_context(cafile=stage.world["ca"])
        context.load_cert_chain(stage.world["partner"]["certificate"], stage.world["partner"]["key"])
        _, *headers = image_headers(stage, kos)
        yield House(stage, exam, headers, context)


def write_files(directory: Path, spec: StudySpec, frames: int) -> tuple[list[Path], list[str]]:
    directory.mkdir()
    files, paths = [], []
    for number, dataset in enumerate(study_datasets(spec)):
        if frames > 1:
            dataset.NumberOfFrames = frames
            dataset.PixelData = dataset.PixelData * frames
        files.append(directory / f"{number:04}.dcm")
        dcmwrite(files[-1], dataset, enforce_file_format=True)
        paths.append(
            f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
            f"/instances/{dataset.SOPInstanceUID}"
        )
    return files, paths


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """An exam of 300 images, 40 MB."""
    spec = images_of(report_of(0), 300)
    series = (SeriesSpec("CT", 300, rows=256, columns=256),)
    directory = tmp_path_factory.mktemp("house")
    with open_house(directory, spec_with(spec, series)) as made:
        yield made


def spec_with(spec: StudySpec, series: tuple[SeriesSpec, ...]) -> StudySpec:
    return StudySpec(
        study_instance_uid=spec.study_instance_uid,
        accession=spec.accession,
        patient_id=spec.patient_id,
        series=series,
    )


@dataclass
class Crowd:
    """What was seen while many read slowly and somebody else read single instances."""

    readers: list[Partner]
    others: list[Partner]
    before: float  # MB of memory
    memory: list[float]  # MB, all the time

    @property
    def growth(self) -> float:
        """MB, at most."""
        return max(self.memory) - self.before

    @property
    def drift(self) -> float:
        """MB from the second third of the time to the last."""
        third = len(self.memory) // 3
        return statistics.mean(self.memory[-third:]) - statistics.mean(self.memory[third:-third])

    @property
    def wait(self) -> float:
        """Seconds of the others to their first byte, median."""
        return statistics.median(one.first_byte for one in self.others)

    def told(self) -> str:
        longest = max(one.first_byte for one in self.others)
        return (
            f"{len(self.readers)} readers of {self.readers[0].read / MB:.0f} MB: memory {self.before:.0f} MB, then"
            f" +{self.growth:.1f} at most ({self.drift:+.1f} from the second third of the time to the last);"
            f" others waited {self.wait * 1000:.1f} ms (median of {len(self.others)}), {longest * 1000:.1f} at most"
        )


def slow_readers(house: House, count: int, rate: float, capsys: Any) -> Crowd:
    """So many read a whole study at `rate` bytes a second each, while somebody else reads single instances.

    The others read small instances to their end, and leave large ones at once.
    """
    for _ in range(4):  # every process has done it once
        Partner(house).open(house.exam.paths[0]).drain()
    small = len(house.exam.paths) > 50
    crowd = Crowd([], [], house.memory(), [])
    crowd.readers += [Partner(house, timeout=600).open(house.study) for _ in range(count)]
    threads = [threading.Thread(target=reader.drain, args=(rate,)) for reader in crowd.readers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        other = Partner(house).open(house.exam.paths[len(crowd.others) % 50 if small else 0])
        other.drain() if small else other.leave()
        crowd.others.append(other)
        crowd.memory.append(house.memory())
        time.sleep(0.2)
    with capsys.disabled():
        print(f"\n{crowd.told()}")
    return crowd


def test_slow_readers_cost_little_memory_and_delay_nobody(house: House, capsys: Any) -> None:
    crowd = slow_readers(house, 6, 10 * MB, capsys)
    assert {(one.whole, one.parts) for one in crowd.readers} == {(True, len(house.exam.files))}
    assert min(one.read for one in crowd.readers) > house.size
    assert {(one.whole, one.status) for one in crowd.others} == {(True, 200)}
    assert crowd.growth < MOST_GROWTH
    assert crowd.drift < MOST_DRIFT
    assert crowd.wait < MOST_WAIT


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_twenty_slow_readers_of_two_gigabytes(tmp_path: Path, capsys: Any) -> None:
    """The memory does not grow with the study, nor with time."""
    series = (SeriesSpec("XA", 8, rows=512, columns=512),)
    with open_house(tmp_path / "house", spec_with(images_of(report_of(0), 1), series), frames=512) as house:
        assert house.size > 2 * 10**9
        crowd = slow_readers(house, 20, 8 * MB, capsys)
        assert {(one.whole, one.parts) for one in crowd.readers} == {(True, len(house.exam.files))}
        assert min(one.read for one in crowd.readers) > house.size
    assert {one.status for one in crowd.others} == {200}
    assert crowd.growth < MOST_GROWTH
    assert crowd.drift < MOST_DRIFT
    assert crowd.wait < MOST_WAIT


def test_who_reads_nothing_is_cut(house: House) -> None:
    silent = Partner(house).open(house.study)
    (cut,) = house.wait_for_cuts("stalled", 1)
    assert cut["actor"] == f"partner:{VIEWER}"
    assert cut["detail"]["instances"] == 300
    assert 0 < cut["detail"]["bytes"] < 8 * MB  # what the kernels and one chunk hold
    assert STALL_SECONDS * 1000 <= cut["detail"]["ms"] < (STALL_SECONDS + 3) * 1000
    silent.drain()
    assert not silent.whole
    assert silent.read <= cut["detail"]["bytes"]


def test_places_of_those_who_leave_are_free_again(house: House) -> None:
    readers = [Partner(house).open(house.study) for _ in range(PLACES)]
    going_on = threading.Event()
    threads = [threading.Thread(target=one.drain, args=(MB, going_on)) for one in readers]
    for thread in threads:
        thread.start()
    try:
        refused = Partner(house).open(house.exam.paths[0])
        refused.leave()
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert {reader.status for reader in readers} == {200}
    finally:
        going_on.set()
        for thread in threads:
            thread.join()
    deadline = time.monotonic() + STALL_SECONDS  # they left: nobody waits for them to stall
    while Partner(house).open(house.exam.paths[0]).drain().status != 200:
        assert time.monotonic() < deadline
    assert len(house.wait_for_cuts("the reader left", PLACES)) == PLACES


def test_a_study_that_is_converted_delays_nobody(house: House, capsys: Any) -> None:
    """300 images in .70 for one partner: another gets single images at once, a third its own conversions in turn."""
    alone = [Partner(house).open(path).drain().first_byte for path in house.exam.paths[:100]]
    warm = [threading.Thread(target=convert, args=(house, path)) for path in house.exam.paths[:8]]
    for thread in warm:  # the workers of every process start once
        thread.start()
    for thread in warm:
        thread.join()
    bulk = Partner(house, BULK).open(house.study, JPEG_LOSSLESS)
    assert bulk.status == 200
    started = time.perf_counter()
    reading = threading.Thread(target=bulk.drain)
    reading.start()
    beside, turns, waits = [], [], []
    for number, path in enumerate(house.exam.paths[100:]):
        single = Partner(house).open(path).drain()
        assert single.whole
        if number % 10 == 0:  # the last ones of the study, which it has not come to
            before = bulk.parts
            converted = convert(house, house.exam.paths[-1 - number // 10])
            assert converted.status == 200
            if reading.is_alive():
                turns.append(bulk.parts - before)
                waits.append(converted.first_byte)
        if not reading.is_alive():
            break
        beside.append(single.first_byte)
    reading.join()
    spent = time.perf_counter() - started
    assert bulk.whole
    assert bulk.parts == 300
    with capsys.disabled():
        print(f"\n300 images in .70 took {spent:.1f} s; as stored, first byte: {told(alone)} without,")
        print(
            f"{told(beside)} beside it; an image in .80: {told(waits)}, {turns} images of the study meanwhile"
        )
    assert len(beside) >= 20
    assert turns  # somebody's conversion was done before the study was
    assert max(turns) <= 30


def convert(house: House, path: str) -> Partner:
    return Partner(house, OTHER).open(path, JPEG_LS).drain()


def told(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms ({len(ordered)})"
