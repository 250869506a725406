"""The trace to an audit record repository over real mutual TLS: whatever happens there, no row is lost or skipped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.logs import ALLOWED
from drimbox.adapters.syslog_tls import SyslogEndpoint, SyslogTls
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.audit_events import Stage
from drimbox.domain.audit_message import AuditSource
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.syslog_message import NotDelivered
from drimbox.flow import forward_audit, trace
from drimbox.flow.forward_audit import BATCH, NAME, ForwardingAudit, lag
from drimbox.flow.records import AuditCursor, ReceivedReport, ReportStudy, Submission
from drimbox.simulators.faults import Faults
from drimbox.simulators.pki import Pki
from drimbox.simulators.server import tls_context
from drimbox.simulators.syslog import SyslogReceiver
from drimbox.simulators.syslog_checks import Checked
from fixtures.kept_pki import kept_pki

STUDY = "1.2.250.1.999.1.901"
STAGE = Stage(
    AuditSource("DRIMBOX-1", "1750803447", "drimbox.example", "DRIMBOX"),
    "https://dmp.example/repository",
    "https://dmp.example/registry",
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("world") / "pki")


@pytest.fixture
def faults() -> Faults:
    return Faults()


def receiver_of(pki: Pki, faults: Faults, port: int = 0) -> SyslogReceiver:
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"), pki.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return SyslogReceiver(context, faults, port=port)


@pytest.fixture
def receiver(pki: Pki, faults: Faults) -> Iterator[SyslogReceiver]:
    with receiver_of(pki, faults) as receiver:
        yield receiver


def endpoint_of(pki: Pki, port: int, leaf: str | None = "appliance_auth", **changes: Any) -> SyslogEndpoint:
    certificate, key = (pki.path(leaf), pki.key(leaf)) if leaf else (None, None)
    given = {"host": "127.0.0.1", "connect_timeout": 5.0, "answer_timeout": 5.0} | changes
    return SyslogEndpoint(port=port, authority=pki.authority, certificate=certificate, key=key, **given)


def door_of(pki: Pki, port: int, leaf: str | None = "appliance_auth", **changes: Any) -> SyslogTls:
    return SyslogTls(endpoint_of(pki, port, leaf, **changes), lambda: datetime.now(UTC))


class Appliance:
    """A trace and its forwarder, with a clock of its own."""

    def __init__(self, database: Database, root: Path, door: Any, owner: str = "node-a") -> None:
        self.now = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
        self.database = database
        self.transactions = SqlTransactions(database, Archive(root / "images", 0))
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.count = 0
        self.forwarding = self.forwarder(door, owner)

    def forwarder(self, door: Any, owner: str) -> ForwardingAudit:
        return ForwardingAudit(
            self.transactions, door, STAGE, RetryPolicy(5, 300), owner, lambda: 0.0, lambda: self.now,
            self.say, self.say,
        )  # fmt: skip

    def say(self, event: str, **words: Any) -> None:
        self.logged.append((event, words))

    def note(self, event: str = "QUEUE_STOPPED", count: int = 1, **given: Any) -> None:
        with self.transactions.writing() as transaction:
            for _ in range(count):
                self.count += 1
                fields = {"actor": "worker:a", "reason": f"number {self.count}"} | given
                trace.note(transaction, event, at=self.now, **fields)
            transaction.commit()

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def cursor(self) -> AuditCursor:
        with self.transactions.reading() as transaction:
            cursor = transaction.traces.cursor(NAME)
        assert cursor is not None
        return cursor


@pytest.fixture
def database(newest_url: str) -> Iterator[Database]:
    database = Database(newest_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def appliance(database: Database, tmp_path: Path, pki: Pki, receiver: SyslogReceiver) -> Appliance:
    return Appliance(database, tmp_path, door_of(pki, receiver.port))


@pytest.fixture
def small(tmp_path: Path, pki: Pki, receiver: SyslogReceiver) -> Iterator[Appliance]:
    """On SQLite alone: what the engine has no part in."""
    database = Database(f"sqlite:///{tmp_path / 'small.sqlite'}")
    database.migrate()
    yield Appliance(database, tmp_path, door_of(pki, receiver.port))
    database.close()


def numbers(received: Sequence[Checked]) -> list[int]:
    """Which notes were told, in the order they came; each message must be sound."""
    assert [one.faults for one in received] == [()] * len(received)
    return [int(one.details["Alert Description"].rsplit(" ", 1)[1]) for one in received]


# --- what goes out


def test_rows_go_out_in_their_order_and_once(appliance: Appliance, receiver: SyslogReceiver) -> None:
    assert appliance.forwarding.run_due() == 0
    appliance.note(count=3)
    assert appliance.forwarding.run_due() == 3
    appliance.note("WAITING", rule="x")  # no audit event: passed all the same
    appliance.note()
    assert lag(appliance.transactions).rows == 2
    assert appliance.forwarding.run_due() == 2
    assert appliance.forwarding.run_due() == 0
    assert numbers(receiver.received) == [1, 2, 3, 5]
    assert lag(appliance.transactions) == forward_audit.Lag(0, 0, None, None)


def test_rows_without_an_audit_event_open_no_connection(appliance: Appliance, faults: Faults) -> None:
    faults.arm("syslog", "refuse_connection")
    appliance.note("WAITING", rule="x")
    assert appliance.forwarding.run_due() == 1
    assert faults.armed()["syslog"] == ["refuse_connection"]


def test_a_long_trace_goes_out_in_batches(small: Appliance, pki: Pki, receiver: SyslogReceiver) -> None:
    sizes: list[int] = []

    class Counted:
        def deliver(self, messages: Sequence[bytes]) -> None:
            sizes.append(len(messages))
            door_of(pki, receiver.port).deliver(messages)

    small.note(count=2 * BATCH + 7)
    assert small.forwarder(Counted(), "node-a").run_due() == 2 * BATCH + 7
    assert numbers(receiver.received) == list(range(1, 2 * BATCH + 8))
    assert sizes == [BATCH, BATCH, 7]


def test_the_patient_and_the_submission_are_looked_up(appliance: Appliance, receiver: SyslogReceiver) -> None:
    now = appliance.now
    with appliance.transactions.writing() as transaction:
        transaction.ledger.add(
            ReceivedReport(
                "r1", "1.2.3", "", 1, "NW", "c", now, "mllp", [], True, "O", {},
                patient_ins="279035121518989", patient_oid="1.2.250.1.213.1.4.10",
            )
        )  # fmt: skip
        transaction.ledger.add(ReportStudy("r1", STUDY))
        transaction.ledger.add(
            Submission(
                "s1", STUDY, "unpublish", "k", "1.2.77", "c", "{}", "269054958815780", "1.2.250.1.213.1.4.10",
                0, now, now,
            )
        )  # fmt: skip
        trace.note(
            transaction, "INSTANCE_STORED", at=now, actor="pacs:CT1@10.0.0.7", study=STUDY, sop="1.2.9"
        )
        trace.note(transaction, "REGISTERED", at=now, actor="worker:a", study=STUDY, submission="s1")
        transaction.commit()
    assert appliance.forwarding.run_due() == 2
    stored, withdrawn = receiver.received
    assert (stored.faults, withdrawn.faults) == ((), ())
    assert stored.objects[0]["ParticipantObjectID"] == "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH"
    assert withdrawn.types == ("ITI-57",)
    assert [one["ParticipantObjectID"] for one in withdrawn.objects] == [
        "269054958815780^^^&1.2.250.1.213.1.4.10&ISO^NH", "1.2.77", STUDY,
    ]  # fmt: skip


def test_it_begins_a_day_back_when_it_is_switched_on_late(
    appliance: Appliance, receiver: SyslogReceiver
) -> None:
    appliance.note(count=2)
    appliance.later(86_000)
    appliance.note()
    appliance.later(3_600)
    assert appliance.forwarding.run_due() == 1
    assert numbers(receiver.received) == [3]


def test_an_event_that_cannot_be_told_does_not_hold_up_the_others(
    small: Appliance, receiver: SyslogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = forward_audit.to_xml

    def broken(message: Any) -> bytes:
        if "number 2" in message.objects[0].details[0][1]:
            raise ValueError("a defect")
        return real(message)

    monkeypatch.setattr(forward_audit, "to_xml", broken)
    small.note(count=3)
    assert small.forwarding.run_due() == 3
    assert numbers(receiver.received) == [1, 3]
    (alarm,) = [words for event, words in small.logged if event == "audit_event_not_told"]
    assert (alarm["rule"], alarm["text"]) == ("QUEUE_STOPPED", "rows 2 to 2 of the trace")


# --- trouble: nothing lost, no gap, the cursor right


@pytest.mark.parametrize("fault", ["refuse_connection", "reset"])
def test_what_was_not_confirmed_goes_out_again(
    appliance: Appliance, receiver: SyslogReceiver, faults: Faults, fault: str
) -> None:
    appliance.note()
    assert appliance.forwarding.run_due() == 1
    faults.arm("syslog", fault, 2)
    appliance.note(count=3)
    assert appliance.forwarding.run_due() == 0
    assert (appliance.cursor().failures, lag(appliance.transactions).rows) == (1, 3)
    appliance.note()
    assert appliance.forwarding.run_due() == 0
    assert len(faults.armed()["syslog"]) == 1, "tried again before its time"
    appliance.later(300)
    assert appliance.forwarding.run_due() == 0
    failing = lag(appliance.transactions)
    assert (failing.failures, failing.rows) == (2, 4)
    assert failing.error
    appliance.later(300)
    assert appliance.forwarding.run_due() == 4
    assert numbers(receiver.received) == [1, 2, 3, 4, 5]
    assert [event for event, _ in appliance.logged].count("audit_not_delivered") == 2
    assert ("audit_delivered_again", {"attempts": 3}) in appliance.logged
    assert appliance.cursor().last_id == appliance.count
    assert {name for _, words in appliance.logged for name in words} <= ALLOWED  # others would be dropped


def test_a_confirmation_that_is_lost_means_the_same_again(
    appliance: Appliance, receiver: SyslogReceiver, faults: Faults
) -> None:
    faults.arm("syslog", "unconfirmed")
    appliance.note(count=2)
    assert appliance.forwarding.run_due() == 0
    appliance.later(300)
    assert appliance.forwarding.run_due() == 2
    assert numbers(receiver.received) == [1, 2, 1, 2]
    first, second = receiver.received[:2], receiver.received[2:]
    assert [one.raw for one in first] == [one.raw for one in second]


def test_a_receiver_that_is_slow_is_waited_for(
    small: Appliance, receiver: SyslogReceiver, faults: Faults, pki: Pki
) -> None:
    faults.arm("syslog", "slow", 2)
    small.note()
    impatient = small.forwarder(
        door_of(pki, receiver.port, connect_timeout=0.3, answer_timeout=0.3), "node-a"
    )
    assert impatient.run_due() == 0
    assert small.cursor().last_error == "no answer in time"
    small.later(300)
    assert small.forwarding.run_due() == 1
    assert numbers(receiver.received) == [1]


def test_nobody_listens_then_somebody_does(
    small: Appliance, pki: Pki, free_port: Callable[[], int], faults: Faults
) -> None:
    port = free_port()
    forwarding = small.forwarder(door_of(pki, port), "node-a")
    small.note(count=2)
    for _ in range(3):
        assert forwarding.run_due() == 0
        small.later(300)
    assert small.cursor().failures == 3
    with receiver_of(pki, faults, port) as receiver:
        assert forwarding.run_due() == 2
        assert numbers(receiver.received) == [1, 2]


def test_a_forwarder_that_is_killed_loses_nothing(tmp_path: Path, pki: Pki, faults: Faults) -> None:
    url = f"sqlite:///{tmp_path / 'killed.sqlite'}"
    database = Database(url)
    database.migrate()
    with receiver_of(pki, faults) as receiver:
        appliance = Appliance(database, tmp_path, door_of(pki, receiver.port))
        appliance.note(count=5)
        faults.arm("syslog", "slow")
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, url, str(tmp_path), str(receiver.port), str(pki.directory)]
        )
        deadline = time.monotonic() + 30
        while faults.armed()["syslog"] and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
        assert appliance.cursor().lease_owner == "node-a"
        assert appliance.cursor().last_id == 0
        assert appliance.forwarder(door_of(pki, receiver.port), "node-b").run_due() == 0, (
            "the lease was not respected"
        )
        assert appliance.forwarding.run_due() == 5  # started again on the same node: no need to wait
        assert numbers(receiver.received)[-5:] == [1, 2, 3, 4, 5]
    database.close()


_CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.syslog_tls import SyslogEndpoint, SyslogTls
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.audit_events import Stage
from drimbox.domain.audit_message import AuditSource
from drimbox.domain.retry import RetryPolicy
from drimbox.flow.forward_audit import ForwardingAudit

url, root, port, pki = sys.argv[1:]
pki = Path(pki)
now = lambda: datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
endpoint = SyslogEndpoint(
    "127.0.0.1", int(port), pki / "authority.pem", pki / "appliance_auth.pem", pki / "appliance_auth.key"
)
ForwardingAudit(
    SqlTransactions(Database(url), Archive(Path(root) / "images", 0)),
    SyslogTls(endpoint, lambda: datetime.now(UTC)),
    Stage(AuditSource("BOX", "", "box.example", "BOX"), "https://a.example", "https://b.example"),
    RetryPolicy(5, 300), "node-a", lambda: 0.0, now, print, print,
).run_due()
"""


