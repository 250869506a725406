"""What a stranger would try on a running installation: disks that fail, clocks that jump, settings that cannot work."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints import whitelist_keeping
from drimbox.entrypoints.configuration import check_configuration
from drimbox.entrypoints.partner_door import _subject
from drimbox.entrypoints.whitelist_keeping import Keeping, make_keeping
from drimbox.settings.whole import load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import AnsPublisher
from drimbox.simulators.ports import assign_ports
from fixtures.kept_pki import kept_pki
from fixtures.newest_database import bring_to_newest
from fixtures.quick_stage import run_command
from fixtures.whitelist_doubles import PARTNER, START, US, Clock, Judge, NoCrls, Publisher, make_list
from whitelist import cache as cache_module
from whitelist.cache import Cache
from whitelist.chain import Anchors, Crls
from whitelist.decision import Alert, OwnName, State
from whitelist.errors import Untold
from whitelist.keeper import Keeper
from whitelist.progress import alarmed
from whitelist.record import Kept
from whitelist.view import View

ANCHORS = cast(Anchors, None)  # the judge of these tests asks for none


class House:
    """A keeper on a directory, with doubles around it; a view of the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock, self.publisher, self.judge = directory, Clock(), Publisher(), Judge()
        self.seconds = 0.0
        self.logged: list[str] = []
        self.told: list[State] = []
        self.on_change: Callable[..., object] = lambda _before, after, _report: self.told.append(after)
        self.cache = Cache(directory, examine=self.judge)
        self.keeper = Keeper(
            url="https://ans.example.fr/liste.xml", fetch=self.publisher, crls=NoCrls(), cache=self.cache,
            anchors=ANCHORS, own=OwnName(US), clock=self.clock, chance=lambda: 0.5,
            log=lambda event, **_: self.logged.append(event),
            on_change=lambda *change: self.on_change(*change), examine=self.judge,
        )  # fmt: skip

    def view(self) -> View:
        return View(
            self.directory, ANCHORS, examine=self.judge, clock=self.clock, monotonic=lambda: self.seconds
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "whitelist")


