"""scp: the DICOM door, driven by dcmtk, by pynetdicom, and by raw sockets."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from dicom_store.archive import Archive
from dicom_store.header import read_header
from dicom_store.index import Base
from dicom_store.scp import DicomDoor
from dicom_store.sink import Peer, Sink, StoreCommand
from dicom_store.status import Outcome, StoreRefused
from fixtures.sinks import Recorder, WholeSink

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG_LOSSLESS, J2K, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5"
Build = Callable[..., Dataset]
Encode = Callable[[Dataset], bytes]
Save = Callable[[Dataset], Path]

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=["own", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    """The same promises, whichever engine runs the associations."""
    return str(request.param)


@pytest.fixture
def open_door(engine: str) -> Iterator[Callable[..., DicomDoor]]:
    doors: list[DicomDoor] = []

    def open_one(open_sink: Callable[[Peer], Sink], **changes: Any) -> DicomDoor:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "ae_title": "DRIMBOX",
            "calling_ae_titles": ["PACS", "MODALITY"],
            "max_associations": 4,
            "idle_timeout": 5.0,
            "max_instance_bytes": 10_000_000,
            "open_sink": open_sink,
            "engine": engine,
        }
        door = DicomDoor(**{**values, **changes})
        door.start()
        doors.append(door)
        return door

    yield open_one
    for door in doors:
        door.stop(grace=0.2)


@pytest.fixture
def door(open_door: Callable[..., DicomDoor], recorder: Recorder) -> DicomDoor:
    return open_door(recorder.open)


def storescu(door: DicomDoor, *files: Path, options: tuple[str, ...] = (), calling: str = "PACS") -> str:
    command = [
        "storescu",
        "-v",
        "-R",
        "-aet",
        calling,
        "-aec",
        "DRIMBOX",
        *options,
        "127.0.0.1",
        str(door.port),
    ]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def echoscu(
    door: DicomDoor, calling: str = "PACS", called: str = "DRIMBOX"
) -> subprocess.CompletedProcess[str]:
    command = ["echoscu", "-v", "-to", "10", "-aet", calling, "-aec", called, "127.0.0.1", str(door.port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def assert_serving(door: DicomDoor) -> None:
    assert echoscu(door).returncode == 0


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def associate(door: DicomDoor, *contexts: tuple[str, list[str]]) -> Any:
    client = AE("PACS")
    for abstract_syntax, transfer_syntaxes in contexts or ((Verification, [IMPLICIT]),):
        client.add_requested_context(abstract_syntax, transfer_syntaxes)
    association = client.associate("127.0.0.1", door.port, ae_title="DRIMBOX")
    assert association.is_established
    _CONNECTIONS.append(association.dul.socket.socket)
    return association


_CONNECTIONS: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _connections_are_closed() -> Iterator[None]:
    """pynetdicom leaves a client's socket open when its peer was first to go."""
    yield
    while _CONNECTIONS:
        _CONNECTIONS.pop().close()


def send_raw(association: Any, data: bytes, sop_class: str | None, sop_instance: str | None) -> Any:
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 0
    if sop_class:
        request.AffectedSOPClassUID = sop_class
    if sop_instance:
        request.AffectedSOPInstanceUID = sop_instance
    request.DataSet = BytesIO(data)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return answer


# --- who may speak -----------------------------------------------------------------------------------------


def test_echo(door: DicomDoor) -> None:
    assert echoscu(door).returncode == 0


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("PACS", "ELSEWHERE", "Called AE Title Not Recognized"),
        ("STRANGER", "DRIMBOX", "Calling AE Title Not Recognized"),
    ],
)
def test_wrong_titles_are_rejected_with_the_reason(
    door: DicomDoor, calling: str, called: str, reason: str
) -> None:
    done = echoscu(door, calling, called)
    assert done.returncode != 0
    assert reason in done.stderr
    assert_serving(door)


