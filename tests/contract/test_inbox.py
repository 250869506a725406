"""The inbox on a real database: what is found, what is shown, what a purge takes and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.tables import trace_table
from drimbox.adapters.transactions import SqlTransactions
from drimbox.bootstrap import new_id
from drimbox.domain.errors import Damaged, ReportRefused, Unavailable
from drimbox.domain.lifecycle import ReportState
from drimbox.domain.report_states import StatePolicy
from drimbox.domain.senders import SenderProfile
from drimbox.flow import inbox, inbox_purge
from drimbox.flow.inbox_purge import InboxPurging, PurgedMessages
from drimbox.flow.keep_report import Arrival
from drimbox.flow.receive_report import Reception
from drimbox.flow.records import Message
from fixtures.reports import ActSpec, ReportSpec, make_cda, make_oru, replacement_of

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
OLD = NOW - YEAR - timedelta(hours=1)
SPEC = ReportSpec()
RIS = SenderProfile("RIS", (ip_network("127.0.0.0/8"),))
NO_MSH = b"PID|1\r"


class Inbox:
    """Stores and a reception, and what comes in by the doors."""

    def __init__(self, root: Path, url: str) -> None:
        self.database = Database(url)
        self.database.migrate()
        self.archive = Archive(root / "images", 0)
        self.documents = Documents(root / "documents")
        self.transactions = SqlTransactions(self.database, self.archive)
        self.reception = Reception(self.transactions, self.documents, "Europe/Paris", new_id, lambda: "A")

    def hl7(self, content: bytes, at: datetime = NOW, *senders: SenderProfile) -> Message:
        self.reception.message(Arrival(content, "mllp", "127.0.0.1", at, senders or (RIS,)))
        return self.newest(at)

    def cda(self, content: bytes, at: datetime = NOW) -> Message:
        self.reception.document(Arrival(content, "http", "127.0.0.1", at))
        return self.newest(at)

    def newest(self, at: datetime) -> Message:
        with self.transactions.reading() as transaction:
            return next(one for one in transaction.inbox.messages(limit=1000) if one.received_at == at)

    def rows(self, **how: Any) -> list[dict[str, Any]]:
        return inbox.list_messages(self.transactions, **how)

    def show(self, message: Message) -> dict[str, Any]:
        return inbox.show_message(self.transactions, self.documents, message.id)

    def purging(self, keep: timedelta | None = YEAR) -> InboxPurging:
        return InboxPurging(self.transactions, self.documents, lambda: NOW, "worker:test", keep)

    def kept(self, digest: str | None) -> bool:
        assert digest is not None
        try:
            return bool(self.documents.get(digest))
        except Damaged:
            return False

    def traced(self) -> list[tuple[str | None, dict[str, Any]]]:
        query = select(trace_table.c.study_instance_uid, trace_table.c.detail)
        with self.database.engine.connect() as connection:
            rows = connection.execute(query.where(trace_table.c.event == "INBOX_PURGED"))
            return [(study, detail) for study, detail in rows]


@pytest.fixture
def box(tmp_path: Path, newest_url: str) -> Iterator[Inbox]:
    box = Inbox(tmp_path, newest_url)
    yield box
    box.archive.close()
    box.database.close()


def other(number: int) -> ReportSpec:
    """A report of another document and study than the default one."""
    study = f"1.2.250.1.999.1.{number}"
    return replace(SPEC, document_id=f"1.2.250.1.999.7.9.{number}", acts=(ActSpec(studies=(study,)),))


def oru(spec: ReportSpec = SPEC, **how: Any) -> bytes:
    return make_oru(make_cda(spec), spec, **how)


def minutes(number: int) -> datetime:
    return NOW + timedelta(minutes=number)


# -- what is found


def test_newest_first_and_only_what_is_asked_for(box: Inbox) -> None:
    good = box.hl7(oru(), minutes(1))
    bad = box.hl7(NO_MSH, minutes(2))
    second = box.hl7(oru(other(90)), minutes(3))  # its study is the beginning of another's
    box.hl7(oru(other(9)), minutes(4))
    assert [row["id"] for row in box.rows()][1:] == [second.id, bad.id, good.id]
    assert [row["id"] for row in box.rows(refused=True)] == [bad.id]
    assert [row["id"] for row in box.rows(study="1.2.250.1.999.1.90")] == [second.id]
    assert [row["id"] for row in box.rows(document="1.2.250.1.999.7.9.1")] == [good.id]
    assert len(box.rows(limit=2)) == 2
    assert box.rows(study="%") == []


def test_the_shown_start_of_an_id_is_its_own(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aaaaaaaa-1111-1", "aaaaaaaa-1111-2", "bbbbbbbb-2222-1", "cccccccc-3333"])
    box.reception = replace(box.reception, new_id=lambda: next(ids))
    for number in range(4):
        box.hl7(NO_MSH, minutes(number))
    short = {row["id"]: row["short"] for row in box.rows()}
    assert short == {
        "aaaaaaaa-1111-1": "aaaaaaaa-1111-1",
        "aaaaaaaa-1111-2": "aaaaaaaa-1111-2",
        "bbbbbbbb-2222-1": "bbbbbbbb",
        "cccccccc-3333": "cccccccc",
    }
    for whole, start in short.items():
        assert inbox.show_message(box.transactions, box.documents, start)["id"] == whole
    with pytest.raises(inbox.AmbiguousMessage):
        inbox.show_message(box.transactions, box.documents, "aaaaaaaa")
    for nobody in ("dddd", "", "a%", "_"):
        with pytest.raises(inbox.UnknownMessage):
            inbox.show_message(box.transactions, box.documents, nobody)


def test_an_id_that_another_begins_with_is_found(box: Inbox) -> None:
    ids = iter(["id-1", "id-10"])
    box.reception = replace(box.reception, new_id=lambda: next(ids))
    box.hl7(NO_MSH, minutes(1))
    box.hl7(NO_MSH, minutes(2))
    assert inbox.show_message(box.transactions, box.documents, "id-1")["id"] == "id-1"


# -- what is shown


def test_a_message_that_was_taken(box: Inbox) -> None:
    shown = box.show(box.hl7(oru()))
    assert (shown["verdict"], shown["reason"], shown["todo"]["family"]) == ("AA", None, "nothing")
    assert shown["report"]["document_id"] == shown["document_id"] == "1.2.250.1.999.7.9.1"
    assert shown["report"]["state"] == ReportState.CURRENT
    assert shown["content"]["bytes"] == len(oru())
    assert shown["cda"]["bytes"] == len(make_cda())
    assert "MSA|AA|RIS-000901" in shown["acknowledgement"]


def test_a_message_that_could_not_be_read(box: Inbox) -> None:
    shown = box.show(box.hl7(NO_MSH))
    assert (shown["verdict"], shown["code"], shown["kind"]) == ("AE", "100 hl7-100", "")
    assert shown["todo"]["family"] == "sender"
    assert shown["acknowledgement"].split("\r")[1] == "MSA|AE"
    assert (shown["cda"], shown["report"], shown["studies"]) == (None, None, [])


def test_an_acknowledgement_is_shown_with_no_answer(box: Inbox) -> None:
    shown = box.show(box.hl7(b"MSH|^~\\&|A|B|C|D|20260914101500||ACK^R01^ACK|1|P|2.5\rMSA|AA|7\r"))
    assert (shown["kind"], shown["acknowledgement"], shown["todo"]["family"]) == ("ACK^R01", None, "nothing")


def test_every_violation_is_shown_with_its_clause(box: Inbox) -> None:
    spec = replace(SPEC, orders=(), acts=(replace(SPEC.acts[0], studies=()),))
    shown = box.show(box.hl7(oru(spec)))
    wrong = [one for one in shown["violations"] if one["severity"] == "error"]
    assert len(wrong) > 1
    assert all(one["clause"] and one["where"] and one["rule"] for one in wrong)


# -- submitted again


def refused_orphan(box: Inbox) -> tuple[Message, SenderProfile]:
    strict = replace(RIS, states=StatePolicy(orphan_replacement=False))
    spec = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
    message = box.hl7(oru(spec, order_control="RO"), NOW, strict)
    assert message.verdict == "AE"
    return message, strict


def test_a_replay_is_judged_by_the_settings_of_now(box: Inbox) -> None:
    message, strict = refused_orphan(box)
    again = inbox.replay_message(box.reception, message.id, [strict], minutes(1))
    assert (again["verdict"], again["replay_of"], again["submitted"]) == ("AE", message.id, True)
    taken = inbox.replay_message(box.reception, message.id, [RIS], minutes(2))
    assert (taken["verdict"], taken["replay_of"], taken["sender"]) == ("AA", message.id, "RIS")
    shown = box.show(message)
    assert [one["verdict"] for one in shown["replays"]] == ["AA", "AE"]
    assert shown["todo"] == {
        "family": "nothing",
        "setting": None,
        "advice": "nothing: it was submitted again and taken",
    }


def test_what_was_taken_by_a_replay_is_not_submitted_again(box: Inbox) -> None:
    message, _ = refused_orphan(box)
    taken = inbox.replay_message(box.reception, message.id, [RIS], minutes(1))
    again = inbox.replay_message(box.reception, message.id, [RIS], minutes(2))
    assert (again["id"], again["submitted"]) == (taken["id"], False)
    assert len(box.rows()) == 2


def test_the_other_senders_of_an_address_are_no_candidates(box: Inbox) -> None:
    message, _ = refused_orphan(box)
    same_address = replace(RIS, name="OTHER")
    with pytest.raises(inbox.NotReplayable, match=r"RIS is no longer in mllp\.senders"):
        inbox.replay_message(box.reception, message.id, [same_address], minutes(1))
    signs_otherwise = replace(RIS, application="SOMEBODY")
    done = inbox.replay_message(box.reception, message.id, [same_address, signs_otherwise], minutes(1))
    assert done["code"] == "207/906 sender-unknown"


def test_a_sender_that_was_unknown(box: Inbox) -> None:
    message = box.hl7(oru(), NOW, replace(RIS, application="SOMEBODY"))
    assert message.code == "207/906 sender-unknown"
    assert inbox.replay_message(box.reception, message.id, [RIS], minutes(1))["verdict"] == "AA"


@pytest.mark.parametrize("senders", [[], [replace(RIS, certificate_sha256="ab" * 32)]])
def test_nobody_may_speak_for_an_unknown_sender(box: Inbox, senders: list[SenderProfile]) -> None:
    message = box.hl7(oru(), NOW, replace(RIS, application="SOMEBODY"))
    with pytest.raises(inbox.NotReplayable, match=r"127\.0\.0\.1 without a certificate"):
        inbox.replay_message(box.reception, message.id, senders, minutes(1))


def test_a_bare_cda_is_submitted_as_one(box: Inbox) -> None:
    strict = replace(box.reception, states=StatePolicy(orphan_replacement=False))
    orphan = make_cda(replacement_of(SPEC, "1.2.250.1.999.7.9.2"))
    with pytest.raises(ReportRefused):
        strict.document(Arrival(orphan, "http", "10.0.0.9", NOW))
    message = box.newest(NOW)
    assert inbox.replay_message(strict, message.id, [], minutes(1))["verdict"] == "AE"
    assert inbox.replay_message(box.reception, message.id, [], minutes(2))["verdict"] == "AA"


def test_a_replay_that_cannot_be_kept_leaves_nothing(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    message, _ = refused_orphan(box)

    def full(_: bytes) -> str:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(box.documents, "put", full)
    with pytest.raises(Unavailable, match="replay it later"):
        inbox.replay_message(box.reception, message.id, [RIS], minutes(1))
    assert len(box.rows()) == 1


# -- deleted


def test_old_bytes_go_and_the_accepted_cda_stays(box: Inbox) -> None:
    taken, refused = box.hl7(oru(), OLD), box.hl7(NO_MSH, OLD - timedelta(days=1))
    young = box.hl7(oru(other(5)), NOW)
    assert box.purging().plan() == PurgedMessages(2, 2)
    assert box.traced() == []
    assert box.purging().run() == PurgedMessages(2, 2)
    assert [box.kept(one.content) for one in (taken, refused, young)] == [False, False, True]
    assert box.kept(taken.document)
    assert box.traced() == [(None, {"messages": 2, "documents": 2})]
    assert box.show(taken)["purged_at"] == "2026-10-01T12:00:00.000Z"
    assert box.show(taken)["cda"]["kept"]
    assert "MSA|AA" in box.show(taken)["acknowledgement"]


def test_a_purge_with_nothing_to_do_leaves_no_trace(box: Inbox) -> None:
    box.hl7(oru(), NOW)
    assert box.purging().purge_due() == 0
    assert box.purging(keep=None).purge_due() == 0
    assert box.purging(keep=None).plan() == PurgedMessages()
    assert box.traced() == []


def test_an_accepted_bare_cda_stays(box: Inbox) -> None:
    taken = box.cda(make_cda(), OLD)
    assert taken.content == taken.document
    assert box.purging().run() == PurgedMessages(1, 0)
    assert box.kept(taken.content)
    assert box.show(taken)["report"]["state"] == ReportState.CURRENT


def test_the_cda_of_a_refused_message_goes_with_it(box: Inbox) -> None:
    strict = replace(RIS, states=StatePolicy(orphan_replacement=False))
    orphan = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
    message = box.hl7(oru(orphan, order_control="RO"), OLD, strict)
    assert box.kept(message.document)
    assert box.purging().run() == PurgedMessages(1, 2)
    assert not box.kept(message.document)


def test_bytes_that_a_younger_message_names_stay_until_it_is_old(box: Inbox) -> None:
    first, second = box.hl7(NO_MSH, OLD), box.hl7(NO_MSH, NOW - timedelta(days=1))
    assert first.content == second.content
    assert box.purging().run() == PurgedMessages(1, 0)
    assert box.kept(second.content)
    assert box.purging(timedelta(hours=1)).run() == PurgedMessages(1, 1)
    assert not box.kept(second.content)


@pytest.mark.parametrize("slice_", [1, 2, 100])
def test_batches_share_what_they_name(box: Inbox, monkeypatch: pytest.MonkeyPatch, slice_: int) -> None:
    monkeypatch.setattr(inbox_purge, "_BATCH", 2)
    monkeypatch.setattr(inbox_purge, "_SLICE", slice_)
    for number in range(5):
        box.hl7(NO_MSH, OLD)  # the same instant: told apart by their ids
        box.hl7(f"PID|x{number}\r".encode(), OLD - timedelta(days=number))
    assert box.purging().plan() == PurgedMessages(10, 6)
    assert box.purging().run() == PurgedMessages(10, 6)
    assert len(box.traced()) == 1
    assert box.purging().run() == PurgedMessages()


def test_a_purge_that_was_cut_short_goes_on(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_purge, "_SLICE", 1)
    messages = [box.hl7(f"PID|x{number}\r".encode(), OLD + timedelta(seconds=number)) for number in range(3)]
    forget: Callable[[str], bool] = box.documents.forget
    calls: list[str] = []

    def fail_after_the_second(digest: str) -> bool:
        calls.append(digest)
        done = forget(digest)
        if len(calls) == 2:
            raise Unavailable("the disk went away")
        return done

    monkeypatch.setattr(box.documents, "forget", fail_after_the_second)
    with pytest.raises(Unavailable):
        box.purging().run()
    assert [box.show(one)["purged_at"] is not None for one in messages] == [True, False, False]
    assert [box.kept(one.content) for one in messages] == [False, False, True]
    monkeypatch.undo()
    assert box.purging().run() == PurgedMessages(2, 1)
    assert [detail["messages"] for _, detail in box.traced()] == [1, 2]


def test_bytes_that_come_again_while_a_purge_runs_stay(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    old = box.hl7(NO_MSH, OLD)
    purging = box.purging()
    batches = purging._batches()
    batch, named = next(batches)
    young = box.hl7(NO_MSH, NOW)
    assert purging._delete(batch, named) == 0
    assert box.kept(young.content)
    assert box.show(old)["purged_at"] is not None


def test_a_purged_message_is_not_replayed(box: Inbox) -> None:
    message = box.hl7(NO_MSH, OLD)
    box.purging().run()
    with pytest.raises(
        inbox.NotReplayable, match=r"deleted on 2026-10-01 \(inbox\.keep_days\): have it sent again"
    ):
        inbox.replay_message(box.reception, message.id, [RIS], NOW)
    with pytest.raises(inbox.NotKept, match=r"inbox\.keep_days"):
        inbox.content_of(box.transactions, box.documents, message.id, cda=False)
    with pytest.raises(inbox.NotKept, match="no CDA"):
        inbox.content_of(box.transactions, box.documents, message.id, cda=True)
