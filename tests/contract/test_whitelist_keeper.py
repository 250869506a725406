"""Every branch of 3.6, told by a keeper with a clock of its own: unavailability never interrupts, absence does."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import AnsPublisher
from drimbox.simulators.pki import Pki
from fixtures.kept_pki import kept_pki
from fixtures.whitelist_doubles import PARTNER, START, US, Clock, Judge, NoCrls, Publisher, make_list
from whitelist import cache as cache_module
from whitelist import trust
from whitelist.attempt import Refreshed
from whitelist.cache import Cache
from whitelist.chain import Anchors
from whitelist.crl_store import CrlStore
from whitelist.decision import Alert, Outcome, OwnName, State, exchanges
from whitelist.durable import exclusively, write_durably
from whitelist.fetch import Fetched
from whitelist.keeper import Keeper
from whitelist.view import View

URL = "https://ans.example.fr/liste.xml"
ANCHORS = cast(Anchors, None)  # the judge of these tests asks for none
UNUSABLE: dict[str, bytes | str] = {
    "refused": "connect", "hung": "timeout", "cut": "truncated", "http 500": "status", "bad certificate": "tls",
    "a page": b"<html>sign in</html>", "unsigned": make_list(broken="3"), "tampered": make_list(broken="6"),
    "foreign signer": make_list(broken="10"), "revoked signer": make_list(broken="11"),
    "expired signer": make_list(until=(START - timedelta(1)).isoformat()), "no entries": make_list(broken="13"),
    "older": make_list(signed_at=START - timedelta(days=30)),
}  # fmt: skip
WITHOUT_US = make_list(PARTNER)


class House:
    """A keeper with everything around it, restartable."""

    def __init__(self, directory: Path, own: str = US) -> None:
        self.directory, self.clock, self.publisher, self.own = directory, Clock(), Publisher(), own
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.changes: list[tuple[State, State]] = []
        self.judge = Judge()
        self.on_change: Callable[..., object] = lambda *change: self.changes.append(change[:2])
        self.chance = 0.5
        self.url = URL
        self.restart()

    def restart(self) -> None:
        self.cache = Cache(self.directory, examine=self.judge)
        self.keeper = Keeper(
            url=self.url, fetch=self.publisher, crls=NoCrls(), cache=self.cache, anchors=ANCHORS,
            own=OwnName(self.own), clock=self.clock, chance=lambda: self.chance,
            log=lambda event, **fields: self.logged.append((event, fields)),
            on_change=lambda *change: self.on_change(*change), examine=self.judge,
        )  # fmt: skip

    @property
    def state(self) -> State:
        """As another process sees it."""
        view = View(self.directory, ANCHORS, examine=self.judge, clock=self.clock)
        return view.current().state

    def next(self) -> Refreshed:
        """What the scheduler does: wait until due, refresh."""
        self.clock.now = max(self.clock.now, self.keeper.due_at())
        return self.keeper.refresh()

    def serve(self, content: bytes | str) -> Refreshed:
        self.publisher.content = content
        return self.next()

    def alerts(self) -> list[str]:
        return [fields["status"] for event, fields in self.logged if event == "whitelist_alert"]

    def status(self) -> dict[str, Any]:
        status = self.keeper.status()
        json.dumps(status)
        return status


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "whitelist")


@pytest.fixture
def current(house: House) -> House:
    assert house.next().outcome is Outcome.NAMED
    return house


def in_state(house: House, state: State) -> House:
    """Brought there by what leads there."""
    if state is not State.NEVER:
        house.next()
    if state is State.STALE:
        house.serve("timeout")
    elif state is State.ABSENT:
        house.serve(WITHOUT_US)
    assert house.state is state
    return house


# --- the way up ---


def test_the_first_list_is_retrieved_at_once(house: House) -> None:
    assert house.state is State.NEVER
    assert house.keeper.due_at() == START
    done = house.keeper.refresh()
    assert (done.outcome, done.state_before, done.state_after) == (Outcome.NAMED, State.NEVER, State.CURRENT)
    assert done.report
    assert {step.number: step.outcome for step in done.report.steps}[14] is trust.Held.HELD
    assert "HTTP 200" in done.report.steps[0].why
    assert (house.state, house.changes) == (State.CURRENT, [(State.NEVER, State.CURRENT)])
    assert done.candidate == house.publisher.content
    assert (house.directory / "lists" / str(done.list_file)).read_bytes() == house.publisher.content


def test_once_a_day_at_the_drawn_minute(current: House) -> None:
    due = current.keeper.due_at()
    assert (due.hour, due.minute, due - START) == (12, 0, timedelta(days=1))  # chance 0.5 = noon
    assert current.keeper.refresh().outcome is None  # not due
    current.chance = 0.9  # drawn once: restarts do not draw again
    current.restart()
    assert current.keeper.due_at() == due
    for day in range(1, 4):
        assert current.next().outcome is Outcome.UNCHANGED
        assert current.clock.now == START + timedelta(days=day)
    assert len(current.publisher.asked) == 4


def test_a_condition_names_the_accepted_body(current: House) -> None:
    current.next()
    assert [etag is None for _, etag in current.publisher.asked] == [True, False]
    current.keeper.refresh(force=True)
    assert current.publisher.asked[-1][1] is None  # by hand: everything is fetched and verified


def test_a_body_published_unchanged_is_archived_once(current: House) -> None:
    current.publisher.validators = False
    done = current.next()
    assert done.outcome is Outcome.NAMED
    assert len(list((current.directory / "lists").glob("*.xml"))) == 1
    assert done.report
    assert "unchanged" in done.report.steps[-1].why
    assert current.status()["last_success"] == "2026-10-02T12:00:00Z"
    assert current.status()["list"]["accepted_at"] == "2026-10-01T12:00:00Z"


def test_not_modified_is_judged_now_all_the_same(house: House) -> None:
    """A signer that expires while the body stays: a full answer would be refused, so is the short one (3.5, 9)."""
    house.publisher.content = make_list(until=(START + timedelta(hours=30)).isoformat())
    house.next()
    assert house.next().outcome is Outcome.UNCHANGED
    done = house.next()
    assert (done.outcome, done.state_after) == (Outcome.FAILED, State.STALE)
    assert done.error
    assert done.error.code == "step-9"


def test_not_modified_without_an_accepted_body_is_a_failure(house: House) -> None:
    def confused(url: str, etag: str | None = None, modified: str | None = None) -> Fetched:
        return Fetched(304, b"", None, None, "", url)

    house.publisher.get = confused  # type: ignore[method-assign]
    done = house.next()
    assert (done.outcome, done.error and done.error.code, done.report) == (
        Outcome.FAILED, "unexpected-304", None,
    )  # fmt: skip
    assert house.state is State.NEVER


# --- unavailability ---


@pytest.mark.parametrize("trouble", UNUSABLE)
def test_one_failure_makes_it_stale_and_warns_at_once(current: House, trouble: str) -> None:
    done = current.serve(UNUSABLE[trouble])
    assert (done.outcome, done.state_after) == (Outcome.FAILED, State.STALE)
    assert done.error
    assert exchanges(current.state)
    assert current.alerts() == ["warning"]
    status = current.status()
    assert status["last_failure"]["code"] == done.error.code
    assert status["list"] is not None


@pytest.mark.parametrize("trouble", ["timeout", "everything"])
def test_ten_days_of_outage_never_interrupt(current: House, trouble: str) -> None:
    troubles = list(UNUSABLE.values()) if trouble == "everything" else [trouble]
    told: dict[int, str] = {}
    tries = 0
    while current.clock.now < START + timedelta(days=10):
        done = current.serve(troubles[tries % len(troubles)])
        tries += 1
        assert (done.outcome, done.state_after) == (Outcome.FAILED, State.STALE)
        told[int((current.clock.now - START).total_seconds() // 3600)] = current.status()["alert"]
    snapshot = View(current.directory, ANCHORS, examine=current.judge, clock=current.clock).current()
    assert snapshot.trusted is not None
    assert (snapshot.state, snapshot.last_success) == (State.STALE, START)
    assert {level for hour, level in told.items() if hour < 48} == {"warning"}
    assert {level for hour, level in told.items() if hour >= 48} == {"error"}
    assert 200 < tries < 320  # hourly at the end
    assert current.alerts()[:2] == ["warning", "error"]
    assert 8 <= len(current.alerts()) <= 10  # one per change, then one a day
    assert current.changes[1:] == [(State.CURRENT, State.STALE)]
    done = current.serve(make_list(signed_at=START + timedelta(1)))
    assert (done.state_after, current.alerts()[-1]) == (State.CURRENT, "none")


def test_retries_wait_longer_and_are_spread(current: House) -> None:
    waits = []
    current.chance = 0.0
    for _ in range(7):
        current.serve("timeout")
        waits.append((current.keeper.due_at() - current.clock.now) / timedelta(minutes=1))
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    current.chance = 0.999
    current.serve("timeout")
    assert timedelta(minutes=48) < current.keeper.due_at() - current.clock.now < timedelta(minutes=49)


def test_no_list_ever_is_an_error_and_no_exchange(house: House) -> None:
    for _ in range(30):
        house.serve("timeout")
    assert not exchanges(house.state)
    assert set(house.alerts()) == {"error"}
    assert house.changes == []
    assert house.serve(make_list()).state_after is State.CURRENT


def test_a_roll_back_is_stale_not_absent(current: House) -> None:
    newer = make_list(signed_at=START + timedelta(days=2))
    assert current.serve(newer).outcome is Outcome.NAMED
    done = current.serve(make_list(PARTNER, signed_at=START + timedelta(days=1)))
    assert (done.outcome, done.state_after) == (Outcome.FAILED, State.STALE)
    assert done.error
    assert done.error.code == "step-12"


# --- absence ---


def test_a_list_without_us_interrupts_and_one_with_us_resumes(current: House) -> None:
    done = current.serve(WITHOUT_US)
    assert (done.outcome, done.state_after, current.state) == (Outcome.NOT_NAMED, State.ABSENT, State.ABSENT)
    assert not exchanges(current.state)
    assert current.alerts() == ["critical"]
    assert done.list_file
    assert (current.directory / "lists" / done.list_file).read_bytes() == WITHOUT_US  # verified: archived
    assert current.keeper.due_at() - current.clock.now <= timedelta(minutes=5)
    done = current.serve(make_list())
    assert (done.outcome, done.state_after) == (Outcome.NAMED, State.CURRENT)
    assert current.changes[1:] == [(State.CURRENT, State.ABSENT), (State.ABSENT, State.CURRENT)]
    assert current.alerts() == ["critical", "none"]
    assert current.keeper.due_at() - current.clock.now > timedelta(hours=1)  # daily again


def test_an_absence_keeps_fetching_and_no_failure_ends_it(current: House) -> None:
    current.serve(WITHOUT_US)
    for trouble in UNUSABLE.values():
        assert current.serve(trouble).state_after is State.ABSENT
    assert current.serve(WITHOUT_US).outcome is Outcome.UNCHANGED
    assert current.state is State.ABSENT
    assert current.keeper.due_at() - current.clock.now <= timedelta(hours=1)


def test_a_first_list_without_us(house: House) -> None:
    assert house.serve(WITHOUT_US).state_after is State.ABSENT


# --- restarts ---


@pytest.mark.parametrize("state", list(State))
def test_a_restart_finds_the_state_and_the_cadence(house: House, state: State) -> None:
    in_state(house, state)
    due, alerts = house.keeper.due_at(), len(house.alerts())
    house.restart()
    assert (house.state, house.keeper.due_at()) == (state, due)
    if state is not State.NEVER:
        assert house.keeper.refresh().outcome is None
    assert len(house.alerts()) == alerts  # told already


def test_a_restart_after_a_day_off_retrieves_at_once(current: House) -> None:
    current.clock.forward(hours=30)
    current.restart()
    assert current.keeper.due_at() <= current.clock.now
    assert current.keeper.refresh().outcome is Outcome.UNCHANGED


def test_a_restart_after_the_signers_end_keeps_the_list(house: House) -> None:
    house.publisher.content = make_list(until=(START + timedelta(days=3)).isoformat())
    house.next()
    house.clock.forward(days=900)
    house.restart()
    done = house.serve("timeout")
    assert done.state_after is State.STALE
    assert house.status()["list"]["domains"] == 2


def test_another_host_or_address_is_asked_for_at_once(current: House) -> None:
    current.own = PARTNER
    current.restart()
    assert current.keeper.due_at() == current.clock.now
    assert current.keeper.refresh().outcome is Outcome.UNCHANGED
    current.url = "https://ans.example.fr/other.xml"
    current.restart()
    assert current.keeper.refresh().outcome is Outcome.NAMED
    assert current.publisher.asked[-1] == (current.url, None)
    current.own = "db999.example.fr"
    current.restart()
    assert current.keeper.refresh().outcome is Outcome.NOT_NAMED  # although not modified


def test_a_clock_that_was_wrong_does_not_stop_the_retrievals(current: House) -> None:
    current.clock.forward(days=3650)
    current.serve("timeout")
    current.clock.now = START + timedelta(days=1)
    assert current.keeper.due_at() <= current.clock.now


# --- the disk ---


def full_for(suffix: str) -> Callable[..., None]:
    def write(path: Path, octets: bytes, mode: int = 0o640) -> None:
        if path.name.endswith(suffix):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_durably(path, octets, mode)

    return write


@pytest.mark.parametrize("suffix", [".xml", ".report.json"])
def test_a_list_that_cannot_be_archived_is_not_accepted(
    current: House, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "write_durably", full_for(suffix))
    done = current.serve(WITHOUT_US)
    assert (done.outcome, done.state_after) == (Outcome.FAILED, State.STALE)
    assert done.error
    assert (done.error.code, "No space left" in done.error.reason) == ("archive", True)
    assert done.report
    assert [step.number for step in done.report.failed] == [14]
    monkeypatch.undo()
    assert current.next().state_after is State.ABSENT


@pytest.mark.parametrize("state", list(State))
def test_a_full_disk_changes_no_state_and_is_not_tried_for_ever(
    house: House, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_state(house, state)
    monkeypatch.setattr(cache_module, "write_durably", full_for(""))
    content = make_list() if state is State.ABSENT else WITHOUT_US
    house.clock.forward(days=1)
    changes = list(house.changes)
    for minutes in (4, 9, 18):  # chance 0.5: a tenth less
        done = house.serve(content)
        assert (done.outcome, done.state_after, house.state) == (Outcome.FAILED, state, state)
        if state is not State.ABSENT and state is not State.STALE:
            assert house.keeper.due_at() - house.clock.now >= timedelta(minutes=minutes)
        assert house.keeper.refresh().outcome is None
        assert house.status()["last_failure"]["code"] == "archive"
    assert house.changes == changes
    monkeypatch.undo()
    assert house.next().outcome is not Outcome.FAILED


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    house = House(tmp_path / "file" / "whitelist")
    done = house.keeper.refresh()
    assert (done.outcome, done.error and done.error.code) == (Outcome.FAILED, "directory")
    assert house.keeper.due_at() > house.clock.now


def test_a_damaged_list_in_force_is_fetched_anew_soon(current: House) -> None:
    (file,) = (current.directory / "lists").glob("*.xml")
    file.write_bytes(b"damage")
    current.clock.forward(minutes=6)
    assert current.state is State.NEVER  # nothing else is archived
    done = current.next()
    assert current.publisher.asked[-1][1] is None  # unconditional
    assert (done.outcome, current.state) == (Outcome.NAMED, State.CURRENT)


def test_an_older_list_serves_until_then(current: House) -> None:
    done = current.serve(make_list(signed_at=START + timedelta(1)))
    (current.directory / "lists" / str(done.list_file)).write_bytes(b"damage")
    current.clock.forward(minutes=6)
    assert current.serve("timeout").state_after is State.STALE
    assert current.changes[-1] == (State.CURRENT, State.STALE)
    assert len(current.status()["warnings"]) == 2
    assert (
        current.serve(make_list(signed_at=START)).error is not None
    )  # the floor is still that of the lost one


def test_what_cannot_be_read_for_a_while_is_not_forgotten(current: House) -> None:
    lists, away = current.directory / "lists", current.directory / "away"
    lists.rename(away)
    current.clock.forward(minutes=6)
    done = current.serve("timeout")
    assert (done.state_after, current.state) == (State.NEVER, State.NEVER)
    assert current.keeper.due_at() - current.clock.now <= timedelta(minutes=5)
    current.serve("timeout")
    assert current.keeper.due_at() - current.clock.now > timedelta(minutes=5)  # damage does not set the pace
    assert [event for event, _ in current.logged].count("whitelist_damaged") == 2
    away.rename(lists)
    assert current.state is State.STALE
    current.serve("timeout")
    assert current.changes[1:] == [(State.CURRENT, State.NEVER), (State.NEVER, State.STALE)]


# --- other hands ---


def test_two_processes_never_refresh_at_once(current: House) -> None:
    with exclusively(current.directory / "keeper.lock"):
        done = current.keeper.refresh(force=True)
    assert (done.outcome, done.error and done.error.code) == (None, "busy")
    assert len(current.publisher.asked) == 1


def test_an_operator_brings_a_list(house: House, tmp_path: Path) -> None:
    file = tmp_path / "liste.xml"
    file.write_bytes(make_list())
    done = house.keeper.import_file(file)
    assert (done.outcome, house.state) == (Outcome.NAMED, State.CURRENT)
    assert done.report
    assert done.report.steps[0].outcome is trust.Held.SKIPPED
    assert house.keeper.due_at() <= house.clock.now  # the retrieval itself was never tried
    assert house.serve("timeout").state_after is State.STALE
    file.write_bytes(WITHOUT_US)
    assert house.keeper.import_file(file).state_after is State.ABSENT


REFUSED_FILES = {
    "page": b"<html/>", "tampered": make_list(broken="8"), "absent": None, "huge": b"x" * (10 * 1024 * 1024 + 1),
}  # fmt: skip


@pytest.mark.parametrize("content", list(REFUSED_FILES.values()), ids=list(REFUSED_FILES))
@pytest.mark.parametrize("state", list(State))
def test_a_file_that_is_refused_changes_nothing(
    house: House, tmp_path: Path, content: bytes | None, state: State
) -> None:
    in_state(house, state)
    before = house.cache.load(ANCHORS)
    file = tmp_path / "liste.xml"
    if content is not None:
        file.write_bytes(content)
    done = house.keeper.import_file(file)
    assert (done.outcome, done.state_after) == (Outcome.FAILED, state)
    assert done.error
    assert house.cache.load(ANCHORS) == before


def test_a_change_that_was_not_heard_is_told_again(current: House) -> None:
    def deaf(*_: object) -> None:
        raise RuntimeError("the database is away")

    heard, current.on_change = current.on_change, deaf
    with pytest.raises(RuntimeError):
        current.serve("timeout")
    assert current.state is State.STALE  # the state itself is durable
    current.on_change = heard
    current.restart()
    current.serve("timeout")
    assert current.changes[1:] == [(State.CURRENT, State.STALE)]


# --- the real thing ---


@dataclass
class RealCrls:
    """CRLs of the test PKI as of the clock."""

    pki: Pki
    clock: Clock

    def get(
        self, url: str, etag: str | None = None, modified: str | None = None, *, plain: bool = False
    ) -> Fetched:
        crl = self.pki.crl(authority=url, this_update=self.clock.now)
        return Fetched(200, crl.public_bytes(Encoding.DER), None, None, "", url)


ANS_FAULTS = {
    "unsigned": "step-3", "tampered": "step-6", "wrong_signer": "step-10", "expired_signer": "step-9",
    "revoked_signer": "revoked", "truncated": "step-2",
}  # fmt: skip


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("keeper") / "pki")


def test_the_faults_of_the_ans_with_real_signatures(pki: Pki, tmp_path: Path) -> None:
    clock = Clock(pki.now.replace(microsecond=0) + timedelta(hours=1))
    ans = AnsPublisher(pki, Faults(), clock)
    publisher, logged = Publisher(ans.content().body), []
    cn, ou = "Liste Blanche DRIM-M", "318751275100020"
    anchors = Anchors(
        pki.certificate("root"), pki.certificate("aci"), cn, ou, policies(pki), environment="test"
    )
    crls = CrlStore(
        tmp_path / "crls",
        {"intermediate": "aci", "root": "root"},
        anchors,
        RealCrls(pki, clock),
        clock,
        lambda: 0.0,
    )
    keeper = Keeper(
        url=URL, fetch=publisher, crls=crls, cache=Cache(tmp_path / "w"), anchors=anchors,
        own=OwnName("drimbox.localhost"), clock=clock, chance=lambda: 0.5,
        log=lambda event, **fields: logged.append((event, fields)), on_change=lambda *_: None,
    )  # fmt: skip
    assert keeper.refresh().state_after is State.CURRENT
    for fault, code in ANS_FAULTS.items():
        clock.forward(hours=13)
        publisher.content = ans.content(fault).body
        done = keeper.refresh(force=True)
        assert (fault, done.error and done.error.code, done.state_after) == (fault, code, State.STALE)
        critical = keeper.status()["alert"] == Alert.CRITICAL
        assert critical is (fault == "revoked_signer")
    clock.forward(minutes=1)
    publisher.content = ans.content("without_us").body
    assert keeper.refresh(force=True).state_after is State.ABSENT
    clock.forward(minutes=1)
    publisher.content = ans.content().body
    assert keeper.refresh(force=True).state_after is State.CURRENT
    status = keeper.status()
    assert status["list"]["signer"].startswith("CN=Liste Blanche DRIM-M")
    assert status["entries"][0]["db"] == "drimbox.localhost"
    assert View(tmp_path / "w", anchors, clock=clock).current().state is State.CURRENT


def policies(pki: Pki) -> frozenset[str]:
    found = pki.certificate("list_signer").extensions.get_extension_for_class(x509.CertificatePolicies)
    return frozenset(policy.policy_identifier.dotted_string for policy in found.value)
