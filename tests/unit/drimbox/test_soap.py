"""SOAP and MTOM: strict out, lenient in, bytes throughout."""

from __future__ import annotations

import base64
from email import message_from_bytes
from email.policy import HTTP

import pytest
from lxml import etree

from drimbox.domain.mtom import Attachment, UnreadableMime, package, root_part
from drimbox.domain.soap import (
    SOAP_11,
    SOAP_12,
    WSA,
    Addressing,
    NotSoap,
    content_type,
    envelope,
    read_answer,
)

BOUNDARY = "drimbox-0123456789abcdef"
ACTION = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"
BODY = '<r:RegistryResponse xmlns:r="urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0" status="s"/>'
ANSWER = (
    f'<s:Envelope xmlns:s="{SOAP_12}" xmlns:a="{WSA}"><s:Header><a:MessageID>urn:uuid:2</a:MessageID>'
    f"<a:RelatesTo> urn:uuid:1 </a:RelatesTo><a:Action>x</a:Action></s:Header><s:Body>{BODY}</s:Body></s:Envelope>"
).encode()


def test_envelope_carries_every_addressing_header_and_the_parts_unchanged() -> None:
    assertion, body = b'<a:Assertion xmlns:a="urn:a">\xc3\xa9</a:Assertion>', b"<b>&amp;</b>"
    message = envelope(
        Addressing("urn:uuid:1", "https://dmp/x?a=1&b=2", ACTION), assertion=assertion, body=body
    )
    assert assertion in message
    assert body in message
    root = etree.fromstring(message)
    header = root.find(f"{{{SOAP_12}}}Header")
    assert header is not None
    assert [etree.QName(child).localname for child in header] == [
        "MessageID",
        "To",
        "ReplyTo",
        "Action",
        "Security",
    ]
    assert header.findtext(f"{{{WSA}}}To") == "https://dmp/x?a=1&b=2"
    assert (
        header.findtext(f"{{{WSA}}}ReplyTo/{{{WSA}}}Address")
        == "http://www.w3.org/2005/08/addressing/anonymous"
    )
    marked = [etree.QName(c).localname for c in header if c.get(f"{{{SOAP_12}}}mustUnderstand") == "true"]
    assert marked == ["ReplyTo", "Action"]


def test_package_is_read_by_another_reader() -> None:
    kos = bytes(range(256)) + b"\r\n--x\r\n"
    kind, body = package(b"<e/>", [Attachment("kos@drimbox", kos)], boundary=BOUNDARY, action=ACTION)
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=HTTP)
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/xop+xml"
    assert message.get_param("start-info") == "application/soap+xml"
    assert message.get_param("action") == ACTION
    assert message.get_param("boundary") == BOUNDARY
    root, attached = message.get_payload()  # type: ignore[misc]
    assert message.get_param("start") == root["Content-ID"] == "<envelope@drimbox>"  # type: ignore[index]
    assert root.get_content_type() == "application/xop+xml"  # type: ignore[union-attr]
    assert root.get_param("type") == "application/soap+xml"  # type: ignore[union-attr]
    assert attached["Content-ID"] == "<kos@drimbox>"  # type: ignore[index]
    assert attached["Content-Transfer-Encoding"] == "binary"  # type: ignore[index]
    assert body.startswith(f"--{BOUNDARY}\r\nContent-Type: application/xop+xml; charset=UTF-8; ".encode())
    assert body.endswith(b"\r\n\r\n" + kos + f"\r\n--{BOUNDARY}--\r\n".encode())


@pytest.mark.parametrize("boundary", ["short", "x" * 71, "with space in it, ", "é" * 20])
def test_a_weak_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(ValueError, match="boundary"):
        package(b"<e/>", [], boundary=boundary, action=ACTION)


def test_a_boundary_that_occurs_in_a_part_is_refused() -> None:
    attachment = Attachment("a@b", b"..--" + BOUNDARY.encode())
    with pytest.raises(ValueError, match="occurs"):
        package(b"<e/>", [attachment], boundary=BOUNDARY, action=ACTION)


def multipart(
    *,
    end: str = "\r\n",
    encoding: str = "binary",
    content: bytes = ANSWER,
    preamble: str = "",
    second: bytes = b"\x00",
) -> bytes:
    head = end.join(
        [
            preamble + "--b1",
            "content-type: application/xop+xml",
            f"Content-Transfer-Encoding: {encoding}",
            "Content-ID: <root>",
            "",
            "",
        ]
    )
    other = end.join(["", "--b1", "Content-Type: application/octet-stream", "Content-ID: <d>", "", ""])
    return head.encode() + content + other.encode() + second + end.encode() + b"--b1--"


