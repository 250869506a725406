"""Bad days: no room at any write, a locked database, a clock that jumps, certificates that expire, a DMP that is down.

The doors answer that they cannot, nothing is half done, and when the day is over everything is published once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dicom_store.sink import Peer, StoreCommand
from dicom_store.status import Outcome, StoreRefused
from drimbox.adapters.key_files import UnusableCredential
from drimbox.adapters.lasting_session import LastingSession
from drimbox.adapters.signing import RsaSigner
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.entrypoints.reports_http import make_reports_app
from drimbox.settings.whole import load_settings
from drimbox.simulators import world as simulators
from drimbox.simulators.pki import LEAVES
from fixtures.images import study_datasets
from fixtures.reports import make_cda

DAY = 86_400.0
WRITES = (
    "pwritev",
    "fdatasync",
    "fsync",
    "mkdir",
    "replace",
)  # of the module os, by which bytes become durable


class Doors:
    """The three doors of an appliance, without sockets: `True` when they acknowledged, `False` when they cannot."""

    def __init__(self, inside: Any, rules: Any) -> None:
        self.inside, self.rules = inside, rules
        self.sink = InstanceIntake(inside.foundation, "pacs:PACS@127.0.0.1")
        self.http = make_reports_app(inside.foundation).test_client()

    def image(self, exam: Any, instance: int) -> bool:
        dataset = list(study_datasets(exam.spec))[instance - 1]
        sop = str(dataset.SOPInstanceUID)
        syntax, part10 = str(dataset.file_meta.TransferSyntaxUID), self._written(dataset)
        command = StoreCommand(str(dataset.SOPClassUID), sop, syntax, Peer("PACS", "127.0.0.1", "1"))
        try:
            arrival = self.sink.begin(command)
            arrival.more(memoryview(self.rules.data_set_of(part10)))
            arrival.complete()
        except StoreRefused as refusal:
            assert refusal.outcome in (Outcome.OUT_OF_RESOURCES, Outcome.STORAGE_FULL)
            return False
        exam.took_image(sop)
        return True

    def message(self, exam: Any, report: Any) -> bool:
        answer = self.inside.say(exam.message(report, "NW", {}, mdm=False))
        if b"MSA|AA" in answer:
            exam.took_report(report, {})
            return True
        assert b"MSA|AR" in answer, answer
        return False

    def post(self, exam: Any, report: Any) -> bool:
        status = self.http.post("/reports", data=make_cda(report)).status_code
        if status in (200, 201):
            exam.took_report(report, {})
            return True
        assert status in (503, 507)
        return False

    def close(self) -> None:
        self.sink.close()

    def _written(self, dataset: Any) -> bytes:
        path = self.inside.root / "instance.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path.read_bytes()


class FullDisk:
    """The `left`-th durable write of this process, and all after it, find no room."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.struck = False

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in WRITES:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.struck = True
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **options)

        return counted

    @contextlib.contextmanager
    def full_after(self, writes: int) -> Iterator[None]:
        self.left, self.struck = writes, False
        yield
        self.left = None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    disk = FullDisk()
    disk.patch(monkeypatch)
    return disk


@pytest.fixture
def dmp(rules: Any) -> Any:
    return rules.RegistryModel()


@pytest.fixture
def inside(make_inside: Callable[..., Any], dmp: Any) -> Any:
    return make_inside(dmp=dmp)


@pytest.fixture
def doors(inside: Any, rules: Any) -> Iterator[Doors]:
    doors = Doors(inside, rules)
    yield doors
    doors.close()


def facts(inside: Any, exam: Any) -> tuple[Any, ...]:
    """What is known of an exam: it must not change when something was not acknowledged."""
    with inside.transactions.reading() as transaction:
        row = transaction.ledger.exam(exam.study)
        images = transaction.images.snapshot(exam.study)
        reports = [report.document_id for report in transaction.ledger.reports_of(exam.study)]
        return row and row.revision, images, reports


def asides(inside: Any) -> list[Path]:
    return list((inside.root / "storage" / "documents").rglob(".*"))


