"""Transaction UID and referenced instances of an Action Information (PS3.4 J.3.2.1.1), without decoding the rest. Pure.

An N-ACTION may hold millions of tiny elements: pydicom makes an object of each, which takes minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicom_store.scanner import (
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Buffer,
    Encoding,
    Scanner,
    Unreadable,
)

_TRANSACTION_UID, _SEQUENCE = 0x00081195, 0x00081199
_SOP_CLASS, _SOP_INSTANCE = 0x00081150, 0x00081155

_Element = tuple[int, bytes, int, int]  # tag, VR or b"", length, start of the value


class TooMany(ValueError):
    """More references than asked to read."""


def read_references(data_set: Buffer, encoding: Encoding, most: int) -> tuple[str, list[tuple[str, str]]]:
    """The Transaction UID, and SOP class and instance UID of each reference; empty where there is none.

    Raises `TooMany` beyond `most`, `scanner.Unreadable` for what is no data set of that encoding, or is cut.
    """
    return _Walk(data_set, encoding).information(most)


class _Walk:
    """Goes through nested elements; `_at` is the position of the next one."""

    def __init__(self, data_set: Buffer, encoding: Encoding) -> None:
        self._scanner = Scanner(data_set, encoding)
        self._implicit = encoding.implicit_vr
        self._at = 0

    def information(self, most: int) -> tuple[str, list[tuple[str, str]]]:
        """See `read_references`."""
        transaction, asked = "", []
        for tag, vr, length, start in self._within(0, self._scanner.end, ITEM_END):
            if tag == _SEQUENCE and vr in (b"SQ", b""):
                for item in self._within(start, length, SEQUENCE_END):
                    asked.append(self._reference(item))
                    if len(asked) > most:
                        raise TooMany
            elif tag == _TRANSACTION_UID:
                transaction = self._text((tag, vr, length, start))
            else:
                self._pass((tag, vr, length, start))
        return transaction, asked

    def _reference(self, item: _Element) -> tuple[str, str]:
        tag, _, length, start = item
        if tag != ITEM:
            raise Unreadable("something else than an item in a sequence")
        uids = {_SOP_CLASS: "", _SOP_INSTANCE: ""}
        for element in self._within(start, length, ITEM_END):
            if element[0] in uids:
                uids[element[0]] = self._text(element)
            else:
                self._pass(element)
        return uids[_SOP_CLASS], uids[_SOP_INSTANCE]

    def _within(self, start: int, length: int, closing: int) -> Iterator[_Element]:
        """What is in a value, up to `closing` when its length is undefined. Whoever gets one moves on behind it."""
        end = -1 if length == UNDEFINED_LENGTH else self._scanner.after_value(start, length)
        bare = self._implicit or closing == SEQUENCE_END  # items have no VR
        self._at = start
        while self._at != end:
            if end < 0:
                tag, _, _, value = self._scanner.element(self._at, True)
                if tag == closing:
                    self._at = value
                    return
            elif self._at > end:
                raise Unreadable("an element longer than what it is in")
            yield self._scanner.element(self._at, bare)

    def _text(self, element: _Element) -> str:
        start = element[3]
        self._pass(element)
        return bytes(self._scanner.view[start : self._at]).decode("ascii", "replace").strip("\0 ")

    def _pass(self, element: _Element) -> None:
        _, vr, length, start = element
        if length == UNDEFINED_LENGTH:
            self._at = self._scanner.after_sequence(start, vr, self._implicit)
        else:
            self._at = self._scanner.after_value(start, length)
