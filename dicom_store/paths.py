"""UIDs become paths here and nowhere else; anything that is not a UID is refused (PS3.5 section 9.1)."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import PurePosixPath

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
UID_MAX_LENGTH = 64  # characters, PS3.5 9.1


class InvalidUID(ValueError):
    """The text is not a UID: wrong characters, a leading zero in a component, or over 64 characters."""


@lru_cache(maxsize=1024)  # a study has one UID and is named in every request
def check_uid(value: str) -> str:
    """Return `value` if it is a UID of PS3.5 9.1 (no padding); raise `InvalidUID` otherwise."""
    if len(value) > UID_MAX_LENGTH or not _UID.fullmatch(value):
        raise InvalidUID(f"not a UID: {value[:80]!r}")
    return value


def study_directory(study_instance_uid: str) -> PurePosixPath:
    """Relative directory of a study's segments: two hash levels, then the UID. Raises `InvalidUID`."""
    check_uid(study_instance_uid)
    spread = hashlib.sha256(study_instance_uid.encode("ascii")).hexdigest()
    return PurePosixPath(spread[:2]) / spread[2:4] / study_instance_uid


def study_of_segment(segment: str) -> str:
    """The study whose instances a segment holds, by its name: `study_directory`, then the file."""
    return PurePosixPath(segment).parent.name
