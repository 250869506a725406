"""What the rows of `cda_rules` look at in the body: (XPath, message) per breach.

The PDF of level 1 is judged without being decoded; of level 3 only the object catalog is compared, and the header
wins (cda-and-xds 2.6: the catalog is not a list of the images). A PDF annex of level 3 is not the report body.
"""

from __future__ import annotations

import binascii
import string
from collections.abc import Iterator

from drimbox.domain.cda_checks import Finding, Terms
from drimbox.domain.cda_fields import (
    BODY_TEXT,
    SERVICE_EVENT,
    STRUCTURED_BODY,
    Element,
    attribute,
    catalog_series,
    catalog_studies,
    code,
    every,
    first,
    study_ids,
)
from drimbox.domain.imaging_codes import CONCLUSION, LOINC

_BLANKS = b" \t\r\n"
_ALPHABET = (string.ascii_letters + string.digits + "+/").encode("ascii")
_PADDINGS = {b"", b"=", b"=="}
_PDF = b"%PDF-"
_STUDY = f"{STRUCTURED_BODY}//c:act[c:code/@code='113014']"


def media_type(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Level 1 carries a PDF."""
    for text in every(root, BODY_TEXT):
        if attribute(text, "mediaType").lower() != "application/pdf":
            yield f"{BODY_TEXT}/@mediaType", "the media type is not application/pdf"


def representation(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Level 1 is in base64."""
    for text in every(root, BODY_TEXT):
        if attribute(text, "representation") != "B64":
            yield f"{BODY_TEXT}/@representation", "the representation is not B64"


def content(root: Element, _terms: Terms) -> Iterator[Finding]:
    """ASCII white space aside, strict base64 of something that begins as a PDF does."""
    for text in every(root, BODY_TEXT):
        try:
            begin = _begin_of_base64(text)
        except ValueError:
            yield BODY_TEXT, "the body is not base64"
            continue
        if not begin.startswith(_PDF):
            yield BODY_TEXT, "the body is not a PDF"


def _begin_of_base64(text: Element) -> bytes:
    """The first bytes that strict base64 stands for. Raises ValueError when any of it is not base64."""
    written = (text.text or "") if not len(text) else "".join(map(str, text.itertext("*")))
    data = written.encode("ascii")
    if any(blank in data for blank in _BLANKS):
        data = data.translate(None, _BLANKS)
    padding = data.translate(None, _ALPHABET)
    if len(data) % 4 or padding not in _PADDINGS or not data.endswith(padding):
        raise ValueError("not base64")
    return binascii.a2b_base64(data[:8])


def catalog_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A level 3 body has an object catalog."""
    if first(root, STRUCTURED_BODY) is not None and not catalog_studies(root):
        yield _STUDY, "no object catalog"


def catalog_agrees(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Header and catalog name the same studies; the header wins."""
    catalogued = {attribute(e, "root") for study in catalog_studies(root) for e in study_ids(study)}
    named = {attribute(e, "root") for event in every(root, SERVICE_EVENT) for e in study_ids(event)}
    for _study in sorted(catalogued - named):
        yield f"{_STUDY}/c:id/@root", "a study of the object catalog that the header does not name"
    for _study in sorted(named - catalogued) if catalogued else ():
        yield f"{SERVICE_EVENT}/c:id/@root", "a study of the header that no object catalog names"


def catalog_single_series(root: Element, _terms: Terms) -> Iterator[Finding]:
    """One generic series per study of the catalog."""
    for study in catalog_studies(root):
        if len(catalog_series(study)) > 1:
            yield f"{_STUDY}/c:entryRelationship/c:act", "several series in one study of the object catalog"


def conclusion(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A level 3 body has a conclusion."""
    body = first(root, STRUCTURED_BODY)
    if body is None:
        return
    found = map(code, every(body, "c:component/c:section/c:code"))
    if not any(c and (c.code, c.system) == (CONCLUSION, LOINC) for c in found):
        yield f"{STRUCTURED_BODY}/c:component/c:section/c:code", "no conclusion"
