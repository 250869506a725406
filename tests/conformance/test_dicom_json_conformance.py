"""dicom_json against pydicom's `to_json_dict`, on the files that pydicom ships and on official ones.

Every deliberate difference is a line of `_as_we_say`; everything else must be equal, bulk data byte for byte.
"""

from __future__ import annotations

import json
import warnings
from base64 import b64decode, b64encode
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.uid import UID

from dicom_store.dicom_json import instance_json
from dicom_store.header import DEFLATED, EXPLICIT_VR_BIG_ENDIAN
from dicom_store.part10 import data_set_offset

_DATA = Path(pydicom.__file__).parent / "data"
_NO_PART10 = {"ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta", "meta_missing_tsyntax", "no_meta", "rtstruct"}
_NO_PART10 |= {"no_meta_group_length"}
# What pydicom cannot write, or reads on beyond what is certain: (file, tags that are not compared).
_NOT_COMPARED = {
    "badVR": {"00280008"},  # IS "1A": ours is a string (F.2.3)
    "rtplan_truncated": {"300A00B0"},  # the sequence that is cut: ours is left out
}
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
Difference = tuple[str, Any, Any]  # the tag, what we say of it, what pydicom says
_FILES = sorted([*(_DATA / "charset_files").glob("*.dcm"), *(_DATA / "test_files").glob("*.dcm")])


@pytest.mark.parametrize(
    "path", [path for path in _FILES if path.stem not in _NO_PART10], ids=lambda p: p.stem
)
def test_pydicom_says_the_same(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what is wrong in its own examples
        found = list(differences(path, _NOT_COMPARED.get(path.stem, set())))
    assert found == []


def test_official_files(official: Path) -> None:
    paths = sorted(official.rglob("*.dcm"))
    assert paths
    assert [(path.name, *one) for path in paths for one in differences(path)] == []


def differences(path: Path, not_compared: AbstractSet[str] = frozenset()) -> Iterator[Difference]:
    """Where what we say of a file is not what pydicom says."""
    file = path.read_bytes()
    dataset = dcmread(path)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    begin = data_set_offset(file)
    ours = json.loads(instance_json(file[begin:], syntax, begin))
    return _of_items(ours, dataset, file, syntax, not_compared)


def _of_items(
    ours: dict[str, Any],
    dataset: Dataset,
    file: bytes,
    syntax: UID,
    not_compared: AbstractSet[str] = frozenset(),
) -> Iterator[Difference]:
    theirs = {f"{one.tag:08X}": one.tag for one in dataset if one.tag.element != 0}
    for key in sorted((ours.keys() | theirs.keys()) - not_compared):
        if key not in theirs:
            if key != "00080005":  # JSON has a character set in any case
                yield key, ours[key], None
            continue
        element, mine = dataset[theirs[key]], ours.get(key)
        if mine is None:
            yield key, None, element
        elif mine["vr"] == "SQ":
            items = mine.get("Value", [])
            if len(items) != len(element.value):
                yield key, len(items), len(element.value)
            for item, other in zip(items, element.value, strict=False):
                yield from _of_items(item, other, file, syntax)
        elif (said := _with_bytes(mine, file, element)) != (due := _as_we_say(element, mine, syntax)):
            yield key, said, due


def _with_bytes(ours: dict[str, Any], file: bytes, element: DataElement) -> dict[str, Any]:
    """Ours, with what its address points to."""
    if "BulkDataURI" not in ours:
        return ours
    offset, length = map(int, ours["BulkDataURI"].removeprefix("bulkdata/").split("-"))
    value = file[offset : offset + length]
    if element.is_undefined_length:
        if not value.endswith(_DELIMITER):
            return ours  # it is a part of ours: whatever else is there is a difference
        value = value.removesuffix(_DELIMITER)
    return {"vr": ours["vr"], "InlineBinary": b64encode(value).decode()}


def _as_we_say(element: DataElement, ours: dict[str, Any], syntax: UID) -> dict[str, Any]:
    """pydicom's member with the deliberate differences."""
    if element.tag == 0x00080005:
        return {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8
    if element.tag.is_private and ours["vr"] == "UN" != element.VR:
        # pydicom has a dictionary of private elements; what it makes of them is not in the data set
        return ours
    theirs: dict[str, Any] = json.loads(json.dumps(element.to_json_dict(None, 0)))
    if element.is_undefined_length:
        theirs["vr"] = "OB"  # whatever was written (PS3.5 A.4)
    word = _WORDS.get(element.VR, 1)
    if syntax == EXPLICIT_VR_BIG_ENDIAN and word > 1 and "InlineBinary" in theirs:
        if "InlineBinary" not in ours:
            return {"vr": element.VR}  # bulk data is little endian: it cannot be had from the file
        raw = b64decode(theirs["InlineBinary"])
        swapped = b"".join(raw[at : at + word][::-1] for at in range(0, len(raw), word))
        theirs["InlineBinary"] = b64encode(swapped).decode()
    if syntax in DEFLATED and "InlineBinary" in theirs and "InlineBinary" not in ours:
        return {"vr": element.VR}  # nor from a deflated one
    if "Value" in theirs:
        # an empty value among others is null (F.2.5); each value without its padding
        theirs["Value"] = [(v.rstrip("\0 ") or None) if isinstance(v, str) else v for v in theirs["Value"]]
    return theirs
