"""The whitelist before every request, from memory: never older than it may be, judged once per certificate."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from drimbox.domain.errors import AccessRefused, Unavailable
from drimbox.flow import partners
from drimbox.flow.partners import MOST_JUDGED, OVERDUE, RECHECK, Partners
from whitelist.decision import State
from whitelist.document import Domain, TrustedList

MEMBER = "CN=db1.example.fr,OU=300000000000001,O=CLINIQUE,ST=Paris (75),C=FR"
STRANGER = "CN=db9.example.fr,OU=300000000000009,O=AUTRE,ST=Paris (75),C=FR"


def listing(*subjects: str) -> TrustedList:
    entries = (
        Domain(str(n), f"db{n}.example.fr", "", "E", one, "", None) for n, one in enumerate(subjects, 1)
    )
    return TrustedList("ns", "1.0.0", None, tuple(entries))


@dataclass(frozen=True)
class Seen:
    state: State
    trusted: TrustedList | None


@dataclass
class Mesh:
    seen: Seen
    looks: int = 0
    may_go: threading.Event = field(default_factory=threading.Event)

    def current(self) -> Seen:
        self.looks += 1
        assert self.may_go.wait(10)
        return self.seen


class Scene:
    def __init__(self, state: State = State.CURRENT, rule: Any = "require") -> None:
        self.instant = 0.0
        self.said: list[str] = []
        self.mesh = Mesh(Seen(state, None if state is State.NEVER else listing(MEMBER)))
        self.mesh.may_go.set()
        self.partners = Partners(
            self.mesh, rule, lambda _event, reason: self.said.append(reason), lambda: self.instant
        )

    async def slug(self, subject: str | None = MEMBER) -> str:
        try:
            await self.partners.check_soon(subject)
        except AccessRefused as refusal:
            return refusal.code
        return ""

    async def looked(self) -> None:
        assert self.partners._looking is not None
        await self.partners._looking


def test_both_ways_judge_alike() -> None:
    scene = Scene()
    scene.partners.check(MEMBER)
    with pytest.raises(AccessRefused, match="not that of a member"):
        scene.partners.check(STRANGER)
    assert asyncio.run(scene.slug()) == ""


@pytest.mark.parametrize(
    ("state", "slug"), [(State.NEVER, "whitelist-unknown"), (State.ABSENT, "not-in-whitelist")]
)
def test_an_interrupted_box_refuses_from_the_first_request(state: State, slug: str) -> None:
    assert asyncio.run(Scene(state).slug()) == slug


def test_a_look_is_used_for_a_second_by_everybody() -> None:
    async def story(scene: Scene) -> None:
        assert set(await asyncio.gather(*(scene.slug() for _ in range(50)))) == {""}
        scene.instant = RECHECK - 0.01
        await scene.slug()
        assert scene.mesh.looks == 1

    asyncio.run(story(Scene()))


def test_a_change_is_seen_by_the_request_after_the_look() -> None:
    async def story(scene: Scene) -> None:
        await scene.slug()
        scene.mesh.seen = Seen(State.ABSENT, listing(MEMBER))
        scene.instant = RECHECK
        assert await scene.slug() == "", "the look has only begun"
        await scene.looked()
        assert await scene.slug() == "not-in-whitelist"

    asyncio.run(story(Scene()))


def test_a_list_that_comes_is_seen_by_the_next_request() -> None:
    """Who lets nobody pass has time to look: the first list opens every process at once."""

    async def story(scene: Scene) -> None:
        assert await scene.slug() == "whitelist-unknown"
        scene.mesh.seen = Seen(State.CURRENT, listing(MEMBER))
        scene.instant = RECHECK
        assert await scene.slug() == ""

    asyncio.run(story(Scene(State.NEVER)))


def test_after_a_long_silence_the_look_is_waited_for() -> None:
    async def story(scene: Scene) -> None:
        await scene.slug()
        scene.mesh.seen = Seen(State.ABSENT, listing(MEMBER))
        scene.instant = OVERDUE
        assert await scene.slug() == "not-in-whitelist"

    asyncio.run(story(Scene()))


def test_a_disk_that_hangs_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """trust-and-identity 3.1 W8: a list that was seen serves on; without any, nobody is let in."""
    monkeypatch.setattr(partners, "PATIENCE", 0.01)

    async def story(scene: Scene, *, known: bool) -> None:
        if known:
            await scene.slug()
        scene.mesh.may_go.clear()
        scene.instant = OVERDUE
        try:
            if known:
                assert await scene.slug() == ""
            else:
                with pytest.raises(Unavailable):
                    await scene.slug()
        finally:
            scene.mesh.may_go.set()

    asyncio.run(story(Scene(), known=True))
    asyncio.run(story(Scene(), known=False))


def test_a_partner_is_judged_once_while_the_list_is_the_same() -> None:
    scene = Scene(rule="warn")
    for _ in range(3):
        scene.partners.check(STRANGER)
    assert len(scene.said) == 1
    scene.mesh.seen = Seen(State.CURRENT, listing(MEMBER, STRANGER))
    scene.partners.check(STRANGER)
    assert len(scene.said) == 1, "a member now"
    scene.mesh.seen = Seen(State.CURRENT, listing(MEMBER))
    scene.partners.check(STRANGER)
    assert len(scene.said) == 2


def test_a_new_list_judges_anew() -> None:
    scene = Scene()
    scene.partners.check(MEMBER)
    scene.mesh.seen = Seen(State.CURRENT, listing(STRANGER))
    with pytest.raises(AccessRefused):
        scene.partners.check(MEMBER)


def test_the_judgements_kept_are_bounded() -> None:
    scene = Scene(rule="warn")
    for number in range(MOST_JUDGED + 10):
        scene.partners.check(f"CN=x{number},O=Y,C=FR")
    assert len(scene.partners._judged) <= MOST_JUDGED
