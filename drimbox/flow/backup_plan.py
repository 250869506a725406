"""What a backup consists of, and which decisions it takes: values in, values out.

A directory of backups is one pool of files, each named by the SHA-256 of its bytes, and a manifest for each run. A
manifest is JSON lines: what the run is, then one line for each file, then the SHA-256 of the lines before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from dicom_store.paths import InvalidUID, study_directory

FORMAT, VERSION = "drimbox-backup", 1
SEGMENTS = "images/segments/"
DOCUMENTS = "documents/"
# Directories under the storage root that are kept as they are: lists and proofs, and retrievals not in the trace yet.
BEFORE_SNAPSHOT, AFTER_SNAPSHOT = ("audit",), ("whitelist",)
DATABASES: Mapping[str, str] = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}
_TEMPORARY = (".lock", ".new", ".tmp")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[0-9]{8}T[0-9]{9}Z")


class BackupRefused(Exception):
    """Nothing is done; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to keep. `name`: relative to the storage root; `size`: bytes from its beginning on.

    `sha256`: known beforehand; `is_fixed`: those bytes never change under that name.
    """

    name: str
    size: int
    sha256: str | None = None
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file in the pool. `size` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What tells one database from another: its schema, how many instances, the last row of its trace."""

    engine: str
    revision: str
    instances: int
    trace: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One run. `lost`: names of files that the appliance should have had, and that could not be copied."""

    run: str
    program: str
    facts: Facts
    files: tuple[KeptFile, ...]
    lost: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(one.size for one in self.files)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is in the pool already, and what must be read."""

    held: tuple[KeptFile, ...]
    to_copy: tuple[Wanted, ...]


def plan(
    wanted: Iterable[Wanted], known: Mapping[tuple[str, int], str], pool: Callable[[str, int], bool]
) -> Plan:
    """Divide what is wanted. `known`: (name, size) to SHA-256, of earlier runs; `pool(sha256, size)`: is it there?"""
    held, to_copy = [], []
    for one in wanted:
        digest = one.sha256 or (known.get((one.name, one.size)) if one.is_fixed else None)
        if digest and pool(digest, one.size):
            held.append(KeptFile(one.name, one.size, digest))
        else:
            to_copy.append(one)
    return Plan(tuple(held), tuple(to_copy))


def run_name(now: datetime, runs: Collection[str]) -> str:
    """The name of a run, in UTC, to the millisecond. Raises `BackupRefused` when it would not be the newest."""
    moment = now.astimezone(UTC)
    name = f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z"
    if runs and name <= max(runs):
        raise BackupRefused(f"the run {max(runs)} is newer than this machine's clock: set the clock")
    return name


def is_run(name: str) -> bool:
    """Whether it is the name of a run."""
    return _RUN.fullmatch(name) is not None


def runs_to_remove(runs: Collection[str], keep: int) -> list[str]:
    """All but the newest `keep`, at least one of which stays."""
    return sorted(runs)[: -max(keep, 1)]


def is_temporary(name: str) -> bool:
    """Whether a file under the storage root is one that a crash may leave half written, or a lock."""
    return name.startswith(".") or name.endswith(_TEMPORARY)


def document_name(digest: str) -> str:
    """Where a document is under the storage root."""
    return f"{DOCUMENTS}{digest[:2]}/{digest}"


def write_manifest(manifest: Manifest) -> bytes:
    """The lines of a manifest."""
    head = {"format": FORMAT, "version": VERSION, "run": manifest.run, "program": manifest.program}
    head |= {"database": asdict(manifest.facts), "lost": manifest.lost, "files": len(manifest.files)}
    lines = [_line(head), *(_line(asdict(one)) for one in manifest.files)]
    text = b"".join(lines)
    return text + _line({"sha256": hashlib.sha256(text).hexdigest()})


def read_manifest(data: bytes) -> Manifest:
    """A manifest from its lines. Raises `BackupRefused` for one that is damaged, or of another program."""
    text, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    text += b"\n"
    try:
        if json.loads(last)["sha256"] != hashlib.sha256(text).hexdigest():
            raise BackupRefused("its lines are not those that were written")
        head, *files = [json.loads(line) for line in text.splitlines()]
        if (head["format"], head["version"]) != (FORMAT, VERSION):
            raise BackupRefused("it is of another version of this program")
        kept = tuple(KeptFile(**one) for one in files)
        found = Manifest(head["run"], head["program"], Facts(**head["database"]), kept, tuple(head["lost"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BackupRefused("it is no manifest of a backup") from error
    if strange := [one.name for one in found.files if not _belongs(one)]:
        raise BackupRefused(f"it names what is no file of an appliance: {strange[0][:200]!r}")
    return found


def read_entries(data: bytes) -> Iterator[KeptFile]:
    """The files that an interrupted run had copied; a line that was cut off is none."""
    for line in data.splitlines():
        try:
            yield KeptFile(**json.loads(line))
        except (ValueError, TypeError):
            return


def write_entry(one: KeptFile) -> bytes:
    """See `read_entries`."""
    return _line(asdict(one))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _is_segment(parts: Sequence[str]) -> bool:
    try:
        return len(parts) == 6 and parts[5].endswith(".seg") and study_directory(parts[4]).parts == parts[2:5]
    except InvalidUID:
        return False


def _is_document(parts: Sequence[str]) -> bool:
    return len(parts) == 3 and _DIGEST.fullmatch(parts[2]) is not None and parts[1] == parts[2][:2]


# The first part of a name, and what the whole must be.
_LAYOUT: Mapping[str, Callable[[Sequence[str]], bool]] = {
    "images": lambda parts: parts[1] == "segments" and _is_segment(parts),
    "documents": _is_document,
    **dict.fromkeys((*BEFORE_SNAPSHOT, *AFTER_SNAPSHOT), lambda parts: len(parts) > 1),
    **dict.fromkeys(DATABASES.values(), lambda parts: len(parts) == 1),
}


def _belongs(one: KeptFile) -> bool:
    """Whether a restore may write it: of the layout, nowhere else."""
    parts = PurePosixPath(one.name).parts
    is_plain = "/".join(parts) == one.name and ".." not in parts and "\0" not in one.name
    known = _LAYOUT.get(parts[0]) if parts else None
    is_sound = isinstance(one.size, int) and one.size >= 0 and _DIGEST.fullmatch(str(one.sha256)) is not None
    return bool(is_plain and is_sound and known and known(parts))
