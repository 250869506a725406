"""The simulated DMP through its WSGI door: the official publication re-signed is accepted, each refusal once.

Requests are built here by hand from the official sample; nothing of the product or of the simulator builds them.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import http.client
import io
import itertools
import re
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

from drimbox.simulators.dmp import DmpSimulator
from drimbox.simulators.dmp_state import DmpState
from drimbox.simulators.faults import Faults
from drimbox.simulators.http_connection import CutConnection
from drimbox.simulators.pki import Leaf, Pki, make_pki
from drimbox.simulators.server import serve_wsgi, tls_context

NOW = datetime.now(UTC).replace(microsecond=0)  # TLS checks validity against the real clock
OU = "1750803447"
REPOSITORY = "/si-dmp-server/v2/services/repository"
REGISTRY = "/si-dmp-server/v2/services/registry"
PATIENT = "162018885045327^^^&1.2.250.1.213.1.4.10&ISO^NH"
N = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://www.w3.org/2005/08/addressing",
    "w": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
    "m": "urn:oasis:names:tc:SAML:2.0:assertion",
    "d": "http://www.w3.org/2000/09/xmldsig#",
    "r": "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0",
    "rs": "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0",
    "l": "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0",
    "q": "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0",
    "x": "urn:ihe:iti:xds-b:2007",
    "e": "http://uri.etsi.org/01903/v1.1.1#",
    "h": "urn:hl7-org:v3",
}
SHA256 = {
    "http://www.w3.org/2000/09/xmldsig#rsa-sha1": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
    "http://www.w3.org/2000/09/xmldsig#sha1": "http://www.w3.org/2001/04/xmlenc#sha256",
}
APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
DELETED = "urn:asip:ci-sis:2010:StatusType:Deleted"
RPLC = "urn:ihe:iti:2007:AssociationType:RPLC"
Edit = Callable[[etree._Element], object]
_numbers = itertools.count(1)


def nothing(_: etree._Element) -> None:
    """No edit."""


def one(root: etree._Element, path: str) -> etree._Element:
    """The one element at `path`."""
    found = root.xpath(path, namespaces=N)
    assert len(found) == 1, (path, len(found))
    return found[0]


def text(path: str, value: str) -> Edit:
    """An edit that writes the text of one element."""
    return lambda root: setattr(one(root, path), "text", value)


def attribute(path: str, name: str, value: str) -> Edit:
    """An edit that writes one attribute."""
    return lambda root: one(root, path).set(name, value)


def remove(path: str) -> Edit:
    """An edit that removes one element."""

    def edit(root: etree._Element) -> None:
        element = one(root, path)
        parent = element.getparent()
        assert parent is not None
        parent.remove(element)

    return edit


def swap(root: etree._Element, first: str, second: str) -> None:
    """Exchange two elements."""
    a, b = one(root, first), one(root, second)
    parent = a.getparent()
    assert parent is not None
    i, j = sorted((parent.index(a), parent.index(b)))
    low, high = parent[i], parent[j]
    parent.insert(j, low)
    parent.insert(i, high)


def c14n(element: etree._Element) -> bytes:
    """Exclusive canonical form (the inclusive one of a self-contained apex is the same here)."""
    return etree.tostring(
        etree.fromstring(etree.tostring(element, with_tail=False)), method="c14n", exclusive=True
    )


def sign(key: rsa.RSAPrivateKey, info: etree._Element, form: bytes) -> str:
    """Base64 RSA value over a SignedInfo, by its SignatureMethod."""
    sha1 = "rsa-sha1" in one(info, "d:SignatureMethod").get("Algorithm", "")
    algorithm = hashes.SHA1() if sha1 else hashes.SHA256()
    return base64.b64encode(key.sign(form, padding.PKCS1v15(), algorithm)).decode()


def hashed(content: bytes, parent: etree._Element, path: str = "d:DigestMethod") -> str:
    """Base64 digest by the DigestMethod inside `parent`."""
    name = "sha1" if one(parent, path).get("Algorithm", "").endswith("#sha1") else "sha256"
    return base64.b64encode(hashlib.new(name, content).digest()).decode()


def modern(root: etree._Element) -> None:
    """SHA-256 instead of the sample's SHA-1, everywhere."""
    for element in root.iter("{*}SignatureMethod", "{*}DigestMethod"):
        element.set("Algorithm", SHA256[element.get("Algorithm", "")])


@dataclass
class Sample:
    """The three parts of the official publication, as read by this file."""

    envelope: bytes
    signature: bytes
    kos: bytes

    @classmethod
    def read(cls, path: Path) -> Sample:
        content = path.read_bytes()
        envelope = re.search(rb"<soap:Envelope.*</soap:Envelope>", content, re.S)
        signature = re.search(rb"<Signature xmlns=.*</Signature>", content, re.S)
        kos = re.search(rb"Content-ID: <0.2>\s+([A-Za-z0-9+/=]+)\s", content)
        assert envelope and signature and kos
        return cls(envelope[0], signature[0], base64.b64decode(kos[1]))


