"""Other verifiers on the same lists: libxmlsec, and signxml taught the XPath Filter 2.0 of the list.

They judge the signature alone (steps 3 to 8): the certificate is given to them. The known differences are on the safe
side here (trust-and-identity 3.4): they accept a second signature, that we refuse; they leave a comment in the file for
the caller to trip on, where we read the octets that were digested; signxml does not digest what precedes the root.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml import InvalidInput, SignatureConfiguration, XMLVerifier
from signxml.exceptions import SignXMLException
from signxml.util import _remove_sig

from fixtures.certificates import NOW
from fixtures.list_authorities import (
    POLICY,
    SIGNER_CN,
    SIGNER_OU,
    Authorities,
    Holder,
    make_authorities,
    make_key,
    make_signer,
)
from fixtures.whitelists import EXCLUSIVE, INCLUSIVE, Form, sign_list, write_list
from whitelist.chain import Anchors, Crls
from whitelist.trust import Held, Report, examine

xmlsec = pytest.importorskip("xmlsec")

DS = "http://www.w3.org/2000/09/xmldsig#"
XADES = "http://uri.etsi.org/01903/v1.3.2#"
SUBTRACT = "/descendant::ds:Signature"
Oracle = Callable[[bytes, x509.Certificate], bool]


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return make_authorities()


@pytest.fixture(scope="module")
def signer(authorities: Authorities) -> Holder:
    return make_signer(authorities)


def our_report(candidate: bytes, authorities: Authorities) -> Report:
    anchors = Anchors(
        authorities.root.certificate, authorities.intermediate.certificate,
        SIGNER_CN, SIGNER_OU, frozenset({POLICY}), "test", crl_policy="prefer",
    )  # fmt: skip
    return examine(candidate, anchors, Crls(None, None), at=NOW)


def ours(candidate: bytes, authorities: Authorities) -> bool:
    steps = our_report(candidate, authorities).steps
    return all(step.outcome is Held.HELD for step in steps if 3 <= step.number <= 8)


def by_xmlsec(candidate: bytes, leaf: x509.Certificate) -> bool:
    root = etree.fromstring(candidate)
    signature = xmlsec.tree.find_node(root, xmlsec.constants.NodeSignature)
    for element in root.iter(f"{{{XADES}}}SignedProperties"):
        xmlsec.tree.add_ids(element, ["Id"])
    context = xmlsec.SignatureContext()
    context.key = xmlsec.Key.from_memory(
        leaf.public_bytes(Encoding.PEM), xmlsec.constants.KeyDataFormatCertPem
    )
    try:
        context.verify(signature)
    except xmlsec.Error:
        return False
    return True


class FilterVerifier(XMLVerifier):  # type: ignore[misc]  # signxml has no types here
    """signxml, where "subtract /descendant::ds:Signature" removes the signature (drim-m-data 2.5)."""

    def _apply_transforms(self, payload, *, transforms_node, signature):  # type: ignore[no-untyped-def]
        paths = transforms_node.findall(".//{http://www.w3.org/2002/06/xmldsig-filter2}XPath")
        if [(path.get("Filter"), path.text) for path in paths] == [("subtract", SUBTRACT)]:
            _remove_sig(signature, idempotent=True)
        return super()._apply_transforms(payload, transforms_node=transforms_node, signature=signature)


def by_signxml(candidate: bytes, leaf: x509.Certificate) -> bool:
    config = SignatureConfiguration(expect_references=2, location="./", verification_time=NOW)
    try:
        FilterVerifier().verify(candidate, x509_cert=leaf, expect_config=config)
    except (SignXMLException, InvalidInput, etree.XMLSyntaxError):
        return False
    return True


ORACLES: dict[str, Oracle] = {"xmlsec": by_xmlsec, "signxml": by_signxml}


def flip(mark: bytes, after: int = 0) -> Callable[[bytes], bytes]:
    """Another letter after the mark."""

    def change(signed: bytes) -> bytes:
        at = signed.index(mark) + len(mark) + after
        return signed[:at] + (b"Q" if signed[at : at + 1] != b"Q" else b"R") + signed[at + 1 :]

    return change


SAME: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "as signed": (lambda signed: signed, True),
    "line ends": (lambda signed: signed.replace(b"\n", b"\r\n"), True),
    "serialised again": (lambda signed: etree.tostring(etree.fromstring(signed)), True),
    "folded base64": (
        lambda signed: re.sub(rb'(value-id-1">.{40})', rb"\1\n", signed), True,
    ),
    "host changed": (flip(b"<db>"), False),
    "entry removed": (lambda signed: re.sub(rb"<Domaine>.*?</Domaine>", b"", signed, count=1, flags=re.S), False),
    "entry added": (
        lambda signed: signed.replace(
            b"</ListeDomaines>", b"<Domaine><db>evil.fr</db></Domaine></ListeDomaines>"
        ), False,
    ),
    "white space changed": (lambda signed: signed.replace(b"\n    ", b"\n   ", 1), False),
    "SigningTime changed": (lambda signed: signed.replace(b"SigningTime>2026", b"SigningTime>2025", 1), False),
    "digest changed": (flip(b"DigestValue>", 3), False),
    "value changed": (flip(b'value-id-1">', 3), False),
}  # fmt: skip


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("change", SAME)
def test_same_verdict(authorities: Authorities, signer: Holder, change: str, oracle: str) -> None:
    make, valid = SAME[change]
    candidate = make(sign_list(write_list(), signer, authorities))
    assert ORACLES[oracle](candidate, signer.certificate) is valid
    assert ours(candidate, authorities) is valid


@pytest.mark.parametrize("removal", ["filter2", "enveloped", "xpath"])
@pytest.mark.parametrize("canonicalization", [EXCLUSIVE, INCLUSIVE])
@pytest.mark.parametrize("prefix", ["ds", ""])
def test_forms_by_libxmlsec(
    authorities: Authorities, signer: Holder, removal: str, canonicalization: str, prefix: str
) -> None:
    """Our builder of lists makes what an independent verifier accepts, in every form that we accept."""
    form = Form(removal=removal, canonicalization=canonicalization, prefix=prefix)
    candidate = sign_list(write_list(), signer, authorities, form)
    assert by_xmlsec(candidate, signer.certificate)
    assert ours(candidate, authorities)
    changed = flip(b"<db>")(candidate)
    assert not by_xmlsec(changed, signer.certificate)
    assert not ours(changed, authorities)


@pytest.mark.parametrize(("slot", "method"), [("p256", "ecdsa-sha256"), ("p384", "ecdsa-sha384")])
def test_ecdsa_by_both(authorities: Authorities, slot: str, method: str) -> None:
    holder = make_signer(authorities, key=make_key(slot))
    candidate = sign_list(write_list(), holder, authorities, Form(method=method))
    assert by_xmlsec(candidate, holder.certificate)
    assert by_signxml(candidate, holder.certificate)
    assert ours(candidate, authorities)


def test_stock_signxml_does_not_read_the_form(authorities: Authorities, signer: Holder) -> None:
    """Why the verifier is our own: the filter is ignored, so the digest does not match (drim-m-data 2.5)."""
    candidate = sign_list(write_list(), signer, authorities)
    config = SignatureConfiguration(expect_references=2, location="./", verification_time=NOW)
    with pytest.raises(SignXMLException):
        XMLVerifier().verify(candidate, x509_cert=signer.certificate, expect_config=config)


def test_known_difference_second_signature(authorities: Authorities, signer: Holder) -> None:
    """The filter subtracts every signature, so a second one may hold anything: libxmlsec accepts, we do not."""
    second = f'<s:Signature xmlns:s="{DS}"><Domaine><db>evil.fr</db></Domaine></s:Signature>'.encode()
    signed = sign_list(write_list(), signer, authorities)
    candidate = signed.replace(b"</ds:Signature>", b"</ds:Signature>" + second)
    assert by_xmlsec(candidate, signer.certificate)
    report = our_report(candidate, authorities)
    assert [step.number for step in report.failed] == [3]


def test_known_difference_comment(authorities: Authorities, signer: Holder) -> None:
    """Both say valid; who then reads the file meets `1`, who reads the canonical octets meets `156`."""
    signed = sign_list(write_list(), signer, authorities)
    candidate = signed.replace(b"156</Identifiant>", b"1<!-- x -->56</Identifiant>")
    assert by_xmlsec(candidate, signer.certificate)
    naive = [element.text for element in etree.fromstring(candidate).iter("{*}Identifiant")]
    assert naive[-1] == "1"
    report = our_report(candidate, authorities)
    assert report.accepted
    assert report.trusted is not None
    assert report.trusted.domains[-1].identifier == "156"


def test_known_difference_instruction(authorities: Authorities, signer: Holder) -> None:
    """URI="" is the document, with what precedes its root: signxml digests the root element only."""
    signed = sign_list(write_list(), signer, authorities)
    candidate = signed.replace(b"<Liste", b"<?x y?><Liste", 1)
    assert not by_xmlsec(candidate, signer.certificate)
    assert not ours(candidate, authorities)
    assert by_signxml(candidate, signer.certificate)


def test_official_lists(official: Path) -> None:
    for name in ("LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml", "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.2025.08.08.xml"):
        octets = (official / "whitelist" / name).read_bytes()
        match = re.search(rb"<ds:X509Certificate>([^<]+)<", octets)
        assert match is not None
        pem = b"-----BEGIN CERTIFICATE-----\n" + match[1].strip() + b"\n-----END CERTIFICATE-----\n"
        leaf = x509.load_pem_x509_certificate(pem)
        assert by_xmlsec(octets, leaf)
        changed = octets.replace(b"<db>db3.", b"<db>db9.")
        assert changed != octets
        assert not by_xmlsec(changed, leaf)
