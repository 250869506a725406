"""The journal of retrievals: what a dead process leaves is found whole, by one; what cannot be written is said."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drimbox.adapters.retrieval_journal import RetrievalJournal
from drimbox.domain.errors import Unavailable

Records = dict[str, tuple[dict[str, Any], dict[str, Any] | None]]


def in_a_process_that_dies(directory: Path, story: Callable[[RetrievalJournal], Any], **how: Any) -> None:
    def play() -> None:
        story(RetrievalJournal(directory, **how))
        os._exit(0)  # nothing is closed

    process = multiprocessing.get_context("fork").Process(target=play)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def left(directory: Path) -> Records:
    """What is found, without settling it."""
    found: Records = {}
    for journal in RetrievalJournal(directory).abandoned():
        found |= journal.records
        journal.release()
    return found


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*"))


def test_nothing_is_created_before_the_first_record(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path / "audit")
    assert list(journal.abandoned()) == []
    journal.close()
    assert not (tmp_path / "audit").exists()


def test_only_we_may_read_it(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path / "audit")
    journal.begin({"at": "now"})
    (file,) = files(tmp_path / "audit")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_what_is_settled_leaves_nothing(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path)
    first, second = journal.begin({"n": 1}), journal.begin({"n": 2}, {"end": 2})
    journal.end(first, {"end": 1})
    journal.settle([first])
    journal.settle([second])
    (file,) = files(tmp_path)
    assert file.read_bytes().strip(b"\0") == b""
    journal.close()
    assert files(tmp_path) == []


def test_a_dead_process_leaves_what_the_trace_may_not_have(tmp_path: Path) -> None:
    def story(journal: RetrievalJournal) -> None:
        settled, ended, _open = (journal.begin({"n": n}) for n in (1, 2, 3))
        journal.begin({"n": 4}, {"refused": True})
        journal.end(settled, {"sent": 1})
        journal.end(ended, {"sent": 2})
        journal.settle([settled])

    in_a_process_that_dies(tmp_path, story)
    records = left(tmp_path)
    assert sorted(records.values(), key=lambda one: one[0]["n"]) == [
        ({"n": 2}, {"sent": 2}),
        ({"n": 3}, None),
        ({"n": 4}, {"refused": True}),
    ]
    assert len(set(records)) == 3
    assert left(tmp_path) == records, "until somebody removes it"


def test_a_living_process_is_left_alone(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path)
    journal.begin({"n": 1})
    assert left(tmp_path) == {}
    assert list(journal.abandoned()) == []
    journal.close()
    assert len(left(tmp_path)) == 1


def test_one_settles_it(tmp_path: Path) -> None:
    in_a_process_that_dies(tmp_path, lambda journal: journal.begin({"n": 1}))
    (ours,) = RetrievalJournal(tmp_path).abandoned()
    assert list(RetrievalJournal(tmp_path).abandoned()) == []
    ours.remove()
    ours.release()
    assert files(tmp_path) == []
    assert list(RetrievalJournal(tmp_path).abandoned()) == []


@pytest.mark.parametrize(
    "torn", [b'["b",9,{"n":', b'["e",1,', b"\xff\xfe", b"[]", b'["b","x",{}]', b'["e",7,{}]', b"7"]
)
def test_a_torn_line_takes_nothing_else_away(tmp_path: Path, torn: bytes) -> None:
    in_a_process_that_dies(tmp_path, lambda journal: journal.begin({"n": 1}))
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes().rstrip(b"\0") + torn + bytes(100))
    assert list(left(tmp_path).values()) == [({"n": 1}, None)]


def test_a_long_journal_is_continued_in_another_file(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path, file_bytes=4096)
    entries = [journal.begin({"text": "x" * 60}) for _ in range(9)]
    assert len(files(tmp_path)) == 3
    journal.settle(entries[3:])
    assert len(files(tmp_path)) == 2, "the second is gone; the first has open records, the last is in use"
    journal.end(entries[0], {"sent": 1})
    journal.settle(entries[:3])
    (file,) = files(tmp_path)
    assert file.read_bytes().strip(b"\0") == b""
    assert len({entry.id for entry in entries}) == 9


@pytest.mark.parametrize("text", ["Hélène", "\ud800 half a character", "\x00\n", "文"])
def test_any_text_is_found_again(tmp_path: Path, text: str) -> None:
    in_a_process_that_dies(
        tmp_path, lambda journal: journal.end(journal.begin({"text": text}), {"why": text})
    )
    assert list(left(tmp_path).values()) == [({"text": text}, {"why": text})]


def test_records_of_several_files_are_found(tmp_path: Path) -> None:
    def story(journal: RetrievalJournal) -> None:
        for number in range(9):
            journal.begin({"n": number, "text": "x" * 60})

    in_a_process_that_dies(tmp_path, story, file_bytes=4096)
    assert sorted(begun["n"] for begun, _ in left(tmp_path).values()) == list(range(9))


def test_a_full_disk_is_said_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match="No space"):
        RetrievalJournal(tmp_path).begin({"n": 1})
    assert files(tmp_path) == []


def test_what_has_begun_has_room_for_its_end(tmp_path: Path) -> None:
    """However full the file is, and however many end and are settled in pieces."""
    journal = RetrievalJournal(tmp_path, file_bytes=64 * 1024)
    entries = [journal.begin({"text": "x" * 200}) for _ in range(300)]
    for entry in entries:
        journal.end(entry, {"text": "y" * 900})
    for entry in entries:
        journal.settle([entry])
    (file,) = files(tmp_path)
    assert file.read_bytes().strip(b"\0") == b""


def test_an_end_beyond_all_measure_is_said(tmp_path: Path) -> None:
    journal = RetrievalJournal(tmp_path, file_bytes=4096)
    with pytest.raises(Unavailable, match="full"):
        journal.end(journal.begin({"n": 1}), {"text": "x" * 5000})


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "audit").write_bytes(b"")
    with pytest.raises(Unavailable, match="audit journal"):
        RetrievalJournal(tmp_path / "audit").begin({"n": 1})
