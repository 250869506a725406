"""Mangled messages as frames on the real MLLP door: every frame is answered and kept, the next sender is served."""

from __future__ import annotations

import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drimbox.bootstrap import lay_foundation
from drimbox.entrypoints.hl7 import Hl7Doors
from drimbox.flow.receive_report import Reception
from drimbox.settings.whole import parse_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.ports import assign_ports
from fixtures.kept_pki import kept_pki
from fixtures.newest_database import bring_to_newest
from fixtures.reports import END, START, ReportSpec, make_adt, make_cda, make_mdm, make_omi, make_oru

CDA = make_cda()
MESSAGES = (
    *(make_oru(CDA, order_control=control) for control in ("NW", "RO", "CA")),
    *(make_mdm(CDA, order_control=control) for control in ("NW", "CA")),
    make_omi(),
    make_adt(feeding="IO"),
)


@pytest.fixture
def foundation(tmp_path: Path) -> Iterator[Any]:
    pki = kept_pki(tmp_path / "pki")
    text = drimbox_toml(tmp_path, assign_ports(None), pki)
    (tmp_path / "appliance").mkdir()
    foundation = lay_foundation(parse_settings(text))
    bring_to_newest(foundation.database)
    yield foundation
    foundation.archive.close()
    foundation.database.close()


def mangled(chance: random.Random) -> bytes:
    """Some bytes flipped, cut out or put in; never the marks of a frame, which would make two of it."""
    data = bytearray(chance.choice(MESSAGES))
    for _ in range(chance.choice((1, 1, 2, 6, 30))):
        at = min(chance.choice((len(data), 600)), len(data)) * chance.random()
        kind, here = chance.randrange(3), int(at)
        if kind == 0 and data:
            data[min(here, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[here : here + chance.choice((1, 3, 40))]
        else:
            data[here:here] = chance.choice(
                (b"|", b"\r", b"^^^", b"MSH|", b"\xff", b"~" * 50, b"\rMSA|AA|1\r")
            )
    return bytes(data).replace(START, b"").replace(b"\x1c", b"")


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(END):
        piece = connection.recv(65_536)
        assert piece, "the door closed without an answer"
        received += piece
    return received


def acknowledged(answer: bytes) -> str:
    """MSA-1, whatever the separator that the sender chose."""
    found = re.search(rb"\rMSA.(A[AER])", answer, re.DOTALL)
    assert found, answer
    return found[1].decode()


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.soak)])
def test_every_frame_is_answered_and_kept(foundation: Any, count: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, verdicts = random.Random(seed), Counter[str]()
    with Hl7Doors(foundation) as doors:
        connection = socket.create_connection(("127.0.0.1", doors.plain.port), timeout=30)
        with connection:
            for _ in range(count):
                message = mangled(chance)
                connection.sendall(START + message + END)
                if b"|ACK" in message[:200]:
                    continue  # perhaps an acknowledgement, which is never answered
                received = answer_of(connection)
                verdicts[acknowledged(received)] += 1
            connection.sendall(START + make_oru(CDA, ReportSpec(), control_id="LAST") + END)
            assert b"LAST" in answer_of(connection)
    print(dict(verdicts))
    assert verdicts.total() > count * 0.9
    assert "AR" not in verdicts
    with foundation.transactions.reading() as transaction:
        kept = transaction.inbox.messages(limit=count + 10)
    assert len(kept) >= verdicts.total() + 1


def test_a_defect_of_ours_is_answered_try_again(foundation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Reception, "message", fail)
    with Hl7Doors(foundation) as doors:
        with socket.create_connection(("127.0.0.1", doors.plain.port), timeout=10) as connection:
            connection.sendall(START + make_oru(CDA) + END)
            received = answer_of(connection)
    assert b"MSA|AR|" in received
    with foundation.transactions.reading() as transaction:
        assert transaction.inbox.messages() == []
