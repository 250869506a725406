"""What one manifest of ours shares and where it lies: read once, kept while the manifest's standing stays the same.

Everything that changes what may be served, or from where, moves the standing in the same commit: the state of its
submission (trace.move_submission), `exam.withdrawn_by`, and `exam.revision`, which grows with every instance stored,
stored again, moved or rejected (receive_instance), every report (keep_report), order, consent and import.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Protocol

from dicom_store.rejection import REASONS
from dicom_store.study import InstanceRef
from drimbox.domain.access import Standing, Wish, refuse
from drimbox.domain.kos import read_manifest
from drimbox.flow.ports import Documents, Transaction, Transactions

INSTANCES_KEPT = 50_000  # about 700 bytes each
KEPT_SECONDS = 60.0  # after the last request for it: a retrieval asks again and again, and is then over
_OWN_COST = 4  # of a manifest beside its instances, in instances


class Place(Protocol):
    """Where a stored instance lies; opaque but for this."""

    @property
    def ref(self) -> InstanceRef: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def rejected(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What may leave of a study or series, in order; `withdrawn`: there was more, rejected meanwhile."""

    places: tuple[Any, ...]
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class SharedFacts:
    """A manifest of ours. `unpublished`: the reports that it was published for are gone.

    `series`: the instances that it lists, by series and SOP Instance UID, each with its place (None: not here).
    """

    standing: Standing
    unpublished: bool
    series: Mapping[str, Mapping[str, Any]]
    size: int
    _study: Choice = field(init=False)
    _each: dict[str, Choice] = field(init=False)

    def __post_init__(self) -> None:
        every = {uid: _choice(places.values()) for uid, places in self.series.items()}
        object.__setattr__(self, "_each", every)
        whole = tuple(place for choice in every.values() for place in choice.places)
        object.__setattr__(self, "_study", Choice(whole, any(choice.withdrawn for choice in every.values())))

    def choose(self, wish: Wish) -> Sequence[Any]:
        """The instances that may leave. Raises `AccessRefused`: 404, or 410 when all of them were rejected."""
        choice = self._choice(wish)
        if self.unpublished:
            raise refuse("kos-unpublished")
        if not choice.places:
            raise refuse("instance-withdrawn" if choice.withdrawn else "instance-not-shared")
        return choice.places

    def _choice(self, wish: Wish) -> Choice:
        if wish.sop is None:
            return self._study if wish.series is None else self._each.get(wish.series, _NOTHING)
        asked = self.series if wish.series is None else (wish.series,)
        return _choice(self.series.get(series, {}).get(wish.sop) for series in asked)


_NOTHING = Choice((), False)


def _choice(places: Iterable[Place | None]) -> Choice:
    known = [place for place in places if place is not None]
    leaving = tuple(place for place in known if not stops_serving(place.rejected))
    return Choice(leaving, len(leaving) < len(known))


def stops_serving(rejected: str | None) -> bool:
    """Whether a reason of rejection refuses the instance at once, also while a manifest lists it."""
    return rejected is not None and REASONS[rejected].stops_serving_at_once


class FactsKept:
    """The facts of manifests, the least recently used first to go, bounded by instances. Safe for threads.

    What nobody asked for in `KEPT_SECONDS` goes when something else is put. `monotonic`: seconds.
    """

    def __init__(self, most: int = INSTANCES_KEPT, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most, self._monotonic = most, monotonic
        self._cost = 0
        self._facts: OrderedDict[str, tuple[SharedFacts, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kos_uid: str) -> SharedFacts | None:
        """What was put last, whatever its standing."""
        with self._lock:
            found = self._facts.pop(kos_uid, None)
            if found is None:
                return None
            self._facts[kos_uid] = found[0], self._monotonic()
            return found[0]

    def put(self, kos_uid: str, facts: SharedFacts) -> None:
        """Keep; the last one put stays however large it is."""
        with self._lock:
            now, before = self._monotonic(), self._facts.pop(kos_uid, None)
            self._cost += _cost(facts) - (_cost(before[0]) if before else 0)
            self._facts[kos_uid] = facts, now
            while len(self._facts) > 1 and (self._cost > self._most or self._is_over(now)):
                self._cost -= _cost(self._facts.popitem(last=False)[1][0])

    def _is_over(self, now: float) -> bool:
        """Whether nobody asked for the least recently used for long."""
        _, asked = next(iter(self._facts.values()))
        return asked < now - KEPT_SECONDS


def _cost(facts: SharedFacts) -> int:
    return facts.size + _OWN_COST


@dataclass(frozen=True, slots=True)
class SharedReading:
    """Reads facts whole. `kept`: where the lists of manifests read before are found again."""

    transactions: Transactions
    documents: Documents
    kept: FactsKept

    def read(self, kos_uid: str) -> SharedFacts | None:
        """Read the facts and keep them; None: no manifest of ours. Raises `Unavailable`, `errors.Damaged`."""
        with self.transactions.reading() as transaction:
            # first: what is read after it is as new or newer, so that a change in between is seen by the next look
            standing = transaction.serving.standings([kos_uid]).get(kos_uid)
            if standing is None:
                return None
            unpublished = _has_lost_its_reports(transaction, standing.study_instance_uid)
            places = transaction.images.retrieve(standing.study_instance_uid, None, None)
        series = _placed(self._listed(kos_uid, standing.kos), places)
        facts = SharedFacts(standing, unpublished, series, sum(map(len, series.values())))
        self.kept.put(kos_uid, facts)
        return facts

    def _listed(self, kos_uid: str, digest: str) -> Iterable[tuple[str, Iterable[str]]]:
        """Series and SOP Instance UIDs of the manifest, whose bytes never change."""
        known = self.kept.get(kos_uid)
        if known is not None:
            return known.series.items()
        manifest = read_manifest(self.documents.get(digest))
        return [
            (one.series_instance_uid, [ref.sop_instance_uid for ref in one.instances])
            for one in manifest.series
        ]


def _has_lost_its_reports(transaction: Transaction, study: str) -> bool:
    return transaction.ledger.had_reports(study) and not transaction.ledger.reports_of(study)


def _placed(
    listed: Iterable[tuple[str, Iterable[str]]], places: Sequence[Place]
) -> Mapping[str, Mapping[str, Any]]:
    """The listed instances with their places: series and instances that are here in the order of `places`."""
    wanted = {series: dict.fromkeys(uids) for series, uids in listed}
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        series, sop = place.series_uid, place.ref.SOPInstanceUID
        if series in wanted and sop in wanted[series]:
            found.setdefault(intern(series), {})[sop] = place
    for series, uids in wanted.items():
        here = found.setdefault(intern(series), {})
        here.update({uid: None for uid in uids if uid not in here})
    return found
