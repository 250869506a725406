"""MTOM/XOP packaging out, strictly; multipart answers in, leniently (dmp-kos-xds 2.2). Bytes, never text."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROOT_CONTENT_ID = "envelope@drimbox"
MAX_PARTS = 64
_TOKEN = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{16,70}")  # RFC 2046 boundary, long enough to be unguessable
_BOUNDARY = re.compile(r'boundary\s*=\s*(?:"([^"]+)"|([^\s;,"]+))', re.IGNORECASE)
_START = re.compile(r'start\s*=\s*(?:"([^"]+)"|([^\s;,"]+))', re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\r?\n[ \t]*\r?\n")
_ENVELOPE = re.compile(rb"<(?P<prefix>(?:[A-Za-z_][\w.-]*:)?)Envelope[\s>]")


class UnreadableMime(ValueError):
    """No root part can be found in the answer."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One binary part. `content_id` without angle brackets, `x@y`."""

    content_id: str
    content: bytes
    content_type: str = "application/octet-stream"


def package(
    envelope: bytes, attachments: Sequence[Attachment], *, boundary: str, action: str
) -> tuple[str, bytes]:
    """(Content-Type, body) of a multipart/related MTOM message: CRLF, binary parts, root part first.

    Raises ValueError when the boundary is too short or malformed, or occurs in a part.
    """
    if not _TOKEN.fullmatch(boundary):
        raise ValueError("the boundary must have 16 to 70 characters of RFC 2046")
    delimiter = b"--" + boundary.encode("ascii")
    if any(delimiter in content for content in (envelope, *(part.content for part in attachments))):
        raise ValueError("the boundary occurs in a part")
    soap = f'type="application/soap+xml"; action="{action}"'
    root = Attachment(ROOT_CONTENT_ID, envelope, f"application/xop+xml; charset=UTF-8; {soap}")
    chunks: list[bytes] = []
    for part in (root, *attachments):
        head = (
            f"Content-Type: {part.content_type}\r\nContent-Transfer-Encoding: binary\r\n"
            f"Content-ID: <{part.content_id}>\r\n\r\n"
        )
        chunks += [delimiter, b"\r\n", head.encode("ascii"), part.content, b"\r\n"]
    chunks += [delimiter, b"--\r\n"]
    content_type = (
        f'multipart/related; type="application/xop+xml"; start="<{ROOT_CONTENT_ID}>"; '
        f'start-info="application/soap+xml"; boundary="{boundary}"; action="{action}"'
    )
    return content_type, b"".join(chunks)


def root_part(content_type: str, body: bytes) -> bytes:
    """The XML of the root part of an answer, plain or multipart.

    Tolerates a wrong or missing Content-Type, a preamble, bare LF, unquoted parameters, and as last resort
    headers glued to the envelope, as in the DMP's stored answer. Raises `UnreadableMime`.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return text
    for boundary in _boundaries(content_type, text):
        part = _pick(_parts(text, boundary), _parameter(_START, content_type))
        if part is not None and part.lstrip().startswith(b"<"):
            return part.strip()
    return _only_envelope(text)


def _boundaries(content_type: str, body: bytes) -> list[bytes]:
    declared = _parameter(_BOUNDARY, content_type).encode("latin-1", "replace")
    first = body.split(b"\n", 1)[0].rstrip()
    seen = first[2:] if first.startswith(b"--") and len(first) <= 72 else b""
    return [boundary for boundary in dict.fromkeys((declared, seen)) if boundary]


def _parameter(pattern: re.Pattern[str], content_type: str) -> str:
    match = pattern.search(content_type)
    return "" if match is None else match[1] or match[2]


def _parts(body: bytes, boundary: bytes) -> list[tuple[Mapping[str, str], bytes]]:
    pieces = re.split(rb"(?:\A|\r?\n)--" + re.escape(boundary), body, maxsplit=MAX_PARTS)
    parts = []
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            break
        head, blank, content = _cut(piece)
        if blank:
            parts.append((_headers(head), content))
    return parts


def _cut(piece: bytes) -> tuple[bytes, bytes, bytes]:
    match = _BLANK_LINE.search(piece)
    if match is None:
        return piece, b"", b""
    return piece[: match.start()], match[0], piece[match.end() :]


def _headers(head: bytes) -> Mapping[str, str]:
    lines = head.decode("latin-1").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def _pick(parts: Sequence[tuple[Mapping[str, str], bytes]], start: str) -> bytes | None:
    for headers, content in parts:
        if start and headers.get("content-id", "").strip("<>") == start.strip("<>"):
            return _decoded(headers, content)
    return _decoded(*parts[0]) if parts else None


def _decoded(headers: Mapping[str, str], content: bytes) -> bytes:
    decoders: Mapping[str, Callable[[bytes], bytes]] = {
        "base64": binascii.a2b_base64,
        "quoted-printable": binascii.a2b_qp,
    }
    decode = decoders.get(headers.get("content-transfer-encoding", "").lower())
    try:
        return decode(content) if decode else content
    except binascii.Error as error:
        raise UnreadableMime("a part is not in the encoding it declares") from error


def _only_envelope(body: bytes) -> bytes:
    starts = list(_ENVELOPE.finditer(body))
    if len(starts) != 1:
        raise UnreadableMime("the answer is neither XML nor multipart with a SOAP envelope")
    closing = b"</" + starts[0]["prefix"] + b"Envelope>"
    end = body.find(closing, starts[0].end())
    if end < 0:
        raise UnreadableMime("the SOAP envelope of the answer is cut")
    return body[starts[0].start() : end + len(closing)]
