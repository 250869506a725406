"""What is on disk: never half written, never believed unverified, seen by other processes; and the CRLs beside it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from drimbox.simulators.pki import Pki, make_pki
from fixtures.whitelist_doubles import PARTNER, START, US, Clock, Judge, make_list
from whitelist import cache as cache_module
from whitelist import durable
from whitelist.cache import Cache
from whitelist.chain import Anchors, Crls
from whitelist.crl_store import MAX_CRL_BYTES, CrlStore, Refused, check_crl
from whitelist.decision import Alert, State
from whitelist.durable import Locked, Oversized, Unwritable, exclusively, read_bounded, sweep, write_durably
from whitelist.fetch import Fetched, Unreachable
from whitelist.record import Failure, Kept, from_json, to_json
from whitelist.view import View

ANCHORS = cast(Anchors, None)  # the judge of these tests asks for none
FULL = OSError(28, "No space left on device")


class Crash(BaseException):
    """The process is killed here."""


def keep(cache: Cache, octets: bytes, at: datetime, *, named: bool = True, **members: Any) -> Kept:
    report = Judge()(octets, ANCHORS, Crls(None, None), at=at, transport="HTTP 200")
    name = cache.archive(octets, report, named=named)
    kept = Kept(
        State.CURRENT if named else State.ABSENT, since=at, list_file=name, sha256=report.sha256,
        accepted_at=at, signed_at=report.signed_at, etag='"e"', last_attempt=at, last_success=at,
    )  # fmt: skip
    kept = replace(kept, **members)
    cache.save(kept)
    return kept


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "whitelist", examine=Judge())


def file_of(cache: Cache, kept: Kept) -> Path:
    assert kept.list_file
    return cache._directory / "lists" / kept.list_file


def test_nothing_was_ever_kept(cache: Cache) -> None:
    assert cache.load(ANCHORS) is None
    assert cache.stamp() is None


def test_what_is_kept_is_loaded_verified(cache: Cache) -> None:
    octets = make_list()
    kept = keep(cache, octets, START)
    loaded = cache.load(ANCHORS)
    assert loaded
    assert (loaded.kept, loaded.candidate, loaded.intact, loaded.warnings) == (kept, octets, True, ())
    assert loaded.trusted
    assert [domain.db for domain in loaded.trusted.domains] == [US, PARTNER]
    report = json.loads(next((cache._directory / "lists").glob("*.report.json")).read_text())
    assert report["report"]["accepted"] is True


def test_the_archive_is_judged_at_its_acceptance(cache: Cache) -> None:
    until = (START + timedelta(days=1)).isoformat()
    keep(cache, make_list(until=until), START)
    loaded = cache.load(ANCHORS)  # whatever the date is now: a restart after the signer's end loses nothing
    assert loaded
    assert loaded.intact


def test_a_list_that_does_not_verify_is_never_used(cache: Cache) -> None:
    kept = keep(cache, make_list(), START)
    path = file_of(cache, kept)
    path.write_bytes(make_list("evil.example.fr"))
    loaded = cache.load(ANCHORS)
    assert loaded
    assert (loaded.trusted, loaded.kept.state, loaded.kept.etag) == (None, State.NEVER, None)
    assert "cannot be used" in loaded.warnings[0]


def test_nor_one_whose_report_was_changed_with_it(cache: Cache) -> None:
    kept = keep(cache, make_list(), START)
    forged = make_list("evil.example.fr", broken="8")
    report = Judge()(forged, ANCHORS, Crls(None, None), at=START)
    cache.archive(forged, report, named=True)
    cache.save(
        replace(kept, list_file=f"{START:%Y%m%dT%H%M%S.%fZ}-{report.sha256[:16]}.xml", sha256=report.sha256)
    )
    loaded = cache.load(ANCHORS)
    assert loaded
    assert loaded.trusted
    assert not loaded.trusted.entries_of("evil.example.fr")
    assert "step 8" in loaded.warnings[0]


@pytest.mark.parametrize("damage", ["list", "report", "both gone", "empty"])
def test_damage_falls_back_to_the_newest_older_list(cache: Cache, damage: str) -> None:
    keep(cache, make_list(US), START)
    older = keep(cache, make_list(US, PARTNER, signed_at=START + timedelta(1)), START + timedelta(1))
    kept = keep(cache, make_list(signed_at=START + timedelta(2)), START + timedelta(2))
    path = file_of(cache, kept)
    report = cache._report_of(path.name)
    if damage in {"list", "empty"}:
        path.write_bytes(b"" if damage == "empty" else b"{}")
    elif damage == "report":
        report.write_text("{")
    else:
        path.unlink()
        report.unlink()
    loaded = cache.load(ANCHORS)
    assert loaded
    assert (loaded.kept.list_file, loaded.kept.state, loaded.intact) == (older.list_file, State.STALE, False)
    assert loaded.kept.signed_at == kept.signed_at  # the floor against roll-back stays
    assert len(loaded.warnings) == 2


def test_an_absence_stays_when_its_list_is_damaged(cache: Cache) -> None:
    keep(cache, make_list(), START)
    kept = keep(cache, make_list(PARTNER), START + timedelta(1), named=False)
    file_of(cache, kept).unlink()
    loaded = cache.load(ANCHORS)
    assert loaded
    assert loaded.kept.state is State.ABSENT


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 2}', b"\xff", None])
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_state_is_made_again_from_the_lists(
    cache: Cache, content: bytes | None, named: bool
) -> None:
    kept = keep(cache, make_list(), START, named=named)
    state = cache._directory / "state.json"
    state.unlink() if content is None else state.write_bytes(content)
    loaded = cache.load(ANCHORS)
    assert loaded
    assert loaded.kept.state is (State.STALE if named else State.ABSENT)
    assert (loaded.kept.list_file, loaded.kept.last_success) == (kept.list_file, START)
    assert loaded.trusted
    assert "state" in loaded.warnings[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "x.xml", ""])
def test_a_state_names_files_of_the_archive_only(cache: Cache, name: str) -> None:
    kept = keep(cache, make_list(), START)
    cache.save(replace(kept, list_file=name))
    loaded = cache.load(ANCHORS)
    assert loaded
    assert loaded.kept.list_file == kept.list_file  # fallen back
    assert not loaded.intact


@pytest.mark.parametrize("killed_at", range(3))
def test_a_crash_between_any_two_writes_leaves_the_list_before(
    cache: Cache, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keep(cache, make_list(), START)
    written: list[Path] = []

    def dying(path: Path, octets: bytes, mode: int = 0o640) -> None:
        if len(written) == killed_at:
            raise Crash
        written.append(path)
        write_durably(path, octets, mode)

    monkeypatch.setattr(cache_module, "write_durably", dying)
    with pytest.raises(Crash):
        keep(cache, make_list(PARTNER), START + timedelta(1), named=False)
    loaded = cache.load(ANCHORS)
    assert loaded
    assert (loaded.kept, loaded.intact, loaded.warnings) == (before, True, ())
    assert [p.suffix for p in written] == [".xml", ".json"][:killed_at]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_crash_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".partial-abc").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")
    assert sweep(tmp_path) == 0  # it may be written right now
    monkeypatch.setattr(durable, "ABANDONED", -10.0)
    assert sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_one_at_a_time(tmp_path: Path) -> None:
    with exclusively(tmp_path / "a.lock"):
        with pytest.raises(Locked):
            with exclusively(tmp_path / "a.lock"):
                pytest.fail("two hold the lock")
    with exclusively(tmp_path / "a.lock"):
        (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(Unwritable):
        with exclusively(tmp_path / "file" / "a.lock"):
            pytest.fail("a lock under a file")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bounded(tmp_path / "f", 5) == b"12345"
    with pytest.raises(Oversized):
        read_bounded(tmp_path / "f", 4)


def test_old_lists_are_pruned_but_never_the_one_in_force(cache: Cache) -> None:
    first = keep(cache, make_list(), START)
    for day in range(1, 10):
        keep(cache, make_list(signed_at=START + timedelta(day)), START + timedelta(day))
    now = START + timedelta(days=403, seconds=1)
    assert cache.prune(first, now) == 2 * 3  # days 1 to 3; day 0 is in force, five more are always kept
    left = sorted(p.name for p in (cache._directory / "lists").glob("*.xml"))
    assert len(left) == 7
    assert left[0] == first.list_file
    assert len(list((cache._directory / "lists").glob("*.report.json"))) == 7


def test_a_state_is_read_as_it_was_written() -> None:
    kept = Kept(
        State.STALE, since=START, told=State.CURRENT, list_file="é.xml", sha256="00", accepted_at=START, url="u",
        own_host="h", etag='"e"', last_attempt=START, next_attempt=START, failure=Failure(START, "c", "r"),
        failures=3, tries=4, failing_since=START, minute=1439, alert=Alert.ERROR, alerted_at=START,
    )  # fmt: skip
    assert from_json(to_json(kept)) == kept
    assert from_json(to_json(Kept())) == Kept()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("state", "FINE"), ("since", "2026-10-01T12:00:00"), ("since", 3), ("failures", -1), ("failures", True),
        ("etag", 1), ("failure", {"at": 1}), ("failure", []), ("alert", "loud"), ("url", None),
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_refused(member: str, value: object) -> None:
    members = json.loads(to_json(Kept()))
    members[member] = value
    with pytest.raises(ValueError, match=r".+"):
        from_json(json.dumps(members).encode())


class Looking:
    """A view with a clock and a stopwatch of its own."""

    def __init__(self, directory: Path) -> None:
        self.judge, self.clock, self.seconds = Judge(), Clock(), 0.0
        self.view = View(
            directory, ANCHORS, examine=self.judge, clock=self.clock, monotonic=lambda: self.seconds
        )


@pytest.fixture
def looking(cache: Cache) -> Looking:
    return Looking(cache._directory)


def test_a_view_of_nothing_is_never(looking: Looking) -> None:
    snapshot = looking.view.current()
    assert (snapshot.state, snapshot.trusted, snapshot.alert) == (State.NEVER, None, Alert.ERROR)


def test_a_view_reads_again_only_what_changed(cache: Cache, looking: Looking) -> None:
    keep(cache, make_list(), START)
    for _ in range(50):
        assert looking.view.current().state is State.CURRENT
        looking.seconds += 10
    assert looking.judge.calls == 1
    keep(cache, make_list(PARTNER), START + timedelta(1), named=False)
    snapshot = looking.view.current()
    assert (snapshot.state, snapshot.since, snapshot.alert) == (
        State.ABSENT, START + timedelta(1), Alert.CRITICAL,
    )  # fmt: skip
    assert looking.judge.calls == 2


def test_a_view_looks_once_a_second_at_most(cache: Cache, looking: Looking) -> None:
    assert looking.view.current().state is State.NEVER
    keep(cache, make_list(), START)
    looking.seconds = 0.9
    assert looking.view.current().state is State.NEVER
    looking.seconds = 1.0
    assert looking.view.current().state is State.CURRENT


def test_a_view_says_stale_when_nobody_renews(cache: Cache, looking: Looking) -> None:
    keep(cache, make_list(), START)
    assert looking.view.current().state is State.CURRENT
    looking.clock.forward(hours=27)
    late = looking.view.current()
    assert (late.state, late.alert) == (State.STALE, Alert.WARNING)
    assert late.trusted is not None
    looking.clock.forward(hours=21)
    assert looking.view.current().alert is Alert.ERROR


def test_a_view_looks_again_at_a_damaged_directory(cache: Cache, looking: Looking) -> None:
    kept = keep(cache, make_list(), START)
    path = file_of(cache, kept)
    path.rename(path.with_suffix(".away"))
    assert looking.view.current().state is State.NEVER
    path.with_suffix(".away").rename(path)
    looking.seconds = 30
    assert looking.view.current().state is State.NEVER
    looking.seconds = 61
    assert looking.view.current().state is State.CURRENT


def test_many_threads_read_one_view(cache: Cache) -> None:
    kept = keep(cache, make_list(), START)
    judge = Judge()
    view = View(cache._directory, ANCHORS, examine=judge, clock=Clock())
    seen: list[State] = []

    def read() -> None:
        seen.extend(view.current().state for _ in range(200))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    cache.save(replace(kept, tries=1))
    for thread in threads:
        thread.join()
    assert set(seen) == {State.CURRENT}
    assert len(seen) == 1600
    assert judge.calls <= 2


# --- CRLs ---


class CrlServer:
    """Two CRLs at their addresses, or the code of an `Unreachable`."""

    def __init__(self, pki: Pki) -> None:
        self.published: dict[str, bytes | str] = {}
        self.asked: list[str] = []
        for name, authority in (("http://crl/aci", "aci"), ("http://crl/root", "root")):
            self.published[name] = pki.crl(authority=authority, this_update=START).public_bytes(Encoding.DER)

    def get(
        self, url: str, etag: str | None = None, modified: str | None = None, *, plain: bool = False
    ) -> Fetched:
        assert plain
        self.asked.append(url)
        body = self.published[url]
        if isinstance(body, str):
            raise Unreachable(body, "as the test wants")
        return Fetched(200, body, etag, modified, "", url)


class Store:
    """A CRL store with its server and its clock."""

    def __init__(self, pki: Pki, directory: Path) -> None:
        self.pki, self.clock, self.server, self.directory = pki, Clock(), CrlServer(pki), directory
        self.anchors = Anchors(pki.certificate("root"), pki.certificate("aci"), "", "", frozenset(), "test")
        self.store = self.again()

    def again(self) -> CrlStore:
        urls: Any = {"intermediate": "http://crl/aci", "root": "http://crl/root"}
        return CrlStore(self.directory, urls, self.anchors, self.server, self.clock, lambda: 0.0)

    def publish(self, **options: Any) -> None:
        options = {"this_update": self.clock.now} | options
        self.server.published["http://crl/aci"] = self.pki.crl(**options).public_bytes(Encoding.DER)

    @property
    def number(self) -> int | None:
        crl = self.store.current().of_intermediate
        if crl is None:  # an empty one is falsy
            return None
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("crls") / "pki", START - timedelta(days=10))


@pytest.fixture
def store(pki: Pki, tmp_path: Path) -> Iterator[Store]:
    yield Store(pki, tmp_path / "crls")


def test_no_crl_before_the_first_download(store: Store) -> None:
    assert store.store.current() == Crls(None, None)


def test_crls_are_downloaded_every_twelve_hours(store: Store) -> None:
    assert [crl.done for crl in store.store.refresh()] == [True, True]
    assert store.again().current().of_root is not None
    store.clock.forward(hours=11)
    assert store.store.refresh() == ()
    store.clock.forward(hours=1)
    assert [crl.which for crl in store.store.refresh()] == ["intermediate", "root"]
    assert [crl.which for crl in store.store.refresh(force=True)] == ["intermediate", "root"]
    assert len(store.server.asked) == 6


def test_a_failed_download_keeps_the_old_one_and_says_so(store: Store) -> None:
    store.store.refresh()
    kept = store.store.current()
    store.server.published["http://crl/aci"] = "timeout"
    store.clock.forward(hours=12)
    first, second = store.store.refresh()
    assert (first.which, first.done, first.why) == ("intermediate", False, "timeout: as the test wants")
    assert second.done
    assert store.store.current().of_intermediate == kept.of_intermediate
    assert [crl.which for crl in store.store.refresh()] == ["intermediate"]  # still due


def test_a_pem_crl_is_read_too(store: Store) -> None:
    pem = store.pki.crl(this_update=START, number=9).public_bytes(Encoding.PEM)
    store.server.published["http://crl/aci"] = pem
    assert store.store.refresh()[0].done
    assert store.number == 9


CRL_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another key": ({"foreign_authority": True}, "not of the pinned authority"),
    "another authority": ({"authority": "root"}, "another authority"),
    "a lower number": ({"number": 7}, "lower than 8"),
    "of the future": ({"this_update": START + timedelta(hours=1)}, "future"),
}


@pytest.mark.parametrize("case", CRL_FAULTS)
def test_crls_that_are_not_kept(store: Store, case: str) -> None:
    options, why = CRL_FAULTS[case]
    store.publish(number=8)
    assert store.store.refresh()[0].done
    store.publish(**({"number": 99} | options))
    result = store.store.refresh(force=True)[0]
    assert not result.done
    assert why in result.why
    assert store.number == 8


@pytest.mark.parametrize(
    "octets",
    [b"", b"<html>", b"-----BEGIN X509 CRL-----\nAAAA\n", b"x" * (MAX_CRL_BYTES + 1)],
    ids=["empty", "page", "pem", "huge"],
)
def test_what_is_no_crl_is_not_kept(store: Store, octets: bytes) -> None:
    store.server.published["http://crl/aci"] = octets
    result = store.store.refresh()[0]
    assert (result.done, result.why[:8]) == (False, "refused:")
    assert store.store.current().of_intermediate is None


@pytest.mark.parametrize("kind", ["delta", "partial", "unknown critical", "complete"])
def test_a_crl_must_cover_everything(pki: Pki, kind: str) -> None:
    authority, key = pki.load("aci")
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(START)
        .next_update(START + timedelta(days=6))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    if kind == "delta":
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    elif kind == "partial":
        scope = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
        builder = builder.add_extension(scope, critical=True)
    elif kind == "unknown critical":
        oid = x509.ObjectIdentifier("1.2.3.4")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=True)
    crl = builder.sign(key, hashes.SHA256())
    if kind == "complete":
        check_crl(crl, authority, now=START, skew=timedelta(0))
        return
    with pytest.raises(Refused):
        check_crl(crl, authority, now=START, skew=timedelta(0))


def test_a_damaged_crl_counts_as_none_and_is_fetched_again(store: Store) -> None:
    store.store.refresh()
    (store.directory / "intermediate.crl").write_bytes(b"damage")
    assert store.store.current().of_intermediate is None
    assert [crl.which for crl in store.store.refresh()] == ["intermediate"]
    assert store.store.current().of_intermediate is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"fetched": 1, "due": 2}'])
def test_a_crl_of_unknown_age_is_fetched_again(store: Store, content: bytes) -> None:
    store.store.refresh()
    (store.directory / "root.json").write_bytes(content)
    assert [crl.which for crl in store.store.refresh()] == ["root"]


def test_a_download_of_the_future_does_not_stop_the_next(store: Store) -> None:
    store.store.refresh()
    store.clock.forward(days=-3)
    assert {crl.which for crl in store.store.refresh()} == {"intermediate", "root"}


def test_a_crl_may_be_brought_by_hand(store: Store) -> None:
    crl = store.pki.crl(authority="root", this_update=START)
    assert store.store.keep(crl.public_bytes(Encoding.PEM)) == "root"
    assert store.store.current().of_root == crl
    foreign = store.pki.crl(foreign_authority=True, this_update=START)
    with pytest.raises(Refused):
        store.store.keep(foreign.public_bytes(Encoding.DER))


def test_a_disk_that_takes_nothing_is_said(store: Store) -> None:
    store.directory.write_bytes(b"a file where the directory should be")
    assert [crl.done for crl in store.store.refresh()] == [False, False]
    assert store.store.current() == Crls(None, None)


def test_two_processes_do_not_refresh_at_once(store: Store) -> None:
    store.store.refresh()
    with exclusively(store.directory / "crls.lock"):
        assert [crl.why for crl in store.store.refresh(force=True)] == [
            "crls.lock is held by another process"
        ] * 2
    assert len(store.server.asked) == 2