def test_no_calling_title_configured_means_nobody(
    open_door: Callable[..., DicomDoor], recorder: Recorder
) -> None:
    door = open_door(recorder.open, calling_ae_titles=[])
    for calling in ("PACS", "DRIMBOX", "ANY-SCU"):
        assert "Calling AE Title Not Recognized" in echoscu(door, calling).stderr


def test_too_many_associations_are_rejected(open_door: Callable[..., DicomDoor], recorder: Recorder) -> None:
    door = open_door(recorder.open, max_associations=1)
    association = associate(door)
    assert "Local Limit Exceeded" in echoscu(door).stderr
    association.release()
    eventually(lambda: echoscu(door).returncode == 0)


# --- what is stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "option"),
    [
        (EXPLICIT, "-x="),
        (IMPLICIT, "-xi"),
        (BIG_ENDIAN, "-xb"),
        (JPEG_LOSSLESS, "-xs"),
        (RLE, "-xr"),
        (J2K, "-xw"),
    ],
)
def test_the_bytes_are_those_that_dcmtk_sent(
    door: DicomDoor, recorder: Recorder, build: Build, save: Save, encode: Encode, syntax: str, option: str
) -> None:
    image = build(syntax, size=5000)
    assert "Received Store Response (Success)" in storescu(door, save(image), options=(option,))
    ((request, data),) = recorder.requests
    assert request.transfer_syntax == syntax
    assert (request.sop_class_uid, request.sop_instance_uid) == (image.SOPClassUID, image.SOPInstanceUID)
    if syntax in (EXPLICIT, JPEG_LOSSLESS, RLE, J2K):
        assert dcmread(save(image)).PixelData == image.PixelData
    header = read_header(data, syntax, image.SOPClassUID, image.SOPInstanceUID)
    assert header.StudyInstanceUID == "1.2.3.4"
    eventually(lambda: recorder.closed == 1)
    (peer,) = recorder.opened
    assert (peer.ae_title, peer.address) == ("PACS", "127.0.0.1")


def test_every_transfer_syntax_as_sent(door: DicomDoor, recorder: Recorder) -> None:
    sent = {str(syntax): os.urandom(200_000) for syntax in AllTransferSyntaxes}
    for syntax, data in sent.items():
        association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [syntax]))
        assert send_raw(association, data, "1.2.840.10008.5.1.4.1.1.7", "1.2.3").Status == 0x0000
        association.release()
    assert len(sent) > 30
    assert {request.transfer_syntax: data for request, data in recorder.requests} == sent


def test_every_storage_class_private_ones_too(door: DicomDoor, recorder: Recorder) -> None:
    standard = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:120]
    classes = [*standard, "1.2.840.113619.4.26", "1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.9999"]
    association = associate(door, *((sop_class, [EXPLICIT]) for sop_class in classes))
    assert len(association.accepted_contexts) == len(classes)
    assert send_raw(association, b"data", classes[-3], "1.2.3").Status == 0x0000
    association.release()
    assert recorder.requests[0][0].sop_class_uid == classes[-3]


def test_other_services_are_not_offered(door: DicomDoor) -> None:
    association = associate(door, (Verification, [IMPLICIT]), ("1.2.840.10008.5.1.4.1.2.1.1", [IMPLICIT]))
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    association.release()


@pytest.mark.parametrize(
    ("proposed", "accepted"),
    [([IMPLICIT, EXPLICIT], EXPLICIT), ([BIG_ENDIAN, IMPLICIT, EXPLICIT], EXPLICIT), ([IMPLICIT], IMPLICIT),
     ([J2K, EXPLICIT], J2K), ([IMPLICIT, J2K], IMPLICIT), (["1.2.3.4", EXPLICIT], "1.2.3.4")],
)  # fmt: skip
def test_which_transfer_syntax_is_accepted(door: DicomDoor, proposed: list[str], accepted: str) -> None:
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", proposed))
    (context,) = association.accepted_contexts
    association.release()
    assert context.transfer_syntax == [accepted]


