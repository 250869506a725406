"""What the DMP says of a manifest that the ledger calls published."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, NoAnswer, NotFound, NotSent, Refused
from drimbox.domain.xds.response import ErrorKind, RegistryError
from drimbox.flow.compare_dmp import judge
from drimbox.flow.records import Submission

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
EXCHANGE = Exchange("urn:uuid:1")
OURS, OTHER = "urn:uuid:10", "urn:uuid:11"


def lot(entry: str | None = OURS) -> Submission:
    return Submission(
        "lot", "1.2.3", "publish", "key", "1.2.3.1", "r", "{}", "ins", "oid", 1, NOW, NOW,
        state="REGISTERED", kos_uid="1.2.3.2", entry_uuid=entry,
    )  # fmt: skip


def found(*entries: tuple[str, str]) -> Found:
    return Found(
        EXCHANGE, tuple(DocumentEntry(id, "", "1.2.3.2", "", status=status) for id, status in entries)
    )


@pytest.mark.parametrize(
    ("lookup", "kind", "words"),
    [
        (NotFound(EXCHANGE), "absent", "does not hold it"),
        (found((OURS, v.DEPRECATED)), "status", "is Deprecated"),
        (found((OURS, v.DELETED)), "status", "is Deleted"),
        (found((OURS, "")), "status", "is unknown"),
        (found((OTHER, v.APPROVED)), "entry", OTHER),
        (found((OURS, v.DEPRECATED), (OTHER, v.APPROVED)), "entry", OTHER),
        (NotSent(EXCHANGE, "nobody listens"), "unanswered", "nobody listens"),
        (NoAnswer(EXCHANGE, "nothing heard"), "unanswered", "nothing heard"),
        (
            Refused(EXCHANGE, (RegistryError("XDSRegistryBusy", "later"),), ErrorKind.TRANSIENT),
            "unanswered",
            "XDSRegistryBusy",
        ),
    ],
)
def test_every_disagreement_has_its_kind(lookup: Any, kind: str, words: str) -> None:
    differs = judge(lot(), lookup)
    assert differs is not None
    assert (differs.kind, differs.study, differs.kos_uid, differs.entry_uuid) == (
        kind,
        "1.2.3",
        "1.2.3.2",
        OURS,
    )
    assert words in differs.reason


@pytest.mark.parametrize(
    ("ours", "lookup"),
    [
        (OURS, found((OURS, v.APPROVED))),
        (OURS, found((OTHER, v.DEPRECATED), (OURS, v.APPROVED))),
        (None, found((OTHER, v.APPROVED))),  # not asked for yet
    ],
)
def test_agreement(ours: str | None, lookup: Found) -> None:
    assert judge(lot(ours), lookup) is None
