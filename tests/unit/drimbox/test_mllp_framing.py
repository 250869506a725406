"""Frames in any pieces, and what is no frame."""

from __future__ import annotations

import pytest

from drimbox.entrypoints.mllp_framing import Deframer, FramingError
from fixtures.reports import END, START, frame

LIMIT = 1000


def test_one_message() -> None:
    assert Deframer(LIMIT).feed(frame(b"MSH|1")) == [b"MSH|1"]


def test_two_messages_in_one_piece() -> None:
    assert Deframer(LIMIT).feed(frame(b"one") + frame(b"two")) == [b"one", b"two"]


def test_one_byte_at_a_time() -> None:
    deframer = Deframer(LIMIT)
    pieces = [deframer.feed(bytes([byte])) for byte in frame(b"one") + b"\r\n" + frame(b"two")]
    assert [m for piece in pieces for m in piece] == [b"one", b"two"]
    assert not deframer.inside


def test_a_lone_end_byte_is_content() -> None:
    assert Deframer(LIMIT).feed(frame(b"a\x1cb\x0bc")) == [b"a\x1cb\x0bc"]


def test_an_end_cut_in_two() -> None:
    deframer = Deframer(LIMIT)
    assert deframer.feed(START + b"one\x1c") == []
    assert deframer.inside
    assert deframer.feed(b"\r" + START) == [b"one"]
    assert deframer.inside


def test_an_empty_message() -> None:
    assert Deframer(LIMIT).feed(START + END) == [b""]


@pytest.mark.parametrize("garbage", [b"MSH|", b"\x00", b"GET / HTTP/1.1\r\n", b"\x1c\r", b"\x16\x03\x01"])
def test_garbage_before_a_frame(garbage: bytes) -> None:
    with pytest.raises(FramingError, match="before the start"):
        Deframer(LIMIT).feed(garbage + frame(b"one"))


def test_garbage_after_a_frame_does_not_take_the_message_away() -> None:
    with pytest.raises(FramingError) as fault:
        Deframer(LIMIT).feed(frame(b"one") + b"garbage")
    assert fault.value.args[1] == [b"one"]


def test_the_limit() -> None:
    assert Deframer(3).feed(frame(b"abc")) == [b"abc"]
    with pytest.raises(FramingError, match="over 3 bytes"):
        Deframer(3).feed(frame(b"abcd"))


def test_the_limit_is_seen_before_the_end() -> None:
    deframer = Deframer(LIMIT)
    deframer.feed(START + b"x" * LIMIT)
    with pytest.raises(FramingError):
        deframer.feed(b"xx")
