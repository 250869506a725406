"""Which transfer syntaxes become which: a pure table, and the words for "it could not be done".

From Implicit VR LE, Explicit VR LE and BE, Deflated, RLE, JPEG .50 .51 .57 .70, JPEG-LS .80 .81, JPEG 2000 .90 .91
to Explicit VR LE; losslessly to .70 .80 .90 .91; lossy, when asked, to .50.

Never: video, HTJ2K, JPEG XL, JPIP (nothing here decodes them), and JPEG Extended .51 as a target (no kept codec
writes 12-bit DCT). What depends on the image itself (1-bit, 32-bit, float) is refused when it is met.
"""

from __future__ import annotations

from collections.abc import Mapping

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"

NATIVE = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
    }
)
SOURCES = NATIVE | {
    RLE_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_2000,
}

# BitsAllocated that each target can carry; None = whatever the source has.
_TARGETS: Mapping[str, frozenset[int] | None] = {
    EXPLICIT_VR_LITTLE_ENDIAN: None,
    JPEG_LOSSLESS_SV1: frozenset({8, 16}),
    JPEG_LS_LOSSLESS: frozenset({8, 16}),
    JPEG_2000_LOSSLESS: frozenset({8, 16}),
    JPEG_2000: frozenset({8, 16}),  # written losslessly (PS3.5 A.4.4 allows both)
    JPEG_BASELINE: frozenset({8}),
}
LOSSY_TARGETS = frozenset({JPEG_BASELINE})
LOSSLESS_TARGETS = frozenset(_TARGETS) - LOSSY_TARGETS

# Part of the name of every cached result: raise it when the same input would give other bytes.
TRANSCODER_VERSION = 1


class TranscodeFailed(Exception):
    """The file cannot be had in that form. `reason`: one sentence without values of the data set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SourceUnreadable(TranscodeFailed):
    """The stored file is damaged, or cannot be read: no fault of what was asked for."""


class Busy(Exception):
    """Too much conversion work is waiting: try again later."""


def can(source: str, target: str, bits_allocated: int | None = None) -> bool:
    """Whether files of the `source` transfer syntax may be had in `target`; a syntax as itself is no conversion.

    `bits_allocated`: BitsAllocated of the instance, None = not known, then the conversion may still fail.
    """
    if source not in SOURCES or target not in _TARGETS or source == target:
        return False
    carried = _TARGETS[target]
    return carried is None or bits_allocated is None or bits_allocated in carried
