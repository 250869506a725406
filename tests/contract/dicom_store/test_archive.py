"""archive: bytes and rows together, under the caller's transaction."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from dicom_store.archive import Archive, ImageWriter
from dicom_store.header import read_header
from dicom_store.index import InstanceRow, SeriesRow, StudyRow, UtcText
from dicom_store.index_queries import Place
from dicom_store.instance import InstanceHeader
from dicom_store.status import Outcome, StoreRefused

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
EXPLICIT = "1.2.840.10008.1.2.1"


class Store:
    """An archive and a database, with one association."""

    def __init__(self, root: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> None:
        self.archive = Archive(root, 0, clock=lambda: NOW)
        self.engine = engine
        self.encode = encode
        self.writer: ImageWriter = self.archive.writer("PACS")

    def header(self, image: Dataset) -> InstanceHeader:
        data = self.encode(image)
        return read_header(data, image.file_meta.TransferSyntaxUID, image.SOPClassUID, image.SOPInstanceUID)

    def put(self, image: Dataset, commit: bool = True) -> Outcome:
        header = self.header(image)
        place = self.writer.append(header, self.encode(image))
        with Session(self.engine) as session:
            outcome = self.archive.index(session, header, place)
            if commit:
                session.commit()
        return outcome

    def read(self, study: str, series: str | None = None, sop: str | None = None) -> list[bytes]:
        with Session(self.engine) as session:
            return [
                b"".join(self.archive.read(s)) for s in self.archive.retrieve(session, study, series, sop)
            ]


@pytest.fixture
def store(tmp_path: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> Iterator[Store]:
    made = Store(tmp_path / "images", engine, encode)
    yield made
    made.writer.close()
    made.archive.close()


Build = Callable[..., Dataset]


@pytest.mark.parametrize(
    "syntax", [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.2"]
)
def test_the_data_set_is_kept_as_received(store: Store, build: Build, syntax: str) -> None:
    image = build(syntax, size=600)
    assert store.put(image) is Outcome.STORED
    (file,) = store.read("1.2.3.4")
    assert file.endswith(store.encode(image))
    read = dcmread(BytesIO(file))
    assert read.SOPInstanceUID == image.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.file_meta.SourceApplicationEntityTitle == "PACS"


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize(
    "syntax", [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.2"]
)
def test_dcmtk_reads_the_file(store: Store, build: Build, syntax: str, tmp_path: Path) -> None:
    store.put(build(syntax, size=600))
    (tmp_path / "file.dcm").write_bytes(store.read("1.2.3.4")[0])
    done = subprocess.run(["dcmdump", "+fo", tmp_path / "file.dcm"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(0002,0016) AE [PACS]" in done.stdout
    assert "(7fe0,0010)" in done.stdout


def test_the_index_says_what_was_received(store: Store, build: Build) -> None:
    image = build(NumberOfFrames=3)
    store.put(image)
    with Session(store.engine) as session:
        found = store.archive.find(session, "1.2.3.4.5.1")
        row = session.scalars(select(InstanceRow)).one()
        assert store.archive.find(session, "1.2.3.4.5.2") is None
    assert found is not None
    assert found.received_at == NOW
    assert found.ref.NumberOfFrames == 3
    (file,) = store.read("1.2.3.4")
    assert (found.place.sha256, found.place.data_set_sha256) == (hashlib.sha256(file).hexdigest(), None)
    assert (row.patient_id, row.accession_number, row.patient_birth_date) == ("IPP101", "ACN111", "19800101")


def test_the_same_bytes_again_are_a_duplicate(store: Store, build: Build) -> None:
    assert store.put(build()) is Outcome.STORED
    assert store.put(build()) is Outcome.DUPLICATE
    with Session(store.engine) as session:
        assert session.scalar(select(func.count()).select_from(InstanceRow)) == 1


def test_another_sender_does_not_make_another_instance(store: Store, build: Build) -> None:
    store.put(build())
    store.writer = store.archive.writer("ELSEWHERE")
    assert store.put(build()) is Outcome.DUPLICATE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"PatientID": "IPP102"}, "data set"),
        ({"StudyInstanceUID": "1.2.3.5"}, "StudyInstanceUID"),
        ({"SeriesInstanceUID": "1.2.3.4.6"}, "SeriesInstanceUID"),
        ({"transfer_syntax": "1.2.840.10008.1.2"}, "transfer syntax"),
    ],
)
def test_other_bytes_under_the_same_uid_are_refused(
    store: Store, build: Build, change: dict[str, str], named: str
) -> None:
    store.put(build())
    kept = store.read("1.2.3.4")
    changed = build(**change)
    with pytest.raises(StoreRefused, match=named) as refused:
        store.put(changed)
    assert refused.value.outcome is Outcome.DIFFERENT_BYTES
    with Session(store.engine) as session, pytest.raises(StoreRefused):
        store.archive.recognise(session, store.writer.take(store.header(changed), store.encode(changed)))
    assert store.read("1.2.3.4") == kept
    assert store.read("1.2.3.5") == []


def test_the_session_stays_usable_after_a_refusal(store: Store, build: Build) -> None:
    store.put(build())
    changed, other = build(PatientID="X"), build(SOPInstanceUID="1.2.3.4.5.2")
    with Session(store.engine) as session:
        place = store.writer.append(store.header(changed), store.encode(changed))
        with pytest.raises(StoreRefused):
            store.archive.index(session, store.header(changed), place)
        place = store.writer.append(store.header(other), store.encode(other))
        assert store.archive.index(session, store.header(other), place) is Outcome.STORED
        session.commit()
    assert len(store.read("1.2.3.4")) == 2


def test_recognised_before_a_byte_is_written(store: Store, build: Build) -> None:
    image = build()
    incoming = store.writer.take(store.header(image), store.encode(image))
    with Session(store.engine) as session:
        assert store.archive.recognise(session, incoming) is None
    store.put(image)
    with Session(store.engine) as session:
        assert store.archive.recognise(session, incoming) is Outcome.DUPLICATE


def test_a_row_whose_bytes_are_lost_takes_the_new_ones(store: Store, build: Build, tmp_path: Path) -> None:
    store.put(build())
    store.writer.close()
    (segment,) = (tmp_path / "images").rglob("*.seg")
    os.truncate(segment, 100)
    incoming = store.writer.take(store.header(build()), store.encode(build()))
    with Session(store.engine) as session:
        assert store.archive.recognise(session, incoming) is None
    assert store.put(build()) is Outcome.STORED
    (file,) = store.read("1.2.3.4")
    assert file.endswith(store.encode(build()))
    assert store.put(build()) is Outcome.DUPLICATE


def test_nothing_is_committed_by_the_archive(store: Store, build: Build) -> None:
    store.put(build(), commit=False)
    assert store.read("1.2.3.4") == []
    with Session(store.engine) as session:
        assert store.archive.snapshot(session, "1.2.3.4") is None


def test_snapshot(store: Store, build: Build) -> None:
    store.put(build(SOPInstanceUID="1.2.3.4.5.9", InstanceNumber=None, StudyDate="", SeriesDescription=""))
    store.put(
        build(SOPInstanceUID="1.2.3.4.5.2", InstanceNumber=10, PatientID="IPP999", StudyDate="20260103")
    )
    store.put(build(SOPInstanceUID="1.2.3.4.5.3", InstanceNumber=2, AccessionNumber=""))
    store.put(
        build(SOPInstanceUID="1.2.3.4.6.1", SeriesInstanceUID="1.2.3.4.6", SeriesNumber=None, Modality="SR")
    )
    store.put(build(SOPInstanceUID="1.2.3.4.7.1", SeriesInstanceUID="1.2.3.4.7", SeriesNumber=0))
    with Session(store.engine) as session:
        snapshot = store.archive.snapshot(session, "1.2.3.4")
        order = [s.ref.SOPInstanceUID for s in store.archive.retrieve(session, "1.2.3.4")]
    assert snapshot is not None
    assert [series.SeriesInstanceUID for series in snapshot.series] == ["1.2.3.4.7", "1.2.3.4.5", "1.2.3.4.6"]
    assert [ref.SOPInstanceUID for ref in snapshot.series[1].instances] == [
        "1.2.3.4.5.3",
        "1.2.3.4.5.2",
        "1.2.3.4.5.9",
    ]
    assert [ref.SOPInstanceUID for ref in snapshot.instances] == order
    assert (snapshot.StudyDate, snapshot.StudyDescription) == ("20260103", "Contrôle")
    assert (snapshot.series[1].SeriesDescription, snapshot.series[2].Modality) == ("Capture", "SR")
    assert (snapshot.PatientIDs, snapshot.AccessionNumbers) == (("IPP101", "IPP999"), ("ACN111",))


def test_retrieve_narrows(store: Store, build: Build) -> None:
    store.put(build())
    store.put(build(SOPInstanceUID="1.2.3.4.5.2", InstanceNumber=2))
    store.put(build(SOPInstanceUID="1.2.3.4.6.1", SeriesInstanceUID="1.2.3.4.6", SeriesNumber=2))
    assert [
        len(store.read("1.2.3.4", *rest)) for rest in ([], ["1.2.3.4.5"], ["1.2.3.4.5", "1.2.3.4.5.2"])
    ] == [3, 2, 1]
    assert store.read("1.2.3.4", "1.2.3.4.6", "1.2.3.4.5.2") == []
    assert store.read("1.2.3") == []


def test_associations_that_bring_the_same_instance_at_once(store: Store, build: Build) -> None:
    outcomes: list[Outcome] = []

    def bring() -> None:
        mine = Store.__new__(Store)
        mine.archive, mine.engine, mine.encode = store.archive, store.engine, store.encode
        with store.archive.writer() as mine.writer:
            outcomes.append(mine.put(build()))

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Outcome.DUPLICATE] * 7 + [Outcome.STORED]
    with Session(store.engine) as session:
        counts = [
            session.scalar(select(func.count()).select_from(row))
            for row in (StudyRow, SeriesRow, InstanceRow)
        ]
    assert counts == [1, 1, 1]


def test_a_crash_between_bytes_and_commit(store: Store, build: Build) -> None:
    store.put(build())
    store.put(build(SOPInstanceUID="1.2.3.4.5.2"), commit=False)
    store.put(build(StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.9.1"), commit=False)
    store.writer.close()
    store.archive.close()
    with Session(store.engine) as session:
        found = store.archive.recover(session)
    assert sorted(recovered.dropped_records for recovered in found) == [1, 1]
    assert [recovered.damaged for recovered in found] == ["", ""]
    assert len(store.read("1.2.3.4")) == 1
    assert store.put(build(SOPInstanceUID="1.2.3.4.5.2")) is Outcome.STORED
    assert len(store.read("1.2.3.4")) == 2


def test_many_studies_on_one_association(store: Store, build: Build, tmp_path: Path) -> None:
    for _ in range(2):
        for n in range(12):
            uid = f"1.2.{n}"
            store.put(
                build(StudyInstanceUID=uid, SOPInstanceUID=f"{uid}.{_ + 1}", SeriesInstanceUID=f"{uid}.9")
            )
            assert len(store.writer._open) <= 8
    assert [len(store.read(f"1.2.{n}")) for n in range(12)] == [2] * 12


def test_a_long_segment_is_left_for_a_new_one(
    store: Store, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_store.image_writer.SEGMENT_BYTES", 1000)
    places: list[Place] = []
    for n in range(3):
        image = build(SOPInstanceUID=f"1.2.3.4.5.{n}", size=1000)
        places.append(store.writer.append(store.header(image), store.encode(image)))
    assert len({place.segment for place in places}) == 3


def test_instants_are_aware(engine: Engine) -> None:
    kind = UtcText()
    assert kind.process_bind_param(NOW, engine.dialect) == "2026-01-02T03:04:05.678901Z"
    assert kind.process_result_value("2026-01-02T03:04:05.678901Z", engine.dialect) == NOW
    with pytest.raises(ValueError, match="naive"):
        kind.process_bind_param(datetime(2026, 1, 2), engine.dialect)  # noqa: DTZ001
