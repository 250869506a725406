"""Paths of the DICOMweb doors as one table (PS3.18 10.1): path in, a resource with valid UIDs out."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from enum import Enum
from typing import NamedTuple

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.status import HttpRefusal


class Kind(Enum):
    """What a path names, and the clause that defines it."""

    STUDIES = "10.5, 10.6 studies: store, search"
    STUDY = "10.4.1.1 study"
    SERIES = "10.4.1.1 series"
    INSTANCE = "10.4.1.1 instance"
    FRAMES = "10.4.1.1 frames"
    BULK_DATA = "10.4.1.1 bulk data"
    METADATA = "10.4.1.1 metadata"
    RENDERED = "10.4.1.1 rendered"
    SEARCH_SERIES = "10.6 series: search"
    SEARCH_INSTANCES = "10.6 instances: search"


Methods = Mapping[Kind, tuple[str, ...]]  # what is served, by which methods

READING = ("GET", "HEAD")
# What partners ask for (RAD-107), and what the department's own PACS and viewers do (PS3.18 10.4 to 10.6).
IMAGES: Methods = dict.fromkeys((Kind.STUDY, Kind.SERIES, Kind.INSTANCE, Kind.FRAMES), READING)
EVERYTHING: Methods = {
    **dict.fromkeys(Kind, READING),
    **dict.fromkeys((Kind.STUDIES, Kind.STUDY), (*READING, "POST")),
}

_TEMPLATES: Mapping[str, Kind] = {
    "studies": Kind.STUDIES,
    "studies/study": Kind.STUDY,
    "studies/study/metadata": Kind.METADATA,
    "studies/study/rendered": Kind.RENDERED,
    "studies/study/series": Kind.SEARCH_SERIES,
    "studies/study/instances": Kind.SEARCH_INSTANCES,
    "studies/study/series/series": Kind.SERIES,
    "studies/study/series/series/metadata": Kind.METADATA,
    "studies/study/series/series/rendered": Kind.RENDERED,
    "studies/study/series/series/instances": Kind.SEARCH_INSTANCES,
    "studies/study/series/series/instances/sop": Kind.INSTANCE,
    "studies/study/series/series/instances/sop/metadata": Kind.METADATA,
    "studies/study/series/series/instances/sop/rendered": Kind.RENDERED,
    "studies/study/series/series/instances/sop/bulkdata/bulk": Kind.BULK_DATA,
    "studies/study/series/series/instances/sop/frames/frames": Kind.FRAMES,
    "studies/study/series/series/instances/sop/frames/frames/rendered": Kind.RENDERED,
    "series": Kind.SEARCH_SERIES,
    "instances": Kind.SEARCH_INSTANCES,
}
# The word before a value, and the name of the value.
_VALUES: Mapping[str, str] = {
    "studies": "study",
    "series": "series",
    "instances": "sop",
    "frames": "frames",
    "bulkdata": "bulk",
}
_MAX_WORDS = 10
_FRAMES = re.compile(r"[1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})*")
_BULK = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")


class Resource(NamedTuple):
    """What is asked. UIDs are valid; `frames`: list of numbers as written; `bulk`: offset-length in the file."""

    kind: Kind
    study: str | None = None
    series: str | None = None
    sop: str | None = None
    frames: str | None = None
    bulk: str | None = None


def find_resource(base: str, path: str, served: Container[Kind]) -> Resource:
    """The resource of a path below `base`. Raises `HttpRefusal` 404, or 400 for a UID or a list that is none."""
    words = path.removeprefix(base + "/").split("/") if path.startswith(base + "/") else []
    template: list[str] = []
    values: dict[str, str] = {}
    while words and len(template) < _MAX_WORDS:
        word = words.pop(0)
        template.append(word)
        if word in _VALUES and words and words[0] not in _VALUES:
            values[_VALUES[word]] = words.pop(0)
            template.append(_VALUES[word])
    kind = None if words else _TEMPLATES.get("/".join(template))
    if kind is None or kind not in served or "" in values.values():
        raise HttpRefusal(404, "not-found", "Not found", "There is no such resource.")
    _check(values)
    return Resource(kind, **values)


def check_method(method: str, allowed: tuple[str, ...]) -> None:
    """Raises `HttpRefusal` 405 with what is allowed."""
    if method not in allowed:
        headers = {"Allow": ", ".join(allowed)}
        raise HttpRefusal(405, "method-not-allowed", "Method not allowed", "Not done here.", headers)


def _check(values: Mapping[str, str]) -> None:
    for level in ("study", "series", "sop"):
        try:
            check_uid(values.get(level, "0.0"))
        except InvalidUID as error:
            raise HttpRefusal(400, "uid-invalid", "Bad request", f"The {level} is not a UID.") from error
    if "frames" in values and not _FRAMES.fullmatch(values["frames"]):
        raise HttpRefusal(400, "frames-invalid", "Bad request", "A frame list is numbers from 1 on.")
    if "bulk" in values and not _BULK.fullmatch(values["bulk"]):
        raise HttpRefusal(404, "not-found", "Not found", "There is no such bulk data.")
