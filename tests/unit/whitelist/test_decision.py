"""What the list means: the state machine of 3.6, our own name, peers, tokens and origins (3.8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from whitelist.decision import (
    TRANSITIONS,
    Alert,
    Naming,
    Outcome,
    OwnName,
    PeerJudgement,
    PeerRule,
    State,
    after,
    alert,
    exchanges,
    judge_peer,
    may_receive_token,
    naming,
    origins,
)
from whitelist.document import Domain, TrustedList
from whitelist.errors import Unusable

NOW = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
HOST = "db156.test.mesimagesmedicales.fr"
DN = f"CN={HOST},OU=300000001832013,O=MINISTERE DE TEST3201,ST=Côte-d'Or (21),C=FR"
US = Domain("156", HOST, "vi156.test.mesimagesmedicales.fr", "EDL", DN, "support@edl.example", NOW)
PARTNER = Domain("3", "db3.test.fr", "", "ANS", "CN=db3.test.fr,OU=318751275100020,O=ANS,C=FR", "", NOW)


def listed(*domains: Domain, unreadable: tuple[str, ...] = ()) -> TrustedList:
    return TrustedList("urn:x", "1.0.0", NOW, domains or (US, PARTNER), unreadable=unreadable)


# --- states (3.6) ---

FACTS = """
            NAMED    NOT_NAMED  UNCHANGED  FAILED
