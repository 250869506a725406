"""What a partner DRIMBox gets at the public door, and what the trace says of it: one row for every request.

The refusal table of the README through real TLS, with real tokens and a real database; the requests of the ANS
(drim-m-data 3) for images kept in every kind of transfer syntax.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, RLELossless

from drimbox.entrypoints.bench_wado_peers import set_options
from drimbox.simulators.certificates import Urls
from drimbox.simulators.pacs import push_study
from drimbox.simulators.partner import ANS_ACCEPT, partner_fetch
from drimbox.simulators.pki import Pki
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import make_rejection_note
from fixtures.partner_client import Header, PartnerClient, Reply, Rows, until
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_mdm, make_oru

ROOT = "1.2.250.1.999.61"
STREAMS = 3
DICOM, MULTIPART = "application/dicom", 'multipart/related; type="application/dicom"'
AS_STORED = ("Accept", f"{MULTIPART}; transfer-syntax=*")
SINGLE = ("Accept", DICOM)
BEARER = 'Bearer realm="DRIMBox"'
INVALID = f'{BEARER}, error="invalid_token"'
SUBJECT = "899700000017"  # of the test professional of the simulator
PRIVATE = (b"PAT-TROIS", b"DOMINIQUE", b"IPP901", b"19790328", b"279035121518989", SUBJECT.encode())

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
RLE, MPEG2, H264 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.102"
BASELINE, SV1, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
#: number of the series of the exam `syntaxes` -> how its image is kept
KEPT = dict(
    enumerate(
        (EXPLICIT, IMPLICIT, DEFLATED, RLE, JPEG_LS, SV1, J2K_LOSSLESS, J2K, BASELINE, MPEG2, H264), start=1
    )
)
VIDEOS = (MPEG2, H264)
MADE = (SV1, JPEG_LS, J2K_LOSSLESS, J2K, EXPLICIT)  # README: what is made losslessly
LEAVES_EXPLICIT = (IMPLICIT, DEFLATED, RLE)  # unless it is named in Accept (never Implicit VR)


def exam(name: str, number: int, *series: SeriesSpec) -> tuple[str, StudySpec]:
    return name, StudySpec(f"{ROOT}.{number}", f"ACN6{number}", "IPP901", series=series)


EXAMS = dict(
    (
        exam("shared", 1, SeriesSpec("CT", 3), SeriesSpec("XA", 1, frames=3)),
        exam("other", 2, SeriesSpec("CT", 1)),
        exam("large", 3, SeriesSpec("CT", 8, rows=1024, columns=1024)),
        exam("replaced", 4, SeriesSpec("CT", 2)),
        exam("withdrawn", 5, SeriesSpec("CT", 1)),
        exam("rejected", 6, SeriesSpec("CT", 2)),
        exam("in flight", 7, SeriesSpec("CT", 1)),
        exam("syntaxes", 8, *(SeriesSpec("CT", 1, rows=48, columns=40) for _ in KEPT)),
    )
)


# --- images in every kind of transfer syntax


def kept_in(dataset: Dataset, syntax: str, path: Path) -> Path:
    """The image in that transfer syntax, by encoders that the product does not use for it where there are any."""
    if syntax in VIDEOS:
        _as_video(dataset, syntax)
    if syntax == BASELINE:
        _as_8_bits(dataset)
    if syntax in (J2K_LOSSLESS, J2K):
        stream = encode_array(
            dataset.pixel_array, dataset.BitsStored, photometric_interpretation=0, use_mct=False
        )
        _encapsulated(dataset, stream)
    elif syntax in (JPEG_LS, RLE):
        dataset.compress(JPEGLSLossless if syntax == JPEG_LS else RLELossless, generate_instance_uid=False)
    if syntax in (IMPLICIT, DEFLATED, J2K_LOSSLESS, J2K):
        dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, dataset, enforce_file_format=True)
    if syntax in (SV1, BASELINE):
        native = path.rename(path.with_suffix(".native"))
        option = "+e1" if syntax == SV1 else "+eb"
        subprocess.run(["dcmcjpeg", option, "+un", native, path], check=True, capture_output=True)
    return path


def _as_8_bits(dataset: Dataset) -> None:
    values = np.frombuffer(dataset.PixelData, "<i2") // 16
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = values.astype("u1").tobytes()
    dataset["PixelData"].VR = "OB"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


def _as_video(dataset: Dataset, syntax: str) -> None:
    """A stream that nothing could decode: whoever converts it fails."""
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_PARTIAL_420", 0
    dataset.NumberOfFrames = 25
    _encapsulated(dataset, b"\x00\x00\x01\xb3 no real film " * 200)


def _encapsulated(dataset: Dataset, stream: bytes) -> None:
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def files_of(name: str, directory: Path) -> list[Path]:
    spec, syntaxes = EXAMS[name], KEPT if name == "syntaxes" else {}
    directory.mkdir(parents=True)
    return [
        kept_in(dataset, syntaxes.get(int(dataset.SeriesNumber), EXPLICIT), directory / f"{place}.dcm")
        for place, dataset in enumerate(study_datasets(spec))
    ]


# --- the stage


@dataclass
class Partner:
    """A partner DRIMBox before an appliance that shares `EXAMS`; `kos`: name of the exam -> manifest."""

    appliance: Any
    client: PartnerClient
    rows: Rows
    kos: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)

    def token(self, ttl: int = 3600, **claims: Any) -> str:
        return self._mint({"claims": claims, "ttl": ttl})

    def bound(self, form: str, name: str = "member") -> str:
        """A token bound to a certificate of the test PKI, in one of the encodings met."""
        pem = (Path(self.appliance.world["ca"]).parent / f"{name}.pem").read_text("ascii")
        return self._mint({"claims": {}, "ttl": 3600, "bind": form, "certificate": pem})

    def _mint(self, order: dict[str, Any]) -> str:
        return str(self.appliance.stage.control("/control/psc/token", order)["access_token"])

    def path(self, name: str, series: int = 0, instance: int = 0) -> str:
        """Of an exam, one of its series, one of its instances."""
        spec = EXAMS[name]
        path = f"/studies/{spec.study_instance_uid}"
        path += f"/series/{uid(spec, series)}" if series else ""
        return path + (f"/instances/{uid(spec, series, instance)}" if instance else "")

    def headers(self, name: str, *more: Header, token: str | None = None) -> list[Header]:
        """What belongs to a retrieval of that exam; a header of `more` takes the place of its like."""
        always = [
            ("Authorization", f"Bearer {token or self.token()}"),
            ("KOS-SOPInstanceUID", self.kos[name]),
        ]
        given = {header.lower() for header, _ in more}
        return [*(one for one in [*always, AS_STORED] if one[0].lower() not in given), *more]

    def ask(
        self, path: str, headers: list[Header], *, method: str = "GET", client: PartnerClient | None = None
    ) -> tuple[Reply, dict[str, Any]]:
        """One request: its answer, and the one row that it left."""
        before = self.rows.last
        reply = (client or self.client).ask(path, headers, method=method)
        (row,) = until(lambda: self.rows.after(before), "the row of the retrieval")
        check_row(row, reply)
        return reply, row

    def retrieve(self, name: str, *more: Header, **options: Any) -> tuple[Reply, dict[str, Any]]:
        """A whole exam."""
        return self.ask(self.path(name), self.headers(name, *more), **options)


def check_row(row: dict[str, Any], reply: Reply) -> None:
    """What holds of the row of any answer that was read to its end."""
    assert row["actor"] == "partner:127.0.0.1"
    assert row["ms"] >= 0
    if reply.status in (200, 206):
        assert (row["event"], row["bytes"]) == ("RETRIEVAL_SERVED", len(reply.body))
        assert row["subject"] == SUBJECT
    else:
        assert (row["event"], row["status"]) == ("RETRIEVAL_REFUSED", reply.status)
        assert "bytes" not in row
    if reply.body and reply.status not in (200, 206):
        assert row["code"] == reply.problem["type"]
        check_problem(reply)


def check_problem(reply: Reply) -> None:
    assert set(reply.problem) == {"type", "title", "status", "detail"}
    assert reply.problem["status"] == reply.status
    assert len(reply.body) == int(reply.headers["content-length"])
    assert not any(value in reply.body for value in PRIVATE)
    assert reply.headers["cache-control"] == "private, no-store"
    assert ("retry-after" in reply.headers) == (reply.status == 503)
    assert ("www-authenticate" in reply.headers) == (reply.status == 401)
    assert ("allow" in reply.headers) == (reply.status == 405)


@pytest.fixture(scope="module")
def edit_config() -> Callable[[str], str]:
    def edit(text: str) -> str:
        for room, options in {
            "web": f"max_streams = {STREAMS}\nstall_timeout = 30",
            "psc": "timeout = 1.5",
        }.items():
            assert f"[{room}]\n" in text
            text = text.replace(f"[{room}]\n", f"[{room}]\n{options}\n")
        return text

    return edit


@pytest.fixture(scope="module")
def partner(appliance: Any) -> Iterator[Partner]:
    world = appliance.world
    directory = Path(world["ca"]).parent
    pki = Pki(directory, datetime.now(UTC), Urls("", ""))
    # of a member: with the subject that the whitelist names
    member = pki.issue(
        "AUTH_CLI", "partner.localhost", "1690781810", organisation="CLINIQUE PARTENAIRE SIMULEE"
    )
    shown = member.write(directory, "member")
    client = PartnerClient(world["appliance"]["public"], Path(world["ca"]), shown)
    made = Partner(appliance, client, Rows(appliance.stage.directory / "appliance" / "drimbox.sqlite"))
    for name in EXAMS:
        made.files[name] = files_of(name, appliance.stage.directory / "exams" / name)
        if name != "in flight":
            push(appliance, made.files[name])
            report(appliance, name)
    made.kos = {name: manifest(appliance, name) for name in EXAMS if name != "in flight"}
    yield made


def push(appliance: Any, files: list[Path]) -> None:
    dicom = appliance.world["appliance"]["dicom"]
    assert set(push_study(files, dicom["host"], dicom["port"], dicom["ae_title"], "PACS")) == {0}


def report_of(name: str) -> ReportSpec:
    spec = EXAMS[name]
    orders = (OrderSpec(accession=spec.accession, placer=f"OPN{spec.accession}"),)
    document = f"{ROOT}.9.{spec.accession.removeprefix('ACN')}"
    return ReportSpec(
        document_id=document, orders=orders, acts=(ActSpec(studies=(spec.study_instance_uid,)),)
    )


def report(appliance: Any, name: str) -> None:
    spec = report_of(name)
    assert b"MSA|AA" in appliance.send(
        make_oru(make_cda(spec), spec, control_id=f"NW-{spec.document_id[-4:]}")
    )


def manifest(appliance: Any, name: str, other_than: str = "") -> str:
    def is_public(exam: dict[str, Any]) -> bool:
        found = exam["manifest"]
        return found["status"] == "published" and found["sop_instance_uid"] != other_than

    study = EXAMS[name].study_instance_uid
    return str(appliance.until(study, is_public)["manifest"]["sop_instance_uid"])


@dataclass
class OtherDoor:
    """A second `drimbox web` with settings of its own."""

    client: PartnerClient
    stranger: PartnerClient
    bare: PartnerClient


def open_door(partner: Partner, port: int, other: int, rooms: Mapping[str, Mapping[str, Any]]) -> OtherDoor:
    stage, world = partner.appliance.stage, partner.appliance.world
    config = stage.directory / f"door-{port}.toml"
    config.write_text(Path(stage.config).read_text("utf-8"), "utf-8")
    set_options(config, rooms)
    set_options(config, {"web": {"public_port": port, "internal_port": other}})
    stage.start("web", "--config", str(config))
    pki = Path(world["ca"]).parent
    url = f"https://127.0.0.1:{port}{partner.client.base}"
    stranger = (pki / "partner_auth.pem", pki / "partner_auth.key")
    clients = [
        PartnerClient(url, Path(world["ca"]), shown) for shown in (partner.client.certificate, stranger, None)
    ]
    until(lambda: _answers(clients[2]), "the other door", 40)
    return OtherDoor(*clients)


def _answers(client: PartnerClient) -> bool:
    try:
        return client.ask("/nothing").status == 404
    except OSError:
        return False


@pytest.fixture(scope="module")
def strict(partner: Partner, free_port: Callable[[], int]) -> OtherDoor:
    """A door on the same exams for members of the whitelist alone, which sends what is liked best."""
    rooms = {"whitelist": {"peers": "require"}, "web": {"prefer": "quality"}}
    before = partner.rows.last
    door = open_door(partner, free_port(), free_port(), rooms)
    until(lambda: partner.rows.after(before), "the row of the first request")
    return door


def test_everything_is_shared(partner: Partner) -> None:
    """By the simulator of a partner: the files as they were sent, each once."""
    world, fetched_all = partner.appliance.world, {}
    for name in ("shared", "other", "syntaxes"):
        before = partner.rows.last
        fetched = partner_fetch(
            world["appliance"]["public"] + partner.path(name),
            partner.token(),
            partner.kos[name],
            Path(world["ca"]),
            partner.client.certificate,
            accept=AS_STORED[1],
        )
        assert fetched.status == 200, fetched.body
        fetched_all[name] = fetched.parts
        (row,) = until(lambda before=before: partner.rows.after(before), "its row")  # type: ignore[misc]
        assert (row["event"], row["instances"]) == ("RETRIEVAL_SERVED", len(partner.files[name]))
        assert (row["study"], row["kos"]) == (EXAMS[name].study_instance_uid, partner.kos[name])
    for name, parts in fetched_all.items():
        expected = {sop_of(file.read_bytes()): file.read_bytes() for file in partner.files[name]}
        received = {sop_of(part): part for part in parts}
        assert len(parts) == len(expected) == len(received)
        for sop, part in received.items():
            if syntax_of(expected[sop]) not in LEAVES_EXPLICIT:
                assert data_set(part) == data_set(expected[sop])


def test_the_row_says_who_had_what(partner: Partner) -> None:
    reply, row = partner.ask(
        partner.path("shared", 1, 2), partner.headers("shared", token=partner.bound("rfc8705"))
    )
    assert reply.status == 200
    spec = EXAMS["shared"]
    assert row["study"], row["series"] == (spec.study_instance_uid, uid(spec, 1))
    assert (row["sop"], row["kos"]) == (uid(spec, 1, 2), partner.kos["shared"])
    assert (row["instances"], row["syntaxes"], row["binding"]) == (1, [EXPLICIT], "rfc8705")
    assert row["structure"] and row["jti"] and row["client_id"]
    assert "partner.localhost" in row["certificate"]
    events = partner.appliance.trace(spec.study_instance_uid)
    assert row["record"] in [event["detail"].get("record") for event in events]


# --- the token


@pytest.mark.parametrize(
    "values",
    [[], ["Basic dTpw"], ["Bearer"], ["Bearer "], ["Bearer a b"], ["Bearer é"], ["Bearer " + "x" * 16385]],
    ids=["missing", "basic", "bearer", "empty", "two words", "letters", "long"],
)
def test_no_token(partner: Partner, values: list[str]) -> None:
    headers = [("Authorization", value) for value in values]
    others = [one for one in partner.headers("shared") if one[0] != "Authorization"]
    reply, row = partner.ask(partner.path("shared"), [*headers, *others])
    assert (reply.status, row["code"]) == (401, "token-missing")
    assert reply.headers["www-authenticate"] == BEARER
    assert "subject" not in row


def test_two_tokens_are_no_token(partner: Partner) -> None:
    headers = [*partner.headers("shared"), ("Authorization", f"Bearer {partner.token()}")]
    reply, row = partner.ask(partner.path("shared"), headers)
    assert (reply.status, row["code"]) == (401, "token-missing")


def test_a_token_that_is_not_active(partner: Partner) -> None:
    token = partner.token()
    partner.appliance.arm("psc", "inactive")
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=token))
    assert (reply.status, row["code"], row["why"]) == (401, "token-inactive", "active")
    assert reply.headers["www-authenticate"] == INVALID
    assert token not in str(row)
    assert row["token"] == "sha256:" + hashlib.sha256(token.encode()).hexdigest()[:16]


def test_tokens_that_nobody_issued_or_that_ended(partner: Partner) -> None:
    ended = partner.token()
    assert partner.ask(partner.path("shared"), partner.headers("shared", token=ended))[0].status == 200
    time.sleep(2.1)  # psc.cache of the simulated world
    partner.appliance.arm("psc", "expired")
    for token in (ended, "abc.def.ghi", partner.token(ttl=-5)):
        reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=token))
        assert (reply.status, row["code"]) == (401, "token-inactive")
        assert reply.headers["www-authenticate"] == INVALID


def test_a_cached_token_is_not_believed_beyond_its_end(partner: Partner) -> None:
    ends = time.time() + 3
    token = partner.token(ttl=3)
    while time.time() < ends - 1:
        reply, _ = partner.ask(partner.path("other"), partner.headers("other", token=token))
        assert reply.status == 200
    time.sleep(max(0.0, ends - time.time()) + 0.05)
    reply, row = partner.ask(partner.path("other"), partner.headers("other", token=token))
    assert (reply.status, row["code"]) == (401, "token-inactive")


@pytest.mark.parametrize("form", ["rfc8705", "ans"])
def test_a_token_bound_to_a_certificate(partner: Partner, strict: OtherDoor, form: str) -> None:
    """Both encodings met (trust-and-identity 1.6)."""
    mine, theirs = partner.bound(form), partner.bound(form, "ris_auth")
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=mine))
    assert (reply.status, row["binding"]) == (200, form)
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=theirs))
    assert (reply.status, row["code"]) == (401, "token-binding")
    assert reply.headers["www-authenticate"] == INVALID
    bare = PartnerClient(partner.client.url, partner.client.authority, None)
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=mine), client=bare)
    assert (reply.status, row["binding"]) == (200, "unchecked")  # psc.binding = "if-available"
    assert "certificate" not in row


# --- Pro Santé Connect


def test_psc_fails_and_comes_back(partner: Partner) -> None:
    token = partner.token()
    partner.appliance.arm("psc", "http_503")
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=token))
    assert (reply.status, row["code"]) == (503, "psc-unavailable")
    assert int(reply.headers["retry-after"]) > 0
    time.sleep(1.05)  # for a second after a failure nobody asks
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=token))
    assert reply.status == 200


def test_psc_hangs_and_comes_back(partner: Partner) -> None:
    tokens = [partner.token() for _ in range(2)]
    simulators = partner.appliance.stage.processes[0]
    os.kill(simulators.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        reply, row = partner.ask(partner.path("shared"), partner.headers("shared", token=tokens[0]))
    finally:
        os.kill(simulators.pid, signal.SIGCONT)
    assert (reply.status, row["code"]) == (503, "psc-unavailable")
    assert time.monotonic() - began < 8
    time.sleep(1.05)
    assert partner.ask(partner.path("shared"), partner.headers("shared", token=tokens[1]))[0].status == 200


# --- the manifest


@pytest.mark.parametrize("values", [[], [""], ["abc"], ["1.2.3", "1.2.3"], ["1." * 33]])
def test_no_manifest_is_named(partner: Partner, values: list[str]) -> None:
    headers = [one for one in partner.headers("shared") if one[0] != "KOS-SOPInstanceUID"]
    headers += [("KOS-SOPInstanceUID", value) for value in values]
    reply, row = partner.ask(partner.path("shared"), headers)
    assert (reply.status, row["code"]) == (400, "kos-header")
    assert row["subject"] == SUBJECT


def test_a_manifest_that_is_not_ours_or_of_another_study(partner: Partner) -> None:
    for kos in ("1.2.3.4.5", partner.kos["other"]):
        headers = partner.headers("shared", ("KOS-SOPInstanceUID", kos))
        reply, row = partner.ask(partner.path("shared"), headers)
        assert (reply.status, row["code"], row["kos"]) == (404, "kos-unknown", kos)
    reply, row = partner.ask("/studies/1.2.3.4.5.6", partner.headers("shared"))
    assert (reply.status, row["code"]) == (404, "kos-unknown")
    assert (row["study"], "kos" in row) == (None, False)  # a study of nobody's is not kept


def test_a_manifest_that_was_replaced(partner: Partner) -> None:
    first = partner.kos["replaced"]
    spec = EXAMS["replaced"]
    late = StudySpec(spec.study_instance_uid, spec.accession, spec.patient_id, series=(SeriesSpec("CT", 3),))
    files = partner.appliance.make_exam(late)
    push(partner.appliance, files[2:])
    partner.kos["replaced"] = manifest(partner.appliance, "replaced", other_than=first)
    reply, row = partner.retrieve("replaced", ("KOS-SOPInstanceUID", first))
    assert (reply.status, row["code"]) == (404, "kos-replaced")
    reply, row = partner.retrieve("replaced")
    assert (reply.status, row["instances"], len(reply.files)) == (200, 3, 3)


def test_a_manifest_that_was_unpublished(partner: Partner) -> None:
    assert partner.retrieve("withdrawn")[0].status == 200
    spec = report_of("withdrawn")
    message = make_mdm(make_cda(spec), spec, order_control="CA", control_id="CA-65")
    assert b"MSA|AA" in partner.appliance.send(message)
    reply, row = partner.retrieve("withdrawn")  # at once, whatever the DMP says
    assert (reply.status, row["code"]) == (410, "kos-unpublished")
    study = EXAMS["withdrawn"].study_instance_uid
    partner.appliance.until(study, lambda exam: exam["manifest"]["status"] == "unpublished")
    reply, row = partner.retrieve("withdrawn")
    assert (reply.status, row["code"]) == (410, "kos-unpublished")


def test_a_manifest_whose_publication_is_being_confirmed(partner: Partner) -> None:
    """The DMP says nothing: the manifest is in flight until it does."""
    appliance, study = partner.appliance, EXAMS["in flight"].study_instance_uid
    appliance.arm("dmp", "timeout")
    push(appliance, partner.files["in flight"])
    report(appliance, "in flight")
    exam = appliance.until(
        study, lambda exam: exam["manifest"]["status"] in ("sending", "doubtful", "prepared")
    )
    partner.kos["in flight"] = exam["manifest"]["sop_instance_uid"]
    seen = until(lambda: _in_flight(partner), "a manifest in flight")
    assert seen.headers["retry-after"] == "5"
    appliance.published(study)
    assert partner.retrieve("in flight")[0].status == 200


def _in_flight(partner: Partner) -> Reply | None:
    reply, row = partner.retrieve("in flight")
    if row["code"] == "kos-unknown":  # it is prepared
        return None
    assert (reply.status, row["code"]) == (503, "kos-in-flight")
    return reply


# --- the instances


def test_what_the_manifest_does_not_list(partner: Partner) -> None:
    spec = EXAMS["shared"]
    study = f"/studies/{spec.study_instance_uid}"
    for path in (
        f"{study}/series/1.2.3",
        f"{study}/series/{uid(spec, 1)}/instances/1.2.3",
        f"{study}/series/{uid(spec, 2)}/instances/{uid(spec, 1, 1)}",
        f"{study}/instances/1.2.3/frames/1",
    ):
        reply, row = partner.ask(path, partner.headers("shared"))
        assert reply.status == 404, path
        assert row["code"] == ("not-found" if path.endswith("frames/1") else "instance-not-shared")


def test_an_image_rejected_for_safety_is_gone_at_once(partner: Partner) -> None:
    appliance, spec = partner.appliance, EXAMS["rejected"]
    rejected = partner.path("rejected", 1, 1)
    assert partner.ask(rejected, partner.headers("rejected"))[0].status == 200
    note = make_rejection_note(appliance.stage.directory / "notes", spec, "113037", [(1, 1)])
    push(appliance, [note])
    reply, row = partner.ask(rejected, partner.headers("rejected"))
    assert (reply.status, row["code"]) in ((410, "instance-withdrawn"), (404, "kos-replaced"))
    first, partner.kos["rejected"] = (
        partner.kos["rejected"],
        manifest(appliance, "rejected", partner.kos["rejected"]),
    )
    reply, row = partner.ask(rejected, partner.headers("rejected"))
    assert (reply.status, row["code"]) == (404, "instance-not-shared")
    reply, row = partner.retrieve("rejected", ("KOS-SOPInstanceUID", first))
    assert (reply.status, row["code"]) == (404, "kos-replaced")
    assert partner.retrieve("rejected")[1]["instances"] == 1


# --- the form


@pytest.mark.parametrize(
    "accept",
    [
        f"{MULTIPART}; transfer-syntax={H264}",
        f"{MULTIPART}; transfer-syntax={EXPLICIT}; q=0",
        "image/jpeg",
        'multipart/related; type="image/jls"',
    ],
)
def test_nothing_acceptable(partner: Partner, accept: str) -> None:
    reply, row = partner.retrieve("shared", ("Accept", accept))
    assert (reply.status, row["code"], row["instances"]) == (406, "not-acceptable", 0)
    assert EXPLICIT in reply.problem["detail"]  # what could be had


def test_too_many_accepts(partner: Partner) -> None:
    reply, row = partner.retrieve("shared", ("Accept", ",".join(["application/dicom"] * 300)))
    assert (reply.status, row["code"]) == (400, "accept-invalid")


def test_a_single_part_is_of_one_instance(partner: Partner) -> None:
    reply, row = partner.retrieve("shared", SINGLE)
    assert (reply.status, row["code"]) == (406, "not-acceptable")
    reply, row = partner.ask(partner.path("shared", 1, 1), partner.headers("shared", SINGLE))
    assert reply.headers["content-type"] == f"{DICOM};transfer-syntax={EXPLICIT}"
    assert data_set(reply.body) == data_set(partner.files["shared"][0].read_bytes())


@pytest.mark.parametrize(
    ("series", "frames", "expected"),
    [
        (1, "1", (200, "")),
        (1, "2", (404, "not-found")),
        (1, "1,2", (404, "not-found")),
        (1, "0", (400, "frames-invalid")),
        (1, "x", (400, "frames-invalid")),
        (1, "1,1", (406, "not-acceptable")),
        (2, "1", (406, "not-acceptable")),
        (2, "2,3", (406, "not-acceptable")),
        (2, "4", (404, "not-found")),
    ],
)
def test_frames(partner: Partner, series: int, frames: str, expected: tuple[int, str]) -> None:
    """One frame of one is the instance; the others have no such form (drim-m-data 3.5.4)."""
    path = f"{partner.path('shared', series, 1)}/frames/{frames}"
    reply, row = partner.ask(path, partner.headers("shared"))
    assert (reply.status, row.get("code", "")) == expected


@pytest.mark.parametrize(
    "path",
    ["/studies", "/studies/", "/nothing", "/studies/1.2.3/metadata", "/studies/1.2.3/rendered",
     "/studies/1.2.3/series", "/series", "/../metrics", "/%2e%2e/metrics", "/studies/1.2.3/series/1.2.3/instances"],
)  # fmt: skip
def test_paths_of_nothing(partner: Partner, path: str) -> None:
    reply, row = partner.ask(path, partner.headers("shared"))
    assert (reply.status, row["code"], row["study"]) == (404, "not-found", None)


@pytest.mark.parametrize("study", ["1.2.x", "1..2", "1.2.", "%00", "1" * 65, "01.2", "1.2;DROP"])
def test_what_is_no_uid(partner: Partner, study: str) -> None:
    reply, row = partner.ask(f"/studies/{study}", partner.headers("shared"))
    assert (reply.status, row["code"], row["study"]) == (400, "uid-invalid", None)


def test_what_is_internal_is_not_public(partner: Partner) -> None:
    for target in ("/dicomweb/studies", "/metrics", "/reports", "/"):
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        before = partner.rows.last
        reply = partner.client.exchange(request)
        (row,) = until(lambda before=before: partner.rows.after(before), "its row")  # type: ignore[misc]
        check_row(row, reply)
        assert reply.status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(partner: Partner, method: str) -> None:
    reply, row = partner.ask(partner.path("shared"), partner.headers("shared"), method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert row["code"] == "method-not-allowed"


def test_head_says_what_get_would_give(partner: Partner) -> None:
    for path in (partner.path("shared"), partner.path("shared", 1), partner.path("shared", 1, 1)):
        whole, _ = partner.ask(path, partner.headers("shared"))
        head, row = partner.ask(path, partner.headers("shared"), method="HEAD")
        assert (head.status, head.body, row["bytes"]) == (200, b"", 0)
        assert int(head.headers["content-length"]) == len(whole.body)
    refused, row = partner.ask(partner.path("shared"), [], method="HEAD")
    assert (refused.status, refused.body, row["code"]) == (401, b"", "token-missing")
    assert refused.headers["www-authenticate"] == BEARER


def test_ranges_of_a_single_part(partner: Partner) -> None:
    path = partner.path("shared", 1, 1)
    whole, _ = partner.ask(path, partner.headers("shared", SINGLE))
    size = len(whole.body)
    for asked, first, last in (
        ("128-131", 128, 131),
        ("0-0", 0, 0),
        ("-10", size - 10, size - 1),
        ("9-", 9, size - 1),
    ):
        reply, row = partner.ask(path, partner.headers("shared", SINGLE, ("Range", f"bytes={asked}")))
        assert (reply.status, reply.body) == (206, whole.body[first : last + 1])
        assert reply.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert row["bytes"] == last - first + 1
    reply, row = partner.ask(path, partner.headers("shared", SINGLE, ("Range", f"bytes={size}-")))
    assert (reply.status, row["code"]) == (416, "range-not-satisfiable")
    assert reply.headers["content-range"] == f"bytes */{size}"
    stale = partner.headers("shared", SINGLE, ("Range", "bytes=0-3"), ("If-Range", '"another"'))
    assert partner.ask(path, stale)[0].body == whole.body


# --- the mesh


def test_a_door_for_members_alone(partner: Partner, strict: OtherDoor) -> None:
    path = partner.path("shared", 1, 1)
    for client in (strict.stranger, strict.bare):
        reply, row = partner.ask(path, partner.headers("shared"), client=client)
        assert (reply.status, row["code"]) == (403, "peer-not-member")
        assert "subject" not in row  # the token was not looked at
    reply, row = partner.ask(path, partner.headers("shared"), client=strict.client)
    assert (reply.status, row["binding"]) == (200, "unbound")


def test_an_appliance_that_never_had_the_whitelist(partner: Partner, free_port: Callable[[], int]) -> None:
    root = partner.appliance.stage.directory / "newborn"
    rooms = {
        "storage": {"root": str(root)},
        "database": {"url": f"sqlite:///{root}.sqlite"},
        "web": {"processes": 1},
    }
    door = open_door(partner, free_port(), free_port(), rooms)
    reply = door.client.ask(partner.path("shared"), partner.headers("shared"))
    assert (reply.status, reply.problem["type"]) == (503, "whitelist-unknown")
    check_problem(reply)
    own = Rows(root.with_suffix(".sqlite"))
    rows = until(lambda: own.after() if len(own.after()) == 2 else None, "its row")
    assert (rows[1]["code"], rows[1]["study"]) == ("whitelist-unknown", None)


def test_an_appliance_that_left_the_whitelist(partner: Partner) -> None:
    stage = partner.appliance.stage
    partner.appliance.arm("ans", "without_us")
    done = stage.run("whitelist", "refresh")
    assert "absent" in (done.stdout + done.stderr).lower(), done
    reply = until(lambda: _with_status(partner, 503), "our absence to be noticed")
    assert reply.problem["type"] == "not-in-whitelist"
    stage.run("whitelist", "refresh")
    until(
        lambda: all(_with_status(partner, 200) for _ in range(12)),
        "our return to be noticed by all processes",
    )


def _with_status(partner: Partner, status: int) -> Reply | None:
    reply, row = partner.retrieve("other")
    assert row.get("code") in (None, "not-in-whitelist")
    return reply if reply.status == status else None


# --- too many


def test_too_many_at_once(partner: Partner) -> None:
    path, before = partner.path("large"), partner.rows.last
    slow = [partner.client.slow(path, partner.headers("large")) for _ in range(STREAMS)]
    readers = [one.__enter__() for one in slow]
    assert [reader.status for reader in readers] == [200] * STREAMS
    reply = partner.client.ask(partner.path("other"), partner.headers("other"))
    assert (reply.status, reply.problem["type"]) == (503, "busy")
    check_problem(reply)
    lengths = [len(reader.rest()) for reader in readers]
    assert lengths == [int(reader.headers["content-length"]) for reader in readers]
    for one in slow:
        one.__exit__(None, None, None)
    rows = until(lambda: _all_of(partner, before, STREAMS + 1), "their rows")
    assert sorted(row["event"] for row in rows) == ["RETRIEVAL_REFUSED"] + ["RETRIEVAL_SERVED"] * STREAMS
    assert [row["bytes"] for row in rows if "bytes" in row] == lengths
    assert partner.retrieve("other")[0].status == 200


def _all_of(partner: Partner, before: int, count: int) -> list[dict[str, Any]] | None:
    rows = partner.rows.after(before)
    return rows if len(rows) >= count else None


def test_a_reader_that_leaves(partner: Partner) -> None:
    before = partner.rows.last
    with partner.client.slow(partner.path("large"), partner.headers("large")) as reader:
        reader.read(1000)
        length = int(reader.headers["content-length"])
    (row,) = until(lambda: partner.rows.after(before), "its row")
    assert (row["event"], row.get("why")) == ("RETRIEVAL_CUT", "the reader left"), row
    assert 0 < row["bytes"] < length


# --- the requests of the ANS


def syntax_of(file: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True).file_meta.TransferSyntaxUID)


def sop_of(file: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True).SOPInstanceUID)


def data_set(file: bytes) -> bytes:
    """What follows the file meta information."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def accepted(lines: str) -> dict[str, float]:
    """Transfer syntax -> q, in the order written; read as the ANS writes, not as the product reads."""
    pairs = re.findall(r"transfer-syntax=([0-9.]+);q=([0-9.]+)", lines)
    return {syntax: float(quality) for syntax, quality in pairs}


