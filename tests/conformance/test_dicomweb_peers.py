"""Real DICOMweb peers at the served internal door: dicomweb-client, the client of Orthanc, and what OHIF asks.

Exams of every stored form go in by C-STORE. What leaves as stored is the data set that went in, byte for byte; what
was converted is the same picture, pixel for pixel.
"""

from __future__ import annotations

import http.client
import io
import json
import shutil
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array

from drimbox.entrypoints.bench_wado_clients import ENVIRONMENT
from drimbox.entrypoints.demo_stage import Stage, start_appliance, start_world, wait_for
from drimbox.simulators.multipart_reader import boundary_of, read_parts
from drimbox.simulators.pacs import push_study
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.pixels import NATIVE
from fixtures.quick_stage import open_quick_stage
from fixtures.stored_forms import FORMS, Stored, data_set_of, make_documents, make_forms

api = pytest.importorskip("dicomweb_client.api")

DICOM, OCTETS = "application/dicom", "application/octet-stream"
EXPLICIT, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, J2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90, 91)
)
TARGETS = (EXPLICIT, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, J2K)
AS_STORED = ((DICOM, "*"),)
LEAVES_AS_EXPLICIT = tuple(
    form for form, (_, how) in FORMS.items() if how in ("implicit", "big-endian", "deflated", "rle")
)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
IMAGES, DOCUMENTS, SLICES = "2.25.7001", "2.25.7002", "2.25.7003"
SLICE_COUNT = 250
BROWSER_CONNECTIONS = 6


@dataclass
class Department:
    """The served door as an account reaches it, and what was stored."""

    stage: Stage
    directory: Path
    images: list[Stored]
    documents: list[Stored]
    slices: list[Path]

    @property
    def world(self) -> Any:
        return self.stage.world

    @property
    def url(self) -> str:
        return str(self.world["appliance"]["dicomweb"])

    def served(self, study: str) -> list[dict[str, Any]]:
        """What the trace says was given of a study."""
        events = self.stage.ask("exams", "trace", study)
        return [one for one in events if one["event"] == "RETRIEVAL_SERVED"]

    @property
    def account(self) -> tuple[str, str]:
        account = self.world["appliance"]["account"]
        return account["name"], account["password"]

    def image(self, form: str) -> Stored:
        return next(one for one in self.images if one.form == form)

    def push(self, files: Sequence[Path]) -> None:
        door = self.world["appliance"]["dicom"]
        statuses = push_study(files, door["host"], door["port"], door["ae_title"], "PACS")
        assert set(statuses) == {0}


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    directory = tmp_path_factory.mktemp("department")
    spec = StudySpec(
        study_instance_uid=SLICES,
        patient_name="OSKAR^IDA",
        series=(SeriesSpec("CT", SLICE_COUNT, "Thorax", rows=128, columns=128), SeriesSpec("MR", 2)),
    )
    with open_quick_stage(directory / "world") as stage:
        start_world(stage)
        start_appliance(stage)
        made = Department(
            stage,
            directory,
            make_forms(directory / "images", IMAGES),
            make_documents(directory / "documents", DOCUMENTS),
            make_study(directory / "slices", spec),
        )
        made.push([one.path for one in (*made.images, *made.documents)])
        made.push(made.slices)
        yield made


@dataclass
class Viewer:
    """dicomweb-client, and the answers that it received."""

    client: Any
    answers: list[requests.Response]

    @property
    def parts(self) -> list[bytes]:
        """Of the last answer, read by our own reader."""
        answer = self.answers[-1]
        boundary = boundary_of(answer.headers["Content-Type"])
        return [part.content for part in read_parts([answer.content], boundary)]


@pytest.fixture(scope="module")
def viewer(department: Department) -> Iterator[Viewer]:
    answers: list[requests.Response] = []
    with requests.Session() as session:
        session.auth = department.account
        session.hooks["response"].append(lambda answer, *_, **__: answers.append(answer))
        yield Viewer(api.DICOMwebClient(department.url, session=session), answers)


def seen(file: bytes | Dataset) -> NDArray[Any]:
    """The pixels that a viewer shows, colours as RGB."""
    dataset = dcmread(io.BytesIO(file)) if isinstance(file, bytes) else file
    return pixel_array(dataset)


def syntax_of(dataset: Dataset) -> str:
    return str(dataset.file_meta.TransferSyntaxUID)


