"""Every key encrypted at rest, and certificates renewed in a running appliance: SIGHUP, nothing stops."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from drimbox.adapters.key_writing import encrypt_in_place
from drimbox.simulators.certificates import Urls
from drimbox.simulators.pki import LEAVES, Pki
from drimbox.simulators.ports import free_ports
from fixtures.images import SeriesSpec, StudySpec
from fixtures.raw_association import RawPeer
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, frame, make_cda, make_oru

ROOT = "1.2.250.1.999.53"
SECRET = b"what opens every key"
PATIENCE = 30.0
PROCESSES = 5  # dicom, mllp, worker, two of web


@pytest.fixture(scope="module")
def edit_config() -> Callable[[str], str]:
    def edit(text: str) -> str:
        directory = Path(str(re.search(r'signature_key = "(.*)/appliance_sign.key"', text)[1]))  # type: ignore[index]
        (directory / "passphrase").touch(0o600)
        (directory / "passphrase").write_bytes(SECRET + b"\n")
        for key in directory.glob("appliance_*.key"):
            encrypt_in_place(key, SECRET)
        server = {
            "tls_port": free_ports(1)[0],
            "tls_certificate": str(directory / "appliance_server.pem"),
            "tls_key": str(directory / "appliance_server.key"),
            "tls_client_authority": str(directory / "authority.pem"),
        }
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in server.items())
        text = text.replace("[dicom]\n", f"[dicom]\n{lines}")
        return f'{text}\n[keys]\npassphrase = "{directory / "passphrase"}"\n'

    return edit


@dataclass
class Box:
    """The appliance, its PKI, and its TLS doors as clients meet them."""

    appliance: Any
    pki: Pki
    dicom_port: int
    serials: list[int] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.pki.authority))
        made.check_hostname = False
        made.load_cert_chain(self.pki.path("ris_auth"), self.pki.key("ris_auth"))
        return made

    @property
    def ports(self) -> dict[str, int]:
        doors = self.appliance.world["appliance"]
        public = int(doors["public"].split("/")[2].rpartition(":")[2])
        return {"web": public, "mllps": doors["mllp_tls"]["port"], "dicoms": self.dicom_port}

    def connect(self, door: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.ports[door]), 10)
        try:
            return self.context().wrap_socket(plain)
        except OSError:
            plain.close()
            raise

    def serial(self, door: str) -> int:
        with self.connect(door) as line:
            return x509.load_der_x509_certificate(line.getpeercert(binary_form=True) or b"").serial_number

    def hang_up(self) -> None:
        self.appliance.stage.processes[-1].send_signal(signal.SIGHUP)

    def lines(self, action: str) -> list[dict[str, Any]]:
        log = (self.appliance.stage.directory / "serve.log").read_text("utf-8")
        found = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return [line for line in found if line.get("action") == action]

    def renew(self, name: str) -> x509.Certificate:
        """Put another certificate and another key in the place of those of that name, the key encrypted."""
        leaf = LEAVES[name]
        made = self.pki.issue(leaf.kind, leaf.cn, leaf.ou, organisation=leaf.organisation)
        certificate, key = made.write(self.pki.directory / "new", name)
        encrypt_in_place(key, SECRET)
        key.replace(self.pki.key(name))
        certificate.replace(self.pki.path(name))
        return made.certificate

    def publish(self, number: int) -> tuple[dict[str, Any], list[Path]]:
        study = f"{ROOT}.{number}"
        series = (SeriesSpec("CT", 2),)
        spec = StudySpec(study_instance_uid=study, accession=f"R{number}", patient_id="IPP901", series=series)
        files = self.appliance.make_exam(spec)
        self.appliance.push(files)
        orders = (OrderSpec(accession=f"R{number}", placer=f"P{number}"),)
        report = ReportSpec(
            document_id=f"{ROOT}.9.{number}", orders=orders, acts=(ActSpec(studies=(study,)),)
        )
        answer = self.appliance.send(make_oru(make_cda(report), report, control_id=f"R{number}"))
        assert b"MSA|AA" in answer, answer
        return self.appliance.published(study), files


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def box(appliance: Any) -> Iterator[Box]:
    text = Path(appliance.stage.config).read_text("utf-8")
    port = int(str(re.search(r"\[dicom\]\ntls_port = (\d+)", text)[1]))  # type: ignore[index]
    pki = Pki(
        appliance.stage.directory / "pki",
        datetime.now(UTC),
        Urls("http://127.0.0.1/CRL", "http://127.0.0.1/AC"),
    )
    yield Box(appliance, pki, port)
    shutil.rmtree(appliance.stage.directory / "pki" / "new", ignore_errors=True)


def test_an_exam_is_published_and_served_with_encrypted_keys(box: Box) -> None:
    keys = sorted(box.pki.directory.glob("appliance_*.key"))
    assert len(keys) > 2
    assert all(b"ENCRYPTED" in key.read_bytes() for key in keys)
    exam, _ = box.publish(1)
    token, kos = box.appliance.token(), exam["manifest"]["sop_instance_uid"]
    path = f"/studies/{ROOT}.1"
    status, _, _ = box.appliance.curl(path, f"Authorization: Bearer {token}", f"KOS-SOPInstanceUID: {kos}")
    assert status == 200


def test_certificates_are_renewed_while_connections_go_on(box: Box) -> None:
    before = {door: box.serial(door) for door in box.ports}
    with ExitStack() as open_now:
        web = http.client.HTTPSConnection("127.0.0.1", box.ports["web"], timeout=10, context=box.context())
        open_now.callback(web.close)
        web.request("GET", "/healthcheck")
        assert web.getresponse().read()
        line = open_now.enter_context(box.connect("mllps"))
        peer = open_now.enter_context(RawPeer(box.connect("dicoms")))
        peer.associate(calling="PACS")
        renewed, signing = box.renew("appliance_server"), box.renew("appliance_sign")
        box.hang_up()
        for door in box.ports:
            eventually(lambda d=door: box.serial(d) == renewed.serial_number, f"{door}: the new certificate")  # type: ignore[misc]
        eventually(lambda: len(box.lines("credentials_renewed")) >= PROCESSES, "every process says so")
        web.request("GET", "/healthcheck")
        assert web.getresponse().read(), "the connection of before goes on"
        line.sendall(frame(b"MSH|^~\\&|RIS|CIM|DRIMBOX|CIM|20260101||ORU^R01|X|P|2.5"))
        assert b"MSA|" in line.recv(65536)
        assert peer.echo() == 0
        peer.release()
    assert renewed.serial_number not in before.values()
    changed = {name for line in box.lines("credentials_renewed") for name in line["setting"].split(", ")}
    assert changed >= {"web.certificate", "mllp.tls_certificate", "dicom.tls_certificate"}
    assert "dmp.signature_certificate" in changed
    box.publish(2)
    requests_of_dmp = box.appliance.stage.control("/control/dmp/requests")
    last = [one for one in requests_of_dmp if one["transaction"] == "TD2.1a"][-1]["message_id"]
    url = f"{box.appliance.world['control']}/control/dmp/requests"
    body = requests.get(url, params={"content": last}, timeout=10).content
    der = base64.b64encode(signing.public_bytes(Encoding.DER))
    assert der in re.sub(rb"\s", b"", body), "the VIHF is signed with the new key"
    assert box.lines("child_died") == box.lines("web_process_died") == []


def test_files_that_are_no_good_change_nothing(box: Box) -> None:
    current = {door: box.serial(door) for door in box.ports}
    said, good = len(box.lines("credential_not_renewed")), box.pki.path("appliance_server").read_bytes()
    box.pki.path("appliance_server").write_bytes(box.pki.path("appliance_auth").read_bytes())
    box.hang_up()
    wanted = {"web.certificate", "mllp.tls_certificate", "dicom.tls_certificate"}
    eventually(
        lambda: {line["setting"] for line in box.lines("credential_not_renewed")[said:]} >= wanted,
        "the log says why",
    )
    assert {door: box.serial(door) for door in box.ports} == current
    reasons = [line["reason"] for line in box.lines("credential_not_renewed")[said:]]
    assert all("this is an ORG AUTH_CLI certificate" in reason for reason in reasons)
    box.pki.path("appliance_server").write_bytes(good)
    assert {door: box.serial(door) for door in box.ports} == current
    assert box.lines("child_died") == box.lines("web_process_died") == []
