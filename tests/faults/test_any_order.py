"""Anything that can happen to two exams, in any order, on a DMP in any weather: never two Approved, then the right one.

A state machine (hypothesis) on the parts of the appliance, a registry model and a clock that moves.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from drimbox.flow import exams
from fixtures.images import study_datasets
from fixtures.notes import note_dataset

IMAGES = 3
NUMBERS = st.integers(0, 1)
SOME_IMAGES = st.lists(st.integers(1, IMAGES), min_size=1, max_size=IMAGES, unique=True)
MOVES = (1, 3, 30, 3600, 90_000, -30, -90_000)  # seconds
FLAGS = st.fixed_dictionaries(
    {"INVISIBLE_PATIENT": st.booleans(), "DESTDMP": st.sampled_from([True, True, False])}
)
CODES = (
    "XDSRegistryBusy",
    "XDSRegistryError",
    "XDSDuplicateUniqueIdInRegistry",
    "XDSRegistryDeprecatedDocumentError",
    "XDSRegistryMetadataError",
    "XDSUnknownPatientId",
    "DMPInvalidCertificate",
)


Approved = list[tuple[Any, str]]  # instances listed, INS of the patient


class AnyOrder(RuleBasedStateMachine):
    """Two exams, told to an appliance and to what is expected of it."""

    make: Callable[[], tuple[Any, Any, Any]]  # inside, registry model, rules
    ends: list[tuple[Approved, Approved]]  # of each exam: what is Approved in the end, and what was to be

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.dmp, self.rules = type(self).make()
        self.exams = [self.rules.Expected(number, images=IMAGES) for number in (1, 2)]

    # --- what arrives

    @rule(number=NUMBERS, instance=st.integers(1, IMAGES))
    def image(self, number: int, instance: int) -> None:
        exam = self.exams[number]
        exam.took_image(self.inside.store(list(study_datasets(exam.spec))[instance - 1]))

    @rule(number=NUMBERS, mdm=st.booleans(), flags=FLAGS)
    def whole_exam(self, number: int, mdm: bool, flags: dict[str, bool]) -> None:
        for instance in range(1, IMAGES + 1):
            self.image(number, instance)
        if self.exams[number].report is None:
            self._report(number, "NW", flags, mdm)
        self.inside.clock.move(3)
        self.inside.work()

    @rule(number=NUMBERS, code=st.sampled_from(["113001", "113037", "113038", "113039"]), some=SOME_IMAGES)
    def rejection_note(self, number: int, code: str, some: list[int]) -> None:
        exam = self.exams[number]
        exam.notes += 1
        self.inside.store(note_dataset(exam.spec, code, [(1, one) for one in some], number=exam.notes))
        exam.took_note(code, {exam.sop(one) for one in some})

    @rule(number=NUMBERS, mdm=st.booleans(), flags=FLAGS)
    def report(self, number: int, mdm: bool, flags: dict[str, bool]) -> None:
        self._report(number, "NW" if self.exams[number].report is None else "RO", flags, mdm)

    @rule(number=NUMBERS)
    def corrected_patient(self, number: int) -> None:
        exam = self.exams[number]
        if exam.report is not None:
            self._report(number, "RO", {}, False, ins=self.rules.OTHER_INS)

    @rule(number=NUMBERS, mdm=st.booleans())
    def report_withdrawn(self, number: int, mdm: bool) -> None:
        exam = self.exams[number]
        if exam.report is not None:
            self._accepted(exam.message(exam.report, "CA", {}, mdm=mdm))
            exam.report = None

    @rule(number=NUMBERS, control=st.sampled_from(["CA", "NW"]))
    def order(self, number: int, control: str) -> None:
        exam = self.exams[number]
        if exam.last is None:
            return
        answer = self.inside.say(exam.order(control))
        if b"MSA|AA" in answer:
            exam.took_order(control)
        else:  # the corrected patient is not yet that of the published manifest
            assert len(exam.patients) > 1, answer

    @rule(number=NUMBERS, restores=st.booleans())
    def operator(self, number: int, restores: bool) -> None:
        exam, inside = self.exams[number], self.inside
        if not inside.known(exam.study) or (restores and exam.withdrawn is None):
            return
        act = exams.restore_exam if restores else exams.withdraw_exam
        act(inside.transactions, exam.study, now=inside.clock(), actor="operator", reason="test")
        exam.withdrawn = None if restores else "operator"

    @rule(number=NUMBERS)
    def operator_releases(self, number: int) -> None:
        self.inside.release(self.exams[number].study)

    # --- what the outside does

    @rule(seconds=st.sampled_from(MOVES))
    def time_passes(self, seconds: float) -> None:
        self.inside.clock.move(seconds)

    @rule(data=st.data())
    def weather(self, data: st.DataObject) -> None:
        kinds = [*self.rules.WEATHER, *CODES]
        self.dmp.ahead += data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))

    @rule(rounds=st.integers(1, 6))
    def work(self, rounds: int) -> None:
        self.inside.clock.move(3)
        self.inside.work(rounds)

    @rule()
    def reconcile(self) -> None:
        self.inside.reconciling.run_due()

    # --- what must hold

    @invariant()
    def at_most_one_is_public(self) -> None:
        for exam in self.exams:
            approved = self.dmp.approved(exam.study)
            assert len(approved) <= 1
            for held in approved:
                assert held.patient.partition("^")[0] in exam.patients
                assert held.listed <= exam.stored

    def teardown(self) -> None:
        try:
            self._heal()
            for exam in self.exams:
                self._check(exam)
        finally:
            self.inside.close()
            shutil.rmtree(self.inside.root)

    def _heal(self) -> None:
        """The DMP is well again, an operator releases what waits for one, and time passes."""
        self.dmp.ahead.clear()
        for _ in range(8):
            self.inside.clock.move(100_000)
            self.inside.work()
            for exam in self.exams:
                self.inside.release(exam.study)

    def _check(self, exam: Any) -> None:
        approved = [(held.listed, held.patient.partition("^")[0]) for held in self.dmp.approved(exam.study)]
        wanted = [(exam.listed, exam.patient)] if exam.due else []
        self.ends.append((approved, wanted))
        assert approved == wanted, self._told(exam)
        if not self.inside.known(exam.study):
            return
        held = (one for one in self.dmp.documents.values() if one.study == exam.study)
        at_dmp = {one.unique_id: (one.patient.partition("^")[0], one.status) for one in held}
        self.rules.check_ledger(self.inside.foundation, exam.study, at_dmp)
        shown = self.inside.exam(exam.study)
        if exam.due:
            assert (shown["reason"], shown["state"], shown["manifest"]["status"]) == (
                None,
                "SETTLED",
                "published",
            )
        else:
            assert shown["reason"] is not None
            assert shown["manifest"]["status"] in ("none", "unpublished")

    def _told(self, exam: Any) -> str:
        """What the appliance says of an exam, for who reads the failure."""
        lines = [str(self.inside.exam(exam.study))]
        for event in exams.trace_exam(self.inside.transactions, exam.study):
            lines.append(" ".join(str(event[name]) for name in ("at", "event", "from", "to", "detail"))[:250])
        return "\n".join(lines)

    def _report(self, number: int, control: str, flags: dict[str, bool], mdm: bool, ins: str = "") -> None:
        exam = self.exams[number]
        report = exam.next_report(ins) if control == "RO" else exam.new_report()
        self._accepted(exam.message(report, control, flags, mdm=mdm))
        exam.took_report(report, flags)

    def _accepted(self, message: bytes) -> None:
        answer = self.inside.say(message)
        assert b"MSA|AA" in answer, answer


@pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.soak)])
@pytest.mark.timeout(3000)
def test_the_registry_ends_as_the_facts_want(
    rules: Any, make_inside: Callable[..., Any], examples: int
) -> None:
    home = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # a disk adds nothing here but time
    with tempfile.TemporaryDirectory(dir=home) as directory:
        numbers = itertools.count()

        def make() -> tuple[Any, Any, Any]:
            dmp = rules.RegistryModel()
            clock = rules.Clock(datetime(2026, 10, 1, 12, 0, tzinfo=UTC))
            inside = make_inside(root=Path(directory) / str(next(numbers)), clock=clock, dmp=dmp)
            return inside, dmp, rules

        ends: list[tuple[Approved, Approved]] = []
        machine = type("AnyOrder", (AnyOrder,), {"make": staticmethod(make), "ends": ends})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=25,
                deadline=None,
                database=None,
                print_blob=False,
                phases=[Phase.generate],  # shrinking takes minutes: the steps are printed as they are
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert len(ends) >= 2 * examples
        assert [end for end in ends if end[0] != end[1]] == []
