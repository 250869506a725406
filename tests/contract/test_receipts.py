"""Business acknowledgements on real sockets and real stores: what is answered, when, how often, and who is told."""

from __future__ import annotations

import io
import itertools
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dicom_store.archive import Archive
from dicom_store.header import read_header
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.mllp_client import MllpClient
from drimbox.adapters.signing import load_signer
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.exam import RULES, Policy
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.senders import SenderProfile
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, NoAnswer, Refused, Registered
from drimbox.domain.xds.publication import Publisher, XdsOptions
from drimbox.domain.xds.response import ErrorKind, RegistryError
from drimbox.domain.zam import NotAcknowledged, control_id_of
from drimbox.entrypoints.worker import worker_jobs
from drimbox.flow import exams
from drimbox.flow.group_commit import GroupCommit
from drimbox.flow.keep_report import Arrival
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.prepare import Preparing
from drimbox.flow.publish import Publishing
from drimbox.flow.receive_instance import receive_instance
from drimbox.flow.receive_report import Reception
from drimbox.flow.reconcile import Reconciling
from drimbox.flow.records import Exam, Receipt, ReceivedReport, ReportStudy, Submission, TraceEntry
from drimbox.flow.send_receipts import SendingReceipts
from drimbox.flow.settle import Settling
from drimbox.simulators.ris_checks import answer_to, faults_of, read_message
from drimbox.simulators.ris_inbox import RisInbox
from fixtures.certificates import NOW as CERTIFICATE_NOW
from fixtures.certificates import make_authority, make_leaf
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.newest_database import bring_to_newest
from fixtures.reports import END, START, ReportSpec, make_cda, make_oru, replacement_of

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
STUDY, OTHER_STUDY = "1.2.250.1.999.1.901", "1.2.250.1.999.1.902"
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")
LEAF = make_leaf(make_authority())
SENDER = SenderProfile("ris", (ip_network("127.0.0.1"),), "RIS-DEMO", "CENTRE-DEMO")
PATIENCE = 10.0


@pytest.fixture
def ris() -> Iterator[RisInbox]:
    with RisInbox("RIS-DEMO", "CENTRE-DEMO", ("DRIMBOX", "CENTRE-DEMO")) as inbox:
        yield inbox


class Node:
    """The sending half of an appliance, with a clock of its own."""

    def __init__(self, transactions: SqlTransactions, address: tuple[str, int] | None) -> None:
        self.transactions = transactions
        self.now = NOW
        self.logged: list[dict[str, Any]] = []
        self.sending = SendingReceipts(
            transactions,
            MllpClient(connect_timeout=5, answer_timeout=0.5),
            {"ris": replace(SENDER, receipts=address)},
            "DRIMBOX",
            "CENTRE-DEMO",
            RetryPolicy(30, 600),
            "worker:test",
            lambda: 0.0,
            lambda: self.now,
            self.say,
            self.say,
        )

    def say(self, event: str, **words: Any) -> None:
        self.logged.append({"event": event} | words)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def receipt(self, name: str = "receipt-1") -> Receipt:
        with self.transactions.reading() as transaction:
            receipt = transaction.inbox.receipt(name)
            assert receipt is not None
            return receipt

    def trace(self, study: str = STUDY) -> list[TraceEntry]:
        with self.transactions.reading() as transaction:
            entries = transaction.ledger.trace_of(study)
            return [entry for entry in entries if entry.event.startswith("RECEIPT_")]


@contextmanager
def opened(url: str, root: Path) -> Iterator[SqlTransactions]:
    database = Database(url)
    bring_to_newest(database)
    yield SqlTransactions(database, Archive(root / "images", 0))
    database.close()


@pytest.fixture
def transactions(tmp_path: Path) -> Iterator[SqlTransactions]:
    with opened(f"sqlite:///{tmp_path / 'drimbox.sqlite'}", tmp_path) as transactions:
        yield transactions


@pytest.fixture
def on_each_engine(newest_url: str, tmp_path: Path) -> Iterator[SqlTransactions]:
    """Where rows are locked, and times compared."""
    with opened(newest_url, tmp_path) as transactions:
        yield transactions


