"""XDM archives on disk: folders and zips, read lot by lot within bounds; folders written (ITI TF-2 3.32).

Nothing is ever unpacked: a zip is read in memory, one lot at a time. A zip that is hostile (paths that lead out,
links, bombs, zips inside) is refused whole, before anything of it is read; a lot that cannot be read is handed on
with its faults, so that one bad lot does not stop the others.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from drimbox.domain.errors import Refused
from drimbox.domain.violations import Violation
from drimbox.domain.xds.xdm_reader import LotFiles

MAX_ENTRIES = 200_000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BYTES = 16 * 1024**3  # of what a zip declares; never in memory at once
MAX_LOT_FILES = 64
MAX_RATIO = 200  # METADATA.XML and long manifests stay under 60
MAX_DIRECTORY_BYTES = 64 * 1024 * 1024  # the list of a zip is read at once
RATIO_FROM_BYTES = 1024 * 1024  # a smaller file may be as regular as it likes
_CHUNK = 1024 * 1024
_METADATA = "METADATA.XML"
_ZIPS = (".ZIP", ".JAR", ".7Z", ".GZ", ".TAR", ".TGZ")
_LOT_FILE = re.compile(r"METADATA\.XML|CR\.TXT|KOS.*\.DCM|SIGN.*\.XML")
_SIDE = "dmp-kos-xds 2.9"


class ArchiveRefused(Refused):
    """The archive as a whole cannot be read, or is hostile; nothing of it was taken."""

    def __init__(self, reason: str) -> None:
        super().__init__("archive", reason)


def read_lots(path: Path) -> Iterator[LotFiles]:
    """Every lot of a folder (KA<yyyyMM>, a directory of several, IHE_XDM) or of a zip, in the order of its paths.

    Raises `ArchiveRefused`.
    """
    if path.is_dir():
        yield from _folder_lots(path)
    elif path.is_file():
        yield from _zip_lots(path)
    else:
        raise ArchiveRefused(f"{path} is neither a folder nor a file")


def write_files(directory: Path, files: Iterable[tuple[str, bytes]]) -> Iterator[Path]:
    """Write the files of an archive, none over another, and name each. Raises FileExistsError."""
    for name, data in files:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
        yield path


def _folder_lots(root: Path) -> Iterator[LotFiles]:
    order = 0
    for parent, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        here = Path(parent)
        place = here.relative_to(root).as_posix()
        for link in [name for name in folders if (here / name).is_symlink()]:
            yield LotFiles(
                f"{place}/{link}", order, {}, (_fault("symlink", "a symbolic link is not followed"),)
            )
        if _is_lot(here.parent.name, names):
            yield _folder_lot(here, place, order, sorted(names))
            order += 1


def _is_lot(parent: str, names: Iterable[str]) -> bool:
    """A folder with a METADATA.XML, or one that stands where a lot should."""
    return parent.upper() == "IHE_XDM" or any(name.upper() == _METADATA for name in names)


def _folder_lot(folder: Path, place: str, order: int, names: list[str]) -> LotFiles:
    files: dict[str, bytes] = {}
    faults: list[Violation] = []
    for name in _wanted(names, faults):
        try:
            files[name.upper()] = _read_regular(folder / name)
        except (OSError, ValueError) as error:
            reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
            faults.append(_fault("file", f"{name}: {reason}"))
    return LotFiles(place, order, files, tuple(faults))


def _wanted(names: Iterable[str], faults: list[Violation]) -> list[str]:
    """The names of a lot's own files; two that differ in letter case only, or too many, are faults."""
    wanted = [name for name in names if _LOT_FILE.fullmatch(name.upper())]
    if len({name.upper() for name in wanted}) != len(wanted):
        faults.append(_fault("file-twice", "two files have the same name"))
    if len(wanted) > MAX_LOT_FILES:
        faults.append(_fault("files", f"{len(wanted)} files in one lot, at most {MAX_LOT_FILES}"))
    return wanted[:MAX_LOT_FILES]


