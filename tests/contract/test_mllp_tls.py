"""MLLP over mutual TLS on real sockets, with a real PKI: who gets in, and why the others do not."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from drimbox.adapters.held import Held
from drimbox.domain.senders import SenderProfile
from drimbox.entrypoints.mllp import Limits, MllpDoor
from drimbox.entrypoints.mllp_admission import Peer, Places
from drimbox.entrypoints.mllp_refusals import Refusal, Refusals
from drimbox.entrypoints.mllp_tls import for_one_connection, server_context
from drimbox.simulators.pki import Leaf, Pki, make_pki
from drimbox.simulators.ris import ClientTls, NoAcknowledgementError, send_hl7
from fixtures.certificates import make_authority
from fixtures.kept_pki import kept_pki
from fixtures.reports import END, START, frame

PATIENCE = 10.0
LIMITS = Limits(100_000, idle_timeout=5.0, message_timeout=5.0, handshake_timeout=5.0)
RIS = SenderProfile("RIS", (ip_network("127.0.0.1"),))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("mllps") / "pki")


class Room:
    """A TLS door and what it let in and turned away."""

    def __init__(self, pki: Pki, senders: tuple[SenderProfile, ...], limits: Limits) -> None:
        self.messages: list[bytes] = []
        self.peers: set[Peer] = set()
        self.refused: list[Refusal] = []
        self.answer: Callable[[bytes], bytes] = lambda message: b"ACK:" + message
        self.refusals = Refusals(self.refused.append)
        files = pki.path("appliance_server"), pki.key("appliance_server"), pki.authority
        held = Held("mllp.tls_certificate", files, partial(server_context, *files))
        tls = lambda: for_one_connection(held.follow(pki.now))  # noqa: E731
        self.door = MllpDoor(
            "127.0.0.1", 0, self, senders, places=Places(5), refusals=self.refusals, limits=limits, tls=tls
        )

    def __call__(self, message: bytes, peer: Peer) -> bytes:
        self.messages.append(message)
        self.peers.add(peer)
        return self.answer(message)

    @property
    def reasons(self) -> list[str]:
        """Once the door is closed: why it turned away."""
        return [refusal.reason for refusal in self.refused]


@contextmanager
def opened(pki: Pki, sender: SenderProfile = RIS, **limits: float) -> Iterator[Room]:
    room = Room(pki, (sender,), replace(LIMITS, **limits))  # type: ignore[arg-type]
    room.refusals.start()
    try:
        room.door.start()
        yield room
    finally:
        room.door.stop()
        room.refusals.stop()


def client(pki: Pki, name: str | None = "ris_auth", directory: Path | None = None) -> ssl.SSLContext:
    if name is None:
        return ClientTls(pki.authority).context()
    directory = directory or pki.directory
    return ClientTls(pki.authority, directory / f"{name}.pem", directory / f"{name}.key").context()


def issued(pki: Pki, leaf: Leaf, directory: Path) -> ssl.SSLContext:
    leaf.write(directory, "leaf")
    return client(pki, "leaf", directory)


@contextmanager
def plain(room: Room, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    where = ("127.0.0.1", room.door.port)
    with socket.create_connection(where, PATIENCE, source_address=(address, 0)) as connection:
        yield connection


@contextmanager
def secured(room: Room, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with plain(room) as connection, context.wrap_socket(connection, server_hostname="127.0.0.1") as line:
        yield line


def receive(connection: socket.socket, count: int = 1) -> bytes:
    data = b""
    while data.count(END) < count and (piece := connection.recv(65_536)):
        data += piece
    return data


def turned_away(room: Room, context: ssl.SSLContext) -> None:
    """In TLS 1.3 the client learns it with its first read, after its own handshake."""
    with pytest.raises(OSError):
        with secured(room, context) as line:
            line.sendall(frame(b"let me in"))
            if line.recv(1) == b"":
                raise ConnectionResetError("closed without a word")


def still_serves(room: Room, pki: Pki) -> None:
    with secured(room, client(pki)) as line:
        line.sendall(frame(b"still"))
        assert receive(line) == frame(b"ACK:still")


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def fingerprint(pki: Pki, name: str = "ris_auth") -> str:
    return pki.certificate(name).fingerprint(hashes.SHA256()).hex()


# --- who gets in ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_sender_with_its_certificate(pki: Pki, version: ssl.TLSVersion) -> None:
    context = client(pki)
    context.minimum_version = context.maximum_version = version
    with opened(pki) as room:
        with secured(room, context) as line:
            for number in range(20):
                line.sendall(frame(b"%d" % number))
                assert receive(line) == frame(b"ACK:%d" % number)
    assert room.peers == {Peer("127.0.0.1", fingerprint(pki), (RIS,))}
    assert {peer.door for peer in room.peers} == {"mllps"}
    assert room.refused == []


def test_the_simulated_ris(pki: Pki) -> None:
    tls = ClientTls(pki.authority, pki.path("ris_auth"), pki.key("ris_auth"))
    with opened(pki) as room:
        assert send_hl7(b"MSH|", "127.0.0.1", room.door.port, 5, tls=tls) == b"ACK:MSH|"
        with pytest.raises((OSError, NoAcknowledgementError)):
            send_hl7(b"MSH|", "127.0.0.1", room.door.port, 5, tls=ClientTls(pki.authority))
        with pytest.raises((OSError, NoAcknowledgementError)):
            send_hl7(b"MSH|", "127.0.0.1", room.door.port, 5)
    assert set(room.reasons) == {"no client certificate", "MLLP in clear on the TLS port"}


def test_a_pinned_certificate_and_no_other(pki: Pki) -> None:
    with opened(pki, replace(RIS, certificate_sha256=fingerprint(pki))) as room:
        turned_away(room, client(pki, "partner_auth"))
        still_serves(room, pki)
    assert room.messages == [b"still"]
    assert room.reasons == [f"unknown certificate {fingerprint(pki, 'partner_auth')}"]


def test_an_unknown_address_is_closed_before_the_handshake(pki: Pki) -> None:
    with opened(pki) as room:
        with plain(room, "127.0.0.9") as stranger:
            assert closed(stranger)  # though it has not said hello
        still_serves(room, pki)
    assert room.refused == [Refusal("mllps", "127.0.0.9", "unknown address")]


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ({"expired": True}, "client certificate expired"),
        ({"not_yet_valid": True}, "client certificate not valid yet"),
        ({"foreign_authority": True}, "client certificate of an unknown authority"),
        ({"kind": "SIGN"}, "client certificate not made for client authentication"),
        ({"wrong_key_usage": True}, "client certificate not made for client authentication"),
    ],
)
def test_a_certificate_that_does_not_serve(
    pki: Pki, tmp_path: Path, variant: dict[str, object], reason: str
) -> None:
    how = {"kind": "AUTH_CLI", "cn": "ris-simule", "ou": "1750803447"} | variant
    context = issued(pki, pki.issue(**how), tmp_path)  # type: ignore[arg-type]
    with opened(pki) as room:
        turned_away(room, context)
        still_serves(room, pki)
    assert room.messages == [b"still"]
    assert room.reasons == [reason]


def test_no_certificate(pki: Pki) -> None:
    with opened(pki) as room:
        turned_away(room, client(pki, None))
    assert room.reasons == ["no client certificate"]


def test_an_older_tls(pki: Pki) -> None:
    """Many a client library can no longer say TLS 1.1: its hello, by hand (RFC 4346, 7.4.1.2)."""
    ciphers = bytes.fromhex("c014 c013 0035 002f")
    hello = b"\x03\x02" + bytes(32) + b"\x00" + len(ciphers).to_bytes(2, "big") + ciphers + b"\x01\x00"
    record = b"\x01" + len(hello).to_bytes(3, "big") + hello
    with opened(pki) as room, plain(room) as connection:
        connection.sendall(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record)
        alert = connection.recv(100)
        assert (alert[0], alert[-1]) == (21, 70)  # alert: protocol_version
        assert closed(connection)
    assert room.reasons == ["TLS older than 1.2"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (frame(b"MSH|^~\\&|SECRET"), "MLLP in clear on the TLS port"),
        (b"GET / HTTP/1.1\r\n\r\n", "not TLS"),
        (b"\x00\x01\x02", "not TLS"),
        (b"\x16\x03\x01\x00\x05nonsense", "TLS handshake failed: "),
    ],
)
def test_what_is_not_tls(pki: Pki, caplog: pytest.LogCaptureFixture, said: bytes, reason: str) -> None:
    with opened(pki) as room:
        with plain(room) as connection:
            connection.sendall(said)
            with suppress(ConnectionResetError):
                assert START not in connection.recv(65_536)
        still_serves(room, pki)
    assert room.messages == [b"still"]
    assert [found.startswith(reason) for found in room.reasons] == [True]
    assert "SECRET" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_client_that_does_not_trust_us(pki: Pki, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other", datetime.now(UTC))
    context = client(pki)
    stranger = ssl.create_default_context(cafile=other.authority)
    stranger.load_cert_chain(pki.path("ris_auth"), pki.key("ris_auth"))
    with opened(pki) as room:
        turned_away(room, stranger)
        with secured(room, context) as line:
            line.sendall(frame(b"I do"))
            assert receive(line) == frame(b"ACK:I do")
    assert room.reasons == ["the sender does not know the authority of our certificate"]


# --- time ---


def test_silence_before_the_handshake_blocks_nobody(pki: Pki) -> None:
    with opened(pki, handshake_timeout=0.5) as room:
        with plain(room) as one, plain(room) as two:
            still_serves(room, pki)
            assert closed(one)
            assert closed(two)
    assert room.reasons == ["no TLS handshake in time"]


def test_a_handshake_that_drips(pki: Pki) -> None:
    outgoing = ssl.MemoryBIO()
    machine = client(pki).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        machine.do_handshake()
    hello = outgoing.read()
    with opened(pki, handshake_timeout=0.4) as room:
        with plain(room) as connection:
            begun = time.monotonic()
            with pytest.raises(ConnectionError):
                for byte in hello:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            assert time.monotonic() - begun < 3
    assert room.reasons == ["no TLS handshake in time"]


def test_a_probe_that_only_connects_is_no_refusal(pki: Pki) -> None:
    with opened(pki) as room:
        with plain(room):
            pass
        still_serves(room, pki)
    assert room.refused == []


def test_leaving_within_the_handshake(pki: Pki) -> None:
    with opened(pki) as room:
        with plain(room) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00")
        still_serves(room, pki)
    assert room.reasons == ["the sender left during the TLS handshake"]


def test_a_silent_sender_after_the_handshake(pki: Pki) -> None:
    with opened(pki, idle_timeout=0.3) as room, secured(room, client(pki)) as line:
        assert closed(line)
    assert room.reasons == ["too slow"]


# --- messages ---


def test_messages_in_any_pieces(pki: Pki) -> None:
    with opened(pki) as room, secured(room, client(pki)) as line:
        line.sendall(frame(b"one") + frame(b"two"))
        assert receive(line, 2) == frame(b"ACK:one") + frame(b"ACK:two")
        for byte in frame(b"slowly"):
            line.sendall(bytes([byte]))
        assert receive(line) == frame(b"ACK:slowly")


def test_a_large_message(pki: Pki) -> None:
    content = bytes(8_000_000)
    with opened(pki, max_message_bytes=len(content)) as room, secured(room, client(pki)) as line:
        room.answer = lambda message: b"%d" % len(message)
        line.sendall(frame(content))
        assert receive(line) == frame(b"8000000")


def test_a_message_over_the_limit(pki: Pki) -> None:
    with opened(pki) as room:
        with secured(room, client(pki)) as line:
            with suppress(OSError):
                line.sendall(frame(bytes(300_000)))
            with suppress(ssl.SSLError):
                assert closed(line)
        still_serves(room, pki)
    assert room.messages == [b"still"]
    assert room.reasons == ["a message of over 100000 bytes"]


def test_a_sender_that_vanishes_within_a_message(pki: Pki) -> None:
    with opened(pki) as room:
        with secured(room, client(pki)) as line:
            line.sendall(START + b"half")
        still_serves(room, pki)
    assert room.messages == [b"still"]
    assert room.reasons == ["the sender vanished within a message"]


# --- the door itself ---


def test_stop_lets_the_answer_go_out_encrypted(pki: Pki) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(message: bytes) -> bytes:
        entered.set()
        assert leave.wait(PATIENCE)
        return b"done"

    with opened(pki) as room, secured(room, client(pki)) as line:
        room.answer = wait
        line.sendall(frame(b"last"))
        assert entered.wait(PATIENCE)
        stopper = threading.Thread(target=room.door.stop)
        stopper.start()
        leave.set()
        assert receive(line) == frame(b"done")
        stopper.join(PATIENCE)
        assert closed(line)


def test_stop_does_not_wait_for_a_handshake(pki: Pki) -> None:
    with opened(pki, handshake_timeout=PATIENCE) as room, plain(room) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00")
        begun = time.monotonic()
        room.door.stop()
        assert time.monotonic() - begun < PATIENCE / 2
        assert closed(connection)
    assert room.refused == []


def test_no_session_is_resumed(pki: Pki) -> None:
    """A resumed session would leave the client certificate unverified."""
    context = client(pki)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with opened(pki) as room:
        with secured(room, context) as line:
            session = line.session
        with plain(room) as connection:
            with context.wrap_socket(connection, server_hostname="127.0.0.1", session=session) as line:
                line.sendall(frame(b"again"))
                assert receive(line) == frame(b"ACK:again")
                assert line.session_reused is False


def test_renewed_files_are_taken_without_a_restart(pki: Pki, tmp_path: Path) -> None:
    own = Pki(tmp_path / "pki", pki.now, pki.urls)
    shutil.copytree(pki.directory, own.directory)
    with opened(own) as room:
        with secured(room, client(pki)) as line:
            before = line.getpeercert(binary_form=True)
        renewed = own.issue("SERV_SSL", "drimbox.localhost", "1750803447")
        renewed.write(own.directory, "appliance_server")
        with secured(room, client(pki)) as line:
            assert line.getpeercert(binary_form=True) == renewed.der != before
        own.key("appliance_server").unlink()
        with secured(room, client(pki)) as line:
            assert line.getpeercert(binary_form=True) == renewed.der
    assert room.reasons == []


def test_authorities_that_are_no_longer_believed(pki: Pki, tmp_path: Path) -> None:
    own = Pki(tmp_path / "pki", pki.now, pki.urls)
    shutil.copytree(pki.directory, own.directory)
    with opened(own) as room:
        with secured(room, client(pki)) as line:
            line.sendall(frame(b"before"))
            assert receive(line) == frame(b"ACK:before")
            own.authority.write_bytes(make_authority("ANOTHER").certificate_pem)
            turned_away(room, client(pki))
            line.sendall(frame(b"still"))
            assert receive(line) == frame(b"ACK:still")
    assert room.reasons == ["client certificate of an unknown authority"]


def test_a_door_without_its_files_does_not_open(pki: Pki, tmp_path: Path) -> None:
    own = Pki(tmp_path / "pki", pki.now, pki.urls)
    shutil.copytree(pki.directory, own.directory)
    shutil.copy(pki.key("ris_auth"), own.key("appliance_server"))
    with pytest.raises(OSError):
        with opened(own):
            pass
