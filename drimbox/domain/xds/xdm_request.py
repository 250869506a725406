"""METADATA.XML as it is found: the SubmitObjectsRequest inside, alone or in its SOAP envelope (drim-m-data 5.6).

The ANS export of 2024 uses a prefix and a default namespace that it never declares, after a blank line: what is
missing is declared before the parser sees it, and said. Nothing else is repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lxml import etree

from drimbox.domain.xds.vocabulary import LCM, QUERY, RIM, RS, XDS_B, XOP
from drimbox.domain.xml_input import UnreadableXml, parse_xml

MAX_METADATA_BYTES = 8 * 1024 * 1024
REQUEST = f"{{{LCM}}}SubmitObjectsRequest"
_BLANKS = b"\xef\xbb\xbf \t\r\n"
_DECLARATION = re.compile(rb"\A<\?xml[^>]*\?>\s*")
_START = re.compile(rb"<(?P<name>[A-Za-z_][\w.:-]*)(?P<attributes>[^<>]*)")
_TAG = re.compile(rb"</?(?P<prefix>[A-Za-z_][\w.-]*):(?P<local>[A-Za-z_][\w.-]*)")
_DECLARED = re.compile(rb"xmlns:(?P<prefix>[A-Za-z_][\w.-]*)\s*=")
# Which namespace an element of METADATA.XML belongs to, by its local name; every other one is ebRIM's.
_NAMESPACES: Mapping[bytes, str] = {
    b"SubmitObjectsRequest": LCM,
    b"ProvideAndRegisterDocumentSetRequest": XDS_B,
    b"Document": XDS_B,
    b"Include": XOP,
    b"RegistryResponse": RS,
    b"AdhocQueryRequest": QUERY,
    b"Envelope": "http://www.w3.org/2003/05/soap-envelope",
    b"Header": "http://www.w3.org/2003/05/soap-envelope",
    b"Body": "http://www.w3.org/2003/05/soap-envelope",
}


@dataclass(frozen=True, slots=True)
class OpenedMetadata:
    """`document`: the root as found; `request`: the SubmitObjectsRequest in it; `repaired`: declarations added."""

    document: etree._Element
    request: etree._Element
    repaired: bool


def open_metadata(data: bytes) -> OpenedMetadata:
    """Read METADATA.XML. Raises `UnreadableXml` when it is no XML, or holds not exactly one request."""
    document, repaired = _parse(data)
    requests = list(document.iter(REQUEST))
    if len(requests) != 1:
        raise UnreadableXml(f"{len(requests)} SubmitObjectsRequest instead of one")
    return OpenedMetadata(document, requests[0], repaired)


def lone_request(data: bytes) -> etree._Element:
    """The SubmitObjectsRequest of `data` as a document of its own. Raises `UnreadableXml`."""
    opened = open_metadata(data)
    if opened.request is opened.document:
        return opened.request
    alone = parse_xml(etree.tostring(opened.request, with_tail=False), max_bytes=MAX_METADATA_BYTES)
    etree.cleanup_namespaces(alone)
    return alone


def _parse(data: bytes) -> tuple[etree._Element, bool]:
    try:
        document = parse_xml(data, max_bytes=MAX_METADATA_BYTES)
    except UnreadableXml:
        if len(data) > MAX_METADATA_BYTES:
            raise
        return parse_xml(_declare(data), max_bytes=MAX_METADATA_BYTES + 4096), True
    if next(document.iter("RegistryObjectList"), None) is not None:  # no namespace at all
        return parse_xml(_declare(data), max_bytes=MAX_METADATA_BYTES + 4096), True
    return document, False


def _declare(data: bytes) -> bytes:
    """The same text from its first tag on, with the namespaces that it uses and never declares."""
    text = _DECLARATION.sub(b"", data.lstrip(_BLANKS))
    start = _START.search(text)
    if start is None:
        return text
    missing = b"".join(_missing(text, start["attributes"]))
    return text[: start.end("name")] + missing + text[start.end("name") :]


def _missing(text: bytes, attributes: bytes) -> Iterator[bytes]:
    declared = {found["prefix"] for found in _DECLARED.finditer(text)}
    for found in _TAG.finditer(text):
        if found["prefix"] not in declared:
            declared.add(found["prefix"])
            namespace = _NAMESPACES.get(found["local"], RIM)
            yield b' xmlns:%s="%s"' % (found["prefix"], namespace.encode("ascii"))
    if not re.search(rb"\bxmlns\s*=", attributes):
        yield b' xmlns="%s"' % RIM.encode("ascii")
