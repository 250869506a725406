"""What METADATA.XML says of a document, beside the document: digest, size, and the signature of the lot."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping

from lxml import etree

from drimbox.domain.xml_input import UnreadableXml, parse_xml
from drimbox.domain.xml_signature import ds

MAX_SIGNATURE_BYTES = 1024 * 1024
_DER_SEQUENCE = b"\x30"
_DIGESTS: Mapping[str, str] = {
    "http://www.w3.org/2000/09/xmldsig#sha1": "sha1",
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
}


def hash_agrees(value: str, content: bytes) -> bool:
    """Whether a hash slot is the SHA-1 of the document: hexadecimal (ITI TF-3 4.2.3.2.10), or base64 of it."""
    digest = hashlib.sha1(content, usedforsecurity=False)
    return value.strip().lower() == digest.hexdigest() or _decoded(value) == digest.digest()


def is_redacted(signature: bytes) -> bool:
    """Whether the certificate was blanked out, as in the ANS's published samples (drim-m-data 5.6).

    Such a document is no longer the one that was hashed: its digest says nothing.
    """
    try:
        root = parse_xml(signature, max_bytes=MAX_SIGNATURE_BYTES)
    except UnreadableXml:
        return False
    certificates = [(node.text or "") for node in root.iter(ds("X509Certificate"))]
    blank = [text for text in certificates if not _decoded(text).startswith(_DER_SEQUENCE)]
    return bool(blank) and len(blank) == len(certificates)


def signature_faults(signature: bytes, kos_uid: str, kos: bytes, submission_set_uid: str) -> Iterator[str]:
    """Why this is no signature of that lot: the references of its manifest (drim-m-data 5.5).

    The cryptographic signature itself was the DMP's to verify when it took the lot.
    """
    try:
        root = parse_xml(signature, max_bytes=MAX_SIGNATURE_BYTES)
    except UnreadableXml as error:
        yield f"unreadable: {error}"
        return
    if root.tag != ds("Signature"):
        yield "not a ds:Signature"
        return
    references = {
        reference.get("URI", "").removeprefix("urn:oid:"): reference
        for manifest in root.iter(ds("Manifest"))
        for reference in manifest.iterchildren(ds("Reference"))
    }
    if submission_set_uid not in references:
        yield "it does not name this submission set"
    if kos_uid not in references:
        yield "it does not name this manifest"
    elif not _reference_agrees(references[kos_uid], kos):
        yield "its digest of the manifest is not that of the file"


def _reference_agrees(reference: etree._Element, content: bytes) -> bool:
    method = reference.find(ds("DigestMethod"))
    name = _DIGESTS.get("" if method is None else method.get("Algorithm", ""))
    if name is None:
        return False
    expected = hashlib.new(name, content, usedforsecurity=False).digest()
    return _decoded(reference.findtext(ds("DigestValue"), "")) == expected


def _decoded(text: str) -> bytes:
    """Base64 with blanks, line breaks or without padding; empty when it is none."""
    packed = "".join(text.split()).rstrip("=")
    try:
        return b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (Base64Error, ValueError):
        return b""
