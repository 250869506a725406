"""Documents on disk, named by the SHA-256 of their bytes: messages, CDAs, manifests, frozen requests, answers.

A document is durable when `put` returns (written aside, fsynced, renamed); it is never changed. Only retention
(`flow/archive_purge.py`) deletes one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from pathlib import Path

from dicom_store.free_space import FreeSpace, StorageFull
from drimbox.domain.errors import Damaged, NoRoom, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Documents:
    """A directory of documents. `minimum_free_bytes`: below this free space new ones are refused.

    0 is for what we make ourselves: what a door has taken in must still be published, withdrawn and proven.
    """

    def __init__(self, root: Path, minimum_free_bytes: int = 0) -> None:
        self._root = root
        self._space = FreeSpace(root, minimum_free_bytes)
        self._kept: set[Path] = set()  # directories whose own entry this process made durable

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest; storing them again changes nothing.

        Raises `Unavailable` when they cannot be kept, `NoRoom` for want of space.
        """
        digest = hashlib.sha256(data).hexdigest()
        self.keep(digest, data)
        return digest

    def keep(self, digest: str, data: bytes) -> None:
        """Store bytes whose digest was taken before, if they are not there. Raises `Unavailable`."""
        path = self._path(digest)
        if path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._space.held(len(data)):
                _write_durably(path, data)
                self._keep_directory(path.parent)
        except StorageFull as error:
            raise NoRoom(f"the disk is full, a document cannot be stored: {error.reason}") from error
        except OSError as error:
            kind = NoRoom if error.errno in _FULL else Unavailable
            raise kind(f"a document cannot be stored: {error.strerror}") from error

    def get(self, digest: str) -> bytes:
        """The bytes of a document. Raises `Damaged` when they are not there or changed."""
        try:
            data = self._path(digest).read_bytes()
        except OSError as error:
            raise Damaged(f"document {digest} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(f"document {digest} was changed on disk")
        return data

    def forget(self, digest: str) -> bool:
        """Delete a document for good; False when it was not there.

        Raises `Damaged` for what is no digest, `Unavailable` when it cannot be deleted.
        """
        path = self._path(digest)
        try:
            path.unlink()
            _sync_directory(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"a document cannot be deleted: {error.strerror}") from error
        return True

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Damaged(f"not the name of a document: {digest[:64]!r}")
        return self._root / digest[:2] / digest

    def _keep_directory(self, directory: Path) -> None:
        if directory not in self._kept:
            _sync_directory(directory.parent)
            self._kept.add(directory)


def _write_durably(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
