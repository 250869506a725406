"""Our publication beside the one that a DMP test server accepted (../shared/data/xds), and against the XSDs.

The same facts go in; every difference that comes out is in a table with its reason, and nothing else differs.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path

import pytest
from cryptography import x509
from lxml import etree

from drimbox.adapters.certificate_files import distinguished_name
from drimbox.adapters.signing import RsaSigner
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.mtom import Attachment, package
from drimbox.domain.report import Code, Organization, Patient, Professional, Report, StudyAct, Timestamp
from drimbox.domain.soap import Addressing, envelope, read_answer
from drimbox.domain.vihf import VihfSettings, build_assertion
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml_reader import read_lot
from drimbox.domain.xds.publication import (
    FrozenLot,
    ManifestFacts,
    Publication,
    Publisher,
    XdsOptions,
    freeze_publication,
)
from drimbox.domain.xds.requests import get_documents_request, provide_and_register_request
from drimbox.domain.xds.response import read_registry_answer
from drimbox.domain.xds.withdrawal import freeze_withdrawal
from drimbox.domain.xml_signature import canonical, digest_value
from fixtures.certificates import make_authority, make_leaf

RIM = f"{{{v.RIM}}}"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
XA = "{http://uri.etsi.org/01903/v1.1.1#}"
STUDY = "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.116"
KOS_UID = "1.3.2.751468943.3.1234.56838.231114144457.1.1.1"
SIGNED_AT = datetime(2023, 11, 14, 13, 44, 58, 150000, tzinfo=UTC)
CREATED_AT = datetime(2023, 11, 14, 13, 44, 57, tzinfo=UTC)
LIKE_THE_SAMPLE = XdsOptions(study_reference_authority="1.2.3.4.5.6", utc=False, digest="sha1")


@pytest.fixture(scope="module")
def signer() -> RsaSigner:
    leaf = make_leaf(make_authority(), organizational_unit="499700367909006")
    return RsaSigner(leaf.key, leaf.certificate)


@pytest.fixture(scope="module")
def sample(official: Path) -> etree._Element:
    """The envelope of the accepted message; its XML declaration is not at its start (drim-m-data 5.1)."""
    raw = (official / "xds" / "publication.xml").read_bytes()
    found = re.search(rb"<soap:Envelope.*?</soap:Envelope>", raw, re.DOTALL)
    assert found is not None
    return etree.fromstring(found[0])


@pytest.fixture(scope="module")
def sample_signature(official: Path) -> etree._Element:
    raw = (official / "xds" / "publication.xml").read_bytes()
    found = re.search(rb"<Signature .*?</Signature>", raw, re.DOTALL)
    assert found is not None
    return etree.fromstring(found[0])


def a_time(digits: str) -> Timestamp:
    return Timestamp(digits, datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC))


def same_facts() -> Report:
    doctor = Professional(
        Identifier(v.PS_ID_NAT, "899700367909"),
        "DOC0036790",
        "KIT",
        Code("G15_10/SM26", "1.2.250.1.213.1.1.4.5", "Médecin - Qualifié en Médecine Générale (SM)"),
        "",
        None,
        Organization(Identifier(v.STRUCT_ID_NAT, "499700367909006"), "BCOM"),
    )
    act = StudyAct(
        STUDY,
        None,
        None,
        (Code("MR", v.DCM),),
        (Code("774007", v.SNOMED_CT),),
        a_time("20210104092200"),
        a_time("20210104160500"),
        doctor,
    )
    patient = Patient(
        ins=Ins("162018885045327", "1.2.250.1.213.1.4.10"),
        local_ids=(),
        birth_family="PAT-SIX",
        birth_given="Alain",
        birth_given_list="Alain",
        used_family="",
        used_given="",
        sex="M",
        birth_date="19960124",
        birth_place="51215",
    )
    return Report(
        id=Identifier("1.2.3"),
        set_id="",
        version=1,
        replaces=(),
        code=Code("18748-4", v.LOINC),
        exam_codes=(),
        title="",
        effective_time=a_time("20210104160500"),
        confidentiality=Code("N", v.TRE_A08),
        language="fr-FR",
        level=1,
        patient=patient,
        authors=(doctor,),
        legal_authenticator=doctor,
        orders=(),
        studies=(act,),
        facility=Code("SA01", v.TRE_R02, "Etablissement public de santé"),
        practice_setting=Code("AMBULATOIRE", v.TRE_A01, "Ambulatoire"),
    )


def frozen(official: Path, signer: RsaSigner, options: XdsOptions) -> FrozenLot:
    publication = Publication(
        report=same_facts(),
        study_instance_uid=STUDY,
        kos=(official / "kos" / "publication_KOS.dcm").read_bytes(),
        manifest=ManifestFacts(KOS_UID, CREATED_AT, ("MR",)),
        publisher=Publisher("BCOM", "499700367909006", "899711256811", "ANS", "1.2.250.1.999.1.1.8121"),
        submission_set_uid="1.2.250.1.999.1.1.8121.5.7122",
        signature_uid="2.25.253872960909518376796861585574417771331",
        accessions=(Identifier("1.2.840.113619.6.196", "7252295367250016"),),
        placers=(Identifier("2.16.840.1.113883.6.96", "12989855966"),),
        options=options,
    )
    return freeze_publication(publication, signer=signer, now=SIGNED_AT)


# -- slot by slot ----------------------------------------------------------------------------------------------
def flat(request: etree._Element) -> dict[str, str]:
    """Every statement of a SubmitObjectsRequest as path = value, free of order and of generated ids."""
    found: dict[str, str] = {}
    for node in request.iter(f"{RIM}RegistryPackage", f"{RIM}ExtrinsicObject", f"{RIM}Association"):
        link = node.get("associationType", "").rpartition(":")[2]
        name = f"{link} {node.get('sourceObject')}>{node.get('targetObject')}" if link else node.get("id", "")
        for path, value in _statements(node):
            key = f"{name}/{path}"
            found[key] = f"{found[key]} | {value}" if key in found else value
    return found


def _statements(node: etree._Element) -> Iterator[tuple[str, str]]:
    yield "", etree.QName(node).localname
    for attribute in ("mimeType", "objectType"):
        if node.get(attribute):
            yield f"@{attribute}", node.get(attribute, "")
    for tag in ("Name", "Description"):
        for string in node.findall(f"{RIM}{tag}/{RIM}LocalizedString"):
            yield tag, f"{string.get('value')} {sorted(string.attrib.values())}"
    for slot in node.findall(f"{RIM}Slot"):
        yield f"Slot {slot.get('name')}", " ; ".join(value.text or "" for value in slot.iter(f"{RIM}Value"))
    for child in node.findall(f"{RIM}Classification"):
        scheme = child.get("classificationScheme") or child.get("classificationNode") or ""
        path = f"Classification {scheme[9:17]} {child.get('nodeRepresentation') or ''}".rstrip()
        yield path, str(child.get("classifiedObject"))
        for slot in child.findall(f"{RIM}Slot"):
            yield f"{path} {slot.get('name')}", " ; ".join(x.text or "" for x in slot.iter(f"{RIM}Value"))
        for string in child.findall(f"{RIM}Name/{RIM}LocalizedString"):
            yield f"{path} label", string.get("value", "")
    for child in node.findall(f"{RIM}ExternalIdentifier"):
        path = f"ExternalIdentifier {child.get('identificationScheme', '')[9:17]}"
        yield path, f"{child.get('value')} {child.get('registryObject')}"
        for string in child.findall(f"{RIM}Name/{RIM}LocalizedString"):
            yield f"{path} name", string.get("value", "")


KOS, SIG, SET = "DocumentKOS/", "Signature01/", "SubmissionSet01/"
_NOT_AN_ENTRY_ATTRIBUTE = "submissionTime is no DocumentEntry attribute (cda-and-xds 3.3)"
_JDV = "label of the value set in force (JDV .618, .695, J59)"
_OWN_KEY = "signed by another key: other bytes"
_ORIGINAL = "SubmissionSetStatus belongs to HasMember only (ITI TF-3 4.2.1.4)"
# path: (in the sample, in ours, why)
DIFFERENCES: dict[str, tuple[str | None, str | None, str]] = {
    f"{KOS}Slot submissionTime": ("20231114144458", None, _NOT_AN_ENTRY_ATTRIBUTE),
    f"{SIG}Slot submissionTime": ("20231114144458", None, _NOT_AN_ENTRY_ATTRIBUTE),
    f"{KOS}Slot sourcePatientId": (
        "162018885045327^^^&1.2.250.1.213.1.4.10&ISO^PI",
        "162018885045327^^^&1.2.250.1.213.1.4.10&ISO^NH",
        "an INS is of type NH; PI is for an IPP (cda-and-xds 7, question 6)",
    ),
    f"{KOS}Classification 2c6b8cb7 774007 label": ("structure de la tête et/ou du cou", "tête et cou", _JDV),
    f"{KOS}Classification 2c6b8cb7 MR label": ("Magnetic Resonance", "Résonance magnétique", _JDV),
    f"{SET}Classification aa543740 04": ("SubmissionSet01", None, "04 is a placeholder of the sample"),
    f"{SET}Classification aa543740 04 codingScheme": (v.TRE_R209, None, "placeholder"),
    f"{SET}Classification aa543740 04 label": ("Hospitalisation de jour", None, "placeholder"),
    f"{SET}Classification aa543740 07": (None, "SubmissionSet01", "no PV1-2: outpatient (cda-and-xds 7)"),
    f"{SET}Classification aa543740 07 codingScheme": (None, v.TRE_R209, "same"),
    f"{SET}Classification aa543740 07 label": (None, "Consultation Soins Externes", _JDV),
    f"{SET}Name": (
        "submissionset title ['FR', 'UTF8', 'submissionset title']",
        "Reference d'Objets d'un Examen d'Imagerie "
        "['FR', \"Reference d'Objets d'un Examen d'Imagerie\", 'UTF8']",
        "placeholder",
    ),
    f"{SET}Description": (
        "submissionset comments ['FR', 'UTF8', 'submissionset comments']",
        None,
        "placeholder; comments are optional",
    ),
    f"{SIG}Description": (" ['', 'FR', 'UTF8']", None, "an empty Description says nothing"),
    "signs Signature01>SubmissionSet01/Slot SubmissionSetStatus": ("Original", None, _ORIGINAL),
}
VARIABLE = {f"{SIG}Slot hash": _OWN_KEY, f"{SIG}Slot size": _OWN_KEY}
# with the default options, these too
_UTC, _STUDY = "XDS times are UTC (cda-and-xds 3.5)", "a UID needs no authority (cda-and-xds 7, question 2)"
DEFAULT_DIFFERENCES: dict[str, str] = {
    f"{KOS}Slot creationTime": _UTC,
    f"{SIG}Slot creationTime": _UTC,
    f"{SIG}Slot serviceStartTime": _UTC,
    f"{SIG}Slot serviceStopTime": _UTC,
    f"{SET}Slot submissionTime": _UTC,
    f"{KOS}Slot {v.REFERENCE_ID_LIST}": _STUDY,
    f"{SIG}Slot {v.REFERENCE_ID_LIST}": _STUDY,
}


def difference(sample: etree._Element, ours: FrozenLot) -> dict[str, tuple[str | None, str | None]]:
    request = next(sample.iter(f"{{{v.LCM}}}SubmitObjectsRequest"))
    theirs, mine = flat(request), flat(etree.fromstring(ours.submit_objects_request))
    keys = [*theirs, *(key for key in mine if key not in theirs)]
    return {k: (theirs.get(k), mine.get(k)) for k in keys if theirs.get(k) != mine.get(k)}


def test_metadata_agree_with_the_accepted_publication(
    official: Path, sample: etree._Element, signer: RsaSigner
) -> None:
    found = difference(sample, frozen(official, signer, LIKE_THE_SAMPLE))
    assert set(VARIABLE) <= set(found)
    rest = {key: pair for key, pair in found.items() if key not in VARIABLE}
    assert rest == {key: (theirs, ours) for key, (theirs, ours, _why) in DIFFERENCES.items()}


def test_default_options_differ_by_utc_and_by_the_study_authority_only(
    official: Path, sample: etree._Element, signer: RsaSigner
) -> None:
    found = difference(sample, frozen(official, signer, XdsOptions()))
    assert set(found) == set(DIFFERENCES) | set(VARIABLE) | set(DEFAULT_DIFFERENCES)
    # service times of the CDA (here already UTC) stay; the KOS is the very same document
    assert f"{KOS}Slot hash" not in found
    assert f"{KOS}Slot size" not in found


# -- schemas ---------------------------------------------------------------------------------------------------
def schema(official: Path, name: str) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(official / "xds-xsd" / name))


def message(lot: FrozenLot, signer: RsaSigner, digest: str = "sha256") -> tuple[str, bytes]:
    settings = VihfSettings("1.2.3", "DRIMBox", "0.1", "H-1", digest=digest)  # type: ignore[arg-type]
    assertion = build_assertion(lot.vihf, settings, assertion_id="_1", now=SIGNED_AT, signer=signer)
    parts = (Attachment("kos@drimbox", lot.kos), Attachment("signature@drimbox", lot.signature))
    documents = [("DocumentKOS", "kos@drimbox"), ("Signature01", "signature@drimbox")]
    body = provide_and_register_request(lot.submit_objects_request, documents)
    addressing = Addressing("urn:uuid:1", "https://dmp/repository", v.ITI_41)
    soap = envelope(addressing, assertion=assertion, body=body)
    return package(soap, parts, boundary="drimbox-0123456789abcdef", action=v.ITI_41)


def unpacked(content_type: str, body: bytes) -> tuple[etree._Element, dict[str, bytes]]:
    """Envelope and parts by Content-ID, cut by hand: binary parts must come out byte for byte."""
    boundary = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode()).get_param("boundary")
    pieces = body.split(f"--{boundary}".encode())
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    parts = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb"Content-ID: <(.+)>", head)
        assert name is not None
        parts[name[1].decode()] = content.removesuffix(b"\r\n")
    return etree.fromstring(parts.pop("envelope@drimbox")), parts


def violations(xsd: etree.XMLSchema, document: bytes) -> list[str]:
    """What is wrong with a document by its schema, with the line."""
    return [] if xsd.validate(etree.fromstring(document)) else str(xsd.error_log).splitlines()


def test_message_is_valid_after_xop_resolution(official: Path, signer: RsaSigner) -> None:
    lot = frozen(official, signer, XdsOptions())
    root, parts = unpacked(*message(lot, signer))
    assert parts == {"kos@drimbox": lot.kos, "signature@drimbox": lot.signature}
    request = next(root.iter(f"{{{v.XDS_B}}}ProvideAndRegisterDocumentSetRequest"))
    for document in request.iter(f"{{{v.XDS_B}}}Document"):
        (include,) = document
        document.remove(include)
        document.text = b64encode(parts[include.get("href", "")[4:]]).decode()
    assert violations(schema(official, "XDS.b_DocumentRepository.xsd"), etree.tostring(request)) == []
    ids = {node.get("id") for node in request.iter(f"{RIM}ExtrinsicObject")}
    assert {node.get("id") for node in request.iter(f"{{{v.XDS_B}}}Document")} == ids


def test_replacement_withdrawal_and_query_are_valid(official: Path, signer: RsaSigner) -> None:
    lot = frozen(official, signer, XdsOptions())
    withdrawal = freeze_withdrawal(
        entry_uuid="urn:uuid:3d188b5d-6e2b-4c0a-9a3e-0d6f0b9f3a11",
        patient=lot.patient,
        vihf=lot.vihf,
        publisher=Publisher("BCOM", "499700367909006", "899711256811", "ANS", "1.2.250.1.999.1.1.8121"),
        options=XdsOptions(),
        submission_set_uid="1.2.250.1.999.1.1.8121.5.7123",
        now=SIGNED_AT,
    )
    lcm = schema(official, "lcm.xsd")
    assert violations(lcm, lot.submit_objects_request) == []
    assert violations(lcm, withdrawal.submit_objects_request) == []
    assert violations(schema(official, "query.xsd"), get_documents_request("2.25.1")) == []


def test_assertion_is_valid_saml(official: Path, signer: RsaSigner) -> None:
    root, _ = unpacked(*message(frozen(official, signer, XdsOptions()), signer))
    assertion = next(root.iter(f"{SAML}Assertion"))
    for node in assertion.iter("{urn:hl7-org:v3}*"):
        # CE is a type of the HL7 schemas, which are not in the folder
        del node.attrib["{http://www.w3.org/2001/XMLSchema-instance}type"]
    saml = schema(official, "sstc-saml-schema-assertion-2.0.xsd")
    assert violations(saml, etree.tostring(assertion)) == []


# -- signatures ------------------------------------------------------------------------------------------------
def test_our_canonical_forms_recompute_the_digests_of_the_official_signature(official: Path) -> None:
    path = official / "xdm" / "KA202401" / "IHE_XDM" / "SS000001" / "SIGN_1.XML"
    root = etree.fromstring(path.read_bytes())
    by_id = {node.get("Id"): node for node in root.iter() if node.get("Id")}
    references = root.findall(f"{DS}SignedInfo/{DS}Reference")
    assert len(references) == 2
    for reference in references:
        octets = canonical(by_id[(reference.get("URI") or "")[1:]], exclusive=False)
        assert digest_value(octets, "sha1") == reference.findtext(f"{DS}DigestValue")
    kos = path.with_name("KOS_1_1.DCM").read_bytes()
    assert digest_value(kos, "sha1") in [
        x.text for x in root.findall(f"{DS}Object/{DS}Manifest//{DS}DigestValue")
    ]


def test_our_canonical_form_recomputes_the_digest_of_the_official_assertion(official: Path) -> None:
    path = official / "xdm" / "KA202401" / "IHE_XDM" / "SS000001" / "METADATA.XML"
    found = re.search(rb"<saml2:Assertion.*?</saml2:Assertion>", path.read_bytes(), re.DOTALL)
    if found is None:
        pytest.skip("this copy of METADATA.XML carries no assertion")
    assertion = etree.fromstring(found[0])
    signature = assertion.find(f"{DS}Signature")
    assert signature is not None
    value = signature.findtext(f".//{DS}DigestValue")
    assertion.remove(signature)
    assert digest_value(canonical(assertion, exclusive=True), "sha1") == value


def test_certificate_digest_and_names_are_written_as_in_the_sample(sample_signature: etree._Element) -> None:
    der = b64decode(sample_signature.findtext(f".//{DS}X509Certificate") or "")
    assert digest_value(der, "sha1") == sample_signature.findtext(f".//{XA}CertDigest/{XA}DigestValue")
    certificate = x509.load_der_x509_certificate(der)
    issuer = sample_signature.findtext(f".//{DS}X509IssuerName")
    assert distinguished_name(certificate.issuer) == issuer
    assert str(certificate.serial_number) == sample_signature.findtext(f".//{DS}X509SerialNumber")


def shape(node: etree._Element) -> list[tuple[str, dict[str, str]]]:
    """Elements and constant attributes of a signature, in document order."""
    constant = ("Algorithm", "Type", "Id", "Target")
    return [
        (str(child.tag), {k: str(x) for k, x in child.attrib.items() if k in constant})
        for child in node.iter("*")
    ]


def test_sha1_profile_reproduces_the_signature_document_of_the_sample(
    official: Path, sample_signature: etree._Element, signer: RsaSigner
) -> None:
    ours = etree.fromstring(frozen(official, signer, LIKE_THE_SAMPLE).signature)
    assert shape(ours) == shape(sample_signature)
    manifests = [
        [
            (r.get("URI"), r.findtext(f"{DS}DigestValue"))
            for r in root.iterfind(f"{DS}Object/{DS}Manifest/{DS}Reference")
        ]
        for root in (ours, sample_signature)
    ]
    assert manifests[0] == manifests[1]


ASSERTION_DIFFERENCES = {
    "urn:oasis:names:tc:xspa:1.0:subject:subject-id": "the acting professional, not the patient (dmp-kos-xds 3.1)",
    "Secteur_Activite": "of the report's facility; the sample's report and VIHF disagree (SA01, SA25)",
}
MASKED = {"Identifiant_Structure", "LPS_ID", "LPS_Nom", "LPS_ID_HOMOLOGATION_DMP", "LPS_Version"}


def test_sha1_profile_reproduces_the_assertion_of_the_sample(
    official: Path, sample: etree._Element, signer: RsaSigner
) -> None:
    root, _ = unpacked(*message(frozen(official, signer, LIKE_THE_SAMPLE), signer, "sha1"))
    ours, theirs = (next(tree.iter(f"{SAML}Assertion")) for tree in (root, sample))

    def tags(assertion: etree._Element) -> list[tuple[str, str | None]]:
        return [(str(node.tag), node.get("Algorithm")) for node in assertion.iter("*")]

    assert tags(ours) == tags(theirs)
    pairs = [
        [(a.get("Name"), "".join(map(str, a.itertext())).strip()) for a in tree.iter(f"{SAML}Attribute")]
        for tree in (ours, theirs)
    ]
    assert [name for name, _ in pairs[0]] == [name for name, _ in pairs[1]]
    differing = {a[0] for a, b in zip(*pairs, strict=True) if a != b} - MASKED
    assert differing == set(ASSERTION_DIFFERENCES)
    roles = [[r.get("code") for r in tree.iter("{urn:hl7-org:v3}Role")] for tree in (ours, theirs)]
    assert roles[0] == roles[1] == ["10", "SM26"]
    assert ours.findtext(f".//{SAML}NameID") == theirs.findtext(f".//{SAML}NameID")


# -- reading ---------------------------------------------------------------------------------------------------
def test_the_dmp_s_answer_is_read(official: Path, sample: etree._Element) -> None:
    answer = read_answer("", (official / "xds" / "response.xml").read_bytes())
    assert answer.relates_to == sample.findtext(".//{http://www.w3.org/2005/08/addressing}MessageID")
    assert answer.body is not None
    assert read_registry_answer(answer.body).success


def test_the_accepted_lot_is_read_though_its_slots_are_misplaced(sample: etree._Element) -> None:
    lot = read_lot(etree.tostring(sample))
    assert [entry.id for entry in lot.entries] == ["DocumentKOS", "Signature01"]
    kos = lot.entries[0]
    assert (kos.unique_id, kos.size, len(kos.reference_id_list)) == (KOS_UID, 8450, 3)
    assert [c.code for c in kos.event_codes] == ["774007", "MR"]
    assert lot.submission_set.unique_id == "1.2.250.1.999.1.1.8121.5.7122"
