"""Real SCUs at the DICOM door, on both engines: dcmtk, pynetdicom and Orthanc; what comes in is what they sent."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from pynetdicom import AE, StoragePresentationContexts, build_context

from dicom_store.scp import DicomDoor
from dicom_store.sink import Peer, StoreCommand
from dicom_store.status import Outcome
from drimbox.entrypoints.bench_wado_clients import ENVIRONMENT
from drimbox.simulators.still_reactor import still_reactor
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.raw_association import RawPeer, number, p_data, pdv, store_command
from fixtures.sinks import Recorder
from fixtures.stored_forms import FORMS, Stored, data_set_of, make_documents, make_forms

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed")

# Option of storescu that proposes a transfer syntax; -xf and those of the uncompressed ones apart.
COMPRESSED = {
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.4.100": "-xm",
    "1.2.840.10008.1.2.4.101": "-xh",
    "1.2.840.10008.1.2.4.102": "-xn",
    "1.2.840.10008.1.2.4.103": "-xl",
    "1.2.840.10008.1.2.4.104": "-x2",
    "1.2.840.10008.1.2.4.105": "-x3",
    "1.2.840.10008.1.2.4.106": "-xo",
    "1.2.840.10008.1.2.4.107": "-x4",
    "1.2.840.10008.1.2.4.108": "-x5",
    "1.2.840.10008.1.2.5": "-xr",
}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=["own", "reference"])
def door(recorder: Recorder, request: pytest.FixtureRequest) -> Iterator[DicomDoor]:
    made = DicomDoor(
        "127.0.0.1", 0, "DRIMBOX", ["PACS", "STORESCU"], max_associations=4, idle_timeout=20,
        max_instance_bytes=100_000_000, open_sink=recorder.open, engine=request.param,
    )  # fmt: skip
    made.start()
    yield made
    made.stop(0.2)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> list[Stored]:
    """One instance of every stored form that the fixtures know, and documents."""
    directory = tmp_path_factory.mktemp("forms")
    return [
        *make_forms(directory / "images", "2.25.801"),
        *make_documents(directory / "documents", "2.25.802"),
    ]


def dcmtk(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=120)


def opaque(path: Path, transfer_syntax: str) -> Path:
    """A file that claims a transfer syntax; storescu does not look into its pixels."""
    image = dcmread(
        make_study(path.parent / "one", StudySpec(series=(SeriesSpec("CR", 1, rows=8, columns=8),)))[0]
    )
    if UID(transfer_syntax).is_encapsulated:
        image.PixelData = encapsulate([b"\xff\xd8" + bytes(range(200)) + b"\xff\xd9"])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("syntax", "option"), COMPRESSED.items())
def test_storescu_with_each_syntax_that_it_knows(
    door: DicomDoor, recorder: Recorder, tmp_path: Path, syntax: str, option: str
) -> None:
    path = opaque(tmp_path / "it.dcm", syntax)
    done = dcmtk("storescu", "-v", "-R", option, "-aec", "DRIMBOX", "127.0.0.1", door.port, path)
    assert "Received Store Response (Success)" in done.stdout + done.stderr, done.stdout + done.stderr
    ((command, data),) = recorder.requests
    assert command.transfer_syntax == syntax
    assert data == data_set_of(path.read_bytes())


@pytest.mark.parametrize(
    ("option", "stored_as"),
    [("-x=", "1.2.840.10008.1.2.1"), ("-xe", "1.2.840.10008.1.2.1"), ("-xi", "1.2.840.10008.1.2")],
)
def test_storescu_with_uncompressed_syntaxes(
    door: DicomDoor, recorder: Recorder, tmp_path: Path, option: str, stored_as: str
) -> None:
    path = opaque(tmp_path / "it.dcm", "1.2.840.10008.1.2.1")
    done = dcmtk("storescu", "-v", "-R", option, "-aec", "DRIMBOX", "127.0.0.1", door.port, path)
    assert "Received Store Response (Success)" in done.stdout + done.stderr
    ((command, data),) = recorder.requests
    assert command.transfer_syntax == stored_as
    if stored_as == "1.2.840.10008.1.2.1":
        assert data == data_set_of(path.read_bytes())


@pytest.mark.parametrize("pdu", ["4096", "16384", "131072"])
def test_storescu_with_many_contexts_and_pdu_lengths(
    door: DicomDoor, recorder: Recorder, tmp_path: Path, pdu: str
) -> None:
    spec = StudySpec(
        series=(SeriesSpec("CT", 5, rows=256, columns=256), SeriesSpec("MR", 3), SeriesSpec("CR", 2))
    )
    files = make_study(tmp_path / "study", spec)
    done = dcmtk("storescu", "-v", "--max-send-pdu", pdu, "-aec", "DRIMBOX", "127.0.0.1", door.port, *files)
    assert (done.stdout + done.stderr).count("(Success)") == 10
    assert {data for _, data in recorder.requests} == {data_set_of(path.read_bytes()) for path in files}


def test_pynetdicom_sends_every_form(door: DicomDoor, recorder: Recorder, forms: list[Stored]) -> None:
    assert len(forms) > len(FORMS)
    for one in forms:
        image = dcmread(one.path)
        client = AE("PACS")
        client.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
        association = client.associate("127.0.0.1", door.port, ae_title="DRIMBOX")
        assert association.is_established
        with still_reactor(association):
            assert association.send_c_store(one.path).Status == 0
        association.release()
    assert [hashlib.sha256(data).digest() for _, data in recorder.requests] == [
        hashlib.sha256(data_set_of(one.path.read_bytes())).digest() for one in forms
    ]


def test_pynetdicom_with_128_contexts(door: DicomDoor) -> None:
    client = AE("PACS")
    private = [build_context(f"1.2.3.{number}") for number in range(128)]
    client.requested_contexts = [*StoragePresentationContexts, *private][:128]
    association = client.associate("127.0.0.1", door.port, ae_title="DRIMBOX")
    assert len(association.accepted_contexts) == 128
    association.release()


def test_other_scus_are_refused_cleanly(door: DicomDoor, recorder: Recorder) -> None:
    at = ("-aec", "DRIMBOX", "-aet", "PACS", "127.0.0.1", door.port)
    assert dcmtk("echoscu", *at).returncode == 0
    found = dcmtk("findscu", "-v", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", *at)
    assert "No Acceptable Presentation Contexts" in found.stdout + found.stderr
    moved = dcmtk("movescu", "-v", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2", *at)
    assert moved.returncode != 0
    assert dcmtk("echoscu", "--repeat", "20", *at).returncode == 0
    assert dcmtk("echoscu", "--propose-ts", "7", "--propose-pc", "128", *at).returncode == 0
    assert recorder.opened == []


# --- Orthanc -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    """Base address of a running Orthanc."""
    if shutil.which("Orthanc", path=ENVIRONMENT["PATH"]) is None:
        pytest.skip("apt-get install orthanc")
    directory, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "StorageDirectory": str(directory / "storage"), "IndexDirectory": str(directory / "storage"),
        "HttpPort": port, "DicomServerEnabled": False, "DicomAet": "PACS", "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "Plugins": [],
    }  # fmt: skip
    (directory / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    with (directory / "orthanc.log").open("wb") as log:
        child = subprocess.Popen(
            ["Orthanc", str(directory / "orthanc.json")], stdout=log, stderr=log, env=ENVIRONMENT
        )
    base, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 40
    try:
        while not listens(base):
            assert time.monotonic() < deadline, "Orthanc does not listen"
            time.sleep(0.1)
        yield base
    finally:
        child.terminate()
        child.wait(30)


def listens(base: str) -> bool:
    try:
        return requests.get(f"{base}/system", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_orthanc_sends_a_study(
    orthanc: str, door: DicomDoor, recorder: Recorder, forms: list[Stored]
) -> None:
    def ask(path: str, body: Any) -> Any:
        answer = requests.post(f"{orthanc}{path}", data=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    modality = {"AET": "DRIMBOX", "Host": "127.0.0.1", "Port": door.port, "Manufacturer": "Generic"}
    assert requests.put(f"{orthanc}/modalities/door", json=modality, timeout=10).ok
    assert requests.post(f"{orthanc}/modalities/door/echo", json={}, timeout=10).ok
    sent = [one for one in forms if one.study == "2.25.801"]
    resources = [ask("/instances", one.path.read_bytes())["ID"] for one in sent]
    result = ask("/modalities/door/store", json.dumps({"Resources": resources, "Synchronous": True}))
    assert (result["InstancesCount"], result["FailedInstancesCount"]) == (len(sent), 0)
    received = {
        command.sop_instance_uid: (command.transfer_syntax, data) for command, data in recorder.requests
    }
    assert set(received) == {one.sop for one in sent}
    differ = [one.form for one in sent if received[one.sop][1] != data_set_of(one.path.read_bytes())]
    assert differ == []


# --- size --------------------------------------------------------------------------------------------------


class Hashed:
    """A sink that keeps a hash of each instance."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0

    def begin(self, _command: StoreCommand) -> Hashed:
        return self

    def more(self, piece: memoryview) -> None:
        self.sha256.update(piece)
        self.size += len(piece)

    def complete(self) -> Outcome:
        return Outcome.STORED

    def abandon(self) -> None:
        raise AssertionError

    def close(self) -> None:
        """Nothing is open."""


