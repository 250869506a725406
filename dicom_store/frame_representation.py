"""What leaves where no instance is asked: frames, bulk data, metadata, rendered images (PS3.18 8.7.3, 8.7.4, 10.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dicom_store.negotiation import AS_STORED, Acceptable, Form, MediaRange
from dicom_store.representation import Can
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import (
    DEFAULTS,
    EXPLICIT_VR_LE,
    IRREVERSIBLE,
    JPEG_LOSSLESS_SV1,
    OCTETS,
    SYNTAXES,
    Kind,
    Leaves,
    carries,
    syntax_of,
)

METADATA = "application/dicom+json"
_METADATA_TYPES = (METADATA, "application/json")
_RENDERED_TYPES = ("image/jpeg", "image/png")  # PS3.18 8.7.4: the default first


@dataclass(frozen=True, slots=True)
class FrameForm:
    """How frames leave. `media_type`: of each part, or of the answer; `transfer_syntax`: Explicit VR LE = native."""

    multipart: bool
    media_type: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class _Offer:
    form: FrameForm
    level: int  # 0 as stored, 1 converted, 2 as stored because nothing else exists
    quality: float
    order: int


def choose_frames(
    acceptable: Acceptable,
    stored_syntax: str,
    can: Can,
    alone: bool = True,
    bits_allocated: int | None = None,
) -> FrameForm:
    """How to send frames of an instance. `alone`: one frame is asked, and may come as a single part.

    As stored if that is acceptable (native octets for what does not leave as stored), else the conversion of the
    highest quality; never a lossy one. `application/dicom` is no form of a frame: see
    `representation.check_frames`. Raises `HttpRefusal` 406 with what could be had.
    """
    forms = (Form.MULTIPART, Form.SINGLE) if alone else (Form.MULTIPART,)
    pairs = _pairs(stored_syntax, can, bits_allocated)
    offers = [o for form in forms for o in _offers(acceptable, form, stored_syntax, pairs)]
    if not offers:
        raise _not_acceptable(pairs)
    return min(offers, key=lambda o: (o.level, -o.quality, o.order)).form


def choose_bulk_data(acceptable: Acceptable) -> Form:
    """The form of bulk data, always `application/octet-stream`. Raises `HttpRefusal` 406."""
    found = [
        media_range
        for form in Form
        if (media_range := acceptable.match(OCTETS, None, form)) and media_range.quality > 0
    ]
    if not found:
        raise _not_acceptable([(OCTETS, EXPLICIT_VR_LE)])
    return min(found, key=lambda r: (-r.quality, r.order)).form


def choose_metadata(acceptable: Acceptable) -> str:
    """The media type of metadata and search results: `METADATA`, also for its older name. Raises `HttpRefusal` 406.

    `application/dicom+xml` is not made here.
    """
    found = [acceptable.match(media_type, None, Form.SINGLE) for media_type in _METADATA_TYPES]
    refused = found[0] is not None and found[0].quality == 0
    if refused or not any(media_range and media_range.quality > 0 for media_range in found):
        raise _not_acceptable([(METADATA, "")])
    return METADATA


def choose_rendered(acceptable: Acceptable) -> str:
    """`image/jpeg` (the default) or `image/png`, as a single part. Raises `HttpRefusal` 406."""
    best: tuple[str, MediaRange] | None = None
    for media_type in _RENDERED_TYPES:
        found = acceptable.match(media_type, None, Form.SINGLE)
        if found and found.quality > 0 and (best is None or _before(found, best[1])):
            best = media_type, found
    if best is None:
        raise _not_acceptable([(media_type, "") for media_type in _RENDERED_TYPES])
    return best[0]


def _before(one: MediaRange, other: MediaRange) -> bool:
    return (-one.quality, one.order) < (-other.quality, other.order)


def _offers(
    acceptable: Acceptable, form: Form, stored: str, pairs: Sequence[tuple[str, str]]
) -> Iterator[_Offer]:
    home = _home(acceptable, form, stored)
    for media_type, syntax in pairs:
        found = acceptable.match(media_type, syntax, form)
        if found and found.quality > 0 and _serves(found, media_type, syntax, stored):
            yield _offer(media_type, syntax, found, 0 if syntax == home else 1)
    yield from _unnamed(acceptable, form, stored)


def _home(acceptable: Acceptable, form: Form, stored: str) -> str:
    """What frames are without a conversion; RLE only for who names it, or its media type."""
    row = syntax_of(stored)
    found = acceptable.match(row.media_type, stored, form)
    named = found is not None and (found.transfer_syntax == stored or found.media_type == row.media_type)
    kept = row.leaves is Leaves.ALWAYS or (
        row.leaves is Leaves.NAMED and named and row.kind is not Kind.NATIVE
    )
    return stored if kept else EXPLICIT_VR_LE


def _serves(found: MediaRange, media_type: str, syntax: str, stored: str) -> bool:
    """A range of any syntax means as stored, native, or the default of a media type.

    `image/*` means that of single frames (PS3.18 8.7.7).
    """
    if found.transfer_syntax != AS_STORED or syntax in (stored, EXPLICIT_VR_LE):
        return True
    if found.media_type == "image/*":
        return (media_type, syntax) == ("image/jpeg", JPEG_LOSSLESS_SV1)
    return syntax == DEFAULTS.get(media_type)


def _unnamed(acceptable: Acceptable, form: Form, stored: str) -> Iterator[_Offer]:
    """A media type that names no syntax, and frames that are not in its default one: given as stored.

    PS3.18 8.7.3.3 for pixels that only exist in lossy form. Reversible ones leave so only if they cannot be converted:
    their own media type says how they are coded.
    """
    row = syntax_of(stored)
    for media_type in dict.fromkeys((row.media_type, OCTETS)):
        default = acceptable.match(media_type, DEFAULTS.get(media_type, EXPLICIT_VR_LE), form)
        if default is None or default.transfer_syntax is not None or default.quality == 0:
            continue
        own = media_type != OCTETS
        if acceptable.match(media_type, stored, form) is None and (own or row.kind in IRREVERSIBLE):
            yield _offer(media_type, stored, default, 0 if own and row.kind in IRREVERSIBLE else 2)


def _pairs(stored: str, can: Can, bits_allocated: int | None) -> Sequence[tuple[str, str]]:
    """(media type, transfer syntax) of what frames could be: as stored, native, converted without loss."""
    row = syntax_of(stored)
    kept = [] if row.kind is Kind.NATIVE else [(row.media_type, stored), (OCTETS, stored)]
    native = [(OCTETS, EXPLICIT_VR_LE)] if stored == EXPLICIT_VR_LE or can(stored, EXPLICIT_VR_LE) else []
    made = [
        (media_type, uid)
        for uid, target in SYNTAXES.items()
        if target.kind in (Kind.LOSSLESS, Kind.EITHER)
        and carries(target, bits_allocated)
        and can(stored, uid)
        for media_type in (target.media_type, OCTETS)
    ]
    return list(dict.fromkeys([*kept, *native, *made]))


def _offer(media_type: str, syntax: str, found: MediaRange, level: int) -> _Offer:
    return _Offer(
        FrameForm(found.form is Form.MULTIPART, media_type, syntax), level, found.quality, found.order
    )


def _not_acceptable(pairs: Sequence[tuple[str, str]]) -> HttpRefusal:
    texts = [media_type + (f";transfer-syntax={syntax}" if syntax else "") for media_type, syntax in pairs]
    detail = f"Could be had: {', '.join(texts)}."
    return HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