def test_two_nodes_do_not_send_the_same_at_once(small: Appliance, pki: Pki, receiver: SyslogReceiver) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def deliver(self, messages: Sequence[bytes]) -> None:
            entered.set()
            assert leave.wait(10)
            door_of(pki, receiver.port).deliver(messages)

    small.note(count=2)
    first = threading.Thread(target=small.forwarder(Slow(), "node-a").run_due)
    first.start()
    assert entered.wait(10)
    other = small.forwarder(door_of(pki, receiver.port), "node-b")
    assert other.run_due() == 0
    leave.set()
    first.join(10)
    assert numbers(receiver.received) == [1, 2]
    small.note()
    assert other.run_due() == 1


def test_who_comes_back_after_its_lease_does_not_move_the_cursor(
    small: Appliance, pki: Pki, receiver: SyslogReceiver
) -> None:
    other = small.forwarder(door_of(pki, receiver.port), "node-b")

    class Overtaken:
        def deliver(self, messages: Sequence[bytes]) -> None:
            small.later(forward_audit.LEASE.total_seconds() + 1)
            assert other.run_due() == 2
            small.note()

    small.note(count=2)
    assert small.forwarder(Overtaken(), "node-a").run_due() == 2
    assert lag(small.transactions).rows == 1
    assert other.run_due() == 1
    assert numbers(receiver.received) == [1, 2, 3]