def expected_syntaxes(kept: str, accept: Mapping[str, float], prefer: str) -> set[str]:
    """In which transfer syntaxes an image may come (drim-m-data 3.3, README)."""
    likes = {syntax: quality for syntax, quality in accept.items() if quality > 0}
    home = EXPLICIT if kept in LEAVES_EXPLICIT else kept
    if prefer == "stored" and home in likes:
        return {home}
    possible = {home} if kept in VIDEOS else {home, *MADE}
    best = max(quality for syntax, quality in likes.items() if syntax in possible)
    if likes.get(home) == best:
        return {home}
    return {syntax for syntax, quality in likes.items() if syntax in possible and quality == best}


def check_image(received: bytes, original: Path, accept: Mapping[str, float], prefer: str) -> None:
    kept, syntax = syntax_of(original.read_bytes()), syntax_of(received)
    assert accept.get(syntax, 0) > 0, (kept, syntax)
    assert syntax in expected_syntaxes(kept, accept, prefer), (kept, syntax, accept)
    if syntax == kept:
        assert data_set(received) == data_set(original.read_bytes())
        return
    there, here = pydicom.dcmread(original), pydicom.dcmread(io.BytesIO(received))
    assert np.array_equal(here.pixel_array, there.pixel_array), (kept, syntax)
    assert here.SOPInstanceUID == there.SOPInstanceUID


