"""Looks at our own parts, for real: both databases, a disk that refuses, beats of a worker, the queue, certificates."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from dicom_store.archive import Archive
from drimbox.adapters import probes
from drimbox.adapters.database import MIGRATIONS, Database
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.errors import Unavailable
from drimbox.domain.xds.outcome import Exchange, NotSent
from drimbox.entrypoints.pulse import Pulse
from drimbox.flow.heartbeats import WEB, WORKER, beat, last_beat
from drimbox.flow.records import Gate
from drimbox.flow.settle import QUEUE
from drimbox.simulators.certificates import CrlDates, make_crl
from drimbox.simulators.pki import Pki, make_pki
from healthcheck.probe import Outcome, Status
from whitelist.chain import Crls

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, 0.3)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def transactions(database: Database, tmp_path: Path) -> SqlTransactions:
    return SqlTransactions(database, Archive(tmp_path / "images", 0))


# --- the database


def test_the_table_of_heartbeats_goes_up_and_down(database_url: str) -> None:
    from alembic import command
    from alembic.config import Config

    database = Database(database_url)
    for revision, there in (("0005", False), ("0006", True), ("0005", False)):
        with database.engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            newer = not inspect(connection).has_table("alembic_version") or there
            (command.upgrade if newer else command.downgrade)(config, revision)
        assert inspect(database.engine).has_table("heartbeats") is there
    database.close()


def test_a_write_is_real_and_each_node_has_its_own(transactions: SqlTransactions, database: Database) -> None:
    for node in ("a", "b", "a"):
        outcome = probes.database_write(transactions, node, lambda: NOW)
        assert (outcome.status, outcome.output, outcome.unit) == (Status.PASS, "", "ms")
        assert isinstance(outcome.value, float)
    beat(transactions, "a", WEB, NOW + DAY, {"seen": 1})
    last = last_beat(transactions, "a", WEB)
    assert last is not None
    assert (last.at, last.detail) == (NOW + DAY, {"seen": 1})
    assert last_beat(transactions, "a", WORKER) is None
    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM heartbeats")) == 2


def test_a_database_that_takes_no_write_fails_and_comes_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'drimbox.sqlite'}"
    database, other = Database(url, 0.2), Database(url, 0.2)
    database.migrate()
    transactions = SqlTransactions(database, Archive(tmp_path / "images", 0))
    with other.writing() as session:  # holds the only lock
        session.execute(text("DELETE FROM heartbeats"))
        outcome = probes.database_write(transactions, "a", lambda: NOW)
        assert outcome.status is Status.FAIL
        assert "nothing can be received or sent: the database cannot be used now" in outcome.output
    assert probes.database_write(transactions, "a", lambda: NOW).status is Status.PASS
    for one in (database, other):
        one.close()


def test_a_database_that_is_gone_fails_every_look_at_it(postgresql: str, tmp_path: Path) -> None:
    database = Database(f"{postgresql}/there_is_no_such_database", 0.2)
    transactions = SqlTransactions(database, Archive(tmp_path / "images", 0))
    looks = (
        probes.database_write(transactions, "a", lambda: NOW),
        probes.worker_heartbeat(transactions, "a", lambda: NOW, 30),
        probes.queue_age(transactions, lambda: NOW, 60),
    )
    assert [look.status for look in looks] == [Status.FAIL] * 3
    assert all("cannot be used now" in look.output for look in looks)
    database.close()


def test_a_slow_commit_is_a_warning(transactions: SqlTransactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SLOW_WRITE", 0.0)
    outcome = probes.database_write(transactions, "a", lambda: NOW)
    assert outcome.status is Status.WARN
    assert "look at the database's disk" in outcome.output


# --- the worker


def test_the_worker_beats_and_says_when_it_stops(transactions: SqlTransactions) -> None:
    def look(node: str = "a", after: float = 1) -> Outcome:
        return probes.worker_heartbeat(transactions, node, lambda: NOW + after * timedelta(seconds=1), 30)

    assert "no worker ever ran on a" in look().output
    busy: dict[str, Any] = {"job": {"last": 1.0, "busy": None, "alive": True}}
    pulse = Pulse(transactions, "a", lambda: NOW, lambda: busy)
    pulse.beat()
    assert look() == Outcome(Status.PASS, "", 1.0, "s")
    assert (look("b").status, look(after=31).status) == (Status.FAIL, Status.FAIL)  # never there, silent
    busy["job"]["busy"] = 700.0
    pulse.beat()
    assert look().status is Status.WARN
    pulse.stop()
    pulse.beat()  # of a thread that was late
    assert (look().status, "was stopped" in look().output) == (Status.FAIL, True)
    Pulse(transactions, "a", lambda: NOW, dict).beat()  # the next worker
    assert look().status is Status.PASS


def test_a_beat_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'drimbox.sqlite'}", 0.2)
    transactions = SqlTransactions(database, Archive(tmp_path / "images", 0))
    with pytest.raises(Unavailable, match="no such table"):
        Pulse(transactions, "a", lambda: NOW, dict).beat()
    database.close()


# --- the queue


def look_at_queue(box: Any) -> Outcome:
    return probes.queue_age(box.transactions, lambda: box.now, 3600)


def test_the_queue_is_as_old_as_what_is_due(box: Any) -> None:
    assert look_at_queue(box) == Outcome(Status.PASS, "", 0.0, "s")
    box.bring()  # the study is quiet since one second
    assert look_at_queue(box).value == pytest.approx(1, abs=1)
    box.later(3700)
    late = look_at_queue(box)
    assert (late.status, late.unit) == (Status.WARN, "s")
    assert late.output == "an exam to be judged waits for 62 min (drimbox status)"
    box.reconciling.run_due()
    box.later(3601)
    assert look_at_queue(box).output == "a submission to the DMP waits for 60 min (drimbox status)"
    box.work()
    assert look_at_queue(box) == Outcome(Status.PASS, "", 0.0, "s")


def test_images_that_still_come_are_not_due(box: Any) -> None:
    box.bring(images=1)
    box.later(-30)  # before the study is quiet
    assert look_at_queue(box).value == 0.0


def test_a_retry_of_later_is_not_due(box: Any) -> None:
    box.dmp.answers = [NotSent(EXCHANGE, "no connection")]
    box.bring()
    box.work()
    assert box.exam()["manifest"]["status"] == "prepared"
    assert look_at_queue(box).value == 0.0


def test_a_queue_that_stands_still_is_a_warning(box: Any) -> None:
    with box.transactions.writing() as transaction:
        transaction.ledger.add(Gate(QUEUE, box.now, box.now + DAY, "the DMP refuses our VIHF"))
        transaction.commit()
    outcome = look_at_queue(box)
    assert (outcome.status, outcome.value) == (Status.WARN, 0.0)
    assert "the queue to the DMP stands still: the DMP refuses our VIHF" in outcome.output


# --- the disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that takes no more, as the system calls see it: root is stopped by no permission."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_images_can_be_written_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / ".health-a-web").write_bytes(b"left by a crash" * 1000)
    outcome = probes.images_write(tmp_path, ".health-a-web")
    assert (outcome.status, outcome.output, outcome.unit) == (Status.PASS, "", "ms")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1000])
def test_a_disk_that_takes_no_more_fails_and_comes_back(tmp_path: Path, size: int) -> None:
    with files_of_at_most(size):
        outcome = probes.images_write(tmp_path, "look")
    assert outcome.status is Status.FAIL
    assert f"no image can be written in {tmp_path}" in outcome.output
    assert list(tmp_path.iterdir()) == []
    assert probes.images_write(tmp_path, "look").status is Status.PASS


def test_a_directory_that_is_gone_fails(tmp_path: Path) -> None:
    gone = tmp_path / "unmounted"
    assert probes.images_write(gone, "look").output.endswith("No such file or directory")
    assert probes.images_free(gone, 0).status is Status.FAIL


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "look").symlink_to(target)
    assert probes.images_write(tmp_path, "look").status is Status.FAIL
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    ("share", "status"), [(0, Status.PASS), (0.25, Status.PASS), (0.75, Status.WARN), (2, Status.FAIL)]
)
def test_free_space_against_the_floor(tmp_path: Path, share: float, status: Status) -> None:
    volume = os.statvfs(tmp_path)
    floor = int(volume.f_bavail * volume.f_frsize * share)
    outcome = probes.images_free(tmp_path, floor)
    assert (outcome.status, outcome.unit) == (status, "bytes")
    assert isinstance(outcome.value, int)
    assert ("must remain" in outcome.output) is (status is not Status.PASS)


# --- certificates and CRLs


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("probes") / "pki", NOW)


def test_a_certificate_is_read_again_at_each_look(pki: Pki, tmp_path: Path) -> None:
    def look(at: datetime = NOW) -> Outcome:
        return probes.certificate_validity(tmp_path / "web.pem", 30, lambda: at)

    assert "cannot be read: No such file" in look().output
    variants: dict[str, tuple[dict[str, bool], Status, str]] = {
        "expired": ({"expired": True}, Status.FAIL, "web.pem expired on 2026-09-21"),
        "early": ({"not_yet_valid": True}, Status.FAIL, "web.pem is not valid before 2026-10-31"),
        "sound": ({}, Status.PASS, ""),
    }
    for variant, status, words in variants.values():
        pki.issue("SERV_SSL", "drimbox.localhost", "1750803447", now=NOW, **variant).write(tmp_path, "web")  # type: ignore[arg-type]
        outcome = look()
        assert (outcome.status, outcome.unit) == (status, "days")
        assert words in outcome.output
    soon = look(NOW + 3 * 365 * DAY - 10 * DAY)
    assert (soon.status, soon.value) == (Status.WARN, 9)
    assert soon.output == "web.pem: ends on 2029-09-29: renew it"
    (tmp_path / "web.pem").write_text("no certificate")
    assert look() == Outcome(Status.FAIL, f"{tmp_path / 'web.pem'} holds no PEM certificate")


def test_a_chain_that_ends_before_its_leaf_warns(pki: Pki, tmp_path: Path) -> None:
    leaf = pki.issue("SERV_SSL", "drimbox.localhost", "1750803447", now=NOW)
    other = pki.issue("SERV_SSL", "other.localhost", "1750803447", now=NOW, expired=True)
    path = tmp_path / "web.pem"
    path.write_bytes(leaf.pem + other.pem)
    outcome = probes.certificate_validity(path, 30, lambda: NOW)
    assert outcome.status is Status.WARN
    assert "its chain ends on 2026-09-21" in outcome.output


def test_crls_against_their_next_update(pki: Pki) -> None:
    def made(issued: datetime, until: datetime) -> Any:
        return make_crl(*pki.load("aci"), (), CrlDates(issued, until, 1))

    fresh = made(NOW - DAY, NOW + DAY)

    def look(of_intermediate: Any, of_root: Any = fresh) -> Outcome:
        crls = Crls(of_intermediate=of_intermediate, of_root=of_root)
        return probes.crl_age(lambda: crls, 7 * DAY, lambda: NOW)

    assert look(fresh) == Outcome(Status.PASS, "", 86400, "s")
    late = look(made(NOW - 6 * DAY, NOW - DAY))
    assert (late.status, late.value) == (Status.WARN, 6 * 86400)
    assert "the intermediate's CRL ended on 2026-09-30 12:00 UTC, believed until 2026-10-07" in late.output
    assert "its grace is over" in look(made(NOW - 16 * DAY, NOW - 10 * DAY)).output
    none = look(None, None)
    assert (none.status, none.value, none.unit) == (Status.WARN, None, "")
    assert none.output.count("was never had") == 2
