"""What a manifest lets leave, by level; what is kept of manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from dicom_store.study import InstanceRef
from drimbox.domain.access import Standing, Wish
from drimbox.domain.errors import AccessRefused
from drimbox.domain.lifecycle import SubmissionState
from drimbox.flow.shared_facts import FactsKept, SharedFacts, stops_serving

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STANDING = Standing("1", SubmissionState.REGISTERED, AT, "digest", 1, None, False)


@dataclass(frozen=True)
class Stored:
    sop: str
    series_uid: str = "1.1"
    rejected: str | None = None

    @property
    def ref(self) -> InstanceRef:
        return InstanceRef(self.sop, "1.2.840", "1.2.840.10008.1.2.1")


def facts(
    *lists: dict[str, Stored | None], unpublished: bool = False, standing: Standing = STANDING
) -> SharedFacts:
    series: dict[str, Any] = {f"1.{number}": places for number, places in enumerate(lists, 1)}
    return SharedFacts(standing, unpublished, series, sum(map(len, lists)))


def chosen(one: SharedFacts, series: str | None = None, sop: str | None = None) -> list[str]:
    return [place.sop for place in one.choose(Wish("1", series, sop, None, None))]


def refused(one: SharedFacts, series: str | None = None, sop: str | None = None) -> tuple[int, str]:
    with pytest.raises(AccessRefused) as caught:
        chosen(one, series, sop)
    return caught.value.status, caught.value.code


A, B, C = Stored("1.1.1"), Stored("1.1.2"), Stored("1.2.1", "1.2")
HIDDEN = Stored("1.1.3", rejected="113037")
SHARED = facts({"1.1.1": A, "1.1.2": B, "1.1.3": HIDDEN, "1.1.4": None}, {"1.2.1": C})


def test_each_level_has_what_it_shares_in_order() -> None:
    assert chosen(SHARED) == ["1.1.1", "1.1.2", "1.2.1"]
    assert chosen(SHARED, "1.1") == ["1.1.1", "1.1.2"]
    assert chosen(SHARED, "1.2", "1.2.1") == ["1.2.1"]
    assert chosen(SHARED, None, "1.2.1") == ["1.2.1"]


@pytest.mark.parametrize(
    ("series", "sop", "answer"),
    [
        ("1.3", None, (404, "instance-not-shared")),
        ("1.1", "1.2.1", (404, "instance-not-shared")),  # of another series
        ("1.2", "1.1.1", (404, "instance-not-shared")),
        ("1.1", "1.9", (404, "instance-not-shared")),
        ("1.1", "1.1.4", (404, "instance-not-shared")),  # listed, and not here any more
        (None, "1.9", (404, "instance-not-shared")),
        ("1.1", "1.1.3", (410, "instance-withdrawn")),
    ],
)
def test_nothing_else_leaves(series: str | None, sop: str | None, answer: tuple[int, str]) -> None:
    assert refused(SHARED, series, sop) == answer


@pytest.mark.parametrize(
    ("code", "stops"),
    [("113001", False), ("113039", False), ("113037", True), ("113038", True), (None, False)],
)
def test_which_rejections_stop_serving_at_once(code: str | None, stops: bool) -> None:
    assert stops_serving(code) is stops
    one = facts({"1.1.1": Stored("1.1.1", rejected=code)})
    if stops:
        assert (
            refused(one) == refused(one, "1.1") == refused(one, "1.1", "1.1.1") == (410, "instance-withdrawn")
        )
    else:
        assert chosen(one, "1.1", "1.1.1") == ["1.1.1"]


def test_an_exam_whose_reports_are_gone_shares_nothing() -> None:
    one = facts({"1.1.1": A}, unpublished=True)
    assert refused(one) == refused(one, "1.1", "1.1.1") == (410, "kos-unpublished")


def test_a_manifest_of_nothing_that_is_here() -> None:
    assert refused(facts({"1.1.1": None})) == (404, "instance-not-shared")


def test_the_least_recently_used_go_first() -> None:
    kept = FactsKept(most=4 + 2 * 4)
    for uid in ("a", "b"):
        kept.put(uid, facts({"1": A, "2": B}))
    assert kept.get("a") is not None
    kept.put("c", facts({"1": A}))
    assert [uid for uid in "abc" if kept.get(uid)] == ["a", "c"]


def test_what_is_put_again_counts_once_and_the_last_one_stays() -> None:
    kept = FactsKept(most=4 + 2 * 4)
    for _ in range(5):
        kept.put("a", facts({"1": A, "2": B}))
    kept.put("b", facts({"1": A, "2": B}))
    assert [uid for uid in "ab" if kept.get(uid)] == ["a", "b"]
    kept.put("large", facts({str(number): None for number in range(10)}))
    assert kept.get("large") is not None
    assert (kept.get("a"), kept.get("b")) == (None, None)


def test_what_nobody_asks_for_any_more_goes() -> None:
    instant = 0.0
    kept = FactsKept(monotonic=lambda: instant)
    for uid in ("a", "b"):
        kept.put(uid, facts({"1": A}))
    instant = 50.0
    assert kept.get("a") is not None
    instant = 61.0
    kept.put("c", facts({"1": A}))
    assert [uid for uid in "abc" if kept.get(uid)] == ["a", "c"]
