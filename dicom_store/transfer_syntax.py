"""Transfer syntaxes and SOP classes as serving needs to know them, as tables (PS3.6 A-1, PS3.18 8.7.3, PS3.4 B.5).

Not a list of what can be decoded: whether one syntax can be made from another is asked of the transcoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
DICOM, OCTETS = "application/dicom", "application/octet-stream"


class Kind(Enum):
    """What an encoding does to pixels."""

    NATIVE = "not compressed"
    LOSSLESS = "reversible"
    EITHER = "reversible or not, as the encoder chose"
    LOSSY = "not reversible"
    VIDEO = "not reversible, several frames in one stream"
    OPAQUE = "unknown here: given as stored or not at all"


REVERSIBLE = (Kind.NATIVE, Kind.LOSSLESS, Kind.EITHER)  # what is made of EITHER here is lossless
IRREVERSIBLE = (Kind.LOSSY, Kind.EITHER, Kind.VIDEO)  # what may be all that there is of the pixels


class Leaves(Enum):
    """When an instance stored so may leave as it is; else it leaves as Explicit VR LE."""

    ALWAYS = "whenever it is acceptable"
    NAMED = "only to a client that names it: few read it"
    NEVER = "PS3.18 8.7.3: shall not be used with Web Services"


@dataclass(frozen=True, slots=True)
class Syntax:
    """One row. `media_type`: of its frames alone (tables 8.7.3-4, 8.7.3-5), `default`: for that media type.

    `in_mesh`: one of the ten of CI-SIS (drim-m-data 3.3); `depths`: values of BitsAllocated that can be compressed
    so, () = any.
    """

    name: str
    kind: Kind
    media_type: str
    in_mesh: bool = False
    default: bool = False
    leaves: Leaves = Leaves.ALWAYS
    depths: tuple[int, ...] = ()


_BYTES = (8, 16)  # PS3.5 8.2

# fmt: off
_ROWS: tuple[tuple[str, Syntax], ...] = (
    ("", Syntax("Implicit VR Little Endian", Kind.NATIVE, OCTETS, leaves=Leaves.NEVER)),
    (".1", Syntax("Explicit VR Little Endian", Kind.NATIVE, OCTETS, in_mesh=True, default=True)),
    (".1.98", Syntax("Encapsulated Uncompressed Explicit VR Little Endian", Kind.LOSSLESS, OCTETS)),
    (".1.99", Syntax("Deflated Explicit VR Little Endian", Kind.NATIVE, OCTETS, leaves=Leaves.NAMED)),
    (".2", Syntax("Explicit VR Big Endian", Kind.NATIVE, OCTETS, leaves=Leaves.NEVER)),
    (".5", Syntax("RLE Lossless", Kind.LOSSLESS, "image/dicom-rle", default=True, leaves=Leaves.NAMED)),
    (".4.50", Syntax("JPEG Baseline", Kind.LOSSY, "image/jpeg", in_mesh=True, depths=(8,))),
    (".4.51", Syntax("JPEG Extended", Kind.LOSSY, "image/jpeg", in_mesh=True, depths=_BYTES)),
    (".4.57", Syntax("JPEG Lossless", Kind.LOSSLESS, "image/jpeg", depths=_BYTES)),
    (".4.70", Syntax("JPEG Lossless SV1", Kind.LOSSLESS, "image/jpeg", in_mesh=True, default=True, depths=_BYTES)),
    (".4.80", Syntax("JPEG-LS Lossless", Kind.LOSSLESS, "image/jls", in_mesh=True, default=True, depths=_BYTES)),
    (".4.81", Syntax("JPEG-LS Near-Lossless", Kind.EITHER, "image/jls", depths=_BYTES)),
    (".4.90", Syntax("JPEG 2000 Lossless", Kind.LOSSLESS, "image/jp2", default=True, depths=_BYTES)),
    (".4.91", Syntax("JPEG 2000", Kind.EITHER, "image/jp2", in_mesh=True, depths=_BYTES)),
    (".4.92", Syntax("JPEG 2000 Part 2 Lossless", Kind.LOSSLESS, "image/jpx", default=True, depths=_BYTES)),
    (".4.93", Syntax("JPEG 2000 Part 2", Kind.EITHER, "image/jpx", depths=_BYTES)),
    (".4.110", Syntax("JPEG XL Lossless", Kind.LOSSLESS, "image/jxl", default=True)),
    (".4.111", Syntax("JPEG XL JPEG Recompression", Kind.LOSSY, "image/jxl")),
    (".4.112", Syntax("JPEG XL", Kind.EITHER, "image/jxl")),
    (".4.201", Syntax("HTJ2K Lossless", Kind.LOSSLESS, "image/jphc", default=True)),
    (".4.202", Syntax("HTJ2K RPCL Lossless", Kind.LOSSLESS, "image/jphc")),
    (".4.203", Syntax("HTJ2K", Kind.EITHER, "image/jphc")),
    (".4.100", Syntax("MPEG2 MP@ML", Kind.VIDEO, "video/mpeg", in_mesh=True, default=True)),
    (".4.100.1", Syntax("Fragmentable MPEG2 MP@ML", Kind.VIDEO, "video/mpeg")),
    (".4.101", Syntax("MPEG2 MP@HL", Kind.VIDEO, "video/mpeg", in_mesh=True)),
    (".4.101.1", Syntax("Fragmentable MPEG2 MP@HL", Kind.VIDEO, "video/mpeg")),
    (".4.102", Syntax("H.264 HP@4.1", Kind.VIDEO, "video/mp4", in_mesh=True, default=True)),
    (".4.102.1", Syntax("Fragmentable H.264 HP@4.1", Kind.VIDEO, "video/mp4")),
    (".4.103", Syntax("H.264 HP@4.1 BD-compatible", Kind.VIDEO, "video/mp4", in_mesh=True)),
    (".4.103.1", Syntax("Fragmentable H.264 HP@4.1 BD-compatible", Kind.VIDEO, "video/mp4")),
    (".4.104", Syntax("H.264 HP@4.2 2D", Kind.VIDEO, "video/mp4")),
    (".4.104.1", Syntax("Fragmentable H.264 HP@4.2 2D", Kind.VIDEO, "video/mp4")),
    (".4.105", Syntax("H.264 HP@4.2 3D", Kind.VIDEO, "video/mp4")),
    (".4.105.1", Syntax("Fragmentable H.264 HP@4.2 3D", Kind.VIDEO, "video/mp4")),
    (".4.106", Syntax("H.264 Stereo HP@4.2", Kind.VIDEO, "video/mp4")),
    (".4.106.1", Syntax("Fragmentable H.264 Stereo HP@4.2", Kind.VIDEO, "video/mp4")),
    (".4.107", Syntax("H.265 MP@5.1", Kind.VIDEO, "video/h265", default=True)),
    (".4.108", Syntax("H.265 M10P@5.1", Kind.VIDEO, "video/h265")),
)
# fmt: on

SYNTAXES: Mapping[str, Syntax] = {f"1.2.840.10008.1.2{suffix}": row for suffix, row in _ROWS}
MESH: frozenset[str] = frozenset(uid for uid, row in SYNTAXES.items() if row.in_mesh)
# The transfer syntax meant when none is named (tables 8.7.3-2, -4, -5); Explicit VR LE for the other media types.
DEFAULTS: Mapping[str, str] = {row.media_type: uid for uid, row in SYNTAXES.items() if row.default}
_UNKNOWN = Syntax("unknown", Kind.OPAQUE, OCTETS)


def syntax_of(transfer_syntax: str) -> Syntax:
    """The row of a transfer syntax; one that says OPAQUE for a syntax that is not in the table."""
    return SYNTAXES.get(transfer_syntax, _UNKNOWN)


def carries(row: Syntax, bits_allocated: int | None) -> bool:
    """Whether pixels of that depth (BitsAllocated, None = not known) can be encoded so."""
    return bits_allocated is None or not row.depths or bits_allocated in row.depths


# Storage SOP classes of PS3.4 B.5 and I.4 whose instances have no pixel data, "." at the end = all below.
_WITHOUT_PIXELS: tuple[tuple[str, str], ...] = (
    ("1.2.840.10008.5.1.4.1.1.4.2", "MR Spectroscopy"),
    ("1.2.840.10008.5.1.4.1.1.8", "Standalone Overlay"),
    ("1.2.840.10008.5.1.4.1.1.9", "Standalone Curve"),
    ("1.2.840.10008.5.1.4.1.1.9.", "waveforms"),
    ("1.2.840.10008.5.1.4.1.1.10", "Standalone Modality LUT"),
    ("1.2.840.10008.5.1.4.1.1.11", "Standalone VOI LUT"),
    ("1.2.840.10008.5.1.4.1.1.11.", "presentation states"),
    ("1.2.840.10008.5.1.4.1.1.66", "Raw Data"),
    ("1.2.840.10008.5.1.4.1.1.66.1", "Spatial Registration"),
    ("1.2.840.10008.5.1.4.1.1.66.2", "Spatial Fiducials"),
    ("1.2.840.10008.5.1.4.1.1.66.3", "Deformable Spatial Registration"),
    ("1.2.840.10008.5.1.4.1.1.66.5", "Surface Segmentation"),
    ("1.2.840.10008.5.1.4.1.1.66.6", "Tractography Results"),
    ("1.2.840.10008.5.1.4.1.1.67", "Real World Value Mapping"),
    ("1.2.840.10008.5.1.4.1.1.68.", "surface scans"),
    ("1.2.840.10008.5.1.4.1.1.77.1.5.3", "Stereometric Relationship"),
    ("1.2.840.10008.5.1.4.1.1.78.", "ophthalmic measurements"),
    ("1.2.840.10008.5.1.4.1.1.79.1", "Macular Grid Thickness and Volume"),
    ("1.2.840.10008.5.1.4.1.1.80.1", "Visual Field Static Perimetry"),
    ("1.2.840.10008.5.1.4.1.1.88.", "structured reports, key object selections (KOS)"),
    ("1.2.840.10008.5.1.4.1.1.90.1", "Content Assessment Results"),
    ("1.2.840.10008.5.1.4.1.1.91.1", "Microscopy Bulk Simple Annotations"),
    ("1.2.840.10008.5.1.4.1.1.104.", "encapsulated documents"),
    ("1.2.840.10008.5.1.4.1.1.129", "Standalone PET Curve"),
    ("1.2.840.10008.5.1.4.1.1.131", "Basic Structured Display"),
    ("1.2.840.10008.5.1.4.1.1.200.", "procedure protocols"),
    ("1.2.840.10008.5.1.4.1.1.201.1", "Inventory"),
    ("1.2.840.10008.5.1.4.34.", "RT delivery instructions"),
    ("1.2.840.10008.5.1.4.38.1", "Hanging Protocol"),
    ("1.2.840.10008.5.1.4.39.1", "Color Palette"),
    ("1.2.840.10008.5.1.4.43.1", "Generic Implant Template"),
    ("1.2.840.10008.5.1.4.44.1", "Implant Assembly Template"),
    ("1.2.840.10008.5.1.4.45.1", "Implant Template Group"),
    # radiotherapy but for RT Image (1), RT Dose (2), Enhanced (23) and Continuous (24) RT Image
    *((f"1.2.840.10008.5.1.4.1.1.481.{n}", "RT objects") for n in (*range(3, 23), 25)),
)
_EXACT = frozenset(uid for uid, _ in _WITHOUT_PIXELS if uid[-1] != ".")
_BRANCHES = tuple(uid for uid, _ in _WITHOUT_PIXELS if uid[-1] == ".")


def has_pixels(sop_class_uid: str) -> bool:
    """Whether instances of a SOP class have pixel data; a class that is not in the table is taken to have."""
    return sop_class_uid not in _EXACT and not sop_class_uid.startswith(_BRANCHES)
