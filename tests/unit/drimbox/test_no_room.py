"""Refusals for want of room are told once a minute for each peer, with a count."""

from __future__ import annotations

from drimbox.flow.no_room import PEERS, NoRoomRefusals


def test_one_a_minute_with_a_count() -> None:
    refusals = NoRoomRefusals()
    assert [refusals.turn("CT1", at) for at in (0.0, 1.0, 59.0, 60.0, 61.0)] == [0, None, None, 2, None]
    assert refusals.turn("CT2", 61.0) == 0
    assert refusals.turn("CT1", -5000.0) == 1, "a clock that was set back silences nobody"


def test_many_peers_take_no_memory() -> None:
    refusals = NoRoomRefusals()
    assert {refusals.turn(f"peer {number}", 0.0) for number in range(3 * PEERS)} == {0}
    assert len(refusals._told) <= PEERS
