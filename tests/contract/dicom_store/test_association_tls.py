"""The DICOM door over mutual TLS (PS3.15 B.9): who gets in, what the sink is told of them, and why others do not."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from pydicom.dataset import Dataset

from dicom_store.scp import DicomDoor
from drimbox.simulators.pki import Pki, make_pki
from fixtures import raw_association as raw
from fixtures.kept_pki import kept_pki
from fixtures.raw_association import RawPeer
from fixtures.sinks import Recorder

OpenDoor = Callable[..., DicomDoor]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("dicom-tls") / "pki")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def refused() -> list[str]:
    return []


def server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.authority))
    context.load_cert_chain(pki.path("appliance_server"), pki.key("appliance_server"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(params=["own", "reference"])
def open_door(
    pki: Pki, recorder: Recorder, refused: list[str], request: pytest.FixtureRequest
) -> Iterator[OpenDoor]:
    doors: list[DicomDoor] = []

    def open_one(**changes: Any) -> DicomDoor:
        values: dict[str, Any] = {"idle_timeout": 5.0, "tls": lambda: server_context(pki), **changes}
        doors.append(
            DicomDoor("127.0.0.1", 0, "DRIMBOX", ["PACS"], max_associations=2, max_instance_bytes=10_000_000,
                      open_sink=recorder.open, on_refused=lambda _peer, reason: refused.append(reason),
                      engine=request.param, **values)
        )  # fmt: skip
        doors[-1].start()
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop(grace=0.1)


def client_context(pki: Pki, name: str | None = "ris_auth") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.authority))
    context.check_hostname = False
    if name is not None:
        context.load_cert_chain(pki.path(name), pki.key(name))
    return context


def secure(door: DicomDoor, context: ssl.SSLContext) -> RawPeer:
    return RawPeer(context.wrap_socket(socket.create_connection(("127.0.0.1", door.port), 10)))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_stored_by_a_peer_with_a_certificate(open_door: OpenDoor, pki: Pki, recorder: Recorder) -> None:
    data = bytes(range(256)) * 8000
    with secure(open_door(), client_context(pki)) as peer:
        peer.associate()
        assert peer.store(data) == 0
        for drip in (1, 7, 50):  # TLS records that cut headers
            for part in raw.message(1, raw.store_command(), data[:400]):
                for at in range(0, len(part), drip):
                    peer.send(part[at : at + drip])
            assert raw.number(peer.answer(), 0x900) == 0
        assert peer.echo() == 0
        peer.release()
    assert [data for _, data in recorder.requests] == [data, *[data[:400]] * 3]
    certificate = x509.load_pem_x509_certificate(pki.path("ris_auth").read_bytes())
    (who,) = recorder.opened
    assert who.certificate_sha256 == certificate.fingerprint(SHA256()).hex()
    assert recorder.requests[0][0].peer == who


def test_without_tls_there_is_no_certificate(open_door: OpenDoor, recorder: Recorder) -> None:
    with RawPeer.connect(open_door(tls=None).port) as peer:
        peer.associate()
        assert peer.store() == 0
    assert recorder.opened[0].certificate_sha256 is None


def test_no_certificate_and_foreign_ones(
    open_door: OpenDoor, pki: Pki, recorder: Recorder, refused: list[str], tmp_path: Path
) -> None:
    foreign = make_pki(tmp_path / "foreign", datetime.now(UTC))
    context = client_context(pki, None)
    context.load_cert_chain(foreign.path("ris_auth"), foreign.key("ris_auth"))
    for unwelcome in (client_context(pki, None), context):
        with pytest.raises((OSError, AssertionError)), secure(open_door(), unwelcome) as peer:
            peer.associate()
    eventually(lambda: len(refused) == 2)
    assert refused[0] == "TLS refused: peer did not return a certificate"
    assert refused[1] == "TLS refused: certificate verify failed"
    assert recorder.opened == []


def test_plain_dicom_and_silence(open_door: OpenDoor, pki: Pki, refused: list[str]) -> None:
    door = open_door(idle_timeout=0.5)
    with RawPeer.connect(door.port) as peer:
        peer.send(raw.request())
        assert peer.receive()[0] != 2
    eventually(lambda: len(refused) == 1)
    assert refused[0].startswith("TLS refused: ")
    with RawPeer.connect(door.port) as silent:
        started = time.monotonic()
        assert silent.receive() == (0, b"")
        assert time.monotonic() - started < 3
    RawPeer.connect(door.port).connection.close()  # a probe: opened and closed
    with secure(door, client_context(pki)) as peer:
        peer.associate()
        assert peer.echo() == 0
    assert len(refused) == 1


def test_a_handshake_that_drips_holds_no_place(open_door: OpenDoor, pki: Pki) -> None:
    door = open_door(idle_timeout=0.6)
    with RawPeer.connect(door.port) as slow:
        started = time.monotonic()
        for byte in b"\x16\x03\x01\x02\x00" + bytes(100):
            try:
                slow.send(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - started < 3
    with secure(door, client_context(pki)) as peer:
        peer.associate()


def test_every_connection_asks_for_the_context(open_door: OpenDoor, pki: Pki) -> None:
    """Certificates are renewed without a restart; a context that cannot be made lets nobody in."""
    contexts: list[Callable[[], ssl.SSLContext]] = [lambda: server_context(pki)]
    door = open_door(tls=lambda: contexts[-1]())
    with secure(door, client_context(pki)) as peer:
        peer.associate()

    def broken() -> ssl.SSLContext:
        raise OSError("the key is gone")

    contexts.append(broken)
    with pytest.raises(OSError):
        secure(door, client_context(pki))
    contexts.pop()
    with secure(door, client_context(pki)) as peer:
        peer.associate()


def test_stop_aborts_over_tls(open_door: OpenDoor, pki: Pki, recorder: Recorder) -> None:
    door = open_door()
    with secure(door, client_context(pki)) as peer:
        peer.associate()
        assert peer.store() == 0
        started = time.monotonic()
        door.stop(grace=0.1)
        assert time.monotonic() - started < 3
    assert recorder.closed == 1


def test_a_silent_association_over_tls_is_aborted(open_door: OpenDoor, pki: Pki) -> None:
    with secure(open_door(idle_timeout=0.5), client_context(pki)) as peer:
        peer.associate()
        assert peer.receive()[0] in (0, 7)


@pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize("profile", ["+py", "+px"])
def test_storescu_over_tls(
    open_door: OpenDoor, pki: Pki, recorder: Recorder, profile: str,
    build: Callable[..., Dataset], save: Callable[[Dataset], Path], encode: Callable[[Dataset], bytes],
) -> None:  # fmt: skip
    image = build(size=300_000, Rows=300, Columns=1000)
    done = subprocess.run(
        ["storescu", "-v", "-R", "-aet", "PACS", "-aec", "DRIMBOX", profile, "+tls", str(pki.key("ris_auth")),
         str(pki.path("ris_auth")), "+cf", str(pki.authority), "127.0.0.1", str(open_door().port), str(save(image))],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "Received Store Response (Success)" in done.stdout + done.stderr
    assert [data for _, data in recorder.requests] == [encode(image)]
