"""Notes and instances in any order, any of them any number of times: the archive ends up showing the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from dicom_store.archive import Archive
from dicom_store.index import Base
from dicom_store.instance import InstanceHeader
from dicom_store.rejection import KEY_OBJECT_SELECTION, REASONS, Reference, RejectionNote, strongest
from dicom_store.status import Outcome
from dicom_store.study import KeyImageNote, StudySnapshot

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STUDY, CT, EXPLICIT = "1.2.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
IMAGES = tuple(f"1.2.3.1.{n}" for n in range(4))
KEY_IMAGES = KeyImageNote("1.2.3.8.1", "1.2.3.8", "113000", "DCM", "Of Interest", "why", IMAGES[:2])
LASTING = sorted(code for code, reason in REASONS.items() if not reason.returns_when_stored_again)


@dataclass(frozen=True)
class Arrival:
    """One C-STORE: an instance, which may be a note."""

    sop: str
    series: str
    sop_class: str = CT
    note: RejectionNote | KeyImageNote | None = None


INSTANCES = (
    *(Arrival(sop, "1.2.3.1") for sop in IMAGES),
    Arrival(KEY_IMAGES.SOPInstanceUID, KEY_IMAGES.SeriesInstanceUID, KEY_OBJECT_SELECTION, KEY_IMAGES),
)


def rejection(number: int, code: str, sops: Sequence[str]) -> Arrival:
    note = RejectionNote(f"1.2.3.9.{number}", STUDY, code, tuple(Reference(STUDY, "", sop) for sop in sops))
    return Arrival(note.SOPInstanceUID, f"1.2.3.9.{number}.0", KEY_OBJECT_SELECTION, note)


def notes(codes: Sequence[str]) -> st.SearchStrategy[list[Arrival]]:
    targets = st.lists(st.sampled_from([one.sop for one in INSTANCES]), min_size=1, max_size=5, unique=True)
    drawn = st.lists(st.tuples(st.sampled_from(codes), targets), max_size=4)
    return drawn.map(lambda rows: [rejection(n, *row) for n, row in enumerate(rows)])


def shown_after(arrivals: Sequence[Arrival]) -> StudySnapshot | None:
    """Receive them one by one, each in a transaction of its own."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with tempfile.TemporaryDirectory() as directory:
        archive = Archive(Path(directory), 0, clock=lambda: NOW)
        with archive.writer() as writer, Session(engine) as session:
            for one in arrivals:
                header = InstanceHeader(one.sop_class, one.sop, STUDY, one.series, EXPLICIT, PatientID="IPP")
                data = one.sop.encode()
                if archive.recognise(session, writer.take(header, data)) is None:
                    outcome = archive.index(session, header, writer.append(header, data), one.note)
                    assert outcome is Outcome.STORED
                if isinstance(one.note, RejectionNote):
                    rejected = archive.reject(session, one.note, NOW)
                    named = {ref.SOPInstanceUID for ref in one.note.references}
                    assert {*rejected.hidden, *rejected.remembered, *rejected.already} == named
                session.commit()
            snapshot = archive.snapshot(session, STUDY)
        archive.close()
    engine.dispose()
    return snapshot


def expected(received: Sequence[Arrival]) -> dict[str, str]:
    """The reason that counts, by instance, from the notes alone."""
    found = [one.note for one in received if isinstance(one.note, RejectionNote)]
    reasons = {
        one.sop: strongest(n.code for n in found if one.sop in {ref.SOPInstanceUID for ref in n.references})
        for one in INSTANCES
    }
    return {sop: code for sop, code in reasons.items() if code}


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class View:
    """What an archive shows of the study: reasons by instance, who is seen, and the key images that are."""

    rejected: dict[str, str]
    visible: frozenset[str]
    key_image_notes: tuple[KeyImageNote, ...]


def seen(snapshot: StudySnapshot | None) -> View:
    assert snapshot is not None
    visible = frozenset(ref.SOPInstanceUID for ref in snapshot.instances)
    return View(dict(snapshot.rejected), visible, snapshot.key_image_notes)


def due(received: Sequence[Arrival]) -> View:
    rejected = expected(received)
    visible = frozenset(one.sop for one in INSTANCES) - rejected.keys()
    return View(rejected, visible, (KEY_IMAGES,) if KEY_IMAGES.SOPInstanceUID in visible else ())


def in_order(received: Sequence[Arrival]) -> list[Arrival]:
    """Each once, by SOP Instance UID."""
    return sorted(set(received), key=lambda one: one.sop)


@QUICK
@given(notes(LASTING), st.data())
def test_any_order_and_any_number_of_times(rejections: list[Arrival], data: st.DataObject) -> None:
    every = [*INSTANCES, *rejections]
    again = data.draw(st.lists(st.sampled_from(every), max_size=6))
    order = data.draw(st.permutations([*every, *again]))
    snapshot = shown_after(order)
    assert seen(snapshot) == due(order)
    assert snapshot == shown_after(in_order(order))


@QUICK
@given(notes(sorted(REASONS)), st.data())
def test_any_order_with_expired_retention(rejections: list[Arrival], data: st.DataObject) -> None:
    """Each instance once, since storing it again would bring it back; notes any number of times."""
    again = data.draw(st.lists(st.sampled_from(rejections), max_size=4)) if rejections else []
    order = data.draw(st.permutations([*INSTANCES, *rejections, *again]))
    snapshot = shown_after(order)
    assert seen(snapshot) == due(order)
    assert snapshot == shown_after(in_order(order))


@QUICK
@given(notes(["113039"]), st.data())
def test_what_had_expired_comes_back(rejections: list[Arrival], data: st.DataObject) -> None:
    received = data.draw(st.permutations([*INSTANCES, *rejections]))
    snapshot = shown_after([*received, *INSTANCES])
    assert snapshot is not None
    assert snapshot.rejected == ()
    assert len(snapshot.instances) == len(INSTANCES)
