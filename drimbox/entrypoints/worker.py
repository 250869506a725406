"""`drimbox worker`: reconciles what changed, sends what is prepared and, where that is set, the senders' receipts.

Each thread goes on while it finds work, and wakes the others when it did some; APScheduler's clock wakes all of
them every `worker.poll_interval` seconds, for what became due and for what other processes brought.

One worker per node: it holds a lock file, so at its start every lease of its node belongs to a dead worker and
is declared doubtful at once instead of after `dmp.lease` seconds.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.blocking import BlockingScheduler

from drimbox.bootstrap import (
    Foundation,
    make_inbox_purging,
    make_publishing,
    make_receipts,
    make_reconciling,
    node_name,
    utc_now,
)
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.audit_forwarding import make_audit_forwarding
from drimbox.entrypoints.supervisor import follow_supervisor
from drimbox.entrypoints.whitelist_keeping import make_keeping

log = structlog.get_logger(__name__)

Job = Callable[[], int]
WHITELIST_LOOK = 20  # seconds between two looks at whether a retrieval is due
PURGE_AFTER_START, PURGE_JITTER = (
    timedelta(minutes=10),
    3600,
)  # then once a day, give or take the jitter in seconds


class AnotherWorker(Exception):
    """Another worker of this node is running on this storage."""


def run_worker(foundation: Foundation) -> None:
    """Work until SIGTERM, SIGINT or the death of the supervisor. Raises `AnotherWorker`."""
    room = foundation.settings.worker
    with NodeLock(foundation.settings.storage.root / f"worker-{node_name()}.lock"):
        reconciling, publishing = make_reconciling(foundation), make_publishing(foundation)
        _count("leases_expired", publishing.expire_leases_of_this_node)
        wanted = foundation.settings.mllp.business_acknowledgement
        receipts = make_receipts(foundation).run_due if wanted else None
        crew = Crew(worker_jobs(reconciling.run_due, publishing.run_due, room.publishers, receipts))
        scheduler = BlockingScheduler()
        scheduler.add_job(crew.wake, "interval", seconds=room.poll_interval, max_instances=1, coalesce=True)
        purging = make_inbox_purging(foundation, f"worker:{node_name()}")
        scheduler.add_job(
            _count,
            "interval",
            args=("inbox_purged", purging.purge_due),
            days=1,
            jitter=PURGE_JITTER,
            misfire_grace_time=None,
            next_run_time=utc_now() + PURGE_AFTER_START,
        )
        keeping = make_keeping(foundation, f"worker:{node_name()}")
        scheduler.add_job(
            _count,
            "interval",
            args=("whitelist_retrieved", keeping.run_due),
            seconds=WHITELIST_LOOK,
            next_run_time=utc_now(),
            misfire_grace_time=None,  # late is better than not
            max_instances=1,
            coalesce=True,
        )
        audit = make_audit_forwarding(foundation)
        if audit is not None:
            scheduler.add_job(
                _count,
                "interval",
                args=("audit_forwarded", audit.run_due),
                seconds=foundation.settings.audit.interval,
                misfire_grace_time=None,
                max_instances=1,
                coalesce=True,
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.shutdown(wait=False))
        follow_supervisor(lambda: os.kill(os.getpid(), signal.SIGTERM))
        crew.start()
        log.info("worker_started")
        scheduler.start()
        crew.stop()
        log.info("worker_stopped")


def worker_jobs(reconcile: Job, publish: Job, publishers: int, receipts: Job | None = None) -> dict[str, Job]:
    """One reconciler, `publishers` publishers, one for `receipts` if they are sent, by their names in the log."""
    jobs = {"reconciled": reconcile} | {f"published_{number}": publish for number in range(publishers)}
    return jobs if receipts is None else jobs | {"receipts": receipts}


class Crew:
    """A thread per job. A job returns how much it did: more than nothing, and it is called again at once."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._stopping = threading.Event()
        self._bells = {name: threading.Event() for name in jobs}
        self._threads = [
            threading.Thread(target=self._work, args=(name, job), name=name) for name, job in jobs.items()
        ]

    def start(self) -> None:
        """Every job looks for work."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Every job looks for work again; one that is at work does so before it rests."""
        for bell in self._bells.values():
            bell.set()

    def stop(self) -> None:
        """Let every job end what it is doing, and wait for it."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def _work(self, name: str, job: Job) -> None:
        bell = self._bells[name]
        while not self._stopping.is_set():
            bell.clear()
            if _count(name, job):
                self.wake()
            elif not self._stopping.is_set():
                bell.wait()


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


def _count(name: str, job: Job) -> int:
    """What the job did. A defect in one pass is logged and counts as nothing: the worker must outlive a bad exam."""
    try:
        count = job()
    except Unavailable as error:
        log.error("work_postponed", outcome=name, reason=str(error))  # noqa: TRY400 expected, no traceback
    except Exception:
        log.exception("work_failed", outcome=name)
    else:
        if count:
            log.debug("work_done", outcome=name, count=count)
        return count
    return 0
