"""A line that breaks while we still write: the alert that came before tells why, and nothing counts as delivered."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from drimbox.adapters.syslog_tls import SyslogEndpoint, SyslogTls
from drimbox.domain.syslog_message import NotDelivered
from drimbox.simulators.pki import Pki
from drimbox.simulators.server import tls_context
from fixtures.kept_pki import kept_pki

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends a reset


class _Late(list[bytes]):
    """Messages that wait, before the first one, until the receiver has hung up."""

    def __init__(self, messages: list[bytes], ended: threading.Event) -> None:
        super().__init__(messages)
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        assert self._ended.wait(20), "the receiver never ended"
        return super().__iter__()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("world") / "pki")


@contextlib.contextmanager
def _hanging_up(pki: Pki, demanding: bool) -> Iterator[tuple[int, threading.Event]]:
    """A receiver that ends with a reset after the handshake: (port, set once it has)."""
    context = tls_context(pki.path("appliance_server"), pki.key("appliance_server"), pki.authority)
    context.verify_mode = ssl.CERT_REQUIRED if demanding else ssl.CERT_NONE
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def receive() -> None:
            line, _ = listener.accept()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            tls = context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
            with contextlib.suppress(ssl.SSLError):  # no certificate was shown: the alert is sent
                tls.do_handshake()
            tls.close()
            ended.set()

        receiver = threading.Thread(target=receive)
        receiver.start()
        try:
            yield listener.getsockname()[1], ended
        finally:
            receiver.join(20)


@pytest.mark.parametrize(
    ("demanding", "reason"), [(True, "TLS: .*CERTIFICATE_REQUIRED"), (False, "without confirming")]
)
def test_a_reset_met_while_writing_is_told_by_its_cause(pki: Pki, demanding: bool, reason: str) -> None:
    with _hanging_up(pki, demanding) as (port, ended):
        door = SyslogTls(SyslogEndpoint("127.0.0.1", port, pki.authority), lambda: datetime.now(UTC))
        with pytest.raises(NotDelivered, match=reason):
            door.deliver(_Late([b"x" * 70_000] * 3, ended))
