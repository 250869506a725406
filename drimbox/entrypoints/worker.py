"""`drimbox worker`: reconciles what changed and sends what is prepared, on APScheduler's clock.

One worker per node: it holds a lock file, so at its start every lease of its node belongs to a dead worker and
is declared doubtful at once instead of after `dmp.lease` seconds.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler

from drimbox.bootstrap import Foundation, make_publishing, make_reconciling, node_name
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.supervisor import follow_supervisor

log = structlog.get_logger(__name__)


class AnotherWorker(Exception):
    """Another worker of this node is running on this storage."""


def run_worker(foundation: Foundation) -> None:
    """Work until SIGTERM, SIGINT or the death of the supervisor. Raises `AnotherWorker`."""
    room = foundation.settings.worker
    with NodeLock(foundation.settings.storage.root / f"worker-{node_name()}.lock"):
        reconciling, publishing = make_reconciling(foundation), make_publishing(foundation)
        _guarded("leases_expired", publishing.expire_leases_of_this_node)()
        scheduler = BlockingScheduler(executors={"default": ThreadPoolExecutor(room.publishers + 1)})
        jobs: dict[str, Callable[[], int]] = {"reconciled": reconciling.run_due}
        jobs |= {f"published_{n}": publishing.run_due for n in range(room.publishers)}
        for name, job in jobs.items():
            scheduler.add_job(
                _guarded(name, job),
                "interval",
                seconds=room.poll_interval,
                id=name,
                max_instances=1,
                coalesce=True,
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.shutdown(wait=False))
        follow_supervisor(lambda: os.kill(os.getpid(), signal.SIGTERM))
        log.info("worker_started")
        scheduler.start()
        log.info("worker_stopped")


class NodeLock:
    """An exclusive lock on a file, held while the process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> NodeLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AnotherWorker(f"{self._path} is held by another worker") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _guarded(name: str, job: Callable[[], int]) -> Callable[[], None]:
    """A defect in one pass is logged, and the next pass runs: the worker must outlive a bad exam."""

    def run() -> None:
        try:
            count = job()
        except Unavailable as error:
            log.error("work_postponed", outcome=name, reason=str(error))  # noqa: TRY400 expected, no traceback
        except Exception:
            log.exception("work_failed", outcome=name)
        else:
            if count:
                log.debug("work_done", outcome=name, count=count)

    return run
