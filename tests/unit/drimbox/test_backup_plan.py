"""What is copied, what is kept, what may go, and manifests that cannot be trusted."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dicom_store.paths import study_directory
from drimbox.flow import backup_plan
from drimbox.flow.backup_plan import (
    BackupRefused,
    Facts,
    KeptFile,
    Manifest,
    Wanted,
    plan,
    read_entries,
    read_manifest,
    run_name,
    runs_to_remove,
    write_entry,
    write_manifest,
)
from drimbox.flow.restore import check_engine

SHA = "ab" + "0" * 62
SEGMENT = f"images/segments/{study_directory('1.2.3')}/{'0' * 32}.seg"
FACTS = Facts("sqlite", "0008", 4, 12)
FILES = (
    KeptFile(SEGMENT, 10, SHA),
    KeptFile(f"documents/ab/{SHA}", 5, SHA),
    KeptFile("whitelist/lists/1.xml", 0, SHA),
    KeptFile("audit/1.journal", 7, SHA),
    KeptFile("database.sqlite", 9, SHA),
)
RUN = "20261001T120000000Z"


def manifest(*files: KeptFile, **changes: Any) -> Manifest:
    return Manifest(**{"run": RUN, "program": "0.1.0", "facts": FACTS, "files": files or FILES} | changes)


def test_what_an_earlier_run_holds_is_not_read_again() -> None:
    wanted = [
        Wanted("new.seg", 10, is_fixed=True),
        Wanted("held.seg", 10, is_fixed=True),
        Wanted("grown.seg", 20, is_fixed=True),
        Wanted("rotten.seg", 10, is_fixed=True),
        Wanted("list.xml", 10),
        Wanted("document", 3, "c" * 64),
        Wanted("new document", 4, "d" * 64),
    ]
    known = {("held.seg", 10): "a" * 64, ("grown.seg", 10): "b" * 64, ("list.xml", 10): "a" * 64}
    known["rotten.seg", 10] = "e" * 64  # known, and no longer in the pool
    pool = {("a" * 64, 10), ("b" * 64, 10), ("c" * 64, 3)}
    found = plan(wanted, known, lambda digest, size: (digest, size) in pool)
    assert found.held == (KeptFile("held.seg", 10, "a" * 64), KeptFile("document", 3, "c" * 64))
    assert [one.name for one in found.to_copy] == [
        "new.seg",
        "grown.seg",
        "rotten.seg",
        "list.xml",
        "new document",
    ]


def test_a_manifest_is_read_as_it_was_written() -> None:
    made = manifest(lost=(SEGMENT,))
    assert read_manifest(write_manifest(made)) == made
    assert made.size == 31


@pytest.mark.parametrize("position", range(0, 800, 37))
def test_a_flipped_bit_of_a_manifest_is_noticed(position: int) -> None:
    data = bytearray(write_manifest(manifest()))
    data[position % len(data)] ^= 1
    with pytest.raises(BackupRefused):
        read_manifest(bytes(data))


def test_half_a_manifest_is_none() -> None:
    data = write_manifest(manifest())
    for end in (0, 1, len(data) // 2, data.rindex(b"\n", 0, -1), data.rindex(b"\n", 0, -1) + 1):
        with pytest.raises(BackupRefused):
            read_manifest(data[:end])


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "whitelist/../../outside",
        "whitelist",
        "whitelist//list.xml",
        "images/segments/00/00/1.2.3/x.seg",
        "images/journal/x.journal",
        "documents/ab/cd",
        f"documents/00/{SHA}",
        "drimbox.toml",
        "database.sqlite/x",
        ".restoring/state.json",
        "",
    ],
)
def test_a_manifest_names_nothing_outside_the_layout(name: str) -> None:
    with pytest.raises(BackupRefused, match="no file of an appliance"):
        read_manifest(write_manifest(manifest(KeptFile(name, 1, SHA))))


@pytest.mark.parametrize("bad", [KeptFile(SEGMENT, -1, SHA), KeptFile(SEGMENT, 1, "../../x")])
def test_a_manifest_names_only_files_of_the_pool(bad: KeptFile) -> None:
    with pytest.raises(BackupRefused):
        read_manifest(write_manifest(manifest(bad)))


def test_a_manifest_of_a_later_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_plan, "VERSION", 2)
    data = write_manifest(manifest())
    monkeypatch.undo()
    with pytest.raises(BackupRefused, match="another version"):
        read_manifest(data)


def test_a_manifest_with_other_words_is_refused() -> None:
    text = json.dumps({"hello": "world"}).encode() + b"\n"
    data = text + json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n"
    with pytest.raises(BackupRefused, match="no manifest"):
        read_manifest(data)


def test_what_an_interrupted_run_noted_ends_at_the_torn_line() -> None:
    data = b"".join(map(write_entry, FILES))
    assert tuple(read_entries(data)) == FILES
    assert tuple(read_entries(data[:-3])) == FILES[:-1]
    assert tuple(read_entries(b"")) == ()


def test_runs_are_named_in_utc_and_in_order() -> None:
    paris = datetime(2026, 10, 1, 14, 0, 0, 5000, tzinfo=timezone(timedelta(hours=2)))
    assert run_name(paris, []) == "20261001T120000005Z"
    assert run_name(paris, [RUN]) == "20261001T120000005Z"
    assert backup_plan.is_run(RUN)
    with pytest.raises(BackupRefused, match="clock"):
        run_name(datetime(2026, 10, 1, 12, 0, tzinfo=UTC), [RUN])


@pytest.mark.parametrize(("keep", "gone"), [(1, ["a", "b"]), (2, ["a"]), (3, []), (9, []), (0, ["a", "b"])])
def test_the_newest_runs_stay(keep: int, gone: list[str]) -> None:
    assert runs_to_remove(["b", "a", "c"], keep) == gone


@pytest.mark.parametrize(
    ("name", "temporary"),
    [(".partial-x", True), ("list.lock", True), ("x.new", True), ("list.xml", False), ("1.journal", False)],
)
def test_what_is_temporary(name: str, temporary: bool) -> None:
    assert backup_plan.is_temporary(name) is temporary


def test_a_backup_fits_its_engine() -> None:
    check_engine(manifest(), "sqlite")
    with pytest.raises(BackupRefused, match="is of postgresql"):
        check_engine(manifest(), "postgresql")
