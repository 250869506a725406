"""The keeper of the whitelist with what the product adds: proofs on disk, changes of state in the trace, alerts."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509

from drimbox.adapters.held import Held
from drimbox.adapters.key_files import UnusableCredential
from drimbox.adapters.signing import RsaSigner, hold_signer
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.second_opinion import SecondOpinion, make_second_opinion
from drimbox.flow.mesh import note_change
from drimbox.membership import make_anchors, own_name, whitelist_directory
from drimbox.settings.whitelist import WhitelistSettings
from whitelist import trust
from whitelist.attempt import Refreshed
from whitelist.cache import Cache
from whitelist.chain import Anchors, Crls
from whitelist.crl_store import MAX_CRL_BYTES, CrlStore, Which
from whitelist.decision import State
from whitelist.durable import make_directory, sweep, write_durably
from whitelist.errors import Untold
from whitelist.fetch import Fetcher
from whitelist.keeper import Keeper
from whitelist.proof import build_proof, read_proof
from whitelist.proof_rules import Evidence
from whitelist.xades_signer import ProofRefused

PROOF_DAYS = 90  # and the first of each month (trust-and-identity 4.6)
ALWAYS_KEPT = 90  # newest proofs, however old: a clock that jumps ahead must not empty the file
MAX_PROOF_BYTES = 1024**3  # of all but the first of each month: large refused files are proven too
_LEVELS = {"none": "info", "warning": "warning", "error": "error", "critical": "critical"}  # decision.Alert
THEIRS = ".esignsante.xml"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """One retrieval or import, and the proof of its verification (None: nothing was examined, or no certificate)."""

    refreshed: Refreshed
    proof: Path | None


@dataclass(frozen=True, slots=True)
class Keeping:
    """The keeper of this installation. `directory`: what it keeps; `opinion`: of a configured eSignSanté.

    `signer`: of the proofs; None = there are none.
    """

    keeper: Keeper
    crls: CrlStore
    anchors: Anchors
    room: WhitelistSettings
    directory: Path
    clock: Callable[[], datetime]
    opinion: SecondOpinion | None
    signer: Held[RsaSigner] | None

    def run_due(self) -> int:
        """Retrieve when it is time; how many retrievals were tried (0 or 1)."""
        if self.keeper.due_at() > self.clock():
            return 0
        return int(self.refresh().refreshed.outcome is not None)

    def refresh(self, *, force: bool = False) -> Done:
        """Retrieve and verify, now with `force`."""
        return self._proved(self.keeper.refresh(force))

    def import_file(self, path: Path) -> Done:
        """Verify and accept a list that was brought by hand."""
        return self._proved(self.keeper.import_file(path))

    def _proved(self, refreshed: Refreshed) -> Done:
        report, candidate = refreshed.report, refreshed.candidate
        if report is None or candidate is None or self.room.proof_certificate is None:
            return Done(refreshed, None)
        try:
            path = self._keep(self.prove(candidate, report), report)
        except (ProofRefused, UnusableCredential, OSError, ValueError) as error:
            log.error("whitelist_proof_missing", reason=str(error))  # noqa: TRY400 the list is verified all the same
            return Done(refreshed, None)
        return Done(refreshed, path)

    def prove(self, candidate: bytes, report: trust.Report) -> bytes:
        """The signed proof of one verification. Raises `ProofRefused`, `UnusableCredential`, ValueError."""
        now = self.clock()
        if self.signer is None:
            raise ProofRefused(["whitelist.proof_certificate is not set"])
        return build_proof(
            candidate,
            report,
            self.evidence(report),
            self.signer.follow(now).valid_at(now),
            proof_id=str(uuid.uuid4()),
            now=now,
            version=version("drimbox"),
        )

    def evidence(self, report: trust.Report) -> Evidence:
        """What the verification used: the signer, the pinned authorities, the CRLs kept."""
        return Evidence(
            report.signer, (self.anchors.intermediate, self.anchors.root), held(self.crls.current())
        )

    def proof_of(self, sha256: str) -> tuple[bytes | None, bytes | None]:
        """The newest proof that accepts a list, ours and that of eSignSanté, where they are kept.

        A list in force may have been refused since (its signer expired): that proof is none of its acceptance.
        """
        for path in sorted((self.directory / "proofs").glob(f"*-{sha256[:16]}.xml"), reverse=True):
            ours, theirs = path.read_bytes(), path.with_suffix(THEIRS)
            if _accepts(ours):
                return ours, theirs.read_bytes() if theirs.is_file() else None
        return None, None

    def _keep(self, proof: bytes, report: trust.Report) -> Path:
        proofs = self.directory / "proofs"
        make_directory(proofs)
        path = proofs / f"{report.at:%Y%m%dT%H%M%SZ}-{report.sha256[:16]}.xml"
        write_durably(path, proof)
        theirs = self.opinion.proofs.pop(report.sha256, None) if self.opinion else None
        if theirs is not None:
            write_durably(path.with_suffix(THEIRS), theirs)
        try:
            self._prune(proofs)
        except OSError as error:  # another process prunes too; tried again after the next proof
            log.warning("whitelist_not_pruned", reason=str(error))
        return path

    def _prune(self, proofs: Path) -> None:
        """Proofs older than `PROOF_DAYS`, or beyond `MAX_PROOF_BYTES`, go, but for the first of each month."""
        before = f"{self.clock() - timedelta(days=PROOF_DAYS):%Y%m%d}"
        sweep(proofs)
        kept = sorted(path for path in proofs.glob("*.xml") if not path.name.endswith(THEIRS))
        firsts = {path.name[:6]: path for path in reversed(kept)}
        size = 0
        for place, path in enumerate(reversed(kept)):
            size += path.stat().st_size
            old = place >= ALWAYS_KEPT and path.name[:8] < before
            if (old or (place and size > MAX_PROOF_BYTES)) and path != firsts[path.name[:6]]:
                path.with_suffix(THEIRS).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def _accepts(proof: bytes) -> bool:
    try:
        return read_proof(proof).valid
    except ProofRefused:  # damaged: an older one may be whole
        return False


def _say(event: str, **fields: Any) -> None:
    """The keeper's words, as loud as its alert."""
    level = _LEVELS.get(str(fields.get("status")), "warning" if fields.get("code") else "info")
    getattr(log, level)(event, **fields)


