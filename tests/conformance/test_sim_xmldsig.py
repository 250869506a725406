"""The simulators' signature verifier against others: the official signature's digests, signxml as signer."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree
from signxml import CanonicalizationMethod, DigestAlgorithm, SignatureMethod, XMLSigner

from drimbox.simulators import xmldsig
from drimbox.simulators.pki import Pki
from drimbox.simulators.xmldsig import DS, BadSignatureError, verify
from fixtures.kept_pki import kept_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("pki"))


def signed(pki: Pki, method: CanonicalizationMethod) -> etree._Element:
    root = etree.fromstring('<a:r xmlns:a="urn:a" xmlns="urn:d" ID="_1"><!-- c --><b a:x="1">é</b></a:r>')
    signer = XMLSigner(
        signature_algorithm=SignatureMethod.RSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        c14n_algorithm=method,
    )
    done = signer.sign(
        root,
        key=pki.key("appliance_sign").read_bytes(),
        cert=pki.path("appliance_sign").read_text("ascii"),
        reference_uri="_1",
    )
    # In a context of its own, as an assertion in its envelope.
    outer = etree.fromstring(b'<o xmlns="urn:o" xmlns:z="urn:z"><inside/></o>')
    if method is CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0:
        outer[0].append(etree.fromstring(etree.tostring(done)))
        return outer
    return etree.fromstring(etree.tostring(done))


@pytest.mark.parametrize(
    "method",
    [
        CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
        CanonicalizationMethod.CANONICAL_XML_1_0,
        CanonicalizationMethod.CANONICAL_XML_1_0_WITH_COMMENTS,
    ],
)
def test_signatures_of_signxml_hold_until_touched(pki: Pki, method: CanonicalizationMethod) -> None:
    root = signed(pki, method)
    signature = next(root.iter(f"{{{DS}}}Signature"))
    verified = verify(signature)
    assert verified.certificate == pki.certificate("appliance_sign")
    assert verified.references[0].element.get("ID") == "_1"
    next(root.iter("{urn:d}b")).text = "e"
    with pytest.raises(BadSignatureError, match="digest"):
        verify(signature)


def test_official_digests_recompute(official: Path) -> None:
    """Both references of the published signature document (its certificate is masked, its value is not ours)."""
    (path,) = (official / "xdm").rglob("SIGN_1.XML")
    signature = etree.fromstring(path.read_bytes())
    references = signature.findall(f"{{{DS}}}SignedInfo/{{{DS}}}Reference")
    assert len(references) == 2
    for reference in references:
        element = xmldsig._target(signature, reference.get("URI", ""))
        computed = xmldsig.digest(xmldsig.canonical(element, xmldsig.C14N), DS + "sha1", accept_sha1=True)
        value = reference.find(f"{{{DS}}}DigestValue")
        assert value is not None and computed == xmldsig.base64_of(value)


def test_sha1_is_refused_unless_asked_for() -> None:
    with pytest.raises(BadSignatureError, match="sha1 is not allowed"):
        xmldsig.digest(b"", DS + "sha1", accept_sha1=False)
    with pytest.raises(BadSignatureError, match="not allowed"):
        xmldsig.canonical(etree.fromstring("<a/>"), "urn:other")
