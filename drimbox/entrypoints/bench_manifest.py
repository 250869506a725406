"""`drimbox bench kos`: a long study from the index to the Part 10 bytes of its manifest, and to its signed lot."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_store.study import StudySnapshot
from drimbox.bootstrap import Foundation, make_manifest_maker, new_uid, utc_now
from drimbox.domain.cda import read_cda
from drimbox.domain.exam import ExamFacts, ReportFacts, Wanted, desired
from drimbox.domain.kos import manifest_bytes
from drimbox.domain.xds.publication import FrozenLot
from drimbox.entrypoints.bench_exams import bring_exams, open_appliance, report_of
from drimbox.entrypoints.demo_stage import StepFailed
from drimbox.flow.manifest import ManifestMaker, institution_of
from fixtures.reports import make_cda

ROUNDS = 7


@dataclass(frozen=True, slots=True)
class _Study:
    """One exam whose manifest is made again and again."""

    foundation: Foundation
    maker: ManifestMaker
    uid: str
    wanted: Wanted

    def snapshot(self) -> StudySnapshot:
        """The study as the index has it."""
        with self.foundation.transactions.reading() as transaction:
            snapshot = transaction.images.snapshot(self.uid)
        if snapshot is None:
            raise StepFailed("the study is not in the index")
        return snapshot

    def manifest(self) -> bytes:
        """From the index to Part 10."""
        report, maker = self.wanted.source.report, self.maker
        return manifest_bytes(
            self.snapshot(),
            report,
            requests=self.wanted.requests,
            retrieve_base=maker.retrieve_base,
            manufacturer=maker.publisher.manufacturer,
            institution=institution_of(report, self.uid),
            sop_instance_uid=new_uid(),
            series_instance_uid=new_uid(),
            now=utc_now(),
            time_zone=maker.time_zone,
        )

    def lot(self) -> FrozenLot:
        """Manifest built and judged, metadata linted, lot signed."""
        return self.maker.make(self.wanted, None, utc_now())


def bench_kos(directory: Path, count: int) -> dict[str, Any]:
    """Milliseconds and peak memory for one study of `count` instances."""
    with open_appliance(directory) as (_, foundation):
        bring_exams(foundation, 1, instances=count)
        study = _study(foundation)
        return {
            "instances": count,
            "manifest_bytes": len(study.manifest()),
            "index_to_manifest_ms": _milliseconds(study.manifest),
            "index_alone_ms": _milliseconds(study.snapshot),
            "signed_lot_ms": _milliseconds(study.lot),
            "peak_megabytes": {
                "index_to_manifest": _peak_megabytes(study.manifest),
                "signed_lot": _peak_megabytes(study.lot),
            },
        }


def _study(foundation: Foundation) -> _Study:
    report, settings = report_of(0), foundation.settings
    uid = report.acts[0].studies[0]
    read = read_cda(make_cda(report), time_zone=settings.policy.time_zone).report
    if read is None:
        raise StepFailed("the report cannot be read")
    with foundation.transactions.reading() as transaction:
        images = transaction.images.snapshot(uid)
        exam = transaction.ledger.exam(uid)
    facts = ExamFacts(
        study_instance_uid=uid,
        images=images,
        last_instance_at=exam.last_instance_at if exam else None,
        reports=(ReportFacts(read, "bench", "0" * 64, (), True, "", {}),),
        had_reports=True,
    )
    wanted = desired(facts, foundation.policy, utc_now())
    if not isinstance(wanted, Wanted):
        raise StepFailed(f"the exam is not to be published: {wanted.rule}")
    return _Study(foundation, make_manifest_maker(foundation), uid, wanted)


def _milliseconds(call: Callable[[], object]) -> dict[str, float]:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return {"median": round(statistics.median(times), 1), "best": round(min(times), 1)}


def _peak_megabytes(call: Callable[[], object]) -> float:
    """Most that was allocated at once during the call, beyond what was there before."""
    tracemalloc.start()
    try:
        call()
        return round(tracemalloc.get_traced_memory()[1] / 1e6, 1)
    finally:
        tracemalloc.stop()
