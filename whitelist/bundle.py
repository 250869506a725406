"""The homologation file of one verification: list, report, proof, certificates and CRLs in one zip (3.1 W4).

Names and octets depend on the contents only: the same verification gives the same file.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from whitelist.bundle_texts import readme_text, report_text
from whitelist.durable import make_directory, write_durably
from whitelist.proof_rules import Evidence, judge_rules
from whitelist.trust import Report

_SLUG = re.compile(r"[^A-Za-z0-9]+")
_EARLIEST = 1980  # of a zip's dates


def bundle(
    destination: Path,
    candidate: bytes,
    report: Report,
    proof: bytes | None,
    certificates: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    *,
    their_proof: bytes | None = None,
) -> Path:
    """Write the zip, mode 0600, whole or not at all; returns its path.

    `destination`: a name that ends in `.zip`, or a directory (made when absent) where the file is named by the
    verification's time and the list's SHA-256. `certificates`: signer's leaf, intermediate, root. `their_proof`:
    that of an external eSignSanté. Raises OSError, and ValueError when the report is that of another document.
    """
    if report.sha256 != hashlib.sha256(candidate).hexdigest():
        raise ValueError("the report is that of another document")
    path = destination if destination.suffix.lower() == ".zip" else destination / bundle_name(report)
    anchors = tuple(certificate for certificate in certificates if certificate != report.signer)
    evidence = Evidence(report.signer, anchors, tuple(crls))
    contents = {"LISTE.xml": candidate, **_report_files(report, evidence)}
    contents |= {"PREUVE.xml": proof} if proof is not None else {}
    contents |= {"PREUVE-ESIGNSANTE.xml": their_proof} if their_proof is not None else {}
    contents |= _evidence_files(certificates, crls)
    contents["LISEZMOI.txt"] = readme_text(report, contents).encode("utf-8")
    make_directory(path.parent)
    write_durably(path, _zipped(report, contents), 0o600)
    return path


def bundle_name(report: Report) -> str:
    """`preuve-liste-blanche-<UTC time>-<SHA-256 prefix>.zip`."""
    return f"preuve-liste-blanche-{report.at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{report.sha256[:12]}.zip"


def _report_files(report: Report, evidence: Evidence) -> dict[str, bytes]:
    results = judge_rules(report, evidence)
    as_json = json.dumps(report.as_dict(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    text = report_text(report, results)
    return {"RAPPORT.json": as_json.encode("utf-8"), "RAPPORT.txt": text.encode("utf-8")}


def _evidence_files(
    certificates: Sequence[x509.Certificate], crls: Sequence[x509.CertificateRevocationList]
) -> dict[str, bytes]:
    files = {}
    for number, certificate in enumerate(certificates, 1):
        name = f"CERTIFICAT-{number}-{_slug(certificate.subject)}.pem"
        files[name] = certificate.public_bytes(Encoding.PEM)
    for number, crl in enumerate(crls, 1):
        files[f"CRL-{number}-{_slug(crl.issuer)}.crl"] = crl.public_bytes(Encoding.DER)
    return files


def _slug(name: x509.Name) -> str:
    """A file name's part from a common name, whatever that holds."""
    names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _SLUG.sub("-", str(names[0].value) if names else "")[:60].strip("-") or "sans-nom"


def _zipped(report: Report, contents: Mapping[str, bytes]) -> bytes:
    at = report.at.astimezone(UTC)
    moment = (max(at.year, _EARLIEST), at.month, at.day, at.hour, at.minute, at.second)
    octets = io.BytesIO()
    with zipfile.ZipFile(octets, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, moment)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, content)
    return octets.getvalue()
