"""InstanceIntake: what one association brings, piece by piece, into real stores; whatever goes wrong leaves nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dicom_store import free_space
from dicom_store.dicom_json import instance_json
from dicom_store.header import read_header
from dicom_store.incoming import MEMORY_BYTES, Incoming
from dicom_store.part10 import file_start
from dicom_store.rejection import MAX_NOTE_BYTES
from dicom_store.segment_record import HEADER
from dicom_store.status import Outcome, StoreRefused
from drimbox.adapters.transactions import SqlTransaction
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.intake import InstanceIntake
from fixtures.instances import KEY_OBJECT_SELECTION, InstanceSpec
from fixtures.kept_images import KeptImages

MIB = 1024 * 1024
LONG = 3 * MIB + 12_345
ROOT = Path(__file__).resolve().parent.parent.parent


class Box:
    """The stores of an appliance, and what is asked of them."""

    def __init__(self, root: Path, url: str = "") -> None:
        self.images = KeptImages(root, url)
        self.foundation: Foundation = self.images.foundation
        self.intakes: list[InstanceIntake] = []

    def intake(self) -> InstanceIntake:
        self.intakes.append(InstanceIntake(self.foundation, "pacs:CT1@192.0.2.7"))
        return self.intakes[-1]

    def files(self, study: str = InstanceSpec().study) -> dict[str, bytes]:
        archive = self.foundation.archive
        with self.foundation.transactions.reading() as transaction:
            found = transaction.images.retrieve(study, None, None)
        return {one.ref.SOPInstanceUID: b"".join(archive.read(one)) for one in found}

    def events(self, study: str = InstanceSpec().study) -> list[str]:
        with self.foundation.transactions.reading() as transaction:
            return [one.event for one in transaction.ledger.trace_of(study)]

    def refusals(self) -> list[str]:
        with self.foundation.database.reading() as session:
            rows = session.connection().exec_driver_sql(
                "SELECT detail FROM trace WHERE event = 'INSTANCE_REFUSED' ORDER BY id"
            )
            return [str(row[0]) for row in rows]

    def sizes(self) -> list[int]:
        """Bytes of the segment files, once no association is open."""
        for one in self.intakes:
            one.close()
        return sorted(path.stat().st_size for path in self.images.segments.rglob("*.seg"))

    def close(self) -> None:
        for one in self.intakes:
            one.close()
        self.foundation.archive.close()
        self.foundation.database.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    yield made
    made.close()


@pytest.fixture
def any_box(tmp_path: Path, newest_url: str) -> Iterator[Box]:
    made = Box(tmp_path / "box", newest_url)
    yield made
    made.close()


def send(intake: InstanceIntake, spec: InstanceSpec, size: int = 64 * 1024) -> Outcome:
    arrival = intake.begin(spec.command)
    try:
        for piece in spec.pieces(size):
            arrival.more(piece)
        return arrival.complete()
    except StoreRefused as refusal:
        arrival.abandon()
        return refusal.outcome


def header_of(spec: InstanceSpec) -> Any:
    command = spec.command
    return read_header(
        spec.data_set, command.transfer_syntax, command.sop_class_uid, command.sop_instance_uid
    )


def file_of(spec: InstanceSpec) -> bytes:
    return file_start(header_of(spec)) + spec.data_set


def record_size(spec: InstanceSpec) -> int:
    """Of the file and of its DICOM JSON, with their headers."""
    start = len(file_start(header_of(spec)))
    json = instance_json(spec.data_set, spec.command.transfer_syntax, start)
    return 2 * HEADER.size + start + len(spec.data_set) + len(json)


# --- what is taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [777, 64 * 1024, MIB])
def test_every_length_is_kept_as_sent(box: Box, piece: int) -> None:
    head = len(InstanceSpec(pixels=0).data_set)
    lengths = [0, 1000, 300_000, *(MEMORY_BYTES + more - head for more in (-2, 0, 2)), LONG, 2 * MIB]
    specs = [InstanceSpec(number, pixels=length) for number, length in enumerate(lengths, 1)]
    intake = box.intake()
    assert {send(intake, spec, piece) for spec in specs} == {Outcome.STORED}
    assert box.files() == {spec.sop: file_of(spec) for spec in specs}
    with box.foundation.database.reading() as session:
        found = box.foundation.archive.retrieve(session, specs[0].study)
    for spec, one in zip(specs, found, strict=True):
        assert one.sha256 == hashlib.sha256(file_of(spec)).hexdigest()
        start = len(file_start(header_of(spec)))
        assert box.foundation.archive.metadata(one) == instance_json(
            spec.data_set, spec.command.transfer_syntax, start
        )
    assert box.sizes() == [sum(map(record_size, specs))]


@pytest.mark.parametrize("pixels", [1000, 2 * MIB])
def test_an_instance_costs_two_syncs(box: Box, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """One of the segment, one of the database, which is not ours to count."""
    intake = box.intake()
    send(intake, InstanceSpec(1, pixels=pixels))
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd))[1])
    monkeypatch.setattr(os, "fsync", lambda _fd: pytest.fail("fsync"))
    for number in range(2, 6):
        assert send(intake, InstanceSpec(number, pixels=pixels)) is Outcome.STORED
    assert len(synced) == 4


def test_instances_of_several_studies_have_segments_of_their_own(box: Box) -> None:
    intake = box.intake()
    for number in range(1, 4):
        for study in ("1.2.3.1", "1.2.3.2"):
            assert send(intake, InstanceSpec(number, study, pixels=number * 600_000)) is Outcome.STORED
    assert len(box.sizes()) == 2
    assert [len(box.files(study)) for study in ("1.2.3.1", "1.2.3.2")] == [3, 3]


@pytest.mark.parametrize("before", [0x00210010, 0x00290010])
def test_a_long_value_behind_what_identifies(box: Box, before: int) -> None:
    """The study is chosen by the first 16 MiB; what the index says comes from the whole."""
    spec = InstanceSpec(extra=((before, b"UN", bytes(17 * MIB)),), pixels=10)
    assert send(box.intake(), spec, MIB) is Outcome.STORED
    assert box.files() == {spec.sop: file_of(spec)}
    with box.foundation.database.reading() as session:
        row = session.connection().exec_driver_sql(
            "SELECT bits_allocated, performed_procedure_step_start_date FROM dicom_instance, dicom_series"
        ).one()  # fmt: skip
    assert tuple(row) == (16, "20260103")


_GIGABYTE = """
import os, sys
from pathlib import Path
from drimbox.entrypoints.intake import InstanceIntake
from fixtures.instances import InstanceSpec
from fixtures.kept_images import KeptImages

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

