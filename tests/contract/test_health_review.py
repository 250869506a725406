"""The health check where it could lie or hang: partial reports, two looks at once, hung looks, files, records."""

from __future__ import annotations

import json
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drimbox.adapters import probes
from drimbox.adapters.probes_net import ClientFiles, tls_connect
from drimbox.adapters.retrieval_journal import RetrievalJournal
from drimbox.adapters.transactions import SqlTransactions
from drimbox.bootstrap import Foundation, lay_foundation, node_name, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints import health, health_cli, health_report
from drimbox.entrypoints.health_probes import make_probes
from drimbox.entrypoints.metrics import metrics_text
from drimbox.flow import trace
from drimbox.flow.health_log import MOST_AGENTS, refused_by_day
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.flow.retrievals import FORBIDDEN, probe_refused, refused
from drimbox.membership import make_mesh
from drimbox.settings.health import PROBES
from drimbox.settings.whole import Settings, parse_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.pki import Pki
from drimbox.simulators.ports import assign_ports
from fixtures.kept_pki import kept_pki
from fixtures.newest_database import bring_to_newest
from healthcheck.ip_list import AddressList, parse_list
from healthcheck.list_file import KeptList, write_list
from healthcheck.probe import Outcome, Probe, Status
from healthcheck.report import decode
from healthcheck.runner import Runner

PATIENCE = 10.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("review") / "pki")


@pytest.fixture
def settings(pki: Pki, tmp_path: Path) -> Settings:
    made = parse_settings(drimbox_toml(pki.directory.parent, assign_ports(None), pki))
    storage = made.storage.model_copy(update={"root": tmp_path / "storage"})
    database = made.database.model_copy(update={"url": f"sqlite:///{tmp_path / 'drimbox.sqlite'}"})
    return made.model_copy(update={"storage": storage, "database": database})


@pytest.fixture
def foundation(settings: Settings) -> Iterator[Foundation]:
    settings.storage.root.mkdir(parents=True)
    made = lay_foundation(settings)
    bring_to_newest(made.database)
    yield made
    made.archive.close()
    made.database.close()


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """What hangs until it is set, at the latest at the end of the test."""
    free = threading.Event()
    yield free
    free.set()


def hanging(name: str, free: threading.Event) -> Probe:
    def look() -> Outcome:
        free.wait(60)
        return Outcome()

    return Probe(name, look, 15, 0.5)


# --- the report


