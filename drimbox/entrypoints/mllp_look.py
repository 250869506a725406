"""A look at an MLLP door: a connection of this very machine that leaves without a word, as our health check makes it.

It is neither refused nor traced, whoever the senders are, and whether or not there is a place. One that says something,
or stays, is refused like any other.
"""

from __future__ import annotations

import socket

from drimbox.entrypoints.mllp_admission import PeerRefused, Places

LOOKS = 4  # at once
LOOK_SECONDS = 2.0  # in which it must leave


def is_of_this_machine(connection: socket.socket) -> bool:
    """Whether it comes from the very address that it was made to: the system lets nobody else connect from there."""
    try:
        return bool(connection.getpeername()[0] == connection.getsockname()[0])
    except OSError:  # it is gone already
        return False


def take_place_to_look(looks: Places, address: str, refusal: PeerRefused) -> None:
    """Raises `refusal` when too many look already."""
    try:
        looks.take(address)
    except PeerRefused:
        raise refusal from None


def await_leaving(connection: socket.socket, refusal: PeerRefused) -> None:
    """Return when the peer leaves without a word. Raises `refusal` when it says something, unread, or stays."""
    connection.settimeout(LOOK_SECONDS)
    try:
        first = connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        raise refusal from None
    if first:
        raise refusal
