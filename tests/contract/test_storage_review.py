"""Forgetting and compacting beside doors that write: nobody waits for ever, nobody waits long."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicom_store import index_segments
from drimbox.adapters.storage_queries import StorageQueries
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.flow.forget_images import forget_images
from fixtures.images import study_datasets
from fixtures.kept_images import KeptImages, exam
from fixtures.notes import note_dataset

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
PATIENCE = 20.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[KeptImages]:
    made = KeptImages(tmp_path / "box")
    yield made
    made.close()


@pytest.fixture
def on_each_engine(tmp_path: Path, database_url: str) -> Iterator[KeptImages]:
    made = KeptImages(tmp_path / "box", database_url)
    yield made
    made.close()


def by_associations(box: KeptImages, count: int) -> str:
    """An exam of which each instance came on an association of its own."""
    spec = exam(instances=count)
    for image in study_datasets(spec):
        box.store([image])
    assert len(box.on_disk()) == count
    return spec.study_instance_uid


def compact(box: KeptImages) -> Callable[[], object]:
    compacting = make_compacting(box.foundation, "test", 0.1, 1)
    return lambda: [one.trouble for one in compacting.run()]


def forget(box: KeptImages) -> Callable[[], object]:
    study = exam().study_instance_uid
    return lambda: forget_images(box.foundation.transactions, study, now=NOW, actor="test", reason="x")


def someone_waits(box: KeptImages) -> bool:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with box.foundation.database.reading() as session:
        return bool(session.scalar(query))


@pytest.mark.parametrize("job", [forget, compact])
def test_an_instance_that_arrives_meanwhile_is_no_deadlock(
    on_each_engine: KeptImages, job: Callable[[KeptImages], Callable[[], object]]
) -> None:
    """An arrival locks the study, then the exam: who locks them the other way round makes one of the two fail."""
    box = on_each_engine
    if box.foundation.database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    spec = box.store_exam()
    box.store([note_dataset(spec, "113001", [(1, 1), (1, 2)])])
    study = spec.study_instance_uid
    with box.foundation.database.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE dicom_instance SET rejected_at = '2020-01-01T00:00:00.000000Z' WHERE rejected_at > ''"
            )
        )
    box.settle(study)
    outcomes: list[object] = []
    run = job(box)

    def call() -> None:
        try:
            outcomes.append(run())
        except Exception as error:  # noqa: BLE001 - looked at by the test
            outcomes.append(error)

    beside = threading.Thread(target=call)
    with box.foundation.transactions.writing() as transaction:
        index_segments.lock_study(transaction.storage.session, study)
        beside.start()
        deadline = time.monotonic() + PATIENCE
        while not someone_waits(box):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert transaction.ledger.image_received(study, NOW, NOW) is not None
        transaction.commit()
    beside.join(PATIENCE)
    assert not beside.is_alive()
    assert not isinstance(outcomes[0], Exception), outcomes


def test_the_doors_write_between_the_files_of_a_forgotten_exam(
    box: KeptImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = by_associations(box, 4)
    dropped: list[int] = []
    real = StorageQueries.drop

    def drop(self: Any, segments: Any) -> int:
        dropped.append(len(segments))
        return real(self, segments)

    monkeypatch.setattr(StorageQueries, "drop", drop)
    gone = forget_images(box.foundation.transactions, study, now=NOW, actor="test", reason="x")
    assert dropped == [1, 1, 1, 1], "each in a transaction of its own"
    assert gone.freed > gone.bytes
    assert box.on_disk() == []


def test_one_file_that_cannot_be_deleted_holds_up_no_other(
    box: KeptImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = by_associations(box, 4)
    with box.foundation.transactions.writing() as transaction:
        transaction.storage.forget(study)
        transaction.commit()
    stuck, real = box.on_disk()[1], os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if str(path).endswith(stuck):
            raise OSError(errno.EIO, "Input/output error")
        real(path, **options)

    said: list[dict[str, Any]] = []
    compacting = make_compacting(
        box.foundation,
        "test",
        grace=timedelta(0),
        log=lambda event, **words: said.append({"event": event, **words}),
    )
    monkeypatch.setattr(os, "unlink", unlink)
    assert compacting.drop_retired() > 0
    assert box.on_disk() == [stuck]
    assert [(one["event"], one["segment"]) for one in said] == [("segment_not_dropped", stuck)]
    monkeypatch.undo()
    assert compacting.drop_retired() > 0
    assert box.on_disk() == []
    with box.foundation.transactions.reading() as transaction:
        assert transaction.storage.retired() == frozenset()
