"""The list publishers: signature recomputed here and by signxml, every fault, CRLs, conditional GET."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import itertools
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml.util import _remove_sig
from signxml.verifier import SignatureConfiguration
from signxml.xades import XAdESVerifier

from drimbox.simulators.faults import Faults
from drimbox.simulators.list_signature import issuer_serial
from drimbox.simulators.lists import (
    CLUSTERS,
    LIST_PATH,
    AnsPublisher,
    BetterStackPublisher,
    ClearPublisher,
)
from drimbox.simulators.pki import Pki
from drimbox.simulators.probe_lists import GROWN
from drimbox.simulators.server import serve_wsgi, tls_context
from fixtures.kept_pki import kept_pki

NS = {
    "l": "https://github.com/ansforge/DRIM-M_DATA",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
    "x": "http://uri.etsi.org/01903/v1.3.2#",
}
FILTER2 = "http://www.w3.org/2002/06/xmldsig-filter2"
EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("ans-world") / "pki")


@pytest.fixture
def publisher(pki: Pki) -> AnsPublisher:
    seconds = itertools.count()
    start = datetime.now(UTC)
    return AnsPublisher(pki, Faults(), lambda: start + timedelta(seconds=next(seconds)))


def c14n(element: etree._Element) -> bytes:
    return etree.tostring(element, method="c14n", exclusive=True, with_tail=False)


def sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Broken(Exception):
    """The test's verifier found the signature broken; the message says where."""


def verified(document: bytes) -> tuple[etree._Element, x509.Certificate]:
    """drim-m-data 2.2, step by step: the signed content and the leaf. Knows nothing of trust."""
    root = etree.fromstring(document)
    signatures = root.findall(".//ds:Signature", NS)
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise Broken("not exactly one signature under the root")
    (signature,) = signatures
    info = signature.find("ds:SignedInfo", NS)
    assert info is not None
    first, second = info.findall("ds:Reference", NS)
    transforms = [t.get("Algorithm") for t in first.findall("ds:Transforms/ds:Transform", NS)]
    xpath = first.find(f".//{{{FILTER2}}}XPath")
    assert xpath is not None
    assert (first.get("URI"), transforms) == ("", [FILTER2, EXC_C14N])
    assert (xpath.get("Filter"), xpath.text) == ("subtract", "/descendant::ds:Signature")
    properties = signature.find(".//x:SignedProperties", NS)
    assert properties is not None
    assert second.get("URI") == "#" + str(properties.get("Id"))
    content = deepcopy(root)
    copy = content.find("ds:Signature", NS)
    assert copy is not None and not copy.tail
    content.remove(copy)
    for reference, octets in ((first, c14n(content)), (second, c14n(properties))):
        if reference.findtext("ds:DigestValue", namespaces=NS) != sha256(octets):
            raise Broken(f"digest of {reference.get('URI')!r}")
    leaf = leaf_of(signature)
    value = base64.b64decode(signature.findtext("ds:SignatureValue", "", NS))
    try:
        leaf.public_key().verify(value, c14n(info), padding.PKCS1v15(), hashes.SHA256())  # type: ignore[union-attr,call-arg,arg-type]
    except InvalidSignature:
        raise Broken("signature value") from None
    return content, leaf


def leaf_of(signature: etree._Element) -> x509.Certificate:
    found = signature.findtext(".//ds:X509Certificate", "", NS)
    return x509.load_der_x509_certificate(base64.b64decode(found))


def hosts(content: etree._Element) -> list[str]:
    return [str(e.text) for e in content.findall(".//l:Domaine/l:db", NS)]


def test_the_list_is_signed_by_the_ans_and_names_both_hosts(publisher: AnsPublisher, pki: Pki) -> None:
    content, leaf = verified(publisher.content().body)
    assert leaf == pki.certificate("list_signer")
    assert content.tag == "{https://github.com/ansforge/DRIM-M_DATA}ListeBlancheDRIM-M"
    assert content.get("versionFormat") == "1.0.0"
    assert hosts(content) == ["drimbox.localhost", "partner.localhost"]
    operator = content.findtext(".//l:DNCertificatOperateur", "", NS)
    assert operator == pki.certificate("appliance_server").subject.rfc4514_string()
    assert [e.tag.partition("}")[2] for e in content.findall("l:ListeDomaines/l:Domaine[1]/*", NS)] == [
        *("Identifiant", "db", "vi", "Denomination", "DNCertificatOperateur", "SupportContact", "DateMAJ")
    ]