def with_uid(kos: bytes, uid: str) -> bytes:
    """The same manifest under another SOPInstanceUID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(io.BytesIO(kos))
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid
        out = io.BytesIO()
        data.save_as(out)
    return out.getvalue()


SET = "//r:RegistryPackage"
KOS = "//r:ExtrinsicObject[@id='DocumentKOS']"
SIG = "//r:ExtrinsicObject[@id='Signature01']"
UNIQUE = "/r:ExternalIdentifier[@identificationScheme='urn:uuid:%s']"
SET_UID = SET + UNIQUE % "96fdda7c-d067-4183-912e-bf5ee74998a8"
DOC_UID = UNIQUE % "2e82c1f6-a085-4c72-9da3-8640a32e42ab"
DOC_PATIENT = UNIQUE % "58a6f841-87b3-4a3e-92fd-a8ffeff98427"
INSTITUTION = "/r:Classification/r:Slot[@name='authorInstitution']//r:Value"


def slot(owner: str, name: str) -> str:
    """XPath of the value of a slot with one value."""
    return f"{owner}/r:Slot[@name='{name}']//r:Value"


def coded(owner: str, code: str) -> str:
    """XPath of the classification with that nodeRepresentation."""
    return f"{owner}/r:Classification[@nodeRepresentation='{code}']"


def scheme(owner: str, code: str) -> str:
    """XPath of the codingScheme of that classification."""
    return f"{coded(owner, code)}/r:Slot/r:ValueList/r:Value"


def vihf_value(name: str) -> str:
    """XPath of the text value of a VIHF attribute."""
    return f"//m:Attribute[@Name='{name}']/m:AttributeValue"


@dataclass
class Message:
    """A request, valid by default; each field is one way to break it."""

    sample: Sample
    signer: tuple[x509.Certificate, rsa.RSAPrivateKey]
    now: datetime = NOW
    submission_set: str = ""
    kos_uid: str = ""
    signature_uid: str = ""
    message_id: str = ""
    kos: bytes = b""
    body: Edit = nothing  # metadata, before anything is computed from it
    lot: Edit = nothing  # signature document, before it is signed
    vihf: Edit = nothing  # assertion, before it is signed
    late: Edit = nothing  # the whole envelope, after everything is signed
    legacy: bool = False  # SHA-1
    signature_document: Callable[[bytes], bytes] = bytes
    encoding: str = "binary"

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.submission_set = self.submission_set or f"1.2.250.1.213.99.1.{number}"
        self.kos_uid = self.kos_uid or f"1.2.250.1.213.99.2.{number}"
        self.signature_uid = self.signature_uid or f"2.25.{10**20 + number}"
        self.message_id = self.message_id or f"urn:uuid:00000000-0000-4000-8000-{number:012d}"
        self.kos = self.kos or with_uid(self.sample.kos, self.kos_uid)

    def envelope(self) -> etree._Element:
        """The sample's envelope, in schema order, with this message's identifiers, SHA-256 unless legacy."""
        root = etree.fromstring(self.sample.envelope)
        one(root, "//a:MessageID").text = self.message_id
        one(root, SET_UID).set("value", self.submission_set)
        one(root, KOS + DOC_UID).set("value", self.kos_uid)
        one(root, SIG + DOC_UID).set("value", self.signature_uid)
        for entry in root.iter(f"{{{N['r']}}}ExtrinsicObject"):
            entry.insert(0, entry.findall("r:Slot", N)[-1])
        for value in root.xpath("//r:Slot[@name='authorInstitution']//r:Value", namespaces=N):
            value.text = f"CENTRE D'IMAGERIE SIMULE^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^{OU}"
        if not self.legacy:
            modern(root)
        return root

    def lot_signature(self, root: etree._Element) -> bytes:
        """The sample's signature document, its digests and value recomputed for this lot."""
        document = etree.fromstring(self.sample.signature)
        if not self.legacy:
            modern(document)
        certificate, key = self.signer
        der = certificate.public_bytes(serialization.Encoding.DER)
        document.set("Id", self.signature_uid)
        one(document, "d:KeyInfo//d:X509Certificate").text = base64.b64encode(der).decode()
        references = document.xpath("//d:Manifest/d:Reference", namespaces=N)
        for reference, uid in zip(references, (self.submission_set, self.kos_uid), strict=True):
            reference.set("URI", f"urn:oid:{uid}")
        one(references[1], "d:DigestValue").text = hashed(self.kos, references[1])
        digests = one(document, "//e:CertDigest")
        one(digests, "e:DigestValue").text = hashed(der, digests, "e:DigestMethod")
        self.lot(document)
        info = one(document, "d:SignedInfo")
        targets = {"#IHEManifest": "//d:Manifest", "#S0-SignedProperties": "//e:SignedProperties"}
        for uri, path in targets.items():
            for reference in info.xpath(f"d:Reference[@URI='{uri}']", namespaces=N):
                one(reference, "d:DigestValue").text = hashed(c14n(one(document, path)), reference)
        one(document, "d:SignatureValue").text = sign(key, info, c14n(info))
        return self.signature_document(etree.tostring(document, xml_declaration=True, encoding="UTF-8"))

    def sign_vihf(self, root: etree._Element) -> None:
        """Fill the sample's assertion for this structure and instant, and sign it."""
        assertion = one(root, "//m:Assertion")
        certificate, key = self.signer
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        assertion.set("IssueInstant", stamp)
        one(assertion, "m:AuthnStatement").set("AuthnInstant", stamp)
        one(assertion, "m:Issuer").text = certificate.subject.rfc4514_string().replace(",", ", ")
        for value in assertion.xpath(".//m:AttributeValue[text()='XXXXXXX']", namespaces=N):
            value.text = "01.12.12"
        one(assertion, vihf_value("Identifiant_Structure")[1:].replace("/m:", ".//m:", 1)).text = OU
        self.vihf(assertion)
        signature = one(assertion, "d:Signature")
        der = certificate.public_bytes(serialization.Encoding.DER)
        one(signature, ".//d:X509Certificate").text = base64.b64encode(der).decode()
        position, tail = assertion.index(signature), signature.tail or ""
        before = assertion[position - 1]
        kept = before.tail
        before.tail = (before.tail or "") + tail
        assertion.remove(signature)
        content = c14n(assertion)
        before.tail = kept
        signature.tail = tail
        assertion.insert(position, signature)
        reference = one(signature, "d:SignedInfo/d:Reference")
        reference.set("URI", "#" + assertion.get("ID", ""))
        one(reference, "d:DigestValue").text = hashed(content, reference)
        info = one(signature, "d:SignedInfo")
        one(signature, "d:SignatureValue").text = sign(key, info, c14n(info))

    def packed(self) -> tuple[str, bytes]:
        """(Content-Type, body) of the MTOM message."""
        root = self.envelope()
        for name, value in (("hash", hashlib.sha1(self.kos).hexdigest()), ("size", str(len(self.kos)))):
            one(root, slot(KOS, name)).text = value
        self.body(root)
        signature = self.lot_signature(root)
        for name, value in (("hash", hashlib.sha1(signature).hexdigest()), ("size", str(len(signature)))):
            for element in root.xpath(slot(SIG, name), namespaces=N):
                element.text = value
        self.sign_vihf(root)
        self.late(root)
        return mtom(
            etree.tostring(root, encoding="UTF-8"), {"0.3": signature, "0.2": self.kos}, self.encoding
        )

    def plain(self, payload: etree._Element, action: str) -> tuple[str, bytes]:
        """(Content-Type, body) of a SOAP message with that payload, for the registry."""
        root = self.envelope()
        body = one(root, "/s:Envelope/s:Body")
        body[:] = [payload]
        one(root, "//a:Action").text = action
        one(root, "//a:To").text = f"https://localhost{REGISTRY}"
        self.body(root)
        self.sign_vihf(root)
        self.late(root)
        return f'application/soap+xml; charset=UTF-8; action="{action}"', etree.tostring(root)

    def update(self, target: str, original: str = APPROVED, new: str = DELETED) -> tuple[str, bytes]:
        """A TD3.3c message for that entryUUID."""
        package = copy.deepcopy(one(self.envelope(), SET))
        slots = "".join(
            f'<Slot name="{name}"><ValueList><Value>{value}</Value></ValueList></Slot>'
            for name, value in (("OriginalStatus", original), ("NewStatus", new))
        )
        payload = etree.fromstring(
            f'<l:SubmitObjectsRequest xmlns:l="{N["l"]}" xmlns="{N["r"]}"><RegistryObjectList>'
            '<Association id="as1" associationType="urn:ihe:iti:2010:AssociationType:UpdateAvailabilityStatus"'
            f' sourceObject="SubmissionSet01" targetObject="{target}">{slots}</Association>'
            "</RegistryObjectList></l:SubmitObjectsRequest>"
        )
        payload[0].insert(0, package)
        return self.plain(payload, "urn:ihe:iti:2010:UpdateDocumentSet")

    def query(self, value: str, name: str = "UniqueId", shape: str = "LeafClass") -> tuple[str, bytes]:
        """A TD3.1b GetDocuments message."""
        payload = etree.fromstring(
            f'<q:AdhocQueryRequest xmlns:q="{N["q"]}" xmlns="{N["r"]}">'
            f'<q:ResponseOption returnComposedObjects="true" returnType="{shape}"/>'
            '<AdhocQuery id="urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4">'
            f'<Slot name="$XDSDocumentEntry{name}"><ValueList><Value>{value}</Value></ValueList></Slot>'
            "</AdhocQuery></q:AdhocQueryRequest>"
        )
        return self.plain(payload, "urn:ihe:iti:2007:RegistryStoredQuery")


def mtom(root: bytes, parts: dict[str, bytes], encoding: str = "binary") -> tuple[str, bytes]:
    """Pack an envelope and its attachments (Content-ID -> bytes)."""
    chunks = [
        b'Content-Type: application/xop+xml; charset=UTF-8; type="application/soap+xml"\r\n'
        b"Content-Transfer-Encoding: binary\r\nContent-ID: <0.1>\r\n\r\n" + root
    ]
    for identity, content in parts.items():
        head = f"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: {encoding}\r\n"
        shown = base64.b64encode(content) if encoding.lower() == "base64" else content
        chunks.append(f"{head}Content-ID: <{identity}>\r\n\r\n".encode() + shown)
    content_type = (
        'multipart/related; boundary="b0unDary"; type="application/xop+xml"; start="<0.1>";'
        ' start-info="application/soap+xml"; action="urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"'
    )
    return content_type, b"--b0unDary\r\n" + b"\r\n--b0unDary\r\n".join(chunks) + b"\r\n--b0unDary--\r\n"