# --- ids that become visible late


def test_a_row_that_becomes_visible_after_a_higher_one_is_passed_on(
    newest_url: str, database: Database, appliance: Appliance, receiver: SyslogReceiver
) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer: ids become visible in their order")
    appliance.note()
    with appliance.transactions.writing() as slow:
        trace.note(slow, "QUEUE_STOPPED", at=appliance.now, actor="worker:a", reason="number 2")
        slow.ledger.flush()  # its id is taken, nobody sees it
        appliance.count = 2
        appliance.note(count=2)
        assert appliance.forwarding.run_due() == 3
        assert [gap[:2] for gap in appliance.cursor().missing] == [[2, 2]]
        assert appliance.forwarding.run_due() == 0
        appliance.later(60)
        slow.commit()
    assert appliance.forwarding.run_due() == 1
    assert appliance.cursor().missing == []
    assert numbers(receiver.received) == [1, 3, 4, 2]
    appliance.note()
    assert appliance.forwarding.run_due() == 1
    assert numbers(receiver.received)[4:] == [5]


def test_ids_that_were_rolled_back_are_forgotten(
    appliance: Appliance, database: Database, receiver: SyslogReceiver
) -> None:
    appliance.note()
    assert appliance.forwarding.run_due() == 1
    appliance.note(count=2)
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM trace WHERE id = 2"))  # as a rollback leaves it
    assert appliance.forwarding.run_due() == 1
    assert [gap[:2] for gap in appliance.cursor().missing] == [[2, 2]]
    appliance.later(forward_audit.LATE.total_seconds() + 1)
    appliance.note()
    assert appliance.forwarding.run_due() == 1
    assert appliance.cursor().missing == []
    assert numbers(receiver.received) == [1, 3, 4]


