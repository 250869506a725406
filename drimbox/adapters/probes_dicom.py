"""A look at our own DICOM door as the door admits it: by title and address, in clear (trust-and-identity 6.3)."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from dicom_store.senders import Sender, callers
from drimbox.adapters.probes_net import dicom_echo, own_address
from healthcheck.probe import Outcome, Status


def echo(
    place: tuple[str, int],
    ae_title: str,
    calling_ae_titles: Sequence[str],
    senders: Sequence[Sender],
    seconds: float,
) -> Outcome:
    """C-ECHO as one of those that may call from this machine. Milliseconds.

    When there are senders and none of them may, it is a warning, and the door is only seen to take a connection.
    `place`: host and port that the door listens on.
    """
    host, port = place
    begun = time.monotonic()
    try:
        here = _source(own_address(host), port)
        may = callers(calling_ae_titles, senders, here)
        if senders and not may:
            return _nobody_here(here, own_address(host), port, seconds)
    except TimeoutError:
        words = f"the door on port {port} takes no connection: restart it (drimbox dicom)"
        return Outcome(Status.FAIL, words)
    except OSError as error:
        words = f"nobody is at port {port}: {error.strerror or type(error).__name__}; start `drimbox dicom`"
        return Outcome(Status.FAIL, words)
    return dicom_echo(host, port, ae_title, may, seconds - (time.monotonic() - begun))


def _source(host: str, port: int) -> str:
    """The address that the door would see us at. Raises OSError."""
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)  # of a datagram socket: the system chooses an address, nothing is sent
        return str(probe.getsockname()[0])


def _nobody_here(here: str, host: str, port: int, seconds: float) -> Outcome:
    """The door ends a connection that leaves without a word, and refuses nobody. Raises OSError."""
    with socket.create_connection((host, port), timeout=seconds) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    words = (
        f"nobody may call from this machine: give {here}, without a certificate, a row of [[dicom.senders]]"
    )
    return Outcome(Status.WARN, words)