def rewritten(text: str, partner: Partner, series: int, token: str) -> bytes:
    """An official request for an image of the exam `syntaxes`: its target, token and manifest are ours."""
    head = text.strip("\r\n").replace("\r\n", "\n")
    spec = EXAMS["syntaxes"]
    named = {
        "studies": spec.study_instance_uid,
        "series": uid(spec, series),
        "instances": uid(spec, series, 1),
    }
    host, path = re.match(r"GET (https://[^/]+)\S*?(/studies/\S+) HTTP/1.1", head).groups()  # type: ignore[union-attr]
    for level, value in named.items():
        path = re.sub(rf"/{level}/[0-9.]+", f"/{level}/{value}", path)
    head = re.sub(r"^GET \S+", f"GET {host}{partner.client.base}{path}", head)
    head, tokens = re.subn(r"Bearer \S+", f"Bearer {token}", head)
    head, manifests = re.subn(
        r"KOS-SOPInstanceUID: \S+", f"KOS-SOPInstanceUID: {partner.kos['syntaxes']}", head
    )
    assert (tokens, manifests) == (1, 1)
    return head.replace("\n", "\r\n").encode("ascii") + b"\r\n\r\n"


@pytest.mark.parametrize("name", ["OK_Frames", "OK_Instances", "OK_Instances_v2", "OK_Series"])
@pytest.mark.parametrize("prefer", ["stored", "quality"])
def test_official_requests(
    partner: Partner, strict: OtherDoor, official: Path, name: str, prefer: str
) -> None:
    text = (official / "wado" / f"{name}.txt").read_text("utf-8")
    client = partner.client if prefer == "stored" else strict.client
    token, before = partner.token(), partner.rows.last
    for series, kept in KEPT.items():
        reply = client.exchange(rewritten(text, partner, series, token))
        if name == "OK_Frames" and kept in VIDEOS:  # of 25 frames: documented
            assert (reply.status, reply.problem["type"]) == (406, "not-acceptable")
            continue
        assert reply.status == 200, (kept, reply.body)
        (received,) = reply.files
        check_image(received, partner.files["syntaxes"][series - 1], accepted(text), prefer)
    rows = until(lambda: _all_of(partner, before, len(KEPT)), "their rows")
    assert len(rows) == len(KEPT)


