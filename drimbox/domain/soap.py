"""SOAP 1.2 with WS-Addressing 1.0 and the VIHF: an envelope out, an answer in. Bytes only.

The parts that are already bytes (assertion, body) are placed as they are: a signed assertion and a frozen lot
must reach the wire unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from lxml import etree

from drimbox.domain.mtom import UnreadableMime, root_part
from drimbox.domain.xml_input import UnreadableXml, parse_xml, xml_text

SOAP_12 = "http://www.w3.org/2003/05/soap-envelope"
SOAP_11 = "http://schemas.xmlsoap.org/soap/envelope/"
WSA = "http://www.w3.org/2005/08/addressing"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
ANONYMOUS = "http://www.w3.org/2005/08/addressing/anonymous"
MAX_ENVELOPE_BYTES = 8 * 1024 * 1024


class NotSoap(ValueError):
    """The answer is no SOAP message; the text says what it is instead, without quoting it."""


@dataclass(frozen=True, slots=True)
class Addressing:
    """The message addressing properties of a request. `message_id`: `urn:uuid:...`, new per attempt."""

    message_id: str
    to: str
    action: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A SOAP fault. `code`: `Sender`, `Receiver`...; `subcodes`: local names, outermost first."""

    code: str
    subcodes: tuple[str, ...]
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class SoapAnswer:
    """What came back: a fault, or the first child of Body. Absent headers are empty."""

    message_id: str
    relates_to: str
    action: str
    fault: Fault | None
    body: etree._Element | None


def envelope(addressing: Addressing, *, assertion: bytes, body: bytes) -> bytes:
    """A SOAP 1.2 envelope, UTF-8, with all addressing headers and wsse:Security (dmp-kos-xds 2.1).

    `assertion` and `body` are XML elements without XML declaration, copied byte for byte.
    """
    head = (
        f'<soap:Envelope xmlns:soap="{SOAP_12}" xmlns:wsa="{WSA}"><soap:Header>'
        f"<wsa:MessageID>{_escaped(addressing.message_id)}</wsa:MessageID>"
        f"<wsa:To>{_escaped(addressing.to)}</wsa:To>"
        f'<wsa:ReplyTo soap:mustUnderstand="true"><wsa:Address>{ANONYMOUS}</wsa:Address></wsa:ReplyTo>'
        f'<wsa:Action soap:mustUnderstand="true">{_escaped(addressing.action)}</wsa:Action>'
        f'<wsse:Security xmlns:wsse="{WSSE}">'
    )
    return b"".join(
        [
            b'<?xml version="1.0" encoding="UTF-8"?>\n',
            head.encode("utf-8"),
            assertion,
            b"</wsse:Security></soap:Header><soap:Body>",
            body,
            b"</soap:Body></soap:Envelope>",
        ]
    )


def content_type(action: str) -> str:
    """Content-Type of an envelope that travels alone (ITI-18, ITI-57)."""
    return f'application/soap+xml; charset=UTF-8; action="{action}"'


def read_answer(content_type: str, body: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> SoapAnswer:
    """Read a SOAP 1.2 (or 1.1) answer, plain or multipart (dmp-kos-xds 2.2, last row).

    Raises `NotSoap` when there is no envelope to be found in it, or it holds neither fault nor content.
    """
    try:
        root = parse_xml(root_part(content_type, body), max_bytes=max_bytes)
    except (UnreadableMime, UnreadableXml) as error:
        raise NotSoap(str(error)) from error
    for namespace in (SOAP_12, SOAP_11):
        if root.tag == f"{{{namespace}}}Envelope":
            return _answer(root, namespace)
    raise NotSoap("the answer is XML but no SOAP envelope")


def _answer(root: etree._Element, namespace: str) -> SoapAnswer:
    body = root.find(f"{{{namespace}}}Body")
    content = None if body is None else next(body.iterchildren("*"), None)
    if content is None:
        raise NotSoap("the SOAP body is empty")
    fault = _fault(content, namespace) if content.tag == f"{{{namespace}}}Fault" else None
    header = f"{{{namespace}}}Header/{{{WSA}}}"
    return SoapAnswer(
        message_id=_stripped(root, f"{header}MessageID"),
        relates_to=_stripped(root, f"{header}RelatesTo"),
        action=_stripped(root, f"{header}Action"),
        fault=fault,
        body=None if fault else content,
    )


def _fault(node: etree._Element, namespace: str) -> Fault:
    if namespace == SOAP_11:
        code = _local(_stripped(node, "faultcode"))
        code = {"Client": "Sender", "Server": "Receiver"}.get(code, code)
        return Fault(code, (), _stripped(node, "faultstring"), _all_text(node.find("detail")))
    env = f"{{{namespace}}}"
    subcodes = [_local((value.text or "").strip()) for value in node.iter(f"{env}Value")]
    reason = _stripped(node, f"{env}Reason/{env}Text")
    return Fault("".join(subcodes[:1]), tuple(subcodes[1:]), reason, _all_text(node.find(f"{env}Detail")))


def _stripped(node: etree._Element, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _all_text(node: etree._Element | None) -> str:
    return "" if node is None else " ".join(" ".join(map(str, node.itertext())).split())


def _escaped(text: str) -> str:
    return escape(xml_text(text))
