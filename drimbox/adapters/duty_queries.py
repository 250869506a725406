"""The rows of the duties: taken by compare-and-set, by the clock of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from drimbox.adapters.tables import duty_table
from drimbox.flow.records import Duty

_DUTY = duty_table.c


class DutyQueries:
    """Queries under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_postgresql = session.get_bind().dialect.name == "postgresql"

    def now(self) -> datetime:
        """The instant by the clock of the database, that of this machine with SQLite; it goes on in a transaction."""
        if not self._is_postgresql:
            return datetime.now(UTC)
        instant: datetime = self._session.execute(select(func.clock_timestamp())).scalar_one()
        return instant.astimezone(UTC)

    def all(self) -> Sequence[Duty]:
        """Every duty that somebody holds or held, by name."""
        rows = self._session.execute(select(_DUTY.name, _DUTY.holder, _DUTY.until).order_by(_DUTY.name))
        return [Duty(*row) for row in rows]

    def take(self, name: str, holder: str, lease: timedelta) -> bool:
        """Take or renew it; False: another holds it. One twice as long is none: the clock was set back."""
        now = self.now()
        insert = postgresql.insert if self._is_postgresql else sqlite.insert
        mine = insert(duty_table).values(name=name, holder=holder, until=now + lease)
        free = or_(_DUTY.holder == holder, _DUTY.until <= now, _DUTY.until > now + 2 * lease)
        statement = mine.on_conflict_do_update(
            index_elements=[_DUTY.name], set_={"holder": holder, "until": now + lease}, where=free
        )
        return self._session.execute(statement.returning(_DUTY.name)).first() is not None

    def hold(self, name: str, holder: str) -> bool:
        """Whether it is still that one's; nobody takes it, then, before the transaction ends."""
        query = select(_DUTY.name).where(_DUTY.name == name, _DUTY.holder == holder)
        return self._session.execute(query.with_for_update(read=True)).first() is not None

    def release(self, holder: str) -> None:
        """Whatever that one holds is free."""
        self._session.execute(delete(duty_table).where(_DUTY.holder == holder))
