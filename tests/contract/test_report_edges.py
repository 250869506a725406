"""Edges of the report doors: whose document, whose patient, whose visit, and what an old message may still change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.transactions import SqlTransactions
from drimbox.bootstrap import new_id
from drimbox.domain.errors import ReportRefused
from drimbox.domain.report_states import StatePolicy
from drimbox.domain.senders import SenderProfile
from drimbox.flow import inbox
from drimbox.flow.keep_report import Arrival
from drimbox.flow.receive_report import Reception
from drimbox.flow.records import Message
from fixtures.reports import ReportSpec, make_adt, make_cda, make_mdm, make_omi, make_oru, replacement_of

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
RIS = SenderProfile("RIS", (ip_network("127.0.0.0/8"),))
STRICT = replace(RIS, states=StatePolicy(same_author=True))
SPEC = ReportSpec()
NEXT = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
STUDY = SPEC.acts[0].studies[0]
OTHER_INS = "279035121518989"
OTHER = {"organization_id": "1750999111", "organization_name": "Autre centre"}
VISIT = f"{SPEC.ipp_oid}^V260901"


class Desk:
    """A report door on a real database; every message comes a minute after the one before."""

    def __init__(self, root: Path, url: str) -> None:
        self.database = Database(url)
        self.database.migrate()
        self.archive = Archive(root / "images", 0)
        self.transactions = SqlTransactions(self.database, self.archive)
        self.reception = Reception(
            self.transactions, Documents(root / "documents"), "Europe/Paris", new_id, lambda: "A"
        )
        self.now = NOW

    def say(self, message: bytes, *senders: SenderProfile) -> bytes:
        self.now += timedelta(minutes=1)
        arrival = Arrival(message, "mllp", "127.0.0.1", self.now, senders or (RIS,))
        return self.reception.message(arrival) or b""

    def newest(self) -> Message:
        with self.transactions.reading() as transaction:
            return transaction.inbox.messages(limit=1)[0]

    def replay(self, message: Message, *senders: SenderProfile) -> dict[str, Any]:
        self.now += timedelta(minutes=1)
        return inbox.replay_message(self.reception, message.id, senders or (RIS,), self.now)

    def current(self) -> list[tuple[str, str | None]]:
        with self.transactions.reading() as transaction:
            return [(one.document_id, one.visit) for one in transaction.ledger.reports_of(STUDY)]


@pytest.fixture
def desk(tmp_path: Path, newest_url: str) -> Iterator[Desk]:
    desk = Desk(tmp_path, newest_url)
    yield desk
    desk.archive.close()
    desk.database.close()


def oru(spec: ReportSpec = SPEC, **how: Any) -> bytes:
    return make_oru(make_cda(spec), spec, **how)


def without(message: bytes, segment: bytes) -> bytes:
    return b"".join(s + b"\r" for s in message.split(b"\r") if s and not s.startswith(segment))


# -- whose document (901)


@pytest.mark.parametrize("control", ["RO", "CA"])
def test_who_leaves_its_name_out_is_the_author_of_its_document(desk: Desk, control: str) -> None:
    """Without PRT SB the author of the CDA stands for it: silence is no way around 901."""
    own = NEXT if control == "RO" else SPEC
    assert b"MSA|AA" in desk.say(oru(), STRICT)
    stranger = without(oru(replace(own, **OTHER), order_control=control), b"PRT")
    assert b"|901^" in desk.say(stranger, STRICT)
    assert b"MSA|AA" in desk.say(without(oru(own, order_control=control), b"PRT"), STRICT)


def test_another_structure_may_not_change_the_visibility_by_a_creation(desk: Desk) -> None:
    """hl7-mss 1.6: the same document again with MODIF_CONF_CODE replaces its flags, whatever ORC-1 says."""
    assert b"MSA|AA" in desk.say(oru(flags={"MASQUE_PS": True}), STRICT)
    seen = oru(flags={"MODIF_CONF_CODE": True})
    stranger = seen.replace(b"^FINEG^^^999999999", b"^FINEG^^^750999111")
    assert stranger != seen
    assert b"|901^" in desk.say(stranger, STRICT)
    assert b"MSA|AA" in desk.say(seen, STRICT)


def test_a_structure_that_writes_the_one_itself_is_the_same(desk: Desk) -> None:
    """drim-m-data 1: 999999999 in HL7v2, 1999999999 in the CDA; some write the latter in both."""
    bare = make_cda(SPEC).replace(b'extension="1999999999"', b'extension="999999999"')
    following = make_cda(NEXT).replace(b'extension="1999999999"', b'extension="999999999"')
    assert b"MSA|AA" in desk.say(make_oru(bare, SPEC), STRICT)
    one = make_oru(following, NEXT, order_control="RO").replace(b"^FINEG^^^9", b"^FINEG^^^19")
    assert b"MSA|AA" in desk.say(one, STRICT)


# -- whose patient (904)


def test_a_deletion_of_another_patient_than_that_of_the_known_document(desk: Desk) -> None:
    """Table 0533: 904 is also said of an INS that is not the one of the known document."""
    assert b"MSA|AA" in desk.say(oru())
    wrong = replace(SPEC, ins=OTHER_INS, ins_oid="1.2.250.1.213.1.4.11")
    answer = desk.say(oru(wrong, order_control="CA"))
    assert b"MSA|AE" in answer
    assert b"|904^" in answer
    assert [document for document, _ in desk.current()] == [SPEC.document_id]
    assert b"MSA|AA" in desk.say(oru(order_control="CA"))


# -- whose visit, and what was said of it


@pytest.mark.parametrize("first", ["original", "replacement"])
def test_a_replacement_without_its_visit_is_of_the_visit_of_the_original(desk: Desk, first: str) -> None:
    """An opposition is said of the visit: it does not end because PV1-19 was left out."""
    steps = [oru(), without(oru(NEXT, order_control="RO"), b"PV1")]
    for message in steps if first == "original" else reversed(steps):
        assert b"MSA|AA" in desk.say(message)
    assert desk.current() == [(NEXT.document_id, VISIT)]


def feeding(desk: Desk) -> str:
    with desk.transactions.reading() as transaction:
        visit = transaction.inbox.visit(VISIT)
        assert visit is not None
        return visit.feeding


def test_an_old_consent_that_is_replayed_does_not_end_a_later_opposition(desk: Desk) -> None:
    desk.say(make_adt(feeding="INO"))  # ADT are not read yet
    old = desk.newest()
    desk.reception = replace(desk.reception, consent_from_adt=True)
    assert b"MSA|AA" in desk.say(make_adt(event="A08", feeding="IO", control_id="ADM-2"))
    done = desk.replay(old)
    assert (done["verdict"], done["code"]) == ("AE", "207/906 consent-overtaken")
    assert feeding(desk) == "IO"
    assert (
        inbox.show_message(desk.transactions, desk.reception.documents, done["id"])["todo"]["family"]
        == "nothing"
    )
    assert desk.replay(desk.newest())["verdict"] == "AE"  # the replay of a replay is as old
    assert b"MSA|AA" in desk.say(make_adt(event="A08", feeding="INO", control_id="ADM-3"))
    assert feeding(desk) == "INO"


def test_an_old_consent_is_replayed_where_nothing_was_said_since(desk: Desk) -> None:
    desk.say(make_adt(feeding="IO"))
    old = desk.newest()
    desk.reception = replace(desk.reception, consent_from_adt=True)
    assert desk.replay(old)["verdict"] == "AA"
    assert feeding(desk) == "IO"
    assert b"MSA|AA" in desk.say(make_adt(event="A08", feeding="INO", control_id="ADM-2"))
    assert feeding(desk) == "INO"


def withdrawn(desk: Desk) -> str | None:
    with desk.transactions.reading() as transaction:
        exam = transaction.ledger.exam(STUDY)
        assert exam is not None
        return exam.withdrawn_by


def test_an_old_order_that_is_replayed_does_not_end_a_later_cancellation(desk: Desk) -> None:
    desk.say(make_omi(control="XO"))  # the exam is not known yet
    old = desk.newest()
    assert b"MSA|AA" in desk.say(oru())
    assert b"MSA|AA" in desk.say(make_omi(control="CA", control_id="002"))
    assert desk.replay(old)["code"] == "207/906 order-overtaken"
    assert withdrawn(desk) == "order"
    assert b"MSA|AA" in desk.say(make_omi(control="XO", control_id="003"))
    assert withdrawn(desk) is None


def test_an_old_report_that_is_replayed_does_not_end_a_later_cancellation(desk: Desk) -> None:
    refusing = replace(RIS, states=StatePolicy(orphan_replacement=False))
    desk.say(oru(NEXT, order_control="RO"), refusing)
    old = desk.newest()
    assert b"MSA|AA" in desk.say(oru())
    assert b"MSA|AA" in desk.say(make_omi(control="CA"))
    assert desk.replay(old)["verdict"] == "AA"
    assert withdrawn(desk) == "order"
    third = replacement_of(NEXT, "1.2.250.1.999.7.9.3")
    assert b"MSA|AA" in desk.say(oru(third, order_control="RO"))  # a new one: the RIS speaks of it again
    assert withdrawn(desk) is None


# -- what a sender writes that a database may not take


def test_a_parent_that_is_named_twice_is_one_parent(desk: Desk) -> None:
    cda = make_cda(NEXT)
    related = cda[
        cda.index(b"<relatedDocument") : cda.index(b"</relatedDocument>") + len(b"</relatedDocument>")
    ]
    twice = cda.replace(related, related + related)
    assert b"MSA|AA" in desk.say(oru())
    assert b"MSA|AA" in desk.say(make_oru(twice, NEXT, order_control="RO"))
    assert [document for document, _ in desk.current()] == [NEXT.document_id]


@pytest.mark.parametrize("nul", [b"\0", b"\\X00\\"])
def test_fields_padded_with_nul_are_read(desk: Desk, nul: bytes) -> None:
    message = (
        oru().replace(b"|V260901^", b"|V260901" + nul + b"^").replace(b"PV1|1|O|", b"PV1|1|O" + nul + b"|")
    )
    assert b"MSA|AA" in desk.say(message)
    assert desk.current() == [(SPEC.document_id, VISIT)]


def test_a_structure_id_that_is_too_long_is_refused_for_good(desk: Desk) -> None:
    """AE, not AR: a sender repeats for ever what is answered AR."""
    answer = desk.say(oru(replace(SPEC, organization_id="1" * 65)))
    assert b"MSA|AE" in answer
    assert b"identifier-too-long" in answer


def test_a_parent_that_only_txa_13_names_is_replaced_when_it_comes_late(desk: Desk) -> None:
    cda = make_cda(NEXT)
    bare = cda[: cda.index(b"<relatedDocument")] + cda[cda.index(b"</relatedDocument>") + 18 :]
    assert b"MSA|AA" in desk.say(make_mdm(bare, NEXT, order_control="RO"))
    assert b"MSA|AA" in desk.say(oru())
    assert [document for document, _ in desk.current()] == [NEXT.document_id]


# -- who a refused message is of, and when it was answered


def test_a_message_refused_for_its_form_can_be_replayed_under_its_sender(desk: Desk) -> None:
    """The certificate of a TLS peer is not kept: its name must be, whatever the reason of the refusal."""
    secured = replace(RIS, certificate_sha256="ab" * 32)
    desk.say(make_adt(feeding="IO"), secured)
    refused = desk.newest()
    assert (refused.sender, refused.code) == ("RIS", "200 adt-not-read")
    desk.reception = replace(desk.reception, consent_from_adt=True)
    assert desk.replay(refused, secured)["verdict"] == "AA"


def test_an_acknowledgement_is_dated_by_the_clock_of_the_department(desk: Desk) -> None:
    """MSH-7 has no offset: its digits are local (hl7-mss 1.11)."""
    assert b"|20261001140100||ACK^R01^ACK|" in desk.say(oru())


def test_a_bare_document_of_another_structure_is_refused_where_that_is_chosen(desk: Desk) -> None:
    desk.reception = replace(desk.reception, states=StatePolicy(same_author=True))
    assert b"MSA|AA" in desk.say(oru())
    arrival = Arrival(make_cda(replace(NEXT, **OTHER)), "http", "127.0.0.1", desk.now)
    with pytest.raises(ReportRefused, match="the structure that sends"):
        desk.reception.document(arrival)
    assert [document for document, _ in desk.current()] == [SPEC.document_id]


@pytest.mark.parametrize("length", [2, 3])
def test_documents_that_replace_each_other_leave_the_last_one(desk: Desk, length: int) -> None:
    """A circle of RPLC: whoever followed it would never come back."""
    ids = [f"1.2.250.1.999.7.9.{number}" for number in range(1, length + 1)]
    for number, document in enumerate(ids):
        spec = replacement_of(replace(SPEC, document_id=ids[number - 1]), document)
        assert b"MSA|AA" in desk.say(oru(spec, order_control="RO"))
    with desk.transactions.reading() as transaction:
        rows = {one: transaction.ledger.report_by_document(one) for one in ids}
    assert [(row.state, row.replaced_by) for row in rows.values() if row] == [
        *(("SUPERSEDED", following) for following in ids[1:]),
        ("CURRENT", None),
    ]
    assert [document for document, _ in desk.current()] == [ids[-1]]


def test_the_visit_of_a_late_original_reaches_the_last_of_its_versions(desk: Desk) -> None:
    third = replacement_of(NEXT, "1.2.250.1.999.7.9.3")
    for spec in (third, NEXT):
        assert b"MSA|AA" in desk.say(without(oru(spec, order_control="RO"), b"PV1"))
    assert b"MSA|AA" in desk.say(oru())
    assert desk.current() == [(third.document_id, VISIT)]
