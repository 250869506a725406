"""Introspection at Pro Santé Connect: the simulator as the real thing, each trouble told apart from a bad token."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drimbox.adapters import psc as psc_door
from drimbox.adapters.https import HttpAnswer
from drimbox.adapters.psc import Psc, PscBusy, PscEndpoint, PscUnavailable
from drimbox.domain.token_binding import check_binding
from drimbox.settings.whole import load_settings
from drimbox.simulators.psc_tokens import confirmation
from drimbox.simulators.world import World


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


class Seconds:
    """Monotonic seconds that tests move."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return self.passed


class ScriptedPsc(Psc):
    """Answers what the test says, when it says; counts the questions."""

    def __init__(self, world: World, clock: Clock, seconds: Seconds | None = None, **change: Any) -> None:
        super().__init__(replace(endpoint_of(world), **change), clock, seconds or Seconds())
        self.answers: list[Any] = []
        self.questions: list[str] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def _ask(self, token: str, now: datetime) -> Mapping[str, Any]:
        self.questions.append(token)
        assert self.may_go.wait(10)
        answer = self.answers.pop(0) if self.answers else {"active": True, "exp": now.timestamp() + 60}
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def clock() -> Clock:
    return Clock()


def endpoint_of(world: World) -> PscEndpoint:
    psc = load_settings(world.directory / "drimbox.toml").psc
    return PscEndpoint(
        psc.issuer,
        psc.discovery_url,
        psc.authority,
        psc.client_id,
        psc.client_certificate,
        psc.client_key,
        5,
        30,
    )


def token_of(world: World, ttl: int = 120) -> str:
    return str(world.tokens.issue({}, ttl)["access_token"])


def test_a_live_token_is_active(world: World, clock: Clock) -> None:
    claims = Psc(endpoint_of(world), clock).introspect(token_of(world))
    assert claims["active"] is True
    assert claims["exp"] > clock().timestamp()


def test_an_unknown_token_is_inactive(world: World, clock: Clock) -> None:
    assert Psc(endpoint_of(world), clock).introspect("nonsense") == {"active": False}


def test_a_positive_answer_is_believed_for_a_while_only(world: World, clock: Clock) -> None:
    psc, token = Psc(endpoint_of(world), clock), token_of(world)
    psc.introspect(token)
    world.faults.arm("psc", "inactive", 1)
    assert psc.introspect(token)["active"] is True
    clock.shift = timedelta(seconds=31)
    assert psc.introspect(token) == {"active": False}


def test_an_answer_is_never_believed_past_the_token(world: World, clock: Clock) -> None:
    psc, token = Psc(endpoint_of(world), clock), token_of(world, ttl=5)
    assert psc.introspect(token)["active"] is True
    clock.shift = timedelta(seconds=6)
    world.faults.arm("psc", "inactive", 1)
    assert psc.introspect(token) == {"active": False}


def test_trouble_is_no_judgement_of_the_token(world: World, clock: Clock) -> None:
    seconds = Seconds()
    psc, token = Psc(endpoint_of(world), clock, seconds), token_of(world)
    world.faults.arm("psc", "http_503", 1)
    with pytest.raises(PscUnavailable, match="503"):
        psc.introspect(token)
    with pytest.raises(PscUnavailable, match="503"):
        psc.introspect(token)  # said at once: nobody asks for a second
    seconds.passed = 1.0
    assert psc.introspect(token)["active"] is True  # and the trouble is not remembered


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "somebody-else"},
        {"issuer": "https://127.0.0.1:1/realm"},
        {"authority": "other.pem"},
    ],
)
def test_our_own_faults_are_no_judgement_either(
    world: World, clock: Clock, change: dict[str, str], tmp_path: Path
) -> None:
    endpoint = endpoint_of(world)
    if "authority" in change:
        (tmp_path / "other.pem").write_bytes(
            world.pki.path("partner_auth").read_bytes().split(b"-----END")[0]
        )
        endpoint = replace(endpoint, authority=tmp_path / "other.pem")
    else:
        endpoint = replace(endpoint, **change)
    with pytest.raises(PscUnavailable):
        Psc(endpoint, clock).introspect(token_of(world))


def test_a_discovery_of_another_issuer_is_refused(world: World, clock: Clock) -> None:
    endpoint = endpoint_of(world)
    well_known = endpoint.issuer + "/.well-known/wallet-openid-configuration"
    with pytest.raises(PscUnavailable, match="another issuer"):
        Psc(replace(endpoint, issuer="https://elsewhere", discovery_url=well_known), clock).introspect("t")


