"""What is looked at of our own parts: database, image store, worker, queue, whitelist, CRLs (trust-and-identity 6.3).

Each function is one look: plain arguments in, an `Outcome` out. What it says is for an operator: what is wrong, what to
do; never a secret or patient data.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509

from drimbox.domain.certificate_levels import Level, days_left, level_of
from drimbox.domain.errors import Unavailable
from drimbox.flow.backlog import backlog
from drimbox.flow.heartbeats import STOPPED, WEB, WORKER, beat, last_beat
from drimbox.flow.ports import Clock, Transactions
from healthcheck.probe import Outcome, Status
from whitelist.chain import Crls
from whitelist.decision import Alert, State
from whitelist.view import Snapshot

_RENEW = frozenset({Level.WARNING, Level.CRITICAL, Level.EXPIRED})
SLOW_WRITE = 2000.0  # milliseconds of a durable commit from which on it is a warning
STUCK = 600.0  # seconds that one pass of a job may last
_SAMPLE = 4096  # bytes: less may be kept inside an inode and need no free block


class Mesh(Protocol):
    """The whitelist as this process sees it."""

    def current(self) -> Snapshot: ...


def database_write(transactions: Transactions, node: str, clock: Clock) -> Outcome:
    """Beat as the process `web` of this node: a real, durable write. Milliseconds."""
    begun = time.monotonic()
    try:
        beat(transactions, node, WEB, clock(), {})
    except Unavailable as error:
        return Outcome(Status.FAIL, f"nothing can be received or sent: {error}")
    took = round((time.monotonic() - begun) * 1000, 1)
    if took > SLOW_WRITE:
        return Outcome(
            Status.WARN, f"a commit took {took / 1000:.1f} s: look at the database's disk", took, "ms"
        )
    return Outcome(value=took, unit="ms")


def images_write(directory: Path, name: str) -> Outcome:
    """Create, write, sync and delete the file `name` in the directory of the segments. Milliseconds.

    The name is the same at every look of a process: what a crash leaves is written over.
    """
    begun = time.monotonic()
    try:
        _write_and_delete(directory / name)
    except OSError as error:
        return Outcome(Status.FAIL, f"no image can be written in {directory}: {_words(error)}")
    return Outcome(value=round((time.monotonic() - begun) * 1000, 1), unit="ms")


def _write_and_delete(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, bytes(_SAMPLE)) < _SAMPLE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)  # `drimbox health --now` may have looked at the same moment


def images_free(directory: Path, minimum: int) -> Outcome:
    """Free bytes of the volume of the images against `storage.minimum_free_bytes`."""
    try:
        volume = os.statvfs(directory)
    except OSError as error:
        return Outcome(Status.FAIL, f"{directory} cannot be looked at: {_words(error)}")
    free = volume.f_bavail * volume.f_frsize
    mebibytes = f"{free // 2**20} MiB free, {minimum // 2**20} MiB must remain"
    if free < max(minimum, 1):
        return Outcome(Status.FAIL, f"new images are refused: {mebibytes}; make room", free, "bytes")
    if free < 2 * minimum:
        return Outcome(Status.WARN, f"{mebibytes}: make room", free, "bytes")
    return Outcome(value=free, unit="bytes")


def worker_heartbeat(transactions: Transactions, node: str, clock: Clock, silent_after: float) -> Outcome:
    """The last beat of this node's worker. `silent_after`: seconds without one that fail. Its age, seconds."""
    try:
        last = last_beat(transactions, node, WORKER)
    except Unavailable as error:
        return Outcome(Status.FAIL, f"not known: {error}")
    if last is None:
        return Outcome(Status.FAIL, f"no worker ever ran on {node}: start `drimbox worker`")
    return judge_worker(last.at, last.detail, clock(), silent_after)


def judge_worker(at: datetime, detail: Mapping[str, Any], now: datetime, silent_after: float) -> Outcome:
    """What a beat of the instant `at` says at `now`. A beat of the future (the clock went back) counts as none."""
    age = round((now - at).total_seconds(), 1)
    if detail.get("state") == STOPPED:
        return Outcome(
            Status.FAIL, f"the worker was stopped at {at:%Y-%m-%d %H:%M:%S} UTC: start it again", age, "s"
        )
    if abs(age) > silent_after:
        words = f"the worker is silent since {at:%Y-%m-%d %H:%M:%S} UTC: look at its log, start it again"
        return Outcome(Status.FAIL, words, age, "s")
    faults = sorted(_job_faults(detail.get("jobs", {}), age))
    return Outcome(Status.WARN if faults else Status.PASS, "; ".join(faults), age, "s")


def _job_faults(jobs: Mapping[str, Mapping[str, Any]], age: float) -> Iterable[str]:
    for name, job in jobs.items():
        busy = job.get("busy")
        if not job.get("alive", True):
            yield f"{name} has ended: restart the worker"
        elif busy is not None and busy + age > STUCK:
            yield f"{name} is stuck: at one pass for {(busy + age) / 60:.0f} min; look at the worker's log"