def _hold_signer(foundation: Foundation) -> Held[RsaSigner] | None:
    """The credential of the proofs, not read yet; it follows its files, and SIGHUP renews it."""
    room, passphrase = foundation.settings.whitelist, foundation.settings.keys.passphrase
    if room.proof_certificate is None or room.proof_key is None:
        return None
    name = "whitelist.proof_certificate"
    signer = hold_signer(name, room.proof_certificate, room.proof_key, utc_now, passphrase)
    foundation.held.append(signer)
    return signer


def held(crls: Crls) -> tuple[x509.CertificateRevocationList, ...]:
    """The CRLs that there are."""
    return tuple(crl for crl in (crls.of_intermediate, crls.of_root) if crl is not None)


def make_keeping(foundation: Foundation, actor: str) -> Keeping:
    """The keeper of this installation; `actor` is named in the trace.

    Raises `UnusableCredential`, `ConfigurationError`.
    """
    settings, room = foundation.settings, foundation.settings.whitelist
    directory, anchors = whitelist_directory(settings), make_anchors(room)
    opinion = make_second_opinion(room)
    examine = opinion.examine if opinion else trust.examine
    urls: dict[Which, str] = {"intermediate": room.intermediate_crl_url, "root": room.root_crl_url}
    source = Fetcher(room.connect_timeout, room.answer_timeout, MAX_CRL_BYTES, room.authority)
    crls = CrlStore(directory / "crls", urls, anchors, source, utc_now, random.random)

    def on_change(before: State, after: State, report: trust.Report | None) -> None:
        why = "; ".join(f"step {step.number}: {step.why}" for step in report.failed) if report else ""
        detail: dict[str, Any] = {"sha256": report.sha256} if report else {}
        try:
            note_change(foundation.transactions, utc_now, actor, before, after, why, **detail)
        except Unavailable as error:  # the verification is proven and its state holds all the same
            raise Untold(str(error)) from error

    keeper = Keeper(
        url=room.url,
        fetch=Fetcher(room.connect_timeout, room.answer_timeout, authority=room.authority),
        crls=crls,
        cache=Cache(directory, examine=examine, keep_days=room.keep_days),
        anchors=anchors,
        own=own_name(settings),
        clock=utc_now,
        chance=random.random,
        log=_say,
        on_change=on_change,
        examine=examine,
    )
    return Keeping(keeper, crls, anchors, room, directory, utc_now, opinion, _hold_signer(foundation))
