"""`drimbox dicom` as a process with a TLS port: open to those whom its authorities know, and to nobody else."""

from __future__ import annotations

import hashlib
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from drimbox.adapters.probes_tls import tls_begins
from drimbox.simulators.pki import Leaf, Pki
from fixtures import raw_association as raw
from fixtures.configuration import configuration
from fixtures.kept_pki import kept_pki
from fixtures.raw_association import EXPLICIT, SECONDARY_CAPTURE, RawPeer
from healthcheck.probe import Status

PATIENCE = 30.0
NOT_OURS = "1.02.3.forged"  # neither a UID nor a transfer syntax


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("dicom-process") / "pki")


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


class Process:
    """One `drimbox dicom`, its files and its words."""

    def __init__(self, root: Path, pki: Pki, port: int, tls_port: int, **changes: Any) -> None:
        self.root, self.pki, self.port, self.tls_port = root, pki, port, tls_port
        self.log = root / "dicom.log"
        room = {
            "ae_title": "DRIMBOX",
            "calling_ae_titles": ["PACS"],
            "port": port,
            "tls_port": tls_port,
            "tls_certificate": str(pki.path("appliance_server")),
            "tls_key": str(pki.key("appliance_server")),
            "tls_client_authority": str(pki.authority),
            "max_associations": 3,
            **changes,
        }
        (root / "drimbox.toml").write_text(configuration(root, dicom=room), "utf-8")
        command = [sys.executable, "-m", "drimbox", "dicom", "--config", str(root / "drimbox.toml")]
        with self.log.open("wb") as words:
            self.running = subprocess.Popen(command, stderr=words)

    def wait_until_open(self) -> None:
        eventually(lambda: self.said().count("dicom_listening") == 2 or self.running.poll() is not None)
        assert self.running.poll() is None, self.said()

    def said(self) -> str:
        return self.log.read_text("utf-8")

    def secure(self, leaf: Leaf | None, files: Path) -> RawPeer:
        """Over TLS, with this certificate."""
        context = ssl.create_default_context(cafile=str(self.pki.authority))
        context.check_hostname = False
        if leaf is not None:
            context.load_cert_chain(*leaf.write(files, "client"))
        connection = socket.create_connection(("127.0.0.1", self.tls_port), 10)
        try:
            return RawPeer(context.wrap_socket(connection))
        except OSError:
            connection.close()
            raise

    def rows(self, event: str) -> list[str]:
        """What the trace says of an event."""
        with closing(sqlite3.connect(self.root / "drimbox.sqlite")) as database:
            found = database.execute("SELECT detail FROM trace WHERE event = ?", (event,)).fetchall()
        return [str(detail) for (detail,) in found]


@pytest.fixture
def process(tmp_path: Path, pki: Pki, free_port: Callable[[], int]) -> Iterator[Process]:
    made = Process(tmp_path, pki, free_port(), free_port())
    try:
        made.wait_until_open()
        yield made
    finally:
        made.running.kill()
        made.running.wait()


def test_the_tls_port_lets_in_whom_its_authorities_know(
    process: Process, build: Callable[..., Dataset], encode: Callable[[Dataset], bytes], tmp_path: Path
) -> None:
    pki, files = process.pki, tmp_path / "clients"
    ours = pki.issue("AUTH_CLI", "ct-1", "1750803447")
    image = build()
    with process.secure(ours, files) as peer:
        peer.associate({1: (SECONDARY_CAPTURE, (EXPLICIT,)), 3: ("1.2.03", (NOT_OURS, EXPLICIT))})
        assert peer.store(encode(image), instance=image.SOPInstanceUID) == 0
        peer.release()
    assert len(process.rows("INSTANCE_STORED")) == 1
    unwelcome = {
        "peer did not return a certificate": None,
        "certificate verify failed": pki.issue("AUTH_CLI", "ct-2", "1750803447", expired=True),
    }
    for leaf in (*unwelcome.values(), pki.issue("AUTH_CLI", "ct-3", "1750803447", foreign_authority=True)):
        with pytest.raises((OSError, AssertionError)), process.secure(leaf, files) as peer:
            peer.associate()
    with RawPeer.connect(process.tls_port) as peer, pytest.raises((OSError, AssertionError)):
        peer.associate()
    eventually(lambda: len(process.rows("ASSOCIATION_REFUSED")) == 3)
    told = "".join(process.rows("ASSOCIATION_REFUSED"))
    assert told.count("TLS refused: certificate verify failed") == 1, "the second is counted"
    assert told.count("TLS refused: peer did not return a certificate") == 1
    with RawPeer.connect(process.port) as peer:
        peer.associate({5: (raw.VERIFICATION, (raw.IMPLICIT,))})
        assert peer.echo() == 0
        peer.release()
    process.running.send_signal(signal.SIGTERM)
    assert process.running.wait(PATIENCE) == 0
    assert NOT_OURS not in process.said()
    assert "library_warning" not in process.said(), "Python keeps the text of each warning for ever"


def test_both_ports_together_have_the_places_of_the_settings(process: Process, tmp_path: Path) -> None:
    ours = process.pki.issue("AUTH_CLI", "ct-1", "1750803447")
    peers = [RawPeer.connect(process.port), *(process.secure(ours, tmp_path) for _ in range(2))]
    for peer in peers:
        peer.associate()
    with RawPeer.connect(process.port) as late:
        late.send(raw.request())
        assert late.receive() == (3, bytes([0, 2, 3, 2]))
    for peer in peers:
        peer.connection.close()


