"""Whether this DRIMBox may speak with the mesh, and with this partner: the whitelist's state in, a refusal or nothing.

Only a verified absence interrupts; a list that cannot be had or used never does (trust-and-identity 3.1, W7 and W8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from drimbox.domain.access import refuse
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transactions
from whitelist.decision import PeerRule, State, exchanges, judge_peer
from whitelist.document import TrustedList

STATE_CHANGED = "WHITELIST_STATE"
_REFUSALS = {State.ABSENT: "not-in-whitelist", State.NEVER: "whitelist-unknown"}


class Snapshot(Protocol):
    """What is known of the whitelist at one instant."""

    @property
    def state(self) -> State: ...
    @property
    def trusted(self) -> TrustedList | None: ...


class Mesh(Protocol):
    """The whitelist as this process sees it."""

    def current(self) -> Snapshot: ...


def may_exchange(mesh: Mesh) -> bool:
    """Whether anything may leave for the DMP or a partner; what waits is kept."""
    return exchanges(mesh.current().state)


def check_partner(mesh: Mesh, subject: str | None, rule: PeerRule, log: Callable[..., object]) -> None:
    """Raises `AccessRefused`: 503 while we may exchange nothing, 403 for a partner that the rule refuses.

    `subject`: of the partner's TLS certificate (RFC 4514), None without one.
    """
    snapshot = mesh.current()
    if not exchanges(snapshot.state):
        raise refuse(_REFUSALS[snapshot.state])
    judgement = judge_peer(snapshot.trusted, subject, rule)
    if judgement.warning:
        log("peer_doubtful", reason=judgement.warning)
    if not judgement.allowed:
        raise refuse("peer-not-member")


def note_change(
    transactions: Transactions,
    clock: Clock,
    actor: str,
    before: State,
    after: State,
    why: str,
    **detail: Any,
) -> None:
    """One row of the trace per change of state. Raises `errors.Unavailable`."""
    with transactions.writing() as transaction:
        trace.note(
            transaction,
            STATE_CHANGED,
            at=clock(),
            actor=actor,
            before=before.value,
            after=after.value,
            reason=why,
            **detail,
        )
        transaction.commit()