@dataclass
class Answer:
    """An HTTP answer; `root` is the SOAP envelope when there is one."""

    status: str
    content_type: str
    body: bytes

    @property
    def root(self) -> etree._Element:
        found = re.search(rb"<soap:Envelope.*</soap:Envelope>", self.body, re.S)
        assert found, self.body
        return etree.fromstring(found[0])

    @property
    def outcome(self) -> tuple[str, ...]:
        """`Success`, the error codes, or the fault subcode and reason."""
        if self.root.find(".//s:Fault", N) is not None:
            subcode = one(self.root, "//s:Subcode/s:Value").text or ""
            return (subcode, one(self.root, "//s:Reason/s:Text").text or "")
        errors = self.root.xpath("//rs:RegistryError/@errorCode", namespaces=N)
        status = self.root.xpath("string(//@status[contains(., 'ResponseStatusType')])").rpartition(":")[2]
        assert bool(errors) == (status == "Failure")
        return tuple(sorted(set(errors))) or (status,)

    @property
    def contexts(self) -> list[str]:
        return [str(v) for v in self.root.xpath("//rs:RegistryError/@codeContext", namespaces=N)]


@dataclass
class Bench:
    """A simulator, its parts, and a client."""

    pki: Pki
    state: DmpState
    faults: Faults
    sample: Sample
    official: Path
    options: dict[str, Any] = field(default_factory=dict)
    instant: datetime = NOW

    def __post_init__(self) -> None:
        self.app = DmpSimulator(self.pki, self.state, self.faults, lambda: self.instant, **self.options)

    def message(self, **fields: Any) -> Message:
        return Message(**{"sample": self.sample, "signer": self.pki.load("appliance_sign"), **fields})

    def post(
        self,
        packed: tuple[str, bytes],
        path: str = REPOSITORY,
        peer: x509.Certificate | str | None = "own",
        **more: Any,
    ) -> Answer:
        certificate = self.pki.certificate("appliance_auth") if isinstance(peer, str) else peer
        der = None if certificate is None else certificate.public_bytes(serialization.Encoding.DER)
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "CONTENT_TYPE": packed[0],
            "CONTENT_LENGTH": str(len(packed[1])),
            "wsgi.input": io.BytesIO(packed[1]),
            "drimbox.peer_certificate": der,
            **more,
        }
        answered: list[Any] = []
        body = b"".join(self.app(environ, lambda *start: answered.extend(start)))  # type: ignore[arg-type, return-value]
        headers = dict(answered[1])
        assert headers["Content-Length"] == str(len(body))
        return Answer(answered[0], headers["Content-Type"], body)

    def publish(self, **fields: Any) -> Answer:
        return self.post(self.message(**fields).packed())

    def entry(self, unique_id: str) -> dict[str, Any]:
        (found,) = [d for d in self.state.documents() if d["unique_id"] == unique_id]
        return found

    def replacing(self, target: str) -> Edit:
        def edit(root: etree._Element) -> None:
            objects = one(root, "//r:RegistryObjectList")
            association = copy.deepcopy(objects[-1])
            association.attrib.update(
                {"id": "rplc", "associationType": RPLC, "sourceObject": "DocumentKOS", "targetObject": target}
            )
            objects.append(association)

        return edit


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("world") / "pki", NOW)


@pytest.fixture(scope="module")
def sample(official: Path) -> Sample:
    return Sample.read(official / "xds" / "publication.xml")


@pytest.fixture
def dmp(pki: Pki, sample: Sample, official: Path, tmp_path: Path) -> Iterator[Bench]:
    state = DmpState(tmp_path / "dmp.sqlite")
    yield Bench(pki, state, Faults(), sample, official)
    state.close()


# --- what is accepted -------------------------------------------------------------------------------------


def test_official_publication_resigned_is_registered(dmp: Bench) -> None:
    message = dmp.message()
    packed = message.packed()
    answer = dmp.post(packed)
    assert answer.outcome == ("Success",) and answer.status == "200 OK"
    assert one(answer.root, "//a:RelatesTo").text == message.message_id
    assert one(answer.root, "//a:Action").text == "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-bResponse"
    entry = dmp.entry(message.kos_uid)
    assert entry.pop("entry_uuid").startswith("urn:uuid:")
    assert entry == {
        "unique_id": message.kos_uid,
        "status": "Approved",
        "patient_id": PATIENT,
        "mime_type": "application/dicom",
        "type_code": "IMG-KOS",
        "class_code": "31",
        "confidentiality": ["N"],
        "event_codes": ["774007", "MR"],
        "reference_ids": [
            "7252295367250016^^^&1.2.840.113619.6.196&ISO^urn:ihe:iti:xds:2013:accession",
            "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.116^^^&1.2.3.4.5.6&ISO"
            "^urn:ihe:iti:xds:2016:studyInstanceUID",
            "12989855966^^^&2.16.840.1.113883.6.96&ISO^urn:ihe:iti:xds:2013:order",
        ],
        "replaced_by": None,
        "sha1": hashlib.sha1(message.kos).hexdigest(),
        "size": len(message.kos),
    }
    assert dmp.state.content(message.kos_uid) == message.kos
    assert [d["type_code"] for d in dmp.state.documents()] == ["IMG-KOS", "E1762"]
    assert dmp.state.requests() == [
        {
            "transaction": "TD2.1a",
            "at": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "message_id": message.message_id,
            "outcome": "Success",
        }
    ]
    assert dmp.state.request_body(message.message_id) == packed


def test_state_survives_the_simulator(dmp: Bench, tmp_path: Path) -> None:
    message = dmp.message()
    assert dmp.post(message.packed()).outcome == ("Success",)
    again = DmpState(tmp_path / "dmp.sqlite")
    assert again.documents() == dmp.state.documents() and again.requests() == dmp.state.requests()
    assert again.content(message.kos_uid) == message.kos
    again.close()


@pytest.mark.parametrize("encoding", ["BASE64", "base64", "8bit"])
def test_transfer_encodings(dmp: Bench, encoding: str) -> None:
    assert dmp.publish(encoding=encoding).outcome == ("Success",)


def test_both_letter_cases_of_the_mode_attribute(dmp: Bench) -> None:
    lower = attribute(
        "m:AttributeStatement/m:Attribute[@Name='Authentification_Mode']", "Name", "Authentification_mode"
    )
    assert dmp.publish(vihf=lower).outcome == ("Success",)


def test_answers_alternate_between_plain_and_mtom(dmp: Bench) -> None:
    kinds = [dmp.publish().content_type.partition(";")[0] for _ in range(4)]
    assert kinds == ["application/soap+xml", "multipart/related"] * 2
    answer = dmp.publish(message_id="")
    assert answer.outcome == ("Success",)


@pytest.mark.parametrize(
    ("packing", "kind"), [("always", "multipart/related"), ("never", "application/soap+xml")]
)
def test_answers_packed_on_demand(dmp: Bench, packing: str, kind: str) -> None:
    bench = Bench(dmp.pki, dmp.state, dmp.faults, dmp.sample, dmp.official, {"mtom_answers": packing})
    assert {bench.publish().content_type.partition(";")[0] for _ in range(2)} == {kind}


def test_sha1_only_where_accepted(dmp: Bench) -> None:
    code, reason = dmp.publish(legacy=True).outcome
    assert code == "wsse:FailedCheck" and "sha1 is not allowed" in reason
    bench = Bench(dmp.pki, dmp.state, dmp.faults, dmp.sample, dmp.official, {"accept_sha1": True})
    assert bench.publish(legacy=True).outcome == ("Success",)


