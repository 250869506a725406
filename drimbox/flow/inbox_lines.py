"""What a log says of a message that was answered: a line for each exam that it names, by its StudyInstanceUID."""

from __future__ import annotations

from collections.abc import Callable

from drimbox.flow.records import Message

TAKEN = "AA"


def say_message(log: Callable[..., object], row: Message) -> None:
    """Log what became of a message, once it is committed. Never its content: reasons may quote it."""
    action = "report_kept" if row.verdict == TAKEN else "report_refused"
    studies: list[str | None] = [*row.studies]
    for study in studies or [None]:
        log(
            action,
            study=study,
            message=row.id,
            report=row.report_id,
            outcome=row.verdict,
            code=row.code,
            door=row.door,
            peer=row.peer,
        )
