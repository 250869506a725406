"""The keeper of the probes' list: schedule, disk, clocks, and every fault of the publisher over real TLS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import CLUSTERS, BetterStackPublisher
from drimbox.simulators.pki import Pki, make_pki
from drimbox.simulators.probe_lists import GROWN
from drimbox.simulators.server import serve_wsgi, tls_context
from fixtures.kept_pki import kept_pki
from healthcheck import list_file
from healthcheck.ip_filter import IpFilter
from healthcheck.ip_list import AddressList, parse_list
from healthcheck.list_file import ABANDONED, Damaged, KeptList, read_list, seed_list, write_list
from healthcheck.list_keeper import ASKED_EVERY, FILE_NAME, ListKeeper
from whitelist.fetch import Fetcher, Unreachable

ROOT = Path(__file__).resolve().parent.parent.parent
HOUR = 3600.0
URL, OTHER = "https://lists.test/ips.txt", "https://lists.test/ips-by-cluster.json"
GOOD = [address for cluster in CLUSTERS.values() for address in cluster]


class Broken(Exception):
    """What the fetch of these tests raises."""


def body(*entries: str) -> bytes:
    return "\n".join(entries).encode()


class Bench:
    """A keeper whose publisher, clocks and listener are the test's; `publish` holds what each url answers."""

    def __init__(self, directory: Path, urls: tuple[str, ...] = (URL,)) -> None:
        self.directory, self.urls = directory, urls
        self.now, self.wall = 50.0, datetime(2026, 11, 22, 8, tzinfo=UTC)
        self.publish: dict[str, bytes | Exception] = {URL: body(*GOOD)}
        self.asked: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.keeper = self.start()

    def start(self) -> ListKeeper:
        self.keeper = ListKeeper(
            self.directory,
            self.urls,
            self.fetch,
            unreachable=(Broken, OSError),
            clock=lambda: self.wall,
            monotonic=lambda: self.now,
            on_event=lambda name, fields: self.events.append((name, dict(fields))),
        )
        return self.keeper

    def restart(self, later: float = 0.0, clock_off: float = 0.0) -> ListKeeper:
        """Another process, `later` seconds after; its wall clock is off by so much."""
        self.wall += timedelta(seconds=later + clock_off)
        self.now = 7.0  # of another boot
        self.events.clear()
        self.start().load()
        return self.keeper

    def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        answer = self.publish.get(url, Broken())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wall += timedelta(seconds=seconds)

    def run(self, seconds: float, step: float = 30) -> int:
        """Let time go by; how many downloads were tried."""
        before = len(self.asked)
        for _ in range(int(seconds / step)):
            self.wait(step)
            self.keeper.run_due()
        return len(self.asked) - before

    def told(self) -> list[str]:
        names = [name for name, _ in self.events]
        self.events.clear()
        return names

    @property
    def lines(self) -> list[str]:
        return list(self.keeper.current.addresses.lines())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "health")


SORTED = list(parse_list(body(*GOOD)).lines())


# --- start, schedule ---


def test_the_packages_list_comes_first_and_is_of_unknown_age(bench: Bench) -> None:
    bench.keeper.load()
    assert bench.keeper.current == (seed_list(), None, "seed")
    assert bench.told() == []


def test_the_first_download_is_at_the_start(bench: Bench) -> None:
    assert bench.keeper.due()
    assert bench.keeper.run_due()
    addresses, age, source = bench.keeper.current
    assert (list(addresses.lines()), age, source) == (SORTED, 0.0, "download")
    ((name, fields),) = bench.events
    assert name == "HEALTH_LIST_REFRESHED"
    seed = seed_list()
    assert fields == {
        "count": 34,
        "added": 34,
        "removed": seed.count,
        "url": URL,
        "sha256": addresses.sha256,
    }