def test_a_large_instance_in_small_pdus(
    door: DicomDoor, recorder: Recorder, build: Build, save: Save
) -> None:
    image = build(size=3_000_000, Rows=1000, Columns=3000)
    assert "(Success)" in storescu(door, save(image), options=("--max-send-pdu", "4096"))
    ((_, data),) = recorder.requests
    assert data.endswith(bytes(image.PixelData))


def test_two_associations_in_parallel(door: DicomDoor, recorder: Recorder, build: Build, save: Save) -> None:
    files = [
        [save(build(SOPInstanceUID=f"1.2.3.4.{a}.{n}", size=50_000)) for n in range(20)] for a in range(2)
    ]
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda paths=paths: results.append(storescu(door, *paths))) for paths in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.count("(Success)") for result in results] == [20, 20]
    assert len({request.sop_instance_uid for request, _ in recorder.requests}) == 40
    assert len({peer.association for peer in recorder.opened}) == 2
    eventually(lambda: recorder.closed == 2)


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_refusal_is_answered_with_its_status_and_reason(
    door: DicomDoor, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.failure = StoreRefused(
        Outcome.UID_MISMATCH, "SOPInstanceUID is not that of the command é" + "x" * 99
    )
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    answer = send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "1.2.3")
    assert answer.Status == 0xA900
    assert answer.ErrorComment.startswith("SOPInstanceUID is not that of the command ?x")
    assert len(answer.ErrorComment) == 64
    recorder.failure = None
    assert send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "1.2.3").Status == 0x0000
    association.release()
    assert [
        r for r in caplog.records if r.name.startswith("dicom_store.") and r.levelno >= logging.ERROR
    ] == []


def test_an_unexpected_failure_is_answered_and_logged_without_data(
    door: DicomDoor, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.failure = RuntimeError("PAT^ONE was here")
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    assert send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "1.2.3").Status == 0x0110
    association.release()
    (record,) = [
        r for r in caplog.records if r.name.startswith("dicom_store.") and r.levelno >= logging.ERROR
    ]
    assert "RuntimeError" in record.getMessage()
    assert "PAT^ONE" not in caplog.text
    assert_serving(door)


@pytest.mark.parametrize(
    ("sop_class", "sop_instance", "named"),
    [
        (None, "1.2.3", "AffectedSOPClassUID"),
        ("1.2.840.10008.5.1.4.1.1.7", None, "AffectedSOPInstanceUID"),
    ],
)
def test_a_command_without_its_uids_gets_an_answer(
    door: DicomDoor, recorder: Recorder, sop_class: str | None, sop_instance: str | None, named: str
) -> None:
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    answer = send_raw(association, b"x", sop_class, sop_instance)
    association.abort()
    assert answer.Status == 0xC001
    assert answer.ErrorComment == f"{named} missing"
    assert recorder.requests == []
    assert_serving(door)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_of_the_command_are_handed_over_unread(door: DicomDoor, recorder: Recorder) -> None:
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "../../etc/passwd")
    association.release()
    assert recorder.requests[0][0].sop_instance_uid == "../../etc/passwd"


def test_an_instance_over_the_limit_is_aborted(
    open_door: Callable[..., DicomDoor], recorder: Recorder, build: Build, save: Save
) -> None:
    door = open_door(recorder.open, max_instance_bytes=1_000_000)
    answer = storescu(door, save(build(size=3_000_000, Rows=1000, Columns=3000)))
    assert "Success" not in answer
    assert recorder.requests == []
    assert "(Success)" in storescu(door, save(build(size=900_000, Rows=300, Columns=3000)))


def test_sending_on_without_waiting_is_aborted(door: DicomDoor, recorder: Recorder, engine: str) -> None:
    recorder.pause = threading.Event()
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    sent: list[Any] = []
    association.bind(evt.EVT_DATA_SENT, sent.append)
    for number in (1, 2):
        request = C_STORE()
        request.MessageID, request.Priority = number, 0
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = (
            "1.2.840.10008.5.1.4.1.1.7",
            f"1.2.{number}",
        )
        request.DataSet = BytesIO(b"x" * 100)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    eventually(lambda: len(sent) >= 4)  # by a thread: command and data set of each
    # our own engine looks when the instance at hand is stored, the reference at once
    eventually(lambda: engine == "own" or bool(association.is_aborted))
    recorder.pause.set()
    eventually(lambda: bool(association.is_aborted))
    eventually(lambda: recorder.closed == 1)
    assert len(recorder.requests) == 1
    assert_serving(door)