def queue_age(transactions: Transactions, clock: Clock, warn_after: float) -> Outcome:
    """For how many seconds what is due has been waiting, the oldest exam or submission; 0 = nothing waits."""
    now = clock()
    try:
        found = backlog(transactions, now)
    except Unavailable as error:
        return Outcome(Status.FAIL, f"not known: {error}")
    waiting = {"an exam to be judged": found.exam_since, "a submission to the DMP": found.submission_since}
    ages = {what: (now - since).total_seconds() for what, since in waiting.items() if since is not None}
    oldest = round(max(ages.values(), default=0.0), 1)
    faults = [f"the queue to the DMP stands still: {found.stopped}"] if found.stopped is not None else []
    faults += [f"{what} waits for {age / 60:.0f} min" for what, age in ages.items() if age > warn_after]
    words = f"{'; '.join(faults)} (drimbox status)" if faults else ""
    return Outcome(Status.WARN if faults else Status.PASS, words, oldest, "s")


# trust-and-identity 3.6, 6.3: only an absence, or no list at all, means that nothing is served
_WHITELIST: Mapping[State, tuple[Status, str]] = {
    State.CURRENT: (Status.PASS, ""),
    State.STALE: (
        Status.WARN,
        "the list could not be renewed, the last one serves on: see `drimbox whitelist show`",
    ),
    State.ABSENT: (
        Status.FAIL,
        "the list does not name us: nothing is exchanged; ask the ANS, then `drimbox whitelist refresh`",
    ),
    State.NEVER: (
        Status.FAIL,
        "no list was ever accepted: nothing is exchanged; see `drimbox whitelist refresh`",
    ),
}


def whitelist_state(mesh: Mesh, clock: Clock) -> Outcome:
    """State of the whitelist; seconds since the last one that was accepted."""
    snapshot = mesh.current()
    status, words = _WHITELIST[snapshot.state]
    doubts = [*([words] if words else []), *snapshot.warnings]
    if status is Status.PASS and snapshot.alert is not Alert.NONE:
        doubts.append(f"{snapshot.alert.value}: see `drimbox whitelist show`")
    if doubts:
        status = max(status, Status.WARN)
    success = snapshot.last_success
    age = round((clock() - success).total_seconds(), 1) if success else None
    return Outcome(status, "; ".join(doubts), age, "s" if success else "")


def crl_age(current: Callable[[], Crls], grace: timedelta, clock: Clock) -> Outcome:
    """The CRLs kept of the two pinned authorities against their nextUpdate; seconds since the older was issued."""
    now, crls = clock(), current()
    kept = {"the intermediate's CRL": crls.of_intermediate, "the root's CRL": crls.of_root}
    faults = [fault for name, crl in kept.items() if (fault := _crl_fault(name, crl, grace, now))]
    issued = min((crl.last_update_utc for crl in kept.values() if crl is not None), default=None)
    age = None if issued is None else round((now - issued).total_seconds())
    return Outcome(Status.WARN if faults else Status.PASS, "; ".join(faults), age, "s" if issued else "")


def _crl_fault(
    name: str, crl: x509.CertificateRevocationList | None, grace: timedelta, now: datetime
) -> str | None:
    """trust-and-identity 5.4."""
    if crl is None:
        return f"{name} was never had: see `drimbox whitelist refresh`"
    until = crl.next_update_utc
    if until is None or now <= until:
        return None
    end = until + grace
    believed = f"believed until {end:%Y-%m-%d %H:%M} UTC" if now <= end else "and its grace is over"
    return f"{name} ended on {until:%Y-%m-%d %H:%M} UTC, {believed}: see `drimbox whitelist refresh`"


def certificate_validity(path: Path, warn_days: int, clock: Clock) -> Outcome:
    """The certificate in a PEM file, read again at each look; days left of it, or of its chain if that ends sooner.

    Another certificate of the file (its chain) only warns: peers may know a way around it.
    """
    try:
        return _judge_certificates(path, path.read_bytes(), warn_days, clock())
    except OSError as error:
        return Outcome(Status.FAIL, f"{path} cannot be read: {_words(error)}")


def certificate_served(path: Path, shown: Callable[[], bytes], warn_days: int, clock: Clock) -> Outcome:
    """As `certificate_validity`, for a listener that holds what it read: `shown()`, until SIGHUP renews it.

    What is worse counts: a file that was renewed helps nobody before the listener takes it.
    """
    served = _judge_certificates(path, shown(), warn_days, clock())
    renewed = certificate_validity(path, warn_days, clock)
    if served.status <= renewed.status:
        return renewed
    words = (
        f"{served.output}; the file is newer than what is served: reload `drimbox web` (SIGHUP), see its log"
    )
    return Outcome(served.status, words, served.value, served.unit)


def _judge_certificates(path: Path, pem: bytes, warn_days: int, now: datetime) -> Outcome:
    try:
        leaf, *chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return Outcome(Status.FAIL, f"{path} holds no PEM certificate")
    days = days_left(leaf.not_valid_after_utc, now)
    if now < leaf.not_valid_before_utc:
        words = f"{path.name} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return Outcome(Status.FAIL, words, days, "days")
    if level_of(leaf.not_valid_after_utc, now, warn_days) is Level.EXPIRED:
        words = f"{path.name} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        return Outcome(Status.FAIL, words, days, "days")
    soonest = min(one.not_valid_after_utc for one in (leaf, *chain))
    days = days_left(soonest, now)
    if level_of(soonest, now, warn_days) in _RENEW:
        whose = "" if soonest == leaf.not_valid_after_utc else "its chain "
        return Outcome(Status.WARN, f"{path.name}: {whose}ends on {soonest:%Y-%m-%d}: renew it", days, "days")
    return Outcome(value=days, unit="days")


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