NEVER       CURRENT  ABSENT     NEVER      NEVER
CURRENT     CURRENT  ABSENT     CURRENT    STALE
STALE       CURRENT  ABSENT     CURRENT    STALE
ABSENT      CURRENT  ABSENT     ABSENT     ABSENT
"""


def test_the_transitions_are_those_of_the_facts() -> None:
    head, *rows = [line.split() for line in FACTS.strip().splitlines()]
    drawn = {
        (State(row[0]), Outcome(outcome)): State(cell)
        for row in rows
        for outcome, cell in zip(head, row[1:], strict=True)
    }
    assert dict(TRANSITIONS) == drawn
    assert {pair: after(*pair) for pair in TRANSITIONS} == drawn
    assert len(drawn) == len(State) * len(Outcome)


@pytest.mark.parametrize("state", State)
def test_only_an_accepted_list_interrupts_or_resumes(state: State) -> None:
    for outcome in (Outcome.FAILED, Outcome.UNCHANGED):
        assert exchanges(after(state, outcome)) is exchanges(state)
    assert exchanges(after(state, Outcome.NAMED))
    assert not exchanges(after(state, Outcome.NOT_NAMED))


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.STALE, Outcome.FAILED] = State.ABSENT  # type: ignore[index]


@pytest.mark.parametrize(
    ("state", "hours", "level"),
    [
        (State.CURRENT, 0, Alert.NONE),
        (State.CURRENT, 25, Alert.NONE),
        (State.CURRENT, 27, Alert.WARNING),  # nobody retrieves any more
        (State.CURRENT, 48, Alert.ERROR),
        (State.CURRENT, -1, Alert.NONE),  # the clock was set back
        (State.STALE, 0, Alert.WARNING),
        (State.STALE, -1, Alert.WARNING),
        (State.STALE, 47.99, Alert.WARNING),
        (State.STALE, 48, Alert.ERROR),
        (State.STALE, 240, Alert.ERROR),
        (State.STALE, None, Alert.ERROR),
        (State.ABSENT, 0, Alert.CRITICAL),
        (State.ABSENT, 240, Alert.CRITICAL),
        (State.ABSENT, None, Alert.CRITICAL),
        (State.NEVER, None, Alert.ERROR),
    ],
)
def test_alerts(state: State, hours: float | None, level: Alert) -> None:
    success = None if hours is None else NOW - timedelta(hours=hours)
    assert alert(state, success, NOW) is level


# --- our own name ---


def test_we_are_named_by_our_host_alone() -> None:
    assert naming(listed(), OwnName(HOST.upper(), DN, "156")) == Naming(True, ())
    assert naming(listed(), OwnName(HOST)) == Naming(True, ())
    assert naming(listed(PARTNER), OwnName(HOST, DN, "156")) == Naming(False, ())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (OwnName(HOST, DN.replace("TEST3201", "AUTRE")), "another certificate subject than ours"),
        (OwnName(HOST, DN.replace("OU=3", "OU=")), "another form of our OU"),
        (OwnName(HOST, DN, "157"), "another Identifiant than 157"),
    ],
)
def test_subject_and_identifier_only_warn(own: OwnName, said: str) -> None:
    judged = naming(listed(), own)
    assert judged.named
    assert len(judged.warnings) == 1
    assert said in judged.warnings[0]


def test_one_of_several_entries_with_our_subject_is_enough() -> None:
    renewed = replace(US, operator=DN.replace("TEST3201", "AUTRE"), identifier="1561")
    assert naming(listed(renewed, US), OwnName(HOST, DN, "156")).warnings == ()


def test_our_subject_under_another_host_is_a_warning_only() -> None:
    judged = naming(listed(replace(US, db="db9.test.fr")), OwnName(HOST, DN))
    assert judged == Naming(False, ("our certificate subject stands in the entry of db9.test.fr",))
    assert naming(listed(US, replace(US, db="db9.test.fr")), OwnName(HOST, DN)).named


@pytest.mark.parametrize(
    "written", [f"https://{HOST}:443/rs", f"{HOST} {HOST}", f"CN={HOST.upper()},O=X", f"{HOST}."]
)
def test_an_entry_that_cannot_be_read_still_mentions_us(written: str) -> None:
    judged = naming(listed(PARTNER, unreadable=(written,)), OwnName(HOST))
    assert judged == Naming(True, (f"{HOST} stands in an entry that cannot be read",))


@pytest.mark.parametrize("written", ["*.test.mesimagesmedicales.fr", f"x{HOST}", f"{HOST}.evil.fr", "db15"])
def test_another_host_mentions_us_not(written: str) -> None:
    assert not naming(listed(PARTNER, unreadable=(written,)), OwnName(HOST)).named


@pytest.mark.parametrize("host", ["", "https://db1.test.fr", "192.0.2.1", "db1.test.fr:443"])
def test_a_host_that_no_list_could_name_is_refused_at_once(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        OwnName(host)


# --- peers ---

WEB = "CN=db3.test.fr"
ALLOWED = PeerJudgement(True, PARTNER, None)
NOT_LISTED = "the peer's certificate is of no member of the whitelist"
OTHERWISE = "the list writes the OU of the peer's certificate otherwise"
ANOTHER = "the list names db3.test.fr with another certificate subject"
NOT_A_HOST = "the peer's host is not in the whitelist"
WEAK_DN, OTHER_DN = PARTNER.operator.replace("OU=3", "OU="), PARTNER.operator.replace("O=ANS", "O=X")


@pytest.mark.parametrize(
    ("subject", "host", "member", "matched", "doubt"),
    [
        (PARTNER.operator, None, PARTNER, True, None),
        (PARTNER.operator, "DB3.test.fr", PARTNER, True, None),
        (WEAK_DN, None, PARTNER, True, OTHERWISE),
        (OTHER_DN, None, PARTNER, False, ANOTHER),
        (OTHER_DN, PARTNER.db, PARTNER, False, ANOTHER),
        (PARTNER.operator, "evil.test.fr", None, False, NOT_A_HOST),
        (PARTNER.operator, HOST, US, False, f"the list names {HOST} with another certificate subject"),
        ("CN=evil.fr,OU=318751275100020,O=ANS,C=FR", None, None, False, NOT_LISTED),
        (WEB, None, PARTNER, False, None),
        (WEB, PARTNER.db, PARTNER, False, None),
        ("CN=evil.fr", None, None, False, NOT_LISTED),
        ("", None, None, False, NOT_LISTED),
        (None, None, None, False, None),
        (None, PARTNER.db, PARTNER, False, None),
        (None, "evil.fr", None, False, NOT_A_HOST),
    ],
)
def test_peers_under_each_rule(
    subject: str | None, host: str | None, member: Domain | None, matched: bool, doubt: str | None
) -> None:
    assert judge_peer(listed(), subject, "off", host) == PeerJudgement(True, member, None)
    assert judge_peer(listed(), subject, "warn", host) == PeerJudgement(True, member, doubt)
    strict = judge_peer(listed(), subject, "require", host)
    assert (strict.allowed, strict.member) == (matched, member)
    assert strict.warning == doubt or (doubt is None and not matched and strict.warning)


@pytest.mark.parametrize("rule", ["off", "warn", "require"])
def test_without_any_list_every_peer_is_refused(rule: PeerRule) -> None:
    assert judge_peer(None, PARTNER.operator, rule) == PeerJudgement(
        False, None, "no whitelist was ever accepted"
    )


def test_a_peer_is_found_by_its_whole_subject_when_its_cn_is_no_host_of_the_list() -> None:
    operator = "CN=Opérateur,OU=318751275100020,O=ANS,C=FR"
    named = replace(PARTNER, operator=operator)
    assert judge_peer(listed(US, named), operator, "require") == PeerJudgement(True, named, None)


def test_the_entry_with_the_same_subject_wins_over_a_weaker_one() -> None:
    old = replace(PARTNER, identifier="31", operator=WEAK_DN)
    assert judge_peer(listed(old, PARTNER), PARTNER.operator, "require") == ALLOWED


# --- tokens and origins ---


@pytest.mark.parametrize(
    "url",
    [
        "https://db3.test.fr/rs/studies/1.2.3",
        "HTTPS://DB3.TEST.FR",
        "https://db3.test.fr:443/?a=%20b",
        "https://db3.test.fr?x#y",
    ],
)
def test_a_member_may_receive_a_token(url: str) -> None:
    assert may_receive_token(listed(), url) is PARTNER


def test_other_ports_only_when_configured() -> None:
    assert may_receive_token(listed(), "https://db3.test.fr:8443/rs", ports=(443, 8443)) is PARTNER
    with pytest.raises(Unusable, match="port: port 443 of"):
        may_receive_token(listed(), "https://db3.test.fr/rs", ports=(8443,))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://db3.test.fr/rs", "url"),
        ("", "url"),
        ("//db3.test.fr/rs", "url"),
        (" https://db3.test.fr/rs", "url"),
        ("https://db3.test.fr/r s", "url"),
        ("https://db3.test.fr/rs\n", "url"),
        ("https://db3.test.fr\\@evil.fr/rs", "url"),
        ("https:\\\\db3.test.fr/rs", "url"),
        ("https://db3.test.fr/\u00e9", "url"),
        ("https:///rs", "host"),
        ("https://user@db3.test.fr/rs", "userinfo"),
        ("https://db3.test.fr@evil.fr/rs", "userinfo"),
        ("https://db3.test.fr:443@evil.fr/rs", "userinfo"),
        ("https://192.0.2.1/rs", "host"),
        ("https://[2001:db8::1]/rs", "host"),
        ("https://0x7f000001/rs", "host"),
        ("https://2130706433/rs", "host"),
        ("https://db3.test.fr./rs", "host"),
        ("https://db3%2etest.fr/rs", "host"),
        ("https://db3.test.fr:443:80/rs", "host"),
        ("https://db3.test.fr:/rs", "host"),
        ("https://db3\t.test.fr/rs", "host"),
        ("https://db3.test.fr\u3002evil.fr/rs", "host"),
        ("https://db3.test.fr:80/rs", "port"),
        ("https://db3.test.fr:8443/rs", "port"),
        ("https://db3.test.fr:065979/rs", "host"),
        ("https://evil.fr/db3.test.fr", "not-member"),
        ("https://x.db3.test.fr/rs", "not-member"),
        ("https://db3.test.fr.evil.fr/rs", "not-member"),
        ("https://test.fr/rs", "not-member"),
        ("https://vi156.test.mesimagesmedicales.fr/rs", "not-member"),
    ],
)
def test_no_token_leaves_for_another_place(url: str, code: str) -> None:
    with pytest.raises(Unusable) as caught:
        may_receive_token(listed(), url)
    assert caught.value.code == code


def test_no_token_leaves_without_a_list() -> None:
    with pytest.raises(Unusable, match="no-list"):
        may_receive_token(None, "https://db3.test.fr/rs")


def test_a_refusal_does_not_tell_the_exam() -> None:
    for url in (
        "https://evil.fr/studies/1.2.3.4",
        "https://x@db3.test.fr/studies/1.2.3.4",
        "ftp://h/1.2.3.4",
    ):
        with pytest.raises(Unusable) as caught:
            may_receive_token(listed(), url)
        assert "1.2.3.4" not in str(caught.value)


def test_origins_are_the_hosts_of_the_list() -> None:
    assert origins(listed()) == {
        f"https://{HOST}",
        "https://vi156.test.mesimagesmedicales.fr",
        "https://db3.test.fr",
    }
    assert origins(None) == frozenset()
