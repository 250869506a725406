"""What the service manager would hear, and when (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import os

import pytest

from drimbox.entrypoints import notify
from drimbox.entrypoints.beats import Beats
from drimbox.entrypoints.notify import (
    ALIVE,
    READY,
    RETRY_SECONDS,
    STOPPING,
    VARIABLES,
    Notifier,
    Vigil,
    socket_address,
    take_notifier,
    watchdog_seconds,
)
from drimbox.entrypoints.worker import Crew
from drimbox.settings.room import ConfigurationError


class Heard(Notifier):
    """Keeps what it would have sent."""

    def __init__(self, watchdog: float | None) -> None:
        super().__init__("/somewhere", watchdog)
        self.words: list[str] = []

    def tell(self, words: str) -> None:
        self.words.append(words)


@pytest.mark.parametrize(
    ("name", "address"), [("/run/systemd/notify", "/run/systemd/notify"), ("@a/b", "\0a/b")]
)
def test_a_socket_has_a_path_or_an_abstract_name(name: str, address: str) -> None:
    assert socket_address(name) == address


@pytest.mark.parametrize("name", ["vsock:2:1234", "relative", "@", "/"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_SOCKET"):
        Notifier(name)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "7"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environment, 7) == seconds


def test_it_is_taken_from_the_environment_once() -> None:
    environment = {
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "6000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    first, second = take_notifier(environment), take_notifier(environment)
    assert (first.heard, first.pace) == (True, 2.0)
    assert (second.heard, second.pace) == (False, None)
    assert environment == {"A": "b"}
    assert not set(VARIABLES) & set(environment)


def test_ready_comes_with_the_first_proof_and_life_only_with_proof() -> None:
    proofs, heard = [False, True, True, False, True], Heard(30)
    vigil = Vigil(heard, lambda: proofs.pop(0))
    assert [vigil.look() for _ in range(5)] == [RETRY_SECONDS, 10, 10, RETRY_SECONDS, 10]
    assert heard.words == [READY, ALIVE, ALIVE]
    vigil.stopping()
    assert heard.words[-1] == STOPPING


def test_without_a_watchdog_ready_is_all() -> None:
    proofs, heard = [False, True], Heard(None)
    vigil = Vigil(heard, lambda: proofs.pop(0))
    assert [vigil.look() for _ in range(4)] == [RETRY_SECONDS, None, None, None]
    assert heard.words == [READY]


def test_where_nobody_listens_nothing_is_looked_at() -> None:
    vigil = Vigil(Notifier("", 30), lambda: pytest.fail("looked"))
    vigil.look_when_due()
    assert vigil.look() is None


def test_a_busy_loop_looks_only_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, heard = [100.0], Heard(30)
    monkeypatch.setattr(notify.time, "monotonic", lambda: clock[0])
    vigil = Vigil(heard, lambda: True)
    for moment in (100.0, 100.2, 109.9, 110.0, 110.2):
        clock[0] = moment
        vigil.look_when_due()
    assert heard.words == [READY, ALIVE]


def test_one_silent_process_is_enough() -> None:
    beats = Beats(2)
    beats.beat(0)
    assert not beats.all_within(60)
    beats.beat(1)
    assert beats.all_within(60)
    assert not beats.all_within(0)


def test_a_crew_is_whole_while_every_job_has_its_thread() -> None:
    crew = Crew({"works": lambda: 0})
    assert not crew.is_whole()
    crew.start()
    assert crew.is_whole()
    crew.stop()
    assert not crew.is_whole()
