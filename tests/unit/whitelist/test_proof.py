"""The proof of a verification: shape of ASIPProof, rules from steps, signature, what is refused."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from fixtures.certificates import NOW, Credential, make_authority, make_leaf
from whitelist.bundle_texts import report_text
from whitelist.document import TrustedList
from whitelist.proof import NAME, NAMESPACE, Request, build_proof, check_proof, name_text, read_proof
from whitelist.proof_rules import RULES, Evidence, errors_of, judge_rules
from whitelist.trust import Held, Report, Step
from whitelist.verdict import NoVerdict, Verdict, VerdictError, combine, read_verdict, verdict_step
from whitelist.xades_signer import KeySigner, ProofRefused, issuer_serial

CANDIDATE = "<ListeBlancheDRIM-M>Côte-d'Or</ListeBlancheDRIM-M>".encode()
PROOF_ID = "7b0ce1f4-5c0f-4e53-9d4c-3a1e6f6f0a11"
P = {"p": NAMESPACE, "ds": "http://www.w3.org/2000/09/xmldsig#", "xades": "http://uri.etsi.org/01903/v1.3.2#"}


@pytest.fixture(scope="module")
def leaf() -> x509.Certificate:
    return make_leaf(make_authority(), common_name="Liste Blanche DRIM-M").certificate


@pytest.fixture(scope="module")
def editor() -> Credential:
    return make_leaf(make_authority(), common_name="Preuve DRIMBox")


@pytest.fixture(scope="module")
def crl() -> x509.CertificateRevocationList:
    authority = make_authority()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(NOW - timedelta(days=1)).next_update(NOW + timedelta(days=5))
    return builder.sign(authority.key, hashes.SHA256())


@pytest.fixture(scope="module")
def evidence(leaf: x509.Certificate, crl: x509.CertificateRevocationList) -> Evidence:
    root = make_authority("TEST AC RACINE").certificate
    return Evidence(leaf, (make_authority().certificate, root), (crl,))


def report(leaf: x509.Certificate | None, *failed: int, candidate: bytes = CANDIDATE, **why: str) -> Report:
    """A report whose fourteen steps held, but those in `failed`; `why`: reason by `step<number>`."""
    steps = tuple(
        Step(n, f"step {n}", Held.FAILED if n in failed else Held.HELD, why.get(f"step{n}", f"reason {n}"))
        for n in range(1, 15)
    )
    trusted = None if failed else TrustedList("ns", "1.0.0", NOW, ())
    return Report(NOW, hashlib.sha256(candidate).hexdigest(), steps, trusted, None, leaf, NOW)


def signer(credential: Credential) -> KeySigner:
    return KeySigner(credential.key, credential.certificate)


def proof_of(judged: Report, evidence: Evidence, editor: Credential, **changes: object) -> bytes:
    arguments: dict[str, object] = {"proof_id": PROOF_ID, "now": NOW, "version": "0.3.1"}
    return build_proof(CANDIDATE, judged, evidence, signer(editor), **(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def proof(leaf: x509.Certificate, evidence: Evidence, editor: Credential) -> bytes:
    return proof_of(report(leaf), evidence, editor)


def text(proof: bytes, path: str) -> str:
    found = etree.fromstring(proof).findall(path, P)
    assert len(found) == 1, path
    return found[0].text or ""


# --- the shape of 4.5


def test_proof_has_the_elements_of_asip_proof(proof: bytes) -> None:
    root = etree.fromstring(proof)
    assert root.get("{http://www.w3.org/XML/1998/namespace}id") == "ASIP_Proof"
    names = [etree.QName(child).localname for child in root]
    assert names == ["ASIPProofInfo", "Configuration", "RequestInfo", "Processing", "Signature"]
    said = {
        "p:ASIPProofInfo/p:Version/p:Name": NAME,
        "p:ASIPProofInfo/p:Version/p:Major": "0.3",
        "p:ASIPProofInfo/p:Version/p:Minor": "1",
        "p:ASIPProofInfo/p:Version/p:Full": "0.3.1",
        "p:ASIPProofInfo/p:ProofId": PROOF_ID,
        "p:ASIPProofInfo/p:CreationTime": "2026-10-01T12:00:00+00:00",
        "p:RequestInfo/p:RequestType": "VerifSign",
        "p:RequestInfo/p:RequestId": PROOF_ID,
        "p:RequestInfo/p:Tag": "liste-blanche",
        "p:RequestInfo/p:ApplicantId": "",
        "p:Processing/p:OpName": "drimbox whitelist verify",
        "p:Processing/p:OpStatus": "valide:true",
        "p:Processing/p:ASIPDetailedStatus/p:Type": "XAdES-BASELINE-B Signature",
        "p:Processing/p:ASIPDetailedStatus/p:OpErrorResponse": "",
    }
    assert {path: text(proof, path) for path in said} == said
    assert "ASIP" not in NAME  # never the name of the ANS component


def test_proof_holds_the_whole_document(proof: bytes) -> None:
    assert b64decode(text(proof, "p:RequestInfo/p:Signature")) == CANDIDATE
    assert read_proof(proof).document == CANDIDATE


def test_request_is_told(leaf: x509.Certificate, evidence: Evidence, editor: Credential) -> None:
    asked = Request("REQ-1", "homologation", "db156")
    made = proof_of(report(leaf), evidence, editor, request=asked)
    told = (text(made, f"p:RequestInfo/p:{name}") for name in ("RequestId", "Tag", "ApplicantId"))
    assert tuple(told) == ("REQ-1", "homologation", "db156")


def test_proof_holds_what_was_really_used(
    proof: bytes, leaf: x509.Certificate, evidence: Evidence, crl: x509.CertificateRevocationList
) -> None:
    data = etree.fromstring(proof).find("p:Processing/p:ValidationData", P)
    assert data is not None
    held = [b64decode(node.text or "") for node in data.iterfind(".//p:EncapsulatedX509Certificate", P)]
    used = (leaf, *evidence.anchors)
    assert held == [certificate.public_bytes(Encoding.DER) for certificate in used]
    revoked = [b64decode(node.text or "") for node in data.iterfind(".//p:EncapsulatedCRLValue", P)]
    assert revoked == [crl.public_bytes(Encoding.DER)]
    digests = [node.text for node in data.iterfind(".//p:DigestValue", P)]
    octets = [*held, *revoked]
    assert digests == [b64encode(hashlib.sha256(one).digest()).decode() for one in octets]
    serials = [node.text for node in data.iterfind(".//p:X509SerialNumber", P)]
    assert serials == [str(certificate.serial_number) for certificate in used]
    assert text(proof, ".//p:CRLIdentifier/p:IssueTime") == "2026-09-30T12:00:00+00:00"
    subject = text(proof, "p:Processing/p:ASIPDetailedStatus/p:X509SubjectName")
    assert subject == leaf.subject.rfc4514_string()


def test_refused_list_gets_a_proof(evidence: Evidence, leaf: x509.Certificate, editor: Credential) -> None:
    refused = report(leaf, 6, step6="the digest; differs")
    contents = read_proof(proof_of(refused, evidence, editor))
    assert not contents.valid
    assert contents.errors == ("ERDOCN01 DocumentIntact : étape 6 : the digest, differs",)


def test_file_that_is_no_list_gets_a_proof(editor: Credential) -> None:
    steps = tuple(
        Step(n, "t", Held.FAILED if n == 2 else Held.SKIPPED, "not judged" if n != 2 else "not XML")
        for n in range(1, 14)
    )
    octets = b"\x00\xff not XML at all"
    judged = Report(NOW, hashlib.sha256(octets).hexdigest(), steps, None, None, None, None)
    proof = build_proof(octets, judged, Evidence(), signer(editor), proof_id=PROOF_ID, now=NOW, version="1.0")
    contents = check_proof(proof, certificate=editor.certificate, candidate=octets)
    assert contents.errors == ("ERSIGN11 SyntaxeDocument : étape 2 : not XML",)
    assert text(proof, "p:Processing/p:ASIPDetailedStatus/p:X509Certificate") == ""


def test_subject_that_xml_cannot_hold_is_escaped(editor: Credential) -> None:
    odd = make_leaf(make_authority(), common_name="a\x01b\ufffe").certificate
    made = proof_of(report(odd), Evidence(odd), editor)
    assert "CN=a\\01b\\EF\\BF\\BE" in text(made, "p:Processing/p:ASIPDetailedStatus/p:X509SubjectName")


def test_name_that_cannot_be_read_is_said() -> None:
    def unreadable() -> x509.Name:
        raise ValueError("invalid UTF-8")

    assert name_text(unreadable) == "(nom illisible)"


# --- the rules of 4.3 from the steps of 3.5


def test_rules_of_esignsante_come_first_and_by_name(proof: bytes) -> None:
    rules = text(proof, "p:Configuration").removeprefix("rules=").split(",")
    assert rules[:11] == [
        "DocumentIntact", "SignatureIntacte", "SignatureCertificatValide", "TrustedCertificat",
        "ExistenceDuCertificatDeSignature", "ExpirationCertificat", "RevocationCertificat", "NonRepudiation",
        "FormatSignature", "ExistenceBaliseSigningTime", "SignatureNonVide",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "codes"),
    [
        (1, ["DRIMBOX01"]), (2, ["ERSIGN11"]), (3, ["ERSIGN10"]), (4, ["ERSIGN07"]), (5, ["ERSIGN07"]),
        (6, ["ERDOCN01"]), (7, ["DRIMBOX07"]), (8, ["ERSIGN08"]), (9, ["DRIMBOX09"]), (10, ["DRIMBOX10"]),
        (11, ["ERSIGN04"]), (12, ["DRIMBOX12"]), (13, ["DRIMBOX13"]), (14, ["DRIMBOX14"]),
    ],
)  # fmt: skip
def test_each_failed_step_is_told_by_its_rules(
    step: int, codes: list[str], leaf: x509.Certificate, evidence: Evidence
) -> None:
    errors = errors_of(judge_rules(report(leaf, step), evidence))
    assert [error.split()[0] for error in errors] == codes


def codes_of(judged: Report, evidence: Evidence) -> list[str]:
    return [error.split()[0] for error in errors_of(judge_rules(judged, evidence))]


def test_expired_signer_is_told_as_such(evidence: Evidence) -> None:
    ended = NOW - timedelta(days=1)
    expired = make_leaf(make_authority(), not_after=ended).certificate
    assert codes_of(report(expired, 9), replace(evidence, leaf=expired)) == ["ERSIGN05", "DRIMBOX09"]


def test_foreign_authority_is_told_as_such(evidence: Evidence) -> None:
    foreign = make_leaf(make_authority("TEST AUTRE")).certificate
    codes = codes_of(report(foreign, 9), replace(evidence, leaf=foreign))
    assert codes == ["ERSIGN02", "ERSIGN02", "DRIMBOX09"]


def test_wrong_key_usage_is_told_as_such(evidence: Evidence) -> None:
    wrong = make_leaf(make_authority(), usages=("key_encipherment",)).certificate
    assert codes_of(report(wrong, 9), replace(evidence, leaf=wrong)) == ["ERSIGN06", "DRIMBOX09"]


def test_missing_certificate_and_time_are_told_as_such(evidence: Evidence) -> None:
    judged = replace(report(None, 7, 8), signed_at=None)
    codes = codes_of(judged, replace(evidence, leaf=None))
    assert codes == ["ERSIGN08", "ERSIGN01", "ERSIGN09", "DRIMBOX07"]


def test_rules_that_could_not_be_judged_are_no_errors(leaf: x509.Certificate, evidence: Evidence) -> None:
    judged = report(leaf)
    steps = tuple(replace(s, outcome=Held.SKIPPED) if s.number == 7 else s for s in judged.steps)
    results = judge_rules(replace(judged, steps=steps), evidence)
    skipped = {result.rule.name for result in results if result.outcome is Held.SKIPPED}
    assert skipped == {"ExistenceDuCertificatDeSignature", "ExistenceBaliseSigningTime", "ProprietesSignees"}
    assert errors_of(results) == ()


def test_every_step_of_the_procedure_has_a_rule() -> None:
    assert {number for rule in RULES for number in rule.steps} == set(range(1, 16))
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_report_for_a_tester_is_in_french(leaf: x509.Certificate, evidence: Evidence) -> None:
    judged = report(leaf, 10, step10="CN is 'x\x1b[31m'")
    lines = report_text(judged, judge_rules(judged, evidence))
    assert "Verdict           REFUSÉE" in lines
    assert "    10  ÉCHEC" in lines
    assert "DRIMBOX10 : étape 10" in lines
    assert "\x1b" not in lines
    assert max(map(len, lines.splitlines())) <= 110


# --- the signature of 4.6


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_signature_follows_the_template(
    digest: str, leaf: x509.Certificate, evidence: Evidence, editor: Credential
) -> None:
    made = proof_of(report(leaf), evidence, editor, digest=digest)
    root = etree.fromstring(made)
    methods = {node.get("Algorithm") for node in root.iterfind(".//ds:Reference/ds:DigestMethod", P)}
    assert methods == {f"http://www.w3.org/2001/04/xmlenc#{digest}"}
    transforms = [node.get("Algorithm", "") for node in root.iterfind(".//ds:Transform", P)]
    assert [name.rpartition("#")[2] or name for name in transforms[:1]] == ["enveloped-signature"]
    assert transforms[1:] == ["http://www.w3.org/2001/10/xml-exc-c14n#"] * 2
    assert text(made, ".//xades:SigningTime") == "2026-10-01T12:00:00Z"
    fingerprint = b64encode(editor.certificate.fingerprint(hashes.SHA512())).decode()
    assert text(made, ".//xades:CertDigest/ds:DigestValue") == fingerprint
    form = root.find(".//xades:DataObjectFormat", P)
    first = root.find(".//ds:Reference", P)
    assert form is not None
    assert first is not None
    assert form.get("ObjectReference") == f"#{first.get('Id')}"
    check_proof(made, certificate=editor.certificate, candidate=CANDIDATE)


def test_same_inputs_give_the_same_octets(
    proof: bytes, leaf: x509.Certificate, evidence: Evidence, editor: Credential
) -> None:
    assert proof_of(report(leaf), evidence, editor) == proof


def elliptic(curve: ec.EllipticCurve) -> KeySigner:
    authority = make_authority()
    key = ec.generate_private_key(curve)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Preuve EC")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    bits = ("key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, encipher_only=False, decipher_only=False,
        **dict.fromkeys(bits, False),
    )  # fmt: skip
    return KeySigner(key, builder.add_extension(usage, critical=True).sign(authority.key, hashes.SHA256()))


@pytest.mark.parametrize(
    ("curve", "method"),
    [(ec.SECP256R1(), "ecdsa-sha256"), (ec.SECP384R1(), "ecdsa-sha384"), (ec.SECP521R1(), "ecdsa-sha512")],
)
def test_elliptic_curves_sign_too(
    curve: ec.EllipticCurve, method: str, leaf: x509.Certificate, evidence: Evidence
) -> None:
    own = elliptic(curve)
    made = build_proof(CANDIDATE, report(leaf), evidence, own, proof_id=PROOF_ID, now=NOW, version="1")
    node = etree.fromstring(made).find(".//ds:SignatureMethod", P)
    assert node is not None
    assert node.get("Algorithm") == f"http://www.w3.org/2001/04/xmldsig-more#{method}"
    assert check_proof(made, certificate=own.x509).valid


def test_issuer_serial_is_der(editor: Credential) -> None:
    octets = issuer_serial(editor.certificate)
    name = editor.certificate.issuer.public_bytes()
    assert octets[0] == 0x30
    assert name in octets
    serial = editor.certificate.serial_number
    assert octets.endswith(serial.to_bytes(octets[octets.index(name) + len(name) + 1], "big"))


# --- refusals


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"valide:true", b"valide:false"),
        (b"rules=DocumentIntact", b"rules=documentIntact"),
        (b"2026-10-01T12:00:00Z", b"2026-10-01T12:00:01Z"),
        (b"DRIMBox whitelist<", b"Composant de Signature ASIP<"),
        (b"rsa-sha256", b"rsa-sha384"),
        (b"enveloped-signature", b"enveloped-Signature"),
        (b'URI=""', b'URI="#ASIP_Proof"'),
        (b"</ds:Signature>", b"</ds:Signature> "),
        (b"<asip:Configuration>", b"<asip:Configuration><!-- x -->"),
        (b"<ds:KeyInfo>", b"<ds:KeyInfo><?x y?>"),
        (b"?>\n<asip", b'?>\n<!DOCTYPE x [<!ENTITY e "f">]><asip'),
    ],
)
def test_altered_proof_is_refused(proof: bytes, editor: Credential, before: bytes, after: bytes) -> None:
    assert before in proof
    with pytest.raises(ProofRefused):
        check_proof(proof.replace(before, after), certificate=editor.certificate)


def test_second_signature_is_refused(proof: bytes, editor: Credential) -> None:
    root = etree.fromstring(proof)
    root.insert(0, etree.fromstring(etree.tostring(root[-1])))
    with pytest.raises(ProofRefused, match="one signature"):
        check_proof(etree.tostring(root), certificate=editor.certificate)


def test_truncated_proof_is_refused(proof: bytes, editor: Credential) -> None:
    with pytest.raises(ProofRefused, match="well-formed"):
        check_proof(proof[:-20], certificate=editor.certificate)


def test_proof_by_another_certificate_is_refused(proof: bytes) -> None:
    other = make_leaf(make_authority(), common_name="Preuve DRIMBox").certificate
    with pytest.raises(ProofRefused) as refusal:
        check_proof(proof, certificate=other)
    assert len(refusal.value.faults) >= 3  # KeyInfo, SigningCertificateV2, value: all of them


def test_proof_about_another_document_is_refused(proof: bytes, editor: Credential) -> None:
    with pytest.raises(ProofRefused, match="another document"):
        check_proof(proof, certificate=editor.certificate, candidate=CANDIDATE + b" ")


def test_key_that_is_not_the_certificates_makes_no_proof(
    leaf: x509.Certificate, evidence: Evidence, editor: Credential
) -> None:
    mixed = KeySigner(make_leaf(make_authority()).key, editor.certificate)
    with pytest.raises(ProofRefused, match="SignatureValue"):
        build_proof(CANDIDATE, report(leaf), evidence, mixed, proof_id=PROOF_ID, now=NOW, version="1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"not_after": NOW - timedelta(days=1)}, "is expired: valid until 2026-09-30"),
        ({"not_before": NOW + timedelta(days=1)}, "not yet valid: valid from 2026-10-02"),
        (
            {"usages": ("key_encipherment",)},
            "lacks digitalSignature; the proof certificate's keyUsage lacks non",
        ),
    ],
)
def test_certificate_that_may_not_sign_makes_no_proof(
    changes: dict[str, object], says: str, leaf: x509.Certificate, evidence: Evidence
) -> None:
    wrong = make_leaf(make_authority(), **changes)  # type: ignore[arg-type]
    with pytest.raises(ProofRefused, match=says):
        proof_of(report(leaf), evidence, wrong)


def test_report_of_another_document_makes_no_proof(
    leaf: x509.Certificate, evidence: Evidence, editor: Credential
) -> None:
    with pytest.raises(ValueError, match="another document"):
        proof_of(report(leaf, candidate=b"<other/>"), evidence, editor)


@pytest.mark.parametrize(
    "changes",
    [
        {"proof_id": ""},
        {"proof_id": "a b"},
        {"request": Request("é")},
        {"request": Request(tag="x\n")},
        {"now": datetime(2026, 10, 1)},  # noqa: DTZ001
    ],
)
def test_wrong_identifiers_make_no_proof(
    changes: dict[str, object], leaf: x509.Certificate, evidence: Evidence, editor: Credential
) -> None:
    with pytest.raises(ValueError, match=r"identifiers|aware"):
        proof_of(report(leaf), evidence, editor, **changes)


# --- the verdict of an external eSignSanté only adds


REFUSED = Verdict(False, (VerdictError("ERSIGN04", "révoqué"), VerdictError("ERSIGN05", "expiré")))


@pytest.mark.parametrize(
    ("failed", "theirs", "accepted"),
    [
        ((), None, True),
        ((), Verdict(True), True),
        ((), REFUSED, False),
        ((8,), None, False),
        ((8,), Verdict(True), False),
        ((8,), REFUSED, False),
    ],
)
def test_their_verdict_can_only_refuse(
    failed: tuple[int, ...], theirs: Verdict | None, accepted: bool, leaf: x509.Certificate
) -> None:
    steps = tuple(Step(n, "t", Held.FAILED if n in failed else Held.HELD, "") for n in range(1, 15))
    ours = Report(NOW, "00", steps, TrustedList("ns", "1.0.0", NOW, ()), None, leaf, NOW)
    assert combine(ours, theirs) is accepted
    if theirs is not None:
        assert ours.with_step(verdict_step(theirs)).accepted is accepted


def test_their_refusal_is_a_further_step_with_their_codes(leaf: x509.Certificate, evidence: Evidence) -> None:
    judged = report(leaf).with_step(verdict_step(REFUSED))
    assert not judged.accepted
    assert judged.failed[0].why == "refused: ERSIGN04, ERSIGN05"
    assert codes_of(judged, evidence) == ["DRIMBOX15"]


def test_their_absence_marks_the_proof_as_missing(leaf: x509.Certificate) -> None:
    step = verdict_step(NoVerdict("not-ready", "eSignSanté has not loaded its authorities or CRLs"))
    assert step.outcome is Held.WARNED
    assert "proof is missing" in step.why
    assert report(leaf).with_step(step).accepted


def answer(proof: bytes | None, **changes: object) -> bytes:
    members: dict[str, object] = {"valide": True, "erreurs": [], "metaData": []}
    members["preuve"] = b64encode(proof).decode() if proof else None
    return json.dumps(members | changes).encode()


def test_verdict_with_its_proof_is_read(proof: bytes) -> None:
    metadata = [{"typeMetadata": "DN_CERTIFICAT", "message": "CN=x"}]
    verdict = read_verdict(answer(proof, metaData=metadata), document=CANDIDATE, request_id=PROOF_ID)
    assert verdict.valid
    assert verdict.proof == proof
    assert (verdict.metadata[0].kind, verdict.warnings) == ("DN_CERTIFICAT", ())
    assert verdict_step(verdict).outcome is Held.HELD


@pytest.mark.parametrize(
    ("document", "request_id", "says"),
    [(b"<x/>", PROOF_ID, "another document"), (CANDIDATE, "REQ-2", "another request")],
)
def test_their_proof_about_something_else_is_left_out(
    proof: bytes, document: bytes, request_id: str, says: str
) -> None:
    verdict = read_verdict(answer(proof), document=document, request_id=request_id)
    assert verdict.valid
    assert verdict.proof is None
    assert says in verdict.warnings[0]
    assert verdict_step(verdict).outcome is Held.WARNED


@pytest.mark.parametrize(
    "preuve", [None, "", 5, "***", b64encode(b"<a/>").decode(), b64encode(b"no").decode()]
)
def test_their_unusable_proof_is_left_out(preuve: object) -> None:
    verdict = read_verdict(answer(None, preuve=preuve), document=CANDIDATE, request_id="R")
    assert (verdict.valid, verdict.proof, len(verdict.warnings)) == (True, None, 1)


def test_valid_beside_errors_is_a_refusal() -> None:
    errors = [{"codeErreur": "ERSIGN02\n\x1b", "message": None}]
    verdict = read_verdict(answer(None, erreurs=errors), document=CANDIDATE, request_id="R")
    assert not verdict.valid
    assert verdict.codes == ("ERSIGN02??",)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html/>", b"[]", b"[" * 100_000, b"\xff", answer(None, valide="true"), answer(None, valide=None),
        answer(None, erreurs=None), answer(None, erreurs=["ERSIGN02"]), answer(None, metaData=[{"message": ""}]),
        answer(None, erreurs=[{"codeErreur": 5}]),
    ],
)  # fmt: skip
def test_answer_that_is_no_verdict_is_none(body: bytes) -> None:
    with pytest.raises(NoVerdict) as none:
        read_verdict(body, document=CANDIDATE, request_id="R")
    assert none.value.code == "malformed-answer"


def test_proof_dates_are_utc(leaf: x509.Certificate, evidence: Evidence, editor: Credential) -> None:
    paris = datetime.fromisoformat("2026-10-01T14:00:00+02:00")
    assert paris.astimezone(UTC) == NOW
    made = proof_of(report(leaf), evidence, editor, now=paris)
    assert text(made, "p:ASIPProofInfo/p:CreationTime") == "2026-10-01T12:00:00+00:00"