# --- bytes that are not DICOM ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        bytes(1000),
        b"\x01\x00\xff\xff\xff\xff" + bytes(1000),
        b"\x01\x00\x00\x00\x00\x44" + b"\xff" * 68,
        b"\x04\x00\x00\x00\x00\x06" + bytes(6),
    ],
)
def test_garbage_is_closed_and_the_door_serves_on(
    door: DicomDoor, recorder: Recorder, garbage: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            continue
    assert recorder.opened == []
    assert_serving(door)


def test_connections_without_a_request_hold_no_place(
    open_door: Callable[..., DicomDoor], recorder: Recorder
) -> None:
    door = open_door(recorder.open, max_associations=2, idle_timeout=30.0)
    for _ in range(10):
        socket.create_connection(("127.0.0.1", door.port), timeout=10).close()
    eventually(lambda: echoscu(door).returncode == 0, seconds=5)
    assert [echoscu(door).returncode for _ in range(3)] == [0, 0, 0]


def test_silence_is_closed(open_door: Callable[..., DicomDoor], recorder: Recorder) -> None:
    door = open_door(recorder.open, idle_timeout=0.5)
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection:
        assert connection.recv(1) == b""
    assert_serving(door)


def test_a_truncated_pdu_is_closed(open_door: Callable[..., DicomDoor], recorder: Recorder) -> None:
    door = open_door(recorder.open, idle_timeout=0.5)
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection:
        connection.sendall(b"\x01\x00" + struct.pack(">L", 500) + bytes(100))
        assert connection.recv(100) == b""
    assert_serving(door)


def test_a_dripping_pdu_is_closed(open_door: Callable[..., DicomDoor], recorder: Recorder) -> None:
    door = open_door(recorder.open, idle_timeout=0.6)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection:
        connection.sendall(b"\x01\x00" + struct.pack(">L", 500))
        with pytest.raises(OSError):
            while time.monotonic() - started < 8:
                connection.sendall(b"\0")
                time.sleep(0.1)
    assert time.monotonic() - started < 8
    assert_serving(door)


def test_an_association_cut_in_the_middle_of_an_instance(door: DicomDoor, recorder: Recorder) -> None:
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    raw = association.dul.socket.socket
    context = association.accepted_contexts[0].context_id
    raw.sendall(b"\x04\x00" + struct.pack(">LLBB", 1006, 1002, context, 1) + bytes(500))
    raw.shutdown(socket.SHUT_RDWR)
    eventually(lambda: not association.is_alive())
    assert recorder.requests == []
    assert_serving(door)


def test_an_idle_association_is_aborted(open_door: Callable[..., DicomDoor], recorder: Recorder) -> None:
    door = open_door(recorder.open, idle_timeout=0.5)
    association = associate(door)
    eventually(lambda: not association.is_alive())
    assert association.is_aborted
    assert_serving(door)


def test_stop_ends_what_is_open_and_frees_the_port(
    open_door: Callable[..., DicomDoor], recorder: Recorder
) -> None:
    door = open_door(recorder.open)
    port = door.port
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    assert send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "1.2.3").Status == 0x0000
    door.stop(grace=0.2)
    eventually(lambda: bool(association.is_aborted))
    assert recorder.closed == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    again = open_door(recorder.open, port=port)
    assert_serving(again)