DECLARED = 'multipart/related; type="application/xop+xml"; start="<root>"; boundary="b1"'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (content_type("x"), ANSWER),
        ("", ANSWER),
        ("text/html", b"\xef\xbb\xbf\r\n " + ANSWER),
        (DECLARED, multipart()),
        (DECLARED, multipart(end="\n")),
        ("multipart/related; boundary=b1", multipart()),
        ("multipart/related; boundary=other", multipart()),
        ("", multipart()),
        (DECLARED, multipart(preamble="This is MIME.\r\n")),
        (DECLARED, multipart(second=ANSWER)),
        (DECLARED, multipart(encoding="base64", content=base64.encodebytes(ANSWER))),
        (DECLARED, multipart(encoding="quoted-printable", content=ANSWER.replace(b"=", b"=3D"))),
        (DECLARED, ANSWER),
        ("", b"--uuid:1Content-Type: application/xop+xml\r\n  " + ANSWER + b"--uuid:1--"),
    ],
)
def test_an_answer_is_read_in_whatever_wrapping(kind: str, body: bytes) -> None:
    answer = read_answer(kind, body)
    assert (answer.message_id, answer.relates_to, answer.action) == ("urn:uuid:2", "urn:uuid:1", "x")
    assert answer.fault is None
    assert answer.body is not None
    assert answer.body.get("status") == "s"


def test_the_part_named_by_start_is_the_root() -> None:
    body = b"--b1\r\nContent-ID: <d>\r\n\r\n<other/>\r\n--b1\r\nContent-ID: <root>\r\n\r\n<e/>\r\n--b1--"
    assert root_part(DECLARED, body) == b"<e/>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"<html><body>error</body></html>",
        b"<not-closed",
        ANSWER[:-5],
        b"--b1\r\n\r\n--b1--",
        b"x" + ANSWER + ANSWER,
        b"x<s:Envelope >",
        f'<s:Envelope xmlns:s="{SOAP_12}"><s:Body/></s:Envelope>'.encode(),
        f'<s:Envelope xmlns:s="{SOAP_12}"/>'.encode(),
        b'<!DOCTYPE x [<!ENTITY a "b">]>' + ANSWER,
        b"<s:Envelope xmlns:s='urn:other'><s:Body><a/></s:Body></s:Envelope>",
        multipart(encoding="base64", content=b"!"),
    ],
)
def test_what_is_no_soap_is_said_so(body: bytes) -> None:
    with pytest.raises(NotSoap) as said:
        read_answer(DECLARED, body)
    assert "error" not in str(said.value)


def test_an_answer_has_a_limit() -> None:
    with pytest.raises(NotSoap, match="longer"):
        read_answer("", ANSWER, max_bytes=100)


def test_too_many_parts_are_not_searched() -> None:
    with pytest.raises(UnreadableMime):
        root_part("multipart/related; boundary=b1", b"--b1\r\n" * 100_000)


def test_fault_of_soap_12() -> None:
    xml = (
        f'<s:Envelope xmlns:s="{SOAP_12}"><s:Body><s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode>'
        "<s:Value>d:DMPInvalidCertificate</s:Value></s:Subcode></s:Code><s:Reason><s:Text>Not a valid</s:Text>"
        "</s:Reason><s:Detail><d>one</d><d>two</d></s:Detail></s:Fault></s:Body></s:Envelope>"
    )
    fault = read_answer("", xml.encode()).fault
    assert fault is not None
    assert (fault.code, fault.subcodes, fault.reason) == ("Sender", ("DMPInvalidCertificate",), "Not a valid")
    assert fault.detail == "one two"


def test_fault_of_soap_11() -> None:
    xml = (
        f'<s:Envelope xmlns:s="{SOAP_11}"><s:Body><s:Fault><faultcode>s:Client</faultcode>'
        "<faultstring>no</faultstring><detail>d</detail></s:Fault></s:Body></s:Envelope>"
    )
    fault = read_answer("", xml.encode()).fault
    assert fault is not None
    assert (fault.code, fault.reason, fault.detail) == ("Sender", "no", "d")