def test_many_threads_share_one_door(world: World, clock: Clock) -> None:
    psc, token = Psc(endpoint_of(world), clock), token_of(world)
    seen: list[bool] = []
    threads = [
        threading.Thread(target=lambda: seen.append(psc.introspect(token)["active"])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8


def test_those_who_ask_about_one_token_share_the_question(world: World, clock: Clock) -> None:
    psc = ScriptedPsc(world, clock)
    psc.may_go.clear()
    answers = [psc.ask("t") for _ in range(100)]
    answers[0].cancel()  # one who leaves takes the answer from nobody
    psc.may_go.set()
    assert {answer.result(10)["active"] for answer in answers} == {True}
    assert psc.questions == ["t"]
    psc.close()


def test_what_is_known_is_told_without_a_question(world: World, clock: Clock) -> None:
    psc = ScriptedPsc(world, clock)
    assert psc.known("t") is None
    psc.introspect("t")
    known = psc.known("t")
    assert known is not None
    assert (known["active"], psc.questions) == (True, ["t"])
    psc.close()


@pytest.mark.parametrize(("answer", "believed"), [({"active": False}, 5.0), (None, 30.0)])
def test_how_long_an_answer_is_believed(
    world: World, clock: Clock, answer: dict[str, Any] | None, believed: float
) -> None:
    """By either clock: setting the wall clock back makes no token live longer."""
    seconds = Seconds()
    psc = ScriptedPsc(world, clock, seconds)
    psc.answers = [answer] if answer else []
    psc.introspect("t")
    clock.shift = timedelta(hours=-1)
    seconds.passed = believed - 0.1
    assert psc.known("t") is not None
    seconds.passed = believed
    assert psc.known("t") is None
    psc.close()


@pytest.mark.parametrize("exp", [None, "soon", float("nan"), float("inf"), 10**400, -1, True, [1]])
def test_an_answer_without_an_expiry_is_not_believed_at_all(world: World, clock: Clock, exp: Any) -> None:
    psc = ScriptedPsc(world, clock)
    psc.answers = [{"active": True, "exp": exp}]
    assert psc.introspect("t")["active"] is True
    assert psc.known("t") is None
    psc.close()


def test_what_is_believed_no_more_is_forgotten(world: World, clock: Clock) -> None:
    """The claims are personal data, and many."""
    seconds = Seconds()
    psc = ScriptedPsc(world, clock, seconds)
    for number in range(300):
        seconds.passed = float(number)
        psc.introspect(f"t{number}")
    assert len(psc._answers) <= psc._endpoint.cache + 1
    assert psc.known("t299") is not None
    psc.close()


def test_the_questions_at_once_are_bounded(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psc_door, "MAX_ASKED", 3)
    psc = ScriptedPsc(world, clock)
    psc.introspect("known")
    psc.may_go.clear()
    asked = [psc.ask(token) for token in "abc"]
    with pytest.raises(PscBusy):
        psc.ask("d")
    assert psc.ask("a") is asked[0]
    assert psc.known("known") is not None, "those that are known are served on"
    psc.may_go.set()
    assert all(answer.result(10)["active"] for answer in asked)
    assert psc.introspect("d")["active"] is True
    psc.close()


def test_what_fails_is_told_to_all_who_wait_and_for_a_second(world: World, clock: Clock) -> None:
    seconds = Seconds()
    psc = ScriptedPsc(world, clock, seconds)
    psc.may_go.clear()
    psc.answers = [PscUnavailable("down")]
    asked = [psc.ask("t") for _ in range(3)]
    psc.may_go.set()
    for answer in asked:
        with pytest.raises(PscUnavailable, match="down"):
            answer.result(10)
    for token in ("t", "another"):
        with pytest.raises(PscUnavailable, match="down"):
            psc.ask(token)
    assert psc.questions == ["t"]
    seconds.passed = 1.0
    assert psc.introspect("t")["active"] is True
    psc.close()


@pytest.mark.parametrize(
    ("status", "others"), [(400, True), (413, True), (431, True), (401, False), (503, False)]
)
def test_a_token_that_psc_cannot_take_is_nobody_elses_trouble(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, status: int, others: bool
) -> None:
    """Else a stranger with one odd token a second keeps everybody out."""
    psc = Psc(endpoint_of(world), clock, Seconds())
    monkeypatch.setattr(psc, "_introspection_url", lambda _now: "https://psc")
    answers = [HttpAnswer(status, "", b""), HttpAnswer(200, "", b'{"active": false}')]
    monkeypatch.setattr(psc_door, "request", lambda *_, **__: answers.pop(0))
    with pytest.raises(PscUnavailable, match=str(status)):
        psc.introspect("odd")
    if others:
        assert psc.introspect("sound")["active"] is False
    else:
        with pytest.raises(PscUnavailable, match=str(status)):
            psc.introspect("sound")
    psc.close()


@pytest.mark.parametrize("body", [b"[" * 100_000, b"not json", b"[]", b'{"active": "yes"}'])
def test_an_answer_that_is_none_is_trouble(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    psc = Psc(endpoint_of(world), clock)
    monkeypatch.setattr(psc, "_introspection_url", lambda _now: "https://psc")
    monkeypatch.setattr(psc_door, "request", lambda *_, **__: HttpAnswer(200, "application/json", body))
    with pytest.raises(PscUnavailable):
        psc.introspect("t")


@pytest.mark.parametrize("form", ["rfc8705", "ans"])
def test_a_confirmation_comes_through_the_simulator_in_both_forms(
    world: World, clock: Clock, form: Any
) -> None:
    claims = {"cnf": confirmation(b"a certificate", form)}
    token = world.tokens.issue(claims, 60)["access_token"]
    assert Psc(endpoint_of(world), clock).introspect(token)["cnf"] == claims["cnf"]
    assert check_binding(claims["cnf"], b"a certificate", "require") == form
