"""The report doors with a real reception behind them: who is heard, what is kept, what is traced."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from sqlalchemy import select

from drimbox.adapters.tables import trace_table
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.hl7 import Hl7Doors
from drimbox.flow.records import Message, TraceEntry
from drimbox.settings.mllp import SenderSettings
from drimbox.settings.whole import parse_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.pki import Pki
from drimbox.simulators.ports import assign_ports
from drimbox.simulators.ris import ClientTls, NoAcknowledgementError, send_hl7
from fixtures.kept_pki import kept_pki
from fixtures.newest_database import bring_to_newest
from fixtures.reports import END, START, frame, make_cda, make_oru

PATIENCE = 10.0
RIS = SenderSettings(name="RIS", addresses=("127.0.0.1",))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("senders") / "pki")


class House:
    """Both doors of one appliance, with its stores."""

    def __init__(self, foundation: Foundation, pki: Pki) -> None:
        self.foundation, self.pki = foundation, pki
        self.doors = Hl7Doors(foundation)

    @property
    def tls(self) -> ClientTls:
        return ClientTls(self.pki.authority, self.pki.path("ris_auth"), self.pki.key("ris_auth"))

    def send(self, message: bytes) -> bytes:
        return send_hl7(message, "127.0.0.1", self.doors.plain.port, PATIENCE)

    def send_tls(self, message: bytes, tls: ClientTls | None = None) -> bytes:
        assert self.doors.secure is not None
        return send_hl7(message, "127.0.0.1", self.doors.secure.port, PATIENCE, tls=tls or self.tls)

    @contextmanager
    def line(self, address: str = "127.0.0.1") -> Iterator[socket.socket]:
        where = ("127.0.0.1", self.doors.plain.port)
        with socket.create_connection(where, PATIENCE, source_address=(address, 0)) as connection:
            yield connection

    def messages(self) -> list[Message]:
        """The inbox, oldest first."""
        with self.foundation.transactions.reading() as transaction:
            return list(reversed(transaction.inbox.messages()))

    def refused(self) -> list[tuple[str, dict[str, Any]]]:
        """Actor and detail of the connections that were refused, oldest first."""
        with self.foundation.database.reading() as session:
            rows = session.scalars(select(TraceEntry).order_by(trace_table.c.id)).all()
            return [(row.actor, row.detail) for row in rows if row.event == "CONNECTION_REFUSED"]


@contextmanager
def opened(pki: Pki, directory: Path, *senders: SenderSettings, **limits: float) -> Iterator[House]:
    settings = parse_settings(drimbox_toml(directory, assign_ports(None), pki))
    mllp = settings.mllp.model_copy(update={"senders": senders or (RIS,), "idle_timeout": 5.0} | limits)
    (directory / "appliance" / "storage").mkdir(parents=True)
    foundation = lay_foundation(settings.model_copy(update={"mllp": mllp}))
    bring_to_newest(foundation.database)
    house = House(foundation, pki)
    with house.doors:
        yield house


def fingerprint(pki: Pki, name: str = "ris_auth") -> str:
    return pki.certificate(name).fingerprint(hashes.SHA256()).hex()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.01)


def report(control_id: str = "RIS-1") -> bytes:
    return make_oru(make_cda(), control_id=control_id)


def turned_away(send: Callable[[], bytes]) -> None:
    with pytest.raises((OSError, NoAcknowledgementError)):
        send()


# --- who is heard ---


def test_a_report_by_each_door(pki: Pki, tmp_path: Path) -> None:
    with opened(pki, tmp_path) as house:
        assert b"MSA|AA|RIS-1" in house.send(report("RIS-1"))
        assert b"MSA|AA|RIS-2" in house.send_tls(report("RIS-2"))
        kept = [(row.door, row.peer, row.sender, row.verdict) for row in house.messages()]
    assert kept == [("mllp", "127.0.0.1", "RIS", "AA"), ("mllps", "127.0.0.1", "RIS", "AA")]
    assert house.refused() == []


def test_no_sender_no_report(pki: Pki, tmp_path: Path) -> None:
    far = SenderSettings(name="far", addresses=("10.0.0.0/8",))
    with opened(pki, tmp_path, far) as house:
        turned_away(lambda: house.send(report()))
        turned_away(lambda: house.send_tls(report()))
        assert house.messages() == []
    assert house.refused() == [("mllp:127.0.0.1", {"reason": "unknown address"})]


@pytest.mark.parametrize("key", ["application", "facility"])
def test_a_sender_that_signs_for_another_is_refused_and_kept(pki: Pki, tmp_path: Path, key: str) -> None:
    """MSH-3 and MSH-4 are content: they are judged once read, and the refusal can be shown to an operator."""
    with opened(pki, tmp_path, RIS.model_copy(update={key: "SOMEBODY"})) as house:
        answer = house.send(report())
        (row,) = house.messages()
    assert b"MSA|AE|RIS-1" in answer
    assert b"|207^" in answer
    assert b"906^" in answer
    assert (row.verdict, row.code, row.sender) == ("AE", "207/906 sender-unknown", None)


def test_each_sender_has_its_tolerances(pki: Pki, tmp_path: Path) -> None:
    strict = SenderSettings(name="strict", addresses=("127.0.0.2",), not_tolerated=("terminator",))
    message = report().replace(b"\r", b"\n")
    with opened(pki, tmp_path, RIS, strict) as house:
        answers = []
        for address in ("127.0.0.1", "127.0.0.2"):
            with house.line(address) as connection:
                connection.sendall(frame(message))
                answers.append(connection.recv(65_536))
        kept = [(row.sender, row.verdict) for row in house.messages()]
    assert [b"MSA|AA" in answer for answer in answers] == [True, False]
    assert kept == [("RIS", "AA"), ("strict", "AE")]


# --- certificates ---


def test_a_sender_with_a_pin_enters_by_tls_only(pki: Pki, tmp_path: Path) -> None:
    pinned = RIS.model_copy(update={"certificate_sha256": fingerprint(pki)})
    with opened(pki, tmp_path, pinned) as house:
        assert b"MSA|AA|RIS-1" in house.send_tls(report())
        turned_away(lambda: house.send(report("RIS-2")))
        assert [row.control_id for row in house.messages()] == ["RIS-1"]
    assert house.refused() == [("mllp:127.0.0.1", {"reason": "the senders of this address speak TLS only"})]


def test_another_certificate_than_the_pinned_one(pki: Pki, tmp_path: Path) -> None:
    partner = ClientTls(pki.authority, pki.path("partner_auth"), pki.key("partner_auth"))
    with opened(pki, tmp_path, RIS.model_copy(update={"certificate_sha256": fingerprint(pki)})) as house:
        turned_away(lambda: house.send_tls(report(), partner))
        assert house.messages() == []
    shown = fingerprint(pki, "partner_auth")
    assert house.refused() == [("mllps:127.0.0.1", {"reason": f"unknown certificate {shown}"})]


def test_the_certificate_chooses_the_sender(pki: Pki, tmp_path: Path) -> None:
    """Two machines behind one address, told apart by what they show."""
    one = SenderSettings(name="one", addresses=("127.0.0.1",), certificate_sha256=fingerprint(pki))
    two = one.model_copy(update={"name": "two", "certificate_sha256": fingerprint(pki, "partner_auth")})
    partner = ClientTls(pki.authority, pki.path("partner_auth"), pki.key("partner_auth"))
    with opened(pki, tmp_path, one, two) as house:
        house.send_tls(report("RIS-1"), partner)
        house.send_tls(report("RIS-2"))
        assert [row.sender for row in house.messages()] == ["two", "one"]


def test_an_expired_certificate(pki: Pki, tmp_path: Path) -> None:
    leaf = pki.issue("AUTH_CLI", "ris-simule", "1750803447", expired=True)
    certificate, key = leaf.write(tmp_path / "expired", "ris")
    with opened(pki, tmp_path) as house:
        turned_away(lambda: house.send_tls(report(), ClientTls(pki.authority, certificate, key)))
        assert house.messages() == []
    assert house.refused() == [("mllps:127.0.0.1", {"reason": "client certificate expired"})]


# --- connections ---


def test_a_scan_is_one_row_and_then_a_count(pki: Pki, tmp_path: Path) -> None:
    with opened(pki, tmp_path) as house:
        clock = [0.0]
        house.doors.refusals._clock = lambda: clock[0]
        for second in (1.0, 2.0, 3.0, 70.0):
            clock[0] = second
            for _ in range(10):
                with house.line("127.0.0.9") as stranger:
                    assert stranger.recv(1) == b""
        wait_for(lambda: len(house.refused()) == 2)
    assert house.refused() == [
        ("mllp:127.0.0.9", {"reason": "unknown address"}),
        ("mllp:127.0.0.9", {"reason": "unknown address", "repeated": 29}),
    ]


def test_both_doors_share_the_connections(pki: Pki, tmp_path: Path) -> None:
    with opened(pki, tmp_path, max_connections=1) as house:
        with house.line() as connection:
            connection.sendall(frame(report("RIS-1")))
            assert b"MSA|AA|RIS-1" in connection.recv(65_536)
            turned_away(lambda: house.send_tls(report("RIS-2")))
            connection.sendall(frame(report("RIS-3")))
            assert b"MSA|AA|RIS-3" in connection.recv(65_536)
        assert [row.control_id for row in house.messages()] == ["RIS-1", "RIS-3"]
    assert house.refused() == [("mllps:127.0.0.1", {"reason": "too many connections"})]


def test_messages_in_any_pieces_are_each_kept_once(pki: Pki, tmp_path: Path) -> None:
    """Two in one segment, one byte at a time, many on one connection (issue 4, item 3)."""
    with opened(pki, tmp_path) as house, house.line() as connection:
        connection.sendall(frame(report("RIS-1")) + frame(report("RIS-2")))
        answers = b""
        while answers.count(END) < 2:
            answers += connection.recv(65_536)
        slow = frame(report("RIS-3"))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(2000):
            connection.sendall(slow[position : position + 1])
        connection.sendall(slow[2000:])
        answers += connection.recv(65_536)
        for number in range(4, 20):
            connection.sendall(frame(report(f"RIS-{number}")))
            answers += connection.recv(65_536)
        assert [f"MSA|AA|RIS-{n}".encode() in answers for n in range(1, 20)] == [True] * 19
        assert [row.control_id for row in house.messages()] == [f"RIS-{n}" for n in range(1, 20)]


def test_a_sender_that_vanishes_leaves_nothing_but_a_trace(pki: Pki, tmp_path: Path) -> None:
    with opened(pki, tmp_path) as house:
        with house.line() as connection:
            connection.sendall(START + report()[:-200])
        wait_for(lambda: len(house.refused()) == 1)
        assert house.messages() == []
        assert b"MSA|AA|RIS-2" in house.send(report("RIS-2"))
    assert house.refused() == [("mllp:127.0.0.1", {"reason": "the sender vanished within a message"})]


def test_a_slow_sender(pki: Pki, tmp_path: Path) -> None:
    """Slow within the time of a message is heard; slower is closed without an answer, and nothing is kept."""
    message = frame(report())
    with opened(pki, tmp_path, message_timeout=1.0) as house:
        with house.line() as connection:
            for start in range(0, len(message), len(message) // 8):
                connection.sendall(message[start : start + len(message) // 8])
                time.sleep(0.05)
            assert b"MSA|AA|RIS-1" in connection.recv(65_536)
        with house.line() as connection:
            connection.sendall(message[:-10])
            assert connection.recv(1) == b""
        wait_for(lambda: len(house.refused()) == 1)
        assert len(house.messages()) == 1
    assert house.refused() == [("mllp:127.0.0.1", {"reason": "too slow"})]


def test_a_taken_port_opens_neither_door(pki: Pki, tmp_path: Path) -> None:
    with opened(pki, tmp_path) as house:
        again = Hl7Doors(house.foundation)
        house.doors.plain.stop()
        with pytest.raises(OSError, match="in use"):
            again.start()
        with pytest.raises(ConnectionRefusedError):
            house.send(report())