def test_what_an_account_is_given_is_in_the_trace(department: Department) -> None:
    url = f"{department.url}/studies/{SLICES}/metadata"
    before = len(department.served(SLICES))
    answer = requests.get(url, auth=department.account, timeout=30)
    assert answer.status_code == 200
    wait_for(lambda: len(department.served(SLICES)) > before or None, 10, "no row for what was given")
    one = department.served(SLICES)[-1]
    assert one["actor"] == "account:viewer@127.0.0.1"
    assert (one["detail"]["what"], one["detail"]["bytes"]) == ("metadata", len(answer.content))


# --- dicomweb-client


def test_searches(viewer: Viewer, department: Department) -> None:
    search = viewer.client.search_for_studies
    assert {one["0020000D"]["Value"][0] for one in search()} >= {IMAGES, DOCUMENTS, SLICES}
    (study,) = search(search_filters={"PatientName": "osk*", "StudyDate": "20260101-20261231"})
    found = Dataset.from_json(study)
    assert found.StudyInstanceUID == SLICES
    assert (found.NumberOfStudyRelatedInstances, found.ModalitiesInStudy) == (SLICE_COUNT + 2, ["CT", "MR"])
    assert search(search_filters={"ModalitiesInStudy": "SR"})[0]["0020000D"]["Value"] == [DOCUMENTS]
    assert search(search_filters={"PatientID": "NOBODY"}) == []
    (series,) = viewer.client.search_for_series(SLICES, search_filters={"Modality": "CT"})
    assert Dataset.from_json(series).NumberOfSeriesRelatedInstances == SLICE_COUNT
    every = viewer.client.search_for_instances(SLICES, limit=99, get_remaining=True)
    assert len({one["00080018"]["Value"][0] for one in every}) == SLICE_COUNT + 2
    uid = series["0020000E"]["Value"][0]
    (third,) = viewer.client.search_for_instances(
        SLICES, uid, fields=["SliceLocation"], search_filters={"InstanceNumber": "3"}
    )
    assert Dataset.from_json(third).SliceLocation == 15.0
    assert len(viewer.client.search_for_instances(search_filters={"StudyInstanceUID": IMAGES})) == len(FORMS)
    (fuzzy,) = search(fuzzymatching=True, search_filters={"PatientName": "OSKAR^IDA"})
    assert fuzzy == study
    assert "fuzzymatching" in viewer.answers[-1].headers["Warning"]


def test_a_study_as_stored(viewer: Viewer, department: Department) -> None:
    datasets = viewer.client.retrieve_study(IMAGES, media_types=AS_STORED)
    parts = viewer.parts
    assert len(datasets) == len(parts) == len(FORMS)
    for stored, dataset, part in zip(department.images, datasets, parts, strict=True):
        original = dcmread(stored.path)
        assert dataset.SOPInstanceUID == stored.sop
        if stored.form in LEAVES_AS_EXPLICIT:
            assert syntax_of(dataset) == EXPLICIT, stored.form
        else:
            assert syntax_of(dataset) == syntax_of(original), stored.form
            assert data_set_of(part) == stored.data_set, stored.form
        assert np.array_equal(seen(dataset), seen(original)), stored.form
        assert dataset.PatientName == "Lefèvre^Ana"


def test_rle_leaves_as_stored_for_a_client_that_names_it(viewer: Viewer, department: Department) -> None:
    for form in ("rle", "rle frames", "rle colour", "rle planes"):
        stored = department.image(form)
        viewer.client.retrieve_series(stored.study, stored.series, media_types=((DICOM, RLE),))
        (part,) = viewer.parts
        assert data_set_of(part) == stored.data_set


@pytest.mark.parametrize("target", TARGETS)
def test_every_instance_in_every_syntax(viewer: Viewer, department: Department, target: str) -> None:
    accept = ((DICOM, target),)
    datasets = viewer.client.retrieve_study(IMAGES, media_types=accept)
    for stored, dataset, part in zip(department.images, datasets, viewer.parts, strict=True):
        original = dcmread(stored.path)
        assert syntax_of(dataset) == target, stored.form
        if syntax_of(original) == target:
            assert data_set_of(part) == stored.data_set, stored.form
        elif "baseline" in stored.form:  # decoders of a lossy stream may differ by one
            assert np.abs(seen(dataset).astype(int) - seen(original).astype(int)).max() <= 1, stored.form
        else:
            assert np.array_equal(seen(dataset), seen(original)), stored.form
    again = viewer.client.iter_study(IMAGES, media_types=accept)
    assert [one.SOPInstanceUID for one in again] == [one.SOPInstanceUID for one in datasets]
    one = department.image("implicit")
    alone = viewer.client.retrieve_instance(one.study, one.series, one.sop, media_types=accept)
    assert alone == datasets[department.images.index(one)]