def lot(state: str = "REGISTERED", **changes: Any) -> Submission:
    number = next(_numbers)
    fields: dict[str, Any] = {
        "id": f"lot-{number}", "study_instance_uid": STUDY, "kind": "publish", "content_key": "k",
        "kos_uid": f"2.25.{number}", "submission_set_uid": f"1.2.3.{number}", "request": "r", "vihf": "{}",
        "patient_ins": "279035121518989", "patient_oid": "1.2.250.1.213.1.4.10", "revision": 1,
        "created_at": NOW + timedelta(seconds=number % 1000), "since": NOW, "state": state, "report_id": "report-1",
        "entry_uuid": "urn:uuid:1" if state in ("REGISTERED", "DEPRECATED", "WITHDRAWN") else None,
    }  # fmt: skip
    return Submission(**fields | changes)


_numbers = itertools.count(1)


def keep(
    transactions: SqlTransactions,
    *lots: Submission,
    rule: str | None = None,
    judged: bool = True,
    report_state: str = "CURRENT",
    studies: tuple[str, ...] = (STUDY,),
    asked_at: datetime = NOW,
    operation: str = "NW",
) -> None:
    """One report with its exams and lots, and a receipt that is due."""
    report = ReceivedReport(
        "report-1", "1.2.3^1", "set", 1, "NW", "d", NOW, "mllp", [], True, "O", {}, state=report_state
    )
    with transactions.writing() as transaction:
        transaction.ledger.add(report)
        for study in studies:
            transaction.ledger.add(ReportStudy("report-1", study))
            exam = Exam(study, NOW, rule=rule, reconcile_at=None if judged else NOW)
            transaction.ledger.add(exam)
        for one in lots:
            transaction.ledger.add(one)
        transaction.ledger.add(Receipt("receipt-1", "report-1", operation, "MSG-1", "ris", asked_at, NOW))
        transaction.commit()


# -- what is answered (`flow/receipt_verdict.py`), one row of the ledger each ------------------------------------------

REFUSED = {"last_error": "XDSRegistryMetadataError: typeCode", "ending": ErrorKind.PERMANENT_DATA.value}
SILENT = {"last_error": "silence", "ending": "no_answer"}


@pytest.mark.parametrize(
    ("lots", "known", "answer"),
    [
        ([lot()], {}, ("Y", "")),
        ([lot("DEPRECATED"), lot(kind="replace", report_id="report-2")], {}, ("Y", "")),
        ([lot()], {"rule": "receiving", "judged": False}, ("Y", "")),  # registered: what comes later is another matter
        ([lot("DEPRECATED")], {"report_state": "SUPERSEDED"}, ("Y", "")),
        ([lot("WITHDRAWN")], {"report_state": "WITHDRAWN"}, ("Y", "")),
        ([lot(report_id="report-2")], {}, ("Y", "")),  # the manifest is made of another report of the exam
        ([lot(report_id="report-2")], {"judged": False}, None),
        ([lot(entry_uuid=None)], {}, None),
        ([], {"rule": "no-images"}, None),
        ([], {"rule": "ipp-mismatch"}, None),
        ([], {"rule": None, "judged": False}, None),
        ([lot("PREPARED")], {"rule": "to-send"}, None),
        ([lot("DOUBTFUL")], {"rule": "doubtful"}, None),
        ([lot("PARKED", report_id="report-2")], {"rule": "in-flight"}, None),
        ([lot("REFUSED", **REFUSED)], {"rule": "refused"}, ("N", "XDSRegistryMetadataError")),
        ([lot("REFUSED", **REFUSED)], {"rule": "refused", "judged": False}, None),
        ([lot("PARKED", **REFUSED)], {"rule": "parked"}, ("N", "XDSRegistryMetadataError")),
        ([lot("PARKED", **SILENT)], {"rule": "parked"}, ("N", "906")),
        *(([], {"rule": rule.slug}, ("N", "906")) for rule in RULES if rule.withdraws),
        ([], {"report_state": "SUPERSEDED"}, ("N", "906")),
        ([lot("PREPARED")], {"report_state": "SUPERSEDED", "judged": False}, ("N", "906")),
        ([lot("DROPPED")], {"report_state": "WITHDRAWN"}, ("N", "906")),
        ([lot("RESENDING")], {"report_state": "SUPERSEDED"}, None),
        ([lot(entry_uuid=None)], {"report_state": "SUPERSEDED"}, None),
        ([lot("PARKED", **REFUSED)], {"report_state": "SUPERSEDED"}, ("N", "XDSRegistryMetadataError")),
    ],
)  # fmt: skip
def test_a_publication(
    transactions: SqlTransactions,
    ris: RisInbox,
    lots: list[Submission],
    known: dict[str, Any],
    answer: tuple[str, str] | None,
) -> None:
    keep(transactions, *(replace(one) for one in lots), **known)
    node = Node(transactions, ris.address)
    assert node.sending.run_due() == 1
    found = [(one.status, one.error) for one in ris.received]
    assert found == ([] if answer is None else [answer])
    if answer is None:
        assert node.receipt().due_at == NOW + timedelta(seconds=30)