# --- the line


def refused(door: SyslogTls) -> str:
    with pytest.raises(NotDelivered) as refusal:
        door.deliver([b"<85>1 - - - - - -"])
    return str(refusal.value)


def test_a_receiver_of_an_unknown_authority_gets_nothing(pki: Pki, faults: Faults, tmp_path: Path) -> None:
    leaf = pki.issue("SERV_SSL", "drimbox.localhost", "1750803447", foreign_authority=True)
    context = tls_context(*leaf.write(tmp_path, "foreign"), pki.authority)
    with SyslogReceiver(context, faults) as receiver:
        assert "the certificate of the receiver is not accepted" in refused(door_of(pki, receiver.port))
        assert receiver.received == ()


def test_a_receiver_of_another_name_gets_nothing(pki: Pki, faults: Faults) -> None:
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"), pki.authority)
    with SyslogReceiver(context, faults, host="127.0.0.2") as receiver:  # the certificate says 127.0.0.1
        assert "not accepted: IP address mismatch" in refused(door_of(pki, receiver.port, host="127.0.0.2"))
        assert receiver.received == ()


def test_an_expired_receiver_gets_nothing(pki: Pki, faults: Faults, tmp_path: Path) -> None:
    leaf = pki.issue("SERV_SSL", "drimbox.localhost", "1750803447", expired=True)
    with SyslogReceiver(tls_context(*leaf.write(tmp_path, "expired"), pki.authority), faults) as receiver:
        assert "certificate has expired" in refused(door_of(pki, receiver.port))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_our_certificate_nothing_counts_as_delivered(
    pki: Pki, faults: Faults, newest: ssl.TLSVersion
) -> None:
    """In TLS 1.3 the refusal comes after everything was sent: `unwrap` of a socket would take it for the end."""
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"), pki.authority)
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, newest
    with SyslogReceiver(context, faults) as receiver:
        said = refused(door_of(pki, receiver.port, None))
        assert "TLS:" in said or "reset" in said.lower()
        assert receiver.received == ()
        door_of(pki, receiver.port).deliver([b"<85>1 - - - - - -"])
        assert len(receiver.received) == 1