def test_answers_and_requests_are_valid_against_the_schemas(dmp: Bench) -> None:
    schemas = dmp.official / "xds-xsd"
    bench = Bench(dmp.pki, dmp.state, dmp.faults, dmp.sample, dmp.official, {"schemas": schemas})
    message = bench.message()
    rs, query = (etree.XMLSchema(etree.parse(str(schemas / f"{name}.xsd"))) for name in ("rs", "query"))
    rs.assertValid(one(bench.post(message.packed()).root, "//rs:RegistryResponse"))
    rs.assertValid(one(bench.post(message.packed()).root, "//rs:RegistryResponse"))
    uuid = bench.entry(message.kos_uid)["entry_uuid"]
    for shape in ("LeafClass", "ObjectRef"):
        answer = bench.post(bench.message().query(f"('{message.kos_uid}')", shape=shape), REGISTRY)
        query.assertValid(one(answer.root, "//q:AdhocQueryResponse"))
    assert bench.post(bench.message().update(uuid), REGISTRY).outcome == ("Success",)


def test_schema_violation_is_refused(dmp: Bench) -> None:
    schemas = dmp.official / "xds-xsd"
    bench = Bench(dmp.pki, dmp.state, dmp.faults, dmp.sample, dmp.official, {"schemas": schemas})
    answer = bench.publish(body=lambda root: one(root, KOS).set("colour", "blue"))
    assert answer.outcome == ("XDSRegistryMetadataError",) and "colour" in answer.contexts[0]


# --- replacement, query, withdrawal -----------------------------------------------------------------------


def test_replacement_deprecates_its_target(dmp: Bench) -> None:
    first, second = dmp.message(), dmp.message()
    dmp.post(first.packed())
    second.body = dmp.replacing(dmp.entry(first.kos_uid)["entry_uuid"])
    assert dmp.post(second.packed()).outcome == ("Success",)
    old, new = dmp.entry(first.kos_uid), dmp.entry(second.kos_uid)
    assert (old["status"], old["replaced_by"], new["status"]) == ("Deprecated", second.kos_uid, "Approved")
    assert [r["transaction"] for r in dmp.state.requests()] == ["TD2.1a", "TD2.1b"]


def test_replacement_of_what_is_not_the_head(dmp: Bench) -> None:
    first, second = dmp.message(), dmp.message()
    dmp.post(first.packed())
    target = dmp.entry(first.kos_uid)["entry_uuid"]
    second.body = dmp.replacing(target)
    dmp.post(second.packed())
    stale = dmp.message(body=dmp.replacing(target))
    assert dmp.post(stale.packed()).outcome == ("XDSRegistryDeprecatedDocumentError",)
    unknown = dmp.replacing("urn:uuid:00000000-0000-4000-8000-000000000000")
    assert dmp.publish(body=unknown).outcome == ("UnresolvedReferenceException",)
    assert dmp.publish(body=dmp.replacing("Signature01")).outcome == ("XDSRegistryMetadataError",)
    assert len(dmp.state.documents()) == 4


def test_replacement_of_another_patients_manifest(dmp: Bench) -> None:
    first = dmp.message()
    dmp.post(first.packed())
    other = dmp.message(**wholly_about(dmp.sample))
    other.body = both(other.body, dmp.replacing(dmp.entry(first.kos_uid)["entry_uuid"]))
    assert dmp.post(other.packed()).outcome == ("XDSPatientIdDoesNotMatch",)


def test_query_by_unique_id_and_entry_uuid(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    uuid = dmp.entry(message.kos_uid)["entry_uuid"]
    asked = dmp.message()
    answer = dmp.post(asked.query(f"('{message.kos_uid}')"), REGISTRY)
    leaf = one(answer.root, "//r:ExtrinsicObject")
    assert answer.outcome == ("Success",) and leaf.get("id") == leaf.get("lid") == uuid
    assert leaf.get("status") == APPROVED
    assert one(answer.root, DOC_UID.replace("/r:", "//r:", 1)).get("value") == message.kos_uid
    assert one(answer.root, "//a:RelatesTo").text == asked.message_id
    answer = dmp.post(dmp.message().query(f"('{uuid}')", "EntryUUID", "ObjectRef"), REGISTRY)
    assert [r.get("id") for r in answer.root.iter(f"{{{N['r']}}}ObjectRef")] == [uuid]
    answer = dmp.post(dmp.message().query("('1.2.3')"), REGISTRY)
    assert (
        answer.outcome == ("Success",)
        and one(answer.root, "//@totalResultCount/..").get("totalResultCount") == "0"
    )
    assert [r["transaction"] for r in dmp.state.requests()] == ["TD2.1a", *["TD3.1b"] * 3]


def test_query_sees_only_the_patient_of_the_vihf(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    name = "urn:oasis:names:tc:xacml:2.0:resource:resource-id"
    other = text(
        f".//m:Attribute[@Name='{name}']/m:AttributeValue",
        PATIENT.replace("162018885045327", "279035121518989"),
    )
    answer = dmp.post(dmp.message(vihf=other).query(f"('{message.kos_uid}')"), REGISTRY)
    assert answer.outcome == ("Success",) and not answer.root.findall(".//r:ExtrinsicObject", N)
    unknown = text(f".//m:Attribute[@Name='{name}']/m:AttributeValue", PATIENT.replace("162", "163"))
    answer = dmp.post(dmp.message(vihf=unknown).query(f"('{message.kos_uid}')"), REGISTRY)
    assert answer.outcome == ("XDSUnknownPatientId",)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (
            attribute("//r:AdhocQuery", "id", "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d"),
            "XDSUnknownStoredQuery",
        ),
        (attribute("//r:AdhocQuery/r:Slot", "name", "$Other"), "XDSStoredQueryMissingParam"),
        (text("//r:AdhocQuery//r:Value", "1.2.3"), "XDSRegistryError"),
        (attribute("//q:ResponseOption", "returnType", "Everything"), "soap:MalformedMessage"),
        (remove("//q:ResponseOption"), "soap:MalformedMessage"),
    ],
)
def test_query_refusals(dmp: Bench, edit: Edit, code: str) -> None:
    assert dmp.post(dmp.message(body=edit).query("('1.2.3')"), REGISTRY).outcome[0] == code


