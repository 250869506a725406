"""A client with a thousand images delays nobody."""

from __future__ import annotations

import pytest

from dicom_store.conversions import Busy
from dicom_store.transcode_queue import FairQueue


def queue(*, per_client: int = 1, waiting: int = 100, line: int = 50) -> FairQueue[str]:
    return FairQueue(per_client=per_client, waiting=waiting, line=line)


def test_clients_take_turns() -> None:
    waiting = queue()
    for number in range(3):
        waiting.put("study", f"s{number}")
    waiting.put("single", "one")
    order = []
    while taken := waiting.take():
        order.append(taken[1])
        waiting.done(taken[0])
    assert order == ["s0", "one", "s1", "s2"]


def test_a_client_has_no_more_than_its_share_under_way() -> None:
    waiting = queue(per_client=2)
    for number in range(4):
        waiting.put("study", f"s{number}")
    assert [waiting.take(), waiting.take(), waiting.take()] == [("study", "s0"), ("study", "s1"), None]
    waiting.put("single", "one")
    assert waiting.take() == ("single", "one")
    waiting.done("study")
    assert waiting.take() == ("study", "s2")


def test_lines_are_bounded_in_all_and_per_client() -> None:
    waiting = queue(waiting=3, line=2)
    waiting.put("a", "1")
    waiting.put("a", "2")
    with pytest.raises(Busy):
        waiting.put("a", "3")
    waiting.put("b", "1")
    with pytest.raises(Busy):
        waiting.put("c", "1")
    assert len(waiting) == 3


def test_what_nobody_wants_any_more_leaves_the_line() -> None:
    waiting = queue()
    waiting.put("a", "1")
    assert waiting.remove("a", "1")
    assert not waiting.remove("a", "1")
    assert not waiting.remove("b", "1")
    assert waiting.take() is None
    assert len(waiting) == 0
