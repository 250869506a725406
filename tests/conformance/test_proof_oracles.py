"""Our proofs before other people's verifiers: libxmlsec and stock signxml, schema of XAdES included."""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import signxml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.exceptions import InvalidDigest, InvalidInput, InvalidSignature
from signxml.xades import XAdESSignatureConfiguration, XAdESVerifier

from fixtures.certificates import NOW as ISSUED
from fixtures.certificates import make_authority, make_leaf
from whitelist.chain import Anchors, Crls
from whitelist.proof import NAMESPACE, build_proof, read_proof
from whitelist.proof_rules import evidence_of
from whitelist.trust import examine
from whitelist.xades_signer import KeySigner, issuer_serial

xmlsec = pytest.importorskip("xmlsec")

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ACI = "dc528e3788691b3f7950164076f95b02c64334c68662bdede5750b4e0e5338f6"  # drim-m-data 2.3
ACR = "01325aeb193871eec90fa89556804e4185cb362e0ca87a3d79939c71186da805"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
REFUSALS = (InvalidDigest, InvalidInput, InvalidSignature)


@pytest.fixture(scope="module")
def listed(official: Path) -> bytes:
    return (official / "whitelist" / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml").read_bytes()


@pytest.fixture(scope="module")
def certificates(listed: bytes) -> tuple[x509.Certificate, ...]:
    nodes = etree.fromstring(listed).iter(f"{DS}X509Certificate")
    return tuple(x509.load_der_x509_certificate(b64decode(node.text or "")) for node in nodes)


@pytest.fixture(scope="module")
def anchors(certificates: tuple[x509.Certificate, ...]) -> Anchors:
    """The TEST authorities, believed for their published fingerprints; their CRLs cannot be had offline."""
    _, intermediate, root = certificates
    assert (intermediate.fingerprint(hashes.SHA256()).hex(), root.fingerprint(hashes.SHA256()).hex()) == (
        ACI,
        ACR,
    )
    policies = frozenset({"1.2.250.1.213.1.7.2.1.1.1.1"})
    names = ("Liste Blanche DRIM-M", "318751275100020")
    return Anchors(root, intermediate, *names, policies, "test", crl_policy="prefer")


@pytest.fixture(scope="module")
def editor() -> KeySigner:
    leaf = make_leaf(make_authority(), common_name="Preuve DRIMBox", not_after=ISSUED + timedelta(days=1000))
    return KeySigner(leaf.key, leaf.certificate)


@pytest.fixture(scope="module")
def editor_ec() -> KeySigner:
    authority, key = make_authority(), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Preuve DRIMBox EC")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(ISSUED).not_valid_after(ISSUED + timedelta(days=1000))
    usage = x509.KeyUsage(True, True, False, False, False, False, False, False, False)
    return KeySigner(key, builder.add_extension(usage, critical=True).sign(authority.key, hashes.SHA256()))


def prove(candidate: bytes, anchors: Anchors, signer: KeySigner, **options: str) -> bytes:
    crls = Crls(None, None)
    report = examine(candidate, anchors, crls, at=NOW)
    evidence = evidence_of(report, anchors, crls)
    return build_proof(
        candidate, report, evidence, signer, proof_id="0b1", now=NOW, version="0.3.0", **options  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def proof(listed: bytes, anchors: Anchors, editor: KeySigner) -> bytes:
    return prove(listed, anchors, editor)


def libxmlsec(proof: bytes, certificate: x509.Certificate) -> None:
    root = etree.fromstring(proof, etree.XMLParser(huge_tree=True))
    xmlsec.tree.add_ids(root, ["Id"])
    context = xmlsec.SignatureContext()
    context.key = xmlsec.Key.from_memory(certificate.public_bytes(Encoding.PEM), xmlsec.KeyFormat.CERT_PEM)
    context.verify(root.find(f"{DS}Signature"))


def plain_signxml(proof: bytes, certificate: x509.Certificate) -> list[bytes]:
    configuration = signxml.SignatureConfiguration(location="./", expect_references=2)
    results = signxml.XMLVerifier().verify(proof, x509_cert=certificate, expect_config=configuration)
    return [result.signed_data for result in results]


def xades_signxml(proof: bytes, certificate: x509.Certificate) -> None:
    configuration = XAdESSignatureConfiguration(location="./", expect_references=2, require_x509=True)
    XAdESVerifier().verify(proof, x509_cert=certificate, expect_config=configuration, validate_schema=True)


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_proof_of_the_official_list_verifies_elsewhere(
    digest: str, listed: bytes, anchors: Anchors, editor: KeySigner
) -> None:
    made = prove(listed, anchors, editor, digest=digest)
    contents = read_proof(made)
    assert (contents.valid, contents.document, contents.errors) == (True, listed, ())
    libxmlsec(made, editor.x509)
    signed = plain_signxml(made, editor.x509)
    assert NAMESPACE.encode() in signed[0]
    assert b"SignedProperties" in signed[1]
    xades_signxml(made, editor.x509)


def test_proof_by_an_elliptic_key_verifies_elsewhere(
    listed: bytes, anchors: Anchors, editor_ec: KeySigner
) -> None:
    made = prove(listed, anchors, editor_ec)
    assert b"ecdsa-sha256" in made
    libxmlsec(made, editor_ec.x509)
    xades_signxml(made, editor_ec.x509)


def test_negative_proofs_verify_elsewhere(
    listed: bytes, anchors: Anchors, editor: KeySigner, official: Path
) -> None:
    unsigned = (official / "whitelist" / "LISTEBLANCHE_DRIM-M_NONSIGNEE_TEST.xml").read_bytes()
    former = (official / "whitelist" / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.2025.08.08.xml").read_bytes()
    altered = listed.replace(b"db156", b"db157", 1)
    codes = {}
    for name, candidate in {"unsigned": unsigned, "former": former, "altered": altered}.items():
        made = prove(candidate, anchors, editor)
        libxmlsec(made, editor.x509)
        xades_signxml(made, editor.x509)
        contents = read_proof(made)
        assert (contents.valid, contents.document) == (False, candidate)
        codes[name] = {error.split()[0] for error in contents.errors}
    assert "ERSIGN10" in codes["unsigned"]
    assert codes["former"] == {"ERSIGN05", "DRIMBOX09"}  # expired on 12 September 2026
    assert codes["altered"] == {"ERDOCN01"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"valide:true", "valide:false"),
        (r"rules=DocumentIntact,", "rules="),
        (r"<asip:Signature>PD94", "<asip:Signature>PD95"),
        (r"(<asip:EncapsulatedX509Certificate>.{400})(.)", None),
        (r"SigningTime>2026-11-21T12", "SigningTime>2026-11-21T13"),
        (r"text/xml", "text/xmm"),
        (r"DRIMBox whitelist", "DRIMBox Whitelist"),
        (r"(<ds:SignatureValue[^>]*>.{40})(.)", None),
    ],
)
def test_altered_proof_is_refused_elsewhere(
    proof: bytes, editor: KeySigner, before: str, after: str | None
) -> None:
    def other(found: re.Match[str]) -> str:
        return found[1] + ("A" if found[2] != "A" else "B")

    text, count = re.subn(before, other if after is None else after, proof.decode(), count=1)
    assert count == 1
    with pytest.raises(xmlsec.Error):
        libxmlsec(text.encode(), editor.x509)
    for verify in (plain_signxml, xades_signxml):
        with pytest.raises(REFUSALS):
            verify(text.encode(), editor.x509)


def test_proof_by_another_key_is_refused_elsewhere(proof: bytes) -> None:
    other = make_leaf(make_authority(), common_name="Preuve DRIMBox").certificate
    with pytest.raises(xmlsec.Error):
        libxmlsec(proof, other)
    with pytest.raises(REFUSALS):
        xades_signxml(proof, other)


def test_issuer_serial_is_that_of_the_ans(listed: bytes, certificates: tuple[x509.Certificate, ...]) -> None:
    node = etree.fromstring(listed).find(".//{http://uri.etsi.org/01903/v1.3.2#}IssuerSerialV2")
    assert node is not None
    assert b64decode(node.text or "") == issuer_serial(certificates[0])
