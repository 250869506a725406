"""The guard in an event loop: what a password costs, how often; and the command that makes the lines of an account."""

from __future__ import annotations

import asyncio
import base64
import tomllib
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dicom_store.status import HttpRefusal
from drimbox.adapters import account_guard
from drimbox.adapters.account_guard import ATTEMPTS, WINDOW, AccountGuard, Throttle
from drimbox.domain.accounts import (
    Account,
    Caller,
    PasswordHash,
    Right,
    hash_password,
    parse_hash,
    password_matches,
)
from drimbox.entrypoints.accounts_cli import account
from drimbox.settings.web import AccountSettings
from drimbox.simulators.viewer_account import viewer_account

PASSWORD = "correct horse battery"
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
VIEWER = Account(
    "viewer", ANYWHERE, frozenset({Right.READ}), parse_hash(hash_password(PASSWORD, bytes(16), p=1))
)


class Bench:
    """A guard with a clock of ours, which counts the passwords that are derived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.derived: list[str] = []
        self.guard = AccountGuard([VIEWER], lambda: self.now)
        monkeypatch.setattr(account_guard, "password_matches", self.matches)

    def matches(self, password: str, known: PasswordHash) -> bool:
        self.derived.append(password)
        return password_matches(password, known)

    async def status(self, name: str, password: str, address: str = "10.0.0.1") -> int:
        header = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        try:
            await self.guard.admit(Caller(address, None, header), Right.READ)
        except HttpRefusal as refusal:
            return refusal.status
        return 200


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Bench(monkeypatch)
    yield made
    made.guard.close()


def test_a_password_is_derived_once(bench: Bench) -> None:
    async def check() -> None:
        together = await asyncio.gather(*(bench.status("viewer", PASSWORD) for _ in range(50)))
        assert together == [200] * 50
        assert await bench.status("viewer", PASSWORD, "10.0.0.2") == 200

    asyncio.run(check())
    assert bench.derived == [PASSWORD]


def test_wrong_ones_are_never_remembered_and_cost_the_same(bench: Bench) -> None:
    async def check() -> None:
        for name in ("viewer", "stranger", "viewer", "stranger"):
            assert await bench.status(name, "wrong") == 401

    asyncio.run(check())
    assert bench.derived == ["wrong"] * 4


def test_too_many_attempts_of_an_address(bench: Bench) -> None:
    async def check() -> None:
        assert await bench.status("viewer", PASSWORD) == 200
        for _ in range(ATTEMPTS):
            assert await bench.status("viewer", "wrong") == 401
        assert await bench.status("viewer", "wrong") == 429
        assert await bench.status("viewer", PASSWORD) == 200  # known already: nobody is locked out by others
        assert await bench.status("viewer", "wrong", "10.0.0.2") == 401
        bench.now += WINDOW + 1
        assert await bench.status("viewer", "wrong") == 401

    asyncio.run(check())


def test_attempts_at_once_are_counted_before_they_fail(bench: Bench) -> None:
    async def check() -> None:
        statuses = await asyncio.gather(*(bench.status("viewer", f"wrong {n}") for n in range(20)))
        assert sorted(statuses) == [401] * ATTEMPTS + [429] * (20 - ATTEMPTS)

    asyncio.run(check())


def test_the_same_pair_at_once_is_derived_once(bench: Bench) -> None:
    async def check() -> None:
        statuses = await asyncio.gather(
            *(bench.status("viewer", "wrong", f"10.0.0.{n}") for n in range(1, account_guard.WAITING + 9))
        )
        assert set(statuses) == {401}

    asyncio.run(check())
    assert bench.derived == ["wrong"]


def test_more_than_can_be_derived_at_once(bench: Bench) -> None:
    async def check() -> None:
        statuses = await asyncio.gather(
            *(bench.status(f"name {n}", "wrong", f"10.0.1.{n}") for n in range(account_guard.WAITING + 3))
        )
        assert sorted(statuses) == [401] * account_guard.WAITING + [503] * 3
        assert await bench.status("viewer", PASSWORD, "10.0.1.0") == 200

    asyncio.run(check())


def test_hosts_of_one_ipv6_network_are_one(bench: Bench) -> None:
    async def check() -> None:
        for host in range(ATTEMPTS):
            assert await bench.status("viewer", "wrong", f"fd00::{host + 1:x}") == 401
        assert await bench.status("viewer", "wrong", "fd00::ffff") == 429
        assert await bench.status("viewer", "wrong", "fd01::1") == 401

    asyncio.run(check())


def test_addresses_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_guard, "_ADDRESSES", 10)
    throttle = Throttle(lambda: 0.0)
    for address in range(100):
        throttle.begin(str(address))
    assert len(throttle._attempts) == 10


# --- drimbox account ---


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command("account")(account)
    return lambda *arguments, typed="": CliRunner().invoke(app, arguments, input=typed)


def test_the_command_prints_an_account_that_works(command: Callable[..., Any]) -> None:
    done = command("Visionneuse n°1", "--address", "10.0.0.0/24", "--address", "::1", "--may", "read",
                   "--may", "store", typed=f"{PASSWORD}\n")  # fmt: skip
    assert done.exit_code == 0
    assert PASSWORD not in done.stdout
    (row,) = tomllib.loads(done.stdout)["web"]["accounts"]
    settings = AccountSettings.model_validate(row)
    assert (settings.name, settings.addresses) == ("Visionneuse n°1", ("10.0.0.0/24", "::1"))
    assert settings.may == ("read", "store")
    assert password_matches(PASSWORD, parse_hash(settings.password_scrypt))


def test_an_account_may_read_unless_more_is_said(command: Callable[..., Any]) -> None:
    done = command("viewer", "--address", "127.0.0.1", typed=PASSWORD)
    assert tomllib.loads(done.stdout)["web"]["accounts"][0]["may"] == ["read"]


@pytest.mark.parametrize(
    ("arguments", "typed", "code"),
    [
        (("viewer", "--address", "127.0.0.1"), "short\n", 1),
        (("viewer", "--address", "127.0.0.1"), "", 1),
        (("viewer", "--address", "127.0.0.1"), "x" * 300, 1),
        (("a:b", "--address", "127.0.0.1"), PASSWORD, 2),
        (("viewer", "--address", "127.0.0.256"), PASSWORD, 2),
        (("viewer",), PASSWORD, 2),
        (("viewer", "--address", "127.0.0.1", "--may", "delete"), PASSWORD, 2),
    ],
)
def test_what_the_command_refuses(
    command: Callable[..., Any], arguments: tuple[str, ...], typed: str, code: int
) -> None:
    done = command(*arguments, typed=typed)
    assert done.exit_code == code
    assert "scrypt" not in done.stdout


def test_the_account_of_a_world_stays_as_it_was(tmp_path: Path) -> None:
    made = viewer_account(tmp_path / "world")
    assert viewer_account(tmp_path / "world") == made
    assert viewer_account(tmp_path / "other").password != made.password
    assert password_matches(made.password, parse_hash(made.password_scrypt))
    assert (tmp_path / "world" / "account.json").stat().st_mode & 0o077 == 0