def test_documents_without_pixels(viewer: Viewer, department: Department) -> None:
    for accept in (AS_STORED, ((DICOM, EXPLICIT),), None):
        viewer.client.retrieve_study(DOCUMENTS, media_types=accept)
        assert [data_set_of(part) for part in viewer.parts] == [one.data_set for one in department.documents]
    with pytest.raises(requests.HTTPError, match="406"):  # there is nothing to compress
        viewer.client.retrieve_study(DOCUMENTS, media_types=((DICOM, JPEG_LS),))
    assert EXPLICIT in viewer.answers[-1].json()["detail"]
    described = {one["00080060"]["Value"][0]: one for one in viewer.client.retrieve_study_metadata(DOCUMENTS)}
    assert described["SR"]["0040A730"]["Value"][0]["0040A160"]["Value"] == ["Rien à signaler"]
    (pdf,) = viewer.client.retrieve_bulkdata(described["DOC"]["00420011"]["BulkDataURI"])
    assert pdf == dcmread(department.documents[1].path).EncapsulatedDocument
    one = department.documents[0]
    with pytest.raises(requests.HTTPError, match="404"):
        viewer.client.retrieve_instance_frames(one.study, one.series, one.sop, [1])


def test_what_is_read_while_it_comes(viewer: Viewer, department: Department) -> None:
    """The client's iterators, whose requests differ from those of its other calls."""
    viewer.client.set_chunk_size(1000)
    one = department.image("jpeg-ls frames")
    (dataset,) = viewer.client.iter_series(one.study, one.series, media_types=AS_STORED)
    assert dataset == dcmread(one.path)
    frames = viewer.client.iter_instance_frames(one.study, one.series, one.sop, [1, 2, 3, 4])
    assert len(list(frames)) == 4
    large = department.image("frames")
    metadata = viewer.client.retrieve_instance_metadata(large.study, large.series, large.sop)
    (pixels,) = viewer.client.iter_bulkdata(metadata["7FE00010"]["BulkDataURI"])
    assert pixels == dcmread(large.path).PixelData


def test_metadata_and_bulk_data(viewer: Viewer, department: Department) -> None:
    described = viewer.client.retrieve_study_metadata(IMAGES)
    for stored, one in zip(department.images, described, strict=True):
        series = viewer.client.retrieve_series_metadata(stored.study, stored.series)
        alone = viewer.client.retrieve_instance_metadata(stored.study, stored.series, stored.sop)
        assert [one] == series == [alone]
        original = dcmread(stored.path)
        (layout, how) = FORMS[stored.form]
        read = Dataset.from_json(one, bulk_data_uri_handler=lambda _uri: b"")
        assert (read.Rows, read.BitsStored) == (layout.rows, layout.stored)
        assert {element.tag for element in read} - {0x00083002, 0x00083003} == {e.tag for e in original}
        if how in ("explicit", "implicit"):
            (content,) = viewer.client.retrieve_bulkdata(one["7FE00010"]["BulkDataURI"])
            assert content == original.PixelData, stored.form


def test_frames(viewer: Viewer, department: Department) -> None:
    for stored in department.images:
        place, expected = (stored.study, stored.series, stored.sop), native_frames(stored)
        numbers = [*range(1, stored.frames + 1)]
        if "baseline" not in stored.form:
            octets = viewer.client.retrieve_instance_frames(
                *place, numbers, media_types=((OCTETS, EXPLICIT),)
            )
            assert octets == expected, stored.form
        backwards = viewer.client.retrieve_instance_frames(*place, numbers[::-1])  # */*
        forwards = viewer.client.retrieve_instance_frames(*place, numbers)
        assert backwards == forwards[::-1], stored.form
        with pytest.raises(requests.HTTPError, match="404"):
            viewer.client.retrieve_instance_frames(*place, [stored.frames + 1])
    one = department.image("jpeg-ls frames")
    codestreams = viewer.client.retrieve_instance_frames(
        one.study, one.series, one.sop, [2], media_types=(("image/jls", JPEG_LS),)
    )
    assert codestreams[0].startswith(b"\xff\xd8\xff")
    assert codestreams[0] in one.file