def test_stop_waits_for_the_instance_being_stored(door: DicomDoor, recorder: Recorder) -> None:
    recorder.pause = threading.Event()
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    answers: list[Any] = []

    def send_and_release() -> None:
        answers.append(send_raw(association, b"x", "1.2.840.10008.5.1.4.1.1.7", "1.2.3"))
        association.release()

    sender = threading.Thread(target=send_and_release)
    sender.start()
    eventually(lambda: len(recorder.opened) == 1)
    stopper = threading.Thread(target=door.stop)
    stopper.start()
    recorder.pause.set()
    sender.join()
    stopper.join()
    assert answers[0].Status == 0x0000


# --- the whole way, with an archive --------------------------------------------------------------------------


class ArchiveSink(WholeSink):
    """What the product does, in short."""

    def __init__(self, archive: Archive, database: Engine, peer: Peer) -> None:
        self._archive, self._database = archive, database
        self._writer = archive.writer(peer.ae_title)

    def store(self, command: StoreCommand, data_set: bytes) -> Outcome:
        header = read_header(
            data_set, command.transfer_syntax, command.sop_class_uid, command.sop_instance_uid
        )
        with Session(self._database) as session:
            known = self._archive.recognise(session, self._writer.take(header, data_set))
            if known:
                return known
            outcome = self._archive.index(session, header, self._writer.append(header, data_set))
            session.commit()
        return outcome

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def kept(
    tmp_path: Path, open_door: Callable[..., DicomDoor]
) -> Iterator[tuple[DicomDoor, Callable[[], list[bytes]]]]:
    archive = Archive(tmp_path / "images", 0)
    engine = create_engine(f"sqlite:///{tmp_path / 'index.sqlite'}", connect_args={"timeout": 30})
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    Base.metadata.create_all(engine)
    door = open_door(lambda peer: ArchiveSink(archive, engine, peer))

    def files() -> list[bytes]:
        with Session(engine) as session:
            return [b"".join(archive.read(stored)) for stored in archive.retrieve(session, "1.2.3.4")]

    yield door, files
    door.stop(grace=0.2)
    archive.close()
    engine.dispose()


Kept = tuple[DicomDoor, Callable[[], list[bytes]]]


def test_stored_again_and_altered(kept: Kept, build: Build, save: Save, encode: Encode) -> None:
    door, files = kept
    image, altered = build(), build(PatientID="IPP102")
    assert "(Success)" in storescu(door, save(image))
    assert "(Success)" in storescu(door, save(image))
    refused = storescu(door, save(altered))
    assert "Received Store Response (Unknown Status: 0x111)" in refused  # dcmtk 3.6.7 has no name for it
    (file,) = files()
    assert dcmread(BytesIO(file)).PatientID == "IPP101"
    assert file.endswith(encode(image))


def test_a_study_from_two_associations_at_once(kept: Kept, build: Build, save: Save) -> None:
    door, files = kept
    groups = [
        [save(build(SOPInstanceUID=f"1.2.3.4.{a}.{n}", InstanceNumber=n)) for n in range(10)] for a in (1, 2)
    ]
    both = [*groups[0], *groups[1]]
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(storescu(door, *both))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.count("(Success)") for result in results] == [20, 20]
    assert len(files()) == 20


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_without_a_uid(kept: Kept, build: Build, save: Save, keyword: str) -> None:
    door, files = kept
    image = build()
    delattr(image, keyword)
    assert "Received Store Response (Success)" not in storescu(door, save(image))
    assert files() == []
    assert_serving(door)


def test_a_study_uid_that_is_a_path(kept: Kept, build: Build, encode: Encode, tmp_path: Path) -> None:
    door, files = kept
    data = encode(build()).replace(
        b"\x20\x00\x0d\x00UI\x08\x001.2.3.4\0", b"\x20\x00\x0d\x00UI\x08\x00../../xx"
    )
    association = associate(door, ("1.2.840.10008.5.1.4.1.1.7", [EXPLICIT]))
    answer = send_raw(association, data, "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4.5.1")
    association.release()
    assert (answer.Status, answer.ErrorComment) == (0xC002, "StudyInstanceUID is not a UID")
    assert files() == []
    assert list(tmp_path.rglob("*.seg")) == []
