"""The simulated DMP's own reader of requests: MIME multipart/related, XOP, SOAP 1.2. Strict, bytes in.

Rules: dmp-kos-xds 2.2 (MTOM/XOP), RFC 2046 5.1, RFC 2387, XOP 1.0, SOAP 1.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from lxml import etree

from drimbox.simulators.dmp_answers import SOAP, SoapFault

XML_LIMIT = 8 * 1024 * 1024
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$&^_.+-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))\s*')
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_IDENTITY = frozenset({"binary", "8bit", "7bit"})


class UnsupportedMediaType(Exception):
    """The HTTP Content-Type is not the one of the transaction (answered 415)."""


@dataclass(frozen=True)
class Part:
    """One body part: headers (lower-case names) and content after the transfer encoding is undone."""

    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Request:
    """A SOAP request. header and payload: elements of the envelope; attachments: Content-ID -> bytes."""

    header: etree._Element
    payload: etree._Element
    action_parameter: str
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> etree._Element:
        """The document element (soap:Envelope)."""
        return self.header.getroottree().getroot()


def parse_content_type(value: str) -> tuple[str, dict[str, str]]:
    """(media type, parameters), both with lower-case names. Raises UnsupportedMediaType when malformed."""
    media, semicolon, rest = value.partition(";")
    parameters: dict[str, str] = {}
    position, rest = 0, semicolon + rest
    while position < len(rest):
        found = _PARAMETER.match(rest, position)
        if found is None:
            raise UnsupportedMediaType(f"malformed Content-Type: {value}")
        quoted, token = found.group(2), found.group(3)
        parameters[found.group(1).lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = found.end()
    return media.strip().lower(), parameters


def read_soap(content_type: str, body: bytes) -> Request:
    """A request without attachment (ITI-18, ITI-57). Raises UnsupportedMediaType, SoapFault."""
    media, parameters = parse_content_type(content_type)
    if media != "application/soap+xml":
        raise UnsupportedMediaType("application/soap+xml is expected here (SOAP 1.2, no MTOM)")
    return _request(body, parameters.get("action", ""), {})


def read_mtom(content_type: str, body: bytes) -> Request:
    """An MTOM/XOP request (ITI-41). Raises UnsupportedMediaType, SoapFault."""
    media, parameters = parse_content_type(content_type)
    expected = {"type": "application/xop+xml", "start-info": "application/soap+xml"}
    wrong = [name for name, value in expected.items() if parameters.get(name, "").lower() != value]
    wrong += [name for name in ("boundary", "start") if not parameters.get(name)]
    if media != "multipart/related" or wrong:
        raise UnsupportedMediaType(
            f"multipart/related with MTOM parameters is expected; wrong: {wrong or media}"
        )
    parts = {_content_id(part): part for part in read_multipart(parameters["boundary"], body)}
    root = parts.pop(_without_brackets(parameters["start"]), None)
    if root is None:
        raise malformed("no part has the Content-ID named by start")
    _check_root_part(root)
    return _request(root.content, parameters.get("action", ""), {key: p.content for key, p in parts.items()})


def read_multipart(boundary: str, body: bytes) -> list[Part]:
    """The parts of a multipart body, in order. CRLF line ends, closing delimiter required (RFC 2046 5.1)."""
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    preamble, *sections = (b"\r\n" + body).split(delimiter)
    if preamble or len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise malformed("the multipart body has no opening or no closing delimiter")
    if sections[-1][2:].strip():
        raise malformed("bytes after the closing delimiter")
    parts = [_part(section) for section in sections[:-1]]
    identifiers = [_content_id(part) for part in parts]
    if len(set(identifiers)) != len(identifiers):
        raise malformed("two parts have the same Content-ID")
    return parts


def _part(section: bytes) -> Part:
    head, blank, content = section.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n"):
        raise malformed("a part has no header block ended by CRLF CRLF")
    headers: dict[str, str] = {}
    for line in re.sub(rb"\r\n[ \t]+", b" ", head[2:]).split(b"\r\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _TOKEN.match(name) or "\n" in value:
            raise malformed("a MIME header line of a part is malformed")
        headers[name.lower()] = value.strip()
    return Part(headers, _decoded(headers.get("content-transfer-encoding", "7bit").lower(), content))


def _decoded(encoding: str, content: bytes) -> bytes:
    if encoding in _IDENTITY:
        return content
    if encoding != "base64":
        raise malformed(f"unknown Content-Transfer-Encoding {encoding}")
    try:
        return base64.b64decode(re.sub(rb"[\r\n \t]", b"", content), validate=True)
    except binascii.Error:
        raise malformed("a part declared BASE64 is not base64") from None


def _check_root_part(root: Part) -> None:
    media, parameters = parse_content_type(root.headers.get("content-type", ""))
    if media != "application/xop+xml" or parameters.get("type", "").lower() != "application/soap+xml":
        raise malformed('the root part is not application/xop+xml; type="application/soap+xml"')


def _content_id(part: Part) -> str:
    value = part.headers.get("content-id", "")
    if not (value.startswith("<") and value.endswith(">") and len(value) > 2):
        raise malformed("a part has no Content-ID in angle brackets")
    return _without_brackets(value)


def _without_brackets(value: str) -> str:
    return value.removeprefix("<").removesuffix(">")


def cid_of(href: str) -> str:
    """The Content-ID that an xop:Include href names (`cid:` + URL-encoded id). Raises SoapFault."""
    if not href.startswith("cid:"):
        raise malformed("an xop:Include href is not a cid: URL")
    return unquote(href[4:])


def parse_xml(content: bytes) -> etree._Element:
    """The document element; DOCTYPE refused, nothing fetched. Raises etree.XMLSyntaxError, ValueError."""
    if len(content) > XML_LIMIT:
        raise ValueError("the XML is too large")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    root = etree.fromstring(content, parser)
    if root.getroottree().docinfo.doctype:  # type: ignore[union-attr]  # the stubs lack doctype
        raise ValueError("a document type declaration is not allowed")
    return root


def _request(content: bytes, action: str, attachments: Mapping[str, bytes]) -> Request:
    try:
        root = parse_xml(content)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise malformed(f"the envelope cannot be read: {error}") from None
    name = etree.QName(root)
    if name.localname != "Envelope" or name.namespace != SOAP:
        raise SoapFault(
            "soap:VersionMismatch", "A SOAP 1.2 envelope is expected", code="soap:VersionMismatch"
        )
    header, body = root.find(f"{{{SOAP}}}Header"), root.find(f"{{{SOAP}}}Body")
    payload = [] if body is None else [child for child in body if isinstance(child.tag, str)]
    if header is None or len(payload) != 1:
        raise malformed("the envelope needs one Header and one element in its Body")
    return Request(header, payload[0], action, attachments)


def malformed(reason: str) -> SoapFault:
    """The fault for a message that cannot be read."""
    return SoapFault("soap:MalformedMessage", reason)