images = KeptImages(Path(sys.argv[1]))
intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
small = InstanceSpec(1)
arrival = intake.begin(small.command)
arrival.more(memoryview(small.data_set))
arrival.complete()
before = peak()
spec = InstanceSpec(2, pixels=0)
command = spec.command
command = type(command)(command.sop_class_uid, command.sop_instance_uid, "1.2.840.10008.1.2.4.70", command.peer)
arrival = intake.begin(command)
fragments = b"\\xe0\\x7f\\x10\\x00OB\\0\\0\\xff\\xff\\xff\\xff" + b"\\xfe\\xff\\0\\xe0\\0\\0\\0\\0"
arrival.more(memoryview(spec.data_set[:-12] + fragments))
frame = b"\\xfe\\xff\\0\\xe0" + (65536 - 8).to_bytes(4, "little") + os.urandom(65528)
for _ in range(1024):
    arrival.more(memoryview(frame * 16))
arrival.more(memoryview(b"\\xfe\\xff\\xdd\\xe0\\0\\0\\0\\0"))
outcome = arrival.complete()
print(outcome, peak() - before)
"""


def test_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    """A multi-frame of 16,384 fragments: neither the data nor the walk over them stays in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _GIGABYTE, str(tmp_path / "box")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome, grown = done.stdout.splitlines()[-1].split()
    assert outcome == "stored"
    assert int(grown) < 30_000  # KiB


