"""`drimbox worker`: reconciles what changed, sends what is prepared and, where that is set, the senders' receipts.

Each thread goes on while it finds work, and wakes the others when it did some; all of them wake every
`worker.poll_interval` seconds, for what became due and for what other processes brought.

One worker per node: it holds a lock file, so at its start every lease of its node belongs to a dead worker and
is declared doubtful at once instead of after `dmp.lease` seconds. Some of what is done from time to time is done by
one worker for all nodes (`on_duty.py`).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from drimbox.bootstrap import (
    Foundation,
    make_publishing,
    make_reconciling,
    node_name,
    utc_now,
)
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.audit_forwarding import make_audit_forwarding
from drimbox.entrypoints.certificate_alarms import EVERY as LOOK_AT_CERTIFICATES
from drimbox.entrypoints.certificate_alarms import make_certificate_alarms
from drimbox.entrypoints.commitments import make_worker_committing
from drimbox.entrypoints.notify import ALIVE, READY, STOPPING, Notifier, take_notifier
from drimbox.entrypoints.on_duty import (
    AUDIT,
    INBOX,
    SEGMENTS,
    WHITELIST,
    make_duties,
    make_guarded_compacting,
    make_guarded_purging,
    make_guarded_retaining,
)
from drimbox.entrypoints.pulse import Pulse
from drimbox.entrypoints.receipts_sending import make_receipts
from drimbox.entrypoints.renewal import Renewal
from drimbox.entrypoints.rounds import Rounds
from drimbox.entrypoints.stop_signal import StopSignal
from drimbox.entrypoints.supervisor import follow_supervisor
from drimbox.entrypoints.whitelist_keeping import make_keeping
from drimbox.flow.duties import LOOK, Duties
from drimbox.flow.heartbeats import BEATS

log = structlog.get_logger(__name__)

Job = Callable[[], int]
GOODBYE_SECONDS = 3.0
WHITELIST_LOOK = 20  # seconds between two looks at whether a retrieval is due
PURGE_AFTER_START, PURGE_EVERY, PURGE_JITTER = 600, 86_400, 3600  # seconds
COMPACT_EVERY = 86_400 / 4


class AnotherWorker(Exception):
    """Another worker of this node is running on this storage."""


def run_worker(foundation: Foundation) -> None:
    """Work until SIGTERM, SIGINT or the death of the supervisor; SIGHUP renews the credentials.

    Raises `AnotherWorker`.
    """
    stop = StopSignal(Renewal(foundation).run)
    stop.catch()
    room = foundation.settings.worker
    with NodeLock(foundation.settings.storage.root / f"worker-{node_name(foundation.settings)}.lock"):
        reconciling, publishing = make_reconciling(foundation), make_publishing(foundation)
        _count("leases_expired", publishing.expire_leases_of_this_node)
        wanted = foundation.settings.mllp.business_acknowledgement
        receipts = make_receipts(foundation).run_due if wanted else None
        jobs = worker_jobs(reconciling.run_due, publishing.run_due, room.publishers, receipts)
        crew = Crew(jobs | {"committed": make_worker_committing(foundation).run_due})
        pulse = Pulse(foundation.transactions, node_name(foundation.settings), utc_now, crew.diary)
        duties, notifier = make_duties(foundation), take_notifier()
        rounds = _make_rounds(foundation, crew, pulse, duties)
        if notifier.pace is not None:
            rounds.every(notifier.pace, "watchdog", partial(_show_life, crew, pulse, notifier))
        follow_supervisor(stop.tell)
        _count("duties_taken", duties.keep)
        crew.start()
        log.info("worker_started")
        rounds.start()
        notifier.tell(READY)
        stop.wait()
        notifier.tell(STOPPING)
        rounds.stop()
        crew.stop()
        _say_goodbye(pulse, duties)
        log.info("worker_stopped")


def _show_life(crew: Crew, pulse: Pulse, notifier: Notifier) -> None:
    """Every job has its thread, and a beat has ended, whatever the database said: one that is down kills no worker."""
    _count("worker_alive", pulse.beat)
    if crew.is_whole():
        notifier.tell(ALIVE)


def _say_goodbye(pulse: Pulse, duties: Duties) -> None:
    """That it was stopped, and its duties are free, if the database takes it soon; else it will be found silent."""

    def farewell() -> None:
        _count("duties_released", duties.release)
        _count("worker_stopped", pulse.stop)

    last = threading.Thread(target=farewell, daemon=True)
    last.start()
    last.join(GOODBYE_SECONDS)


def _make_rounds(foundation: Foundation, crew: Crew, pulse: Pulse, duties: Duties) -> Rounds:
    """What happens from time to time, whether or not there is work; some of it by one worker for all nodes."""
    rounds = Rounds()

    def every(seconds: float, name: str, job: Job, **options: float) -> None:
        rounds.every(seconds, name, partial(_count, name, job), **options)

    settings, actor = foundation.settings, f"worker:{node_name(foundation.settings)}"
    rounds.every(settings.worker.poll_interval, "poll", crew.wake)
    every(settings.health.period / BEATS, "worker_alive", pulse.beat)
    every(LOOK, "duties_taken", duties.keep, first=LOOK)
    purge = duties.alone(INBOX, make_guarded_purging(foundation, duties, actor).purge_due)
    every(PURGE_EVERY, "inbox_purged", purge, first=PURGE_AFTER_START, jitter=PURGE_JITTER)
    retrieve = duties.alone(WHITELIST, make_keeping(foundation, actor).run_due)
    every(WHITELIST_LOOK, "whitelist_retrieved", retrieve)
    # of every node: each has files of its own
    every(LOOK_AT_CERTIFICATES, "certificates_ending", make_certificate_alarms(foundation, actor).run_due)
    compact = duties.alone(SEGMENTS, make_guarded_compacting(foundation, duties, actor).run_due)
    every(COMPACT_EVERY, "segments_compacted", compact, first=COMPACT_EVERY, jitter=PURGE_JITTER)
    if settings.retention.automatic:
        forget = make_guarded_retaining(foundation, duties, actor).run_due
        forget = duties.alone(SEGMENTS, forget)
        every(PURGE_EVERY, "images_forgotten", forget, first=PURGE_AFTER_START, jitter=PURGE_JITTER)
    audit = make_audit_forwarding(foundation)
    if audit is not None:
        every(settings.audit.interval, "audit_forwarded", duties.alone(AUDIT, audit.run_due))
    return rounds


def worker_jobs(reconcile: Job, publish: Job, publishers: int, receipts: Job | None = None) -> dict[str, Job]:
    """One reconciler, `publishers` publishers, one for `receipts` if they are sent, by their names in the log."""
    jobs = {"reconciled": reconcile} | {f"published_{number}": publish for number in range(publishers)}
    return jobs if receipts is None else jobs | {"receipts": receipts}


@dataclass(slots=True)
class _Shift:
    """Monotonic seconds: begin of the pass under way, end of the last one; None: there is none."""

    begun: float | None = None
    ended: float | None = None


class Crew:
    """A thread per job. A job returns how much it did: more than nothing, and it is called again at once.

    `monotonic`: seconds.
    """

    def __init__(self, jobs: Mapping[str, Job], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._bells = {name: threading.Event() for name in jobs}
        self._shifts = {name: _Shift() for name in jobs}
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

    def diary(self) -> dict[str, dict[str, Any]]:
        """By job: `last`, seconds since its last completed pass; `busy`, seconds of the one under way; `alive`.

        None: there is no such pass.
        """
        alive, instant = {thread.name for thread in self._threads if thread.is_alive()}, self._monotonic()

        def since(moment: float | None) -> float | None:
            return None if moment is None else round(instant - moment, 1)

        return {
            name: {"last": since(shift.ended), "busy": since(shift.begun), "alive": name in alive}
            for name, shift in self._shifts.items()
        }

    def is_whole(self) -> bool:
        """Whether every job has its thread."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Let every job end what it is doing, and wait for it."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def _work(self, name: str, job: Job) -> None:
        bell, shift = self._bells[name], self._shifts[name]
        while not self._stopping.is_set():
            bell.clear()
            shift.begun = self._monotonic()
            done = _count(name, job)
            shift.ended, shift.begun = self._monotonic(), None
            if done:
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
            raise AnotherWorker(
                f"{self._path} is held by another worker: one per node, and a name for each node (node.name)"
            ) from None
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
