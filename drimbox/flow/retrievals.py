"""The audit record of a retrieval (trust-and-identity 7.3): what it holds, and the row of the trace that it becomes.

One record per request: who, which exam, what was given, how much of it left, or why nothing did. Never a token, a
header or patient data: a token is named by its `jti`, else by the beginning of its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.access import Wish
from drimbox.domain.token_claims import Identity
from drimbox.flow import trace
from drimbox.flow.ports import Transactions
from drimbox.flow.records import Note

SERVED, CUT, REFUSED = EVENTS = ("RETRIEVAL_SERVED", "RETRIEVAL_CUT", "RETRIEVAL_REFUSED")
FORBIDDEN = "HEALTH_FORBIDDEN"  # the address filter of the health check: kept in the same way
NOT_LISTED = "address-not-listed"
DIED = "the process died"
_AT_ONCE = 1000  # rows of one transaction
_LONGEST = 256  # characters of a value
_ACTOR = 128  # characters of trace.actor
_NAMES = ("kos", "series", "sop", "frames")  # what a stranger may invent

Record = dict[str, Any]


class Peer(NamedTuple):
    """Who calls. `certificate_der`, `certificate_subject` (RFC 4514): of its TLS certificate, None without one."""

    address: str
    certificate_der: bytes | None = None
    certificate_subject: str | None = None


class Finished(NamedTuple):
    """A record that is complete. `id`: of its journal entry."""

    id: str
    record: Record


def begun(wish: Wish, peer: Peer, identity: Identity | None, token: str | None, at: datetime) -> Record:
    """Who asks for what. Values that are not given are left out."""
    record: Record = {
        "at": at.isoformat(),
        "actor": f"partner:{peer.address}"[:_ACTOR],
        "study": _uid(wish.study),
        "kos": _uid(wish.kos),
        "series": _uid(wish.series),
        "sop": _uid(wish.sop),
        "frames": wish.frames and wish.frames[:_LONGEST],
        "certificate": peer.certificate_subject and peer.certificate_subject[:_LONGEST],
    }
    if identity is not None:
        record |= {
            "subject": identity.subject,
            "structure": identity.structure,
            "client_id": identity.client_id,
            "jti": identity.jti,
            "acr": identity.acr,
            "binding": str(identity.binding),
        }
    if token and not record.get("jti"):
        record["token"] = fingerprint(token)
    return {name: value for name, value in record.items() if value}


def viewed(account: str, address: str, what: str, uids: Mapping[str, str | None], at: datetime) -> Record:
    """What an account of the department is given. `what`: kind of resource; `uids`: study, series, sop, frames."""
    record: Record = {"at": at.isoformat(), "actor": f"account:{account}@{address}"[:_ACTOR], "what": what}
    return record | {name: value[:_LONGEST] for name, value in uids.items() if value}


def fingerprint(token: str) -> str:
    """How the audit names a token without a `jti` (trust-and-identity 7.3)."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def ended(sent: int, whole: bool, syntaxes: Sequence[str], why: str, milliseconds: float) -> Record:
    """How a transfer ended. `sent`: bytes of the answer's body."""
    end: Record = {"event": SERVED if whole else CUT, "bytes": sent, "ms": round(milliseconds, 1)}
    if syntaxes:
        end["syntaxes"] = list(syntaxes)
    return end | ({"why": why[:_LONGEST]} if why else {})


def refused(slug: str, status: int, why: str, milliseconds: float) -> Record:
    """Why nothing was given."""
    end = {"event": REFUSED, "code": slug, "status": status, "ms": round(milliseconds, 1)}
    return end | ({"why": why[:_LONGEST]} if why else {})


def probe_refused(address: str, user_agent: str, at: datetime) -> tuple[Record, Record]:
    """The record, and its end, of an address that the health check does not answer."""
    words = "".join(letter for letter in user_agent if " " <= letter <= "~")[:_LONGEST]
    record = {"at": at.isoformat(), "actor": f"probe:{address}"[:_ACTOR], "user_agent": words}
    return record, {"event": FORBIDDEN, "code": NOT_LISTED, "status": 403}


def repeated(slug: str, address: str, status: int, count: int, at: datetime) -> tuple[Record, Record]:
    """One record for many refusals alike, none of which has its own; `at`: the last of them."""
    who, event = ("probe", FORBIDDEN) if slug == NOT_LISTED else ("partner", REFUSED)
    record = {"at": at.isoformat(), "actor": f"{who}:{address}"[:_ACTOR], "repeated": count}
    return record, {"event": event, "code": slug, "status": status}


def died() -> Record:
    """The end of a transfer whose process is gone: how much left is not known."""
    return {"event": CUT, "why": DIED}


def write(
    transactions: Transactions, finished: Sequence[Finished], *, again: bool, known: set[str] | None = None
) -> None:
    """Write the rows of complete records. `again`: they may be written already, and are then left.

    `known`: studies that were found here before, which they stay; those found now are added. Raises `Unavailable`;
    what was written before it is found by the next call with `again`.
    """
    known = set() if known is None else known
    for start in range(0, len(finished), _AT_ONCE):
        some = finished[start : start + _AT_ONCE]
        with transactions.writing() as transaction:
            if again:
                there = transaction.serving.recorded([_instant(one.record) for one in some])
                some = [one for one in some if one.id not in there]
            studies = {one.record["study"] for one in some if "study" in one.record}
            if strange := studies - known:
                known |= transaction.serving.known_studies(strange)
            trace.note_all(transaction, list(_notes(some, known)))
            transaction.commit()


def _notes(finished: Sequence[Finished], known: set[str]) -> Iterator[Note]:
    for one in finished:
        detail = {
            name: value for name, value in one.record.items() if name not in ("at", "event", "actor", "study")
        }
        study = one.record.get("study")
        if study not in known:  # UIDs of a stranger's invention are not kept
            study = None
            detail = {name: value for name, value in detail.items() if name not in _NAMES}
        detail["record"] = one.id
        yield Note(_instant(one.record), one.record["event"], one.record["actor"], study, detail)


def _instant(record: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(record["at"])


def _uid(value: str | None) -> str | None:
    try:
        return None if value is None else check_uid(value.strip())
    except InvalidUID:
        return None
