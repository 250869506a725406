"""What is looked at by connecting: our own doors, and the servers that we depend on (trust-and-identity 6.3).

A stopped process still has connections accepted by the system: a look is good only when the door itself did something.
Every wait ends by itself within `seconds`, so that a look given up by the runner leaves no thread behind; only the
resolution of a name knows no limit.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drimbox.adapters.https import HANDSHAKE_ALERTS, client_credential, mutual_tls
from drimbox.flow.ports import Clock
from healthcheck.probe import Outcome, Status

# A server of TLS 1.3 says that it refuses our certificate once the handshake is over for us (RFC 8446, 4.4.2.4)
_PROTEST_SECONDS = 0.5
# Shares of the time for a C-ECHO: to connect, to be accepted, to be answered, to be released
_CONNECT, _ACCEPT, _ANSWER, _RELEASE = 0.1, 0.45, 0.25, 0.2
# pynetdicom loses an answer now and then on a busy machine: its reactor may take it. Not twice in a row.
_ECHOES = 2
_LOCAL_LIMIT = (2, 3, 2)  # rejected-transient, presentation related, local-limit-exceeded (PS3.8 9.3.4)
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 nothing is bound here


def own_address(host: str) -> str:
    """Where this machine reaches a door of its own that listens on `host`."""
    return _LOOPBACK.get(host, host)


def mllp_connect(host: str, port: int, seconds: float) -> Outcome:
    """Connect to our own MLLP door, end our side, and wait for the door to end its side. Milliseconds.

    The door takes a connection of this machine that leaves without a word for what it is, a look
    (`entrypoints/mllp.py`); in clear and over TLS alike.
    """
    begun = time.monotonic()
    try:
        with socket.create_connection((own_address(host), port), timeout=seconds) as connection:
            connection.settimeout(max(seconds - (time.monotonic() - begun), 0.001))
            connection.shutdown(socket.SHUT_WR)
            spoke = connection.recv(1)
    except TimeoutError:
        words = f"the door on port {port} takes no connection: restart it (drimbox mllp)"
        return Outcome(Status.FAIL, words)
    except OSError as error:
        return Outcome(Status.FAIL, f"nobody is at port {port}: {_words(error)}; start `drimbox mllp`")
    if spoke:
        return Outcome(Status.FAIL, f"another program is at port {port}: it speaks first")
    return _in_time(begun)


def dicom_echo(
    host: str, port: int, ae_title: str, calling_ae_titles: Sequence[str], seconds: float
) -> Outcome:
    """C-ECHO (PS3.7 9.1.5) to our own DICOM door, as the first of those that may call it. Milliseconds."""
    if not calling_ae_titles:
        return Outcome(Status.WARN, "nobody may call: dicom.calling_ae_titles is empty")
    address, calling = (own_address(host), port), calling_ae_titles[0]
    for _ in range(_ECHOES):
        begun = time.monotonic()
        with ExitStack() as ending:
            association = _associate(address, ae_title, calling, seconds / _ECHOES, ending)
            if not association.is_established:
                return _not_established(association, port)
            association.acse_timeout = seconds / _ECHOES * _RELEASE
            status = association.send_c_echo()
            if status.get("Status") == 0:
                association.release()
                return _in_time(begun)
    return Outcome(Status.FAIL, f"the door on port {port} did not answer a C-ECHO: restart it")


def _associate(address: tuple[str, int], called: str, calling: str, seconds: float, ending: ExitStack) -> Any:
    """Ask for an association, which `ending` ends with its threads and socket, whatever became of it.

    pynetdicom is loaded by the first look only, in the one process that looks, where nothing else speaks DIMSE.
    """
    from pynetdicom import AE, _config
    from pynetdicom.sop_class import Verification

    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what it would say is the outcome of the look
    entity = AE(calling)
    entity.connection_timeout = seconds * _CONNECT
    entity.acse_timeout = seconds * _ACCEPT
    entity.dimse_timeout = entity.network_timeout = seconds * _ANSWER
    entity.add_requested_context(Verification)
    create = (
        entity._create_socket
    )  # it lets go of a socket that was refused without closing it, and has no hook

    def keep(*arguments: Any) -> Any:
        made = create(*arguments)
        ending.callback(made.socket.close)
        return made

    entity._create_socket = keep
    association = entity.associate(*address, ae_title=called)
    if association.ident is not None:
        ending.callback(association.join, seconds)
    ending.callback(association.abort)  # nothing is done to one that was released
    return association


def _not_established(association: Any, port: int) -> Outcome:
    if not association.is_rejected:
        words = f"nobody answers an association on port {port}: restart `drimbox dicom`"
        return Outcome(Status.FAIL, words)
    answer = association.acceptor.primitive
    reason = (answer.result, answer.result_source, answer.diagnostic)
    if reason == _LOCAL_LIMIT:
        return Outcome(Status.WARN, "all places are taken: see dicom.max_associations")
    return Outcome(
        Status.FAIL, f"port {port} refuses our AE titles: restart `drimbox dicom` with this configuration"
    )


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """PEM files: the authorities of the server, our certificate and its key, the passphrase of that; its setting."""

    authority: Path
    certificate: Path
    key: Path
    passphrase: Path | None = None
    setting: str = ""


def tls_connect(
    places: Sequence[tuple[str, int]], files: ClientFiles, clock: Clock, seconds: float
) -> Outcome:
    """TCP and mutual TLS with each (host, port), nothing asked; `seconds` are shared. Milliseconds of all.

    Failures are warnings: images are served without these servers.
    """
    begun = time.monotonic()
    share = seconds / len(places)
    faults = [fault for place in places if (fault := _tls_fault(place, files, clock, share))]
    if faults:
        return Outcome(Status.WARN, "; ".join(faults))
    return _in_time(begun)


def _tls_fault(place: tuple[str, int], files: ClientFiles, clock: Clock, seconds: float) -> str:
    """Why no connection can be made, or nothing."""
    name = f"{place[0]}:{place[1]}"
    try:
        pem = (files.authority, files.certificate, files.key)
        context = mutual_tls(*pem, now=clock(), passphrase=files.passphrase, setting=files.setting)
        _shake_hands(place, context, seconds)
    except ssl.SSLCertVerificationError as error:
        return f"{name}: its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        refused = "it refuses our certificate: " if error.reason in HANDSHAKE_ALERTS else "TLS: "
        return f"{name}: {refused}{error.reason or type(error).__name__}"
    except TimeoutError:
        return f"{name}: no connection within {seconds:.1f} s"
    except OSError as error:
        return f"{name}: {_words(error)}"
    except UnicodeError:
        return f"{name}: not the name of a host"
    return client_credential(*pem, files.passphrase, files.setting).fault or ""


def _shake_hands(place: tuple[str, int], context: ssl.SSLContext, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with _connect(place, deadline) as plain:
        plain.settimeout(max(deadline - time.monotonic(), 0.001))
        with context.wrap_socket(plain, server_hostname=place[0]) as secured:
            secured.settimeout(max(min(_PROTEST_SECONDS, deadline - time.monotonic()), 0.001))
            try:
                if not secured.recv(1):
                    raise ConnectionResetError(0, "it hangs up after the handshake")
            except TimeoutError:
                return  # it waits for a request: all is well


def _connect(place: tuple[str, int], deadline: float) -> socket.socket:
    """To the first address of the host that answers, all of them within the time. Raises OSError, the last one."""
    found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    while True:
        share = (deadline - time.monotonic()) / len(addresses)
        try:
            return socket.create_connection((addresses.pop(0), place[1]), timeout=max(share, 0.001))
        except OSError:
            if not addresses:
                raise


def _in_time(begun: float) -> Outcome:
    return Outcome(value=round((time.monotonic() - begun) * 1000, 1), unit="ms")


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
