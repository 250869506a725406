"""The receiving side of a strict RIS: takes business acknowledgements (ZAM) by MLLP, checks every field, answers.

The checks and the parser are in `ris_checks.py`: the message is taken only when none fails.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from drimbox.simulators.ris import END, START
from drimbox.simulators.ris_checks import answer_to, at, faults_of, read_message

log = logging.getLogger(__name__)

FAULTS = ("silence", "ar", "ae", "refuse_connection")
LONGEST_MESSAGE = 64 * 1024


@dataclass(frozen=True)
class ReceivedReceipt:
    """One message as the RIS understood it. `about`: OBX-4; `faults`: `place error` of every check that failed.

    `repeated`: a message of this MSH-10 came before; `answer`: MSA-1, empty when none was sent.
    """

    message: bytes
    control_id: str
    about: str
    status: str
    error: str
    error_table: str
    text: str
    faults: tuple[str, ...]
    repeated: bool
    answer: str


class RisInbox:
    """Listens between `start()` and `stop()` (or as a context manager) at `host`:`port` (0 = a free one).

    `application`, `facility`: its own names; `peer`: those of the appliance. `arm` makes the next connections fail.
    """

    def __init__(
        self,
        application: str,
        facility: str,
        peer: tuple[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 10,
    ) -> None:
        self._names = {"MSH-3.1": peer[0], "MSH-4.1": peer[1], "MSH-5.1": application, "MSH-6.1": facility}
        self._timeout = timeout
        self._listener = socket.create_server((host, port))
        self.address: tuple[str, int] = (host, int(self._listener.getsockname()[1]))
        self._news = threading.Condition()
        self._received: list[ReceivedReceipt] = []
        self._armed: list[str] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="ris-accept", daemon=True)

    def start(self) -> None:
        """Accept connections, in a thread of its own."""
        self._acceptor.start()

    def stop(self) -> None:
        """Stop accepting, cut every connection, wait for its thread."""
        self._stopping.set()
        with suppress(OSError):  # already woken
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._acceptor.ident is not None:
            self._acceptor.join(self._timeout)
        self._listener.close()
        with self._news:
            left = dict(self._open)
        for connection, thread in left.items():
            with suppress(OSError):  # the peer went first
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(self._timeout)

    def __enter__(self) -> RisInbox:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def arm(self, fault: str, times: int = 1) -> None:
        """Make the next `times` connections fail so. Raises ValueError with what is allowed.

        silence: the message is kept, never answered; ar, ae: answered so; refuse_connection: cut before a byte is read.
        """
        if fault not in FAULTS:
            raise ValueError(f"unknown fault of the RIS: allowed are {', '.join(FAULTS)}")
        with self._news:
            self._armed.extend([fault] * times)

    @property
    def received(self) -> tuple[ReceivedReceipt, ...]:
        """Everything that came, in order."""
        with self._news:
            return tuple(self._received)

    def wait(self, count: int, seconds: float = 10) -> tuple[ReceivedReceipt, ...]:
        """What came, as soon as there are `count`. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: len(self._received) >= count, seconds):
                raise TimeoutError(f"{len(self._received)} of {count} receipts in {seconds} s")
            return tuple(self._received)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if not self._stopping.is_set():
                    log.exception("the RIS cannot accept")
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="ris", daemon=True)
            with self._news:
                self._open[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with self._news:
            fault = self._armed.pop(0) if self._armed else ""
        try:
            if fault == "refuse_connection":  # closing answers with RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            for message in _messages(connection, self._timeout):
                answer = self._take(message, fault)
                if answer:
                    connection.sendall(START + answer + END)
        except (OSError, ValueError) as error:
            log.info("the connection of a sender ended: %s", type(error).__name__)
        finally:
            connection.close()
            with self._news:
                del self._open[connection]

    def _take(self, message: bytes, fault: str) -> bytes:
        """Keep the message, return the answer; empty for none."""
        read = read_message(message)
        faults = (*faults_of(message, read), *self._foreign(read))
        code = "" if fault == "silence" else fault.upper() or ("AE" if faults else "AA")
        control_id = at(read, "MSH-10.1")
        with self._news:
            repeated = any(one.control_id == control_id for one in self._received)
            self._received.append(
                ReceivedReceipt(
                    message,
                    control_id,
                    at(read, "OBX-4.1"),
                    at(read, "OBX-5.1"),
                    at(read, "ERR-5.1"),
                    at(read, "ERR-5.3"),
                    at(read, "ERR-8.1"),
                    faults,
                    repeated,
                    code,
                )
            )
            self._news.notify_all()
        return answer_to(read, code, faults) if code else b""

    def _foreign(self, read: dict[str, list[str]]) -> tuple[str, ...]:
        return tuple(f"{place} 207" for place, name in self._names.items() if at(read, place) != name)


def _messages(connection: socket.socket, timeout: float) -> Iterator[bytes]:
    """The messages of a connection, until the sender closes it or takes over `timeout` seconds for one."""
    connection.settimeout(timeout)
    received, deadline = bytearray(), time.monotonic() + timeout
    while time.monotonic() < deadline and len(received) <= LONGEST_MESSAGE:
        while (end := received.find(END)) >= 0:
            if not received.startswith(START):
                raise ValueError("not an MLLP frame")
            yield bytes(received[1:end])
            del received[: end + len(END)]
            deadline = time.monotonic() + timeout
        block = connection.recv(65536)
        if not block:
            return
        received += block
