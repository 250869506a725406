"""What became of the instances of one STOW-RS request → status and store response (PS3.18 10.5.3, annex I)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dicom_store.asgi import RETRY_AFTER
from dicom_store.body import body_of
from dicom_store.status import ANSWERS, HttpRefusal, Outcome
from dicom_store.transmit import Transfer

DICOM_JSON = "application/dicom+json"
# Media ranges that the store response satisfies; the quality of each decides nothing but yes or no.
_ACCEPTABLE = {"*/*", "application/*", "application/json", DICOM_JSON}
_LATER = (507, 503)  # the same may be taken some time later: no room (RFC 4918 11.5), not now
_SOP_CLASS, _SOP_INSTANCE = "00081150", "00081155"
_RETRIEVE_URL, _FAILURE_REASON = "00081190", "00081197"
_FAILED, _REFERENCED = "00081198", "00081199"


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """One part of the request. UIDs are valid; "" = not known, only where it was not stored."""

    outcome: Outcome
    sop_class: str = ""
    sop_instance: str = ""
    study: str = ""
    series: str = ""

    @property
    def is_stored(self) -> bool:
        """Kept, now or before."""
        return self.outcome in (Outcome.STORED, Outcome.DUPLICATE)


def require_acceptable(accept: Sequence[str]) -> str:
    """The media type of the store response: DICOM JSON. Raises `HttpRefusal` 406 (PS3.18 10.5.3.2)."""
    ranges = [one for line in accept for one in line.split(",") if one.strip()]
    asked = {kind for one in ranges if (kind := _accepted(one))}
    if ranges and not asked & _ACCEPTABLE:
        detail = f"The answer is {DICOM_JSON}."
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
    plain = "application/json" in asked and not asked & {"*/*", "application/*", DICOM_JSON}
    return "application/json" if plain else DICOM_JSON


def store_response(results: Sequence[InstanceResult], base_url: str, content_type: str) -> Transfer:
    """The answer. `base_url`: of the door that retrieves them, without a final slash."""
    status = _status(results)
    document = json.dumps(_document(results, base_url), separators=(",", ":")).encode("ascii")
    headers = {"Content-Type": content_type, "Content-Length": str(len(document))}
    if status in _LATER:
        headers["Retry-After"] = RETRY_AFTER
    return Transfer(status, headers, body_of(document))


def _status(results: Sequence[InstanceResult]) -> int:
    """200 all, 202 some (PS3.18 table 10.5.3-1); none: what their failures have in common, `_LATER` if one may pass."""
    failures = {ANSWERS[one.outcome].http for one in results if not one.is_stored}
    if not failures:
        return 200
    if any(one.is_stored for one in results):
        return 202
    for later in _LATER:
        if later in failures:
            return later
    return failures.pop() if len(failures) == 1 else 409


def _document(results: Sequence[InstanceResult], base_url: str) -> dict[str, Any]:
    """Only the sequences that have items (clients take an empty one for a failure)."""
    stored = [_referenced(one, base_url) for one in results if one.is_stored]
    failed = [_failed(one) for one in results if not one.is_stored]
    studies = {one.study for one in results if one.is_stored}
    retrieve = [f"{base_url}/studies/{study}" for study in studies] if len(studies) == 1 else []
    document = {_RETRIEVE_URL: _element("UR", retrieve)}
    if failed:
        document[_FAILED] = _element("SQ", failed)
    if stored:
        document[_REFERENCED] = _element("SQ", stored)
    return document


def _referenced(one: InstanceResult, base_url: str) -> dict[str, Any]:
    place = f"{base_url}/studies/{one.study}/series/{one.series}/instances/{one.sop_instance}"
    return {**_reference(one), _RETRIEVE_URL: _element("UR", [place])}


def _failed(one: InstanceResult) -> dict[str, Any]:
    return {**_reference(one), _FAILURE_REASON: _element("US", [ANSWERS[one.outcome].dimse])}


def _reference(one: InstanceResult) -> dict[str, Any]:
    return {
        _SOP_CLASS: _element("UI", [one.sop_class] if one.sop_class else []),
        _SOP_INSTANCE: _element("UI", [one.sop_instance] if one.sop_instance else []),
    }


def _element(vr: str, values: Sequence[Any]) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _accepted(media_range: str) -> str:
    """The range in lower case, "" when its quality is 0."""
    kind, *parameters = (part.strip().lower() for part in media_range.split(";"))
    refused = any(
        name.strip() == "q" and not value.strip(" 0.")
        for name, _, value in (parameter.partition("=") for parameter in parameters)
    )
    return "" if refused else kind
