"""What a creation, a replacement or a deletion does to the reports that are known (hl7-mss 1.6).

A document is keyed by its CDA id, a chain by its RPLC links; setId is no key (drim-m-data 8). `TABLE` is the
specification: exactly one row fits every situation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from drimbox.domain.hl7v2_grammar import Operation

DocumentState = Literal["current", "superseded", "withdrawn"]
Kind = Literal["create", "replay", "replace", "revise", "withdraw", "nothing", "refuse"]
# How the documents that the CDA replaces stand, taken together
Parents = Literal["none", "itself", "superseded", "withdrawn", "unknown", "partly", "current"]


@dataclass(frozen=True, slots=True)
class Incoming:
    """The document that arrives. `digest`: of the CDA bytes; `parents`: ids of its RPLC relatedDocument.

    `changes_visibility`: MODIF_CONF_CODE; some senders set it and keep the document as it is (drim-m-data 7.2).
    """

    document_id: str
    digest: str
    parents: tuple[str, ...] = ()
    changes_visibility: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept already. `same_id`: state and digest of the document of that id; `parents`: state by id."""

    same_id: tuple[DocumentState, str] | None = None
    parents: Mapping[str, DocumentState | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatePolicy:
    """The choices that hl7-mss 1.6 leaves to the department.

    `orphan_replacement`: a replacement of a document older than the appliance is taken as new; `idempotent_delete`:
    the deletion of an unknown document is accepted and does nothing; `same_author`: only the structure that made a
    document may replace or delete it (901; otherwise another one deserves a word in the trace).
    """

    orphan_replacement: bool = True
    idempotent_delete: bool = False
    same_author: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do. `code`: table 0533 ("900", "906") when refused, else empty; `row`: slug of the row of `TABLE`.

    `supersedes`: the current documents that a replacement makes old; `warning`: slug of what deserves a word in the
    trace. Kinds: create, replace (supersede, add), revise (same document, the flags of this message), withdraw;
    replay and nothing are accepted without effect.
    """

    kind: Kind
    code: str
    reason: str
    row: str
    warning: str | None = None
    supersedes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the verdict depends on. `own`: state of the document of that id; `content`: against that one."""

    operation: Operation
    own: Literal["unknown", "current", "superseded", "withdrawn"]
    content: Literal["same", "other"] | None
    parents: Parents
    changes_visibility: bool
    orphan_replacement: bool
    idempotent_delete: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row; a column that is None matches anything, a text with blanks matches any of its words."""

    slug: str
    clause: str
    operation: str
    own: str
    kind: Kind
    code: str
    reason: str
    content: str | None = None
    parents: str | None = None
    changes_visibility: bool | None = None
    orphan_replacement: bool | None = None
    idempotent_delete: bool | None = None
    warning: str | None = None

    def fits(self, situation: Situation) -> bool:
        """True when every column matches."""
        words = all(
            column is None or getattr(situation, name) in column.split()
            for name, column in (
                ("operation", self.operation),
                ("own", self.own),
                ("content", self.content),
                ("parents", self.parents),
            )
        )
        return words and all(
            getattr(self, name) in (None, getattr(situation, name))
            for name in ("changes_visibility", "orphan_replacement", "idempotent_delete")
        )


_C = "hl7-mss 1.6"
_V = "drim-m-data 7.2"
TABLE: tuple[Row, ...] = (
    # -- a document that is not known
    Row("new", f"{_C} NW unknown", "NW", "unknown", "create", "", "a new document", parents="none"),
    Row("new-with-parent", f"{_C} NW: no relatedDocument RPLC", "NW", "unknown", "create", "",
        "a new document; what its CDA says it replaces stays as it is",
        parents="itself superseded withdrawn unknown partly current", warning="new-with-parent"),
    Row("replacement", f"{_C} RO parent = current", "RO", "unknown", "replace", "",
        "a new version of the current document", parents="current"),
    Row("replacement-partly-known", f"{_C} RO parent = current", "RO", "unknown", "replace", "",
        "a new version of the current document, and of another that is not known",
        parents="partly", warning="parent-unknown"),
    Row("parent-superseded", f"{_C} RO parent known but superseded", "RO", "unknown", "refuse", "900",
        "the document to replace was replaced already", parents="superseded"),
    Row("parent-withdrawn", f"{_C} expected: parent is the current version", "RO", "unknown", "refuse", "900",
        "the document to replace was deleted", parents="withdrawn"),
    Row("parent-missing", f"{_C} replace: relatedDocument; 1.8 TXA-13: 900", "RO", "unknown", "refuse", "900",
        "the CDA does not say which document it replaces", parents="none"),
    Row("parent-itself", f"{_C} replace: new id", "RO", "unknown", "refuse", "900",
        "the CDA says that it replaces itself", parents="itself"),
    Row("orphan-replacement", f"{_C} RO parent unknown, default; drim-m-data 12 E11", "RO", "unknown", "create", "",
        "the document to replace is not known here: taken as a new one",
        parents="unknown", orphan_replacement=True, warning="orphan-replacement"),
    Row("orphan-refused", f"{_C} RO parent unknown; drim-m-data 12 E11", "RO", "unknown", "refuse", "900",
        "the document to replace is not known here", parents="unknown", orphan_replacement=False),
    # -- a document that is known, created or replaced again: the same bytes have no effect (7.2), others never enter
    Row("again", f"{_C} NW same id, same SHA-256; 7.2", "NW RO", "current", "replay", "",
        "this document is the current one already", content="same", changes_visibility=False),
    Row("visibility", f"{_V}: MODIF_CONF_CODE=Y on a known document id", "NW RO", "current", "revise", "",
        "the current document, with the visibility of this message", content="same", changes_visibility=True),
    Row("again-superseded", f"{_C} NW same id, same SHA-256; 7.2", "NW RO", "superseded", "replay", "",
        "this document was replaced since: nothing happens, its later version stays", content="same",
        warning="replay-superseded"),
    Row("again-withdrawn", f"{_C} NW same id, same SHA-256; 7.2", "NW RO", "withdrawn", "replay", "",
        "this document was deleted since: nothing happens, it stays deleted", content="same",
        warning="replay-withdrawn"),
    Row("other-content", f"{_C} NW same id, other content", "NW RO", "current superseded withdrawn", "refuse", "906",
        "this document id was received before with another content", content="other"),
    # -- a deletion: its CDA says which document, by its id alone
    Row("deletion", f"{_C} CA id = current", "CA", "current", "withdraw", "", "the current document is deleted",
        content="same"),
    Row("deletion-other-content", f"{_C} delete: id = document to delete", "CA", "current", "withdraw", "",
        "the current document is deleted; the CDA of the deletion is not the one that was kept",
        content="other", warning="deletion-other-content"),
    Row("deletion-superseded", f"{_C} CA id superseded", "CA", "superseded", "refuse", "900",
        "the document to delete was replaced: its current version is the one to delete"),
    Row("deletion-again", f"{_C} CA already deleted", "CA", "withdrawn", "nothing", "",
        "the document was deleted already"),
    Row("deletion-unknown", f"{_C} CA id unknown; drim-m-data 12 E10", "CA", "unknown", "refuse", "906",
        "the document to delete is not known here", idempotent_delete=False),
    Row("deletion-unknown-accepted", f"{_C} CA id unknown, idempotent delete; drim-m-data 12 E10", "CA", "unknown",
        "nothing", "", "the document to delete is not known here: there is nothing to delete",
        idempotent_delete=True, warning="deletion-unknown"),
)  # fmt: skip


def decide(operation: Operation, incoming: Incoming, known: Known, policy: StatePolicy) -> Verdict:
    """What `operation` with this document does. Total: every situation has exactly one row of `TABLE`."""
    situation = situation_of(operation, incoming, known, policy)
    row = next(row for row in TABLE if row.fits(situation))
    replaced = tuple(p for p in dict.fromkeys(incoming.parents) if known.parents.get(p) == "current")
    return Verdict(
        row.kind, row.code, row.reason, row.slug, row.warning, replaced if row.kind == "replace" else ()
    )


def situation_of(operation: Operation, incoming: Incoming, known: Known, policy: StatePolicy) -> Situation:
    """The columns of the table for this arrival."""
    own, digest = known.same_id or ("unknown", "")
    return Situation(
        operation=operation,
        own=own,
        content=None if known.same_id is None else "same" if digest == incoming.digest else "other",
        parents=_parents(incoming, known),
        changes_visibility=incoming.changes_visibility,
        orphan_replacement=policy.orphan_replacement,
        idempotent_delete=policy.idempotent_delete,
    )


def _parents(incoming: Incoming, known: Known) -> Parents:
    """One parent that is no longer current decides for all: the sender's picture of the chain is old."""
    states = {known.parents.get(parent) for parent in incoming.parents}
    if not states:
        return "none"
    if incoming.document_id in incoming.parents:
        return "itself"
    if "superseded" in states:
        return "superseded"
    if "withdrawn" in states:
        return "withdrawn"
    if None not in states:
        return "current"
    return "unknown" if len(states) == 1 else "partly"