# --- what is not -------------------------------------------------------------------------------------------


def test_a_header_that_does_not_come(box: Box) -> None:
    spec = InstanceSpec(extra=((0x00110010, b"UN", bytes(17 * MIB)),))
    intake = box.intake()
    arrival = intake.begin(spec.command)
    with pytest.raises(StoreRefused, match="16 MiB") as refused:
        for piece in spec.pieces(MIB):
            arrival.more(piece)
    arrival.abandon()
    assert refused.value.outcome is Outcome.NOT_UNDERSTOOD
    assert "not-understood" in box.refusals()[0]
    assert send(intake, InstanceSpec(2)) is Outcome.STORED
    assert len(box.sizes()) == 1


@pytest.mark.parametrize("pixels", [1000, LONG])
def test_what_is_refused_early_or_late_leaves_nothing(box: Box, pixels: int) -> None:
    intake, spec = box.intake(), InstanceSpec(pixels=pixels)
    command = replace(spec.command, sop_instance_uid="1.2.3.9")
    arrival = intake.begin(command)
    with pytest.raises(StoreRefused) as refused:
        arrival.more(memoryview(spec.data_set))
    arrival.abandon()
    assert refused.value.outcome is Outcome.UID_MISMATCH
    with pytest.raises(ValueError, match="ended"):
        arrival.more(memoryview(b"x"))
    assert "uid-mismatch" in box.refusals()[0]
    assert box.sizes() == []


def test_a_key_object_selection_that_is_too_long(box: Box) -> None:
    spec = InstanceSpec(sop_class=KEY_OBJECT_SELECTION, pixels=MAX_NOTE_BYTES)
    intake = box.intake()
    assert send(intake, spec, MIB) is Outcome.NOT_UNDERSTOOD
    assert "Key Object Selection" in box.refusals()[0]
    assert send(intake, replace(spec, pixels=LONG), MIB) is Outcome.STORED  # read from the disk, and no note
    assert box.sizes() == [record_size(replace(spec, pixels=LONG))]


@pytest.mark.parametrize("pixels", [1000, LONG])
def test_abandoned_after_any_piece(box: Box, pixels: int) -> None:
    intake, kept = box.intake(), InstanceSpec(1)
    assert send(intake, kept) is Outcome.STORED
    spec = InstanceSpec(2, pixels=pixels)
    pieces = list(spec.pieces(MIB))
    for count in range(len(pieces) + 1):
        arrival = intake.begin(spec.command)
        for piece in pieces[:count]:
            arrival.more(piece)
        arrival.abandon()
        arrival.abandon()
    intake.begin(spec.command).more(pieces[0])  # and the association goes
    assert box.sizes() == [record_size(kept)]
    assert list(box.files()) == [kept.sop]


def test_nothing_but_an_abandoned_instance_leaves_no_file(box: Box) -> None:
    intake, spec = box.intake(), InstanceSpec(pixels=LONG)
    arrival = intake.begin(spec.command)
    for piece in spec.pieces(MIB):
        arrival.more(piece)
    assert len(list(box.images.segments.rglob("*.seg"))) == 1
    arrival.abandon()
    assert box.sizes() == []


# --- the same again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1000, LONG])
def test_the_same_again_is_found_before_and_after_it_is_written(any_box: Box, pixels: int) -> None:
    intake = any_box.intake()
    specs = [InstanceSpec(number, pixels=pixels) for number in (1, 2)]
    assert [send(intake, spec) for spec in specs] == [Outcome.STORED] * 2
    assert send(intake, specs[0]) is Outcome.DUPLICATE  # written, since the one before was new
    assert send(intake, specs[1]) is Outcome.DUPLICATE  # asked for first
    assert send(intake, InstanceSpec(3, pixels=pixels)) is Outcome.STORED
    assert any_box.events() == [*["INSTANCE_STORED"] * 2, *["INSTANCE_REPEATED"] * 2, "INSTANCE_STORED"]
    assert any_box.sizes() == [sum(record_size(InstanceSpec(n, pixels=pixels)) for n in (1, 2, 3))]


