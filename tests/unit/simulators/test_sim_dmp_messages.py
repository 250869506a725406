"""The simulated DMP's reader and writer of messages: bytes in, bytes out."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from drimbox.simulators.dmp_answers import (
    RegistryError,
    SoapFault,
    as_mtom,
    as_soap,
    envelope,
    fault_element,
    query_response,
    registry_response,
)
from drimbox.simulators.dmp_messages import (
    UnsupportedMediaType,
    cid_of,
    parse_content_type,
    parse_xml,
    read_multipart,
    read_soap,
)


def multipart(*contents: bytes, head: str = "Content-Transfer-Encoding: binary") -> bytes:
    sections = [
        f"--b\r\n{head}\r\nContent-ID: <p{n}>\r\n\r\n".encode() + content
        for n, content in enumerate(contents)
    ]
    return b"\r\n".join(sections) + b"\r\n--b--\r\n"


def test_content_type() -> None:
    value = 'Multipart/Related; boundary="a;b\\"c"; type=application/xop+xml ;start-info="x y"'
    assert parse_content_type(value) == (
        "multipart/related",
        {"boundary": 'a;b"c', "type": "application/xop+xml", "start-info": "x y"},
    )


@pytest.mark.parametrize("value", ["a/b; c", "a/b; c=d e", 'a/b; c="d'])
def test_content_type_malformed(value: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        parse_content_type(value)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_parts_are_given_back_byte_for_byte(contents: list[bytes]) -> None:
    if any(b"\r\n--b" in b"\r\n" + content for content in contents):
        return
    parts = read_multipart("b", multipart(*contents))
    assert [part.content for part in parts] == contents


def test_folded_header_and_base64() -> None:
    (part,) = read_multipart(
        "b", multipart(b"YWJ\r\nj", head="X: a\r\n\tb\r\nContent-Transfer-Encoding: BASE64")
    )
    assert part.content == b"abc" and part.headers["x"] == "a b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"preamble\r\n" + multipart(b"x"),
        multipart(b"x")[:-6],
        multipart(b"x") + b"epilogue",
        multipart(b"x", head="no colon"),
        multipart(b"x", head="Content-Transfer-Encoding: quoted-printable"),
        multipart(b"!", head="Content-Transfer-Encoding: base64"),
        multipart(b"x").replace(b"<p0>", b"p0"),
        multipart(b"x", b"y").replace(b"<p1>", b"<p0>"),
        b"--b\r\nContent-ID: <p0>\r\n--b--",
    ],
)
def test_multipart_malformed(body: bytes) -> None:
    with pytest.raises(SoapFault):
        read_multipart("b", body)


def test_cid() -> None:
    assert cid_of("cid:a%40b") == "a@b"
    with pytest.raises(SoapFault):
        cid_of("http://a")


def test_document_type_is_refused() -> None:
    with pytest.raises(ValueError, match="document type"):
        parse_xml(b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Body><a/></Body></Envelope>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Header/><Body/></Envelope>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Header/><Body><a/><b/></Body></Envelope>',
    ],
)
def test_envelope_malformed(body: bytes) -> None:
    with pytest.raises(SoapFault):
        read_soap("application/soap+xml", body)


def test_multipart_answer_is_read_by_another_reader() -> None:
    message = envelope(registry_response(), "urn:action", "urn:uuid:1")
    content_type, body = as_mtom(message)
    read = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=HTTP)
    (part,) = read.iter_parts()
    assert part.get_payload(decode=True) == message
    assert part["Content-ID"] == read.get_param("start")
    assert as_soap(message) == ("application/soap+xml; charset=UTF-8", message)


def test_errors_and_faults_are_written_whole() -> None:
    errors = [RegistryError("XDSRegistryBusy", "é & <", "here"), RegistryError("Other", "text")]
    answer = etree.fromstring(etree.tostring(query_response((), errors)))
    listed = list(answer.iter("{*}RegistryError"))
    assert [(e.get("errorCode"), e.get("codeContext"), e.get("location")) for e in listed] == [
        ("XDSRegistryBusy", "é & <", "here"),
        ("Other", "text", None),
    ]
    fault = etree.fromstring(
        etree.tostring(fault_element(SoapFault("DMPInvalidCertificate", "why", ["a", "b"])))
    )
    values = [v.text for v in fault.iter("{*}Value")]
    assert values == ["soap:Sender", "soap:DMPInvalidCertificate"]
    assert fault.nsmap["soap"] == "http://www.w3.org/2003/05/soap-envelope"
    assert [v.text for v in fault.iter("violation")] == ["a", "b"]
