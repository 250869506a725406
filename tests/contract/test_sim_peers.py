"""The appliance's peers: PACS (C-STORE), RIS (MLLP), partner (WADO-RS), against servers of the test."""

from __future__ import annotations

import gc
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider

from drimbox.simulators.multipart_reader import BrokenMultipartError
from drimbox.simulators.pacs import PushFailedError, push_study
from drimbox.simulators.partner import ANS_ACCEPT, partner_fetch
from drimbox.simulators.pki import Pki, make_pki
from drimbox.simulators.ris import NoAcknowledgementError, send_hl7
from drimbox.simulators.server import CutConnection, serve_wsgi, tls_context
from fixtures.kept_pki import kept_pki

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"


def image(path: Path, number: int, sop_class: str, transfer_syntax: str) -> bytes:
    """A small Part 10 file; returns its data set exactly as encoded."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"1.2.250.1.999.5.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.250.1.999.5", "1.2.250.1.999.5.0"
    dataset.PatientID = "IPP101"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = DicomBytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    group = int.from_bytes(path.read_bytes()[140:144], "little")  # (0002,0000) of the file meta
    return path.read_bytes()[144 + group :]


class Archive:
    """A storage SCP that keeps what it receives, raw."""

    def __init__(self, port: int, syntaxes: tuple[str, ...], status: int = 0x0000) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.status = status
        entity = AE(ae_title="ARCHIVE")
        entity.require_called_aet = True
        for sop_class in (CT, CR):
            entity.add_supported_context(sop_class, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self.store)]
        self.server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def store(self, event: Any) -> int:
        self.received.append((str(event.context.transfer_syntax), event.request.DataSet.getvalue()))
        return self.status


@contextmanager
def archive(port: int, *syntaxes: str, status: int = 0x0000) -> Iterator[Archive]:
    peer = Archive(port, syntaxes, status)
    try:
        yield peer
    finally:
        peer.server.shutdown()


def test_a_study_is_pushed_byte_for_byte(tmp_path: Path, free_port: Callable[[], int]) -> None:
    kinds = [(CT, ExplicitVRLittleEndian), (CR, ImplicitVRLittleEndian), (CT, JPEGLSLossless)]
    files = [tmp_path / f"{number}.dcm" for number in range(3)]
    sent = [image(file, n, *kind) for n, (file, kind) in enumerate(zip(files, kinds, strict=True))]
    with archive(port := free_port(), *(syntax for _, syntax in kinds)) as peer:
        statuses = push_study(files, "127.0.0.1", port, "ARCHIVE", "PACS")
    assert statuses == [0, 0, 0]
    assert peer.received == [(str(syntax), data) for (_, syntax), data in zip(kinds, sent, strict=True)]


def test_a_refusal_of_an_instance_is_a_status(tmp_path: Path, free_port: Callable[[], int]) -> None:
    image(tmp_path / "a.dcm", 1, CT, ExplicitVRLittleEndian)
    with archive(port := free_port(), ExplicitVRLittleEndian, status=0xA700):
        assert push_study([tmp_path / "a.dcm"], "127.0.0.1", port, "ARCHIVE", "PACS") == [0xA700]


class LatePause:
    """`Association._is_paused` of a reactor that loses the processor between its checkpoint and its queue."""

    def __get__(self, association: Any, owner: type) -> bool:
        return bool(association.__dict__.get("_is_paused", False))

    def __set__(self, association: Any, paused: bool) -> None:
        if not paused and threading.current_thread() is association:
            time.sleep(0.02)
        association.__dict__["_is_paused"] = paused


def test_no_answer_is_lost_to_the_reactor(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor when the pusher, too, loses the processor: between its request and its look at the queue."""
    take = DIMSEServiceProvider.get_msg

    def take_late(provider: Any, block: bool = False) -> Any:
        if block:
            time.sleep(0.06)
        return take(provider, block)

    monkeypatch.setattr(Association, "_is_paused", LatePause(), raising=False)
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", take_late)
    files = [tmp_path / f"{number}.dcm" for number in range(5)]
    for number, file in enumerate(files):
        image(file, number, CT, ExplicitVRLittleEndian)
    with archive(port := free_port(), ExplicitVRLittleEndian) as peer:
        statuses = push_study(files, "127.0.0.1", port, "ARCHIVE", "PACS", timeout=3)
    assert (statuses, len(peer.received)) == ([0] * 5, 5)