def native_frames(stored: Stored) -> list[bytes]:
    """The frames as native octets, laid out as the metadata says."""
    dataset = dcmread(stored.path)
    pixels = pixel_array(dataset, raw=True)
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"))
    frames = list(pixels) if stored.frames > 1 else [pixels]
    if dataset.get("PlanarConfiguration") == 1:
        frames = [frame.transpose(2, 0, 1) for frame in frames]
    return [frame.tobytes() for frame in frames]


def test_pictures(viewer: Viewer, department: Department) -> None:
    for stored in department.images:
        place = (stored.study, stored.series, stored.sop)
        png = viewer.client.retrieve_instance_rendered(*place, media_types=("image/png",))
        assert png.startswith(b"\x89PNG"), stored.form
        frame = viewer.client.retrieve_instance_frames_rendered(
            *place, [stored.frames], media_types=("image/jpeg",)
        )
        assert frame.startswith(b"\xff\xd8"), stored.form
    one = department.documents[0]
    with pytest.raises(requests.HTTPError, match="406"):
        viewer.client.retrieve_instance_rendered(one.study, one.series, one.sop)


def test_storing_what_was_retrieved_and_what_is_new(viewer: Viewer, department: Department) -> None:
    datasets = viewer.client.retrieve_study(IMAGES, media_types=AS_STORED)
    for dataset in datasets:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, f"{getattr(dataset, keyword)}.2")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    answer = viewer.client.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == len(datasets)
    assert "FailedSOPSequence" not in answer
    assert viewer.client.retrieve_study(f"{IMAGES}.2", media_types=AS_STORED) == datasets
    again = viewer.client.store_instances(datasets[:2], study_instance_uid=f"{IMAGES}.2")
    assert len(again.ReferencedSOPSequence) == 2
    datasets[0].PatientComments = "other bytes under the same UID"
    with pytest.raises(requests.HTTPError, match="409"):
        viewer.client.store_instances(datasets[:1])


@pytest.mark.parametrize(
    ("host", "proxy", "said"),
    [
        ("viewer.example:8042", {}, "viewer.example:8042"),
        ("viewer.example", {"X-Forwarded-For": "10.0.0.9"}, "viewer.example"),
        ("viewer.example", {}, "viewer.example:{port}"),  # as dicomweb-client names it
        ("[::1]", {}, "[::1]:{port}"),
        ("no host", {}, "127.0.0.1:{port}"),
    ],
)
def test_addresses_in_answers_are_those_that_the_client_can_use(
    department: Department, host: str, proxy: dict[str, str], said: str
) -> None:
    answer = requests.get(
        f"{department.url}/studies",
        params={"StudyInstanceUID": IMAGES},
        headers={"Host": host, **proxy},
        auth=department.account,
        timeout=30,
    )
    (address,) = answer.json()[0]["00081190"]["Value"]
    named = said.format(port=urlsplit(department.url).port)
    assert address == f"http://{named}/dicomweb/studies/{IMAGES}"


def test_an_account_is_needed(department: Department) -> None:
    with pytest.raises(requests.HTTPError, match="401"):
        api.DICOMwebClient(department.url).search_for_studies()


# --- Orthanc as a client


