"""What is refused before any field of a CDA is read."""

from __future__ import annotations

import pytest

from drimbox.domain.cda import read_cda
from drimbox.domain.cda_document import MAX_MARKUP, DocumentKind, NotADocument, identify, open_document
from fixtures.reports import make_cda

XML = b'<?xml version="1.0" encoding="UTF-8"?>'
ROOT = b'<ClinicalDocument xmlns="urn:hl7-org:v3">'
CDA = make_cda()


def with_prolog(doctype: bytes, use: bytes = b"") -> bytes:
    return CDA.replace(b"<ClinicalDocument ", doctype + b"<ClinicalDocument ").replace(
        b"<title>", b"<title>" + use
    )


LAUGHS = b"<!DOCTYPE x [" + b'<!ENTITY a0 "ha">'
LAUGHS += b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12)) + b"]>"

REFUSED = {
    "external-entity": (
        "cda-doctype",
        with_prolog(b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>', b"&e;"),
    ),
    "external-dtd": ("cda-doctype", with_prolog(b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">')),
    "parameter-entity": (
        "cda-doctype",
        with_prolog(b'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x">%p;]>'),
    ),
    "billion-laughs": ("cda-doctype", with_prolog(LAUGHS, b"&a11;")),
    "laughs-in-attribute": ("cda-doctype", with_prolog(LAUGHS).replace(b'code="FR"', b'code="&a11;"')),
    "plain-doctype": ("cda-doctype", with_prolog(b"<!DOCTYPE ClinicalDocument>")),
    "doctype-in-utf-16": (
        "cda-doctype",
        with_prolog(b"<!DOCTYPE x>").decode().replace("UTF-8", "UTF-16").encode("utf-16"),
    ),
    "undeclared-entity": ("cda-not-xml", with_prolog(b"", b"&e;")),
    "not-xml": ("cda-not-xml", b"MSH|^~\\&|"),
    "pdf": ("cda-not-xml", b"%PDF-1.4 <<"),
    "empty": ("cda-not-xml", b""),
    "declaration-only": ("cda-not-xml", XML),
    "truncated": ("cda-not-xml", CDA[: len(CDA) // 2]),
    "two-roots": ("cda-not-xml", CDA + b"<x/>"),
    "other-root": ("cda-root", XML + b"<html/>"),
    "other-namespace": ("cda-root", XML + b'<ClinicalDocument xmlns="urn:other"/>'),
    "no-namespace": ("cda-root", XML + b"<ClinicalDocument/>"),
    "stylesheet": (
        "cda-root",
        b'<s:stylesheet xmlns:s="http://www.w3.org/1999/XSL/Transform"><s:template/></s:stylesheet>',
    ),
    "stylesheet-of-two": (
        "cda-root",
        b'<s:stylesheet xmlns:s="http://www.w3.org/1999/XSL/Transform">'
        + (ROOT + b"</ClinicalDocument>") * 2
        + b"</s:stylesheet>",
    ),
    "too-deep": ("cda-not-xml", XML + ROOT + b"<a>" * 5_000 + b"</a>" * 5_000 + b"</ClinicalDocument>"),
    "utf-7": ("cda-encoding", b'<?xml version="1.0" encoding="UTF-7"?>+ADw-x/>'),
    "far-encoding": ("cda-encoding", b'<?xml version="1.0"' + b" " * 400 + b'encoding="UTF-7"?><x/>'),
    "many-elements": ("cda-too-complex", XML + ROOT + b"<a/>" * (MAX_MARKUP + 1) + b"</ClinicalDocument>"),
    "many-attributes": (
        "cda-too-complex",
        XML
        + ROOT
        + b"<a "
        + b"".join(b'a%d="" ' % n for n in range(MAX_MARKUP + 1))
        + b"/></ClinicalDocument>",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_reading(case: str) -> None:
    rule, data = REFUSED[case]
    with pytest.raises(NotADocument) as refusal:
        open_document(data)
    assert refusal.value.rule == rule
    reading = read_cda(data, time_zone="Europe/Paris")
    assert reading.report is None
    assert [v.rule for v in reading.violations] == [rule]
    assert all(v.where and v.clause for v in reading.violations)


def test_over_the_limit() -> None:
    with pytest.raises(NotADocument) as refusal:
        open_document(CDA, max_bytes=len(CDA) - 1)
    assert refusal.value.rule == "cda-too-large"
    assert open_document(CDA, max_bytes=len(CDA)).tag == "{urn:hl7-org:v3}ClinicalDocument"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize(
    "declaration", [XML, b"", b'<?xml version="1.0" encoding="utf-8"?>\r\n<?oxygen x="y"?><!-- <!DOCTYPE -->']
)
def test_prologs_that_are_fine(mark: bytes, declaration: bytes) -> None:
    data = mark + declaration + CDA.removeprefix(XML).lstrip()
    assert read_cda(data, time_zone="Europe/Paris").violations == ()


@pytest.mark.parametrize("encoding", ["ISO-8859-15", "windows-1252", "UTF-16"])
def test_the_encoding_of_the_document_is_its_own(encoding: str) -> None:
    text = CDA.decode("utf-8").replace("’", "'").replace("UTF-8", encoding)
    reading = read_cda(text.encode(encoding), time_zone="Europe/Paris")
    assert reading.report is not None
    assert reading.report.title.startswith("CR d'imagerie médicale")


def test_a_text_of_over_ten_megabytes_is_read() -> None:
    body = b"A" * 12_000_000
    start, end = CDA.index(b'B64">') + 5, CDA.index(b"</text>")
    reading = read_cda(CDA[:start] + b"JVBERi0x" + body + CDA[end:], time_zone="Europe/Paris")
    assert reading.report is not None
    assert reading.violations == ()


def test_identify_reads_the_code_only() -> None:
    assert identify(CDA) == DocumentKind(True, "18748-4", "2.16.840.1.113883.6.1")
    assert identify(CDA[: CDA.index(b"<recordTarget>")]) == identify(CDA)
    assert identify(XML + b"<html/>") == DocumentKind(False)
    assert identify(XML + ROOT + b"<x><code code='1'/></x></ClinicalDocument>") == DocumentKind(True)
    with pytest.raises(NotADocument):
        identify(b"plain text")


def test_identify_looks_no_further_than_the_first_chunk() -> None:
    """What follows is for the reader to judge, be it megabytes or broken."""
    head = CDA[: CDA.index(b"<recordTarget>")]
    assert identify(head + b"<" * 70_000) == identify(CDA)
    far = XML + ROOT + b"<!--" + b"x" * 70_000 + b"-->" + b"<code code='1'/></ClinicalDocument>"
    assert identify(far) == DocumentKind(True)


def test_identify_finds_the_root_behind_a_long_prolog() -> None:
    prolog = XML + b"<!--" + b"x" * 70_000 + b"-->"
    assert identify(prolog + b"<html/>") == DocumentKind(False)
    assert identify(prolog + ROOT + b"</ClinicalDocument>") == DocumentKind(True)
    with pytest.raises(NotADocument) as refusal:
        identify(prolog + b"<!DOCTYPE x><html/>")
    assert refusal.value.rule == "cda-doctype"
    with pytest.raises(NotADocument) as refusal:
        identify(XML + b"<a " + b"".join(b'a%d="" ' % n for n in range(MAX_MARKUP + 1)) + b"/>")
    assert refusal.value.rule == "cda-too-complex"


def test_identify_looks_into_a_stylesheet() -> None:
    sheet = b'<s:stylesheet xmlns:s="http://www.w3.org/1999/XSL/Transform">%s</s:stylesheet>'
    templates = b"<s:template/>" * 8_000
    assert identify(sheet % (templates + CDA.removeprefix(XML))) == identify(CDA)
    assert identify(sheet % templates) == DocumentKind(False)
