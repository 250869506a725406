"""Pro Santé Connect, the database, the disk or a process dies while partners read: nobody hangs, and no answer that
was cut looks whole; the trace says how each retrieval ended, once."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from drimbox.bootstrap import lay_foundation
from drimbox.entrypoints.bench_wado_peers import set_options
from drimbox.entrypoints.bench_wado_processes import find_command, tree
from drimbox.entrypoints.demo_stage import Stage, start_appliance, start_world, wait_for
from drimbox.flow import exams
from drimbox.settings.whole import load_settings
from drimbox.simulators.pacs import push_study
from drimbox.simulators.ris import send_hl7
from fixtures.images import SeriesSpec, StudySpec, make_study, uid
from fixtures.partner_client import Header, PartnerClient, Reply, Retrieval, until
from fixtures.quick_stage import open_quick_stage
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

STUDY = "1.2.250.1.999.62.1"
LARGE, SMALL = 6, 1  # images of series 1 and 2 (2 MB each), of series 3
SPEC = StudySpec(
    STUDY,
    "ACN621",
    "IPP901",
    series=(
        SeriesSpec("CT", LARGE, rows=1024, columns=1024),
        SeriesSpec("CT", LARGE, rows=1024, columns=1024),
        SeriesSpec("CT", SMALL),
    ),
)
AS_STORED = ("Accept", 'multipart/related; type="application/dicom"; transfer-syntax=*')
CONVERTED = ("Accept", 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.80')
WHOLE, LITTLE = f"/studies/{STUDY}", f"/studies/{STUDY}/series/{uid(SPEC, 3)}"
SECOND = f"/studies/{STUDY}/series/{uid(SPEC, 2)}"
BOUNDED = 12.0  # seconds in which everything is answered, and every connection cut
SERVED, CUT, REFUSED = "RETRIEVAL_SERVED", "RETRIEVAL_CUT", "RETRIEVAL_REFUSED"


@dataclass
class House:
    """An appliance with one large exam in two segments, and a partner before it."""

    stage: Stage
    client: PartnerClient
    kos: str
    segments: tuple[Path, Path]  # of series 1; of series 2 and 3

    def token(self) -> str:
        order = {"claims": {}, "ttl": 3600}
        return str(self.stage.control("/control/psc/token", order)["access_token"])

    def headers(self, accept: Header = AS_STORED, token: str | None = None) -> list[Header]:
        mine = ("Authorization", f"Bearer {token or self.token()}")
        return [mine, ("KOS-SOPInstanceUID", self.kos), accept]

    def ask(self, path: str = LITTLE, headers: list[Header] | None = None) -> Reply:
        """One request; fails when it is not answered in time."""
        began = time.monotonic()
        reply = self.client.ask(path, headers or self.headers())
        assert time.monotonic() - began < BOUNDED
        return reply

    def rows(self, since: datetime) -> list[dict[str, Any]]:
        """The retrievals of the exam that began since then, oldest first."""
        foundation = lay_foundation(load_settings(Path(self.stage.config)))
        try:
            events = exams.trace_exam(foundation.transactions, STUDY)
        finally:
            foundation.database.close()
        return [
            event["detail"] | {"event": event["event"]}
            for event in sorted(events, key=lambda event: datetime.fromisoformat(event["at"]))
            if event["event"].startswith("RETRIEVAL") and datetime.fromisoformat(event["at"]) >= since
        ]

    def after(self, since: datetime, count: int) -> list[dict[str, Any]]:
        """The rows since then, once there are `count`; fails when there are more."""
        found = self.at_least(since, count)
        assert len(found) == count, found
        return found

    def at_least(self, since: datetime, count: int) -> list[dict[str, Any]]:
        """The rows since then, once there are `count`."""
        return until(lambda: rows if len(rows := self.rows(since)) >= count else None, "the rows", 30)

    def is_back(self) -> None:
        """It serves in all its processes."""
        until(lambda: all(self._serves() for _ in range(6)), "the door to serve again", 30)

    def _serves(self) -> bool:
        return self.status_or_none() == 200

    def status_or_none(self) -> int | None:
        """Of one request, None while nobody listens."""
        try:
            return self.client.ask(LITTLE, self.headers()).status
        except OSError:
            return None

    @property
    def web(self) -> int:
        """The parent of the web processes."""
        return find_command(self.stage.processes[1].pid, "web")

    @property
    def port(self) -> int:
        return int(self.client.url.split("/")[2].rpartition(":")[2])


def open_house(stage: Stage, free_port: Callable[[], int], options: dict[str, dict[str, Any]]) -> House:
    start_world(stage, "--port-base", str(port_base(free_port)))
    rooms = {"policy": {"settle_after": 1}, "psc": {"timeout": 1.5, "cache": 0}, **options}
    set_options(Path(stage.config), rooms)
    start_appliance(stage)
    files = make_study(stage.directory / "exam", SPEC)
    dicom, storage = stage.world["appliance"]["dicom"], stage.directory / "appliance" / "storage"
    segments: list[Path] = []
    for some in (files[:LARGE], files[LARGE:]):  # two associations: two segments
        assert set(push_study(some, dicom["host"], dicom["port"], dicom["ae_title"], "PACS")) == {0}
        segments += set(storage.rglob("*.seg")) - set(segments)
    client = PartnerClient(
        stage.world["appliance"]["public"],
        Path(stage.world["ca"]),
        (Path(stage.world["partner"]["certificate"]), Path(stage.world["partner"]["key"])),
    )
    return House(stage, client, publish(stage), (segments[0], segments[1]))


def port_base(free_port: Callable[[], int]) -> int:
    """Of a world that is started again at the same ports, below those that are given to clients."""
    return 10_000 + free_port() % 20_000


def publish(stage: Stage) -> str:
    report = ReportSpec(
        document_id="1.2.250.1.999.62.9",
        orders=(OrderSpec(accession=SPEC.accession, placer="OPN621"),),
        acts=(ActSpec(studies=(STUDY,)),),
    )
    mllp = stage.world["appliance"]["mllp"]
    answer = send_hl7(make_oru(make_cda(report), report, control_id="NW"), mllp["host"], mllp["port"], 20)
    assert b"MSA|AA" in answer, answer

    def look() -> str | None:
        manifest = stage.ask("exams", "show", STUDY)["manifest"]
        return str(manifest["sop_instance_uid"]) if manifest["status"] == "published" else None

    return wait_for(look, 40, "the exam is not published")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[House]:
    with open_quick_stage(tmp_path_factory.mktemp("world")) as stage:
        yield open_house(stage, free_port, {})
        sys.stderr.write((stage.directory / "serve.log").read_text("utf-8")[-8000:])


@contextlib.contextmanager
def reading(house: House, path: str = WHOLE, accept: Header = AS_STORED) -> Iterator[Retrieval]:
    """A retrieval of which the first bytes have come."""
    with house.client.slow(path, house.headers(accept)) as reader:
        assert reader.status == 200, reader.rest()
        assert len(reader.read(60_000)) == 60_000
        yield reader


def is_whole(reader: Retrieval) -> bool:
    """Read to the end. Fails for an answer that hangs, or that was cut and looks whole."""
    began, received, ended = time.monotonic(), bytearray(), False
    boundary = re.search("boundary=([0-9a-f]+)", reader.headers["content-type"])
    assert boundary is not None
    with contextlib.suppress(OSError, http.client.IncompleteRead):
        received += reader.rest()
        ended = True
    assert time.monotonic() - began < BOUNDED
    closing = f"--{boundary[1]}--\r\n".encode() in received[-200:]
    if "content-length" in reader.headers:
        all_there = len(received) + 60_000 == int(reader.headers["content-length"])
        assert (closing, ended) == (all_there, all_there)
        return all_there
    assert closing == ended  # chunked: the last chunk came, or did not
    return ended


# --- Pro Santé Connect


def test_pro_sante_connect_dies_and_comes_back(house: House) -> None:
    since, token = datetime.now(UTC), house.token()
    with reading(house) as reader:
        simulators = house.stage.processes[0]
        simulators.kill()
        simulators.wait()
        began = time.monotonic()
        for _ in range(3):  # refused connections, and what is remembered of them
            reply = house.ask(headers=house.headers(token=token))
            assert (reply.status, reply.problem["type"]) == (503, "psc-unavailable")
            assert int(reply.headers["retry-after"]) > 0
        assert time.monotonic() - began < 5
        assert is_whole(reader)  # decided when it began
    assert simulators.stdout is not None
    simulators.stdout.close()
    again = house.stage.start("simulate", "--dir", str(house.stage.directory), "--port-base", base_of(house))
    house.stage.processes.remove(again)
    house.stage.processes[0] = again
    assert again.stdout is not None
    assert again.stdout.readline() == "ready\n"
    until(lambda: house.ask(headers=house.headers(token=token)).status == 200, "tokens to be believed again")
    rows = house.rows(since)
    assert [row["code"] for row in rows if row["event"] == REFUSED][:3] == ["psc-unavailable"] * 3
    assert [row["event"] for row in rows].count(CUT) == 0


def base_of(house: House) -> str:
    """The first port of the world: that of the DMP."""
    return house.stage.world["dmp"]["registry"].split("/")[2].rpartition(":")[2]


# --- the database

LOCK = """
import fcntl, os, sys, time
shm = os.open(sys.argv[1] + "-shm", os.O_RDWR)
fcntl.lockf(shm, fcntl.LOCK_EX, 8, 120)  # every lock of the WAL index: nobody reads, nobody writes
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_the_database_is_locked_for_a_while(house: House) -> None:
    """As while another process recovers it: who asks waits or is told to, who reads reads on."""
    since, headers = datetime.now(UTC), house.headers()
    database = house.stage.directory / "appliance" / "drimbox.sqlite"
    with reading(house) as reader:
        command = [sys.executable, "-c", LOCK, str(database), "2.5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            reply = house.ask(headers=headers)
            assert reply.status == 200 or (reply.status, reply.problem["type"]) == (503, "busy")
        assert is_whole(reader)
    house.is_back()
    rows = house.at_least(since, 8)
    assert CUT not in [row["event"] for row in rows]
    assert max(row.get("bytes", 0) for row in rows) > 2 * LARGE * 2 * 1024 * 1024


def test_records_wait_for_a_database_that_takes_nothing(house: House) -> None:
    """A writer that holds it: partners are served, what they had is in the journal."""
    since = datetime.now(UTC)
    path = house.stage.directory / "appliance" / "drimbox.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert [house.ask().status for _ in range(3)] == [200] * 3
        assert house.rows(since) == []
        connection.execute("ROLLBACK")
    assert [row["event"] for row in house.after(since, 3)] == [SERVED] * 3


# --- the disk


def shortened(segment: Path) -> None:
    os.truncate(segment, 1000)


def removed(segment: Path) -> None:
    segment.unlink()


def unreadable(segment: Path) -> None:
    """As near to EIO as one comes without a broken disk: it opens, and every read fails."""
    segment.unlink()
    segment.mkdir()


def overwritten(segment: Path) -> None:
    with segment.open("r+b") as file:
        while file.tell() < segment.stat().st_size:
            file.write(bytes(4096))


@contextlib.contextmanager
def mended(segment: Path, directory: Path) -> Iterator[None]:
    """The segment is whole again afterwards."""
    copy = shutil.copy(segment, directory / "copy.seg")
    try:
        yield
    finally:
        if segment.is_dir():
            segment.rmdir()
        shutil.copy(copy, segment)


@pytest.mark.parametrize("spoil", [shortened, removed, unreadable, overwritten])
def test_a_segment_is_lost_before_it_is_read(
    house: House, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    since = datetime.now(UTC)
    with mended(house.segments[1], tmp_path):
        spoil(house.segments[1])
        for accept in (AS_STORED, CONVERTED):
            reply = house.ask(SECOND, house.headers(accept))
            assert (reply.status, reply.problem["type"]) == (500, "internal-error")
            assert set(reply.problem) == {"type", "title", "status", "detail"}
            assert str(house.segments[1].name) not in reply.body.decode()
        assert house.ask(f"/studies/{STUDY}/series/{uid(SPEC, 1)}").status == 200  # the others are there
    assert house.ask(SECOND).status == 200
    rows = house.after(since, 4)
    assert [row["event"] for row in rows] == [REFUSED, REFUSED, SERVED, SERVED]
    assert [row.get("code") for row in rows[:2]] == ["internal-error"] * 2


@pytest.mark.parametrize("accept", [AS_STORED, CONVERTED], ids=["as stored", "converted"])
@pytest.mark.parametrize("spoil", [shortened, removed, unreadable, overwritten])
def test_a_segment_is_lost_while_the_study_is_read(
    house: House, tmp_path: Path, spoil: Callable[[Path], None], accept: Header
) -> None:
    shutil.rmtree(house.stage.directory / "appliance" / "storage" / "transcoded", ignore_errors=True)
    since = datetime.now(UTC)
    with mended(house.segments[1], tmp_path):
        with reading(house, accept=accept) as reader:
            spoil(house.segments[1])
            assert not is_whole(reader)
        (row,) = house.after(since, 1)
        assert row["event"] == CUT
        assert 60_000 <= row["bytes"] <= 2 * LARGE * 2 * 1024 * 1024
        assert row["why"].startswith("not readable") or row["why"] == "a piece could not be made"
    assert house.ask(SECOND).status == 200


def test_the_segment_that_is_being_read_is_shortened(house: House, tmp_path: Path) -> None:
    since = datetime.now(UTC)
    with mended(house.segments[0], tmp_path), reading(house) as reader:
        shortened(house.segments[0])
        assert not is_whole(reader)
        assert [row["event"] for row in house.after(since, 1)] == [CUT]


def test_the_journal_cannot_be_written(house: House) -> None:
    """What cannot be recorded is not served."""
    audit = house.stage.directory / "appliance" / "storage" / "audit"
    stop(house)
    away = audit.rename(audit.with_name("audit.away"))
    audit.write_text("in the way")
    try:
        seen = until(lambda: house.status_or_none(), "the door to answer")
        assert [seen, *(house.ask().status for _ in range(4))] == [503] * 5
        assert house.ask().problem["type"] == "busy"
    finally:
        audit.unlink()
        away.rename(audit)
    house.is_back()


# --- processes


def holder_of(house: House, reader: Retrieval) -> int:
    """The web process that answers a reader."""
    ours, theirs = f":{house.port:04X} ", f":{reader.local_port:04X} "
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if f"{fields[1]} ".endswith(ours) and f"{fields[2]} ".endswith(theirs):
            inode = f"socket:[{fields[9]}]"
            return next(pid for pid in tree(house.web) if inode in descriptors(pid))
    raise AssertionError("nobody holds the connection")


def descriptors(pid: int) -> set[str]:
    """What a process has open; its descriptors come and go meanwhile."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return found


def is_dead(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def stop(house: House) -> None:
    """The web processes, which their supervisor starts again."""
    pids = tree(house.web)
    os.kill(pids[0], signal.SIGTERM)
    until(lambda: all(map(is_dead, pids)), "the end of the web processes", 30)


def test_a_web_process_is_killed(house: House) -> None:
    since = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading(house))
        victim = survivor = holder_of(house, reader)
        for _ in range(20):  # until two processes have one each
            other = stack.enter_context(reading(house))
            survivor = holder_of(house, other)
            if victim != survivor:
                break
        assert victim != survivor
        os.kill(victim, signal.SIGKILL)
        assert house.ask().status == 200  # the other one serves on
        assert not is_whole(reader)
        assert is_whole(other)
    until(lambda: len(tree(house.web)) >= 3, "the process to come back")
    house.is_back()

    def dead() -> list[dict[str, Any]]:
        return [row for row in house.rows(since) if row.get("why") == "the process died"]

    until(dead, "the records of the dead process", 20)
    assert {row["event"] for row in dead()} == {CUT}
    assert dead()[0]["kos"] == house.kos
    records = [row["record"] for row in house.rows(since)]
    assert len(records) == len(set(records))


def test_the_parent_of_the_web_processes_is_killed(house: House) -> None:
    since, pids = datetime.now(UTC), tree(house.web)
    with reading(house) as reader:
        os.kill(pids[0], signal.SIGKILL)
        # the orphan finishes what it had begun, while the next ones serve already at the same ports
        whole = is_whole(reader)
    until(lambda: all(map(is_dead, pids)), "the end of the children", 20)
    house.is_back()
    assert not set(pids) & set(tree(house.web))
    (row,) = [row for row in house.rows(since) if row.get("bytes", 0) > 1_000_000 or row["event"] == CUT]
    assert row["event"] == (SERVED if whole else CUT)


def test_a_transfer_in_flight_ends_before_the_door_does(house: House) -> None:
    since, pids = datetime.now(UTC), tree(house.web)
    finished: list[bool] = []
    with reading(house) as patient, reading(house) as asleep:
        os.kill(pids[0], signal.SIGTERM)
        began = time.monotonic()
        reader = threading.Timer(1.5, lambda: finished.append(is_whole(patient)))
        reader.start()
        until(lambda: all(map(is_dead, pids)), "the end of the processes", 20)
        assert 5 < time.monotonic() - began < 16  # for the one that sleeps, but not for ever
        reader.join()
        assert finished == [True]
        assert not is_whole(asleep)
    house.is_back()
    rows = [row for row in house.rows(since) if row.get("bytes", 0) > 100_000]
    assert sorted((row["event"], row.get("why")) for row in rows) == [
        (CUT, "the server stopped"),
        (SERVED, None),
    ]


# --- PostgreSQL


@dataclass
class Server:
    """The PostgreSQL server of the session, which this module may stop."""

    url: str

    @property
    def home(self) -> Path:
        engine = create_engine(f"{self.url}/postgres")
        with engine.connect() as connection:
            found = connection.execute(text("SHOW data_directory")).scalar_one()
        engine.dispose()
        return Path(found)

    def control(self, home: Path, *words: str) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        account = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*account, shutil.which("pg_ctl") or binaries[-1], "-D", home, "-w", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=home.parent)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        home = self.home
        options = (home / "postmaster.opts").read_text("utf-8").split(maxsplit=1)[1].replace('"', "").strip()
        options = re.sub(r"-D \S+", "", options)
        self.control(home, "-m", "immediate", "stop")
        try:
            yield
        finally:
            self.control(home, "-l", str(home.parent / "log"), "-o", options, "start")


@pytest.fixture(scope="module")
def server(postgresql: str) -> Server:
    return Server(postgresql)


@pytest.fixture(scope="module")
def far(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], server: Server
) -> Iterator[House]:
    """A house whose facts are in PostgreSQL."""
    name = f"serving_{uuid.uuid4().hex}"
    engine = create_engine(f"{server.url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    with open_quick_stage(tmp_path_factory.mktemp("far")) as stage:
        yield open_house(stage, free_port, {"database": {"url": f"{server.url}/{name}"}})
        sys.stderr.write((stage.directory / "serve.log").read_text("utf-8")[-4000:])


@pytest.mark.soak  # an appliance on PostgreSQL takes half a minute to start here
def test_postgresql_stops_and_comes_back(far: House, server: Server) -> None:
    since, headers = datetime.now(UTC), far.headers()
    with reading(far) as reader:
        with server.stopped():
            for _ in range(3):
                reply = far.ask(headers=headers)
                assert (reply.status, reply.problem["type"]) == (503, "busy")
            assert is_whole(reader)
        far.is_back()
    rows = far.at_least(since, 10)
    assert [row["event"] for row in rows].count(REFUSED) >= 3
    (large,) = [row for row in rows if row.get("bytes", 0) > 1_000_000]
    assert large["event"] == SERVED
    records = [row["record"] for row in rows]
    assert len(records) == len(set(records))


@pytest.mark.soak  # an appliance on PostgreSQL takes half a minute to start here
def test_postgresql_does_not_answer(far: House) -> None:
    """A lock that nobody releases: the question is given up, the loop serves on."""
    since, headers = datetime.now(UTC), far.headers()
    engine = create_engine(load_settings(Path(far.stage.config)).database.url)
    with reading(far) as reader, engine.connect() as connection:
        connection.execute(text("LOCK TABLE submission IN ACCESS EXCLUSIVE MODE"))
        reply = far.ask(headers=headers)
        assert (reply.status, reply.problem["type"]) == (503, "busy")
        assert far.ask("/nothing", headers).status == 404
        assert is_whole(reader)
        connection.rollback()
    engine.dispose()
    far.is_back()
    events = [row["event"] for row in far.rows(since)]
    assert (events.count(CUT), events.count(REFUSED)) == (0, 1)
