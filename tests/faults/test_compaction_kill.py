"""SIGKILL of a compaction before and after each of its steps: nothing is lost, nothing is there twice, it ends well."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drimbox.adapters.transactions import SqlTransaction
from drimbox.entrypoints.intake import recover
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.entrypoints.verify_cli import make_verifying
from drimbox.flow.compact_segments import Compacting
from drimbox.flow.verify_storage import Progress
from fixtures.kept_images import KeptImages, exam
from fixtures.notes import note_dataset

STUDY = exam().study_instance_uid
MOST_STEPS = 200


@contextmanager
def opened(root: Path) -> Iterator[KeptImages]:
    box = KeptImages(root)
    yield box
    box.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A settled exam of six instances in one segment, three of them rejected long ago; with absolute places."""
    root = tmp_path / "box"
    with opened(root) as box:
        spec = box.store_exam(instances=6)
        box.store([note_dataset(spec, "113001", [(1, 1), (1, 2), (1, 3)])])
        with box.foundation.database.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE dicom_instance SET rejected_at = '2020-01-01T00:00:00.000000Z' WHERE rejected_at > ''"
                )
            )
        box.settle(STUDY)
    return root


def compacting(box: KeptImages, now: datetime | None = None) -> Compacting:
    made = make_compacting(box.foundation, "worker:test", 0.3, 30, timedelta(hours=1))
    if now is not None:
        object.__setattr__(made, "clock", lambda: now)
    return made


class Steps:
    """Kills this process at its `last`-th step; a step begins and ends with each of the wrapped calls."""

    def __init__(self, last: int) -> None:
        self._left = last

    def wrap(self, owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def stepped(*given: Any, **named: Any) -> Any:
            self._step()
            found = real(*given, **named)
            self._step()
            return found

        setattr(owner, name, stepped)

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_at(root: Path, step: int) -> bool:
    """Compact in a child process that is killed at that step; False: it came to its end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            box = KeptImages(root)
            steps = Steps(step)
            for name in ("sendfile", "fsync", "unlink", "ftruncate"):
                steps.wrap(os, name)
            steps.wrap(SqlTransaction, "commit")
            compacting(box).run_due()
            compacting(box, datetime.now(UTC) + timedelta(hours=2)).run_due()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def losses(box: KeptImages) -> Progress:
    return make_verifying(box.foundation, 0, lambda _: None, quiet=True).study(STUDY)


def test_a_compaction_that_is_killed_at_every_step(prepared: Path) -> None:
    with opened(prepared) as box:
        whole = box.files(STUDY)
        rejected = {one.sop_instance_uid for one in box.records(STUDY) if one.rejected}
    before = prepared.with_name("before")
    shutil.copytree(prepared, before)
    for step in range(1, MOST_STEPS):
        shutil.rmtree(prepared)
        shutil.copytree(before, prepared)  # the configuration names this very place
        if not killed_at(prepared, step):
            break
        with opened(prepared) as box:
            found = box.files(STUDY)
            assert found == {uid: whole[uid] for uid in found}
            assert set(whole) - set(found) in (set(), rejected), step
            recover(box.foundation)
            assert box.files(STUDY) == found, step
            assert losses(box).lost == 0, step
            compacting(box, datetime.now(UTC) + timedelta(hours=2)).run_due()
            compacting(box, datetime.now(UTC) + timedelta(hours=4)).run_due()
            assert set(box.files(STUDY)) == set(whole) - rejected, step
            assert losses(box).counts == {"missing": 0, "damaged": 0, "orphaned": 0}, step
            assert len(box.on_disk()) == 2, step
    assert 15 < step < MOST_STEPS - 1, "every step was there"
