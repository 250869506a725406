"""Introspection at Pro Santé Connect: the simulator as the real thing, each trouble told apart from a bad token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drimbox.adapters.psc import Psc, PscEndpoint, PscUnavailable
from drimbox.settings import load_settings
from drimbox.simulators.world import World


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


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
    psc, token = Psc(endpoint_of(world), clock), token_of(world)
    world.faults.arm("psc", "http_503", 1)
    with pytest.raises(PscUnavailable, match="503"):
        psc.introspect(token)
    assert psc.introspect(token)["active"] is True  # trouble is not remembered


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
