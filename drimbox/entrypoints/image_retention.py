"""Who forgets the images of exams that must not be public: the worker every night if so set, an operator at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.retention import RetentionPolicy
from drimbox.flow.retention import Retaining


def make_retaining(
    foundation: Foundation,
    actor: str,
    days: int | None = None,
    done: Callable[[int], None] = lambda _bytes: None,
) -> Retaining:
    """What forgets images. `days`: instead of `retention.images_days`; `done` hears of the bytes settled."""
    settings = foundation.settings
    policy = RetentionPolicy(
        settings.retention.images_days if days is None else days,
        timedelta(seconds=settings.web.replaced_grace),
    )
    return Retaining(foundation.transactions, policy, utc_now, actor, done)