def test_withdrawal(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    uuid = dmp.entry(message.kos_uid)["entry_uuid"]
    answer = dmp.post(dmp.message().update(uuid), REGISTRY)
    assert answer.outcome == ("Success",)
    assert one(answer.root, "//a:Action").text == "urn:ihe:iti:2010:UpdateDocumentSet-Response"
    assert dmp.entry(message.kos_uid)["status"] == "Deleted"
    assert dmp.post(dmp.message().update(uuid), REGISTRY).outcome == ("XDSMetadataUpdateError",)
    leaf = one(dmp.post(dmp.message().query(f"('{message.kos_uid}')"), REGISTRY).root, "//r:ExtrinsicObject")
    assert leaf.get("status") == DELETED
    replacement = dmp.message(body=dmp.replacing(uuid))
    assert dmp.post(replacement.packed()).outcome == ("XDSRegistryDeprecatedDocumentError",)
    assert [r["transaction"] for r in dmp.state.requests()][1:3] == ["TD3.3c", "TD3.3c"]


def test_withdrawal_refusals(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    uuid = dmp.entry(message.kos_uid)["entry_uuid"]
    archived = "urn:asip:ci-sis:2010:StatusType:Archived"
    refused = {
        "another original status": (dmp.message().update(uuid, archived), "XDSMetadataUpdateError"),
        "archiving": (dmp.message().update(uuid, APPROVED, archived), "XDSMetadataUpdateError"),
        "unknown": (dmp.message().update("urn:uuid:" + "0" * 8), "UnresolvedReferenceException"),
        "another patient": (
            dmp.message(**SWITCHED).update(uuid),
            "XDSPatientIdDoesNotMatch",
        ),
        "known submission set": (
            dmp.message(submission_set=message.submission_set).update(uuid),
            "XDSDuplicateUniqueIdInRegistry",
        ),
    }
    for what, (packed, code) in refused.items():
        assert (what, dmp.post(packed, REGISTRY).outcome) == (what, (code,))
    assert dmp.entry(message.kos_uid)["status"] == "Approved"


def test_withdrawal_by_another_structure(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    uuid = dmp.entry(message.kos_uid)["entry_uuid"]
    other = dmp.pki.issue("SIGN", "AUTRE", "1690000001")
    theirs = dmp.message(
        signer=(other.certificate, other.key),
        vihf=text(".//m:Attribute[@Name='Identifiant_Structure']/m:AttributeValue", "1690000001"),
        body=text(SET + INSTITUTION, "AUTRE^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^1690000001"),
    )
    answer = dmp.post(theirs.update(uuid), REGISTRY)
    assert answer.outcome == ("XDSMetadataUpdateError",) and "another structure" in answer.contexts[0]


# --- other patients -----------------------------------------------------------------------------------------

OTHER = PATIENT.replace("162018885045327", "274075176079430")
_RESOURCE = ".//m:Attribute[@Name='urn:oasis:names:tc:xacml:2.0:resource:resource-id']/m:AttributeValue"
SET_PATIENT = SET + UNIQUE % "6b5aea1a-874d-4603-a4bc-96a0a7b38446"
SWITCHED: dict[str, Any] = {"vihf": text(_RESOURCE, OTHER), "body": attribute(SET_PATIENT, "value", OTHER)}


def both(*edits: Edit) -> Edit:
    """Several edits as one."""

    def edit(root: etree._Element) -> None:
        for each in edits:
            each(root)

    return edit


def wholly_about(sample: Sample, patient: str = OTHER) -> dict[str, Any]:
    """A lot that is wholly about another patient."""
    uid = f"1.2.250.1.213.99.3.{next(_numbers)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(io.BytesIO(with_uid(sample.kos, uid)))
        data.PatientID = patient[:15]
        out = io.BytesIO()
        data.save_as(out)
    places = (SET_PATIENT, KOS + DOC_PATIENT, SIG + DOC_PATIENT)
    edits = [attribute(place, "value", patient) for place in places]
    return {"kos_uid": uid, "kos": out.getvalue(), "vihf": text(_RESOURCE, patient), "body": both(*edits)}


def test_patients_who_have_a_dmp(dmp: Bench) -> None:
    assert dmp.publish(**wholly_about(dmp.sample)).outcome == ("Success",)
    stranger = "199012A55512345^^^&1.2.250.1.213.1.4.10&ISO^NH"
    assert dmp.publish(**wholly_about(dmp.sample, stranger)).outcome == ("XDSUnknownPatientId",)
    dmp.state.add_patient("199012A55512345")
    assert dmp.publish(**wholly_about(dmp.sample, stranger)).outcome == ("Success",)


def test_patient_must_be_the_same_everywhere(dmp: Bench) -> None:
    answer = dmp.publish(body=attribute(SIG + DOC_PATIENT, "value", OTHER))
    assert answer.outcome == ("XDSPatientIdDoesNotMatch",)
    assert dmp.publish(vihf=text(_RESOURCE, OTHER)).outcome[0] == "soap:XDSPatientIdDoesNotMatch"


# --- duplicates ---------------------------------------------------------------------------------------------


def test_same_lot_again_is_a_duplicate(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    before = dmp.state.documents()
    assert dmp.post(message.packed()).outcome == ("XDSDuplicateUniqueIdInRegistry",)
    assert dmp.state.documents() == before
    same_set = dmp.message(submission_set=message.submission_set)
    assert dmp.post(same_set.packed()).outcome == ("XDSDuplicateUniqueIdInRegistry",)


def test_same_unique_id_with_another_content(dmp: Bench) -> None:
    message = dmp.message()
    dmp.post(message.packed())
    rebuilt = dmp.message(kos_uid=message.kos_uid, kos=with_uid(dmp.sample.kos, message.kos_uid) + b"\0\0")
    assert rebuilt.kos != message.kos
    assert "XDSNonIdenticalHash" in dmp.post(rebuilt.packed()).outcome
    assert dmp.state.content(message.kos_uid) == message.kos


# --- who speaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "variant", "fault"),
    [
        ("AUTH_CLI", {"expired": True}, "expired"),
        ("AUTH_CLI", {"not_yet_valid": True}, "not yet valid"),
        ("AUTH_CLI", {"revoked": True}, "revoked"),
        ("AUTH_CLI", {"wrong_key_usage": True}, "keyUsage"),
        ("AUTH_CLI", {"foreign_authority": True}, "not issued by"),
        ("AUTH_CLI", {"production": True}, "test certificate"),
        ("SIGN", {}, "keyUsage"),
        ("SERV_SSL", {}, "keyUsage"),
    ],
)
def test_client_certificate(dmp: Bench, kind: str, variant: dict[str, bool], fault: str) -> None:
    leaf = dmp.pki.issue(kind, "drimbox-simulee", OU, **variant)
    answer = dmp.post(dmp.message().packed(), peer=leaf.certificate)
    code, reason = answer.outcome
    assert answer.status == "500 Internal Server Error"
    assert code == "wsse:FailedAuthentication" and fault in reason
    assert dmp.state.documents() == []


def test_client_certificate_is_required(dmp: Bench) -> None:
    assert dmp.post(dmp.message().packed(), peer=None).outcome == (
        "wsse:FailedAuthentication",
        "Certificat client absent",
    )


MISSING = "A required header representing a Message Addressing Property is not present"


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        *[
            (remove(f"//a:{name}"), "wsa:MessageAddressingHeaderRequired")
            for name in ("MessageID", "To", "Action")
        ],
        (text("//a:MessageID", "urn:uuid:1"), "wsa:InvalidAddressingHeader"),
        (text("//a:Action", "urn:ihe:iti:2007:RegistryStoredQuery"), "wsa:ActionNotSupported"),
        (text("//a:To", f"https://localhost{REGISTRY}"), "wsa:DestinationUnreachable"),
    ],
)
def test_addressing(dmp: Bench, edit: Edit, code: str) -> None:
    found, reason = dmp.publish(late=edit).outcome
    assert found == code and (reason == MISSING) == (code == "wsa:MessageAddressingHeaderRequired")


def _reply_to(address: str) -> Edit:
    block = f'<ReplyTo xmlns="{N["a"]}"><Address>{address}</Address></ReplyTo>'
    return lambda root: one(root, "/s:Envelope/s:Header").append(etree.fromstring(block))


def test_reply_to(dmp: Bench) -> None:
    assert dmp.publish(late=_reply_to(N["a"] + "/anonymous")).outcome == ("Success",)
    assert dmp.publish(late=_reply_to("https://elsewhere/")).outcome[0] == "wsa:OnlyAnonymousAddressSupported"


def test_header_that_must_be_understood(dmp: Bench) -> None:
    block = f'<x xmlns="urn:x" xmlns:s="{N["s"]}" s:mustUnderstand="true"/>'
    edit = lambda root: one(root, "/s:Envelope/s:Header").append(etree.fromstring(block))  # noqa: E731
    assert dmp.publish(late=edit).outcome[0] == "soap:MustUnderstand"


def test_action_parameter_differs(dmp: Bench) -> None:
    content_type, body = dmp.message().packed()
    other = content_type.replace("urn:ihe:iti:2007:Prov", "urn:ihe:iti:2007:Xrov")
    assert dmp.post((other, body)).outcome[0] == "wsa:ActionMismatch"


def _leaf(
    dmp: Bench, kind: str = "SIGN", ou: str = OU, **variant: bool
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    leaf: Leaf = dmp.pki.issue(kind, "DRIMbox", ou, **variant)
    return leaf.certificate, leaf.key


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("AUTH_CLI", {}),
        ("SERV_SSL", {}),
        ("SIGN", {"expired": True}),
        ("SIGN", {"revoked": True}),
        ("SIGN", {"foreign_authority": True}),
        ("SIGN", {"wrong_key_usage": True}),
        ("SIGN", {"production": True}),
    ],
)
def test_vihf_signed_by_the_wrong_certificate(dmp: Bench, kind: str, variant: dict[str, bool]) -> None:
    answer = dmp.publish(signer=_leaf(dmp, kind, **variant))
    assert answer.outcome == ("soap:DMPInvalidCertificate", "Not a valid signature certificate")


