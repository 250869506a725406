"""`[[dicom.senders]]` at the door, on both engines: titles, addresses and certificates of real connections."""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dicom_store.connections import Connections, Place
from dicom_store.scp import DicomDoor
from dicom_store.senders import Sender
from drimbox.adapters.probes_dicom import echo
from drimbox.simulators.pki import Leaf, Pki
from fixtures import raw_association as raw
from fixtures.kept_pki import kept_pki
from fixtures.raw_association import RawPeer
from fixtures.sinks import Recorder
from healthcheck.probe import Status

OpenDoor = Callable[..., DicomDoor]
NOT_RECOGNIZED = (3, bytes([0, 1, 1, 3]))  # A-ASSOCIATE-RJ: permanent, service-user, calling AE title


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("image-senders") / "pki")


@pytest.fixture(scope="module")
def leaves(pki: Pki) -> tuple[Leaf, Leaf]:
    """Of two modalities."""
    return pki.issue("AUTH_CLI", "ct-1", "1750803447"), pki.issue("AUTH_CLI", "ct-2", "1750803447")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def refused() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture(params=["own", "reference"])
def open_door(
    recorder: Recorder, refused: list[tuple[str, str, str]], request: pytest.FixtureRequest
) -> Iterator[OpenDoor]:
    doors: list[DicomDoor] = []

    def open_one(*senders: Sender, titles: tuple[str, ...] = (), **changes: Any) -> DicomDoor:
        doors.append(
            DicomDoor("127.0.0.1", 0, "DRIMBOX", titles, max_associations=4, max_instance_bytes=10_000_000,
                      idle_timeout=5.0, open_sink=recorder.open, senders=senders, engine=request.param,
                      on_refused=lambda peer, reason: refused.append((peer.ae_title, peer.address, reason)),
                      **changes)
        )  # fmt: skip
        doors[-1].start()
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop(grace=0.1)


def at(*networks: str, title: str = "CT1", pins: tuple[str, ...] = ()) -> Sender:
    return Sender(title, tuple(map(ip_network, networks)), frozenset(pins))


def answer(peer: RawPeer, calling: str = "CT1") -> tuple[int, bytes]:
    """To a request for an association; one that was accepted is used and released."""
    with peer:
        peer.send(raw.request(calling=calling))
        kind, body = peer.receive()
        if kind == 2:
            assert peer.store() == 0
            peer.release()
        return (kind, body if kind == 3 else b"")


ADMITTED = (2, b"")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def fingerprint(leaf: Leaf) -> str:
    return hashlib.sha256(leaf.der).hexdigest()


# --- titles and addresses ----------------------------------------------------------------------------------