@dataclass
class Orthanc:
    """A running Orthanc whose DICOMweb plugin knows our door as the server `drimbox`."""

    base: str

    def post(self, path: str, body: Any) -> Any:
        answer = requests.post(f"{self.base}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        return requests.get(f"{self.base}{path}", timeout=60)

    def instances(self, study: str) -> dict[str, bytes]:
        """The files that Orthanc holds of a study, by SOP Instance UID."""
        query = {"Level": "Instance", "Expand": True, "Query": {"StudyInstanceUID": study}}
        return {
            one["MainDicomTags"]["SOPInstanceUID"]: self.get(f"/instances/{one['ID']}/file").content
            for one in self.post("/tools/find", query)
        }

    def study(self, uid: str) -> str:
        (found,) = self.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": uid}})
        return str(found)


@pytest.fixture(scope="module")
def orthanc(department: Department, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    if shutil.which("Orthanc", path=ENVIRONMENT["PATH"]) is None or not PLUGIN.is_file():
        pytest.skip("apt-get install orthanc orthanc-dicomweb")
    directory = department.directory / "orthanc"
    directory.mkdir()
    port, (name, password) = free_port(), department.account
    server = {
        "Url": department.url,
        "Username": name,
        "Password": password,
        "HasDelete": False,
        "ChunkedTransfers": True,
        "HasWadoRsUniversalTransferSyntax": True,
    }
    settings = {
        "Name": "peer",
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"drimbox": server}},
    }
    (directory / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    base = f"http://127.0.0.1:{port}"
    with (directory / "orthanc.log").open("wb") as log:
        child = subprocess.Popen(
            ["Orthanc", str(directory / "orthanc.json")], stdout=log, stderr=log, env=ENVIRONMENT
        )
    try:
        wait_for(lambda: listens(base), 40, "Orthanc does not listen")
        yield Orthanc(base)
    finally:
        child.terminate()
        child.wait(30)


def listens(base: str) -> bool | None:
    try:
        return requests.get(f"{base}/system", timeout=5).ok or None
    except requests.ConnectionError:
        return None


@pytest.mark.parametrize("study", [IMAGES, DOCUMENTS, SLICES])
def test_orthanc_retrieves_a_study(orthanc: Orthanc, department: Department, study: str) -> None:
    orthanc.post(
        "/dicom-web/servers/drimbox/retrieve", {"Resources": [{"Study": study}], "Synchronous": True}
    )
    files = orthanc.instances(study)
    stored = {one.sop: one for one in (*department.images, *department.documents) if one.study == study}
    originals = {uid: one.path for uid, one in stored.items()}
    if study == SLICES:
        originals = {str(dcmread(path).SOPInstanceUID): path for path in department.slices}
    assert files.keys() == originals.keys()
    for uid, path in originals.items():
        original, received = dcmread(path), dcmread(io.BytesIO(files[uid]))
        converted = uid in stored and stored[uid].form in LEAVES_AS_EXPLICIT
        assert syntax_of(received) == (EXPLICIT if converted else syntax_of(original))
        if not converted:
            assert data_set_of(files[uid]) == data_set_of(path.read_bytes())
        elif "PixelData" in original:
            assert np.array_equal(seen(received), seen(original))


def test_orthanc_retrieves_one_series_and_one_instance(orthanc: Orthanc, department: Department) -> None:
    one = department.image("jpeg-ls frames")
    place = {"Study": one.study, "Series": one.series}
    for resource in (place, {**place, "Instance": one.sop}):
        known = orthanc.study(one.study) if orthanc.instances(one.study) else None
        if known:
            requests.delete(f"{orthanc.base}/studies/{known}", timeout=30)
        orthanc.post("/dicom-web/servers/drimbox/retrieve", {"Resources": [resource], "Synchronous": True})
        assert {uid: data_set_of(file) for uid, file in orthanc.instances(one.study).items()} == {
            one.sop: one.data_set
        }


def test_orthanc_searches(orthanc: Orthanc, department: Department) -> None:
    def qido(uri: str, **arguments: str) -> Any:
        return orthanc.post("/dicom-web/servers/drimbox/qido", {"Uri": uri, "Arguments": arguments})

    (study,) = qido("/studies", PatientName="OSKAR*", ModalitiesInStudy="CT")
    assert study["0020000D"]["Value"] == SLICES
    assert len(qido(f"/studies/{SLICES}/series")) == 2
    series = department.image("explicit").series
    (instance,) = qido(f"/studies/{IMAGES}/series/{series}/instances", includefield="00080008")
    assert instance["00080008"]["Value"] == "ORIGINAL"  # it shows the first value only
    answer = requests.post(
        f"{orthanc.base}/dicom-web/servers/drimbox/get",
        json={"Uri": f"/studies/{IMAGES}/series/{series}/metadata", "HttpHeaders": {}},
        timeout=30,
    )
    assert answer.json()[0]["0020000E"]["Value"] == [series]


def test_orthanc_stores_a_study(orthanc: Orthanc, department: Department) -> None:
    """What Orthanc sends is what it holds: what it took from us, under other UIDs."""
    sent = {}
    for stored in (*department.images, *department.documents):
        dataset = dcmread(stored.path)
        dataset.StudyInstanceUID = "2.25.7004"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{stored.sop}.4"
        dataset.SeriesInstanceUID = f"{stored.series}.4"
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        sent[str(dataset.SOPInstanceUID)] = file.getvalue()
        answer = requests.post(f"{orthanc.base}/instances", data=file.getvalue(), timeout=30)
        assert answer.json()["Status"] == "Success", stored.form
    held = orthanc.instances("2.25.7004")
    resources = [orthanc.study("2.25.7004")]
    orthanc.post("/dicom-web/servers/drimbox/stow", {"Resources": resources, "Synchronous": True})
    with requests.Session() as session:
        session.auth = department.account
        back = api.DICOMwebClient(department.url, session=session)
        found = back.search_for_instances("2.25.7004")
        assert {one["00080018"]["Value"][0] for one in found} == held.keys() == sent.keys()
        for uid, file in held.items():
            original = dcmread(io.BytesIO(file))
            place = (original.StudyInstanceUID, original.SeriesInstanceUID, uid)
            received = back.retrieve_instance(*place, media_types=AS_STORED)
            if syntax_of(received) == syntax_of(original):
                assert received == original
            else:
                assert np.array_equal(seen(received), seen(original))


# --- what OHIF asks


OHIF = {
    "Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*",
    "Accept-Language": "fr-FR",
    "Origin": "http://viewer.example",
}


def basic(account: tuple[str, str]) -> str:
    return "Basic " + b64encode(":".join(account).encode()).decode()


def test_ohif_opens_a_study(department: Department) -> None:
    with requests.Session() as session:
        session.auth = department.account
        session.headers["Accept"] = "application/dicom+json"

        def ask(path: str) -> Any:
            answer = session.get(f"{department.url}{path}", timeout=30)
            assert answer.status_code == 200, answer.text
            return answer.json()

        fields = "includefield=00081030%2C00080060"
        listed = ask(f"/studies?limit=101&offset=0&fuzzymatching=false&{fields}")
        assert SLICES in {one["0020000D"]["Value"][0] for one in listed}
        (study,) = ask(f"/studies?limit=101&offset=0&fuzzymatching=false&{fields}&StudyInstanceUID={SLICES}")
        assert study["00080061"]["Value"] == ["CT", "MR"]
        series = ask(f"/studies/{SLICES}/series?includefield=0008103E%2C00080021")
        uids = [one["0020000E"]["Value"][0] for one in series]
        described = [one for uid in uids for one in ask(f"/studies/{SLICES}/series/{uid}/metadata")]
    assert len(described) == SLICE_COUNT + 2
    frames, spent = fetch_frames(department, described)
    print(f"frames: {len(frames) / spent:.0f} requests/s over {BROWSER_CONNECTIONS} connections")
    originals = {str(one.SOPInstanceUID): one for one in map(dcmread, department.slices)}
    assert frames.keys() == originals.keys()
    for uid, (headers, content) in frames.items():
        assert headers["content-type"] == f"{OCTETS}; transfer-syntax={EXPLICIT}"
        assert content == originals[uid].PixelData


def test_ohif_is_told_how_each_frame_is_encoded(department: Department) -> None:
    with requests.Session() as session:
        session.auth, session.headers = department.account, {**session.headers, **OHIF}  # type: ignore[assignment]
        for stored in department.images:
            path = f"/studies/{stored.study}/series/{stored.series}/instances/{stored.sop}/frames/1"
            answer = session.get(department.url + path, timeout=30)
            assert answer.status_code == 200, stored.form
            (part,) = read_parts([answer.content], boundary_of(answer.headers["Content-Type"]))
            original = dcmread(stored.path)
            native = FORMS[stored.form][1] in NATIVE or "rle" in stored.form
            syntax = EXPLICIT if native else syntax_of(original)
            assert part.headers["content-type"] == f"{OCTETS}; transfer-syntax={syntax}", stored.form
            assert (part.content in stored.file) or stored.form in LEAVES_AS_EXPLICIT, stored.form


def fetch_frames(
    department: Department, described: Sequence[Any]
) -> tuple[dict[str, tuple[dict[str, str], bytes]], float]:
    """Frame 1 of every instance over as many connections as a browser opens; the seconds that it took."""
    place, found = urlsplit(department.url), dict[str, tuple[dict[str, str], bytes]]()
    headers = {**OHIF, "Authorization": basic(department.account)}
    left = list(described)

    def work() -> None:
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        while left:
            one = left.pop()
            series, sop = one["0020000E"]["Value"][0], one["00080018"]["Value"][0]
            path = f"{place.path}/studies/{SLICES}/series/{series}/instances/{sop}/frames/1"
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200
            (part,) = read_parts([body], boundary_of(answer.headers["Content-Type"]))
            found[sop] = part.headers, part.content
        connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(BROWSER_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, time.perf_counter() - started
