"""The document state table, row by row, then all of it (hl7-mss 1.6)."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from drimbox.domain.hl7v2_grammar import APPLICATION_CONDITIONS, Operation
from drimbox.domain.report_states import (
    TABLE,
    DocumentState,
    Incoming,
    Known,
    Parents,
    Situation,
    StatePolicy,
    Verdict,
    decide,
)

OLD, NEW = "1.2.250.1.999.7.9.1", "1.2.250.1.999.7.9.2"
SAME, OTHER = "a" * 64, "b" * 64
NO_ORPHAN, IDEMPOTENT = StatePolicy(orphan_replacement=False), StatePolicy(idempotent_delete=True)
ARRIVES = Incoming(NEW, SAME)
REPLACES = Incoming(NEW, SAME, (OLD,))
SHOWS = Incoming(NEW, SAME, (), changes_visibility=True)


def own(state: DocumentState, digest: str = SAME) -> Known:
    return Known((state, digest), {OLD: "superseded"})


def parent(state: DocumentState | None) -> Known:
    return Known(None, {OLD: state})


# operation, what arrives, what is known, policy -> row, kind, code
CASES: list[tuple[Operation, Incoming, Known, StatePolicy, str, str, str]] = [
    ("NW", ARRIVES, Known(), StatePolicy(), "new", "create", ""),
    ("NW", REPLACES, parent("current"), StatePolicy(), "new-with-parent", "create", ""),
    ("NW", ARRIVES, own("current"), StatePolicy(), "again", "replay", ""),
    ("NW", ARRIVES, own("superseded"), StatePolicy(), "again-superseded", "replay", ""),
    ("NW", ARRIVES, own("withdrawn"), StatePolicy(), "again-withdrawn", "replay", ""),
    ("NW", ARRIVES, own("current", OTHER), StatePolicy(), "other-content", "refuse", "906"),
    ("NW", ARRIVES, own("superseded", OTHER), StatePolicy(), "other-content", "refuse", "906"),
    ("NW", ARRIVES, own("withdrawn", OTHER), StatePolicy(), "other-content", "refuse", "906"),
    ("NW", SHOWS, own("current"), StatePolicy(), "visibility", "revise", ""),
    ("NW", SHOWS, own("current", OTHER), StatePolicy(), "other-content", "refuse", "906"),
    ("NW", SHOWS, own("withdrawn"), StatePolicy(), "again-withdrawn", "replay", ""),
    ("NW", SHOWS, Known(), StatePolicy(), "new", "create", ""),
    ("RO", REPLACES, parent("current"), StatePolicy(), "replacement", "replace", ""),
    ("RO", REPLACES, own("current"), StatePolicy(), "again", "replay", ""),
    ("RO", REPLACES, own("superseded"), StatePolicy(), "again-superseded", "replay", ""),
    ("RO", REPLACES, own("withdrawn"), StatePolicy(), "again-withdrawn", "replay", ""),
    ("RO", REPLACES, own("current", OTHER), StatePolicy(), "other-content", "refuse", "906"),
    ("RO", SHOWS, own("current"), StatePolicy(), "visibility", "revise", ""),
    ("RO", REPLACES, parent("superseded"), StatePolicy(), "parent-superseded", "refuse", "900"),
    ("RO", REPLACES, parent("withdrawn"), StatePolicy(), "parent-withdrawn", "refuse", "900"),
    ("RO", ARRIVES, Known(), StatePolicy(), "parent-missing", "refuse", "900"),
    ("RO", Incoming(NEW, SAME, (NEW,)), Known(), StatePolicy(), "parent-itself", "refuse", "900"),
    ("RO", Incoming(NEW, OTHER, (NEW,)), own("current"), StatePolicy(), "other-content", "refuse", "906"),
    ("RO", REPLACES, parent(None), StatePolicy(), "orphan-replacement", "create", ""),
    ("RO", REPLACES, Known(), StatePolicy(), "orphan-replacement", "create", ""),
    ("RO", REPLACES, parent(None), NO_ORPHAN, "orphan-refused", "refuse", "900"),
    ("CA", ARRIVES, own("current"), StatePolicy(), "deletion", "withdraw", ""),
    ("CA", REPLACES, own("current"), StatePolicy(), "deletion", "withdraw", ""),
    ("CA", ARRIVES, own("current", OTHER), StatePolicy(), "deletion-other-content", "withdraw", ""),
    ("CA", ARRIVES, own("superseded"), StatePolicy(), "deletion-superseded", "refuse", "900"),
    ("CA", ARRIVES, own("superseded", OTHER), IDEMPOTENT, "deletion-superseded", "refuse", "900"),
    ("CA", ARRIVES, own("withdrawn"), StatePolicy(), "deletion-again", "nothing", ""),
    ("CA", ARRIVES, own("withdrawn", OTHER), StatePolicy(), "deletion-again", "nothing", ""),
    ("CA", ARRIVES, Known(), StatePolicy(), "deletion-unknown", "refuse", "906"),
    ("CA", ARRIVES, Known(), IDEMPOTENT, "deletion-unknown-accepted", "nothing", ""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[4]}")
def test_row(case: tuple[Operation, Incoming, Known, StatePolicy, str, str, str]) -> None:
    operation, incoming, known, policy, row, kind, code = case
    verdict = decide(operation, incoming, known, policy)
    assert (verdict.row, verdict.kind, verdict.code) == (row, kind, code)


CHAIN = ("1.2.1", "1.2.2")


def replaced(*states: DocumentState | None) -> Verdict:
    known = Known(None, dict(zip(CHAIN, states, strict=True)))
    return decide("RO", Incoming(NEW, SAME, CHAIN), known, StatePolicy())


def test_several_parents() -> None:
    assert replaced("current", "current").supersedes == CHAIN
    partly = replaced(None, "current")
    assert (partly.row, partly.supersedes) == ("replacement-partly-known", ("1.2.2",))
    assert replaced("current", "superseded").row == "parent-superseded"
    assert replaced("current", "withdrawn").row == "parent-withdrawn"
    assert replaced(None, "superseded").row == "parent-superseded"
    assert replaced(None, None).row == "orphan-replacement"


def test_every_row_has_an_example() -> None:
    assert {case[4] for case in CASES} | {"replacement-partly-known"} == {row.slug for row in TABLE}


def test_what_deserves_a_word() -> None:
    assert {row.slug: row.warning for row in TABLE if row.warning} == {
        "new-with-parent": "new-with-parent",
        "replacement-partly-known": "parent-unknown",
        "orphan-replacement": "orphan-replacement",
        "again-superseded": "replay-superseded",
        "again-withdrawn": "replay-withdrawn",
        "deletion-other-content": "deletion-other-content",
        "deletion-unknown-accepted": "deletion-unknown",
    }


BOOLEANS = (False, True)
KNOWN = [(s, c) for s in get_args(DocumentState) for c in ("same", "other")]
SITUATIONS = [
    Situation(operation, state, content, parents, *booleans)
    for operation, (state, content), parents, booleans in product(
        get_args(Operation), [("unknown", None), *KNOWN], get_args(Parents), product(BOOLEANS, repeat=3)
    )
]


def test_exactly_one_row_fits_every_situation() -> None:
    assert len(SITUATIONS) == 3 * 7 * 7 * 8
    wrong = {s: fitting for s in SITUATIONS if len(fitting := [r.slug for r in TABLE if r.fits(s)]) != 1}
    assert wrong == {}


def test_no_row_is_unreachable_and_no_slug_is_used_twice() -> None:
    assert [row.slug for row in TABLE if not any(row.fits(s) for s in SITUATIONS)] == []
    assert len({row.slug for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.slug)
def test_rows_are_complete(row: object) -> None:
    found = next(r for r in TABLE if r is row)
    assert found.clause.startswith(("hl7-mss", "drim-m-data"))
    assert found.reason
    assert (found.code != "") == (found.kind == "refuse")
    assert found.code == "" or int(found.code) in APPLICATION_CONDITIONS
