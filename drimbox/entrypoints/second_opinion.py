"""`whitelist.proof_mode = esignsante`: a configured eSignSanté judges too. It can only add a refusal to ours."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime

from drimbox.settings.room import ConfigurationError
from drimbox.settings.whitelist import WhitelistSettings
from whitelist import trust
from whitelist.chain import Anchors, Crls
from whitelist.esignsante import ESignSante
from whitelist.verdict import NoVerdict, verdict_step

TAG = "liste-blanche"


@dataclass
class SecondOpinion:
    """An `examine` that asks the service about every list that we accept. `proofs`: theirs, by SHA-256 of the list."""

    room: WhitelistSettings
    service: ESignSante
    proofs: dict[str, bytes] = field(default_factory=dict)

    def examine(
        self,
        candidate: bytes,
        anchors: Anchors,
        crls: Crls,
        *,
        at: datetime,
        previous: trust.Previous | None = None,
        transport: str | None = None,
        reload: bool = False,
    ) -> trust.Report:
        """Our report with their verdict as a further step; an archived list is not judged by them again."""
        ours = trust.examine(
            candidate, anchors, crls, at=at, previous=previous, transport=transport, reload=reload
        )
        if reload or not ours.accepted:
            return ours
        try:
            verdict = self.service.validate(
                candidate,
                configuration_id=self.room.esignsante_configuration,
                request_id=str(uuid.uuid4()),
                proof_tag=TAG,
                applicant_id=self.room.esignsante_applicant,
                proof_configuration_id=self.room.esignsante_proof_configuration,
            )
        except NoVerdict as missing:
            return ours.with_step(verdict_step(missing))
        self.proofs.clear()  # only the last one waits to be written
        if verdict.proof is not None:
            self.proofs[ours.sha256] = verdict.proof
        return ours.with_step(verdict_step(verdict))


def make_second_opinion(room: WhitelistSettings) -> SecondOpinion | None:
    """The configured service, None when there is none. Raises `ConfigurationError` for an unusable address."""
    if room.proof_mode != "esignsante":
        return None
    try:
        service = ESignSante(room.esignsante_url, room.esignsante_authority, timeout=room.answer_timeout)
    except ValueError as error:
        raise ConfigurationError([f"whitelist.esignsante_url: {error}"]) from error
    return SecondOpinion(room, service)