def test_signed_properties_name_the_certificate(publisher: AnsPublisher, pki: Pki) -> None:
    root = etree.fromstring(publisher.content().body)
    leaf = pki.certificate("list_signer")
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert root.findtext(".//x:CertDigest/ds:DigestValue", "", NS) == base64.b64encode(
        hashlib.sha512(der).digest()
    ).decode("ascii")
    assert root.findtext(".//x:IssuerSerialV2", "", NS) == base64.b64encode(issuer_serial(leaf)).decode(
        "ascii"
    )
    chain = [leaf_of(root)] + [
        x509.load_der_x509_certificate(base64.b64decode(str(e.text)))
        for e in root.findall(".//ds:X509Certificate", NS)[1:]
    ]
    assert chain == [leaf, pki.certificate("aci"), pki.certificate("root")]
    assert root.findtext(".//x:MimeType", "", NS) == "text/xml"


def test_issuer_serial_is_that_of_the_genuine_list(official: Path) -> None:
    root = etree.parse(official / "whitelist" / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml").getroot()
    genuine = root.findtext(".//x:IssuerSerialV2", "", NS)
    assert base64.b64encode(issuer_serial(leaf_of(root))).decode("ascii") == genuine


def test_the_form_of_the_signature_is_that_of_the_genuine_list(
    publisher: AnsPublisher, official: Path
) -> None:
    """Same elements, in the same order, with the same attributes, algorithms included."""
    genuine = etree.parse(official / "whitelist" / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml").getroot()
    ours = etree.fromstring(publisher.content().body)

    def form(root: etree._Element) -> list[tuple[str, dict[str, str]]]:
        signature = root.find("ds:Signature", NS)
        assert signature is not None
        name = str(signature.get("Id")).removeprefix("id-")
        return [
            (str(e.tag), {str(k): str(v).replace(name, "N") for k, v in e.attrib.items()})
            for e in signature.iter()
        ]

    assert form(ours) == form(genuine)


def test_the_verifier_of_this_test_accepts_the_genuine_list(official: Path) -> None:
    content, leaf = verified((official / "whitelist" / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml").read_bytes())
    assert "Liste Blanche DRIM-M" in leaf.subject.rfc4514_string()
    assert len(hosts(content)) == 17


class Filter2Verifier(XAdESVerifier):  # type: ignore[misc]
    """signxml, taught that this filter means "without the signature" (drim-m-data 2.5)."""

    def _apply_transforms(self, payload: Any, *, transforms_node: Any, signature: Any, **rest: Any) -> Any:
        if transforms_node is not None and transforms_node.find(f".//{{{FILTER2}}}XPath") is not None:
            _remove_sig(signature, idempotent=True)
        return super()._apply_transforms(
            payload, transforms_node=transforms_node, signature=signature, **rest
        )


def test_an_independent_verifier_accepts_the_list(publisher: AnsPublisher, pki: Pki) -> None:
    document = publisher.content().body
    expected = SignatureConfiguration(expect_references=2)
    results = Filter2Verifier().verify(
        document, ca_pem_file=str(pki.authority), expect_config=expected, expect_references=2
    )
    assert results[0].signed_data is not None
    assert b"drimbox.localhost" in results[0].signed_data


def is_revoked(pki: Pki, leaf: x509.Certificate) -> bool:
    return pki.crl().get_revoked_certificate_by_serial_number(leaf.serial_number) is not None


def test_fault_unsigned(publisher: AnsPublisher) -> None:
    root = etree.fromstring(publisher.content("unsigned").body)
    assert root.find(".//ds:Signature", NS) is None
    assert hosts(root) == ["drimbox.localhost", "partner.localhost"]


def test_fault_tampered_changes_one_octet_of_a_host(publisher: AnsPublisher) -> None:
    body = publisher.content("tampered").body
    assert hosts(etree.fromstring(body)) == ["drimbox.localhosx", "partner.localhost"]
    with pytest.raises(Broken, match="digest of ''"):
        verified(body)


def test_fault_wrong_signer_is_another_leaf_of_the_same_authority(publisher: AnsPublisher, pki: Pki) -> None:
    content, leaf = verified(publisher.content("wrong_signer").body)
    leaf.verify_directly_issued_by(pki.certificate("aci"))
    assert leaf.subject != pki.certificate("list_signer").subject
    assert hosts(content)[0] == "drimbox.localhost"


def test_fault_expired_signer_has_the_right_name(publisher: AnsPublisher, pki: Pki) -> None:
    _, leaf = verified(publisher.content("expired_signer").body)
    assert leaf.subject == pki.certificate("list_signer").subject
    assert leaf.not_valid_after_utc < datetime.now(UTC)
    assert not is_revoked(pki, leaf)


def test_fault_revoked_signer_is_in_the_crl(publisher: AnsPublisher, pki: Pki) -> None:
    _, leaf = verified(publisher.content("revoked_signer").body)
    assert leaf.subject == pki.certificate("list_signer").subject
    assert leaf.not_valid_before_utc < datetime.now(UTC) < leaf.not_valid_after_utc
    assert is_revoked(pki, leaf)
    assert not is_revoked(pki, pki.certificate("list_signer"))


def test_fault_without_us_is_a_good_list(publisher: AnsPublisher, pki: Pki) -> None:
    content, leaf = verified(publisher.content("without_us").body)
    assert (hosts(content), leaf) == (["partner.localhost"], pki.certificate("list_signer"))


def test_fault_truncated_is_not_xml(publisher: AnsPublisher) -> None:
    body = publisher.content("truncated").body
    assert body.startswith(b"<?xml")
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(body)


def test_signing_time_never_goes_back(publisher: AnsPublisher) -> None:
    faults = [None, "without_us", None, "wrong_signer", None]
    bodies = [publisher.content(fault).body for fault in faults]
    times = [etree.fromstring(b).findtext(".//x:SigningTime", "", NS) for b in bodies]
    assert times == sorted(set(times)), "made again after each change, always later"
    assert publisher.content().body == bodies[-1], "and not made again without one"


def test_fault_signers_stay_after_a_restart(publisher: AnsPublisher, pki: Pki) -> None:
    before = [pki.certificate(name) for name in ("expired_signer", "revoked_signer")]
    again = AnsPublisher(pki, Faults(), lambda: datetime.now(UTC))
    assert again.content().body
    assert [pki.certificate(name) for name in ("expired_signer", "revoked_signer")] == before


Fetch = Callable[..., requests.Response]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def ans(pki: Pki, faults: Faults) -> Iterator[Fetch]:
    context = tls_context(pki.path("ans_server"), pki.key("ans_server"))
    app = AnsPublisher(pki, faults, lambda: datetime.now(UTC))
    server = serve_wsgi(
        app, "127.0.0.1", 0, context, refuse=lambda: faults.take("ans", "unreachable") is not None
    )
    yield lambda path=LIST_PATH, **headers: requests.get(
        server.url + path, verify=str(pki.authority), headers=headers, timeout=10
    )
    server.stop()


def test_conditional_requests_are_answered_304(ans: Fetch) -> None:
    first = ans()
    assert first.status_code == 200 and first.headers["Content-Type"] == "application/xml"
    same = ans(**{"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert ans(**{"If-Modified-Since": first.headers["Last-Modified"]}).status_code == 304
    assert ans(**{"If-None-Match": '"other"', "If-Modified-Since": first.headers["Last-Modified"]}).content
    assert ans(**{"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}).status_code == 200
    assert ans(**{"If-Modified-Since": "yesterday"}).status_code == 200


def test_a_fault_is_served_even_to_a_conditional_request_and_once(ans: Fetch, faults: Faults) -> None:
    tag = ans().headers["ETag"]
    faults.arm("ans", "without_us", 1)
    assert ans("/elsewhere").status_code == 404
    spoilt = ans(**{"If-None-Match": tag})
    assert hosts(verified(spoilt.content)[0]) == ["partner.localhost"]
    assert hosts(verified(ans().content)[0]) == ["drimbox.localhost", "partner.localhost"]


def test_fault_unreachable_resets_the_connection(ans: Fetch, faults: Faults) -> None:
    faults.arm("ans", "unreachable", 1)
    with pytest.raises(requests.exceptions.ConnectionError):
        ans()
    assert ans().status_code == 200


def test_crls_and_authorities_are_published_in_clear(pki: Pki, publisher: AnsPublisher) -> None:
    server = serve_wsgi(ClearPublisher(pki, lambda: datetime.now(UTC)), "127.0.0.1", 0)
    get = {
        name: requests.get(f"{server.url}/{name}", timeout=10)
        for name in ("CRL/aci.crl", "CRL/root.crl", "AC/aci.cer", "AC/root.cer", "CRL/other.crl")
    }
    posted = requests.post(f"{server.url}/CRL/aci.crl", timeout=10)
    server.stop()
    for name in ("aci", "root"):
        authority = x509.load_der_x509_certificate(get[f"AC/{name}.cer"].content)
        assert authority == pki.certificate(name)
        found = x509.load_der_x509_crl(get[f"CRL/{name}.crl"].content)
        assert found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
        assert found.next_update_utc is not None
        assert found.last_update_utc <= datetime.now(UTC) < found.next_update_utc
    revoked = x509.load_der_x509_crl(get["CRL/aci.crl"].content)
    serial = pki.certificate("revoked_signer").serial_number
    assert revoked.get_revoked_certificate_by_serial_number(serial) is not None
    assert get["CRL/other.crl"].status_code == 404
    assert (posted.status_code, posted.headers["Allow"]) == (405, "GET, HEAD")


@pytest.fixture
def betterstack(pki: Pki, faults: Faults) -> Iterator[Fetch]:
    context = tls_context(pki.path("ans_server"), pki.key("ans_server"))
    app = BetterStackPublisher(faults, datetime.now(UTC))
    server = serve_wsgi(
        app, "127.0.0.1", 0, context, refuse=lambda: faults.take("betterstack", "unreachable") is not None
    )
    yield lambda path, timeout=10, **headers: requests.get(
        server.url + path,
        verify=str(pki.authority),
        headers=headers,
        timeout=timeout,
        allow_redirects=False,
    )
    server.stop()


def test_the_probes_are_listed_in_both_forms(betterstack: Fetch) -> None:
    lines = betterstack("/ips.txt").text.split()
    clusters = betterstack("/ips-by-cluster.json").json()
    assert set(clusters) == {"eu", "us", "as", "au"}
    assert [address for cluster in clusters.values() for address in cluster] == lines
    addresses = [ipaddress.ip_address(line) for line in lines]
    assert [sum(a.version == v for a in addresses) for v in (4, 6)] == [17, 17]
    assert all(a.is_global for a in addresses) and len(set(addresses)) == 34
    assert betterstack("/other").status_code == 404


@pytest.mark.parametrize("path", ["/ips.txt", "/ips-by-cluster.json"])
def test_faults_of_betterstack(betterstack: Fetch, faults: Faults, path: str) -> None:
    good = betterstack(path).content
    faults.arm("betterstack", "empty", 1)
    faults.arm("betterstack", "html", 1)
    faults.arm("betterstack", "unreachable", 1)
    with pytest.raises(requests.exceptions.ConnectionError):
        betterstack(path)
    empty, html, after = (betterstack(path) for _ in range(3))
    assert (empty.status_code, empty.content) == (200, b"")
    assert html.status_code == 200 and html.headers["Content-Type"].startswith("text/html")
    assert after.content == good


def entries(answer: requests.Response) -> list[str]:
    """What an answer lists, in whichever form."""
    if answer.headers["Content-Type"] == "application/json":
        return [entry for cluster in answer.json().values() for entry in cluster]
    return answer.text.split()


GOOD = [address for cluster in CLUSTERS.values() for address in cluster]


@pytest.mark.parametrize("path", ["/ips.txt", "/ips-by-cluster.json"])
@pytest.mark.parametrize(
    ("fault", "listed"),
    [
        ("private", [*GOOD, "10.20.30.40"]),
        ("everyone", [*GOOD, "0.0.0.0/0"]),
        ("shrunk", [a for cluster in CLUSTERS.values() for a in cluster[:2]]),
        ("invalid_lines", [*GOOD, *(f"probe-{n}.example" for n in range(8))]),
        ("too_many", [*GOOD, *(f"2620:4f:8000::1:{n:x}" for n in range(10_000))]),
        ("grown", GOOD + GROWN),
    ],
)
def test_faults_of_the_content_are_in_both_forms(
    betterstack: Fetch, faults: Faults, path: str, fault: str, listed: list[str]
) -> None:
    tag = betterstack(path).headers["ETag"]
    faults.arm("betterstack", fault, 1)
    spoilt = betterstack(path, **{"If-None-Match": tag})
    assert (spoilt.status_code, entries(spoilt)) == (200, listed)
    assert entries(betterstack(path)) == GOOD, "once"


@pytest.mark.parametrize("path", ["/ips.txt", "/ips-by-cluster.json"])
def test_faults_of_the_answer_of_betterstack(betterstack: Fetch, faults: Faults, path: str) -> None:
    for fault in ("http_500", "garbage", "truncated_json", "redirect"):
        faults.arm("betterstack", fault, 1)
    broken, garbage, cut, moved = (betterstack(path) for _ in range(4))
    assert broken.status_code == 500
    assert garbage.status_code == 200
    with pytest.raises(UnicodeDecodeError):
        garbage.content.decode("utf-8")
    assert cut.content.startswith(b'{"eu": [') and not cut.content.endswith(b"}")
    assert (moved.status_code, moved.headers["Location"]) == (302, f"https://elsewhere.invalid{path}")


def test_fault_slow_begins_and_never_ends(betterstack: Fetch, faults: Faults) -> None:
    faults.arm("betterstack", "slow", 1)
    with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
        betterstack("/ips.txt", timeout=0.5)
    assert entries(betterstack("/ips.txt")) == GOOD


def test_the_signer_is_named_as_the_ans_pins_it(pki: Pki) -> None:
    subject = pki.certificate("list_signer").subject
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    found = [subject.get_attributes_for_oid(oid)[0].value for oid in oids]
    assert found == ["Liste Blanche DRIM-M", "318751275100020"]
