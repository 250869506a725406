"""What a list means for us and for our peers (trust-and-identity 3.1 W7 and W8, 3.6, 3.8).

Only a verified absence interrupts; a list that cannot be had or used never does, however long. A list that is not
fresh still serves every decision about peers; without any list, no peer is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from whitelist.document import Domain, TrustedList, read_host
from whitelist.errors import Unusable
from whitelist.names import Match, compare, values

#: once a day (W1), and the time that retries after a bad start of the day may take
FRESH = timedelta(hours=26)
#: W8: the only thing that these 48 hours change is the alert
ERROR_AFTER = timedelta(hours=48)


class State(StrEnum):
    """NEVER accepted a list; CURRENT; STALE: the last retrieval failed; ABSENT: the accepted list leaves us out."""

    NEVER = "NEVER"
    CURRENT = "CURRENT"
    STALE = "STALE"
    ABSENT = "ABSENT"


class Outcome(StrEnum):
    """Of one retrieval: accepted and naming us, accepted and not, 304 for a body already accepted, or no use."""

    NAMED = "NAMED"
    NOT_NAMED = "NOT_NAMED"
    UNCHANGED = "UNCHANGED"
    FAILED = "FAILED"


class Alert(StrEnum):
    """How loudly the state is to be told."""

    NONE = "none"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


#: 3.6, all pairs: only an accepted list leads to CURRENT or ABSENT; a failure makes no absence and ends none
TRANSITIONS: Mapping[tuple[State, Outcome], State] = MappingProxyType(
    {
        (State.NEVER, Outcome.NAMED): State.CURRENT,
        (State.NEVER, Outcome.NOT_NAMED): State.ABSENT,
        (State.NEVER, Outcome.UNCHANGED): State.NEVER,  # nothing was accepted that could be unchanged
        (State.NEVER, Outcome.FAILED): State.NEVER,
        (State.CURRENT, Outcome.NAMED): State.CURRENT,
        (State.CURRENT, Outcome.NOT_NAMED): State.ABSENT,
        (State.CURRENT, Outcome.UNCHANGED): State.CURRENT,
        (State.CURRENT, Outcome.FAILED): State.STALE,
        (State.STALE, Outcome.NAMED): State.CURRENT,
        (State.STALE, Outcome.NOT_NAMED): State.ABSENT,
        (State.STALE, Outcome.UNCHANGED): State.CURRENT,  # the archive, which names us, is the list in force
        (State.STALE, Outcome.FAILED): State.STALE,
        (State.ABSENT, Outcome.NAMED): State.CURRENT,
        (State.ABSENT, Outcome.NOT_NAMED): State.ABSENT,
        (State.ABSENT, Outcome.UNCHANGED): State.ABSENT,
        (State.ABSENT, Outcome.FAILED): State.ABSENT,
    }
)
_ALWAYS = {State.NEVER: Alert.ERROR, State.ABSENT: Alert.CRITICAL}
_EXCHANGING = frozenset({State.CURRENT, State.STALE})


def after(state: State, outcome: Outcome) -> State:
    """The state that follows a retrieval."""
    return TRANSITIONS[state, outcome]


def alert(state: State, last_success: datetime | None, now: datetime) -> Alert:
    """How loud (3.6). `last_success`: of the last retrieval that was accepted; both instants aware.

    A CURRENT list that nobody has tried to renew for more than a day is as old as a STALE one, and told alike.
    """
    if state in _ALWAYS:
        return _ALWAYS[state]
    if last_success is None or now - last_success >= ERROR_AFTER:
        return Alert.ERROR
    late = state is State.STALE or now - last_success > FRESH
    return Alert.WARNING if late else Alert.NONE


def exchanges(state: State) -> bool:
    """Whether peers and the DMP may be spoken to; local work goes on in every state."""
    return state in _EXCHANGING


@dataclass(frozen=True, slots=True)
class OwnName:
    """Who we are in the list: our `db` host; for warnings only, our certificate subject and `Identifiant`.

    Raises ValueError for a host that no list could name: it would read as an absence.
    """

    host: str
    subject: str = ""
    identifier: str = ""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "host", read_host(self.host))
        except Unusable as error:
            raise ValueError(error.reason) from error


@dataclass(frozen=True, slots=True)
class Naming:
    """Whether a list names us, and what an operator should look at."""

    named: bool
    warnings: tuple[str, ...] = ()


def naming(trusted: TrustedList, own: OwnName) -> Naming:
    """Judge by our host alone; subject and `Identifiant` only warn (3.6, "Selectors").

    A host that stands in an entry we could not read is a mention all the same: only the absence of any mention
    interrupts (W7).
    """
    entries = trusted.entries_of(own.host)
    mentioned = not entries and trusted.mentions(own.host)
    warnings = [f"{own.host} stands in an entry that cannot be read"] if mentioned else []
    if entries:
        warnings += _doubts_of(entries, own)
    warnings += _names_elsewhere(trusted, own)
    return Naming(bool(entries) or mentioned, tuple(warnings))


def _doubts_of(entries: tuple[Domain, ...], own: OwnName) -> Iterator[str]:
    match = _best(entries, own.subject)[0] if own.subject else Match.SAME
    if match is Match.WEAK:
        yield f"the list names {own.host} with another form of our OU"
    elif match is Match.DIFFERENT:
        yield f"the list names {own.host} with another certificate subject than ours"
    if own.identifier and own.identifier not in {entry.identifier for entry in entries}:
        yield f"the list names {own.host} with another Identifiant than {own.identifier}"


def _names_elsewhere(trusted: TrustedList, own: OwnName) -> Iterator[str]:
    for entry in trusted.domains if own.subject else ():
        if entry.db != own.host and compare(entry.operator, own.subject) is Match.SAME:
            yield f"our certificate subject stands in the entry of {entry.db}"


PeerRule = Literal["off", "warn", "require"]


@dataclass(frozen=True, slots=True)
class PeerJudgement:
    """`member`: the entry that the peer is, None when unknown; `warning`: the doubt, or why it is refused."""

    allowed: bool
    member: Domain | None
    warning: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    member: Domain | None
    matched: bool
    doubt: str | None = None


def judge_peer(
    trusted: TrustedList | None, certificate_subject: str | None, rule: PeerRule, host: str | None = None
) -> PeerJudgement:
    """Judge a peer by the subject of its TLS certificate (RFC 4514; None = none presented) (3.8).

    `host`: the peer's host where it is known (we called it). `off` only says who it is; `warn` allows with a doubt;
    `require` allows only a subject of the list, the weaker OU form with a warning. A certificate of the public web
    (neither O nor OU) cannot be compared: no doubt while its host is a member's, but not enough for `require`.
    Without any list every peer is refused, whatever the rule.
    """
    if trusted is None:
        return PeerJudgement(False, None, "no whitelist was ever accepted")
    found = _find(trusted, certificate_subject, host)
    if rule == "off":
        return PeerJudgement(True, found.member, None)
    if rule == "warn" or found.matched:
        return PeerJudgement(True, found.member, found.doubt)
    missing = (
        "no certificate was presented" if certificate_subject is None else "its subject cannot be compared"
    )
    return PeerJudgement(False, found.member, found.doubt or missing)


def _find(trusted: TrustedList, subject: str | None, host: str | None) -> _Found:
    named = _entries_named(trusted, subject, host)
    member = next(iter(named), None)
    if host is not None and member is None:
        return _Found(None, False, "the peer's host is not in the whitelist")
    if subject is None:
        return _Found(member, False)
    match, entry = _best(named or trusted.domains, subject)
    if match is not Match.DIFFERENT:
        doubt = "the list writes the OU of the peer's certificate otherwise" if match is Match.WEAK else None
        return _Found(entry, True, doubt)
    if member is None:
        return _Found(None, False, "the peer's certificate is of no member of the whitelist")
    comparable = values(subject, "O") or values(subject, "OU")
    doubt = f"the list names {member.db} with another certificate subject" if comparable else None
    return _Found(member, False, doubt)


def _entries_named(trusted: TrustedList, subject: str | None, host: str | None) -> tuple[Domain, ...]:
    """Of the host that was called, else of the certificate's CN, which is the `db` host of its holder (3.3)."""
    names = (host,) if host is not None else values(subject or "", "CN")
    return tuple(entry for name in names for entry in trusted.entries_of(name))


