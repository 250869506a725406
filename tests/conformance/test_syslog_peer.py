"""A real collector reads what we send: rsyslog with its OpenSSL driver (apt: rsyslog, rsyslog-openssl); skips without.

Its GnuTLS driver ends connections without close_notify, which RFC 5425 4.4 demands, and ends them in the same way for
a sender that it refuses: it can never confirm, hence is not one to use.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drimbox.adapters.syslog_tls import SyslogEndpoint, SyslogTls
from drimbox.domain.audit_events import Stage, gather, report
from drimbox.domain.audit_message import AuditSource, to_xml
from drimbox.domain.audit_rules import Occurrence
from drimbox.domain.syslog_message import NotDelivered, syslog_message
from drimbox.simulators.pki import Pki
from drimbox.simulators.syslog_checks import check
from fixtures.kept_pki import kept_pki

CONFIGURATION = """
global(maxMessageSize="64k" workDirectory="{work}" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{authority}" defaultNetstreamDriverCertFile="{certificate}"
  defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{log}" template="raw")
"""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("world") / "pki")


@pytest.fixture
def collector(tmp_path: Path, pki: Pki, free_port: Callable[[], int]) -> Iterator[tuple[int, Path]]:
    """(port, file of the messages) of a running rsyslog."""
    program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
    modules = next(Path(program).parents[1].glob("lib/*/rsyslog"), None) if program else None
    if program is None or modules is None or not (modules / "lmnsd_ossl.so").is_file():
        pytest.skip("rsyslog is not installed: apt-get install rsyslog rsyslog-openssl")
    port, log = free_port(), tmp_path / "messages"
    configuration = CONFIGURATION.format(
        work=tmp_path, authority=pki.authority, certificate=pki.path("appliance_server"),
        key=pki.key("appliance_server"), port=port, log=log,
    )  # fmt: skip
    (tmp_path / "rsyslog.conf").write_text(configuration)
    command = [program, "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid", "-M", modules]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 20
        while not _listens(port):
            assert server.poll() is None, "rsyslog ended"
            assert time.monotonic() < deadline, "rsyslog does not listen"
            time.sleep(0.05)
        yield port, log
        server.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _messages(count: int) -> list[bytes]:
    source = AuditSource("DRIMBOX-1", "1750803447", "drimbox.example", "DRIMBOX")
    stage = Stage(source, "https://dmp.example/repository", "https://dmp.example/registry")
    at = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
    rows = [
        Occurrence(n, at, "INSTANCE_STORED", f"pacs:CT{n}@10.0.0.7", "1.2.3", {"sop": f"1.2.{n}"})
        for n in range(count)
    ]
    reports = [report(event, stage) for event in gather(rows)]
    return [syslog_message(to_xml(one.message), at, source.host, one.message_id) for one in reports]


def test_rsyslog_takes_every_message_as_it_is_and_confirms(collector: tuple[int, Path], pki: Pki) -> None:
    port, log = collector
    endpoint = SyslogEndpoint(
        "127.0.0.1", port, pki.authority, pki.path("appliance_auth"), pki.key("appliance_auth")
    )
    messages = _messages(300)
    SyslogTls(endpoint, lambda: datetime.now(UTC)).deliver(messages)
    deadline = time.monotonic() + 20
    while not log.is_file() or log.read_bytes().count(b"\n") < len(messages):
        assert time.monotonic() < deadline, "not all messages were written"
        time.sleep(0.05)
    assert log.read_bytes().splitlines() == messages
    assert all(check(one).faults == () for one in messages)


def test_rsyslog_refuses_us_without_a_certificate_and_we_know(collector: tuple[int, Path], pki: Pki) -> None:
    port, log = collector
    with pytest.raises(NotDelivered, match="TLS"):
        SyslogTls(SyslogEndpoint("127.0.0.1", port, pki.authority), lambda: datetime.now(UTC)).deliver(
            _messages(1)
        )
    assert not log.is_file()