def test_a_certificate_of_another_authority_is_refused(
    pki: Pki, receiver: SyslogReceiver, tmp_path: Path
) -> None:
    certificate, key = pki.issue("AUTH_CLI", "x", "y", foreign_authority=True).write(tmp_path, "stranger")
    endpoint = SyslogEndpoint("127.0.0.1", receiver.port, pki.authority, certificate, key, 5, 5)
    assert refused(SyslogTls(endpoint, lambda: datetime.now(UTC)))
    assert receiver.received == ()


def test_an_end_without_close_notify_is_no_confirmation(pki: Pki) -> None:
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                while secured.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        said = refused(door_of(pki, listener.getsockname()[1]))
        thread.join(10)
    assert "without confirming" in said


def test_a_receiver_that_speaks_is_not_believed(pki: Pki) -> None:
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(b"250 OK")
                with contextlib.suppress(OSError):  # we hang up
                    while secured.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        said = refused(door_of(pki, listener.getsockname()[1]))
        thread.join(10)
    assert "the receiver speaks" in said


def test_tls_1_1_is_not_spoken(pki: Pki, receiver: SyslogReceiver) -> None:
    context = door_of(pki, receiver.port)._context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert door_of(pki, receiver.port, None)._context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_large_messages_arrive_whole(pki: Pki, receiver: SyslogReceiver) -> None:
    messages = [b"<85>1 - - - - - - " + bytes([65 + n % 26]) * 33_000 for n in range(100)]
    door_of(pki, receiver.port).deliver(messages)
    assert [one.raw for one in receiver.received] == messages


# --- the receiver is strict about frames


@pytest.mark.parametrize("octets", [b"012 x", b"x", b"5 abc", b"999999 abc", b"1234567890 abc"])
def test_what_is_no_frame_is_not_kept(pki: Pki, receiver: SyslogReceiver, octets: bytes) -> None:
    context = ssl.create_default_context(cafile=pki.authority)
    context.load_cert_chain(pki.path("appliance_auth"), pki.key("appliance_auth"))
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secured:
            secured.sendall(b"3 abc" + octets)
            with pytest.raises(OSError):  # no close_notify comes back
                secured.unwrap()
    assert receiver.received == ()


# --- its table


def test_the_cursor_table_goes_up_and_down(database: Database) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import inspect

    from drimbox.adapters.database import MIGRATIONS

    for revision, there in (("0004", False), ("0005", True)):
        with database.engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            (command.upgrade if there else command.downgrade)(config, revision)
        assert ("audit_cursor" in inspect(database.engine).get_table_names()) is there
