"""The assertion: its fields, their order, its signature as an independent verifier sees it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from lxml import etree
from signxml import DigestAlgorithm, SignatureConfiguration, SignatureMethod, XMLVerifier

from drimbox.adapters.signing import RsaSigner
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Professional
from drimbox.domain.vihf import (
    AUTOMATE,
    Role,
    VihfIdentity,
    VihfRefused,
    VihfSettings,
    build_assertion,
    check_identity,
    identity_of,
)
from fixtures.certificates import make_authority, make_leaf

SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
NOW = datetime(2026, 9, 28, 9, 15, 30, 123456, tzinfo=timezone(timedelta(hours=2)))
INS = Ins("279035121518989", "1.2.250.1.213.1.4.10")
SETTINGS = VihfSettings("1.2.3", "DRIMBox", "0.1", "HOMOL-1")
IDENTITY = VihfIdentity(
    name_id="801234560801",
    subject_name="Jacques BIDEAULT",
    structure_id="1750803447",
    sector="SA08",
    patient=INS.cx,
    profession=Role("10", "1.2.250.1.71.1.2.7", "Médecin"),
    know_how=Role("SM44", "1.2.250.1.71.4.2.5", "Radio-diagnostic (SM)"),
)


@pytest.fixture(scope="module")
def signer() -> RsaSigner:
    leaf = make_leaf(make_authority())
    return RsaSigner(leaf.key, leaf.certificate)


def built(signer: RsaSigner, identity: VihfIdentity = IDENTITY, settings: VihfSettings = SETTINGS) -> bytes:
    return build_assertion(identity, settings, assertion_id="_a-1", now=NOW, signer=signer)


def attributes(assertion: bytes) -> list[tuple[str, str]]:
    root = etree.fromstring(assertion)
    return [(a.get("Name", ""), "".join(map(str, a.itertext()))) for a in root.iter(f"{SAML}Attribute")]


def test_fields_in_the_order_of_the_accepted_sample(signer: RsaSigner) -> None:
    assert attributes(built(signer)) == [
        ("VIHF_Version", "3.0"),
        ("Secteur_Activite", "SA08^1.2.250.1.71.4.2.4"),
        ("Ressource_URN", "urn:dmp"),
        ("urn:oasis:names:tc:xspa:1.0:subject:subject-id", "Jacques BIDEAULT"),
        ("Identifiant_Structure", "1750803447"),
        ("LPS_ID", "1.2.3"),
        ("LPS_Nom", "DRIMBox"),
        ("LPS_ID_HOMOLOGATION_DMP", "HOMOL-1"),
        ("LPS_Version", "0.1"),
        (
            "urn:oasis:names:tc:xacml:2.0:resource:resource-id",
            "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH",
        ),
        ("Authentification_Mode", "INDIRECTE"),
        ("urn:oasis:names:tc:xspa:1.0:subject:purposeofuse", ""),
        ("urn:oasis:names:tc:xacml:2.0:subject:role", ""),
    ]


def test_head_of_the_assertion(signer: RsaSigner) -> None:
    root = etree.fromstring(built(signer))
    assert (root.get("ID"), root.get("Version")) == ("_a-1", "2.0")
    assert root.get("IssueInstant") == "2026-09-28T07:15:30.123Z"
    assert [etree.QName(child).localname for child in root] == [
        "Issuer",
        "Signature",
        "Subject",
        "AuthnStatement",
        "AttributeStatement",
    ]
    issuer = root.find(f"{SAML}Issuer")
    assert issuer is not None
    assert issuer.text == "CN=DRIMBox, OU=1750803447, O=CENTRE DE RADIOLOGIE DE TEST, ST=Paris (75), C=FR"
    assert issuer.get("Format") == "urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName"
    assert root.findtext(f"{SAML}Subject/{SAML}NameID") == "801234560801"
    context = root.findtext(f".//{SAML}AuthnContextClassRef")
    assert context == "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient"


def test_coded_values(signer: RsaSigner) -> None:
    root = etree.fromstring(built(signer))
    roles = [
        (r.get("code"), r.get("codeSystem"), r.get("displayName")) for r in root.iter("{urn:hl7-org:v3}Role")
    ]
    assert roles == [
        ("10", "1.2.250.1.71.1.2.7", "Médecin"),
        ("SM44", "1.2.250.1.71.4.2.5", "Radio-diagnostic (SM)"),
    ]
    (purpose,) = root.iter("{urn:hl7-org:v3}PurposeOfUse")
    assert (purpose.get("code"), purpose.get("codeSystem")) == ("normal", "1.2.250.1.213.1.1.4.248")
    assert purpose.get("{http://www.w3.org/2001/XMLSchema-instance}type") == "CE"


def test_signature_is_verified_by_another_library(signer: RsaSigner) -> None:
    wrapped = b'<w xmlns="urn:other" xmlns:x="urn:x">' + built(signer) + b"</w>"
    assertion = etree.fromstring(wrapped)[0]
    config = SignatureConfiguration(
        signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
        location="./",
        require_x509=True,
    )
    result = XMLVerifier().verify(assertion, x509_cert=signer.x509, expect_config=config, id_attribute="ID")
    assert not isinstance(result, list)
    assert result.signed_xml is not None
    assert result.signed_xml.get("ID") == "_a-1"
    embedded = assertion.findtext(f".//{DS}X509Certificate")
    assert embedded is not None
    assert "\n" not in embedded


def test_a_changed_assertion_no_longer_verifies(signer: RsaSigner) -> None:
    changed = built(signer).replace(b"801234560801", b"801234560802")
    with pytest.raises(Exception, match="Digest mismatch"):
        XMLVerifier().verify(etree.fromstring(changed), x509_cert=signer.x509, id_attribute="ID")


def test_sha1_profile_has_the_algorithms_of_the_accepted_sample(signer: RsaSigner) -> None:
    root = etree.fromstring(built(signer, settings=replace(SETTINGS, digest="sha1")))
    algorithms = {
        etree.QName(node).localname: node.get("Algorithm") for node in root.iter() if node.get("Algorithm")
    }
    assert algorithms["SignatureMethod"] == "http://www.w3.org/2000/09/xmldsig#rsa-sha1"
    assert algorithms["DigestMethod"] == "http://www.w3.org/2000/09/xmldsig#sha1"
    assert algorithms["CanonicalizationMethod"] == "http://www.w3.org/2001/10/xml-exc-c14n#"


def test_letter_case_and_context_are_settings(signer: RsaSigner) -> None:
    settings = replace(SETTINGS, mode_attribute="Authentification_mode", authn_context="urn:x")
    assertion = built(signer, settings=settings)
    assert ("Authentification_mode", "INDIRECTE") in attributes(assertion)
    assert b"urn:x</saml2:AuthnContextClassRef>" in assertion


def test_a_secret_connection_is_never_silently_an_ordinary_one(signer: RsaSigner) -> None:
    secret = replace(IDENTITY, secret_connection=True)
    with pytest.raises(VihfRefused, match="secret connection"):
        built(signer, secret)
    configured = replace(SETTINGS, secret_connection_code="X")
    name = "urn:oasis:names:tc:xspa:1.0:resource:patient:hl7:confidentiality-code"
    assert (name, "X") in attributes(built(signer, secret, configured))


@pytest.mark.parametrize("assertion_id", ["1a", "", "a b", "-a"])
def test_the_id_must_be_an_xs_id(signer: RsaSigner, assertion_id: str) -> None:
    with pytest.raises(VihfRefused):
        build_assertion(IDENTITY, SETTINGS, assertion_id=assertion_id, now=NOW, signer=signer)


def test_json_round_trip() -> None:
    assert VihfIdentity.from_json(IDENTITY.to_json()) == IDENTITY
    bare = VihfIdentity("1", "n", "s", "SA08", "p", secret_connection=True)
    assert VihfIdentity.from_json(bare.to_json()) == bare


def a_professional(specialty: Code | None) -> Professional:
    return Professional(
        Identifier("1.2.250.1.71.4.2.1", "801"), "BIDEAULT", "Jacques", specialty, "", None, None
    )


SPECIALTIES = "1.2.250.1.213.1.1.4.5"


@pytest.mark.parametrize(
    ("specialty", "profession", "know_how"),
    [
        (Code("G15_10/SM26", SPECIALTIES, "Médecin - Générale (SM)"), "10", "SM26"),
        (Code("G15_10", SPECIALTIES, "Médecin"), "10", None),
        (Code("G15_98", SPECIALTIES, "x"), "98", None),
        (Code("DISPOSITIF", "1.2.250.1.213.1.1.4.6", "x"), "AUTOMATE", None),
        (None, "AUTOMATE", None),
    ],
)
def test_roles_come_from_the_specialty(specialty: Code | None, profession: str, know_how: str | None) -> None:
    identity = identity_of(a_professional(specialty), structure_id="1", sector="SA08", patient=INS)
    assert identity.profession.code == profession
    assert (identity.know_how.code if identity.know_how else None) == know_how
    if profession == "AUTOMATE":
        assert identity.profession == AUTOMATE


def test_what_is_missing_is_listed() -> None:
    assert check_identity(IDENTITY, INS) == ()
    empty = VihfIdentity("", " ", "", "", "")
    assert {v.where for v in check_identity(empty, INS)} == {
        "VIHF.NameID",
        "VIHF.subject-id",
        "VIHF.Identifiant_Structure",
        "VIHF.Secteur_Activite",
        "VIHF.resource-id",
    }
