"""Conversions in worker processes: cached, shared, fair, and no file brings them down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import pixel_array

from dicom_store.conversions import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    Busy,
    TranscodeFailed,
)
from dicom_store.render_params import RenderParams, Viewport, Window
from dicom_store.transcode import transcode
from dicom_store.transcoder import Extent, Transcoder
from fixtures.pixels import Layout, as_file, data_set, pixel_file, pixels

MEBIBYTE = 1 << 20
CT = Layout(signed=True)


class Shelf:
    """Stored files one after the other in one file, as a segment holds them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"DSEG" * 12)

    def put(self, file: bytes) -> tuple[str, Extent]:
        offset = self.path.stat().st_size
        with self.path.open("ab") as segment:
            segment.write(file + b"next record")
        return hashlib.sha256(file).hexdigest(), Extent(self.path, offset, len(file))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "images.seg")


def run(directory: Path, story: Callable[[Transcoder], Awaitable[None]], **settings: object) -> None:
    """Play a story with a transcoder, then close it."""

    async def played() -> None:
        values = {"cache_bytes": 64 * MEBIBYTE, "timeout": 20.0, **settings}
        transcoder = Transcoder(directory / "cache", **values)  # type: ignore[arg-type]
        try:
            await story(transcoder)
        finally:
            await transcoder.close()

    asyncio.run(played())


def cached(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "cache").iterdir() if not path.name.startswith("."))


def worker_of(transcoder: Transcoder) -> int:
    return next(worker.pid for worker in transcoder._free if worker.pid)


