"""WADO-RS (PS3.18 10.4, RAD-107): instances that were granted → the answer that gives them in the form accepted.

Who may have what is decided before, by others. An instance leaves as stored, as an extent of its segment, or
converted while the parts before it are sent.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from dicom_store.archive import StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import Body, Extent, Later, Piece, Source, body_of
from dicom_store.byte_range import asked_range
from dicom_store.negotiation import Form, ServingPolicy, parse_accept
from dicom_store.representation import InstanceFacts, Plan, check_frames, plan
from dicom_store.resources import Resource
from dicom_store.status import HttpRefusal
from dicom_store.transmit import Transfer

_Kind = tuple[str, str, int | None]  # what negotiation looks at: syntax, SOP class, bits


class Conversions(Protocol):
    """Transfer syntaxes into others. `converted` raises `HttpRefusal`: 406 when it cannot be done, 503 when busy."""

    def can(self, stored: str, target: str) -> bool: ...
    async def converted(self, stored: StoredInstance, target: str, client: str) -> Extent: ...


@dataclass(frozen=True, slots=True)
class Images:
    """The answer, and the transfer syntaxes in which the instances leave."""

    transfer: Transfer
    syntaxes: tuple[str, ...]


class WadoRs:
    """Makes the answers. `source(segment)`: the file that the extents of its instances point into."""

    def __init__(
        self, source: Callable[[str], Source], conversions: Conversions, policy: ServingPolicy
    ) -> None:
        self._source = source
        self._conversions = conversions
        self._policy = policy
        # partners ask for instance after instance in the same words
        self._plan = lru_cache(maxsize=256)(self._judge)

    async def answer(
        self, request: HttpRequest, resource: Resource, instances: Sequence[StoredInstance]
    ) -> Images:
        """The instances of a study, a series, or one (also as its frame 1). Raises `HttpRefusal`."""
        if not instances:
            raise HttpRefusal(404, "not-found", "Not found", "There is no such instance here.")
        if resource.frames is not None:
            check_frames(resource.frames, instances[0].ref)
        kinds = [(one.ref.TransferSyntaxUID, one.ref.SOPClassUID, one.bits_allocated) for one in instances]
        each = tuple(dict.fromkeys(kinds))  # a study has few: each is judged once
        chosen = self._plan(request.accept, each, resource.sop is not None)
        syntax_of = dict(zip(each, chosen.syntaxes, strict=True))
        sent = [(one, syntax_of[kind]) for one, kind in zip(instances, kinds, strict=True)]
        syntaxes = tuple(sorted(set(chosen.syntaxes)))
        if chosen.form is Form.SINGLE:
            return Images(await self._single(request, *sent[0]), syntaxes)
        return Images(await self._multipart(request, sent, syntaxes), syntaxes)

    def _judge(self, accept: Sequence[str], kinds: Sequence[_Kind], alone: bool) -> Plan:
        facts = [InstanceFacts(*kind) for kind in kinds]
        return plan(parse_accept(accept), facts, alone, self._conversions.can, self._policy)

    async def _single(self, request: HttpRequest, stored: StoredInstance, syntax: str) -> Transfer:
        extent = await self._extent(stored, syntax, request.client)
        etag = _etag(stored, syntax)
        headers = {"Content-Type": dicom_type(syntax), "Accept-Ranges": "bytes", "ETag": etag}
        asked = request.headers
        part = asked_range(asked.get("range"), asked.get("if-range"), etag, extent.length)
        if part is None or request.method != "GET":
            return Transfer(200, {**headers, "Content-Length": str(extent.length)}, body_of(extent))
        headers |= {"Content-Range": part.content_range, "Content-Length": str(part.length)}
        return Transfer(206, headers, body_of(extent.part(part.first, part.length)))

    async def _multipart(
        self, request: HttpRequest, sent: Sequence[tuple[StoredInstance, str]], syntaxes: tuple[str, ...]
    ) -> Transfer:
        boundary = secrets.token_hex(20)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        if len(syntaxes) == 1:
            content_type += f"; transfer-syntax={syntaxes[0]}"
        headers = {"Content-Type": content_type}
        if len(sent) == 1:  # made now: its length is then known
            stored, syntax = sent[0]
            extent = await self._extent(stored, syntax, request.client)
            body = body_of(_head(boundary, syntax, extent.length), extent, _tail(boundary))
        else:
            body = Body(partial(self._parts, boundary, sent, request.client), _length(boundary, sent))
        if body.length is not None:
            headers["Content-Length"] = str(body.length)
        return Transfer(200, headers, body)

    def _parts(
        self, boundary: str, sent: Sequence[tuple[StoredInstance, str]], client: str
    ) -> Iterator[Piece]:
        for stored, syntax in sent:
            if syntax != stored.ref.TransferSyntaxUID:
                yield Later(partial(self._converted_part, boundary, stored, syntax, client))
                continue
            yield _head(boundary, syntax, stored.length)
            yield Extent(self._source(stored.segment), stored.offset, stored.length)
            yield b"\r\n"
        yield _closing(boundary)

    async def _converted_part(
        self, boundary: str, stored: StoredInstance, syntax: str, client: str
    ) -> Sequence[bytes | Extent]:
        extent = await self._conversions.converted(stored, syntax, client)
        return _head(boundary, syntax, extent.length), extent, b"\r\n"

    async def _extent(self, stored: StoredInstance, syntax: str, client: str) -> Extent:
        if syntax != stored.ref.TransferSyntaxUID:
            return await self._conversions.converted(stored, syntax, client)
        return Extent(self._source(stored.segment), stored.offset, stored.length)


def dicom_type(transfer_syntax: str) -> str:
    """Content-Type of a DICOM file."""
    return f"application/dicom;transfer-syntax={transfer_syntax}"


def _etag(stored: StoredInstance, syntax: str) -> str:
    """Of these very bytes: an instance is never written again at the same place."""
    named = f"{stored.segment} {stored.offset} {stored.length} {syntax}"
    return f'"{hashlib.sha256(named.encode("ascii")).hexdigest()[:32]}"'


def _length(boundary: str, sent: Sequence[tuple[StoredInstance, str]]) -> int | None:
    """Bytes of a multipart whose instances all leave as stored; None when one has to be made first."""
    if any(syntax != stored.ref.TransferSyntaxUID for stored, syntax in sent):
        return None
    heads = {syntax: len(_head(boundary, syntax, 0)) - 1 for syntax in {syntax for _, syntax in sent}}
    parts = sum(heads[syntax] + len(str(stored.length)) + stored.length + 2 for stored, syntax in sent)
    return parts + len(_closing(boundary))


def _head(boundary: str, syntax: str, length: int) -> bytes:
    about = f"Content-Type: {dicom_type(syntax)}\r\nContent-Length: {length}"
    return f"--{boundary}\r\n{about}\r\n\r\n".encode("ascii")


def _tail(boundary: str) -> bytes:
    return b"\r\n" + _closing(boundary)


def _closing(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode("ascii")
