"""Folders and zips from outside: read lot by lot within bounds, hostile ones refused before anything is read."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from drimbox.adapters import xdm_files
from drimbox.adapters.xdm_files import ArchiveRefused, read_lots, write_files
from fixtures.archives import LotSpec, make_archive, make_lot, write_tree, write_zip

FILES = make_archive([LotSpec(number=1), LotSpec(number=2)])
PLACES = ["KA202609/IHE_XDM/SS000001", "KA202609/IHE_XDM/SS000002"]


def places(path: Path) -> list[str]:
    return [lot.place for lot in read_lots(path)]


def hostile(path: Path) -> str:
    with pytest.raises(ArchiveRefused) as caught:
        list(read_lots(path))
    return str(caught.value)


def test_folder_and_zip_give_the_same_lots(tmp_path: Path) -> None:
    folder, packed = write_tree(tmp_path / "tree", FILES), write_zip(tmp_path / "a.zip", FILES)
    assert list(read_lots(folder)) == list(read_lots(packed))
    assert places(folder) == PLACES
    assert [(lot.order, lot.faults) for lot in read_lots(folder)] == [(0, ()), (1, ())]
    assert dict(next(iter(read_lots(folder))).files) == make_lot(LotSpec(number=1))


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("KA202609", ["IHE_XDM/SS000001", "IHE_XDM/SS000002"]),
        ("KA202609/IHE_XDM", ["SS000001", "SS000002"]),
        ("KA202609/IHE_XDM/SS000002", ["."]),
    ],
)
def test_any_folder_of_an_archive_will_do(tmp_path: Path, inside: str, expected: list[str]) -> None:
    assert places(write_tree(tmp_path, FILES) / inside) == expected


def test_several_months_are_read_in_their_order(tmp_path: Path) -> None:
    august = {name.replace("KA202609", "KA202608"): data for name, data in FILES.items()}
    expected = [place.replace("09/", "08/") for place in PLACES] + PLACES
    assert places(write_tree(tmp_path / "tree", FILES | august)) == expected
    assert places(write_zip(tmp_path / "a.zip", FILES | august)) == expected


def test_names_in_lower_case_are_understood_and_other_files_left_alone(tmp_path: Path) -> None:
    files = {name.lower(): data for name, data in FILES.items()} | {
        "ka202609/ihe_xdm/ss000001/photo.jpg": b"x"
    }
    for path in (write_tree(tmp_path / "tree", files), write_zip(tmp_path / "a.zip", files)):
        assert sorted(next(iter(read_lots(path))).files) == [
            "CR.TXT",
            "KOS_1_1.DCM",
            "METADATA.XML",
            "SIGN_1.XML",
        ]


def test_a_lot_without_metadata_is_handed_on(tmp_path: Path) -> None:
    files = {name: data for name, data in FILES.items() if not name.endswith("SS000001/METADATA.XML")}
    assert places(write_tree(tmp_path, files)) == PLACES


def test_what_is_no_archive_is_refused_or_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no zip")
    assert "no zip" in hostile(tmp_path / "a.txt")
    assert "neither a folder nor a file" in hostile(tmp_path / "absent")
    assert places(tmp_path) == []


# -- folders


@pytest.mark.parametrize("name", ["KOS_1_1.DCM", "METADATA.XML", "CR.TXT"])
def test_a_link_in_a_lot_is_not_followed_and_the_other_lot_is_read(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    tree = write_tree(tmp_path / "tree", FILES)
    target = tree / PLACES[0] / name
    target.unlink()
    target.symlink_to(secret)
    first, second = read_lots(tree)
    assert name not in first.files
    assert [(fault.rule, fault.message) for fault in first.faults] == [
        ("file", f"{name}: a symbolic link is not followed")
    ]
    assert second.faults == ()


def test_a_linked_folder_is_said_and_not_entered(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", FILES)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "KA202609").symlink_to(outside / "KA202609")
    (lot,) = read_lots(tmp_path / "tree")
    assert (lot.files, [fault.rule for fault in lot.faults]) == ({}, ["symlink"])


def test_what_is_no_plain_file_is_never_waited_for(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, FILES)
    (tree / PLACES[0] / "CR.TXT").unlink()
    os.mkfifo(tree / PLACES[0] / "CR.TXT")
    first, _ = read_lots(tree)
    assert [fault.message for fault in first.faults] == ["CR.TXT: not a plain file"]


def test_too_long_too_many_and_twice_are_faults_of_that_lot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xdm_files, "MAX_FILE_BYTES", 20_000)
    monkeypatch.setattr(xdm_files, "MAX_LOT_FILES", 4)
    place = PLACES[0]
    extra = {f"{place}/KOS_9_9.DCM": os.urandom(20_001), f"{place}/kos_9_9.dcm": b"x"}
    for path in (write_tree(tmp_path / "tree", FILES | extra), write_zip(tmp_path / "a.zip", FILES | extra)):
        first, second = read_lots(path)
        assert {"file", "files", "file-twice"} == {fault.rule for fault in first.faults}
        assert second.faults == ()


# -- zips


def with_entry(change: Callable[[zipfile.ZipInfo], None], path: Path, name: str = "KA202609/extra") -> Path:
    write_zip(path, FILES)
    info = zipfile.ZipInfo(name)
    change(info)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, b"x")
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../METADATA.XML", "leads out"),
        ("KA202609/../../METADATA.XML", "leads out"),
        ("/etc/METADATA.XML", "absolute"),
        ("C:/METADATA.XML", "absolute"),
        ("..\\METADATA.XML", "absolute"),
        ("KA202609/inner.ZIP", "archive inside"),
    ],
)
def test_a_hostile_path_refuses_the_zip(tmp_path: Path, name: str, reason: str) -> None:
    assert reason in hostile(with_entry(lambda _: None, tmp_path / "a.zip", name))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_refuses_the_zip(tmp_path: Path, kind: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = (kind | 0o777) << 16

    assert "symbolic link" in hostile(with_entry(change, tmp_path / "a.zip"))


def test_another_compression_or_encryption_refuses_the_zip(tmp_path: Path) -> None:
    def compressed(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_LZMA

    assert "compression" in hostile(with_entry(compressed, tmp_path / "a.zip"))
    path = write_zip(tmp_path / "b.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 0x1  # the flag in the list of the zip
    path.write_bytes(bytes(data))
    assert "encrypted" in hostile(path)


def test_a_bomb_is_refused_by_its_ratio_and_by_its_whole_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = {f"{PLACES[0]}/METADATA.XML": bytes(40_000_000)}
    assert "times its size" in hostile(write_zip(tmp_path / "a.zip", FILES | bomb))
    monkeypatch.setattr(xdm_files, "MAX_TOTAL_BYTES", 10_000)
    assert "unpacks to more than" in hostile(write_zip(tmp_path / "b.zip", FILES))


def test_too_many_entries_and_too_long_a_list_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{n}": b"" for n in range(2000)})
    monkeypatch.setattr(xdm_files, "MAX_ENTRIES", 1999)
    assert "2000 entries" in hostile(path)
    monkeypatch.setattr(xdm_files, "MAX_DIRECTORY_BYTES", 70_000)
    assert "list of the zip is too long" in hostile(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_path_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in hostile(with_entry(lambda _: None, tmp_path / "a.zip", f"{PLACES[0]}/CR.TXT"))


def patched(path: Path, name: str, offset: int, value: int) -> Path:
    """The 4-byte field at `offset` of an entry in the list of the zip, set to `value`."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[at + offset : at + offset + 4] = struct.pack("<I", value)
    path.write_bytes(bytes(data))
    return path


def test_a_size_that_lies_and_a_damaged_entry_refuse_that_lot_alone(tmp_path: Path) -> None:
    name = f"{PLACES[0]}/CR.TXT"
    for number, (offset, value) in enumerate({24: 1_000_000, 16: 0}.items()):  # declared size; CRC-32
        first, second = read_lots(patched(write_zip(tmp_path / f"{number}.zip", FILES), name, offset, value))
        assert [fault.rule for fault in first.faults] == ["file"]
        assert "CR.TXT" not in first.files
        assert (second.faults, len(second.files)) == ((), 4)


def test_writing_never_overwrites(tmp_path: Path) -> None:
    written = list(write_files(tmp_path, [("KA202609/a", b"1"), ("KA202609/b/c", b"2")]))
    assert [path.read_bytes() for path in written] == [b"1", b"2"]
    with pytest.raises(FileExistsError):
        list(write_files(tmp_path, [("KA202609/a", b"3")]))
    assert (tmp_path / "KA202609/a").read_bytes() == b"1"