async def busy_worker(transcoder: Transcoder) -> int:
    """The pid of the one worker, once a task runs in it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if b"dicom_store.transcode_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        await asyncio.sleep(0.01)
    raise AssertionError("no worker was started")


def test_a_stored_file_in_other_syntaxes(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        for target in (JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_LOSSLESS_SV1):
            with await transcoder.file_of(key, extent, target) as file:
                (tmp_path / "out.dcm").write_bytes(file.read())
                assert file.length == (tmp_path / "out.dcm").stat().st_size
                assert file.read(128, 4) == b"DICM"
            ds = dcmread(tmp_path / "out.dcm")
            assert ds.file_meta.TransferSyntaxUID == target
            assert np.array_equal(pixel_array(ds), pixels(CT)[0])

    run(tmp_path, story)
    assert len(cached(tmp_path)) == 3
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cached(tmp_path)} == {0o600}


def test_pictures_come_the_same_way(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))
    params = RenderParams("image/png", Viewport(10, 10), Window(40, 400))

    async def story(transcoder: Transcoder) -> None:
        with await transcoder.rendered(key, extent, None, params) as file:
            assert file.read(0, 4) == b"\x89PNG"
        with await transcoder.rendered(key, extent, 1, RenderParams()) as file:
            assert file.read(0, 3) == b"\xff\xd8\xff"
        with pytest.raises(TranscodeFailed, match="no such frame"):
            await transcoder.rendered(key, extent, 2, params)

    run(tmp_path, story)


def test_lossy_needs_a_quality_and_lossless_takes_none(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(Layout(allocated=8, stored=8)))

    async def story(transcoder: Transcoder) -> None:
        with pytest.raises(ValueError, match="quality"):
            await transcoder.file_of(key, extent, JPEG_BASELINE)
        with pytest.raises(ValueError, match="quality"):
            await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS, 90)
        with await transcoder.file_of(key, extent, JPEG_BASELINE, 20) as small:
            with await transcoder.file_of(key, extent, JPEG_BASELINE, 95) as large:
                assert small.length < large.length

    run(tmp_path, story)


def test_the_second_time_nothing_is_computed_also_after_a_restart(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def first(transcoder: Transcoder) -> None:
        (await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS)).close()

    run(tmp_path, first)
    shelf.path.unlink()  # whoever computed again would have to read it

    async def second(transcoder: Transcoder) -> None:
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.read() == transcode(pixel_file(CT), JPEG_LS_LOSSLESS)

    run(tmp_path, second)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer"])
def test_a_damaged_cached_file_is_made_again(tmp_path: Path, shelf: Shelf, damage: str) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            whole = file.read()
        (path,) = cached(tmp_path)
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 1
        altered = {"cut": content[:-40], "empty": b"", "longer": content + b"x"}.get(damage, content)
        path.unlink()
        path.write_bytes(altered)
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.read() == whole

    run(tmp_path, story)


def test_those_who_ask_for_the_same_share_one_conversion(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        asked = [transcoder.file_of(key, extent, JPEG_LS_LOSSLESS, client=f"c{n}") for n in range(20)]
        files = await asyncio.gather(*asked)
        assert len({os.fstat(file.fileno()).st_ino for file in files}) == 1
        assert len({file.fileno() for file in files}) == 20
        files[0].close()
        assert files[1].read(128, 4) == b"DICM"
        for file in files:
            file.close()
        with pytest.raises(ValueError, match="closed"):
            files[0].read()

    run(tmp_path, story, cache_bytes=0)
    assert cached(tmp_path) == []


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(tmp_path: Path, shelf: Shelf) -> None:
    files = [transcode(pixel_file(Layout(stored=bits)), JPEG_LS_LOSSLESS) for bits in (10, 11, 12, 13)]
    encoded = [shelf.put(file) for file in files]
    size = len(transcode(files[0], EXPLICIT_VR_LITTLE_ENDIAN)) + 32  # and its digest

    async def story(transcoder: Transcoder) -> None:
        async def use(number: int) -> int:
            with await transcoder.file_of(*encoded[number], EXPLICIT_VR_LITTLE_ENDIAN) as file:
                assert file.read(128, 4) == b"DICM"
                return os.fstat(file.fileno()).st_ino

        first = await use(0)
        second = await use(1)
        assert await use(0) == first  # used again: the second is now the oldest
        await use(2)
        await use(3)
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= 3 * size
        assert second not in {path.stat().st_ino for path in cached(tmp_path)}

    run(tmp_path, story, cache_bytes=3 * size + size // 2)


def test_what_is_dropped_stays_readable_for_its_reader(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            for path in cached(tmp_path):
                path.unlink()
            assert file.read() == transcode(pixel_file(CT), JPEG_LS_LOSSLESS)

    run(tmp_path, story)


def test_two_processes_share_one_directory(tmp_path: Path, shelf: Shelf) -> None:
    stored = [shelf.put(pixel_file(Layout(stored=bits))) for bits in (10, 11, 12)]

    async def story(transcoder: Transcoder) -> None:
        other = Transcoder(tmp_path / "cache", cache_bytes=64 * MEBIBYTE)
        try:
            one, two = await asyncio.gather(
                *(t.file_of(*stored[0], JPEG_LS_LOSSLESS) for t in (transcoder, other))
            )
            assert one.read() == two.read()
            one.close()
            two.close()
            with await transcoder.file_of(*stored[1], JPEG_LS_LOSSLESS) as file:
                made = os.fstat(file.fileno()).st_ino
            with await other.file_of(*stored[1], JPEG_LS_LOSSLESS) as file:
                assert os.fstat(file.fileno()).st_ino == made
        finally:
            await other.close()

    run(tmp_path, story)


def test_a_killed_worker_fails_its_task_only(tmp_path: Path, shelf: Shelf) -> None:
    slow = shelf.put(pixel_file(Layout(rows=512, columns=512, frames=60)))
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        task = asyncio.create_task(transcoder.file_of(*slow, JPEG_2000_LOSSLESS))
        os.kill(await busy_worker(transcoder), signal.SIGKILL)
        with pytest.raises(TranscodeFailed, match="process ended"):
            await task
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.length

    run(tmp_path, story)
    assert [path.name for path in (tmp_path / "cache").glob(".*.part")] == []


def test_a_hung_worker_is_ended_and_not_asked_again_at_once(tmp_path: Path, shelf: Shelf) -> None:
    slow = shelf.put(pixel_file(Layout(rows=512, columns=512, frames=60)))
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        task = asyncio.create_task(transcoder.file_of(*slow, JPEG_2000_LOSSLESS))
        pid = await busy_worker(transcoder)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TranscodeFailed, match="too long"):
            await task
        assert not Path(f"/proc/{pid}").exists()
        started = time.monotonic()
        with pytest.raises(TranscodeFailed, match="too long"):
            await transcoder.file_of(*slow, JPEG_2000_LOSSLESS)
        assert time.monotonic() - started < 0.5
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.length

    run(tmp_path, story, timeout=2.0)


def test_a_client_with_many_images_does_not_delay_another(tmp_path: Path, shelf: Shelf) -> None:
    study = [shelf.put(pixel_file(Layout(rows=33 + n, columns=300))) for n in range(30)]
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        ended: list[str] = []

        async def ask(client: str, name: str, what: tuple[str, Extent]) -> None:
            (await transcoder.file_of(*what, JPEG_LS_LOSSLESS, client=client)).close()
            ended.append(name)

        tasks = [asyncio.create_task(ask("study", f"s{n}", one)) for n, one in enumerate(study)]
        await busy_worker(transcoder)
        tasks.append(asyncio.create_task(ask("single", "one", (key, extent))))
        await asyncio.gather(*tasks)
        assert ended.index("one") <= 3
        assert len(ended) == 31

    run(tmp_path, story)


def test_beyond_its_bounds_it_is_busy(tmp_path: Path, shelf: Shelf) -> None:
    stored = [shelf.put(pixel_file(Layout(rows=33 + n))) for n in range(5)]

    async def story(transcoder: Transcoder) -> None:
        asked = [transcoder.file_of(*one, JPEG_LS_LOSSLESS, client="c") for one in stored]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers].count(Busy) == 2  # one under way, two waiting
        for answer in answers:
            if not isinstance(answer, BaseException):
                answer.close()

    run(tmp_path, story, waiting=2)


def test_clients_that_vanish_leave_no_work_behind(tmp_path: Path, shelf: Shelf) -> None:
    slow = shelf.put(pixel_file(Layout(rows=512, columns=512, frames=20)))
    stored = [shelf.put(pixel_file(Layout(rows=33 + n))) for n in range(5)]

    async def story(transcoder: Transcoder) -> None:
        first = asyncio.create_task(transcoder.file_of(*slow, JPEG_LS_LOSSLESS))
        waiting = [asyncio.create_task(transcoder.file_of(*one, JPEG_LS_LOSSLESS)) for one in stored]
        await busy_worker(transcoder)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        (await first).close()
        with await transcoder.file_of(*stored[0], JPEG_LS_LOSSLESS) as file:
            assert file.length

    run(tmp_path, story)
    assert len(cached(tmp_path)) == 2


def test_closing_ends_what_waits(tmp_path: Path, shelf: Shelf) -> None:
    stored = [shelf.put(pixel_file(Layout(rows=512, columns=512, frames=20 + n))) for n in range(3)]

    async def story(transcoder: Transcoder) -> None:
        tasks = [asyncio.create_task(transcoder.file_of(*one, JPEG_LS_LOSSLESS)) for one in stored]
        pid = await busy_worker(transcoder)
        await transcoder.close()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Busy] * 3
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(Busy):
            await transcoder.file_of(*stored[0], JPEG_LS_LOSSLESS)

    run(tmp_path, story)


def test_a_worker_without_work_ends_and_comes_back(tmp_path: Path, shelf: Shelf) -> None:
    stored = [shelf.put(pixel_file(Layout(rows=33 + n))) for n in range(2)]

    async def story(transcoder: Transcoder) -> None:
        (await transcoder.file_of(*stored[0], JPEG_LS_LOSSLESS)).close()
        pid, deadline = worker_of(transcoder), time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists()
        (await transcoder.file_of(*stored[1], JPEG_LS_LOSSLESS)).close()

    run(tmp_path, story, idle=0.05)


def test_workers_die_with_their_parent(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from dicom_store.transcoder import Extent, Transcoder\n"
        "async def main():\n"
        "    t = Transcoder(Path(sys.argv[1]), cache_bytes=1 << 20)\n"
        f"    extent = Extent(Path(sys.argv[2]), {extent.offset}, {extent.length})\n"
        f"    await t.file_of({key!r}, extent, {JPEG_LS_LOSSLESS!r})\n"
        "    print(t._free[0].pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), str(shelf.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{worker}/cmdline").read_bytes():  # a zombie that init has not seen yet
            break
        time.sleep(0.02)
    assert time.monotonic() < deadline


def test_bytes_that_are_not_those_meant_are_refused(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        with pytest.raises(TranscodeFailed, match="damaged"):
            await transcoder.file_of(
                key, Extent(extent.path, extent.offset + 1, extent.length), JPEG_LS_LOSSLESS
            )
        with pytest.raises(TranscodeFailed, match="cannot be read"):
            await transcoder.file_of(key, Extent(tmp_path / "gone", 0, 10), JPEG_2000_LOSSLESS)
        with await transcoder.file_of(key, extent, JPEG_2000_LOSSLESS) as file:  # not remembered: it may pass
            assert file.length

    run(tmp_path, story)


def test_hostile_codestreams_give_a_reason_and_nothing_else(tmp_path: Path, shelf: Shelf) -> None:
    chance = random.Random(20260914)
    native = pixel_file(Layout(rows=48, columns=48, allocated=8, stored=8))
    files = []
    for source in (JPEG_LOSSLESS_SV1, JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_BASELINE):
        good = transcode(native, source)
        start = good.index(b"\xe0\x7f\x10\x00") + 32
        for _ in range(12):
            bad = bytearray(good)
            for _ in range(chance.choice((1, 4, 64))):
                bad[chance.randrange(start, len(bad))] = chance.randrange(256)
            files.append(bytes(bad))
        files.append(good[:start] + chance.randbytes(len(good) - start - 8) + good[-8:])
        files.append(good[: len(good) * 2 // 3])
    stored = [shelf.put(file) for file in files]

    async def story(transcoder: Transcoder) -> None:
        reasons = []
        for one in stored:
            try:
                (await transcoder.file_of(*one, EXPLICIT_VR_LITTLE_ENDIAN)).close()
            except TranscodeFailed as failure:
                reasons.append(failure.reason)
        assert len(reasons) > len(stored) // 4
        assert not any("PAT-DEUX" in reason or "IPP902" in reason for reason in reasons)
        key, extent = shelf.put(pixel_file(CT))
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.length

    run(tmp_path, story)


def test_memory_is_bounded(tmp_path: Path, shelf: Shelf) -> None:
    ds = data_set(Layout())
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelData = 4096, 4096, 5, bytes(5 << 25)  # 168 MB
    large = shelf.put(as_file(ds))
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        with pytest.raises(TranscodeFailed, match=r"larger than allowed|memory"):
            await transcoder.file_of(*large, JPEG_LS_LOSSLESS)
        with await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS) as file:
            assert file.length

    run(tmp_path, story, memory_bytes=512 * MEBIBYTE)


def test_a_worker_is_confined(tmp_path: Path, shelf: Shelf) -> None:
    key, extent = shelf.put(pixel_file(CT))

    async def story(transcoder: Transcoder) -> None:
        (await transcoder.file_of(key, extent, JPEG_LS_LOSSLESS)).close()
        pid = worker_of(transcoder)
        limits = {
            line[:25].strip(): line[25:].split()
            for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        }
        assert limits["Max address space"][:2] == [str(512 * MEBIBYTE)] * 2
        assert limits["Max core file size"][:2] == ["0", "0"]
        assert int(limits["Max cpu time"][0]) < 60
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PYTEST_CURRENT_TEST" not in environment

    run(tmp_path, story, memory_bytes=512 * MEBIBYTE)


def test_the_web_process_loads_no_codec(tmp_path: Path) -> None:
    script = (
        "import sys, dicom_store.transcoder, dicom_store.render_params, dicom_store.conversions\n"
        "print({'numpy', 'pydicom', 'gdcm', 'PIL', 'jpeg_ls', 'openjpeg'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "set()"