# drim-m-data 3.3: weights of the CI-SIS profiles and of the min/max requests, in the order of the table
ORDER = (
    SV1,
    JPEG_LS,
    J2K,
    BASELINE,
    f"{BASELINE[:-2]}51",
    MPEG2,
    f"{MPEG2[:-1]}1",
    H264,
    f"{H264[:-1]}3",
    EXPLICIT,
)
WEIGHTS = {
    "lossless": "0.9 0.8 0.6 0.5 0.5 0.5 0.5 0.5 0.5 0.4",
    "lossy": "0.6 0.5 0.5 0.9 0.9 0.5 0.5 0.5 0.5 0.4",
    "min-max of the simulator": "1.0 1.0 0.5 0.1 0.1 0.5 0.5 0.5 0.5 0.5",
    "min-max of the validator": "1 0.5 0.5 0 0.0 0.5 0.5 0.5 0.5 1.0",
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("prefer", ["stored", "quality"])
def test_weights_of_the_ans(partner: Partner, strict: OtherDoor, weights: str, prefer: str) -> None:
    accept = "".join(
        f"{MULTIPART};transfer-syntax={syntax};q={quality};boundary=**,"
        for syntax, quality in zip(ORDER, WEIGHTS[weights].split(), strict=True)
    )
    if weights == "lossless":
        assert accepted(accept) == accepted(ANS_ACCEPT)
    client = partner.client if prefer == "stored" else strict.client
    reply, row = partner.retrieve("syntaxes", ("Accept", accept), client=client)
    assert (reply.status, row["instances"]) == (200, len(KEPT))
    files = {sop_of(file.read_bytes()): file for file in partner.files["syntaxes"]}
    received = reply.files
    assert {sop_of(file) for file in received} == set(files)
    for file in received:
        check_image(file, files[sop_of(file)], accepted(accept), prefer)
    assert row["syntaxes"] == sorted({syntax_of(file) for file in received})


def test_no_row_is_there_twice_or_tells_too_much(partner: Partner) -> None:
    """The last of this module: each request looked for its own row; none is there twice, none says a secret."""
    rows = partner.rows.after()
    asked = [row for row in rows if "repeated" not in row]
    records = [row["record"] for row in asked]
    assert len(set(records)) == len(records)
    text = str(rows)
    assert "eyJ" not in text  # no token
    assert not any(value.decode() in text for value in PRIVATE if value != SUBJECT.encode())