def test_nothing_is_told_before_every_vital_probe_has_looked(
    foundation: Foundation, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, seen = Probe("mllp:connect", Outcome, 15, 5), threading.Event()

    def look() -> Outcome:
        seen.set()
        hung.wait(60)
        return Outcome()

    slow = Probe("database:write", look, 15, 5)
    monkeypatch.setattr(health, "make_probes", lambda *_: (quick, slow))
    shared = health.Shared(1)
    watch = health.HealthWatch(foundation, make_mesh(foundation.settings), shared)
    watch.start()
    try:
        assert seen.wait(PATIENCE)
        until(lambda: "mllp:connect" in watch._runner._results)
        assert shared.report.read() == (0, b"")
        hung.set()
        until(lambda: shared.report.read()[1])
        assert {one.name for one in decode(shared.report.read()[1])} == {"mllp:connect", "database:write"}
    finally:
        watch.stop()


def test_looks_that_hang_do_not_hold_up_the_stop_one_after_the_other(hung: threading.Event) -> None:
    crew = [hanging(f"hung:{number}", hung) for number in range(8)]
    runner = Runner(crew, lambda _: None, lambda *_: None, utc_now, time.monotonic)
    runner.start()
    begun = time.monotonic()
    runner.stop()
    assert time.monotonic() - begun < 6  # eight times two seconds, before


def test_looking_now_ends_though_a_look_hangs(
    foundation: Foundation, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = (Probe("a:b", Outcome, 15, 5), hanging("hung:up", hung))
    monkeypatch.setattr(health_report, "make_probes", lambda *_: crew)
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(health_report.look_now(foundation)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    (report,) = found
    assert {name: check["status"] for name, (check,) in report["checks"].items()} == {
        "a:b": "pass", "hung:up": "fail",
    }  # fmt: skip


def test_two_processes_may_look_at_the_image_store_at_once(tmp_path: Path) -> None:
    wrong: list[Outcome] = []

    def look() -> None:
        for _ in range(300):
            outcome = probes.images_write(tmp_path, ".health-node-web")
            if outcome.status is not Status.PASS:
                wrong.append(outcome)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(tmp_path.iterdir()) == []


def test_every_probe_may_be_named_in_fail_on(foundation: Foundation) -> None:
    names = {probe.name for probe in make_probes(foundation, make_mesh(foundation.settings))}
    assert names <= PROBES


def test_a_certificate_that_was_renewed_helps_nobody_before_the_listener_takes_it(
    pki: Pki, tmp_path: Path
) -> None:
    def issue(*, expired: bool = False) -> tuple[Path, bytes]:
        path, _ = pki.issue("SERV_SSL", "drimbox.localhost", "1750803447", expired=expired).write(
            tmp_path, "web"
        )
        return path, path.read_bytes()

    path, old = issue(expired=True)
    _, new = issue()

    def look(loaded: bytes) -> Outcome:
        return probes.certificate_served(path, lambda: loaded, 30, utc_now)

    served = look(old)
    assert served.status is Status.FAIL
    assert "reload `drimbox web`" in served.output
    assert look(new).status is Status.PASS
    issue(expired=True)
    assert (look(new).status, "reload" in look(new).output) == (Status.FAIL, False)


# --- its files


def test_the_report_is_for_its_owner_alone_and_leaves_nothing_else(settings: Settings) -> None:
    directory = settings.storage.root / "health"
    write_list(directory / "betterstack.json", KeptList(parse_list(b"192.88.99.1\n"), utc_now(), "https://x"))
    health_report.write_report(settings, ())
    half = next(directory.glob("*.json")).with_name(f".node-{node_name(settings)}.json.half")
    half.write_text("what a crash left", "utf-8")
    health_report.write_report(settings, ())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    report = directory / f"node-{node_name(settings)}.json"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert {path.name for path in directory.iterdir()} == {"betterstack.json", report.name}


def test_a_link_in_the_place_of_a_draft_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    target = tmp_path / "somebody's"
    target.write_text("precious", "utf-8")
    health_report.write_report(settings, ())
    draft = settings.storage.root / "health" / f".node-{node_name(settings)}.json.half"
    draft.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        health_report.write_report(settings, ())
    assert target.read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("hours", "words"), [(-1, "the clock was set"), (1, "no report for 3600 s"), (0, None)]
)
def test_a_report_of_another_time_says_nothing(settings: Settings, hours: int, words: str | None) -> None:
    health_report.write_report(settings, ())
    written = datetime.fromisoformat(
        json.loads(next((settings.storage.root / "health").glob("*.json")).read_text("utf-8"))["written"]
    )
    now = written + timedelta(hours=hours)
    if words is None:
        assert health_report.read_report(settings, now)["status"] == "fail"
        return
    with pytest.raises(health_report.NoReport, match=words):
        health_report.read_report(settings, now)


# --- its records


def test_a_database_that_is_gone_leaves_the_gauges_of_our_health(
    foundation: Foundation, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = health.HealthView(health.Shared(1), foundation.settings.health, records=None)  # type: ignore[arg-type]
    assert re.search(rb"^drimbox_ledger_readable{[^}]*} 1.0$", metrics_text(foundation, view.metrics), re.M)

    def gone(_self: object) -> object:
        raise Unavailable("the database cannot be used now: no route")

    monkeypatch.setattr(SqlTransactions, "reading", gone)
    text = metrics_text(foundation, view.metrics)
    assert re.search(rb"^drimbox_ledger_readable{[^}]*} 0.0$", text, re.M)
    assert re.search(rb"^drimbox_health{[^}]*} 2.0$", text, re.M)
    assert b"drimbox_exams" not in text


def test_a_flood_at_the_health_check_hides_no_refusal_of_a_partner(foundation: Foundation) -> None:
    log = RetrievalLog(
        foundation.transactions, RetrievalJournal(foundation.settings.storage.root / "audit"), utc_now, print
    )
    at = utc_now()
    for number in range(200):
        log.refuse(*probe_refused(f"192.0.2.{number}", "x", at), stranger=True, at=at)
    partner = {"at": at.isoformat(), "actor": "partner:198.51.100.1"}
    log.refuse(partner, refused("token-inactive", 401, "", 1.0), stranger=True, at=at)
    log.start()
    log.stop()
    with foundation.transactions.reading() as transaction:
        rows = list(transaction.traces.after(0, 1000))
    (own,) = [row for row in rows if row.actor.startswith("partner:")]
    assert (own.detail["status"], "repeated" in own.detail) == (401, False)
    told = [row.detail.get("repeated", 1) for row in rows if row.event == FORBIDDEN]
    assert sum(told) == 200


def test_what_the_refused_called_themselves_is_bounded_and_no_markup(
    foundation: Foundation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foundation.transactions.writing() as transaction:
        for number in range(3 * MOST_AGENTS):
            words = {"user_agent": f"agent {number} [/b]"}
            trace.note(transaction, FORBIDDEN, at=utc_now(), actor="probe:192.0.2.1", **words)
        transaction.commit()
    (one,) = refused_by_day(foundation.transactions, utc_now() - timedelta(days=2))
    assert (one.count, len(one.user_agents)) == (3 * MOST_AGENTS, MOST_AGENTS)

    class Opened:
        def __enter__(self) -> Foundation:
            return foundation

        def __exit__(self, *_: object) -> None:
            """The fixture closes it."""

    monkeypatch.setattr(health_cli, "open_stores", lambda _config: Opened())
    done = CliRunner().invoke(health_cli.health_app, ["refused"])
    assert (done.exit_code, done.exception) == (0, None)
    assert "[/b]" in done.output


def test_a_server_of_many_silent_addresses_is_given_up_in_time(
    pki: Pki, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as held:
        port = full.getsockname()[1]
        for _ in range(3):  # its backlog is full: who connects now is not answered
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: 4 * resolve(*asked, **how)[:1])
        psc = settings.psc
        files = ClientFiles(psc.authority, psc.client_certificate, psc.client_key)
        begun = time.monotonic()
        outcome = tls_connect([("127.0.0.1", port)], files, utc_now, 1.0)
        assert time.monotonic() - begun < 2.5  # four times one second, before
    assert (outcome.status, outcome.output) == (
        Status.WARN, f"127.0.0.1:{port}: no connection within 1.0 s",
    )  # fmt: skip


def test_a_list_that_is_shared_again_is_not_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, read = health.Shared(1), []

    def parse(body: bytes) -> AddressList:
        read.append(body)
        return parse_list(body)

    monkeypatch.setattr(health, "parse_list", parse)
    view = health.HealthView(shared, settings.health, records=None)  # type: ignore[arg-type]
    for since, text in ((None, "192.88.99.1\n"), (1.0, "192.88.99.1\n"), (2.0, "192.88.99.2\n")):
        shared.addresses.write(json.dumps({"addresses": text, "since": since}).encode("ascii"))
        listed = view._addresses()
        assert listed.since == since
        assert listed.addresses is not None
        assert listed.addresses.as_text() == text.encode("ascii")
    assert read == [b"192.88.99.1\n", b"192.88.99.2\n"]
