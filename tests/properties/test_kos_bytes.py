"""The quick ways of the manifest against the slow ones: the same bytes, the same errors, whatever the study."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dicom_store.study import InstanceRef, KeyImageNote, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import errors

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
CLASSES = st.sampled_from(
    [
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.4",
        "1.2.840.10008.5.1.4.1.1.9.1.1",
        "1.2.840.10008.5.1.4.1.1.88.67",
        "1.2.826.0.1.3680043.8.1055.1",
        KEY_OBJECT,
    ]
)
NOW = datetime(2024, 1, 2, 9, 30, tzinfo=UTC)
WHEN = Timestamp("20240102", NOW)
NUMBER = st.none() | st.integers(min_value=-(2**31), max_value=2**31 - 1)
TEXT = st.text(max_size=70)
REPORT = Report(
    Identifier("1.2.9"), "", 1, (), Code("18748-4", "LOINC"), (), "", WHEN, Code("N", "5.25"), "fr-FR", 1,
    Patient(Ins("279035121518989", "1.2.250.1.213.1.4.10"), (), "A", "B", "B", "", "", "F", "19790328", "63220"),
    (), None, (), (StudyAct("1.2.3", None, None, (), (), WHEN, None, None),), None, None,
)  # fmt: skip


def arguments() -> dict[str, Any]:
    return {
        "requests": (),
        "retrieve_base": "https://db.example.fr/rs",
        "manufacturer": "ANS",
        "institution": None,
        "sop_instance_uid": "2.25.1",
        "series_instance_uid": "2.25.2",
        "now": NOW,
        "time_zone": "Europe/Paris",
    }


@st.composite
def studies(draw: st.DrawFn) -> StudySnapshot:
    series = []
    for number in range(draw(st.integers(min_value=1, max_value=4))):
        count = draw(st.integers(min_value=1, max_value=6))
        refs = tuple(
            InstanceRef(f"1.2.3.{number}.{n * 7}", draw(CLASSES), "1.2", draw(NUMBER)) for n in range(count)
        )
        series.append(SeriesSnapshot(f"1.2.3.{number}", "CT", draw(NUMBER), draw(TEXT), draw(TEXT), refs))
    every = [(one.SeriesInstanceUID, ref) for one in series for ref in one.instances]
    uids = [ref.SOPInstanceUID for _, ref in every]
    marking = [(uid, ref) for uid, ref in every if ref.SOPClassUID == KEY_OBJECT]
    notes = tuple(
        KeyImageNote(
            ref.SOPInstanceUID,
            uid,
            draw(st.sampled_from(["113000", "113013"])),
            "DCM",
            draw(TEXT),
            draw(TEXT),
            tuple(draw(st.lists(st.sampled_from(uids), max_size=3, unique=True))),
        )
        for uid, ref in marking
    )
    return StudySnapshot("1.2.3", "20240102", "0930", draw(TEXT), (), (), (), tuple(series), (), notes)


@QUICK
@given(studies())
def test_the_same_bytes_as_pydicom(study: StudySnapshot) -> None:
    slow = kos.encode_manifest(kos.build_manifest(study, REPORT, **arguments()))
    assert kos.manifest_bytes(study, REPORT, **arguments()) == slow


@QUICK
@given(studies())
def test_what_is_built_has_no_error_either_way(study: StudySnapshot) -> None:
    data = kos.manifest_bytes(study, REPORT, **arguments())
    assert kos.manifest_errors(data) == errors(kos.check_manifest(data)) == ()


@cache
def _sample() -> bytes:
    refs = tuple(InstanceRef(f"1.2.3.1.{n}", "1.2.840.10008.5.1.4.1.1.2", "1.2", n) for n in range(4))
    series = (
        SeriesSnapshot("1.2.3.1", "CT", 1, "S", "", refs),
        SeriesSnapshot("1.2.3.2", "KO", 2, "K", "", (InstanceRef("1.2.3.2.1", KEY_OBJECT, "1.2", 1),)),
    )
    note = KeyImageNote("1.2.3.2.1", "1.2.3.2", "113000", "DCM", "Of Interest", "why", ("1.2.3.1.2",))
    study = StudySnapshot("1.2.3", "20240102", "0930", "E", (), (), (), series, (), (note,))
    return kos.manifest_bytes(study, REPORT, **arguments())


_TAIL = len(_sample()) - _sample().index(b"\x40\x00\x75\xa3SQ")


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(1, _TAIL), st.integers(0, 255)), min_size=1, max_size=3))
@example([(1116, 0x20)])  # a length that reaches from an item that stays into one that is left out
def test_the_same_errors_in_damaged_bytes(damage: list[tuple[int, int]]) -> None:
    """In the two sequences that the quick way reads by itself."""
    data = bytearray(_sample())
    for place, value in damage:
        data[-place] = value
    assert kos.manifest_errors(bytes(data)) == errors(kos.check_manifest(bytes(data)))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=200, deadline=None)
@given(st.integers(1, _TAIL), st.integers(0, _TAIL), st.integers(1, 120))
def test_the_same_errors_after_a_move_of_bytes(source: int, target: int, size: int) -> None:
    data = bytearray(_sample())
    piece = data[-source : len(data) - source + size]
    data[len(data) - target : len(data) - target + len(piece)] = piece
    assert kos.manifest_errors(bytes(data)) == errors(kos.check_manifest(bytes(data)))