def _read_regular(path: Path) -> bytes:
    """A plain file, never through a link. Raises ValueError for anything else or too long, OSError."""
    if path.is_symlink():
        raise ValueError("a symbolic link is not followed")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 the descriptor was opened without following links
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a plain file")
        return _read_bounded(file)


def _read_bounded(file: IO[bytes]) -> bytes:
    data = bytearray()
    while chunk := file.read(_CHUNK):
        data += chunk
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"longer than {MAX_FILE_BYTES} bytes")
    return bytes(data)


class _BoundedFile(io.FileIO):
    """A zip on disk of which nothing is read in a piece larger than its list may be."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else size
        data = super().read(min(wanted, MAX_DIRECTORY_BYTES + 1)) or b""
        if len(data) > MAX_DIRECTORY_BYTES:
            raise ArchiveRefused("the list of the zip is too long")
        return data


def _zip_lots(path: Path) -> Iterator[LotFiles]:
    with _opened(path) as archive:
        lots: dict[str, list[zipfile.ZipInfo]] = {}
        for entry in _checked(archive.infolist()):
            lots.setdefault(str(PurePosixPath(entry.filename).parent), []).append(entry)
        chosen = [
            (place, entries)
            for place, entries in sorted(lots.items())
            if _is_lot(PurePosixPath(place).parent.name, [_name(entry) for entry in entries])
        ]
        for order, (place, entries) in enumerate(chosen):
            yield _zip_lot(archive, place, order, entries)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
        raise ArchiveRefused(f"{path.name} is no zip that can be read") from error
    except OSError as error:
        raise ArchiveRefused(f"{path.name} cannot be read: {error.strerror}") from error


def _checked(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files of a zip, none of which is hostile. Raises `ArchiveRefused` with every reason, each once."""
    reasons = dict.fromkeys(reason for entry in entries for reason in _hostile(entry))
    if len(entries) > MAX_ENTRIES:
        reasons[f"{len(entries)} entries, at most {MAX_ENTRIES}"] = None
    if sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        reasons[f"it unpacks to more than {MAX_TOTAL_BYTES} bytes"] = None
    if len({entry.filename for entry in entries}) != len(entries):
        reasons["one path stands in it twice"] = None
    if reasons:
        raise ArchiveRefused("; ".join(reasons))
    return [entry for entry in entries if not entry.is_dir()]


def _hostile(entry: zipfile.ZipInfo) -> Iterator[str]:
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name or "\0" in name:
        yield "an absolute path, or one with a drive, a backslash or a null"
    if ".." in name.split("/"):
        yield "a path that leads out of the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield "a symbolic link or a special file"
    if entry.flag_bits & 0x1:
        yield "an encrypted entry"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield "a compression other than deflate"
    if name.upper().endswith(_ZIPS):
        yield "an archive inside the archive"
    if entry.file_size > max(RATIO_FROM_BYTES, MAX_RATIO * max(entry.compress_size, 1)):
        yield f"an entry that unpacks to more than {MAX_RATIO} times its size"


def _zip_lot(archive: zipfile.ZipFile, place: str, order: int, entries: list[zipfile.ZipInfo]) -> LotFiles:
    files: dict[str, bytes] = {}
    faults: list[Violation] = []
    by_name = {_name(entry): entry for entry in entries}
    for name in _wanted(sorted(by_name), faults):
        try:
            files[name.upper()] = _unpack(archive, by_name[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
            # a damaged entry: only what we said ourselves is repeated
            reason = str(error) if type(error) is ValueError else "damaged in the zip"
            faults.append(_fault("file", f"{name}: {reason}"))
    return LotFiles(place, order, files, tuple(faults))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of one entry. Raises ValueError when they are too many, or not as many as the zip says."""
    if entry.file_size > MAX_FILE_BYTES:
        raise ValueError(f"longer than {MAX_FILE_BYTES} bytes")
    with archive.open(entry) as file:
        data = _read_bounded(file)
    if len(data) != entry.file_size:
        raise ValueError("its size is not the one that the zip declares")
    return data


def _name(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(entry.filename).name


def _fault(rule: str, message: str) -> Violation:
    return Violation(rule, message, "archive", _SIDE)
