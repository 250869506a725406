"""What becomes of one retrieval on disk and in the ears of others (trust-and-identity 3.5 step 14, 3.6).

Archive, then state, then what is told: whatever stops the process in between, the previous list is in force and the
change is told later, never lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from whitelist import trust
from whitelist.attempt import Attempt, NotArchived, Refreshed, archived_step, outcome_of, validators
from whitelist.cache import Cache, Loaded
from whitelist.decision import Outcome, OwnName, State, after
from whitelist.errors import Untold
from whitelist.progress import Accepted, ArchivedList, accepted, alarmed, failed
from whitelist.record import Failure, Kept


@dataclass(kw_only=True)
class Settling:
    """Writes and tells the end of retrievals; its fields are the keeper's.

    `unsaved`: the last attempt when a full disk did not take it; without it a failure would be tried again at once.
    """

    cache: Cache
    own: OwnName
    chance: Callable[[], float]
    log: Callable[..., object]
    on_change: Callable[[State, State, trust.Report | None], object]
    unsaved: Kept | None = field(default=None, init=False)

    def settle(self, loaded: Loaded, attempt: Attempt) -> Refreshed:
        """Archive and tell what an attempt brought, under the lock."""
        if attempt.failure or attempt.report is None:
            return self._fail(loaded, attempt)
        try:
            return self._succeed(loaded, attempt, attempt.report)
        except NotArchived as error:
            failure = Failure(attempt.at, "archive", str(error))
            report = attempt.report.with_step(archived_step(trust.Held.FAILED, str(error)))
            return self._fail(loaded, replace(attempt, failure=failure, report=report))

    def _succeed(self, loaded: Loaded, attempt: Attempt, report: trust.Report) -> Refreshed:
        outcome = outcome_of(attempt, loaded.kept.state)
        report, archived = self._archived(loaded, attempt, report)
        success = Accepted(attempt.at, attempt.named, attempt.retrieved, *validators(attempt.fetched))
        state = after(loaded.kept.state, outcome)
        kept = accepted(loaded.kept, self.own, state, success, archived, self.chance())
        kept, loud = alarmed(kept, attempt.at)
        try:
            self.cache.save(kept)
        except OSError as error:
            raise NotArchived(f"the state cannot be written: {error.strerror}") from error
        self.unsaved = None
        self._prune(kept, attempt.at)
        for doubt in attempt.warnings:
            self.log("whitelist_names_us_otherwise", reason=doubt)
        before, doubts = loaded.kept.state, attempt.warnings
        done = Refreshed(outcome, before, state, report, None, attempt.candidate, archived.name, doubts)
        return self._told(kept, done, loud)

    def _archived(
        self, loaded: Loaded, attempt: Attempt, report: trust.Report
    ) -> tuple[trust.Report, ArchivedList]:
        """Step 14. Raises `NotArchived`."""
        kept, candidate = loaded.kept, attempt.candidate or b""
        generated = report.trusted.generated_at if report.trusted else None
        floor = (report.sha256, report.signed_at, generated)
        if loaded.intact and kept.sha256 == report.sha256 and kept.list_file and kept.accepted_at:
            why = f"archived since {kept.accepted_at.isoformat(timespec='seconds')}, unchanged"
            held = report.with_step(archived_step(trust.Held.HELD, why))
            return held, ArchivedList(kept.list_file, kept.accepted_at, *floor)
        held = report.with_step(archived_step(trust.Held.HELD, "archived with this report"))
        try:
            name = self.cache.archive(candidate, held, named=attempt.named)
        except OSError as error:
            raise NotArchived(f"the list cannot be archived: {error.strerror}") from error
        return held, ArchivedList(name, report.at, *floor)

    def _fail(self, loaded: Loaded, attempt: Attempt) -> Refreshed:
        before, failure = loaded.kept, attempt.failure
        assert failure is not None
        done = Refreshed(
            Outcome.FAILED,
            before.state,
            before.state,
            attempt.report,
            failure,
            attempt.candidate,
            before.list_file,
        )
        if not attempt.retrieved:
            self.log("whitelist_file_refused", code=failure.code, reason=failure.reason)
            return done
        kept, state = self._failed(loaded, failure)
        loudly, loud = alarmed(replace(kept, state=state), attempt.at)
        kept = replace(loudly, state=kept.state)
        try:
            self.cache.save(kept)
        except OSError as error:  # what is on disk stays; the failure is remembered here
            self.log("whitelist_state_not_saved", reason=str(error.strerror))
            self.unsaved = kept
            return self._said(kept, done, loud)
        self.unsaved = None
        return self._told(kept, replace(done, state_after=state), loud)

    def _failed(self, loaded: Loaded, failure: Failure) -> tuple[Kept, State]:
        """What to write, and the state in effect. What is damaged now stays written: it may be readable later."""
        base = loaded.recorded or loaded.kept
        kept = failed(base, self.own, after(base.state, Outcome.FAILED), failure, self.chance())
        return kept, after(loaded.kept.state, Outcome.FAILED)

    def _told(self, kept: Kept, done: Refreshed, loud: bool) -> Refreshed:
        """Tell the change; only then note that it was told, so that none is lost."""
        self._said(kept, done, loud)
        if kept.told is not done.state_after:
            try:
                self.on_change(kept.told, done.state_after, done.report)
                self.cache.save(replace(kept, told=done.state_after))
            except Untold as error:  # told again next time
                self.log("whitelist_change_not_told", reason=str(error))
            except OSError as error:  # told again next time
                self.log("whitelist_state_not_saved", reason=str(error.strerror))
        return done

    def _said(self, kept: Kept, done: Refreshed, loud: bool) -> Refreshed:
        until = kept.next_attempt.isoformat(timespec="seconds") if kept.next_attempt else None
        why = {"code": done.error.code, "reason": done.error.reason} if done.error else {}
        state = done.state_after.value
        self.log("whitelist_retrieved", outcome=str(done.outcome), state=state, until=until, **why)
        if loud:
            since = kept.last_success.isoformat(timespec="seconds") if kept.last_success else "never"
            self.log(
                "whitelist_alert", status=kept.alert.value, state=state, text=f"last success: {since}", **why
            )
        return done

    def _prune(self, kept: Kept, now: datetime) -> None:
        try:
            self.cache.prune(kept, now)
        except OSError as error:  # tried again after the next success
            self.log("whitelist_not_pruned", reason=str(error.strerror))

    def remember(self, kept: Kept, failure: Failure) -> Refreshed:
        """A failure without the lock: nothing is written."""
        self.unsaved, _ = alarmed(failed(kept, self.own, kept.state, failure, self.chance()), failure.at)
        self.log("whitelist_retrieved", outcome="FAILED", code=failure.code, reason=failure.reason)
        return Refreshed(Outcome.FAILED, kept.state, kept.state, error=failure)