def send_large(size: int) -> tuple[Hashed, str]:
    """An instance of `size` MB through our own engine; the sink, and the hash of what was sent."""
    sink = Hashed()

    def open_sink(_peer: Peer) -> Hashed:
        return sink

    door = DicomDoor("127.0.0.1", 0, "DRIMBOX", ["PACS"], max_associations=1, idle_timeout=20,
                     max_instance_bytes=4 * 1024**3, open_sink=open_sink)  # fmt: skip
    door.start()
    sent = hashlib.sha256()
    block = bytes(range(250)) * 500  # 125,000 bytes
    piece = p_data(pdv(1, 0, block))
    try:
        with RawPeer.connect(door.port) as peer:
            peer.associate()
            peer.send(p_data(pdv(1, 3, store_command())))
            for _ in range(8 * size):
                peer.connection.sendall(piece)
                sent.update(block)
            peer.send(p_data(pdv(1, 2, b"end!")))
            sent.update(b"end!")
            assert number(peer.answer(), 0x900) == 0
            peer.release()
    finally:
        door.stop(0.2)
    return sink, sent.hexdigest()


@pytest.mark.parametrize("megabytes", [100, pytest.param(1100, marks=pytest.mark.soak)])
def test_a_large_instance(megabytes: int) -> None:
    sink, sent = send_large(megabytes)
    assert (sink.size, sink.sha256.hexdigest()) == (megabytes * 1_000_000 + 4, sent)