ASKED = NOW + timedelta(minutes=5)
WITHDRAWAL: dict[str, Any] = {"report_state": "WITHDRAWN", "asked_at": ASKED, "operation": "CA"}


@pytest.mark.parametrize(
    ("lots", "known", "answer"),
    [
        ([lot("WITHDRAWN"), lot(kind="unpublish", kos_uid=None)], {"rule": "report-withdrawn"}, "Y"),
        ([], {"rule": "report-withdrawn"}, "Y"),
        ([lot("DEPRECATED"), lot(report_id="report-2", kind="replace")], {}, "Y"),
        ([lot()], {"judged": False}, None),
        ([lot(), lot("SENDING", kind="unpublish", kos_uid=None)], {"rule": "sending"}, None),
        ([lot("SENDING")], {"rule": "in-flight"}, None),
        ([lot(), lot("REFUSED", kind="unpublish", kos_uid=None, **REFUSED)], {"rule": "refused"}, "N"),
        ([lot(), lot("PARKED", kind="unpublish", kos_uid=None, **SILENT)], {"rule": "parked"}, "N"),
    ],
)
def test_a_withdrawal(
    transactions: SqlTransactions,
    ris: RisInbox,
    lots: list[Submission],
    known: dict[str, Any],
    answer: str | None,
) -> None:
    keep(transactions, *(replace(one) for one in lots), **WITHDRAWAL | known)
    node = Node(transactions, ris.address)
    node.now = ASKED
    node.sending.run_due()
    assert [one.status for one in ris.received] == ([] if answer is None else [answer])


def test_a_change_of_visibility_waits_for_the_manifest_that_shows_it(
    on_each_engine: SqlTransactions, ris: RisInbox
) -> None:
    before = lot(created_at=NOW + timedelta(minutes=1))
    keep(on_each_engine, before, rule="to-send", asked_at=ASKED)
    node = Node(on_each_engine, ris.address)
    node.now = ASKED
    node.sending.run_due()
    assert list(ris.received) == []
    with on_each_engine.writing() as transaction:
        transaction.ledger.add(lot(kind="replace", created_at=ASKED + timedelta(seconds=1)))
        transaction.commit()
    node.later(30)
    node.sending.run_due()
    assert [one.status for one in ris.received] == ["Y"]


def test_a_withdrawal_and_what_it_withdraws_are_answered_apart(
    on_each_engine: SqlTransactions, ris: RisInbox
) -> None:
    at = ASKED + timedelta(microseconds=123_457)
    keep(on_each_engine, **WITHDRAWAL | {"asked_at": at})
    with on_each_engine.writing() as transaction:
        transaction.ledger.add(Receipt("receipt-0", "report-1", "NW", "MSG-0", "ris", NOW, NOW))
        transaction.commit()
    node = Node(on_each_engine, ris.address)
    node.now = at
    node.sending.run_due()
    assert {one.about: one.status for one in ris.received} == {"MSG-0": "N", "MSG-1": "Y"}


def test_one_study_that_is_refused_is_the_answer_for_all(
    transactions: SqlTransactions, ris: RisInbox
) -> None:
    refusal = lot("REFUSED", study_instance_uid=OTHER_STUDY, **REFUSED)
    keep(transactions, lot(), refusal, rule="refused", studies=(STUDY, OTHER_STUDY))
    node = Node(transactions, ris.address)
    node.sending.run_due()
    assert [(one.status, one.error) for one in ris.received] == [("N", "XDSRegistryMetadataError")]
    assert [len(node.trace(study)) for study in (STUDY, OTHER_STUDY)] == [1, 1]


