"""The last good list on disk: there whole or not at all, and never believed because it is there."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from healthcheck.ip_list import MAX_BYTES, AddressList, ListRefused, parse_list

MAX_FILE_BYTES = 2 * MAX_BYTES  # the same entries with their quotes
PARTIAL = ".betterstack-"  # begins the name of what is being written; left behind only by a crash
ABANDONED = 3600.0  # seconds: no write lasts that long


class Damaged(Exception):
    """The file is not one that `write_list` wrote; the message says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list, when it was retrieved (aware), and from where."""

    addresses: AddressList
    fetched_at: datetime
    url: str


def seed_list() -> AddressList:
    """The list in the package: of unknown age."""
    return parse_list((files("healthcheck") / "betterstack_seed.txt").read_bytes())


def write_list(path: Path, kept: KeptList) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory. Raises OSError, leaving `path`
    as it was.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(path.parent)
    handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), 0o640)
            out.write(_as_json(kept))
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def read_list(path: Path) -> KeptList:
    """What was written, read by the rules of what is downloaded. Raises FileNotFoundError, OSError, `Damaged`."""
    with path.open("rb") as file:
        octets = file.read(MAX_FILE_BYTES + 1)
    if len(octets) > MAX_FILE_BYTES:
        raise Damaged("it is too long")
    try:
        return _of_json(json.loads(octets))
    except (ValueError, RecursionError) as error:
        raise Damaged("it is not JSON, or a value of it is wrong") from error
    except ListRefused as error:
        raise Damaged(f"its list is refused: {error}") from error


def _as_json(kept: KeptList) -> bytes:
    content = {
        "fetched_at": kept.fetched_at.isoformat(),
        "url": kept.url,
        "sha256": kept.addresses.sha256,
        "entries": kept.addresses.lines(),
    }
    return json.dumps(content, indent=1).encode("ascii")


def _of_json(value: object) -> KeptList:
    match value:
        case {"fetched_at": str(fetched_at), "url": str(url), "sha256": str(sha256), "entries": [*entries]}:
            addresses = parse_list("\n".join(map(str, entries)).encode("utf-8"))
        case _:
            raise Damaged("a part of it is missing")
    at = datetime.fromisoformat(fetched_at)
    if at.tzinfo is None or addresses.sha256 != sha256:
        raise Damaged("it is not what was written")
    return KeptList(addresses, at, url)


def _sweep(directory: Path) -> None:
    """Delete what crashes left half written."""
    before = time.time() - ABANDONED
    for path in directory.glob(f"{PARTIAL}*"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
