"""Range of a request (RFC 9110 14): one range of bytes of a representation whose length is known."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dicom_store.status import HttpRefusal

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `first` on, of `total`."""

    first: int
    length: int
    total: int

    @property
    def content_range(self) -> str:
        """Value of Content-Range."""
        return f"bytes {self.first}-{self.first + self.length - 1}/{self.total}"


def asked_range(header: str | None, if_range: str | None, etag: str, total: int) -> ByteRange | None:
    """The range to send; None = all of it: no Range, several, a malformed one, or an If-Range of something else.

    Raises `HttpRefusal` 416 for a range that lies beyond the end (RFC 9110 15.5.17).
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        length = min(int(last), total)
        start = total - length
    else:
        start = int(first)
        stop = min(int(last), total - 1) if last else total - 1
        if last and int(last) < start:
            return None
        length = stop - start + 1
    if length <= 0 or start >= total:
        headers = {"Content-Range": f"bytes */{total}"}
        detail = f"There are {total} bytes."
        raise HttpRefusal(416, "range-not-satisfiable", "Range not satisfiable", detail, headers)
    return ByteRange(start, length, total)