def test_one_study_that_waits_makes_all_wait(transactions: SqlTransactions, ris: RisInbox) -> None:
    keep(transactions, lot(), rule="no-images", studies=(STUDY, OTHER_STUDY))
    Node(transactions, ris.address).sending.run_due()
    assert list(ris.received) == []


# -- when, how often, and who is told (`flow/send_receipts.py`) --------------------------------------------------------


def test_a_receipt_is_sent_once_and_traced(on_each_engine: SqlTransactions, ris: RisInbox) -> None:
    keep(on_each_engine, lot())
    node = Node(on_each_engine, ris.address)
    node.sending.run_due()
    node.later(86_400)
    assert node.sending.run_due() == 0
    (seen,) = ris.received
    assert (seen.faults, seen.about, seen.status, seen.control_id) == (
        (),
        "MSG-1",
        "Y",
        control_id_of("receipt-1"),
    )
    receipt = node.receipt()
    assert (receipt.delivered_at, receipt.due_at, receipt.given_up_at) == (NOW, None, None)
    (entry,) = node.trace()
    assert (entry.event, entry.actor) == ("RECEIPT_SENT", "worker:test")
    assert entry.detail == {"receipt": "receipt-1", "status": "Y", "attempts": 1, "reason": None}


def test_a_refusal_says_why_in_every_field(transactions: SqlTransactions, ris: RisInbox) -> None:
    keep(transactions, lot("REFUSED", **REFUSED), rule="refused")
    node = Node(transactions, ris.address)
    node.sending.run_due()
    (seen,) = ris.received
    assert (seen.faults, seen.error_table) == ((), "DMP_ERROR_CODE")
    assert seen.text == "the DMP refused the manifest of the exam"
    assert b"typeCode" not in seen.message  # the DMP's own words stay here
    assert node.trace()[0].detail["reason"] == "refused XDSRegistryMetadataError"


def test_waits_grow_up_to_ten_minutes_and_end_after_seven_days(
    transactions: SqlTransactions, ris: RisInbox
) -> None:
    keep(transactions, rule="no-images")
    node = Node(transactions, ris.address)
    waits: list[float] = []
    while node.receipt().due_at is not None and len(waits) < 8:
        node.sending.run_due()
        due = node.receipt().due_at
        assert due is not None
        waits.append((due - node.now).total_seconds())
        node.now = due
    assert waits == [30, 30, 60, 120, 240, 480, 600, 600]
    node.now = NOW + timedelta(days=7)
    node.sending.run_due()
    assert (node.receipt().given_up_at, node.receipt().due_at) == (node.now, None)
    (entry,) = node.trace()
    assert (entry.event, entry.detail["reason"]) == ("RECEIPT_GIVEN_UP", "no verdict in 7 days")
    assert list(ris.received) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("ar", "AR 207"), ("silence", "no answer in time"), ("refuse_connection", "")],
)
def test_what_is_not_taken_is_sent_again_as_it_was(
    transactions: SqlTransactions, ris: RisInbox, fault: str, reason: str
) -> None:
    keep(transactions, lot())
    node = Node(transactions, ris.address)
    ris.arm(fault)
    node.sending.run_due()
    receipt = node.receipt()
    assert receipt.due_at == NOW + timedelta(seconds=15)  # half of 30, the rest is jitter
    assert reason in (receipt.last_error or "none")
    with transactions.writing() as transaction:  # the exam moves on; what was said once stays
        exam = transaction.ledger.exam_for_update(STUDY, NOW)
        exam.rule = "opposition"
        transaction.commit()
    node.later(15)
    node.sending.run_due()
    assert {(one.status, one.control_id) for one in ris.received} == {("Y", control_id_of("receipt-1"))}
    assert [one.repeated for one in ris.received] == (
        [False] if fault == "refuse_connection" else [False, True]
    )
    assert (node.receipt().attempts, node.receipt().last_error) == (2, None)
    assert [entry.event for entry in node.trace()] == ["RECEIPT_SENT"]


