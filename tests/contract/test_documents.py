"""The document store: durable, named by content, never changed, never half written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from drimbox.adapters.documents import Documents
from drimbox.domain.errors import Damaged, Unavailable


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    digest = documents.put(b"bytes")
    assert digest == hashlib.sha256(b"bytes").hexdigest()
    assert documents.put(b"bytes") == digest
    assert documents.get(digest) == b"bytes"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [digest]


def test_unknown_or_crafted_names_find_nothing(tmp_path: Path) -> None:
    documents = Documents(tmp_path / "store")
    (tmp_path / "secret").write_text("x")
    for name in ("0" * 64, "../secret", "", "/etc/passwd"):
        with pytest.raises(Damaged):
            documents.get(name)


def test_a_changed_document_is_said_damaged(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    digest = documents.put(b"bytes")
    (tmp_path / digest[:2] / digest).write_bytes(b"other")
    with pytest.raises(Damaged, match="changed"):
        documents.get(digest)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    documents = Documents(tmp_path, minimum_free_bytes=1 << 62)
    with pytest.raises(Unavailable, match="full"):
        documents.put(b"bytes")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(tmp_path)

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(Unavailable, match="No space left"):
        documents.put(b"bytes")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_forgotten_document_is_gone_and_may_be_put_again(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    digest, other = documents.put(b"bytes"), documents.put(b"others")
    assert documents.forget(digest)
    assert not documents.forget(digest)
    assert not documents.forget("0" * 64)
    with pytest.raises(Damaged):
        documents.get(digest)
    assert documents.get(other) == b"others"
    assert documents.put(b"bytes") == digest
    with pytest.raises(Damaged):
        documents.forget("../secret")


def test_a_document_that_cannot_be_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(tmp_path)
    digest = documents.put(b"bytes")

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(Unavailable, match="Permission denied"):
        documents.forget(digest)