def test_structure_of_the_vihf_is_not_that_of_the_certificate(dmp: Bench) -> None:
    answer = dmp.publish(signer=_leaf(dmp, ou="1690000001"))
    assert answer.outcome == ("wsse:FailedAuthentication", "Erreur d'authentification de la personne morale")


def test_author_of_the_lot_is_not_the_structure_of_the_vihf(dmp: Bench) -> None:
    other = text(SET + INSTITUTION, "AUTRE^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^1690000001")
    _, reason = dmp.publish(body=other).outcome
    assert reason == "Aucun AuthorInstitution ne correspond a l'utilisateur du VIHF"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_vihf_is_not_fresh(dmp: Bench, minutes: int) -> None:
    assert dmp.publish(now=NOW + timedelta(minutes=minutes)).outcome[0] == "wsu:MessageExpired"
    assert dmp.publish(now=NOW + timedelta(minutes=minutes) * 2 / 3).outcome == ("Success",)


def _flip(root: etree._Element) -> None:
    value = one(root, "//m:Assertion/d:Signature/d:SignatureValue")
    value.text = base64.b64encode(bytes(256)).decode()


@pytest.mark.parametrize(
    "edit",
    [
        text(vihf_value("Identifiant_Structure"), "1750803448"),
        _flip,
        remove("//m:Assertion/d:Signature"),
        remove("//m:Assertion/d:Signature//d:X509Certificate"),
        attribute("//m:Assertion/d:Signature//d:Reference", "URI", ""),
        attribute("//m:Assertion/d:Signature//d:CanonicalizationMethod", "Algorithm", "urn:other"),
        lambda root: one(root, "//m:Subject").set("ID", one(root, "//m:Assertion").get("ID")),
        remove("//m:Assertion/d:Signature//d:Transform[1]"),
        lambda root: one(root, "//m:Assertion").append(one(root, "//m:Assertion/d:Signature")),
    ],
)
def test_vihf_signature_does_not_hold(dmp: Bench, edit: Edit) -> None:
    assert dmp.publish(late=edit).outcome[0] == "wsse:FailedCheck"


def test_vihf_wrapping(dmp: Bench) -> None:
    """A second, forged assertion beside the signed one is refused."""

    def edit(root: etree._Element) -> None:
        forged = copy.deepcopy(one(root, "//m:Assertion"))
        forged.set("ID", "_forged")
        one(root, "//w:Security").insert(0, forged)

    assert dmp.publish(late=edit).outcome[0] == "wsse:InvalidSecurity"
    assert dmp.publish(late=remove("//m:Assertion")).outcome[0] == "wsse:InvalidSecurity"


def _named(name: str) -> str:
    return f".//m:Attribute[@Name='{name}']"


@pytest.mark.parametrize(
    "edit",
    [
        attribute(".", "Version", "1.1"),
        attribute(".", "ID", "6056f97a"),
        text("m:Issuer", "CN=DRIMbox, OU=1750803447, O=AUTRE, ST=Paris (75), C=FR"),
        text("m:Issuer", "not a DN"),
        attribute("m:Issuer", "Format", "urn:other"),
        text("m:Subject/m:NameID", " "),
        lambda a: a.find("m:AuthnStatement", N).attrib.clear(),
        text(".//m:AuthnContextClassRef", "TLSClient"),
        text(_named("VIHF_Version") + "/m:AttributeValue", "2.0"),
        text(_named("Authentification_Mode") + "/m:AttributeValue", "DIRECTE"),
        text(_named("Secteur_Activite") + "/m:AttributeValue", "SA25"),
        text(_named("Ressource_URN") + "/m:AttributeValue", "urn:other"),
        text(_RESOURCE, "162018885045327"),
        *[
            remove(_named(name))
            for name in (
                "VIHF_Version",
                "Authentification_Mode",
                "Identifiant_Structure",
                "Secteur_Activite",
                "Ressource_URN",
                "LPS_Nom",
                "LPS_ID_HOMOLOGATION_DMP",
                "urn:oasis:names:tc:xspa:1.0:subject:subject-id",
                "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse",
                "urn:oasis:names:tc:xacml:2.0:subject:role",
                "urn:oasis:names:tc:xacml:2.0:resource:resource-id",
            )
        ],
        attribute(".//h:PurposeOfUse", "code", "bris_de_glace"),
        attribute(".//h:Role[@code='10']", "codeSystem", "1.2.3"),
    ],
)
def test_vihf_fields(dmp: Bench, edit: Edit) -> None:
    assert dmp.publish(vihf=edit).outcome[0] == "wsse:InvalidSecurityToken"
    assert dmp.state.documents() == []


def test_every_fault_of_the_vihf_is_listed(dmp: Bench) -> None:
    answer = dmp.publish(vihf=both(attribute(".", "Version", "1.1"), remove(_named("LPS_Nom"))))
    assert len(answer.root.findall(".//violation")) == 2


# --- metadata -----------------------------------------------------------------------------------------------


def _repeat(path: str) -> Edit:
    def edit(root: etree._Element) -> None:
        element = one(root, path)
        element.addnext(copy.deepcopy(element))

    return edit


HAS_MEMBER = "//r:Association[@targetObject='DocumentKOS']"
SIGNS = "//r:Association[@sourceObject='Signature01']"


@pytest.mark.parametrize(
    "edit",
    [
        # form
        lambda root: swap(root, KOS + "/r:Name", KOS + "/r:Description"),
        lambda root: one(root, KOS).append(one(root, KOS + "/r:Slot[@name='hash']")),
        lambda root: etree.SubElement(one(root, KOS), f"{{{N['r']}}}Colour"),
        attribute("//r:Classification[@id='cla49']", "classifiedObject", "Signature01"),
        attribute("//r:Classification[@id='cla49']", "id", "cla48"),
        attribute("//r:Classification[@id='cla49']", "classificationScheme", "urn:uuid:0"),
        attribute(KOS, "objectType", "urn:uuid:34268e47-fdf5-41a6-ba33-82133c465248"),
        attribute(KOS, "mimeType", ""),
        remove("//r:Classification[@classificationNode]"),
        _repeat(SET),
        remove(SET),
        _repeat(KOS + "/r:Slot[@name='hash']"),
        remove(KOS + "/r:Slot[@name='hash']/r:ValueList/r:Value"),
        # submission set
        text(slot(SET, "submissionTime"), "2026"),
        attribute(SET_UID, "value", "1.02.3"),
        attribute(SET + UNIQUE % "554ac39e-e3fe-47fe-b233-965d2a147832", "value", "x"),
        remove(coded(SET, "04")),
        remove(SET + "/r:Classification[r:Slot/@name='authorPerson']"),
        # entries
        *[
            remove(f"{KOS}/r:Slot[@name='{name}']")
            for name in (
                "creationTime",
                "languageCode",
                "legalAuthenticator",
                "serviceStartTime",
                "sourcePatientId",
                "hash",
                "size",
                "sourcePatientInfo",
                "urn:ihe:iti:xds:2013:referenceIdList",
            )
        ],
        text(slot(KOS, "serviceStopTime"), "20210104160500+0100"),
        text(slot(KOS, "serviceStartTime"), "20211304"),
        text(slot(KOS, "legalAuthenticator"), "899700367909^DOC^KIT"),
        text(slot(KOS, "sourcePatientId"), "IPP"),
        text(KOS + "/r:Slot[@name='urn:ihe:iti:xds:2013:referenceIdList']//r:Value[1]", "1^^^^urn:other"),
        text(KOS + "/r:Slot[@name='sourcePatientInfo']//r:Value[starts-with(., 'PID-7')]", "PID-19|x"),
        text(KOS + "/r:Classification/r:Slot[@name='authorPerson']//r:Value", "DRIMBox"),
        text(KOS + INSTITUTION, "CENTRE"),
        attribute(KOS + "/r:Name/r:LocalizedString", "value", "x" * 129),
        attribute(KOS, "mimeType", "text/xml"),
        text(slot(KOS, "languageCode"), "en-US"),
        attribute(coded(KOS, "31"), "nodeRepresentation", "10"),
        text(scheme(KOS, "IMG-KOS"), "1.2.3"),
        attribute(coded(KOS, "IMG-KOS"), "nodeRepresentation", "18748-4"),
        text(scheme(KOS, "1.2.840.10008.5.1.4.1.1.88.59"), "1.2.3"),
        remove(coded(KOS, "SA01")),
        remove(coded(KOS, "AMBULATOIRE")),
        remove(coded(KOS, "N")),
        attribute(coded(KOS, "N"), "nodeRepresentation", "MASQUE_PS"),
        text(scheme(KOS, "MR"), "1.2.3"),
        attribute(coded(KOS, "MR") + "/r:Name/r:LocalizedString", "value", ""),
        attribute(KOS + DOC_UID, "value", "1." * 33 + "1"),
        remove(coded(SIG, "MASQUE_PS")),
        remove(coded(SIG, "1.2.840.10065.1.12.1.14")),
        text(slot(SIG, "languageCode"), "fr-FR"),
        # associations
        remove(HAS_MEMBER),
        text(HAS_MEMBER + "//r:Value", "Reference"),
        remove(SIGNS),
        attribute(SIGNS, "associationType", "urn:ihe:iti:2007:AssociationType:APND"),
        attribute(SIGNS, "targetObject", "DocumentKOS"),
    ],
)
def test_metadata(dmp: Bench, edit: Edit) -> None:
    answer = dmp.publish(late=edit)
    assert answer.outcome == ("XDSRegistryMetadataError",) and answer.status == "200 OK"
    assert (
        dmp.state.documents() == []
        and dmp.state.requests()[0]["outcome"] == "Failure XDSRegistryMetadataError"
    )