def test_a_receiver_that_nobody_runs(transactions: SqlTransactions, free_port: Callable[[], int]) -> None:
    keep(transactions, lot())
    node = Node(transactions, ("127.0.0.1", free_port()))
    for _ in range(4):
        node.sending.run_due()
        node.later(600)
    assert (node.receipt().attempts, node.receipt().last_error) == (4, "Connection refused")
    node.now = NOW + timedelta(days=14)
    node.sending.run_due()
    (entry,) = node.trace()
    assert entry.event == "RECEIPT_GIVEN_UP"
    assert entry.detail["reason"] == "not delivered in 14 days: Connection refused"


def test_a_message_that_they_find_wrong_is_not_sent_again(
    transactions: SqlTransactions, ris: RisInbox
) -> None:
    keep(transactions, lot())
    node = Node(transactions, ris.address)
    ris.arm("ae")
    node.sending.run_due()
    node.later(86_400)
    node.sending.run_due()
    assert len(ris.received) == 1
    (entry,) = node.trace()
    assert (entry.event, entry.detail["attempts"]) == ("RECEIPT_GIVEN_UP", 1)
    assert entry.detail["reason"] == "the receiver refuses it (AE)"


@pytest.mark.parametrize("sender", ["ris", "gone"])
def test_a_sender_without_an_address_is_given_up_at_once(transactions: SqlTransactions, sender: str) -> None:
    keep(transactions, rule="no-images")
    node = Node(transactions, None)
    with transactions.writing() as transaction:
        receipt = transaction.inbox.receipt("receipt-1")
        assert receipt is not None
        receipt.sender = sender
        transaction.commit()
    node.sending.run_due()
    (entry,) = node.trace()
    assert entry.event == "RECEIPT_GIVEN_UP"
    assert "no address" in entry.detail["reason"]


def test_a_crash_between_the_answer_and_the_commit_is_one_repeat(
    on_each_engine: SqlTransactions, ris: RisInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(on_each_engine, lot())
    node = Node(on_each_engine, ris.address)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SendingReceipts, "_settle", die)
        with pytest.raises(KeyboardInterrupt):
            node.sending.run_due()
    assert node.sending.run_due() == 0  # still ours, as far as others can tell
    node.later(121)
    node.sending.run_due()
    assert [one.repeated for one in ris.received] == [False, True]
    assert len({one.control_id for one in ris.received}) == 1
    assert node.receipt().delivered_at == node.now