def test_refusals_of_the_association_are_failures(tmp_path: Path, free_port: Callable[[], int]) -> None:
    image(tmp_path / "a.dcm", 1, CT, ExplicitVRLittleEndian)
    image(tmp_path / "b.dcm", 2, CT, JPEGLSLossless)
    files = [tmp_path / "a.dcm", tmp_path / "b.dcm"]
    with archive(port := free_port(), ExplicitVRLittleEndian):
        with pytest.raises(PushFailedError, match="association"):
            push_study(files, "127.0.0.1", port, "SOMEONE", "PACS")
        with pytest.raises(PushFailedError) as unaccepted:
            push_study(files, "127.0.0.1", port, "ARCHIVE", "PACS")
    assert unaccepted.value.statuses == [0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_listening_is_a_failure(tmp_path: Path, free_port: Callable[[], int]) -> None:
    image(tmp_path / "a.dcm", 1, CT, ExplicitVRLittleEndian)
    with pytest.raises(PushFailedError, match="nobody listens"):
        push_study([tmp_path / "a.dcm"], "127.0.0.1", free_port(), "ARCHIVE", "PACS", timeout=2)
    gc.collect()  # pynetdicom forgets to close a socket that never connected: the warning belongs here


@contextmanager
def mllp(answers: list[bytes], *, hold: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads one frame, then sends `answers` one by one; `hold` keeps the connection open."""
    received: list[bytes] = []
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as client:
            frame = b""
            while not frame.endswith(b"\x1c\x0d"):
                frame += client.recv(4096)
            received.append(frame)
            for answer in answers:
                client.sendall(answer)
            if hold:
                over.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], received
    finally:
        over.set()
        thread.join()
        listener.close()


MESSAGE = b"MSH|^~\\&|RIS|A|B|C|20260101||ORU^R01|1|T|2.5\rPID|1\r"


def test_a_message_is_framed_and_its_acknowledgement_unframed() -> None:
    with mllp([b"\x0bMSH|^~", b"\\&|ACK\rMSA|AA|1\r\x1c", b"\x0d"]) as (port, received):
        assert send_hl7(MESSAGE, "127.0.0.1", port, 5) == b"MSH|^~\\&|ACK\rMSA|AA|1\r"
    assert received == [b"\x0b" + MESSAGE + b"\x1c\x0d"]


@pytest.mark.parametrize(
    ("answers", "hold", "reason"),
    [
        ([], False, "ended"),
        ([b"\x0bMSA|AA"], False, "ended"),
        ([b"\x0bMSA|AA"], True, "in time"),
        ([b"MSA|AA\x1c\x0d"], False, "not an MLLP frame"),
    ],
)
def test_no_whole_acknowledgement_is_an_error(answers: list[bytes], hold: bool, reason: str) -> None:
    with mllp(answers, hold=hold) as (port, _):
        started = time.monotonic()
        with pytest.raises(NoAcknowledgementError, match=reason):
            send_hl7(MESSAGE, "127.0.0.1", port, 0.3)
        assert time.monotonic() - started < 2


def test_nobody_listening_is_an_os_error(free_port: Callable[[], int]) -> None:
    with pytest.raises(ConnectionRefusedError):
        send_hl7(MESSAGE, "127.0.0.1", free_port(), 1)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("partner-world") / "pki")


PARTS = [b"first" * 100_000, b"", b"third\r\n--almost"]
TYPE = 'multipart/related; type="application/dicom"; boundary=0d5'


def multipart() -> bytes:
    head = b"--0d5\r\nContent-Type: application/dicom;transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in PARTS) + b"--0d5--\r\n"


class Source:
    """A source DRIMBox of the test: answers as told, remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        self.asked = environ
        body = multipart()
        path = environ["PATH_INFO"]
        if path.endswith("/refused"):
            start("410 Gone", [("Content-Type", "application/problem+json")])
            yield b'{"type": "kos-unpublished"}'
            return
        length = [] if path.endswith("/unended") else [("Content-Length", str(len(body)))]
        start("200 OK", [("Content-Type", TYPE), *length])
        yield body[: len(body) - 4] if path.endswith("/unended") else body[:200_000]
        if path.endswith("/cut"):
            raise CutConnection
        if not path.endswith("/unended"):
            yield body[200_000:]


@pytest.fixture
def source(pki: Pki) -> Iterator[tuple[Source, str]]:
    app = Source()
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"), pki.authority)
    server = serve_wsgi(app, "127.0.0.1", 0, context)
    yield app, server.url + "/dicom-web-rs/studies/1.2.3"
    server.stop()


def fetch(pki: Pki, url: str, **how: Any) -> Any:
    wanted: dict[str, Any] = {"token": "T", "kos_uid": "1.2.3", "ca": pki.authority}
    wanted["certificate"] = (pki.path("partner_auth"), pki.key("partner_auth"))
    return partner_fetch(url, **(wanted | how), timeout=10)


def test_a_partner_sends_what_the_ans_samples_send(
    source: tuple[Source, str], pki: Pki, official: Path
) -> None:
    app, url = source
    fetched = fetch(pki, url)
    assert fetched.parts == PARTS
    assert fetched.part_headers[0]["content-type"].endswith("1.2.840.10008.1.2.1")
    assert (app.asked["HTTP_AUTHORIZATION"], app.asked["HTTP_KOS_SOPINSTANCEUID"]) == ("Bearer T", "1.2.3")
    assert app.asked["HTTP_ACCEPT"] == ANS_ACCEPT
    assert app.asked["drimbox.peer_certificate"] is not None
    sample = (official / "wado" / "OK_Series.txt").read_text().partition("Accept: ")[2].strip()
    assert [element.split(";q=")[0] for element in ANS_ACCEPT.split(",")] == [
        element.split(";q=")[0] for element in sample.split(",")
    ]


def test_what_is_left_out_is_not_sent(source: tuple[Source, str], pki: Pki) -> None:
    app, url = source
    fetch(pki, url, token=None, kos_uid=None, certificate=None, accept="*/*")
    assert not {"HTTP_AUTHORIZATION", "HTTP_KOS_SOPINSTANCEUID"} & set(app.asked)
    assert (app.asked["HTTP_ACCEPT"], app.asked["drimbox.peer_certificate"]) == ("*/*", None)


def test_a_refusal_is_an_answer(source: tuple[Source, str], pki: Pki) -> None:
    fetched = fetch(pki, source[1] + "/refused")
    assert (fetched.status, fetched.parts, fetched.body) == (410, [], b'{"type": "kos-unpublished"}')
    assert fetched.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("fault", ["/cut", "/unended"])
def test_a_body_that_is_not_whole_is_an_error(source: tuple[Source, str], pki: Pki, fault: str) -> None:
    with pytest.raises((BrokenMultipartError, http.client.HTTPException, OSError)):
        fetch(pki, source[1] + fault)


def test_a_server_of_another_authority_is_not_trusted(
    source: tuple[Source, str], pki: Pki, tmp_path: Path
) -> None:
    other = make_pki(tmp_path / "pki", datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch(pki, source[1], ca=other.authority)


def test_only_https_is_spoken(pki: Pki) -> None:
    with pytest.raises(ValueError, match="https"):
        fetch(pki, "http://127.0.0.1/studies/1.2.3")
