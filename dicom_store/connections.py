"""Which connections there are, and which of them have an association's place.

A connection that has asked for nothing takes no place of an association: it waits among a bounded number of spare ones,
bounded for each address too, and gives way to a newer one after a second.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dicom_store.admission import Rejection

SPARE_CONNECTIONS = 64  # without an association, for all addresses
SPARE_OF_ONE_ADDRESS = 32
YOUNG_SECONDS = 1.0  # in which a connection need not give way


@dataclass(eq=False)
class Place:
    """One connection. `connection`: the socket that a shutdown reaches; `stop`: asks its association to end."""

    connection: socket.socket
    address: str
    since: float
    associated: bool = False
    gives_way: bool = False
    stop: Callable[[], None] | None = None


class Connections:
    """The connections of one door. `per_address`: associations of one address, 0 = as many as of all."""

    def __init__(self, associations: int, per_address: int = 0) -> None:
        self._associations = associations
        self._per_address = per_address or associations
        self._places: dict[int, Place] = {}  # in the order of their coming
        self._changed = threading.Condition()

    def enter(self, connection: socket.socket, address: str) -> bool:
        """A connection came. False: there is no room, and nobody who gives way."""
        with self._changed:
            now = time.monotonic()
            if not self._room_for(address):
                self._give_way(address, now)
            if not self._room_for(address):
                return False
            self._places[id(connection)] = Place(connection, address, now)
            return True

    def place(self, connection: socket.socket) -> Place:
        """The place of a connection that entered."""
        return self._places[id(connection)]

    @property
    def associated(self) -> int:
        """Associations that are open now."""
        with self._changed:
            return sum(one.associated for one in self._places.values())

    def admit(self, place: Place) -> Rejection | None:
        """An association is asked for: it has a place from now on, or is rejected."""
        with self._changed:
            associated = [one.address for one in self._places.values() if one.associated]
            if len(associated) >= self._associations:
                return Rejection.LIMIT
            if associated.count(place.address) >= self._per_address:
                return Rejection.PEER_LIMIT
            place.associated = True
            return None

    def rest(self, place: Place) -> None:
        """The association has ended; its connection may linger among the spare ones."""
        with self._changed:
            place.associated, place.stop, place.since = False, None, time.monotonic()

    def leave(self, connection: socket.socket) -> None:
        """The connection is closed, and nothing of it runs."""
        with self._changed:
            self._places.pop(id(connection), None)
            self._changed.notify_all()

    def stop_all(self) -> None:
        """Every association is to abort, and what waits is to end."""
        with self._changed:
            places = list(self._places.values())
        for place in places:
            if place.stop is not None:
                place.stop()
            else:
                _cut(place)

    def wait_until_none(self, timeout: float) -> bool:
        """Whether every connection ended within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._places, timeout)

    def _room_for(self, address: str) -> bool:
        waiting = [one.address for one in self._spare()]
        return len(waiting) < SPARE_CONNECTIONS and waiting.count(address) < SPARE_OF_ONE_ADDRESS

    def _spare(self) -> list[Place]:
        return [one for one in self._places.values() if not one.associated and not one.gives_way]

    def _give_way(self, address: str, now: float) -> None:
        """End the oldest of the spare connections: of this address first, and none that is young."""
        old = [one for one in self._spare() if now - one.since > YOUNG_SECONDS]
        of_address = [one for one in old if one.address == address]
        for place in (of_address or old)[:1]:
            place.gives_way = True
            _cut(place)


def _cut(place: Place) -> None:
    with suppress(OSError):  # its own thread has closed it already
        # not SSLSocket's own shutdown, which takes the TLS layer away under its thread
        socket.socket.shutdown(place.connection, socket.SHUT_RDWR)