def test_two_nodes_send_it_once(on_each_engine: SqlTransactions, ris: RisInbox) -> None:
    keep(on_each_engine, lot())
    nodes = [Node(on_each_engine, ris.address) for _ in range(4)]
    together = threading.Barrier(len(nodes))

    def work(node: Node) -> None:
        together.wait(PATIENCE)
        node.sending.run_due()

    threads = [threading.Thread(target=work, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ris.received) == 1
    assert nodes[0].receipt().attempts == 1


def test_an_answer_that_comes_after_our_time_is_left_to_the_other(
    on_each_engine: SqlTransactions, ris: RisInbox
) -> None:
    keep(on_each_engine, lot())
    other = Node(on_each_engine, ris.address)

    class Slow:
        def exchange(self, address: tuple[str, int], message: bytes) -> bytes:
            other.later(121)
            other.sending.run_due()
            raise NotAcknowledged("late and wrong")

    replace(Node(on_each_engine, ris.address).sending, door=Slow()).run_due()
    receipt = other.receipt()
    assert (receipt.attempts, receipt.delivered_at, receipt.last_error) == (2, other.now, None)


def test_a_receipt_that_cannot_be_made_holds_up_nobody(transactions: SqlTransactions, ris: RisInbox) -> None:
    keep(transactions, lot())
    with transactions.writing() as transaction:
        broken = Receipt(
            "broken", "report-1", "NW", "MSG-0", "ris", NOW, NOW - timedelta(1), "N", "no-such-slug"
        )
        transaction.ledger.add(broken)
        transaction.commit()
    node = Node(transactions, ris.address)
    assert node.sending.run_due() == 2
    assert [one.about for one in ris.received] == ["MSG-1"]
    assert node.receipt("broken").due_at == NOW + timedelta(minutes=10)
    assert node.receipt("broken").last_error == "a defect of the appliance: KeyError"
    assert node.logged[0]["event"] == "receipt_failed"


def test_the_worker_has_the_job_only_when_it_is_set() -> None:
    def job() -> int:
        return 0

    assert "receipts" not in worker_jobs(job, job, 2)
    assert worker_jobs(job, job, 2, job)["receipts"] is job


# -- the door (`adapters/mllp_client.py`) ------------------------------------------------------------------------------


@contextmanager
def peer(*pieces: bytes, hold: bool = False) -> Iterator[tuple[str, int]]:
    """Reads one frame, sends the pieces, closes; `hold`: only when the client has gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                received = b""
                while END not in received:
                    received += connection.recv(65_536)
                for piece in pieces:
                    connection.sendall(piece)
                if hold:
                    assert connection.recv(1) == b""

        thread = threading.Thread(target=serve)
        thread.start()
        yield "127.0.0.1", listener.getsockname()[1]
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "pieces", [(START + b"MSH" + END,), (b"\r\n", START + b"M", b"SH" + END[:1], END[1:])]
)
def test_an_answer_in_any_pieces(pieces: tuple[bytes, ...]) -> None:
    with peer(*pieces, hold=True) as address:
        assert MllpClient().exchange(address, b"MSH|") == b"MSH"


@pytest.mark.parametrize(
    ("pieces", "hold", "reason"),
    [
        ((), False, "ended before"),
        ((START + b"MSH",), False, "ended before"),
        ((b"HTTP/1.1 400\r\n" + END,), True, "not framed"),
        ((START + b"x" * 2_000,), True, "over 1000 bytes"),
        ((START + b"MSH",), True, "in time"),
    ],
)
def test_no_whole_answer(pieces: tuple[bytes, ...], hold: bool, reason: str) -> None:
    client = MllpClient(answer_timeout=0.3, max_answer_bytes=1_000)
    with peer(*pieces, hold=hold) as address, pytest.raises(NotAcknowledged, match=reason):
        client.exchange(address, b"MSH|")


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(NotAcknowledged):
        MllpClient().exchange(("no-such-host.invalid", 1), b"MSH|")


@pytest.mark.parametrize("message", [b"MSH\x0b", b"MSH\x1c"])
def test_a_message_with_a_frame_character_never_leaves(message: bytes) -> None:
    with pytest.raises(ValueError, match="frame character"):
        MllpClient().exchange(("127.0.0.1", 1), message)


# -- the strict receiver -----------------------------------------------------------------------------------------------

GOOD = (
    "MSH|^~\\&|DRIMBOX|HERE|RIS|THERE|20261121123005+0000||ZAM^Z01^ZAM_Z01|C1|P|2.6|||||FRA|UNICODE UTF-8|||"
    "2.1^CISIS_CDA_HL7_V2\rEVN||20261121123005+0000\r"
    "OBX|1|CWE|ACK_RECEPTION_DMP^Accusé^AckMetierZAM|MSG-1|N^^expandedYes-NoIndicator||||||F\r"
    "ERR|||207^Application error^messageErrorCondition|E|906^Autre^applicationErrorCondition||slug|why\r"
)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("P|2.6", "P|2.6", ""),
        ("\r", "\n", "MSH-18.1 102"),
        ("ZAM^Z01^ZAM_Z01", "ZAM^Z02^ZAM_Z01", "MSH-9.2 201"),
        ("C1", "", "MSH-10.1 101"),
        ("|P|2.6", "|P|2.5", "MSH-12.1 203"),
        ("2.1^CISIS", "2.0^CISIS", "MSH-21.1 103"),
        ("EVN||20261121123005+0000\r", "", "MSH-0.0 100"),
        ("EVN||2026", "EVN||", "EVN-2.1 102"),
        ("AckMetierZAM", "MetaDMPMSS", "OBX-3.3 103"),
        ("MSG-1", "", "OBX-4.1 101"),
        ("N^^exp", "Y^^exp", "ERR-0.0 100"),
        ("N^^exp", "X^^exp", "OBX-5.1 103"),
        ("|F\r", "|C\r", "OBX-11.1 103"),
        ("906^Autre^applicationErrorCondition", "", "ERR-5.1 101"),
    ],
)
def test_the_strict_receiver_sees_each_fault(old: str, new: str, fault: str) -> None:
    message = GOOD.replace(old, new).encode("utf-8")
    read = read_message(message)
    faults = faults_of(message, read)
    assert (fault in faults) if fault else faults == ()
    assert (b"MSA|AE|" in answer_to(read, "AE", faults)) is True


# -- the whole story: from the message that asks to the receipt --------------------------------------------------------

ACK_WANTED = {"ACK_RECEPTION": True}
REPORT = ReportSpec()
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 2),)
)


class ScriptedDmp:
    """Answers what the script says, then Registered and Found."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def publish(self, _lot: Any) -> Any:
        return self.answers.pop(0) if self.answers else Registered(EXCHANGE)

    withdraw = publish

    def find(self, unique_id: str, _identity: Any) -> Any:
        entry = DocumentEntry.__new__(DocumentEntry)
        object.__setattr__(entry, "id", f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, unique_id)}")
        object.__setattr__(entry, "status", "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved")
        return Found(EXCHANGE, (entry,))


