"""What a stranger may do to the health check: zones, a whole /64, markup for the operator's terminal, quiet calls."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from drimbox.entrypoints import health_cli
from drimbox.settings.health import PROBES, HealthSettings
from healthcheck.client_address import client_address, parse_address
from healthcheck.endpoint import Patience


def test_a_zone_which_is_any_text_never_reaches_rows_and_terminals() -> None:
    proxies = (ip_network("127.0.0.0/8"),)
    assert client_address("127.0.0.1", "fe80::1%\x1b[31mevil", proxies) == "fe80::1"
    assert client_address("fe80::1%eth0", None, ()) == "fe80::1"
    assert parse_address("2001:db8::1%x") == parse_address("2001:db8::1")
    assert parse_address("%eth0") is None


def test_the_addresses_of_one_slash_64_share_their_patience() -> None:
    patience = Patience(burst=3, rate=1.0, monotonic=lambda: 5.0)
    spent = [patience.is_spent(f"2001:db8:0:1:{number:x}::9") for number in range(5)]
    assert spent == [False, False, False, True, True]
    assert not patience.is_spent("2001:db8:0:2::9")
    assert not any(patience.is_spent(f"192.0.2.{number}") for number in range(5))
    assert not patience.is_spent("no address")


def test_what_a_probe_says_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"status": "warn", "vital": False, "output": "nobody at [/x] [red]", "ageSeconds": 1.0}
    health_cli._show({"status": "warn", "notes": ["see [/y]"], "checks": {"a:b": [check]}})
    shown = capsys.readouterr().out
    assert "[/y]" in shown
    assert "[/x]" in shown
    assert "[red]" in shown


def test_a_name_that_no_probe_has_would_guard_nothing() -> None:
    assert set(HealthSettings().fail_on) <= PROBES
    with pytest.raises(ValueError, match="no such probe: database:wrtie"):
        HealthSettings(fail_on=("images:free", "database:wrtie"))