@pytest.mark.parametrize("pixels", [1000, LONG])
@pytest.mark.parametrize("new_before", [False, True])
def test_other_bytes_are_refused(any_box: Box, pixels: int, new_before: bool) -> None:
    intake, spec = any_box.intake(), InstanceSpec(pixels=pixels)
    assert send(intake, spec) is Outcome.STORED
    if not new_before:
        send(intake, spec)
    for changed in ({"fill": 8}, {"pixels": pixels + 2}, {"patient": "IPP78"}):
        assert send(intake, replace(spec, **changed)) is Outcome.DIFFERENT_BYTES
    assert any_box.files() == {spec.sop: file_of(spec)}
    assert any_box.sizes() == [record_size(spec)]


@pytest.mark.parametrize("pixels", [1000, LONG])
def test_another_association_is_faster(any_box: Box, pixels: int) -> None:
    """Both have asked, neither knows of the other: the second one to commit has brought nothing."""
    spec = InstanceSpec(pixels=pixels)
    slow, fast = any_box.intake(), any_box.intake()
    assert send(slow, InstanceSpec(9)) is Outcome.STORED
    arrival = slow.begin(spec.command)
    pieces = list(spec.pieces(MIB))
    arrival.more(pieces[0])
    assert send(fast, spec) is Outcome.STORED
    for piece in pieces[1:]:
        arrival.more(piece)
    assert arrival.complete() is Outcome.DUPLICATE
    assert sorted(any_box.files()) == [spec.sop, InstanceSpec(9).sop]
    assert any_box.sizes() == sorted([record_size(spec), record_size(InstanceSpec(9))])