class Box(Node):
    """The inside of an appliance, without doors or processes."""

    def __init__(self, root: Path, ris: RisInbox) -> None:
        self.database = Database(f"sqlite:///{root / 'drimbox.sqlite'}")
        bring_to_newest(self.database)
        self.archive = Archive(root / "images", 0)
        self.documents = documents = Documents(root / "documents")
        super().__init__(SqlTransactions(self.database, self.archive), ris.address)
        self.ris, self.dmp = ris, ScriptedDmp()
        self.reception = Reception(
            self.transactions, documents, "Europe/Paris", self.new_id, lambda: "ACK1", receipts=True
        )
        preparing = Preparing(documents, self.maker(root), self.new_id)
        policy = Policy(("1.2.250.1.213.1.4.10",), "", settle_after=60)
        self.reconciling = Reconciling(
            self.transactions, documents, preparing, policy, "Europe/Paris", lambda: self.now, self.say
        )
        settling = Settling(documents, RetryPolicy(10, 100), "worker:a", lambda: 0.0, self.say)
        self.publishing = Publishing(
            self.transactions,
            documents,
            self.dmp,
            settling,
            lambda: self.now,
            "a",
            60,
            self.say,
            lambda: True,
        )

    def maker(self, root: Path) -> ManifestMaker:
        (root / "sign.pem").write_bytes(LEAF.certificate_pem)
        (root / "sign.key").touch(0o600)
        (root / "sign.key").write_bytes(LEAF.key_pem())
        publisher = Publisher("CENTRE", "1750803447", "BOX-1", "DRIMBox", "1.2.250.1.999.7")
        return ManifestMaker(
            publisher, XdsOptions(), partial(load_signer, root / "sign.pem", root / "sign.key", CERTIFICATE_NOW),
            "https://db.example.fr/dicom-web-rs", "Europe/Paris", lambda: f"2.25.{next(_numbers)}",
            lambda: next(_numbers), "",
        )  # fmt: skip

    def new_id(self) -> str:
        return f"id-{next(_numbers)}"

    def say_report(
        self, control_id: str, spec: ReportSpec = REPORT, control: str = "NW", **flags: bool
    ) -> None:
        """One ORU that wants a receipt, and is taken."""
        message = make_oru(
            make_cda(spec), spec, flags=ACK_WANTED | flags, control_id=control_id, order_control=control
        )
        arrival = Arrival(message, "mllp", "127.0.0.1", self.now, (SENDER,))
        assert f"MSA|AA|{control_id}".encode() in (self.reception.message(arrival) or b"")
        self.later(1)

    def bring_images(self) -> None:
        for dataset in study_datasets(SPEC):
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            part10 = buffer.getvalue()
            data = part10[144 + int.from_bytes(part10[140:144], "little") :]
            meta = dataset.file_meta
            header = read_header(
                data, str(meta.TransferSyntaxUID), str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
            )
            with self.archive.writer() as writer:
                receive_instance(
                    GroupCommit(self.transactions), writer.take(header, data),
                    now=self.now, actor="test", settle_after=60,
                )  # fmt: skip
        self.later(61)

    def work(self) -> None:
        """The whole worker, until nothing is due; then once more when receipts may be looked at again."""
        for _ in range(2):
            while self.reconciling.run_due() + self.publishing.run_due() + self.sending.run_due():
                self.later(0.001)
            self.later(601)

    def history(self) -> list[dict[str, Any]]:
        shown = exams.show_exam(self.transactions, self.documents, STUDY, "Europe/Paris")
        history: list[dict[str, Any]] = shown["history"]
        return history

    def told(self) -> list[tuple[str, str, str]]:
        """(message, status, error code) of what the RIS was told; nothing of it was wrong."""
        assert [one.faults for one in self.ris.received] == [()] * len(self.ris.received)
        return [(one.about, one.status, one.error) for one in self.ris.received]