def test_a_look_at_the_tls_port_is_no_refused_peer(process: Process, free_port: Callable[[], int]) -> None:
    port, command = process.tls_port, "drimbox dicom"
    shown, other = process.pki.path("appliance_server"), process.pki.path("ris_auth")
    for _ in range(3):
        outcome = tls_begins("127.0.0.1", port, shown, 4.0, command)
        assert (outcome.status, outcome.output) == (Status.PASS, "")
    assert process.rows("ASSOCIATION_REFUSED") == []
    assert "TLS not agreed" not in process.said()
    foreign = tls_begins("127.0.0.1", port, other, 4.0, command)
    assert (foreign.status, "does not show" in foreign.output) == (Status.FAIL, True)
    absent = tls_begins("127.0.0.1", port, Path("absent.pem"), 4.0, command)
    assert (absent.status, "absent.pem" in absent.output) == (Status.FAIL, True)
    plain = tls_begins("127.0.0.1", process.port, shown, 4.0, command)
    assert plain.status is Status.FAIL
    nobody = tls_begins("127.0.0.1", free_port(), shown, 4.0, command)
    assert (nobody.status, "start `drimbox dicom`" in nobody.output) == (Status.FAIL, True)
    process.running.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    stopped = tls_begins("127.0.0.1", port, shown, 0.5, command)
    assert (stopped.status, "restart it" in stopped.output) == (Status.FAIL, True)
    assert time.monotonic() - begun < 2
    process.running.send_signal(signal.SIGCONT)
    eventually(lambda: tls_begins("127.0.0.1", port, shown, 4.0, command).status is Status.PASS)


def test_a_key_that_does_not_match_is_said_and_not_taken(process: Process, tmp_path: Path) -> None:
    key = Path(process.pki.key("appliance_server"))
    sound = key.read_bytes()
    with process.secure(process.pki.issue("AUTH_CLI", "ct-1", "1750803447"), tmp_path) as peer:
        peer.associate()
    try:
        key.write_bytes(process.pki.key("ris_auth").read_bytes())
        shown = process.pki.path("appliance_server")
        outcome = tls_begins("127.0.0.1", process.tls_port, Path(shown), 4.0, "drimbox dicom")
        assert outcome.status is Status.PASS
        eventually(lambda: "the key does not match the certificate; the old one stays" in process.said())
    finally:
        key.write_bytes(sound)
    with process.secure(process.pki.issue("AUTH_CLI", "ct-1", "1750803447"), tmp_path) as peer:
        peer.associate()
    assert process.rows("ASSOCIATION_REFUSED") == []


def test_a_stranger_who_insists_fills_neither_trace_nor_log(process: Process) -> None:
    for _ in range(60):
        with RawPeer.connect(process.port) as stranger:
            stranger.send(raw.request(calling="STRANGER"))
            assert stranger.receive()[0] == 3
    eventually(lambda: process.rows("ASSOCIATION_REFUSED"))
    assert len(process.rows("ASSOCIATION_REFUSED")) == 1, "the others are counted, and told a minute later"


def test_the_rows_of_the_settings_say_who_may_send(
    tmp_path: Path, pki: Pki, free_port: Callable[[], int]
) -> None:
    ours, other = (pki.issue("AUTH_CLI", name, "1750803447") for name in ("ct-1", "ct-2"))
    rows = [
        {"ae_title": "CT1", "certificate_sha256": [hashlib.sha256(ours.der).hexdigest()]},
        {"ae_title": "PACS", "addresses": ["127.0.0.2/32"]},
    ]
    process = Process(tmp_path, pki, free_port(), free_port(), senders=rows)
    try:
        process.wait_until_open()
        admitted = [process.secure(ours, tmp_path), RawPeer.connect(process.port, "127.0.0.2")]
        refused = [process.secure(other, tmp_path), RawPeer.connect(process.port)]
        for title, *peers in zip(("CT1", "PACS"), admitted, refused, strict=True):
            answers = []
            for peer in peers:
                with peer:
                    peer.send(raw.request(calling=title))
                    answers.append(peer.receive()[0])
            assert answers == [2, 3]
        eventually(lambda: len(process.rows("ASSOCIATION_REFUSED")) == 2)
        told = "".join(process.rows("ASSOCIATION_REFUSED"))
        assert f"not known with certificate {hashlib.sha256(other.der).hexdigest()}" in told
        assert "not known at this address" in told
    finally:
        process.running.kill()
        process.running.wait()


@pytest.mark.parametrize("fault", ["port", "key"])
def test_what_cannot_be_opened_is_said(
    tmp_path: Path, pki: Pki, free_port: Callable[[], int], fault: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        tls_port = taken.getsockname()[1] if fault == "port" else free_port()
        changes = {} if fault == "port" else {"tls_key": str(pki.key("ris_auth"))}
        process = Process(tmp_path, pki, free_port(), tls_port, **changes)
        try:
            assert process.running.wait(PATIENCE) != 0
        finally:
            process.running.kill()
            process.running.wait()
    assert {"port": "Address already in use", "key": "KEY_VALUES_MISMATCH"}[fault] in process.said()
    assert "cannot join thread" not in process.said()
