"""The gate on real stores: each refusal, what is seen at once, what a dead database does, one record per request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import create_engine, text

from drimbox.adapters.database import Database
from drimbox.adapters.logs import ALLOWED
from drimbox.adapters.retrieval_journal import RetrievalJournal
from drimbox.adapters.serving_queries import Standings
from drimbox.domain.access import Standing, Wish, check_token
from drimbox.domain.errors import AccessRefused, Damaged, PscBusy, PscUnavailable, Unavailable
from drimbox.domain.lifecycle import SubmissionState
from drimbox.domain.token_claims import TokenRules
from drimbox.domain.xds.outcome import Exchange, NoAnswer
from drimbox.flow import authorise, exams, retrieval_log
from drimbox.flow.authorise import Gate, Grant
from drimbox.flow.freshness import Freshness
from drimbox.flow.keep_report import Arrival
from drimbox.flow.partners import Partners
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.flow.retrievals import Peer
from drimbox.flow.shared_facts import FactsKept, SharedReading
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import make_rejection_note
from fixtures.reports import ReportSpec, make_cda, make_omi, make_oru
from whitelist.decision import State
from whitelist.document import TrustedList

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 3),)
)
SERIES, FIRST, SECOND = uid(SPEC, 1), uid(SPEC, 1, 1), uid(SPEC, 1, 2)
PEER = Peer("192.0.2.7", b"DER", "CN=db.example.fr")
SOON = 10.0  # seconds
NOBODY = TrustedList("ns", "1.0.0", None, ())


@dataclass(frozen=True)
class Seen:
    state: State
    trusted: TrustedList | None


class Mesh:
    def __init__(self) -> None:
        self.state = State.CURRENT

    def current(self) -> Seen:
        return Seen(self.state, None if self.state is State.NEVER else NOBODY)


class Introspected:
    """Pro Santé Connect, with claims that the test sets; `ask` counts."""

    def __init__(self, box: Any) -> None:
        self.claims = {
            "active": True, "exp": box.now.timestamp() + 3600, "iss": "https://psc", "acr": "eidas1",
            "scope": "openid", "preferred_username": "899700218896", "azp": "box-b", "jti": "j-1",
        }  # fmt: skip
        self.asked = 0
        self.trouble: Exception | None = None
        self.cached = True
        self._answer: Mapping[str, Any] = {}

    def answer(self) -> Mapping[str, Any]:
        """As Pro Santé Connect: the same object until another answer came."""
        if self._answer != self.claims:
            self._answer = dict(self.claims)
        return self._answer

    def known(self, token: str) -> Mapping[str, Any] | None:
        return self.answer() if self.cached and self.trouble is None else None

    def ask(self, token: str) -> Future[Mapping[str, Any]]:
        self.asked += 1
        answer: Future[Mapping[str, Any]] = Future()
        if isinstance(self.trouble, PscBusy):
            raise self.trouble
        if self.trouble is not None:
            answer.set_exception(self.trouble)
        else:
            answer.set_result(self.answer())
        return answer


class Looks(Standings):
    """Counts the questions."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.looks: list[list[str]] = []

    def __call__(self, kos_uids: Collection[str]) -> Mapping[str, Standing]:
        self.looks.append(list(kos_uids))
        return super().__call__(kos_uids)


