"""Rows of notes and rejections written and read: which instances are rejected, in any order of arrival.

Never commits. `dicom_rejection` is the truth; the columns of the instance repeat the reason that counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.orm import Session

from dicom_store.index import InstanceRow, NoteRow, RejectionRow, StudyRow
from dicom_store.index_queries import insert
from dicom_store.prepared import Prepared
from dicom_store.rejection import REASONS, RejectionNote, stronger, strongest
from dicom_store.study import KeyImageNote

REJECTION, KEY_IMAGE = "rejection", "key-image"
_CHUNK = 500  # values in one IN (...)


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of a study: UIDs of its rejection notes, and its key image notes."""

    rejection: frozenset[str] = frozenset()
    key_image: tuple[KeyImageNote, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a rejection note changed, as SOP Instance UIDs, sorted; each named instance is in one of them.

    `hidden`: rejected now; `remembered`: not here, hidden when they arrive; `already`: rejected before, or
    come back since this very note.
    """

    hidden: tuple[str, ...]
    remembered: tuple[str, ...]
    already: tuple[str, ...]


def keep_note(session: Session, study: str, note: RejectionNote | KeyImageNote) -> None:
    """Remember that an instance is a note; twice is harmless."""
    key_image = isinstance(note, KeyImageNote)
    values = {
        "sop_instance_uid": note.SOPInstanceUID,
        "study_instance_uid": study,
        "kind": KEY_IMAGE if key_image else REJECTION,
        "facts": asdict(note) if key_image else {},
    }
    insert(session, NoteRow, values)


def notes_of(session: Session, study: str) -> Notes:
    """The notes of a study."""
    columns = NoteRow.__table__.c
    query = select(columns.sop_instance_uid, columns.kind, columns.facts)
    rows = session.execute(query.where(columns.study_instance_uid == study)).all()
    return Notes(
        frozenset(row.sop_instance_uid for row in rows if row.kind == REJECTION),
        tuple(_key_image_note(row.facts) for row in rows if row.kind == KEY_IMAGE),
    )


def reject(session: Session, note: RejectionNote, at: datetime) -> Rejected:
    """Hide what a note names, now or when it arrives. The same note again changes nothing."""
    study = note.StudyInstanceUID
    # instances of this study arrive before us or after us, never beside us
    session.execute(
        select(StudyRow.study_instance_uid).where(StudyRow.study_instance_uid == study).with_for_update()
    ).first()
    keep_note(session, study, note)
    named = sorted({one.SOPInstanceUID for one in note.references})
    here = dict(_codes(session, study, named))
    fresh = sorted(set(named) - _heeded(session, note))
    _remember(session, note, fresh, here, at)
    changed = [uid for uid in fresh if uid in here and stronger(here[uid], note.code) != here[uid]]
    _mark(session, changed, note.code, at)
    hidden = tuple(uid for uid in changed if here[uid] is None)
    return Rejected(
        hidden,
        tuple(uid for uid in named if uid not in here),
        tuple(uid for uid in named if uid in here and uid not in set(hidden)),
    )


def apply_remembered(session: Session, study: str, sop: str, at: datetime) -> None:
    """Hide an instance that has just arrived for the first time, or again, if what rejects it still holds."""
    rows = [_Standing(*row) for row in _STANDING.rows(session, {"study": study, "sop": sop})]
    if not rows:
        return
    columns = RejectionRow.__table__.c
    this = (columns.study_instance_uid == study, columns.sop_instance_uid == sop, columns.ended_at.is_(None))
    # rejected while it was here, forgotten, stored again: for some reasons it has come back
    over = {row.code for row in rows if row.met_at and REASONS[row.code].returns_when_stored_again}
    changes = update(RejectionRow).where(*this).execution_options(synchronize_session=False)
    if over:
        session.execute(
            changes.where(columns.code.in_(over), columns.met_at.is_not(None)).values(ended_at=at)
        )
    session.execute(changes.where(columns.met_at.is_(None)).values(met_at=at))
    standing = [row for row in rows if not (row.met_at and row.code in over)]
    code = strongest(row.code for row in standing)
    if code is not None:
        _mark(session, [sop], code, min(row.rejected_at for row in standing if row.code == code))


class _Standing(NamedTuple):
    """A rejection that has not ended."""

    code: str
    met_at: datetime | None
    rejected_at: datetime


_REJECTION = RejectionRow.__table__.c
_STANDING = Prepared(
    select(_REJECTION.code, _REJECTION.met_at, _REJECTION.rejected_at).where(
        _REJECTION.study_instance_uid == bindparam("study"),
        _REJECTION.sop_instance_uid == bindparam("sop"),
        _REJECTION.ended_at.is_(None),
    )
)


def restore(session: Session, study: str, sop: str, at: datetime) -> None:
    """An instance rejected for a reason that ends when it is stored again has come back."""
    ending = update(RejectionRow).where(
        RejectionRow.study_instance_uid == study,
        RejectionRow.sop_instance_uid == sop,
        RejectionRow.ended_at.is_(None),
    )
    session.execute(ending.values(ended_at=at).execution_options(synchronize_session=False))
    _mark(session, [sop], None, None)


def _key_image_note(facts: dict[str, Any]) -> KeyImageNote:
    return KeyImageNote(**{**facts, "references": tuple(facts["references"])})


def _codes(session: Session, study: str, uids: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(SOP Instance UID, reason that counts) of the instances of a study that are here."""
    columns = InstanceRow.__table__.c
    query = select(columns.sop_instance_uid, columns.rejected_code).where(columns.study_instance_uid == study)
    for chunk in _chunks(uids):
        for row in session.execute(query.where(columns.sop_instance_uid.in_(chunk))):
            yield row.sop_instance_uid, row.rejected_code


def _heeded(session: Session, note: RejectionNote) -> set[str]:
    columns = RejectionRow.__table__.c
    query = select(columns.sop_instance_uid).where(
        columns.study_instance_uid == note.StudyInstanceUID, columns.note_uid == note.SOPInstanceUID
    )
    return set(session.scalars(query))


def _remember(
    session: Session, note: RejectionNote, uids: Sequence[str], here: Collection[str], at: datetime
) -> None:
    rows = [
        {
            "study_instance_uid": note.StudyInstanceUID,
            "sop_instance_uid": uid,
            "note_uid": note.SOPInstanceUID,
            "code": note.code,
            "rejected_at": at,
            "met_at": at if uid in here else None,
            "ended_at": None,
        }
        for uid in uids
    ]
    if rows:
        session.execute(plain_insert(RejectionRow.__table__), rows)  # type: ignore[arg-type]


def _mark(session: Session, uids: Sequence[str], code: str | None, at: datetime | None) -> None:
    for chunk in _chunks(uids):
        statement = update(InstanceRow).where(InstanceRow.sop_instance_uid.in_(chunk))
        session.execute(
            statement.values(rejected_code=code, rejected_at=at).execution_options(synchronize_session=False)
        )


def _chunks(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(uids), _CHUNK):
        yield uids[start : start + _CHUNK]
