"""What those who look after the images ask of the database: records, segments, storage commitment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_store import index_segments
from dicom_store.archive import Archive
from dicom_store.index_segments import Recorded
from dicom_store.index_studies import Forgotten
from drimbox.adapters.tables import commitment_table
from drimbox.flow.records import Commitment

_COMMITMENT = commitment_table.c
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # what is forgotten has no grace


class StorageQueries:
    """Under the caller's session; nothing is committed."""

    def __init__(self, session: Session, archive: Archive) -> None:
        self.session = session
        self._archive = archive

    def records_of(self, study: str) -> Sequence[Recorded]:
        """Every record of a study, by segment and offset."""
        return index_segments.records_of(self.session, study)

    def records_named(self, uids: Collection[str]) -> Mapping[str, tuple[str, Recorded]]:
        """(study, record) of those of these SOP Instance UIDs that are here."""
        return index_segments.records_named(self.session, uids)

    def studies_after(self, study: str, limit: int) -> Sequence[str]:
        """The next studies of which images are here; "" = from the first one on."""
        return index_segments.studies_after(self.session, study, limit)

    def known_studies(self, studies: Collection[str]) -> set[str]:
        """Those of which images are here."""
        return index_segments.known_studies(self.session, studies)

    def studies_with_rejections(self) -> Sequence[str]:
        """Studies some image of which was ever rejected."""
        return index_segments.studies_with_rejections(self.session)

    def retired(self) -> frozenset[str]:
        """Segments that wait for their end."""
        return frozenset(index_segments.retired(self.session))

    def kept_bytes(self) -> int:
        """Bytes of the DICOM files that are kept. Reads the whole index: not for every second."""
        return index_segments.kept_bytes(self.session)

    def forget(self, study: str) -> Forgotten:
        """Delete the rows of a study; its bytes go by `drop` once this is committed, or with what is retired."""
        forgotten = self._archive.forget(self.session, study)
        for segment, end in forgotten.segments.items():
            index_segments.retire(self.session, segment, end, _LONG_AGO)
        return forgotten

    def drop(self, segments: Collection[str]) -> int:
        """Delete those of these segments that have no rows; bytes freed. In a transaction of its own, committed."""
        freed = 0
        for segment in segments:
            if size := self._archive.drop(self.session, [segment]):
                index_segments.end_retirement(self.session, segment)
                freed += size
        return freed

    def orphans(self) -> Sequence[str]:
        """Segments that no row points to and that are not retired; those being written now among them."""
        return self._archive.orphans(self.session)

    def commitment(self, commitment_id: str) -> Commitment | None:
        """One request for storage commitment, locked until the transaction ends."""
        return self.session.get(Commitment, commitment_id, with_for_update=True)

    def commitments_of(self, transaction_uid: str) -> Sequence[Commitment]:
        """Every request of a Transaction UID, oldest first."""
        query = select(Commitment).where(_COMMITMENT.transaction_uid == transaction_uid)
        return self.session.scalars(query.order_by(_COMMITMENT.received_at, _COMMITMENT.id)).all()

    def due_commitments(self, now: datetime, limit: int) -> Sequence[Commitment]:
        """Requests to answer now, oldest first."""
        query = select(Commitment).where(_COMMITMENT.due_at <= now).order_by(_COMMITMENT.due_at).limit(limit)
        return self.session.scalars(query).all()