def published_once(inside: Any, dmp: Any, exam: Any) -> None:
    (held,) = [one for one in dmp.documents.values() if one.study == exam.study]
    assert (held.status, held.listed) == ("Approved", exam.listed)
    assert inside.exam(exam.study)["reason"] is None


def everything_arrives(doors: Doors, exam: Any) -> None:
    for instance in range(1, exam.images + 1):
        assert doors.image(exam, instance)
    assert doors.message(exam, exam.new_report())


# --- no room


def test_no_room_at_any_write_of_a_door(
    doors: Doors, inside: Any, dmp: Any, rules: Any, disk: FullDisk
) -> None:
    exam = rules.Expected(1, images=3)
    message, post = exam.new_report(), rules.Expected(2).new_report()
    arrivals: list[Callable[[], bool]] = [
        lambda: doors.image(exam, 1),
        lambda: doors.image(exam, 2),  # its segment is open
        lambda: doors.message(exam, message),
        lambda: doors.post(rules.Expected(2), post),
    ]
    refusals = 0
    for arrive in arrivals:
        for writes in range(40):
            before = facts(inside, exam)
            with disk.full_after(writes):
                taken = arrive()
            if taken:
                assert not disk.struck  # nothing is acknowledged that was not written
                break
            refusals += 1
            assert facts(inside, exam) == before
            assert asides(inside) == []
        else:
            raise AssertionError("never acknowledged")
    assert refusals >= 8
    assert doors.image(exam, 3)
    inside.clock.move(60)
    inside.work()
    published_once(inside, dmp, exam)


def test_no_room_at_any_write_of_the_worker(
    doors: Doors, inside: Any, dmp: Any, rules: Any, disk: FullDisk
) -> None:
    """Also when the DMP has registered the lot and its answer cannot be kept: the registry is asked then."""
    exam = rules.Expected(1, images=2)
    everything_arrives(doors, exam)
    inside.clock.move(60)
    postponed = 0
    for writes in range(60):
        with disk.full_after(writes):
            try:
                inside.work()
            except Unavailable:
                postponed += 1
        assert asides(inside) == []
        inside.clock.move(60)
        if not disk.struck:
            break
    assert postponed >= 5
    inside.work()
    published_once(inside, dmp, exam)