def test_a_title_with_rows_calls_from_their_addresses_only(
    open_door: OpenDoor,
    recorder: Recorder,
    refused: list[tuple[str, str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "dicom_store")
    door = open_door(at("127.0.0.2"), at("127.0.1.0/24"), titles=("CT1", "PACS"))
    assert answer(RawPeer.connect(door.port, "127.0.0.2")) == ADMITTED
    assert answer(RawPeer.connect(door.port, "127.0.1.9")) == ADMITTED
    assert answer(RawPeer.connect(door.port, "127.0.0.3")) == NOT_RECOGNIZED
    assert answer(RawPeer.connect(door.port, "127.0.0.3"), "PACS") == ADMITTED
    assert answer(RawPeer.connect(door.port, "127.0.0.2"), "CT2") == NOT_RECOGNIZED
    eventually(lambda: len(refused) == 2)
    assert refused == [
        ("CT1", "127.0.0.3", "association rejected: the calling AE title is not known at this address"),
        ("CT2", "127.0.0.2", "association rejected: the calling AE title is not known"),
    ]
    assert len(recorder.requests) == 3
    assert "Association request rejected: calling AE CT1 at 127.0.0.3" in caplog.messages
    assert "Association request rejected: calling AE CT2 at 127.0.0.2" in caplog.messages


def test_without_rows_and_titles_nobody_calls(open_door: OpenDoor, recorder: Recorder) -> None:
    door = open_door()
    assert [answer(RawPeer.connect(door.port), one) for one in ("CT1", "DRIMBOX")] == [NOT_RECOGNIZED] * 2
    assert recorder.opened == []


def test_who_is_refused_takes_no_place(open_door: OpenDoor) -> None:
    door = open_door(at("127.0.0.2"), connections=Connections(1))
    strangers = [RawPeer.connect(door.port) for _ in range(3)]
    for stranger in strangers:
        stranger.send(raw.request(calling="CT1"))
        assert stranger.receive() == NOT_RECOGNIZED
    assert answer(RawPeer.connect(door.port, "127.0.0.2")) == ADMITTED
    for stranger in strangers:
        stranger.connection.close()


class Failing(Connections):
    """Fails where an association is admitted."""

    def admit(self, place: Place) -> None:
        raise RuntimeError(place.address)


def test_who_cannot_be_judged_is_not_let_in(
    open_door: OpenDoor, recorder: Recorder, refused: list[tuple[str, str, str]]
) -> None:
    door = open_door(titles=("CT1",), connections=Failing(4))
    kind, _ = answer(RawPeer.connect(door.port))
    assert kind in (0, 7), "closed, or A-ABORT"
    eventually(lambda: len(refused) == 1)
    assert refused == [("CT1", "127.0.0.1", "association aborted: a failure of the appliance")]
    assert recorder.opened == []


# --- certificates ------------------------------------------------------------------------------------------


def server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.authority))
    context.load_cert_chain(pki.path("appliance_server"), pki.key("appliance_server"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def secure(door: DicomDoor, pki: Pki, leaf: Leaf, files: Path, source: str = "127.0.0.1") -> RawPeer:
    context = ssl.create_default_context(cafile=str(pki.authority))
    context.check_hostname = False
    context.load_cert_chain(*leaf.write(files, "client"))
    connection = socket.create_connection(("127.0.0.1", door.port), 10, (source, 0))
    return RawPeer(context.wrap_socket(connection))


def test_a_row_with_certificates_is_met_by_one_of_them_only(
    open_door: OpenDoor,
    pki: Pki,
    leaves: tuple[Leaf, Leaf],
    tmp_path: Path,
    recorder: Recorder,
    refused: list[tuple[str, str, str]],
) -> None:
    ours, other = leaves
    rows = (
        at("127.0.0.1", pins=("0" * 64, fingerprint(ours))),
        at("127.0.0.4"),
        at(title="CT2", pins=(fingerprint(other),)),
    )
    plain, door = open_door(*rows), open_door(*rows, tls=lambda: server_context(pki))

    def over_tls(leaf: Leaf, source: str = "127.0.0.1", calling: str = "CT1") -> tuple[int, bytes]:
        return answer(secure(door, pki, leaf, tmp_path, source), calling)

    assert over_tls(ours) == ADMITTED
    assert over_tls(other, calling="CT2") == ADMITTED
    assert over_tls(other, "127.0.0.4") == ADMITTED
    assert answer(RawPeer.connect(plain.port, "127.0.0.4")) == ADMITTED
    assert {peer.certificate_sha256 for peer in recorder.opened} == {
        fingerprint(ours),
        fingerprint(other),
        None,
    }
    assert over_tls(other) == NOT_RECOGNIZED
    assert over_tls(ours, "127.0.0.5") == NOT_RECOGNIZED
    assert over_tls(ours, calling="CT3") == NOT_RECOGNIZED
    assert answer(RawPeer.connect(plain.port)) == NOT_RECOGNIZED
    eventually(lambda: len(refused) == 4)
    unknown = "association rejected: the calling AE title is"
    assert refused == [
        ("CT1", "127.0.0.1", f"{unknown} not known with certificate {fingerprint(other)}"),
        ("CT1", "127.0.0.5", f"{unknown} not known at this address"),
        ("CT3", "127.0.0.1", f"{unknown} not known"),
        ("CT1", "127.0.0.1", f"{unknown} known over TLS only"),
    ]


# --- the look at our own health ----------------------------------------------------------------------------


def test_a_look_at_the_door_calls_as_one_who_may(
    open_door: OpenDoor, refused: list[tuple[str, str, str]]
) -> None:
    rows = (at("10.0.0.5"), at(title="CT2", pins=("0" * 64,)), at("127.0.0.1", title="CT3"))
    door = open_door(*rows, titles=("CT1",))
    place = ("127.0.0.1", door.port)
    assert echo(place, "DRIMBOX", ("CT1",), rows, 4.0).status is Status.PASS
    assert echo(("localhost", door.port), "DRIMBOX", (), rows, 4.0).status is Status.PASS
    assert refused == []


def test_a_look_when_nobody_may_call_from_here(
    open_door: OpenDoor, refused: list[tuple[str, str, str]], free_port: Callable[[], int]
) -> None:
    rows = (at("10.0.0.5"), at(title="CT2", pins=("0" * 64,)))
    place = ("0.0.0.0", open_door(*rows).port)
    outcome = echo(place, "DRIMBOX", ("CT1",), rows, 4.0)
    assert outcome.status is Status.WARN
    assert "nobody may call from this machine: give 127.0.0.1" in outcome.output
    nobody = echo(place, "DRIMBOX", (), (), 4.0)
    assert (nobody.status, "calling_ae_titles is empty" in nobody.output) == (Status.WARN, True)
    gone = echo(("127.0.0.1", free_port()), "DRIMBOX", (), rows, 4.0)
    assert (gone.status, "start `drimbox dicom`" in gone.output) == (Status.FAIL, True)
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        stuck = echo(("127.0.0.1", stopped.getsockname()[1]), "DRIMBOX", (), rows, 0.3)
    assert (stuck.status, "restart it" in stuck.output) == (Status.FAIL, True)
    nowhere = echo(("no.such.host.invalid", 1), "DRIMBOX", (), rows, 1.0)
    assert nowhere.status is Status.FAIL
    assert refused == []
