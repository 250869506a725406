"""`drimbox bench publish` and `bench reconcile`: the worker of the appliance, in this process, on SQLite."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from drimbox.adapters.ledger import SqlLedger
from drimbox.adapters.tables import exam_table, submission_table
from drimbox.bootstrap import Foundation, make_publishing, make_reconciling, utc_now
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.outcome import Answer, Lookup
from drimbox.domain.xds.publication import FrozenLot
from drimbox.domain.xds.withdrawal import FrozenWithdrawal
from drimbox.entrypoints.bench_exams import ROOT, bring_exams, open_appliance
from drimbox.entrypoints.demo_stage import StepFailed
from drimbox.entrypoints.whitelist_keeping import make_keeping
from drimbox.entrypoints.worker import Crew, worker_jobs
from drimbox.flow.publish import DmpDoor

PUBLISHERS = 4
PATIENCE = 60.0  # seconds, and one more per exam
LOOK_EVERY = 0.2  # seconds between two looks at how many are done
ROUNDS = 15

Value = TypeVar("Value")


class Stopwatch:
    """Seconds that threads spent, by stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def time(self, stage: str, call: Callable[[], Value]) -> Value:
        """What `call` returns; its time is added to the stage."""
        started = time.perf_counter()
        try:
            return call()
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - started


class TimedDmp:
    """The door to the DMP, timed."""

    def __init__(self, door: DmpDoor, watch: Stopwatch) -> None:
        self._door, self._watch = door, watch

    def publish(self, lot: FrozenLot) -> Answer:
        return self._watch.time("send", lambda: self._door.publish(lot))

    def withdraw(self, withdrawal: FrozenWithdrawal) -> Answer:
        return self._watch.time("send", lambda: self._door.withdraw(withdrawal))

    def find(self, unique_id: str, identity: VihfIdentity) -> Lookup:
        return self._watch.time("look_up", lambda: self._door.find(unique_id, identity))


def bench_publish(directory: Path, count: int) -> dict[str, Any]:
    """Publications per second from the first look at `count` exams to the last entryUUID, and where time went."""
    with open_appliance(directory) as (stage, foundation):
        bring_exams(foundation, count)
        watch = Stopwatch()
        simulators = stage.processes[0].pid
        before = (time.process_time(), _processor_seconds(simulators))
        seconds = _work(foundation, count, watch)
        after = (time.process_time(), _processor_seconds(simulators))
    spent = watch.seconds
    stages = {
        "judge_and_freeze": spent["reconcile"],
        "claim_and_settle": spent["publish"] - spent["send"] - spent["look_up"],
        "send": spent["send"],
        "look_up": spent["look_up"],
    }
    return {
        "exams": count,
        "publishers": PUBLISHERS,
        "seconds": round(seconds, 2),
        "publications_per_second": round(count / seconds, 1),
        "thread_ms_per_publication": _per_publication(stages, count),
        "processor_ms_per_publication": _per_publication(
            {"appliance": after[0] - before[0], "simulators": after[1] - before[1]}, count
        ),
    }


def bench_reconcile(directory: Path, count: int) -> dict[str, Any]:
    """Seconds until nothing is due after `count` known exams were put in the queue; and one exam judged in full."""
    with open_appliance(directory) as (_, foundation):
        bring_exams(foundation, 1)
        _work(foundation, 1, Stopwatch())
        reconciling = make_reconciling(foundation)
        study = f"{ROOT}.1.0"
        judged = [_seconds(lambda: reconciling.run(study)) for _ in range(ROUNDS)]
        _copy_exam(foundation, study, count)
        queued = _seconds(lambda: _judge_all_again(foundation))
        seconds = _seconds(lambda: _until_nothing(reconciling.run_due))
    return {
        "exams": count,
        "seconds": round(queued + seconds, 2),
        "exams_per_second": round(count / (queued + seconds)),
        "one_exam_judged_in_full_ms": round(1000 * statistics.median(judged), 2),
    }


def _work(foundation: Foundation, count: int, watch: Stopwatch) -> float:
    """Seconds from the first look to the last entryUUID."""
    make_keeping(foundation, "bench").refresh(force=True)  # nothing leaves before the first whitelist
    reconciling, publishing = make_reconciling(foundation), make_publishing(foundation)
    publishing = replace(publishing, dmp=TimedDmp(publishing.dmp, watch))
    crew = Crew(
        worker_jobs(
            lambda: watch.time("reconcile", reconciling.run_due),
            lambda: watch.time("publish", publishing.run_due),
            PUBLISHERS,
        )
    )
    started = time.perf_counter()
    crew.start()
    try:
        while (done := _identified(foundation)) < count:
            if time.perf_counter() - started > PATIENCE + count:
                raise StepFailed(f"{done} of {count} exams were published")
            time.sleep(LOOK_EVERY)
            crew.wake()
        seconds = time.perf_counter() - started
    finally:
        crew.stop()
    _until_nothing(reconciling.run_due)
    return seconds


def _identified(foundation: Foundation) -> int:
    named = select(func.count()).where(submission_table.c.entry_uuid.is_not(None))
    with foundation.database.reading() as session:
        return session.scalar(named) or 0


def _copy_exam(foundation: Foundation, study: str, count: int) -> None:
    """`count` more rows like that of a published exam: known, judged, nothing to do."""
    with foundation.database.engine.begin() as connection:
        row = connection.execute(select(exam_table).where(exam_table.c.study_instance_uid == study)).one()
        if row.judged is None:
            raise StepFailed("the published exam was not judged")
        copies = [{**row._mapping, "study_instance_uid": f"{ROOT}.2.{number}"} for number in range(count)]
        connection.execute(insert(exam_table), copies)


def _judge_all_again(foundation: Foundation) -> int:
    with foundation.database.engine.begin() as connection, Session(connection) as session:
        return SqlLedger(session).judge_all_again(utc_now())


def _until_nothing(job: Callable[[], int]) -> None:
    while job():
        pass


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _per_publication(seconds: dict[str, float], count: int) -> dict[str, float]:
    return {name: round(1000 * spent / count, 1) for name, spent in seconds.items()}


def _processor_seconds(pid: int) -> float:
    """User and system time of a process (proc_pid_stat(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
