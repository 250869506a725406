"""The signature document: every digest recomputed by steps written from the facts, not by the code under test."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Literal

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from lxml import etree

from drimbox.adapters.signing import RsaSigner
from drimbox.domain.lot_signature import sign_lot
from fixtures.certificates import make_authority, make_leaf

DS = "{http://www.w3.org/2000/09/xmldsig#}"
XA = "{http://uri.etsi.org/01903/v1.1.1#}"
NOW = datetime(2026, 9, 28, 7, 15, 30, 5000, tzinfo=UTC)
KOS = bytes(range(256)) * 3
ALGORITHMS = {
    "sha256": (
        "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
        "http://www.w3.org/2001/04/xmlenc#sha256",
    ),
    "sha1": ("http://www.w3.org/2000/09/xmldsig#rsa-sha1", "http://www.w3.org/2000/09/xmldsig#sha1"),
}


@pytest.fixture(scope="module")
def signer() -> RsaSigner:
    leaf = make_leaf(make_authority())
    return RsaSigner(leaf.key, leaf.certificate)


def signed(signer: RsaSigner, digest: Literal["sha256", "sha1"] = "sha256") -> bytes:
    return sign_lot(
        signature_uid="2.25.222",
        submission_set_uid="1.2.3.42",
        documents=[("2.25.111", KOS)],
        now=NOW,
        digest=digest,
        signer=signer,
    )


def c14n(node: etree._Element, *, with_comments: bool) -> bytes:
    """Inclusive canonical XML of a sub-tree, through ElementTree.write_c14n on a document of its own."""
    alone = etree.ElementTree(etree.fromstring(etree.tostring(node, with_tail=False)))
    return etree.tostring(alone, method="c14n", with_comments=with_comments)


def digest_of(data: bytes, name: str) -> str:
    return b64encode(hashlib.new(name, data).digest()).decode()


@pytest.mark.parametrize("digest", ["sha256", "sha1"])
def test_every_digest_and_the_signature_recompute(
    signer: RsaSigner, digest: Literal["sha256", "sha1"]
) -> None:
    root = etree.fromstring(signed(signer, digest))
    by_id = {node.get("Id"): node for node in root.iter() if node.get("Id")}
    references = root.findall(f"{DS}SignedInfo/{DS}Reference")
    assert [(r.get("URI"), r.get("Type")) for r in references] == [
        ("#IHEManifest", "http://www.w3.org/2000/09/xmldsig#Manifest"),
        ("#S0-SignedProperties", "http://uri.etsi.org/01903/v1.1.1#SignedProperties"),
    ]
    for reference in references:
        assert reference.find(f"{DS}Transforms") is None
        target = by_id[(reference.get("URI") or "")[1:]]
        assert reference.findtext(f"{DS}DigestValue") == digest_of(c14n(target, with_comments=False), digest)
        # the place in the document changes nothing: exclusive and in-place forms agree
        assert etree.tostring(target, method="c14n", exclusive=True) == c14n(target, with_comments=False)
    signed_info = root.find(f"{DS}SignedInfo")
    assert signed_info is not None
    value = b64decode(root.findtext(f"{DS}SignatureValue") or "")
    key = signer.x509.public_key()
    assert isinstance(key, RSAPublicKey)
    algorithm = hashes.SHA256() if digest == "sha256" else hashes.SHA1()
    key.verify(value, c14n(signed_info, with_comments=True), PKCS1v15(), algorithm)
    methods = [node.get("Algorithm") for node in root.iter(f"{DS}SignatureMethod")]
    digests = {node.get("Algorithm") for node in root.iter(f"{DS}DigestMethod", f"{XA}DigestMethod")}
    assert (methods, digests) == ([ALGORITHMS[digest][0]], {ALGORITHMS[digest][1]})


def test_manifest_names_the_set_and_the_document(signer: RsaSigner) -> None:
    root = etree.fromstring(signed(signer))
    manifest = root.find(f"{DS}Object/{DS}Manifest")
    assert manifest is not None
    assert [(r.get("URI"), r.findtext(f"{DS}DigestValue")) for r in manifest] == [
        ("urn:oid:1.2.3.42", "AA=="),
        ("urn:oid:2.25.111", digest_of(KOS, "sha256")),
    ]


def test_properties(signer: RsaSigner) -> None:
    root = etree.fromstring(signed(signer))
    assert root.get("Id") == "2.25.222"
    purpose = root.find(f"{DS}Object/{DS}SignatureProperties/{DS}SignatureProperty")
    assert purpose is not None
    assert (purpose.text, purpose.get("Target")) == ("1.2.840.10065.1.12.1.14", "#2.25.222")
    assert root.findtext(f".//{XA}SigningTime") == "2026-09-28T07:15:30.005Z"
    cert_digest = root.findtext(f".//{XA}CertDigest/{XA}DigestValue")
    assert cert_digest == digest_of(signer.certificate, "sha256")
    assert root.findtext(f".//{DS}X509SerialNumber") == str(signer.serial)
    issuer = root.findtext(f".//{DS}X509IssuerName")
    assert issuer is not None
    assert issuer.startswith("CN=TEST AC ELEMENTAIRE ORGANISATIONS, OU=")
    assert (
        root.findtext(f"{DS}KeyInfo/{DS}X509Data/{DS}X509Certificate")
        == b64encode(signer.certificate).decode()
    )
    assert root.find(f".//{XA}SignaturePolicyImplied") is not None


def test_document_is_xml_with_a_declaration(signer: RsaSigner) -> None:
    assert signed(signer).startswith(b"<?xml version='1.0' encoding='UTF-8'?>\n<Signature xmlns=")