def test_unique_id_twice_in_the_message(dmp: Bench) -> None:
    message = dmp.message()
    message.late = attribute(SIG + DOC_UID, "value", message.kos_uid)
    assert dmp.post(message.packed()).outcome == ("XDSRegistryDuplicateUniqueIdInMessage",)


def test_every_violation_of_the_metadata_is_reported(dmp: Bench) -> None:
    answer = dmp.publish(late=both(remove(SIGNS), text(slot(KOS, "languageCode"), "en-US")))
    assert len(answer.contexts) == 2


# --- documents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "value"), [(KOS, "hash", "0" * 40), (KOS, "size", "1"), (SIG, "size", "1")]
)
def test_hash_and_size(dmp: Bench, owner: str, name: str, value: str) -> None:
    assert dmp.publish(late=text(slot(owner, name), value)).outcome == ("XDSRepositoryMetadataError",)


def test_document_and_entry_go_together(dmp: Bench) -> None:
    answer = dmp.publish(late=attribute("//x:Document[@id='DocumentKOS']", "id", "documentKOS"))
    assert {"XDSMissingDocument", "XDSMissingDocumentMetadata"} <= set(answer.outcome)


@pytest.mark.parametrize(
    "kos",
    [
        lambda sample: b"no DICOM at all",
        lambda sample: with_uid(sample.kos, "1.2.3.4"),
        lambda sample: sample.kos.replace(b"162018885045327", b"162018885045328"),
        lambda sample: sample.kos[:2000],
    ],
)
def test_manifest_content(dmp: Bench, kos: Callable[[Sample], bytes]) -> None:
    uid = "1.3.2.751468943.3.1234.56838.231114144457.1.1.1"
    outcome = dmp.publish(kos_uid=uid, kos=kos(dmp.sample)).outcome
    assert outcome == ("InvalidDocumentContent",)


@pytest.mark.parametrize(
    "edit",
    [
        text("//d:Manifest/d:Reference[2]/d:DigestValue", base64.b64encode(bytes(32)).decode()),
        text("//d:Manifest/d:Reference[1]/d:DigestValue", base64.b64encode(bytes(32)).decode()),
        attribute("//d:Manifest/d:Reference[2]", "URI", "urn:oid:1.2.3"),
        remove("//d:Manifest/d:Reference[1]"),
        remove("//d:Manifest/d:Reference[2]"),
        remove("//d:SignedInfo/d:Reference[1]"),
        remove("//d:SignedInfo/d:Reference[2]"),
        attribute("//d:SignedInfo/d:Reference[1]", "Type", "urn:other"),
        text("//e:CertDigest/e:DigestValue", "AA=="),
        remove("//e:SigningCertificate"),
        text("//e:SigningTime", "2026-03-02T10:00:00"),
        text("//e:SigningTime", "yesterday"),
        text("//d:SignatureProperty", "1.2.840.10065.1.12.1.1"),
        attribute(".", "Id", "2.25.1"),
        remove("//d:X509Certificate"),
    ],
)
def test_signature_of_the_lot(dmp: Bench, edit: Edit) -> None:
    answer = dmp.publish(lot=edit)
    assert answer.outcome == ("InvalidDocumentContent",)
    assert all(context.startswith("signature of the lot") for context in answer.contexts)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.replace(b"2023-11-14", b"2023-11-15"),
        lambda content: content.replace(b"<SignatureValue>", b"<SignatureValue>AAAA"),
        lambda content: b"not XML",
        lambda content: b"<!DOCTYPE Signature [<!ENTITY a 'b'>]>" + content.partition(b"?>")[2],
        lambda content: b"<a/>",
    ],
)
def test_signature_document_spoiled(dmp: Bench, spoil: Callable[[bytes], bytes]) -> None:
    assert dmp.publish(signature_document=spoil).outcome == ("InvalidDocumentContent",)


def test_signer_of_the_lot_alone_is_wrong(dmp: Bench) -> None:
    message = dmp.message()
    original = message.lot_signature

    def by_another(root: etree._Element) -> bytes:
        good, message.signer = message.signer, _leaf(dmp, "AUTH_CLI")
        content, message.signer = original(root), good
        return content

    message.lot_signature = by_another  # type: ignore[method-assign]
    answer = dmp.post(message.packed())
    assert answer.outcome == ("InvalidDocumentContent",) and "keyUsage" in answer.contexts[0]


# --- the message itself -------------------------------------------------------------------------------------


def test_soap_that_cannot_be_read(dmp: Bench) -> None:
    content_type, body = dmp.message().packed()
    spoiled = {
        "no closing delimiter": body.replace(b"--b0unDary--", b"--b0unDary"),
        "bare line feeds": body.replace(b"\r\n", b"\n"),
        "part without Content-ID": body.replace(b"Content-ID: <0.2>", b"X: y"),
        "unknown encoding": body.replace(
            b"Encoding: binary\r\nContent-ID: <0.2>", b"Encoding: x\r\nContent-ID: <0.2>"
        ),
        "no root part": body.replace(b"Content-ID: <0.1>", b"Content-ID: <0.9>"),
        "unnamed part": body.replace(b"cid:0.2", b"cid:0.7"),
        "root is plain XML": body.replace(b"application/xop+xml; charset", b"text/xml; charset"),
        "not XML": body.replace(b"</soap:Envelope>", b""),
        "document type": body.replace(b"<soap:Envelope ", b"<!DOCTYPE a><soap:Envelope ", 1),
        "same id twice": body.replace(b"Content-ID: <0.3>", b"Content-ID: <0.2>"),
    }
    for what, bad in spoiled.items():
        assert bad != body
        assert (what, dmp.post((content_type, bad)).outcome[0]) == (what, "soap:MalformedMessage")
    assert dmp.state.documents() == [] and len(dmp.state.requests()) == len(spoiled)


