"""Answers of the simulated DMP: RegistryResponse, query answer, SOAP 1.2 fault; plain or MTOM multipart."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

SOAP = "http://www.w3.org/2003/05/soap-envelope"
WSA = "http://www.w3.org/2005/08/addressing"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
LCM = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
QUERY = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"
XDSB = "urn:ihe:iti:xds-b:2007"
XOP = "http://www.w3.org/2004/08/xop/include"

SUCCESS = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
FAILURE = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"
ERROR = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"

_PREFIXES = {"soap": SOAP, "wsa": WSA, "wsse": WSSE, "wsu": WSU}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ROOT_ID = "root.message@cxf.apache.org"


class SoapFault(Exception):
    """The request is refused as a whole.

    subcode: QName with a prefix among soap, wsa, wsse, wsu; the DMP writes its own codes with the prefix of
    the envelope (`soap:DMPInvalidCertificate`, dmp-kos-xds 2.7). details: every violation found.
    """

    def __init__(
        self, subcode: str, reason: str, details: Iterable[str] = (), *, code: str = "soap:Sender"
    ) -> None:
        super().__init__(f"{subcode}: {reason}")
        self.code = code
        self.subcode = subcode if subcode.partition(":")[0] in _PREFIXES else f"soap:{subcode}"
        self.reason = reason
        self.details = tuple(details)


@dataclass(frozen=True)
class RegistryError:
    """One rs:RegistryError: code of ITI TF-3 4.2.4, human text, where."""

    code: str
    context: str
    location: str = ""


class RegistryFailure(Exception):
    """The registry refuses the submission or the query: status Failure with these errors."""

    def __init__(self, errors: Iterable[RegistryError]) -> None:
        self.errors = tuple(errors)
        super().__init__(", ".join(dict.fromkeys(error.code for error in self.errors)))


def registry_response(errors: Iterable[RegistryError] = ()) -> etree._Element:
    """rs:RegistryResponse: Success, or Failure with its RegistryErrorList."""
    return _with_errors(etree.Element(f"{{{RS}}}RegistryResponse", nsmap={"ns2": RS}), errors)


def query_response(objects: Iterable[etree._Element], errors: Iterable[RegistryError] = ()) -> etree._Element:
    """query:AdhocQueryResponse with the objects found (ITI TF-2 3.18.4.1.3)."""
    answer = _with_errors(
        etree.Element(f"{{{QUERY}}}AdhocQueryResponse", nsmap={"ns6": QUERY, "ns4": RIM}), errors
    )
    found = etree.SubElement(answer, f"{{{RIM}}}RegistryObjectList")
    found.extend(list(objects))
    answer.set("totalResultCount", str(len(found)))
    return answer


def _with_errors(answer: etree._Element, errors: Iterable[RegistryError]) -> etree._Element:
    rows = tuple(errors)
    answer.set("status", FAILURE if rows else SUCCESS)
    if rows:
        listing = etree.SubElement(answer, f"{{{RS}}}RegistryErrorList", highestSeverity=ERROR)
        for row in rows:
            attributes = {
                "codeContext": _legal(row.context),
                "errorCode": _legal(row.code),
                "severity": ERROR,
            }
            if row.location:
                attributes["location"] = _legal(row.location)
            etree.SubElement(listing, f"{{{RS}}}RegistryError", attributes)
    return answer


def fault_element(fault: SoapFault) -> etree._Element:
    """soap:Fault with Code, Subcode, Reason and, when there are several violations, a Detail."""
    root = etree.Element(f"{{{SOAP}}}Fault", nsmap=_PREFIXES)
    code = etree.SubElement(root, f"{{{SOAP}}}Code")
    etree.SubElement(code, f"{{{SOAP}}}Value").text = fault.code
    subcode = etree.SubElement(code, f"{{{SOAP}}}Subcode")
    etree.SubElement(subcode, f"{{{SOAP}}}Value").text = _legal(fault.subcode)
    reason = etree.SubElement(root, f"{{{SOAP}}}Reason")
    text = etree.SubElement(reason, f"{{{SOAP}}}Text")
    text.set("{http://www.w3.org/XML/1998/namespace}lang", "fr")
    text.text = _legal(fault.reason)
    if fault.details:
        detail = etree.SubElement(root, f"{{{SOAP}}}Detail")
        for line in fault.details:
            etree.SubElement(detail, "violation").text = _legal(line)
    return root


def _legal(text: str) -> str:
    """What a refusal quotes of a broken request, without the characters that XML cannot carry."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def envelope(payload: etree._Element, action: str, relates_to: str | None) -> bytes:
    """The SOAP 1.2 envelope in UTF-8, with wsa:Action, a fresh MessageID, and RelatesTo when known."""
    root = etree.Element(f"{{{SOAP}}}Envelope", nsmap={"soap": SOAP, "wsa": WSA})
    header = etree.SubElement(root, f"{{{SOAP}}}Header")
    fields = {"Action": action, "MessageID": f"urn:uuid:{uuid.uuid4()}", "RelatesTo": relates_to}
    for name, value in fields.items():
        if value is not None:
            etree.SubElement(header, f"{{{WSA}}}{name}").text = value
    etree.SubElement(root, f"{{{SOAP}}}Body").append(payload)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True)


def as_soap(message: bytes) -> tuple[str, bytes]:
    """(Content-Type, body) of a plain SOAP 1.2 answer."""
    return "application/soap+xml; charset=UTF-8", message


def as_mtom(message: bytes) -> tuple[str, bytes]:
    """(Content-Type, body) of the same answer as the real DMP packs it: multipart/related with one part."""
    boundary = f"uuid:{uuid.uuid4()}"
    content_type = (
        f'multipart/related; type="application/xop+xml"; boundary="{boundary}"; start="<{_ROOT_ID}>";'
        ' start-info="application/soap+xml"'
    )
    head = (
        f"--{boundary}\r\n"
        'Content-Type: application/xop+xml; charset=UTF-8; type="application/soap+xml"\r\n'
        "Content-Transfer-Encoding: binary\r\n"
        f"Content-ID: <{_ROOT_ID}>\r\n\r\n"
    )
    return content_type, head.encode("ascii") + message + f"\r\n--{boundary}--".encode("ascii")