@pytest.fixture
def current(house: House) -> House:
    assert house.keeper.refresh().state_after is State.CURRENT
    return house


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no file of the cache can be opened: too many open files in this process."""

    def fail(*_: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    def begin() -> None:
        monkeypatch.setattr(cache_module, "read_bounded", fail)
        monkeypatch.setattr(Cache, "_names", lambda _self: [])

    return begin


# --- a disk that cannot be read is no absence


def test_a_view_serves_on_while_the_disk_yields_nothing(
    current: House, unreadable: Callable[[], None]
) -> None:
    view = current.view()
    assert view.current().state is State.CURRENT
    current.clock.forward(hours=1)
    current.keeper.refresh(force=True)  # another state.json: the view looks again
    unreadable()
    current.seconds = 2
    snapshot = view.current()
    assert snapshot.state is State.STALE
    assert snapshot.trusted is not None
    assert any("in memory" in warning for warning in snapshot.warnings)


def test_a_view_follows_an_absence_all_the_same(current: House) -> None:
    view = current.view()
    assert view.current().state is State.CURRENT
    current.publisher.content = make_list(PARTNER)
    assert current.keeper.refresh(force=True).state_after is State.ABSENT
    current.seconds = 2
    assert view.current().state is State.ABSENT


@pytest.mark.parametrize(
    ("content", "state"), [(make_list(), State.STALE), (make_list(PARTNER), State.ABSENT)]
)
def test_a_failure_noted_while_the_disk_was_unreadable_forgets_no_list(
    house: House,
    unreadable: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    state: State,
) -> None:
    """The attempt saw nothing on disk and wrote NEVER; the archived list is found again."""
    house.publisher.content = content
    house.keeper.refresh()
    with monkeypatch.context():
        unreadable()
        house.publisher.content = "timeout"
        house.keeper.refresh(force=True)
    monkeypatch.undo()
    assert json.loads((house.directory / "state.json").read_bytes())["list_file"] is None
    snapshot = house.view().current()
    assert (snapshot.state, snapshot.trusted is not None) == (state, True)
    house.clock.forward(hours=1)
    house.publisher.content = content
    assert house.keeper.refresh(force=True).error is None
    assert house.view().current().warnings == ()


def test_a_view_that_is_looking_holds_up_nobody(current: House) -> None:
    view = current.view()
    assert view.current().state is State.CURRENT
    with view._lock:  # another thread reads and verifies a new list
        answers: list[State] = []
        thread = threading.Thread(target=lambda: answers.append(view.current().state), daemon=True)
        thread.start()
        thread.join(5)
        assert answers == [State.CURRENT]


def test_few_lists_are_tried_when_none_verifies(current: House) -> None:
    """After the pinned authorities were changed: the search is repeated at each look."""
    unpinned = make_list(broken="9")
    for day in range(40):
        at = START + timedelta(days=day)
        report = current.judge(unpinned, ANCHORS, Crls(None, None), at=at)
        current.cache.archive(unpinned, report, named=True)
    (current.directory / "state.json").unlink()
    current.judge.calls = 0
    current.cache.load(ANCHORS)
    assert current.judge.calls == cache_module.TRIED


def test_an_absence_of_another_host_ends_with_the_mistake(house: House) -> None:
    """A wrong `whitelist.host` was corrected while the publisher is down: the list in force names us."""
    wrong = replace(house.keeper, own=OwnName("wrong.example.fr"))
    assert wrong.refresh().state_after is State.ABSENT
    house.publisher.content = "timeout"
    done = house.keeper.refresh()
    assert (done.state_before, done.state_after) == (State.STALE, State.STALE)
    assert house.view().current().state is State.STALE
    assert house.told == [State.ABSENT, State.STALE]


def test_an_absence_of_our_host_outlives_every_failure(house: House) -> None:
    house.publisher.content = make_list(PARTNER)
    assert house.keeper.refresh().state_after is State.ABSENT
    house.publisher.content = "timeout"
    other = replace(house.keeper, own=OwnName("neither.example.fr"))
    assert other.refresh().state_after is State.ABSENT
    assert house.view().current().state is State.ABSENT


# --- what is told


def test_a_change_that_cannot_be_traced_spoils_nothing(house: House) -> None:
    def busy(*_: object) -> None:
        raise Untold("database is locked")

    heard, house.on_change = house.on_change, busy
    done = house.keeper.refresh()
    assert (done.state_after, done.report is not None) == (State.CURRENT, True)
    assert "whitelist_change_not_told" in house.logged
    house.on_change = heard
    house.clock.forward(days=1)
    house.keeper.refresh(force=True)
    assert house.told == [State.CURRENT]


def test_an_alert_told_in_the_future_is_told_again() -> None:
    kept = Kept(State.NEVER, alert=Alert.ERROR, alerted_at=START + timedelta(days=400))
    assert alarmed(kept, START)[1]


# --- with the product around it


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pki = kept_pki(tmp_path / "pki")
    text = drimbox_toml(tmp_path, assign_ports(None), pki)
    path = tmp_path / "drimbox.toml"
    path.write_text(
        text.replace('environment = "test"', 'environment = "test"\ncrl_policy = "prefer"'), "utf-8"
    )
    (tmp_path / "appliance").mkdir()
    return path


@pytest.fixture
def foundation(config: Path) -> Iterator[Foundation]:
    made = lay_foundation(load_settings(config))
    bring_to_newest(made.database)
    yield made
    made.database.close()


@pytest.fixture
def keeping(foundation: Foundation) -> Keeping:
    return make_keeping(foundation, "test")


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    pki = kept_pki(tmp_path / "pki")
    path = tmp_path / "good.xml"
    path.write_bytes(AnsPublisher(pki, Faults(), lambda: datetime.now(UTC)).content().body)
    return path


def test_a_database_that_is_locked_costs_no_proof(
    keeping: Keeping, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Unavailable("database is locked")

    monkeypatch.setattr(whitelist_keeping, "note_change", busy)
    done = keeping.import_file(signed)
    assert done.refreshed.state_after is State.CURRENT
    assert done.proof is not None
    assert done.proof.is_file()


def proof(directory: Path, day: datetime, sha: str = "0" * 16, size: int = 1) -> Path:
    path = directory / f"{day:%Y%m%dT%H%M%SZ}-{sha}.xml"
    path.write_bytes(b"x" * size)
    return path


def test_old_proofs_go_whatever_their_digest_ends_with(
    keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitelist_keeping, "ALWAYS_KEPT", 3)
    now = datetime.now(UTC)
    first = now.replace(day=1) - timedelta(days=400)
    old = [proof(tmp_path, first + timedelta(hours=n), sha) for n, sha in enumerate(("0" * 16, "e" * 16))]
    theirs = old[1].with_suffix(".esignsante.xml")
    theirs.write_bytes(b"x")
    new = [proof(tmp_path, now - timedelta(days=day)) for day in range(3)]
    keeping._prune(tmp_path)
    assert old[0].exists()  # the first of its month
    assert not old[1].exists()
    assert not theirs.exists()
    assert all(path.exists() for path in new)


def test_a_clock_ahead_empties_no_file(keeping: Keeping, tmp_path: Path) -> None:
    kept = [proof(tmp_path, datetime(2026, 1, 2, tzinfo=UTC) + timedelta(hours=n)) for n in range(20)]
    replace(keeping, clock=lambda: datetime(2040, 1, 1, tzinfo=UTC))._prune(tmp_path)
    assert all(path.exists() for path in kept)


def test_large_proofs_fill_no_disk(keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitelist_keeping, "MAX_PROOF_BYTES", 1000)
    start = datetime.now(UTC).replace(day=1, hour=0)
    kept = [proof(tmp_path, start + timedelta(minutes=n), size=400) for n in range(10)]
    keeping._prune(tmp_path)
    assert [path.exists() for path in kept] == [True] + [False] * 7 + [True] * 2


def test_a_refused_proof_is_none_of_the_acceptance(keeping: Keeping, signed: Path) -> None:
    """The signer of the list in force expired since: it is refused, and proven so, every day."""
    done = keeping.import_file(signed)
    report = done.refreshed.report
    assert report is not None
    assert done.proof is not None
    failed = report.with_step(replace(report.steps[8], outcome=type(report.steps[8].outcome)("failed")))
    later = done.proof.with_name(f"{report.at + timedelta(days=1):%Y%m%dT%H%M%SZ}-{report.sha256[:16]}.xml")
    later.write_bytes(keeping.prove(signed.read_bytes(), failed))
    assert keeping.proof_of(report.sha256)[0] == done.proof.read_bytes()


def test_what_a_kill_left_beside_the_proofs_is_swept(keeping: Keeping, tmp_path: Path) -> None:
    left = tmp_path / ".partial-abc"
    left.write_bytes(b"<")
    os.utime(left, (0, 0))
    keeping._prune(tmp_path)
    assert not left.exists()


def test_a_certificate_that_cannot_be_read_is_of_nobody(tmp_path: Path) -> None:
    pki = kept_pki(tmp_path / "pki")
    der = pki.certificate("partner_server").public_bytes(Encoding.DER)
    assert _subject(None) is None
    assert "partner.localhost" in str(_subject(der))
    broken = der.replace(b"partner.localhost", b"\xff" * len("partner.localhost"))
    assert _subject(broken) == ""


# --- settings that cannot work


def drimbox(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "drimbox", *words, "--config", str(config)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('\nhost = "drimbox.localhost"', '\nhost = "192.168.1.10"', "whitelist.host"),
        (
            "crl_policy =",
            'proof_mode = "esignsante"\nesignsante_url = "https://user@e.fr"\ncrl_policy =',
            "whitelist.esignsante_url",
        ),
    ],
)
def test_a_setting_that_stops_the_worker_stops_serve_and_says_why(
    config: Path, foundation: Foundation, old: str, new: str, fault: str
) -> None:
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new), "utf-8")
    assert [said for said in check_configuration(config) if said.startswith(fault)]
    refreshed = run_command("whitelist", "refresh", "--config", str(config))
    for done in (drimbox(config, "serve"), refreshed):
        assert done.returncode == 1, done.stderr
        assert fault in done.stderr
        assert "Traceback" not in done.stderr


def test_json_stands_alone_on_standard_output(config: Path, foundation: Foundation) -> None:
    """`drimbox whitelist refresh --json | python -m json.tool`: the log goes to standard error."""
    done = drimbox(config, "whitelist", "refresh", "--json")
    assert (done.returncode, json.loads(done.stdout)["after"]) == (1, "NEVER")
    assert "whitelist_retrieved" in done.stderr