@pytest.fixture
def box(tmp_path: Path, ris: RisInbox) -> Iterator[Box]:
    box = Box(tmp_path, ris)
    yield box
    box.archive.close()
    box.database.close()


def test_published(box: Box) -> None:
    box.say_report("M1")
    box.sending.run_due()
    assert box.told() == []
    box.bring_images()
    box.work()
    assert box.told() == [("M1", "Y", "")]
    assert b"|T|2.6|" in box.ris.received[0].message  # MSH-11 of the message that asked
    events = [event["event"] for event in exams.trace_exam(box.transactions, STUDY)]
    assert events.index("RECEIPT_SENT") > events.index("IDENTIFIED")


def test_nobody_who_did_not_ask_is_told(box: Box) -> None:
    box.say_report("M1", ACK_RECEPTION=False)
    box.bring_images()
    box.work()
    assert box.told() == []


def test_refused_by_the_dmp(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    error = RegistryError("XDSRegistryMetadataError", "of DUPONT JEANNE")
    box.dmp.answers = [Refused(EXCHANGE, (error,), ErrorKind.PERMANENT_DATA)]
    box.work()
    assert box.told() == [("M1", "N", "XDSRegistryMetadataError")]
    assert b"DUPONT" not in box.ris.received[0].message


def test_doubtful_then_found(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    box.dmp.answers = [NoAnswer(EXCHANGE, "silence")]
    box.work()
    assert box.told() == [("M1", "Y", "")]


def test_superseded_before_its_images_came(box: Box) -> None:
    box.say_report("M1")
    box.say_report("M2", replacement_of(REPORT, "1.2.250.1.999.7.9.2"), "RO")
    box.work()
    assert box.told() == [("M1", "N", "906")]
    box.bring_images()
    box.work()
    assert box.told()[1:] == [("M2", "Y", "")]


def test_replaced_after_publication(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    box.reconciling.run_due()
    box.publishing.run_due()
    box.say_report("M2", replacement_of(REPORT, "1.2.250.1.999.7.9.2"), "RO")
    box.work()
    assert sorted(box.told()) == [("M1", "Y", ""), ("M2", "Y", "")]


def test_withdrawn_after_publication(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    box.work()
    box.say_report("M2", control="CA")
    box.sending.run_due()
    assert len(box.told()) == 1
    box.work()
    assert box.told() == [("M1", "Y", ""), ("M2", "Y", "")]
    events = [event["event"] for event in exams.trace_exam(box.transactions, STUDY)]
    assert events.index("WITHDRAWN") < len(events) - 1 - events[::-1].index("RECEIPT_SENT")


def test_withdrawn_before_publication(box: Box) -> None:
    box.say_report("M1")
    box.say_report("M2", control="CA")
    box.bring_images()
    box.work()
    assert sorted(box.told()) == [("M1", "N", "906"), ("M2", "Y", "")]


def test_another_visibility(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    box.work()
    box.say_report("M2", MODIF_CONF_CODE=True, INVISIBLE_PATIENT=True)
    box.sending.run_due()
    assert len(box.told()) == 1
    box.work()
    assert box.told()[1:] == [("M2", "Y", "")]
    assert [step["status"] for step in box.history()] == ["replaced", "published"]


def test_a_second_report_of_the_exam(box: Box) -> None:
    box.say_report("M1")
    box.bring_images()
    box.work()
    box.say_report("M2", ReportSpec(document_id="1.2.250.1.999.7.9.5", set_id="1.2.250.1.999.7.10"))
    box.work()
    assert box.told() == [("M1", "Y", ""), ("M2", "Y", "")]


def test_not_for_the_dmp(box: Box) -> None:
    box.say_report("M1", DESTDMP=False)
    box.bring_images()
    box.work()
    assert box.told() == [("M1", "N", "906")]
    assert "DESTDMP" in box.ris.received[0].text
