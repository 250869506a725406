"""A partner asks for images: token, then manifest, then instances; each refusal is a row of the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from dicom_store.rejection import REASONS
from drimbox.domain.access import (
    SharedManifest,
    Wish,
    bearer,
    check_claims,
    check_manifest,
    manifest_uid,
    refuse,
)
from drimbox.domain.errors import AccessRefused
from drimbox.domain.kos import read_manifest
from drimbox.domain.lifecycle import SubmissionState
from drimbox.flow import trace
from drimbox.flow.ports import Documents, Transaction, Transactions


class Introspection(Protocol):
    """Asks Pro Santé Connect; raises any exception of `unavailable` when it cannot be asked."""

    def introspect(self, token: str) -> Mapping[str, Any]: ...


class SharedManifests:
    """What our manifests share, by SOP Instance UID: read once from the frozen bytes, kept (bytes never change)."""

    def __init__(self, documents: Documents, limit: int = 1000) -> None:
        self._documents = documents
        self._limit = limit
        self._shared: dict[str, frozenset[tuple[str, str]]] = {}

    def of(self, transaction: Transaction, kos_uid: str) -> SharedManifest | None:
        """The manifest of that UID with today's state, or None.

        The bytes are read only while it is published: what was purged still has its precise answer.
        """
        submission = transaction.ledger.submission_by_kos(kos_uid)
        if submission is None:
            return None
        study, state = submission.study_instance_uid, SubmissionState(submission.state)
        if state is SubmissionState.REGISTERED and is_withdrawn(transaction, study):
            state = SubmissionState.WITHDRAWN  # from this moment on, whatever the DMP says and when
        shared: frozenset[tuple[str, str]] = frozenset()
        if state is SubmissionState.REGISTERED:
            shared = self._read(kos_uid, submission.kos or "")
        return SharedManifest(state, study, shared)

    def _read(self, kos_uid: str, digest: str) -> frozenset[tuple[str, str]]:
        if kos_uid not in self._shared:
            if len(self._shared) >= self._limit:
                self._shared.clear()
            manifest = read_manifest(self._documents.get(digest))
            self._shared[kos_uid] = frozenset(
                (series.series_instance_uid, ref.sop_instance_uid)
                for series in manifest.series
                for ref in series.instances
            )
        return self._shared[kos_uid]


def is_withdrawn(transaction: Transaction, study: str) -> bool:
    """An order, an operator or the withdrawal of its report says that the exam must not be public."""
    exam = transaction.ledger.exam(study)
    if exam is not None and exam.withdrawn_by is not None:
        return True
    return transaction.ledger.had_reports(study) and not transaction.ledger.reports_of(study)


def authorise(
    transactions: Transactions,
    introspection: Introspection,
    unavailable: type[Exception],
    manifests: SharedManifests,
    wish: Wish,
    *,
    now: datetime,
    peer: str,
    log: Callable[..., object],
    admit: Callable[[], None],
) -> Sequence[Any]:
    """Where the instances lie that the partner may have, in order.

    Raises `AccessRefused` (traced) and `errors.Unavailable`. Order of the checks: the mesh (`admit`: 503, 403), who
    (401, 503), which manifest (400, 404, 410), which instances (404).
    """
    try:
        admit()
        subject = _check_token(introspection, unavailable, wish, now, log)
        kos = manifest_uid(wish.kos)
        with transactions.reading() as transaction:
            shared = check_manifest(wish, manifests.of(transaction, kos))
            places = transaction.images.retrieve(wish.study, wish.series, wish.sop)
        chosen = choose(places, shared)
    except AccessRefused as refusal:
        _note(transactions, wish, "RETRIEVAL_REFUSED", now, peer, code=refusal.code, status=refusal.status)
        raise
    _note(
        transactions, wish, "RETRIEVAL_AUTHORISED", now, peer, subject=subject, kos=kos, instances=len(chosen)
    )
    return chosen


def choose(places: Sequence[Any], shared: frozenset[str]) -> list[Any]:
    """The stored instances that may leave. Raises `AccessRefused`: 404, or 410 when all of them were rejected."""
    known = [place for place in places if place.ref.SOPInstanceUID in shared]
    chosen = [place for place in known if not _stops_serving(place.rejected)]
    if known and not chosen:
        raise refuse("instance-withdrawn")
    if not chosen:
        raise refuse("instance-not-shared")
    return chosen


def _stops_serving(rejected: str | None) -> bool:
    return rejected is not None and REASONS[rejected].stops_serving_at_once


def _check_token(
    introspection: Introspection,
    unavailable: type[Exception],
    wish: Wish,
    now: datetime,
    log: Callable[..., object],
) -> str:
    token = bearer(wish.authorization)
    try:
        claims = introspection.introspect(token)
    except unavailable as error:
        log("psc_unavailable", error=str(error))
        raise refuse("psc-unavailable") from error
    return check_claims(claims, now)


def _note(
    transactions: Transactions, wish: Wish, event: str, now: datetime, peer: str, **detail: Any
) -> None:
    with transactions.writing() as transaction:
        known = transaction.ledger.exam(wish.study) is not None
        if known:  # UIDs of a stranger's invention are not kept
            detail |= {"series": wish.series, "sop": wish.sop}
        study = wish.study if known else None
        trace.note(transaction, event, at=now, actor=f"partner:{peer}", study=study, **detail)
        transaction.commit()