def test_refreshed_every_six_hours_without_a_word_when_nothing_changed(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.told()
    assert bench.run(24 * HOUR) == 4
    assert bench.told() == []
    assert bench.keeper.current.age is not None and bench.keeper.current.age < 6 * HOUR


def test_a_change_is_told(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.events.clear()
    bench.publish[URL] = body(*GOOD[1:], *GROWN)
    bench.run(6 * HOUR)
    ((name, fields),) = bench.events
    assert (name, fields["count"], fields["added"], fields["removed"]) == ("HEALTH_LIST_REFRESHED", 35, 2, 1)


def test_failures_are_tried_again_sooner_then_later(bench: Bench) -> None:
    bench.publish[URL] = Broken()
    attempts = []
    bench.keeper.run_due()
    for _ in range(8):
        attempts.append(bench.keeper.next_attempt - bench.now)
        bench.now = bench.keeper.next_attempt
        assert not bench.keeper.due(bench.now - 1)
        assert bench.keeper.run_due()
    assert attempts == [60, 120, 300, 600, 1800, 3600, 3600, 3600]


def test_a_failure_and_its_end_are_told(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.told()
    bench.publish[URL] = Broken()
    bench.run(6 * HOUR)
    assert bench.events == [
        ("HEALTH_LIST_REFUSED", {"code": "unreachable", "reason": "Broken", "url": URL}),
    ]
    bench.told()
    bench.publish[URL] = body(*GOOD)
    assert bench.run(60) == 1
    assert bench.told() == ["HEALTH_LIST_REFRESHED"]
    assert bench.run(5 * HOUR) == 0, "six hours again"


def test_the_slug_of_the_fetch_is_told(bench: Bench) -> None:
    bench.publish[URL] = OSError()
    bench.keeper.run_due()
    error = Broken()
    error.code, error.reason = "tls", "the certificate has expired"  # type: ignore[attr-defined]
    bench.publish[URL] = error
    bench.run(60)
    assert [(f["code"], f["reason"]) for name, f in bench.events if name == "HEALTH_LIST_REFUSED"] == [
        ("unreachable", "OSError"),
        ("tls", "the certificate has expired"),
    ]


def test_refresh_can_be_asked_for_once_in_ten_minutes(bench: Bench) -> None:
    bench.keeper.run_due()
    assert bench.keeper.ask_for_refresh()
    assert not bench.keeper.ask_for_refresh()
    assert bench.run(60) == 1
    bench.wait(ASKED_EVERY - 61)
    assert not bench.keeper.ask_for_refresh()
    bench.wait(1)
    assert bench.keeper.ask_for_refresh() and bench.keeper.run_due()


def test_an_error_that_nobody_foresaw_is_not_hidden_and_is_no_loop(bench: Bench) -> None:
    bench.publish[URL] = KeyError("unforeseen")
    with pytest.raises(KeyError):
        bench.keeper.run_due()
    assert not bench.keeper.due()
    bench.publish[URL] = body(*GOOD)
    assert bench.run(60) == 1
    assert bench.keeper.current.source == "download"


# --- several urls, shrinking ---


def test_urls_are_tried_in_order_and_the_first_usable_one_wins(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (URL, OTHER))
    bench.publish = {URL: b"<html>", OTHER: json.dumps(CLUSTERS).encode()}
    assert bench.keeper.refresh()
    assert bench.asked == [URL, OTHER]
    assert bench.lines == SORTED
    assert [name for name, _ in bench.events] == ["HEALTH_LIST_REFUSED", "HEALTH_LIST_REFRESHED"]
    assert bench.events[1][1]["url"] == OTHER
    bench.publish[URL] = body(*GOOD)
    bench.asked.clear()
    assert bench.keeper.refresh() and bench.asked == [URL]


def test_a_list_that_shrinks_is_taken_when_downloaded_twice(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.publish[URL] = body(*GOOD[:5])
    assert not bench.keeper.refresh()
    bench.publish[URL] = body(*GOOD[:6])
    assert not bench.keeper.refresh(), "another one"
    assert bench.lines == SORTED
    bench.publish[URL] = body(*reversed(GOOD[:6]))
    assert bench.keeper.refresh()
    assert bench.keeper.current.addresses.count == 6


def test_both_forms_of_one_download_are_not_two_downloads(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (URL, OTHER))
    bench.publish[OTHER] = json.dumps(CLUSTERS).encode()
    bench.keeper.refresh()
    bench.publish = {URL: body(*GOOD[:5]), OTHER: json.dumps({"eu": GOOD[:5]}).encode()}
    assert not bench.keeper.refresh()
    assert bench.lines == SORTED
    assert bench.keeper.refresh()


def test_the_packages_list_is_no_measure(bench: Bench) -> None:
    bench.publish[URL] = body(GOOD[0])
    assert bench.keeper.refresh()
    assert bench.lines == [GOOD[0]]


# --- age ---


def test_stale_and_fresh_are_told_once(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.publish[URL] = Broken()
    bench.told()
    bench.run(48 * HOUR)
    assert "HEALTH_LIST_STALE" not in bench.told()
    bench.run(4 * HOUR)
    ages = [fields for name, fields in bench.events if name == "HEALTH_LIST_STALE"]
    assert [(f["source"], f["count"]) for f in ages] == [("download", 34)]
    assert 48 * HOUR <= ages[0]["age"] < 48 * HOUR + 60
    bench.events.clear()
    bench.publish[URL] = body(*GOOD)
    bench.run(2 * HOUR)
    assert bench.told() == ["HEALTH_LIST_REFRESHED", "HEALTH_LIST_FRESH"]


def test_a_box_that_never_could_download_says_so(bench: Bench) -> None:
    bench.publish[URL] = Broken()
    bench.keeper.load()
    bench.keeper.run_due()
    assert bench.events[-1] == ("HEALTH_LIST_STALE", {"age": None, "source": "seed", "count": 33})
    bench.told()
    bench.run(HOUR)
    assert "HEALTH_LIST_STALE" not in bench.told()


# --- disk ---


@pytest.mark.parametrize(
    ("later", "clock_off", "age"),
    [
        (3 * HOUR, 0.0, 3 * HOUR),
        (0.0, 0.0, 0.0),
        (60.0, -120.0, 0.0),  # set back a little: as retrieved now
        (60.0, -HOUR, None),  # retrieved in the future: nobody knows
        (60.0, -10 * 365 * 24 * HOUR, None),  # the clock of a machine without battery
        (60.0, 72 * HOUR, 72 * HOUR + 60),
    ],
)
def test_the_last_good_list_is_there_after_a_restart(
    bench: Bench, later: float, clock_off: float, age: float | None
) -> None:
    bench.keeper.run_due()
    keeper = bench.restart(later, clock_off)
    assert keeper.current == (parse_list(body(*GOOD)), age, "disk")
    assert keeper.due(), "and a refresh at the start"
    bench.now += 100
    assert keeper.current.age == (None if age is None else age + 100)
    bench.keeper.run_due()
    assert keeper.current.source == "download" and keeper.current.age == 0.0
    assert bench.told() == [], "the same list, and it is fresh"


def test_a_list_from_the_disk_is_a_measure_for_the_next(bench: Bench) -> None:
    bench.keeper.run_due()
    bench.publish[URL] = body(*GOOD[:3])
    assert not bench.restart(HOUR).refresh()
    assert bench.lines == SORTED


def damage(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b" " * (list_file.MAX_FILE_BYTES + 1)),
        lambda path: path.write_text("[]"),
        lambda path: damage(path, lambda c: c.pop("entries")),
        lambda path: damage(path, lambda c: c["entries"].append("10.0.0.1")),
        lambda path: damage(path, lambda c: c["entries"].append("0.0.0.0/0")),
        lambda path: damage(path, lambda c: c["entries"].append("192.31.196.77")),
        lambda path: damage(path, lambda c: c["entries"].clear()),
        lambda path: damage(path, lambda c: c.update(entries=[1, None])),
        lambda path: damage(path, lambda c: c.update(entries=["\ud800"])),
        lambda path: damage(path, lambda c: c.update(fetched_at="2026-11-22T08:00:00")),
        lambda path: damage(path, lambda c: c.update(fetched_at="yesterday")),
        lambda path: damage(path, lambda c: c.update(fetched_at=12)),
        lambda path: damage(path, lambda c: c.update(sha256="0" * 64)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_file_is_the_packages_list_and_is_told(
    bench: Bench, spoil: Callable[[Path], object]
) -> None:
    bench.keeper.run_due()
    spoil(bench.directory / FILE_NAME)
    keeper = bench.restart()
    assert keeper.current == (seed_list(), None, "seed")
    ((name, fields),) = bench.events
    assert name == "HEALTH_LIST_DAMAGED" and fields["reason"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_octet_of_the_file_can_be_changed_unseen(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / FILE_NAME
    kept = KeptList(parse_list(body(*GOOD)), datetime(2026, 11, 22, tzinfo=UTC), URL)
    write_list(path, kept)
    octets = bytearray(path.read_bytes())
    octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(octets)
    try:
        assert read_list(path).addresses == kept.addresses
    except Damaged as error:
        assert str(error)


def test_a_disk_that_cannot_be_written_does_not_lose_the_list(bench: Bench) -> None:
    bench.directory.write_text("a file where the directory should be")
    assert bench.keeper.refresh()
    assert bench.lines == SORTED and bench.keeper.current.source == "download"
    assert bench.told() == ["HEALTH_LIST_UNSAVED", "HEALTH_LIST_REFRESHED"]


def test_nothing_half_written_is_left_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    bench.keeper.run_due()
    bench.publish[URL] = body(*GOOD, *GROWN)
    monkeypatch.setattr(list_file.os, "fsync", full)
    assert bench.keeper.refresh()
    assert bench.keeper.current.addresses.count == 36
    assert ("HEALTH_LIST_UNSAVED", {"reason": "No space left on device"}) in bench.events
    monkeypatch.undo()
    assert [path.name for path in bench.directory.iterdir()] == [FILE_NAME]
    assert read_list(bench.directory / FILE_NAME).addresses.count == 34


KILLED_AT = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from healthcheck import list_file
from healthcheck.ip_list import parse_list

def die(*args, **rest):
    os.kill(os.getpid(), signal.SIGKILL)

setattr({"replace": Path, "fsync": os, "fchmod": os}[sys.argv[2]], sys.argv[2], die)
kept = list_file.KeptList(parse_list(b"192.31.196.99"), datetime.now(UTC), "https://lists.test/other")
list_file.write_list(Path(sys.argv[1]), kept)
"""


@pytest.mark.parametrize("step", ["fchmod", "fsync", "replace"])
def test_sigkill_before_the_rename_leaves_the_last_good_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    bench.keeper.run_due()
    path = bench.directory / FILE_NAME
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, path, step], cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(bench.directory.iterdir())) == 2, "what was half written"
    assert list(bench.restart().current.addresses.lines()) == SORTED
    monkeypatch.setattr(list_file.time, "time", lambda: path.stat().st_mtime + ABANDONED + 60)
    bench.keeper.run_due()
    assert [found.name for found in bench.directory.iterdir()] == [FILE_NAME], "is swept an hour later"


# --- concurrency ---


def test_twenty_readers_never_see_anything_but_a_whole_list(bench: Bench) -> None:
    lists = [parse_list(body(*GOOD)), parse_list(body(*GOOD, *GROWN))]
    bench.keeper.run_due()
    over, wrong = threading.Event(), []
    policy = IpFilter(enabled=True)
    path = bench.directory / FILE_NAME

    def check() -> None:
        addresses, age, source = bench.keeper.current
        found: list[AddressList] = [addresses, read_list(path).addresses]
        if any(one not in lists for one in found) or age is None or source != "download":
            wrong.append((addresses, age, source))
        if policy.decide(GOOD[0], addresses, age).reason != "listed":
            wrong.append("not listed")

    def reader() -> None:
        try:
            while not over.is_set():
                check()
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=reader) for _ in range(20)]
    for thread in threads:
        thread.start()
    for number in range(30):
        bench.publish[URL] = body(*lists[number % 2].lines())
        assert bench.keeper.refresh()
    over.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_only_one_refresh_at_a_time(bench: Bench) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(url: str) -> bytes:
        begun.set()
        assert go_on.wait(30)
        return body(*GOOD)

    bench.keeper._fetch = slow
    results: list[bool] = []
    first = threading.Thread(target=lambda: results.append(bench.keeper.refresh()))
    first.start()
    assert begun.wait(30)
    assert bench.keeper.refresh() is False
    assert bench.keeper.current.source == "seed", "readers do not wait"
    go_on.set()
    first.join(30)
    assert results == [True]


# --- the publisher's faults, over real TLS ---


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("health-lists") / "pki")


class Published:
    """The simulator's lists, and a keeper of them with the fetcher of the product."""

    def __init__(self, directory: Path, url: str, pki: Pki, faults: Faults) -> None:
        self.faults, self.authority = faults, pki.authority
        self.patience = 20.0
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.now = 0.0
        self.keeper = ListKeeper(
            directory,
            [f"{url}/ips.txt", f"{url}/ips-by-cluster.json"],
            self.fetch,
            unreachable=(Unreachable,),
            clock=lambda: datetime.now(UTC),
            monotonic=lambda: self.now,
            on_event=lambda name, fields: self.events.append((name, fields)),
        )

    def fetch(self, url: str) -> bytes:
        return Fetcher(5, self.patience, 1024 * 1024, self.authority).get(url).body


@pytest.fixture
def published(tmp_path: Path, pki: Pki) -> Iterator[Published]:
    faults = Faults()
    context = tls_context(pki.path("ans_server"), pki.key("ans_server"))
    server = serve_wsgi(
        BetterStackPublisher(faults, datetime.now(UTC)),
        "127.0.0.1",
        0,
        context,
        refuse=lambda: faults.take("betterstack", "unreachable") is not None,
    )
    yield Published(tmp_path / "health", server.url, pki, faults)
    server.stop()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("unreachable", "connect"),
        ("empty", "empty"),
        ("html", "html"),
        ("http_500", "status"),
        ("garbage", "encoding"),
        ("private", "special-address"),
        ("everyone", "too-wide"),
        ("shrunk", "shrunk"),
        ("invalid_lines", "invalid-entries"),
        ("too_many", "too-many"),
        ("truncated_json", "json"),
        ("slow", "timeout"),
        ("redirect", "redirect"),
    ],
)
def test_every_fault_keeps_the_last_good_list(
    published: Published, tmp_path: Path, fault: str, code: str
) -> None:
    assert published.keeper.refresh()
    published.events.clear()
    published.now = 6 * HOUR
    published.faults.arm("betterstack", fault, 2)
    published.patience = 1.0 if fault == "slow" else 20.0
    assert not published.keeper.refresh()
    published.patience = 20.0
    addresses, age, source = published.keeper.current
    assert (list(addresses.lines()), age, source) == (SORTED, 6 * HOUR, "download")
    assert read_list(tmp_path / "health" / FILE_NAME).addresses == addresses
    assert [(name, fields["code"]) for name, fields in published.events] == [
        ("HEALTH_LIST_REFUSED", code)
    ] * 2
    assert published.keeper.next_attempt == 6 * HOUR + 60
    published.events.clear()
    assert published.keeper.refresh(), "and back"
    assert [name for name, _ in published.events] == ["HEALTH_LIST_REFRESHED"]


def test_a_fault_of_one_form_leaves_the_other(published: Published) -> None:
    published.faults.arm("betterstack", "html", 1)
    assert published.keeper.refresh()
    assert published.keeper.current.source == "download"


def test_a_new_probe_is_let_in_after_a_refresh(published: Published) -> None:
    policy = IpFilter(enabled=True)
    published.keeper.refresh()
    assert policy.decide(GROWN[0], *published.keeper.current[:2]).reason == "unknown"
    published.faults.arm("betterstack", "grown", 1)
    assert published.keeper.refresh()
    assert all(published.keeper.current.addresses.contains(ip_address(new)) for new in GROWN)
    assert policy.decide(GROWN[0], *published.keeper.current[:2]).reason == "listed"


def test_a_publisher_of_another_authority_is_not_believed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, pki: Pki
) -> None:
    other = make_pki(tmp_path_factory.mktemp("other-lists") / "pki", datetime.now(UTC))
    context = tls_context(other.path("ans_server"), other.key("ans_server"))
    server = serve_wsgi(BetterStackPublisher(Faults(), datetime.now(UTC)), "127.0.0.1", 0, context)
    published = Published(tmp_path, server.url, pki, Faults())
    assert not published.keeper.refresh()
    server.stop()
    assert {fields["code"] for _, fields in published.events} == {"tls"}
    assert published.keeper.current.source == "seed"
