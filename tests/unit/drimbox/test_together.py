"""The head of an answer and the first bytes of its body leave in one write, in their order, and never too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from drimbox.entrypoints.http_protocol import Together

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Wire:
    """A transport that keeps each call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.calls.append(bytes(data))

    def writelines(self, lines: Iterable[bytes]) -> None:
        self.write(b"".join(lines))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return name


def told(story: Callable[[Any, Wire], Any]) -> list[bytes]:
    """What the wire carried after a turn of the event loop."""
    wire = Wire()

    async def run() -> None:
        story(Together(wire, asyncio.get_running_loop()), wire)
        await asyncio.sleep(0)

    asyncio.run(run())
    return wire.calls


def test_head_and_body_are_one_write() -> None:
    def story(transport: Any, _wire: Wire) -> None:
        transport.write(HEAD)
        transport.write(bytearray(b"body"))
        transport.write(b"more")

    assert told(story) == [HEAD + b"body", b"more"]


def test_a_head_alone_is_not_kept() -> None:
    assert told(lambda transport, _wire: transport.write(HEAD)) == [HEAD]


def test_two_answers_keep_their_order() -> None:
    def story(transport: Any, _wire: Wire) -> None:
        transport.write(HEAD)  # to HEAD: no body follows
        transport.write(HEAD)
        transport.write(b"body")

    assert b"".join(told(story)) == HEAD + HEAD + b"body"


def test_what_was_written_goes_before_the_end() -> None:
    def story(transport: Any, wire: Wire) -> None:
        transport.write(HEAD)
        transport.close()
        assert wire.closed

    assert told(story) == [HEAD]


def test_nothing_is_written_to_a_lost_connection() -> None:
    def story(transport: Any, wire: Wire) -> None:
        transport.write(HEAD)
        wire.close()

    assert told(story) == []


def test_all_else_is_the_transport() -> None:
    def story(transport: Any, _wire: Wire) -> None:
        assert transport.get_extra_info("socket") == "socket"

    assert told(story) == []
