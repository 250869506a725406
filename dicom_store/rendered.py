"""Rendered images (PS3.18 10.4.1.1.3, 8.7.4): one picture, or a part for each frame of a list, each image of a series.

Of a series or a study every instance that has a picture gives its representative frame; reports and the like, and
what cannot be decoded here, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dicom_store.archive import StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import Body, Extent, Later, Piece, body_of
from dicom_store.frame_representation import choose_rendered
from dicom_store.negotiation import Acceptable, Form, parse_accept
from dicom_store.related import Related
from dicom_store.render_params import RenderParams, parse_render_params
from dicom_store.resources import Resource
from dicom_store.shown import ShownInstances, address_of
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import has_pixels
from dicom_store.transmit import Transfer

_TYPES = ("image/jpeg", "image/png")


class Pictures(Protocol):
    """Makes pictures. Raises `HttpRefusal`: 406 for what cannot be shown, 503 when busy.

    `frame`: from 1, None = the representative one; `client`: who asks, for fairness.
    """

    async def rendered(
        self, stored: StoredInstance, frame: int | None, params: RenderParams, client: str
    ) -> Extent: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    stored: StoredInstance
    frame: int | None
    address: str


class Rendered:
    """Answers rendered resources."""

    def __init__(self, shown: ShownInstances, pictures: Pictures) -> None:
        self._shown = shown
        self._pictures = pictures

    async def __call__(self, request: HttpRequest, resource: Resource, base_url: str) -> Transfer:
        """The picture or pictures of a resource. Raises `HttpRefusal` 400, 404, 406; 503 as `Pictures` does."""
        acceptable = parse_accept(request.accept)
        wanted = _wanted(resource, await self._shown.of(resource), f"{base_url}/studies/{resource.study}")
        form, media_type = _chosen(acceptable, alone=resource.sop is not None and len(wanted) == 1)
        parameters: dict[str, list[str]] = {}
        for name, value in request.query:
            parameters.setdefault(name, []).append(value)
        one = _Making(self._pictures, parse_render_params(parameters, media_type), request.client)
        if form is Form.SINGLE:
            return await one.alone(wanted[0])
        return await one.every(wanted) if resource.sop is not None else await one.what_there_is(wanted)


@dataclass(frozen=True, slots=True)
class _Making:
    """The pictures of one request."""

    pictures: Pictures
    params: RenderParams
    client: str

    async def alone(self, wanted: _Wanted) -> Transfer:
        extent = await self._picture(wanted)
        headers = {
            "Content-Type": self.params.media_type,
            "Content-Location": wanted.address,
            "Content-Length": str(extent.length),
        }
        return Transfer(200, headers, body_of(extent))

    async def every(self, wanted: Sequence[_Wanted]) -> Transfer:
        """A part for each: one that cannot be made refuses, or cuts, the answer."""
        related = Related(self.params.media_type)
        pieces: list[Piece] = [Later(partial(self._part, related, one)) for one in wanted]
        return Transfer(200, related.headers, Body(lambda: [*pieces, related.closing], None))

    async def what_there_is(self, wanted: Sequence[_Wanted]) -> Transfer:
        """Parts of those that can be shown. Raises the refusal of the last when none can."""
        related, rest = Related(self.params.media_type), list(wanted)
        first = await self._part(related, rest[0], leave_out=len(rest) > 1)
        while not first:
            rest = rest[1:]
            first = await self._part(related, rest[0], leave_out=len(rest) > 1)

        def pieces() -> Iterator[Piece]:
            yield from first
            for one in rest[1:]:
                yield Later(partial(self._part, related, one, leave_out=True))
            yield related.closing

        return Transfer(200, related.headers, Body(pieces, None))

    async def _part(
        self, related: Related, wanted: _Wanted, leave_out: bool = False
    ) -> Sequence[bytes | Extent]:
        """The part of a picture; nothing for one that cannot be shown, if it may be left out."""
        try:
            extent = await self._picture(wanted)
        except HttpRefusal as refusal:
            if leave_out and refusal.status == 406:
                return ()
            raise
        return related.part(self.params.media_type, wanted.address, extent)

    async def _picture(self, wanted: _Wanted) -> Extent:
        return await self.pictures.rendered(wanted.stored, wanted.frame, self.params, self.client)


def _wanted(resource: Resource, instances: Sequence[StoredInstance], study_url: str) -> list[_Wanted]:
    """What is to be shown, never empty."""
    shown = [stored for stored in instances if has_pixels(stored.ref.SOPClassUID)]
    if not shown:
        detail = "There is nothing to show in it: no pixel data."
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
    if resource.frames is None:
        return [_Wanted(one, None, f"{study_url}{address_of(one)}/rendered") for one in shown]
    numbers = [int(number) for number in resource.frames.split(",")]
    count = shown[0].ref.NumberOfFrames or 1
    if max(numbers) > count:
        raise HttpRefusal(404, "not-found", "Not found", f"The instance has {count} frame(s).")
    url = f"{study_url}{address_of(shown[0])}/frames"
    return [_Wanted(shown[0], number, f"{url}/{number}/rendered") for number in numbers]


def _chosen(acceptable: Acceptable, alone: bool) -> tuple[Form, str]:
    """One picture comes alone if it may; several are parts, also for a client that only names the picture's type."""
    found = [
        (form, media_range, media_type)
        for form in (Form.SINGLE, Form.MULTIPART)
        for media_type in _TYPES
        if (media_range := acceptable.match(media_type, None, form)) and media_range.quality > 0
    ]
    if not found:
        return Form.SINGLE, choose_rendered(acceptable)  # refuses, and says what could be had
    preferred = Form.SINGLE if alone else Form.MULTIPART
    form, _, media_type = min(found, key=lambda f: (f[0] is not preferred, -f[1].quality, f[1].order))
    return (form if alone else Form.MULTIPART), media_type
