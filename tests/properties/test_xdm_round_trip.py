"""Export, import, export: whatever the identifiers and texts, the bytes are the same; whatever the bytes, a reason."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.xds.rules import LotRefused
from drimbox.domain.xds.vocabulary import APPROVED, DELETED, DEPRECATED
from drimbox.domain.xds.xdm import ArchivedLot, ArchiveSender, archive_files
from drimbox.domain.xds.xdm_reader import LotFiles, read_archived, read_reference
from drimbox.domain.xds.xdm_request import lone_request
from drimbox.domain.xml_input import UnreadableXml
from fixtures.archives import LotSpec, make_kos, make_lot, make_request, make_signature

SENDER = ArchiveSender("Centre", "1999999999", "DRIMBox", "1", "DRIMBox")
text = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters=";^&"),
    min_size=1,
    max_size=12,
)
oids = st.integers(0, 10**9).map(lambda number: f"1.2.250.1.999.{number}")


@st.composite
def lots(draw: st.DrawFn, number: int) -> ArchivedLot:
    created = datetime(2026, 8, 30, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 40 * 86400)))
    person = f"{draw(text)}^{draw(text)}^{draw(text)}^^^^^^&1.2.250.1.71.4.2.1&ISO^D^^^IDNPS"
    spec = LotSpec(number=number, study=draw(oids), created=created, person=person)
    kos = make_kos(spec)
    signature = make_signature(spec, kos)
    known = draw(st.booleans())
    return ArchivedLot(
        created=created,
        submit_objects_request=make_request(spec, kos, signature),
        kos=kos,
        signature=signature,
        report_id=Identifier(draw(oids), draw(st.just("") | text)),
        ins=Ins(spec.ins, spec.ins_oid),
        ipp=draw(st.none() | st.builds(Identifier, oids, text)),
        entry_uuid=spec.entry_uuid if known else None,
        status=draw(st.sampled_from([APPROVED, DEPRECATED, DELETED])),
    )


def imported(files: dict[str, bytes]) -> list[ArchivedLot]:
    """What an appliance that takes these files would export."""
    folders: dict[str, dict[str, bytes]] = {}
    for path, data in files.items():
        place, _, name = path.rpartition("/")
        if "IHE_XDM" in place:
            folders.setdefault(place, {})[name] = data
    found = []
    for order, (place, names) in enumerate(sorted(folders.items())):
        lot = read_archived(LotFiles(place, order, names), time_zone="Europe/Paris", sector="SA08")
        reference = read_reference(lot.reference or b"")
        found.append(
            ArchivedLot(
                lot.created, lot.metadata, lot.kos, lot.signature, reference.report_id, lot.ins, reference.ipp,
                None, lot.status,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: one.created)


@given(st.data(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_our_export_is_bit_for_bit_what_its_import_exports(data: Any, count: int) -> None:
    made = [data.draw(lots(number)) for number in range(1, count + 1)]
    ordered = sorted(made, key=lambda lot: lot.created)
    first = dict(archive_files(ordered, sender=SENDER))
    again = dict(archive_files(imported(first), sender=SENDER))
    assert again == first
    assert dict(archive_files(imported(again), sender=SENDER)) == first


@given(st.binary(max_size=300), st.sampled_from(sorted(make_lot(LotSpec()))), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_a_lot_is_read_or_refused_with_a_reason(
    noise: bytes, name: str, at: int
) -> None:
    files = make_lot(LotSpec())
    place = at % (len(files[name]) + 1)
    files[name] = files[name][:place] + noise + files[name][place + len(noise) :]
    try:
        read_archived(LotFiles("SS000001", 0, files), time_zone="Europe/Paris", sector="SA08")
    except LotRefused as refusal:
        assert refusal.violations


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_request_or_said_not_to_be(data: bytes) -> None:
    with contextlib.suppress(UnreadableXml):
        found = lone_request(b"<ns3:SubmitObjectsRequest>" + data)
        assert str(found.tag).endswith("SubmitObjectsRequest")


def test_the_builder_is_valid() -> None:
    spec = replace(LotSpec(), status=APPROVED)
    assert read_archived(LotFiles("x", 0, make_lot(spec)), time_zone="UTC", sector="SA08").status == APPROVED