def _best(entries: Iterable[Domain], subject: str) -> tuple[Match, Domain | None]:
    """The entry whose subject is the same, else alike in the weaker form."""
    weak: Domain | None = None
    for entry in entries:
        match = compare(entry.operator, subject)
        if match is Match.SAME:
            return match, entry
        weak = entry if weak is None and match is Match.WEAK else weak
    return (Match.DIFFERENT, None) if weak is None else (Match.WEAK, weak)


# Read by one expression instead of a URL library: libraries repair (tabs, backslashes, percent signs), each its way.
_URL = re.compile(r"(?i:https)://([^/?#\\]*)(?:[/?#][!-\[\]-~]*)?")
_AUTHORITY = re.compile(r"([^:]*)(?::([0-9]{1,5}))?")


def may_receive_token(trusted: TrustedList | None, url: str, ports: Collection[int] = (443,)) -> Domain:
    """The entry whose DRIMBox this Retrieve URL leads to: to be asked before any token leaves (3.8, consumer).

    No redirect may be followed afterwards. Raises `Unusable`: no-list, url (not a plain https URL), userinfo, host
    (an address literal included), port, not-member. Reasons tell the host at most: a path names patients' exams.
    """
    if trusted is None:
        raise Unusable("no-list", "no whitelist was ever accepted")
    found = _URL.fullmatch(url)
    if not found:
        raise Unusable("url", "the Retrieve URL is not a plain https URL")
    if "@" in found[1]:
        raise Unusable("userinfo", "the Retrieve URL has a user name")
    authority = _AUTHORITY.fullmatch(found[1])
    if not authority:
        raise Unusable("host", "the host of the Retrieve URL is not a host name")
    host, port = read_host(authority[1]), int(authority[2] or 443)
    if port not in ports:
        raise Unusable("port", f"port {port} of {host} is not one that members are called at")
    entries = trusted.entries_of(host)
    if not entries:
        raise Unusable("not-member", f"peer not in white list: {host}")
    return entries[0]


def origins(trusted: TrustedList | None) -> frozenset[str]:
    """Web origins of the mesh, for CORS: `https://` and each `vi` and `db` (3.8, source)."""
    domains = trusted.domains if trusted else ()
    return frozenset(f"https://{host}" for domain in domains for host in (domain.vi, domain.db) if host)