def test_an_instance_written_by_another_version(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file meta differs, so its hash does: the data sets are compared."""
    spec = InstanceSpec(pixels=600_000)
    with monkeypatch.context() as patched:
        patched.setattr("dicom_store.part10.IMPLEMENTATION_VERSION_NAME", "DRIMBOX_OTHER")
        assert send(box.intake(), spec) is Outcome.STORED
    assert send(box.intake(), spec) is Outcome.DUPLICATE
    assert send(box.intake(), replace(spec, fill=8)) is Outcome.DIFFERENT_BYTES


def test_bytes_that_are_lost_are_taken_again(box: Box) -> None:
    spec = InstanceSpec()
    assert send(box.intake(), spec) is Outcome.STORED
    assert len(box.sizes()) == 1
    next(box.images.segments.rglob("*.seg")).unlink()
    assert send(box.intake(), replace(spec, fill=8)) is Outcome.DIFFERENT_BYTES
    assert send(box.intake(), spec) is Outcome.STORED
    assert box.files() == {spec.sop: file_of(spec)}


# --- disks and databases -----------------------------------------------------------------------------------

SHORT_LONG_SHORT = [InstanceSpec(1), InstanceSpec(2, pixels=LONG), InstanceSpec(3, pixels=200_000)]


def outcomes_with(intake: InstanceIntake, specs: Sequence[InstanceSpec]) -> list[Outcome]:
    return [send(intake, spec, MIB) for spec in specs]


@pytest.mark.parametrize("step", range(12))
def test_a_disk_that_is_full_at_any_write(box: Box, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real, calls = os.pwritev, 0

    def write(fd: int, buffers: list[memoryview], at: int) -> int:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            real(fd, [buffers[0][:10]], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, at)

    intake = box.intake()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", write)
        outcomes = outcomes_with(intake, SHORT_LONG_SHORT)
    failed = [
        spec
        for spec, outcome in zip(SHORT_LONG_SHORT, outcomes, strict=True)
        if outcome is not Outcome.STORED
    ]
    assert len(failed) == int(calls > step)
    assert {outcome for outcome in outcomes if outcome is not Outcome.STORED} <= {Outcome.STORAGE_FULL}
    assert len(box.refusals()) == len(failed)
    assert set(box.files()) == {spec.sop for spec in SHORT_LONG_SHORT} - {spec.sop for spec in failed}
    assert outcomes_with(intake, failed) == [Outcome.STORED] * len(failed)
    assert box.files() == {spec.sop: file_of(spec) for spec in SHORT_LONG_SHORT}
    assert sum(box.sizes()) == sum(map(record_size, SHORT_LONG_SHORT))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_disk_that_fails_to_sync(box: Box, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real, calls = os.fdatasync, 0

    def sync(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    intake = box.intake()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", sync)
        outcomes = outcomes_with(intake, SHORT_LONG_SHORT)
    assert [n for n, outcome in enumerate(outcomes, 1) if outcome is Outcome.OUT_OF_RESOURCES] == [number]
    assert outcomes_with(intake, [SHORT_LONG_SHORT[number - 1]]) == [Outcome.STORED]
    assert box.files() == {spec.sop: file_of(spec) for spec in SHORT_LONG_SHORT}
    assert sum(box.sizes()) == sum(map(record_size, SHORT_LONG_SHORT))


def test_a_long_instance_that_cannot_be_read_again_spoils_no_later_one(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake, lost, kept = (
        box.intake(),
        InstanceSpec(number=1, pixels=LONG),
        InstanceSpec(number=2, pixels=LONG),
    )

    def fail(_self: Incoming) -> Any:
        raise OSError(errno.ENOMEM, "cannot be mapped")

    with monkeypatch.context() as patched:
        patched.setattr(Incoming, "whole", fail)
        assert send(intake, lost) is Outcome.OUT_OF_RESOURCES
    assert send(intake, kept) is Outcome.STORED
    assert box.files() == {kept.command.sop_instance_uid: file_of(kept)}
    assert box.sizes() == [record_size(kept)]


def test_less_room_than_must_remain_is_seen_while_it_arrives(
    tmp_path: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_space, "MOST_SLACK", 0)
    volume = os.statvfs(tmp_path)
    box.foundation.archive._segments.space.minimum = volume.f_bavail * volume.f_frsize - 2 * MIB
    intake, spec = box.intake(), InstanceSpec(pixels=8 * MIB)
    arrival = intake.begin(spec.command)
    with pytest.raises(StoreRefused) as refused:
        for piece in spec.pieces(MIB):
            arrival.more(piece)
    assert refused.value.outcome is Outcome.STORAGE_FULL
    assert box.sizes() == []


@pytest.mark.parametrize("pixels", [1000, LONG])
def test_a_database_that_does_not_answer(box: Box, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    def down(_transactions: Any) -> Any:
        raise Unavailable("the database cannot be used now")

    intake, spec = box.intake(), InstanceSpec(1, pixels=pixels)
    assert send(intake, InstanceSpec(2)) is Outcome.STORED  # so that the next one is written first
    with monkeypatch.context() as patched:
        patched.setattr("drimbox.adapters.transactions.SqlTransactions.arriving", down)
        assert send(intake, spec) is Outcome.OUT_OF_RESOURCES
        assert send(intake, spec) is Outcome.OUT_OF_RESOURCES
    assert send(intake, spec) is Outcome.STORED
    assert sum(box.sizes()) == record_size(spec) + record_size(InstanceSpec(2))


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_in_doubt_takes_no_bytes_away(
    any_box: Box, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    real = SqlTransaction.commit

    def commit(self: SqlTransaction) -> None:
        if happened:
            real(self)
        raise OperationalError("COMMIT", None, Exception("the connection was lost"))

    intake, specs = any_box.intake(), [InstanceSpec(number) for number in (1, 2)]
    with monkeypatch.context() as patched:
        patched.setattr(SqlTransaction, "commit", commit)
        assert send(intake, specs[0]) is Outcome.OUT_OF_RESOURCES
    assert any_box.files() == ({specs[0].sop: file_of(specs[0])} if happened else {})
    assert [send(intake, spec) for spec in specs] == [
        Outcome.DUPLICATE if happened else Outcome.STORED,
        Outcome.STORED,
    ]
    assert any_box.files() == {spec.sop: file_of(spec) for spec in specs}


# --- many at once ------------------------------------------------------------------------------------------


def test_many_associations_share_commits(any_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    real, commits = SqlTransaction.commit, 0

    def commit(self: SqlTransaction) -> None:
        nonlocal commits
        commits += 1
        real(self)

    monkeypatch.setattr(SqlTransaction, "commit", commit)
    outcomes: dict[str, list[Outcome]] = {}
    # two studies for four associations each; every other instance is everybody's
    works = {
        number: [
            InstanceSpec(n if n % 2 else n + 100 * number, f"1.2.250.1.999.2.{number % 2}")
            for n in range(1, 21)
        ]
        for number in range(8)
    }

    def bring(number: int) -> None:
        intake = any_box.intake()
        for spec in works[number]:
            outcomes.setdefault(spec.sop, []).append(send(intake, spec))

    threads = [threading.Thread(target=bring, args=(number,)) for number in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert sum(map(len, outcomes.values())) == 160
    for told in outcomes.values():
        assert sorted(told) == [Outcome.DUPLICATE] * (len(told) - 1) + [Outcome.STORED]
    assert commits < 160
    for study in ("1.2.250.1.999.2.0", "1.2.250.1.999.2.1"):
        kept = any_box.files(study)
        specs = {spec.sop: spec for work in works.values() for spec in work if spec.study == study}
        assert kept == {sop: file_of(spec) for sop, spec in specs.items()}
        assert any_box.events(study).count("INSTANCE_STORED") == len(specs)
        assert any_box.images.revision(study) == len(specs)


def test_one_that_is_refused_spoils_nothing_for_the_others(any_box: Box) -> None:
    """Queued together behind a commit that is held up: other bytes, a repeat, and two new ones."""
    known, wrong = InstanceSpec(1), replace(InstanceSpec(1), fill=9)
    intakes = [any_box.intake() for _ in range(5)]
    for number, intake in enumerate(intakes, 1):  # so that none of them asks first
        assert send(intake, InstanceSpec(number)) is Outcome.STORED
    wanted = [wrong, known, InstanceSpec(11), InstanceSpec(12)]
    outcomes: dict[int, Outcome] = {}
    held, leave = threading.Event(), threading.Event()

    def hold(_transaction: Any) -> None:
        held.set()
        assert leave.wait(10)

    holder = threading.Thread(target=any_box.foundation.commits.run, args=("", hold))
    threads = [
        threading.Thread(target=lambda n=n: outcomes.__setitem__(n, send(intakes[n], wanted[n])))
        for n in range(4)
    ]
    holder.start()
    assert held.wait(10)
    for thread in threads:
        thread.start()
    waiting = any_box.foundation.commits._waiting
    until(lambda: len(waiting) == 4)
    leave.set()
    for thread in (*threads, holder):
        thread.join(10)
    assert [outcomes[n] for n in range(4)] == [
        Outcome.DIFFERENT_BYTES, Outcome.DUPLICATE, Outcome.STORED, Outcome.STORED,
    ]  # fmt: skip
    assert any_box.files()[known.sop] == file_of(known)
    assert {InstanceSpec(11).sop, InstanceSpec(12).sop} <= set(any_box.files())


def test_a_transaction_that_is_undone_as_a_whole_fails_all_of_it(box: Box) -> None:
    """SQLite does that when the disk fails: none of those who share it may be told that they are stored."""
    commits, outcomes = box.foundation.commits, {}
    held, leave = threading.Event(), threading.Event()

    def hold(_transaction: Any) -> None:
        held.set()
        assert leave.wait(10)

    def undo(transaction: Any) -> None:
        transaction._session.connection().exec_driver_sql("ROLLBACK")
        raise OperationalError("INSERT", None, Exception("database or disk is full"))

    def call(key: str, work: Callable[[Any], Any]) -> None:
        try:
            outcomes[key] = commits.run(key, work)
        except Unavailable as error:
            outcomes[key] = type(error).__name__

    def write(transaction: Any) -> str:
        transaction.ledger.exam_for_update("1.2.3", utc_now())
        return "written"

    threads = [threading.Thread(target=call, args=("", hold))]
    threads[0].start()
    assert held.wait(10)
    for key, work in (("a", write), ("b", undo), ("c", write)):
        threads.append(threading.Thread(target=call, args=(key, work)))
        threads[-1].start()
    until(lambda: len(commits._waiting) == 3)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert outcomes == {"": None, "a": "Unavailable", "b": "Unavailable", "c": "Unavailable"}
    with box.foundation.transactions.reading() as transaction:
        assert transaction.ledger.exam("1.2.3") is None
    assert commits.run("d", write) == "written"


def test_a_connection_that_is_lost_fails_all_that_shared_it(any_box: Box) -> None:
    if any_box.foundation.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no connection to lose")
    commits, outcomes = any_box.foundation.commits, {}
    held, leave = threading.Event(), threading.Event()

    def hold(_transaction: Any) -> None:
        held.set()
        assert leave.wait(10)

    def lose(transaction: Any) -> None:
        transaction._session.connection().exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    def bring(number: int) -> None:
        outcomes[number] = send(any_box.intake(), InstanceSpec(number))

    def call() -> None:
        with pytest.raises(Unavailable):
            commits.run(InstanceSpec().study, lose)

    threads = [
        threading.Thread(target=commits.run, args=("", hold)),
        threading.Thread(target=bring, args=(1,)),
    ]
    threads += [threading.Thread(target=call), threading.Thread(target=bring, args=(2,))]
    threads[0].start()
    assert held.wait(10)
    for count, thread in enumerate(threads[1:], 1):
        thread.start()
        until(lambda count=count: len(commits._waiting) == count)
    leave.set()
    for thread in threads:
        thread.join(20)
    assert outcomes == {1: Outcome.OUT_OF_RESOURCES, 2: Outcome.OUT_OF_RESOURCES}
    assert any_box.files() == {}
    assert [send(any_box.intake(), InstanceSpec(number)) for number in (1, 2)] == [Outcome.STORED] * 2


def until(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(2000):
        if condition():
            return
        deadline.wait(0.005)
    raise AssertionError("not in time")


def test_the_trace_says_as_before(box: Box) -> None:
    send(box.intake(), InstanceSpec())
    with box.foundation.transactions.reading() as transaction:
        (entry,) = transaction.ledger.trace_of(InstanceSpec().study)
        exam = transaction.ledger.exam(InstanceSpec().study)
    assert (entry.event, entry.actor, entry.before, entry.after) == (
        "INSTANCE_STORED", "pacs:CT1@192.0.2.7", "RECEIVING", "RECEIVING",
    )  # fmt: skip
    assert entry.detail == {"sop": InstanceSpec().sop}
    assert exam is not None
    assert (exam.revision, exam.last_instance_at, exam.changed_at) == (1, entry.at, entry.at)
    assert exam.reconcile_at is not None and exam.reconcile_at > entry.at


def test_a_settled_study_receives_again(box: Box) -> None:
    intake = box.intake()
    send(intake, InstanceSpec(1))
    box.images.settle(InstanceSpec().study)
    send(intake, InstanceSpec(2))
    with box.foundation.transactions.reading() as transaction:
        last = transaction.ledger.trace_of(InstanceSpec().study)[-1]
        exam = transaction.ledger.exam(InstanceSpec().study)
    assert (last.before, last.after, exam and exam.state) == ("SETTLED", "RECEIVING", "RECEIVING")


def test_no_value_of_a_data_set_is_logged(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    intake = box.intake()
    send(intake, InstanceSpec(1))
    send(intake, replace(InstanceSpec(1), patient="IPP78"))
    intake.begin(replace(InstanceSpec().command, sop_instance_uid="x")).abandon()
    said = capsys.readouterr()
    assert not re.search("IPP77|IPP78|PAT", said.out + said.err)
