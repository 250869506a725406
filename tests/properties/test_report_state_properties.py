"""Whatever arrives in whatever state: one verdict, and never one that loses or revives a document."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from drimbox.domain.hl7v2_grammar import Operation
from drimbox.domain.report_states import DocumentState, Incoming, Known, StatePolicy, decide

DIGESTS = ("a" * 64, "b" * 64)
IDS = ("1.2.1", "1.2.2", "1.2.3")
operations = st.sampled_from(get_args(Operation))
states = st.sampled_from(get_args(DocumentState))
digests = st.sampled_from(DIGESTS)
incomings = st.builds(
    Incoming,
    st.sampled_from(IDS),
    digests,
    st.lists(st.sampled_from(IDS), max_size=3).map(tuple),
    st.booleans(),
)
knowns = st.builds(
    Known, st.none() | st.tuples(states, digests), st.dictionaries(st.sampled_from(IDS), st.none() | states)
)
policies = st.builds(StatePolicy, st.booleans(), st.booleans())


@given(operations, incomings, knowns, policies)
def test_there_is_always_a_verdict_and_it_is_sound(
    operation: Operation, incoming: Incoming, known: Known, policy: StatePolicy
) -> None:
    verdict = decide(operation, incoming, known, policy)
    state, digest = known.same_id or (None, None)
    if verdict.kind in {"create", "replace"}:
        assert known.same_id is None  # an id never gets two documents
    if verdict.kind in {"replay", "revise"}:
        assert digest == incoming.digest
    if verdict.kind in {"revise", "withdraw"}:
        assert state == "current"
    if verdict.kind == "withdraw":
        assert operation == "CA"
    assert (verdict.kind == "replace") == bool(verdict.supersedes)
    assert all(known.parents[p] == "current" for p in verdict.supersedes)
    assert len(set(verdict.supersedes)) == len(verdict.supersedes)
    assert (verdict.kind == "refuse") == (verdict.code in {"900", "906"})


class Archive:
    """The states that the verdicts make, as an integration would keep them."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[DocumentState, str]] = {}

    def take(self, operation: Operation, incoming: Incoming, policy: StatePolicy) -> str:
        parents = {p: self.documents[p][0] if p in self.documents else None for p in incoming.parents}
        verdict = decide(
            operation, incoming, Known(self.documents.get(incoming.document_id), parents), policy
        )
        for old in verdict.supersedes:
            self.documents[old] = ("superseded", self.documents[old][1])
        if verdict.kind in {"create", "replace"}:
            self.documents[incoming.document_id] = ("current", incoming.digest)
        if verdict.kind == "withdraw":
            self.documents[incoming.document_id] = ("withdrawn", self.documents[incoming.document_id][1])
        return verdict.kind


@given(st.lists(st.tuples(operations, incomings), max_size=12), policies)
def test_a_repeated_message_changes_nothing(
    messages: list[tuple[Operation, Incoming]], policy: StatePolicy
) -> None:
    archive = Archive()
    for operation, incoming in messages:
        first = archive.take(operation, incoming, policy)
        before = dict(archive.documents)
        second = archive.take(operation, incoming, policy)
        assert archive.documents == before
        assert (second == "refuse") == (first == "refuse")  # what was accepted is accepted again


@given(st.lists(st.tuples(operations, incomings), max_size=12), policies)
def test_nothing_that_ended_comes_back(
    messages: list[tuple[Operation, Incoming]], policy: StatePolicy
) -> None:
    archive = Archive()
    ended: dict[str, tuple[DocumentState, str]] = {}
    for operation, incoming in messages:
        archive.take(operation, incoming, policy)
        assert ended.items() <= archive.documents.items()
        ended = {i: d for i, d in archive.documents.items() if d[0] != "current"}