class Scene:
    """A published exam of two images and the gate before it. `admit` in an event loop that lives as long."""

    def __init__(self, box: Any, root: Path) -> None:
        self.box, self.mesh, self.psc, self.said = box, Mesh(), Introspected(box), box.logged
        self.standings = Looks(box.database)
        self.reading = SharedReading(box.transactions, box.documents, FactsKept())
        self.reads = 0
        self.journal = RetrievalJournal(root / "audit")
        self.records = RetrievalLog(box.transactions, self.journal, lambda: box.now, self.say)
        self.gate = self.make_gate()
        self.loop = asyncio.new_event_loop()

    def make_gate(self, grace: float = 0) -> Gate:
        freshness = Freshness(self.standings, self.reading, timedelta(seconds=grace))
        partners = Partners(self.mesh, "warn", self.say, monotonic=lambda: self.box.now.timestamp())
        return Gate(
            partners,
            self.psc,
            TokenRules("https://psc"),
            freshness,
            self.records,
            lambda: self.box.now,
            self.say,
        )

    def say(self, event: str, **fields: Any) -> None:
        assert fields.keys() <= ALLOWED, "a log line may carry it"
        self.said.append(event)

    @property
    def looks(self) -> list[list[str]]:
        return self.standings.looks

    @property
    def kos(self) -> str:
        return str(self.box.exam()["manifest"]["sop_instance_uid"])

    def wish(self, sop: str | None = None, kos: str | None = None, **change: Any) -> Wish:
        series = SERIES if sop else None
        return Wish(STUDY, series, sop, "Bearer t", self.kos if kos is None else kos)

    def run(self, story: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(story)

    def admit(self, wish: Wish | None = None, peer: Peer = PEER) -> Grant:
        """By both ways, which must agree; the grant of the second."""
        outcomes: list[Any] = []
        for way in (lambda: self.gate.decide(wish or self.wish(), peer), lambda: self.soon(wish, peer)):
            try:
                outcomes.append(way())
            except AccessRefused as refusal:
                outcomes.append(refusal)
        first, second = outcomes
        if isinstance(first, Grant):
            first.finished(0, True, ())
            assert [p.ref for p in first.instances] == [p.ref for p in second.instances]
            return second
        assert (first.code, first.status) == (second.code, second.status)
        raise second

    def soon(self, wish: Wish | None, peer: Peer = PEER) -> Grant:
        grant: Grant = self.run(self.gate.admit(wish or self.wish(), peer))
        return grant

    def answer(self, wish: Wish | None = None, peer: Peer = PEER) -> str:
        """A slug, or how many instances."""
        try:
            grant = self.admit(wish, peer)
        except AccessRefused as refusal:
            return refusal.code
        grant.finished(1, True, ())
        return str(len(grant.instances))

    def reject(self, code: str, root: Path, *instances: int) -> None:
        note = make_rejection_note(root, SPEC, code, [(1, number) for number in instances])
        self.box.image(dcmread(note))

    def hl7(self, message: bytes) -> None:
        answer = self.box.reception.message(Arrival(message, "mllp", "127.0.0.1", self.box.now))
        assert b"MSA|AA" in answer

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The rows of retrievals, once there are that many; and no more come."""
        self.records.stop()
        found = [event for event in self.trace() if event["event"].startswith("RETRIEVAL_")]
        assert len(found) == count, found
        return found

    def trace(self) -> list[dict[str, Any]]:
        with self.box.database.reading() as session:
            rows = session.execute(
                text("SELECT event, actor, study_instance_uid, detail FROM trace ORDER BY id")
            )
            return [as_event(*row) for row in rows]

    def close(self) -> None:
        self.gate.close()
        self.loop.close()


def as_event(event: str, actor: str, study: str | None, detail: Any) -> dict[str, Any]:
    return {"event": event, "actor": actor, "study": study} | (
        json.loads(detail) if isinstance(detail, str) else detail
    )


@pytest.fixture
def scene(box: Any, tmp_path: Path) -> Iterator[Scene]:
    yield from make_scene(box, tmp_path)


def make_scene(box: Any, root: Path) -> Iterator[Scene]:
    box.bring(2)
    box.work()
    scene = Scene(box, root)
    scene.records.start()
    try:
        yield scene
    finally:
        scene.close()


@pytest.fixture
def twice(make_box: Any, newest_url: str, tmp_path: Path) -> Iterator[Scene]:
    """The same on each engine."""
    box = make_box(tmp_path, newest_url)
    yield from make_scene(box, tmp_path)
    box.archive.close()
    box.database.close()


# --- the decision


def test_what_is_shared_leaves(scene: Scene) -> None:
    assert scene.answer() == "2"
    assert scene.answer(scene.wish(FIRST)) == "1"
    assert scene.answer(Wish(STUDY, SERIES, None, "Bearer t", scene.kos)) == "2"


REFUSED: list[tuple[str, Callable[[Scene], Any]]] = [
    ("not-in-whitelist", lambda s: setattr(s.mesh, "state", State.ABSENT)),
    ("whitelist-unknown", lambda s: setattr(s.mesh, "state", State.NEVER)),
    ("token-inactive", lambda s: s.psc.claims.update(active=False)),
    ("token-inactive", lambda s: s.psc.claims.update(exp=s.box.now.timestamp())),  # of a cached answer
    ("token-inactive", lambda s: s.psc.claims.update(iss="https://another")),
    ("token-binding", lambda s: s.psc.claims.update(cnf={"x5t#S256": "x"})),
    ("psc-unavailable", lambda s: setattr(s.psc, "trouble", PscUnavailable("down"))),
    ("busy", lambda s: setattr(s.psc, "trouble", PscBusy("many"))),
    ("kos-unpublished", lambda s: exams.withdraw_exam(
        s.box.transactions, STUDY, now=s.box.now, actor="operator", reason="r")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("slug", "break_it"), REFUSED, ids=[f"{n}-{row[0]}" for n, row in enumerate(REFUSED)]
)
def test_each_refusal(scene: Scene, slug: str, break_it: Callable[[Scene], Any]) -> None:
    assert scene.answer() == "2"
    break_it(scene)
    scene.box.later(10)  # the whitelist is looked at again
    assert scene.answer() == slug


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"authorization": None}, "token-missing"),
        ({"kos": None}, "kos-header"),
        ({"kos": "2.25.404"}, "kos-unknown"),
        ({"study": "1.2.3"}, "kos-unknown"),
        ({"series": "1.2.3"}, "instance-not-shared"),
        ({"series": SERIES, "sop": uid(SPEC, 1, 3)}, "instance-not-shared"),
    ],
)
def test_each_refused_wish(scene: Scene, change: dict[str, Any], slug: str) -> None:
    values = {
        "study": STUDY, "series": None, "sop": None, "authorization": "Bearer t", "kos": scene.kos
    } | change  # fmt: skip
    assert scene.answer(Wish(**values)) == slug


def test_the_order_of_the_checks(scene: Scene) -> None:
    """Mesh, token, header, manifest: what comes first is what is answered."""
    scene.mesh.state = State.ABSENT
    everything_wrong = Wish("1.2.3", None, None, None, None)
    assert scene.answer(everything_wrong) == "not-in-whitelist"
    scene.mesh.state = State.CURRENT
    scene.box.later(10)
    assert scene.answer(everything_wrong) == "token-missing"
    assert scene.answer(Wish("1.2.3", None, None, "Bearer t", None)) == "kos-header"
    assert scene.looks == [], "no stranger makes us ask the database"


def test_a_token_that_is_not_known_is_asked_about(scene: Scene) -> None:
    scene.psc.cached = False
    assert scene.answer() == "2"
    assert scene.psc.asked == 2


def test_strangers_do_not_keep_partners_from_being_asked_about(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shows no certificate gets only some of the questions that may be asked at once."""
    monkeypatch.setattr(authorise, "STRANGERS_ASKED", 2)
    scene.psc.cached = False
    slow: list[Future[Any]] = []
    answer, stranger = scene.psc.ask, Peer("198.51.100.1")

    def ask(token: str) -> Future[Any]:
        if token == "t":
            return answer(token)
        slow.append(Future())
        return slow[-1]

    monkeypatch.setattr(scene.psc, "ask", ask)

    async def story() -> None:
        asked = [
            asyncio.ensure_future(
                scene.gate.admit(Wish(STUDY, None, None, f"Bearer {token}", scene.kos), stranger)
            )
            for token in ("s1", "s2", "s1")
        ]
        await asyncio.sleep(0)
        while len(slow) < 3:
            await asyncio.sleep(0.01)
        late = Wish(STUDY, None, None, "Bearer s3", scene.kos)
        with pytest.raises(AccessRefused) as refusal:
            await scene.gate.admit(late, stranger)
        assert refusal.value.code == "busy"
        grant = await scene.gate.admit(Wish(STUDY, None, None, "Bearer t", scene.kos), PEER)
        grant.finished(1, True, ())
        for one in slow:
            one.set_result({"active": False})
        for ended in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(ended, AccessRefused)
            assert ended.code == "token-inactive"
        with pytest.raises(AccessRefused) as refusal:
            task = asyncio.ensure_future(scene.gate.admit(late, stranger))
            while len(slow) < 4:
                await asyncio.sleep(0.01)
            slow[-1].set_result({"active": False})
            await task
        assert refusal.value.code == "token-inactive", "there is room again"

    scene.loop.run_until_complete(story())


def test_a_bound_token_without_a_certificate_is_admitted_and_said(scene: Scene) -> None:
    scene.psc.claims["cnf"] = {"x5t#S256": "x"}
    assert scene.answer(peer=Peer("192.0.2.7")) == "2"
    assert {row["binding"] for row in scene.rows(2)} == {"unchecked"}


# --- what takes effect at once


def cancel(scene: Scene) -> None:
    scene.hl7(make_omi(ReportSpec(), STUDY, "ACN901"))


def withdraw_report(scene: Scene) -> None:
    scene.hl7(make_oru(make_cda(), ReportSpec(), order_control="CA", control_id="CA-1"))


def late_image(scene: Scene) -> None:
    scene.box.image(list(study_datasets(SPEC))[2])


def replaced(scene: Scene) -> None:
    late_image(scene)
    scene.box.later(61)
    scene.box.work()


def in_doubt(scene: Scene) -> None:
    scene.box.dmp.answers = [NoAnswer(Exchange("m"), "silence")]
    late_image(scene)
    scene.box.later(61)
    scene.box.work()


AT_ONCE: list[tuple[str, Callable[[Scene, Path], Any], str]] = [
    ("113037 of one", lambda s, root: s.reject("113037", root, 1), "instance-withdrawn"),
    ("113038 of all", lambda s, root: s.reject("113038", root, 1, 2), "instance-withdrawn"),
    ("113001 waits for the manifest", lambda s, root: s.reject("113001", root, 1), "1"),
    ("order", lambda s, _: cancel(s), "kos-unpublished"),
    ("report", lambda s, _: withdraw_report(s), "kos-unpublished"),
    ("operator", lambda s, _: exams.withdraw_exam(
        s.box.transactions, STUDY, now=s.box.now, actor="operator", reason="r"), "kos-unpublished"),
    ("late image", lambda s, _: late_image(s), "1"),
    ("replaced", lambda s, _: replaced(s), "kos-replaced"),
    ("replaced in doubt", lambda s, _: in_doubt(s), "1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "answer"), AT_ONCE, ids=[row[0] for row in AT_ONCE])
def test_a_change_is_seen_by_the_next_request(
    twice: Scene, tmp_path: Path, name: str, change: Callable[[Scene, Path], Any], answer: str
) -> None:
    wish = twice.wish(FIRST)
    assert twice.answer(wish) == "1"
    change(twice, tmp_path / "notes")
    assert twice.answer(wish) == answer


def test_what_is_restored_serves_again(scene: Scene) -> None:
    transactions, box = scene.box.transactions, scene.box
    wish = scene.wish()
    assert scene.answer(wish) == "2"
    exams.withdraw_exam(transactions, STUDY, now=box.now, actor="operator", reason="r")
    assert scene.answer(wish) == "kos-unpublished"
    exams.restore_exam(transactions, STUDY, now=box.now, actor="operator", reason="r")
    assert scene.answer(wish) == "2"


def test_an_instance_stored_again_is_served_from_its_new_place(scene: Scene) -> None:
    """Its bytes were lost; the row of the index points to the copy that came."""
    before = scene.soon(scene.wish(FIRST))
    before.finished(0, True, ())
    (lost,) = before.instances
    for segment in scene.box.archive._segments._base.rglob("*.seg"):
        segment.unlink()
    scene.box.image(next(iter(study_datasets(SPEC))))
    after = scene.soon(scene.wish(FIRST))
    after.finished(0, True, ())
    assert after.instances[0].segment != lost.segment


def test_a_replaced_manifest_serves_its_own_list_while_in_grace(scene: Scene) -> None:
    old = scene.kos
    scene.gate = scene.make_gate(grace=120)
    replaced(scene)
    assert scene.kos != old
    assert scene.answer(scene.wish(kos=old)) == "2"
    assert scene.answer(scene.wish()) == "3"
    scene.box.later(121)
    assert scene.answer(scene.wish(kos=old)) == "kos-replaced"


def test_but_not_once_the_exam_is_withdrawn(scene: Scene) -> None:
    old = scene.kos
    scene.gate = scene.make_gate(grace=600)
    replaced(scene)
    exams.withdraw_exam(scene.box.transactions, STUDY, now=scene.box.now, actor="operator", reason="r")
    assert scene.answer(scene.wish(kos=old)) == "kos-replaced"


def test_while_nothing_changes_the_manifest_is_read_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = SharedReading.read

    def counted(self: SharedReading, kos_uid: str) -> Any:
        reads.append(kos_uid)
        return read(self, kos_uid)

    monkeypatch.setattr(SharedReading, "read", counted)

    async def many() -> list[Grant]:
        wishes = [scene.wish(sop) for sop in (FIRST, SECOND) * 50]
        return list(await asyncio.gather(*(scene.gate.admit(wish, PEER) for wish in wishes)))

    grants = scene.run(many())
    assert {len(grant.instances) for grant in grants} == {1}
    assert len(reads) <= 2, "one read for all who wait for it"
    before = len(scene.looks)
    for grant in (*grants, *scene.run(many())):
        grant.finished(0, True, ())
    assert len(reads) <= 2
    assert len(scene.looks) - before <= 3, "a hundred requests share the looks"


def test_while_nothing_is_committed_nobody_looks(scene: Scene) -> None:
    """SQLite tells of commits by a number in shared memory."""
    scene.answer()

    async def again() -> Grant:
        return await scene.gate.admit(scene.wish(), PEER)

    def looked() -> int:
        before = len(scene.looks)
        scene.run(again())
        return len(scene.looks) - before

    deadline = time.monotonic() + SOON
    while not any(one["event"] == "RETRIEVAL_SERVED" for one in scene.trace()):
        assert time.monotonic() < deadline  # the row of the first answer is a commit too
        time.sleep(0.02)
    looked()
    assert looked() == 0
    exams.withdraw_exam(scene.box.transactions, STUDY, now=scene.box.now, actor="operator", reason="r")
    with pytest.raises(AccessRefused, match="unpublished"):
        scene.run(again())


def test_a_change_during_the_look_of_another_is_not_missed(scene: Scene) -> None:
    """The second request begins after the commit: the look that runs since before it is not its own."""
    scene.answer()
    scene.gate.freshness._seen.clear()  # as after any commit: the first one must look
    begun, may_go = threading.Event(), threading.Event()
    look = scene.standings

    def slow(uids: Collection[str]) -> Mapping[str, Standing]:
        found = look(uids)
        begun.set()
        assert may_go.wait(SOON)
        return found

    scene.gate.freshness._standings._ask = slow

    async def story() -> tuple[int, str]:
        first = asyncio.ensure_future(scene.gate.admit(scene.wish(), PEER))
        assert await asyncio.to_thread(begun.wait, SOON)
        await asyncio.to_thread(
            exams.withdraw_exam,
            scene.box.transactions,
            STUDY,
            now=scene.box.now,
            actor="operator",
            reason="r",
        )
        second = asyncio.ensure_future(scene.gate.admit(scene.wish(), PEER))
        await asyncio.sleep(0)
        may_go.set()
        with pytest.raises(AccessRefused) as refused:
            await second
        return len((await first).instances), refused.value.code

    assert scene.run(story()) == (2, "kos-unpublished")


# --- when something is gone


def test_a_database_that_does_not_answer_is_busy_and_never_a_hang(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go = threading.Event()
    scene.gate.freshness._standings._patience = 0.05
    scene.gate.freshness._standings._ask = lambda _uids: {"": may_go.wait(SOON)}  # type: ignore[dict-item]
    started = time.monotonic()
    try:
        for _ in range(5):
            with pytest.raises(AccessRefused) as refused:
                scene.soon(None)
            assert (refused.value.code, refused.value.status) == ("busy", 503)
        assert time.monotonic() - started < 2
    finally:
        may_go.set()


@pytest.fixture
def server(postgresql: str) -> Iterator[Any]:
    """A connection to the server's own database."""
    engine = create_engine(f"{postgresql}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_a_database_that_is_gone_is_busy_until_it_is_back(
    server: Any, postgresql: str, make_box: Any, tmp_path: Path
) -> None:
    name = f"gone_{time.monotonic_ns()}"
    server.execute(text(f"CREATE DATABASE {name}"))
    box = make_box(tmp_path, f"{postgresql}/{name}")
    with closing(box.database), contextmanager(make_scene)(box, tmp_path) as scene:
        wish = scene.wish()
        assert scene.answer(wish) == "2"
        server.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        server.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        )
        assert scene.answer(wish) == "busy"
        server.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        assert scene.answer(wish) == "2"
        rows = scene.rows(6)
        assert [row["event"] for row in rows].count("RETRIEVAL_REFUSED") == 2, "written once it was back"


def test_a_journal_that_cannot_be_written_serves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise Unavailable("the audit journal cannot be written: full")

    monkeypatch.setattr(RetrievalJournal, "begin", full)
    assert scene.answer() == "busy"
    assert "audit_journal_failed" in scene.said


def test_what_fails_for_everybody_is_logged_once_a_second(scene: Scene) -> None:
    scene.psc.trouble = PscUnavailable("down")
    for _ in range(10):
        with pytest.raises(AccessRefused):
            scene.soon(None)
    assert 1 <= scene.said.count("psc_unavailable") < 10


def test_nor_does_a_trace_that_is_far_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_log, "MOST_WAITING", 0)
    assert scene.answer() == "busy"


def test_damage_is_recorded_and_no_refusal(scene: Scene) -> None:
    wish = scene.wish()
    for document in (scene.box.documents._root).rglob("*"):
        if document.is_file():
            document.write_bytes(b"changed")
    with pytest.raises(Damaged, match="changed on disk"):
        scene.soon(wish)
    (row,) = scene.rows(1)
    assert (row["event"], row["code"], row["status"]) == ("RETRIEVAL_REFUSED", "internal-error", 500)


# --- the records


def test_a_served_retrieval_is_one_row_that_says_everything(scene: Scene) -> None:
    wish = Wish(STUDY, SERIES, FIRST, "Bearer secret-token", scene.kos, "1,2")
    scene.soon(wish).finished(1234, True, ["1.2.840.10008.1.2.1"])
    (row,) = scene.rows(1)
    assert row.pop("ms") >= 0
    assert row.pop("record")
    assert row == {
        "event": "RETRIEVAL_SERVED", "actor": "partner:192.0.2.7", "study": STUDY, "kos": wish.kos,
        "series": SERIES, "sop": FIRST, "frames": "1,2", "certificate": "CN=db.example.fr",
        "subject": "899700218896", "structure": "CN=db.example.fr", "client_id": "box-b", "acr": "eidas1",
        "binding": "unbound", "jti": "j-1", "instances": 1, "bytes": 1234, "syntaxes": ["1.2.840.10008.1.2.1"],
    }  # fmt: skip


def test_a_row_is_there_a_moment_after_the_answer(scene: Scene) -> None:
    scene.soon(None).finished(1, True, ())
    deadline = time.monotonic() + SOON
    while not any(event["event"] == "RETRIEVAL_SERVED" for event in scene.trace()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cut_transfer_says_how_much_left_and_why(scene: Scene) -> None:
    scene.soon(None).finished(77, False, (), "stalled")
    (row,) = scene.rows(1)
    assert (row["event"], row["bytes"], row["why"]) == ("RETRIEVAL_CUT", 77, "stalled")


def test_what_is_granted_and_cannot_be_given_is_refused(scene: Scene) -> None:
    scene.soon(None).refused("not-acceptable", 406)
    (row,) = scene.rows(1)
    assert (row["event"], row["code"], row["status"]) == ("RETRIEVAL_REFUSED", "not-acceptable", 406)
    assert (row["subject"], row["instances"]) == ("899700218896", 0)


def test_a_retrieval_ends_once(scene: Scene) -> None:
    grant = scene.soon(None)
    grant.finished(1, True, ())
    with pytest.raises(RuntimeError):
        grant.finished(1, True, ())
    with pytest.raises(RuntimeError):
        grant.refused("not-acceptable", 406)
    scene.rows(1)


def test_a_refused_retrieval_is_one_row(scene: Scene) -> None:
    scene.psc.claims["scope"] = "profile"
    with pytest.raises(AccessRefused):
        scene.soon(None)
    (row,) = scene.rows(1)
    assert (row["event"], row["code"], row["status"], row["why"]) == (
        *("RETRIEVAL_REFUSED", "token-inactive", 401, "scope"),
    )
    assert (row["study"], row["kos"]) == (STUDY, scene.kos)
    assert row["token"].startswith("sha256:")


def test_what_was_refused_elsewhere_is_recorded(scene: Scene) -> None:
    scene.gate.refused(scene.wish(), PEER, "busy", 503, "too many at once")
    (row,) = scene.rows(1)
    assert (row["code"], row["status"], row["why"]) == ("busy", 503, "too many at once")


def test_nothing_that_a_stranger_invents_is_kept(scene: Scene) -> None:
    wish = Wish("1.2.3.4", "1.2.3.5", "1.2.3.6", "Bearer invented", "patient=DUPONT", "9" * 999)
    scene.psc.claims["active"] = False
    with pytest.raises(AccessRefused):
        scene.soon(wish)
    (row,) = scene.rows(1)
    assert row["study"] is None
    assert {"kos", "series", "sop", "frames"} & row.keys() == set()
    assert "invented" not in repr(row)


def test_no_token_is_written_anywhere(scene: Scene, tmp_path: Path) -> None:
    token = "a-very-secret-token"
    scene.soon(Wish(STUDY, None, None, f"Bearer {token}", scene.kos))
    scene.psc.claims["active"] = False
    with pytest.raises(AccessRefused):
        scene.soon(Wish(STUDY, None, None, f"Bearer {token}", scene.kos))
    written = b"".join(file.read_bytes() for file in (tmp_path / "audit").iterdir())
    assert b"RETRIEVAL_REFUSED" in written
    assert token.encode() not in written
    assert token not in repr(scene.rows(1))


def test_claims_are_judged_once_for_a_peer_until_they_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[datetime] = []

    def counted(claims: Any, rules: TokenRules, now: datetime, **certificate: Any) -> Any:
        judged.append(now)
        return check_token(claims, rules, now, **certificate)

    monkeypatch.setattr(authorise, "check_token", counted)
    for _ in range(3):
        scene.soon(None)
    assert len(judged) == 1
    other = Peer(PEER.address, b"OTHER", "CN=db.example.org")
    scene.psc.claims["cnf"] = {
        "x5t#S256": base64.b64encode(hashlib.sha256(b"DER").hexdigest().encode()).decode()
    }
    scene.soon(None)
    with pytest.raises(AccessRefused) as refusal:
        scene.soon(None, other)
    assert refusal.value.code == "token-binding"
    scene.soon(None)
    scene.box.later(3601)
    with pytest.raises(AccessRefused) as refusal:
        scene.soon(None)
    assert refusal.value.code == "token-inactive"


def test_strangers_do_not_fill_the_trace(scene: Scene) -> None:
    for _ in range(1000):
        with pytest.raises(AccessRefused):
            scene.soon(Wish(STUDY, None, None, None, None))
    rows = scene.rows(21)
    assert [row["repeated"] for row in rows if "repeated" in row] == [980]
    assert all(row["study"] is None for row in rows if "repeated" in row)


def test_those_whom_a_token_names_have_a_row_each(scene: Scene) -> None:
    for _ in range(50):
        with pytest.raises(AccessRefused):
            scene.soon(scene.wish(kos="2.25.1"))
    assert {row["subject"] for row in scene.rows(50)} == {"899700218896"}


def test_standings_are_those_of_the_ledger(twice: Scene) -> None:
    standing = twice.standings([twice.kos, "2.25.404"])
    assert set(standing) == {twice.kos}
    one_kos = twice.kos
    one = standing[one_kos]
    assert (one.study_instance_uid, one.state, one.withdrawn_by, one.succeeded) == (
        *(STUDY, SubmissionState.REGISTERED, None, False),
    )
    assert one.since.tzinfo is not None
    replaced(twice)
    assert twice.standings(standing)[one_kos].succeeded is True