def test_soap_1_1_is_refused(dmp: Bench) -> None:
    content_type, body = dmp.message().packed()
    old = body.replace(N["s"].encode(), b"http://schemas.xmlsoap.org/soap/envelope/")
    assert dmp.post((content_type, old)).outcome[0] == "soap:VersionMismatch"


def test_operation_unknown_to_the_service(dmp: Bench) -> None:
    payload = etree.Element("{urn:x}Anything")
    packed = dmp.message().plain(payload, "urn:ihe:iti:2007:RegistryStoredQuery")
    assert dmp.post(packed, REGISTRY).outcome[0] == "soap:MalformedMessage"


def test_http_refusals(dmp: Bench) -> None:
    mtom_type, body = dmp.message().packed()
    soap_type, query = dmp.message().query("('1.2.3')")
    status = {
        "404": dmp.post((mtom_type, body), "/elsewhere"),
        "405": dmp.post((mtom_type, body), REQUEST_METHOD="GET"),
        "411": dmp.post((mtom_type, body), CONTENT_LENGTH=""),
        "413": dmp.post((mtom_type, body), CONTENT_LENGTH=str(2**40)),
    }
    assert {code: answer.status[:3] for code, answer in status.items()} == {code: code for code in status}
    assert dmp.state.requests() == []
    assert dmp.post((soap_type, query)).status[:3] == "415"
    assert dmp.post((mtom_type, body), REGISTRY).status[:3] == "415"
    assert dmp.post(("multipart/related; boundary", body)).status[:3] == "415"
    assert [r["outcome"] for r in dmp.state.requests()] == ["HTTP 415"] * 3


# --- armed faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome", "recorded"),
    [
        ("busy", "XDSRegistryBusy", "Failure XDSRegistryBusy"),
        ("registry_error:XDSUnknownPatientId", "XDSUnknownPatientId", "Failure XDSUnknownPatientId"),
        (
            "soap_fault:DMPInvalidCertificate",
            "soap:DMPInvalidCertificate",
            "Fault soap:DMPInvalidCertificate",
        ),
    ],
)
def test_armed_refusals(dmp: Bench, fault: str, outcome: str, recorded: str) -> None:
    dmp.faults.arm("dmp", fault, 1)
    message = dmp.message()
    answer = dmp.post(message.packed())
    assert answer.outcome[0] == outcome and one(answer.root, "//a:RelatesTo").text == message.message_id
    assert dmp.state.documents() == [] and dmp.state.requests()[0]["outcome"] == recorded
    assert dmp.post(message.packed()).outcome == ("Success",)


def test_armed_refusal_of_a_query(dmp: Bench) -> None:
    dmp.faults.arm("dmp", "busy", 1)
    answer = dmp.post(dmp.message().query("('1.2.3')"), REGISTRY)
    assert (
        answer.outcome == ("XDSRegistryBusy",) and answer.root.find(".//q:AdhocQueryResponse", N) is not None
    )


def test_armed_http_500_and_garbage(dmp: Bench) -> None:
    dmp.faults.arm("dmp", "http_500", 1)
    dmp.faults.arm("dmp", "garbage", 1)
    message = dmp.message()
    broken, garbage = dmp.post(message.packed()), dmp.post(message.packed())
    assert broken.status[:3] == "500" and b"soap" not in broken.body
    assert garbage.status[:3] == "200" and b"Envelope" not in garbage.body
    assert [r["outcome"] for r in dmp.state.requests()] == ["HTTP 500", "Garbage"]
    assert [r["message_id"] for r in dmp.state.requests()] == [message.message_id] * 2
    assert dmp.state.documents() == []


def test_armed_drop_registers_and_cuts(dmp: Bench) -> None:
    dmp.faults.arm("dmp", "drop_before_answer", 1)
    message = dmp.message()
    with pytest.raises(CutConnection):
        dmp.post(message.packed())
    assert dmp.entry(message.kos_uid)["status"] == "Approved"
    assert dmp.state.requests()[0]["outcome"] == "Success (connection cut)"
    assert dmp.post(message.packed()).outcome == ("XDSDuplicateUniqueIdInRegistry",)


def test_armed_timeout_holds_then_cuts(dmp: Bench) -> None:
    bench = Bench(dmp.pki, dmp.state, dmp.faults, dmp.sample, dmp.official, {"hold": 0.05})
    dmp.faults.arm("dmp", "timeout", 1)
    with pytest.raises(CutConnection):
        bench.publish()
    assert dmp.state.documents() == [] and dmp.state.requests()[0]["outcome"] == "No answer"


# --- on real sockets ----------------------------------------------------------------------------------------


def over_tls(
    pki: Pki, port: int, packed: tuple[str, bytes], certificate: str | None = "appliance_auth"
) -> Answer:
    """POST to the repository of a server on the loopback, by mutual TLS."""
    context = ssl.create_default_context(cafile=str(pki.authority))
    if certificate:
        context.load_cert_chain(pki.path(certificate), pki.key(certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        connection.request("POST", REPOSITORY, packed[1], {"Content-Type": packed[0]})
        response = connection.getresponse()
        body = response.read()
        return Answer(f"{response.status}", response.headers["Content-Type"], body)
    finally:
        connection.close()


def test_mutual_tls(dmp: Bench) -> None:
    context = tls_context(dmp.pki.path("dmp_server"), dmp.pki.key("dmp_server"), dmp.pki.authority)
    server = serve_wsgi(dmp.app, "127.0.0.1", 0, context)
    try:
        assert over_tls(dmp.pki, server.port, dmp.message().packed()).outcome == ("Success",)
        answer = over_tls(dmp.pki, server.port, dmp.message().packed(), certificate=None)
        assert answer.outcome == ("wsse:FailedAuthentication", "Certificat client absent")
        dmp.faults.arm("dmp", "drop_before_answer", 1)
        message = dmp.message()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError, ssl.SSLError)):
            over_tls(dmp.pki, server.port, message.packed())
        assert dmp.entry(message.kos_uid)["status"] == "Approved"
    finally:
        server.stop()


def test_a_held_request_ends_when_the_server_stops(dmp: Bench) -> None:
    context = tls_context(dmp.pki.path("dmp_server"), dmp.pki.key("dmp_server"), dmp.pki.authority)
    server = serve_wsgi(dmp.app, "127.0.0.1", 0, context)
    dmp.faults.arm("dmp", "timeout", 1)
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            over_tls(dmp.pki, server.port, dmp.message().packed())
        except (OSError, http.client.HTTPException) as error:
            ended.append(type(error))

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 20
    while not dmp.state.requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    server.stop()
    asking.join(20)
    assert not asking.is_alive() and len(ended) == 1


_SERVE = """
import sys, time
from datetime import datetime
from pathlib import Path
from drimbox.simulators.dmp import DmpSimulator
from drimbox.simulators.dmp_state import DmpState
from drimbox.simulators.faults import Faults
from drimbox.simulators.pki import make_pki
from drimbox.simulators.server import serve_wsgi, tls_context
pki = make_pki(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[3]))
app = DmpSimulator(pki, DmpState(Path(sys.argv[2])), Faults(), lambda: pki.now)
context = tls_context(pki.path("dmp_server"), pki.key("dmp_server"), pki.authority)
print(serve_wsgi(app, "127.0.0.1", 0, context).port, flush=True)
time.sleep(60)
"""


def test_what_was_answered_survives_sigkill(dmp: Bench, tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    command = [sys.executable, "-c", _SERVE, str(dmp.pki.directory), str(path), NOW.isoformat()]
    message = dmp.message()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            answer = over_tls(dmp.pki, int(server.stdout.readline()), message.packed())
        finally:
            server.kill()
    assert answer.outcome == ("Success",)
    state = DmpState(path)
    assert [d["status"] for d in state.documents()] == ["Approved", "Approved"]
    assert state.content(message.kos_uid) == message.kos
    assert [r["outcome"] for r in state.requests()] == ["Success"]
    state.close()