def test_no_room_in_the_database(
    doors: Doors, inside: Any, dmp: Any, rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = {"pages": 0}

    def limit(connection: Any) -> None:
        if room["pages"]:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {room['pages']}")

    opened = LastingSession.open

    def open_limited(session: LastingSession) -> None:
        limit(session.connection())
        opened(session)

    event.listen(inside.foundation.database.engine, "begin", limit)
    monkeypatch.setattr(LastingSession, "open", open_limited)
    exams = [rules.Expected(number, images=2) for number in range(1, 17)]
    with sqlite3.connect(inside.root / "drimbox.sqlite") as reader:
        room["pages"] = reader.execute("PRAGMA page_count").fetchone()[0] + 1
    refused = {"image": 0, "message": 0}
    for exam in exams:
        for name, arrive in (
            ("image", lambda e: doors.image(e, 1)),
            ("message", lambda e: doors.message(e, e.new_report())),
        ):
            before = facts(inside, exam)
            if not arrive(exam):
                refused[name] += 1
                assert facts(inside, exam) == before
    assert min(refused.values()) > 0, refused
    with contextlib.suppress(Unavailable):
        inside.clock.move(60)
        inside.work()
    room["pages"] = 1_000_000
    for exam in exams:
        everything_arrives(doors, exam) if exam.report is None else [doors.image(exam, n) for n in (1, 2)]
    for _ in range(12):
        inside.clock.move(60)
        inside.work()
    for exam in exams:
        (held,) = dmp.approved(exam.study)
        assert held.listed == exam.listed


# --- a locked database


@contextlib.contextmanager
def locked(inside: Any) -> Iterator[None]:
    """Another process holds the write lock for longer than busy_timeout."""
    other = sqlite3.connect(inside.root / "drimbox.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_locked_database_is_said_and_nothing_is_lost(
    doors: Doors, inside: Any, dmp: Any, rules: Any
) -> None:
    exam = rules.Expected(1, images=2)
    report = exam.new_report()
    with locked(inside):
        assert not doors.image(exam, 1)
        assert not doors.message(exam, report)
        assert not doors.post(exam, report)
    assert facts(inside, exam) == (None, None, [])
    assert doors.image(exam, 1)
    assert doors.image(exam, 2)
    assert doors.message(exam, report)
    inside.clock.move(60)
    with locked(inside), pytest.raises(Unavailable):
        inside.reconciling.run_due()
    inside.work()
    published_once(inside, dmp, exam)


def test_the_database_is_locked_while_the_dmp_answers(
    doors: Doors, inside: Any, dmp: Any, rules: Any
) -> None:
    exam = rules.Expected(1, images=2)
    everything_arrives(doors, exam)
    inside.clock.move(60)
    inside.reconciling.run_due()
    with contextlib.ExitStack() as lock:
        register, dmp.publish = (
            dmp.publish,
            lambda lot: (register(lot), lock.enter_context(locked(inside)))[0],
        )
        with pytest.raises(Unavailable):
            inside.publishing.run_due()
    assert inside.exam(exam.study)["manifest"]["status"] == "prepared"  # being sent, as far as we know
    inside.clock.move(60)
    inside.work()
    published_once(inside, dmp, exam)
    assert "FOUND" in [entry["event"] for entry in trace(inside, exam)]


def trace(inside: Any, exam: Any) -> list[dict[str, Any]]:
    from drimbox.flow.exams import trace_exam

    return trace_exam(inside.transactions, exam.study)


# --- the real door of the DMP: clocks, certificates, absence


@pytest.fixture
def outside(tmp_path: Path, rules: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The simulators in this process, on a clock that tests move (`outside.clock`)."""
    clock = rules.Clock()
    monkeypatch.setattr(simulators, "_now", clock)
    world = simulators.World(tmp_path / "world")
    world.clock = clock
    with world:
        yield world


@pytest.fixture
def appliance(outside: Any, make_inside: Callable[..., Any]) -> Any:
    """An appliance that speaks with these simulators over TLS."""
    return make_inside(settings=load_settings(outside.directory / "drimbox.toml"))


def bring(appliance: Any, exam: Any) -> Any:
    for dataset in study_datasets(exam.spec):
        exam.took_image(appliance.store(dataset))
    report = exam.new_report()
    assert b"MSA|AA" in appliance.say(exam.message(report, "NW", {}, mdm=False))
    exam.took_report(report, {})
    return exam


def pass_time(appliance: Any, outside: Any, seconds: float) -> None:
    appliance.clock.move(seconds)
    outside.clock.move(seconds)


def work_for(appliance: Any, outside: Any, seconds: float, steps: int = 4) -> None:
    for _ in range(steps):
        pass_time(appliance, outside, seconds / steps)
        appliance.work()


def statuses(outside: Any, exam: Any) -> list[str]:
    """Of the manifests of an exam at the DMP."""
    return [
        str(document["status"])
        for document in outside.dmp_state.documents()
        if document["type_code"].startswith("IMG-KOS")
        and any(reference.startswith(f"{exam.study}^") for reference in document["reference_ids"])
    ]


def stopped(appliance: Any) -> str | None:
    with appliance.transactions.reading() as transaction:
        gate = transaction.ledger.gate("dmp")
        return gate and gate.reason


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_our_clock_is_a_day_wrong_in_mid_story(appliance: Any, outside: Any, rules: Any, jump: float) -> None:
    """The DMP refuses the VIHF, the queue stands still and says why; with the right time it goes on, once."""
    first, second = bring(appliance, rules.Expected(1)), rules.Expected(2)
    work_for(appliance, outside, 20)
    assert statuses(outside, first) == ["Approved"]
    bring(appliance, second)
    appliance.clock.move(jump)
    appliance.store(
        list(study_datasets(replace(first.spec, series=(replace(first.spec.series[0], instances=6),))))[5]
    )
    appliance.clock.move(20)
    appliance.work()
    assert statuses(outside, second) == []
    assert "VIHF" in (stopped(appliance) or ""), stopped(appliance)
    appliance.clock.move(-jump - 20)
    work_for(appliance, outside, DAY + 60)
    work_for(appliance, outside, 60)
    assert (statuses(outside, first), statuses(outside, second)) == (["Deprecated", "Approved"], ["Approved"])
    assert stopped(appliance) is None
    assert appliance.exam(first.study)["manifest"]["status"] == "published"


def test_an_operator_ends_the_wait_that_a_wrong_clock_left(appliance: Any, outside: Any, rules: Any) -> None:
    exam = bring(appliance, rules.Expected(1))
    appliance.clock.move(DAY)
    appliance.work()
    appliance.clock.move(20)
    appliance.work()
    assert stopped(appliance)
    appliance.clock.move(-DAY - 20)
    work_for(appliance, outside, 60)
    assert statuses(outside, exam) == []
    appliance.release(exam.study)
    work_for(appliance, outside, 60)
    assert statuses(outside, exam) == ["Approved"]
    assert stopped(appliance) is None


def test_a_client_certificate_expires_in_mid_queue(appliance: Any, outside: Any, rules: Any) -> None:
    """It is read for every call: renewed on disk, the queue goes on without a restart."""
    exam, pki = bring(appliance, rules.Expected(1)), outside.pki
    name = LEAVES["appliance_auth"]
    pki.issue(name.kind, name.cn, name.ou, expired=True).write(pki.directory, "appliance_auth")
    work_for(appliance, outside, 60)
    assert statuses(outside, exam) == []
    assert appliance.exam(exam.study)["rule"] == "to-send"
    assert "certificate" in appliance.exam(exam.study)["reason"]
    pki.issue(name.kind, name.cn, name.ou).write(pki.directory, "appliance_auth")
    work_for(appliance, outside, 60)
    assert statuses(outside, exam) == ["Approved"]
    assert appliance.exam(exam.study)["reason"] is None


def test_a_signature_certificate_expires_in_mid_queue(appliance: Any, outside: Any, rules: Any) -> None:
    """A worker that loaded it in time goes on with it and is refused; none starts with it; renewed, all goes on."""
    exam, pki = bring(appliance, rules.Expected(1)), outside.pki
    name = LEAVES["appliance_sign"]
    expired = pki.issue(name.kind, name.cn, name.ou, expired=True)
    expired.write(pki.directory, "appliance_sign")
    signing = appliance.publishing.dmp
    appliance.publishing = replace(
        appliance.publishing, dmp=replace(signing, signer=lambda: RsaSigner(expired.key, expired.certificate))
    )
    work_for(appliance, outside, 30)
    assert statuses(outside, exam) == []
    assert stopped(appliance)
    with pytest.raises(UnusableCredential, match="expired"):
        appliance.load_worker()
    pki.issue(name.kind, name.cn, name.ou).write(pki.directory, "appliance_sign")
    appliance.load_worker()
    work_for(appliance, outside, 30)
    assert statuses(outside, exam) == ["Approved"]
    assert stopped(appliance) is None


def test_the_dmp_is_down_for_a_day(appliance: Any, outside: Any, rules: Any) -> None:
    exams = [bring(appliance, rules.Expected(number)) for number in range(1, 5)]
    outside.stop()
    for hour in range(24):
        work_for(appliance, outside, 3600, steps=1)
        if hour == 12:  # the day goes on at the other doors
            exams.append(bring(appliance, rules.Expected(5)))
    assert all(appliance.exam(exam.study)["rule"] == "to-send" for exam in exams)
    outside.start()
    work_for(appliance, outside, 1200)
    assert [statuses(outside, exam) for exam in exams] == [["Approved"]] * 5
