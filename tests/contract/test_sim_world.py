"""The whole outside world: files, control port, faults through real sockets, restart, the process itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from drimbox.settings.whole import load_settings
from drimbox.simulators.dmp_state import Document, RequestRecord
from drimbox.simulators.ports import PORTS, assign_ports
from drimbox.simulators.psc import PROTOCOL
from drimbox.simulators.world import World, main


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("outside")) as world:
        yield world


@pytest.fixture(autouse=True)
def _no_fault_left(world: World) -> Iterator[None]:
    yield
    for where, armed in world.faults.armed().items():
        for fault in armed:
            world.faults.take(where, fault.partition(":")[0])


def described(directory: Path) -> Any:
    return json.loads((directory / "simulators.json").read_text("utf-8"))


def control(world: World, method: str, path: str, **how: Any) -> requests.Response:
    return requests.request(method, described(world.directory)["control"] + path, timeout=10, **how)


def introspected(world: World, token: str) -> Any:
    pki = world.pki
    answer = requests.post(
        described(world.directory)["psc"]["issuer"]
        + PROTOCOL.removeprefix("/auth/realms/esante-wallet")
        + "/token/introspect",
        data={"token": token, "client_id": "drimbox-simulee"},
        cert=(str(pki.path("appliance_auth")), str(pki.key("appliance_auth"))),
        verify=str(pki.authority),
        timeout=10,
    )
    return answer.json()


def document(unique_id: str = "1.2.250.1.999.1") -> Document:
    return Document(
        unique_id, "urn:uuid:1", "Approved", "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH",
        "application/dicom", "IMG-KOS", "31", ("N",), ("CT",), (), "0" * 40,
        "1750803447", "1.2.3", b"<e/>", b"KOS",
    )  # fmt: skip


# --- files ---


def test_simulators_json_says_where_everything_is(world: World) -> None:
    found = described(world.directory)
    assert found["control"] == f"http://127.0.0.1:{world.ports['control']}"
    assert Path(found["ca"]).is_file()
    assert found["appliance"] == {
        "dicom": {"host": "127.0.0.1", "port": world.ports["appliance_dicom"], "ae_title": "DRIMBOX"},
        "mllp": {"host": "127.0.0.1", "port": world.ports["appliance_mllp"]},
        "mllp_tls": {"host": "127.0.0.1", "port": world.ports["appliance_mllp_tls"]},
        "public": f"https://127.0.0.1:{world.ports['appliance_public']}/dicom-web-rs",
        "internal": f"http://127.0.0.1:{world.ports['appliance_internal']}",
        "dicomweb": f"http://127.0.0.1:{world.ports['appliance_internal']}/dicomweb",
        "account": {"name": "viewer", "password": found["appliance"]["account"]["password"]},
    }
    assert found == world.description


def test_drimbox_toml_is_a_configuration(world: World) -> None:
    settings = load_settings(world.directory / "drimbox.toml")
    found = described(world.directory)
    assert settings.web.public_url == found["appliance"]["public"]
    assert settings.dicom.port == found["appliance"]["dicom"]["port"]
    assert {"PACS", "STORESCU", "ECHOSCU"} <= set(settings.dicom.calling_ae_titles)
    (viewer,) = settings.web.accounts
    assert (viewer.name, viewer.may) == (found["appliance"]["account"]["name"], ("read", "store"))
    assert found["appliance"]["account"]["password"] not in (world.directory / "drimbox.toml").read_text(
        "utf-8"
    )
    assert settings.policy.settle_after == 2
    assert settings.dmp.lease > settings.dmp.connect_timeout + settings.dmp.answer_timeout
    assert settings.storage.root.is_relative_to(world.directory / "appliance")
    assert settings.dmp.repository_url.endswith("/si-dmp-server/v2/services/repository")
    paths = [
        value
        for room in (settings.web, settings.dmp, settings.psc)
        for value in room.model_dump().values()
        if isinstance(value, Path)
    ]
    assert len(paths) == 11
    assert all(path.is_absolute() and path.is_file() for path in paths)
    signer = x509.load_pem_x509_certificate(settings.dmp.signature_certificate.read_bytes())
    assert f"OU={settings.organisation.structure_id}" in signer.subject.rfc4514_string()


def test_ports_are_a_fixed_table() -> None:
    assert assign_ports(20000) == {name: 20000 + offset for offset, name in enumerate(PORTS)}
    assert " ".join(PORTS) == (
        "dmp psc ans ans_crl betterstack control"
        " appliance_dicom appliance_mllp appliance_public appliance_internal appliance_mllp_tls syslog"
    )
    assert len(set(assign_ports(None).values())) == len(PORTS)
    for base in (80, 65530):
        with pytest.raises(ValueError, match="between 1024 and"):
            assign_ports(base)


# --- every place answers ---


def test_every_place_listens_with_its_certificate(world: World) -> None:
    found, ca = described(world.directory), str(world.pki.authority)
    assert requests.get(found["ans"]["list"], verify=ca, timeout=10).status_code == 200
    for url in found["betterstack"].values():
        assert requests.get(url, verify=ca, timeout=10).status_code == 200
    for url in found["ans"]["crl"]:
        assert x509.load_der_x509_crl(requests.get(url, timeout=10).content).next_update_utc is not None
    discovery = requests.get(
        found["psc"]["issuer"] + "/.well-known/wallet-openid-configuration", verify=ca, timeout=10
    )
    assert discovery.json()["issuer"] == found["psc"]["issuer"]
    assert requests.get(found["dmp"]["repository"], verify=ca, timeout=10).status_code == 405


def test_certificates_say_where_the_crl_is(world: World) -> None:
    points = world.pki.certificate("list_signer").extensions.get_extension_for_class(
        x509.CRLDistributionPoints
    )
    (name,) = list(points.value[0].full_name or [])
    assert name.value == described(world.directory)["ans"]["crl"][0]
    serial = world.pki.certificate("revoked_signer").serial_number
    found = x509.load_der_x509_crl(requests.get(name.value, timeout=10).content)
    assert found.get_revoked_certificate_by_serial_number(serial) is not None


# --- the control port ---


def test_what_the_dmp_holds_is_told(world: World) -> None:
    at = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
    world.dmp_state.add_document(document())
    world.dmp_state.record(
        RequestRecord("TD2.1a", at, "urn:uuid:é m", "Success", 'multipart/x; boundary="b"', b"raw")
    )
    documents = control(world, "GET", "/control/dmp/documents").json()
    (found,) = [one for one in documents if one["unique_id"] == "1.2.250.1.999.1"]
    assert set(found) == {
        *("unique_id", "entry_uuid", "status", "patient_id", "mime_type", "type_code", "class_code"),
        *("confidentiality", "event_codes", "reference_ids", "replaced_by", "sha1", "size"),
    }
    assert (found["unique_id"], found["size"], found["confidentiality"]) == ("1.2.250.1.999.1", 3, ["N"])
    content = control(world, "GET", "/control/dmp/documents", params={"content": found["unique_id"]})
    assert content.content == b"KOS"
    received = control(world, "GET", "/control/dmp/requests").json()
    (request,) = [one for one in received if one["message_id"] == "urn:uuid:é m"]
    assert {name: request[name] for name in ("transaction", "message_id", "outcome")} == {
        "transaction": "TD2.1a",
        "message_id": "urn:uuid:é m",
        "outcome": "Success",
    }
    raw = control(world, "GET", "/control/dmp/requests", params={"content": "urn:uuid:é m"})
    assert (raw.content, raw.headers["Content-Type"]) == (b"raw", 'multipart/x; boundary="b"')


def test_a_minted_token_is_recognised(world: World) -> None:
    minted = control(
        world, "POST", "/control/psc/token", json={"claims": {"acr": "eidas2"}, "ttl": 60}
    ).json()
    assert (minted["token_type"], minted["expires_in"]) == ("Bearer", 60)
    told = introspected(world, minted["access_token"])
    assert (told["active"], told["acr"], told["azp"]) == (True, "eidas2", "drimbox-partenaire")
    assert told["exp"] - told["iat"] == 60
    default = control(world, "POST", "/control/psc/token", json={}).json()
    assert default["expires_in"] == 120


def test_a_token_can_be_bound_to_a_certificate(world: World) -> None:
    pem = world.pki.path("partner_auth").read_text()
    order = {"bind": "ans", "certificate": pem}
    minted = control(world, "POST", "/control/psc/token", json=order).json()
    assert len(introspected(world, minted["access_token"])["cnf"]["x5t#S256"]) == 88


def test_a_patient_can_be_added(world: World) -> None:
    cx = "190017501012345^^^&1.2.250.1.213.1.4.10&ISO^NH"
    assert not world.dmp_state.knows_patient(cx)
    order = {"ins": "190017501012345", "oid": "1.2.250.1.213.1.4.10"}
    assert control(world, "POST", "/control/dmp/patients", json=order).json() == order
    assert world.dmp_state.knows_patient(cx)


def test_a_fault_is_armed_and_seen(world: World) -> None:
    order = {"where": "dmp", "fault": "registry_error:XDSRepositoryError", "times": 2}
    assert control(world, "POST", "/control/faults", json=order).json() == order
    armed = control(world, "GET", "/control/faults").json()
    assert armed["dmp"] == ["registry_error:XDSRepositoryError"] * 2
    once = control(world, "POST", "/control/faults", json={"where": "psc", "fault": "inactive"})
    assert once.json()["times"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reasons"),
    [
        ("POST", "faults", b"{", 400, ["the body is not JSON"]),
        ("POST", "faults", b"\xff", 400, ["the body is not JSON"]),
        ("POST", "faults", b"[]", 400, ["the body must be a JSON object"]),
        ("POST", "faults", b"{}", 400, ["where is missing", "fault is missing"]),
        ("POST", "faults", b'{"where": "dmp", "fault": "busy", "x": 1, "a": 2}', 400,
         ["unknown member: a", "unknown member: x"]),
        ("POST", "faults", b'{"where": ["dmp"], "fault": "busy"}', 400,
         ["unknown place: allowed are dmp, psc, ans, betterstack, syslog"]),
        ("POST", "faults", b'{"where": "psc", "fault": "busy"}', 400,
         ["unknown fault of psc: allowed are inactive, expired, http_503"]),
        ("POST", "faults", b'{"where": "psc", "fault": {}}', 400,
         ["unknown fault of psc: allowed are inactive, expired, http_503"]),
        ("POST", "faults", b'{"where": "psc", "fault": "inactive", "times": 1.5}', 400,
         ["times must be a whole number from 1 to 100000"]),
        ("POST", "psc/token", b'{"claims": [], "ttl": "x"}', 400,
         ["ttl must be a whole number of seconds, at most 86400 either way", "claims must be a JSON object"]),
        ("POST", "psc/token", b'{"claims": {"jti": "1", "exp": "2", "azp": 3}}', 400,
         ["claims.jti is the simulator's own", "claims.exp must be a number", "claims.azp must be a text"]),
        ("POST", "psc/token", b'{"bind": "x"}', 400,
         ["bind must be rfc8705 or ans", "certificate must be a certificate in PEM"]),
        ("POST", "dmp/patients", b'{"oid": "1.2.250.1.213.1.4.8"}', 400,
         ["ins must be a matricule INS of 15 characters", "oid must be a test authority of the INS"]),
        ("GET", "dmp/documents?content=1.2.3", b"", 404, ["no document of that unique_id"]),
        ("GET", "dmp/requests?content=", b"", 404, ["no request of that message_id"]),
        ("GET", "dmp/documents?unique_id=1", b"", 400, ["unknown parameter: unique_id"]),
        ("GET", "dmp/documents?content=1&content=2", b"", 400, ["content is repeated"]),
        ("DELETE", "dmp/documents", b"", 405, ["method not allowed"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_every_reason(
    world: World, method: str, path: str, body: bytes, status: int, reasons: list[str]
) -> None:
    answer = control(world, method, f"/control/{path}", data=body)
    assert (answer.status_code, answer.json()) == (status, {"errors": reasons})
    assert not any(world.faults.armed().values())


def test_an_unknown_place_lists_the_known_ones(world: World) -> None:
    answer = control(world, "GET", "/control/moon")
    assert answer.status_code == 404
    assert "/control/dmp/documents" in answer.json()["errors"][0]


# --- faults of the connection, through real sockets ---


@pytest.mark.parametrize(
    ("where", "fault", "url"),
    [
        ("dmp", "refuse_connection", lambda found: found["dmp"]["registry"]),
        ("ans", "unreachable", lambda found: found["ans"]["list"]),
        ("betterstack", "unreachable", lambda found: found["betterstack"]["ips.txt"]),
    ],
)
def test_connections_are_refused_then_accepted(
    world: World, where: str, fault: str, url: Callable[[Any], str]
) -> None:
    target, ca = url(described(world.directory)), str(world.pki.authority)
    with requests.Session() as kept_alive:
        assert kept_alive.get(target, verify=ca, timeout=10).status_code in (200, 405)
        order = {"where": where, "fault": fault, "times": 2}
        assert control(world, "POST", "/control/faults", json=order).status_code == 200
        for _ in range(2):
            with pytest.raises(requests.exceptions.ConnectionError):
                kept_alive.get(target, verify=ca, timeout=10)
        assert kept_alive.get(target, verify=ca, timeout=10).status_code in (200, 405)


@pytest.mark.parametrize("fault", ["http_500", "garbage", "drop_before_answer", "busy"])
def test_faults_of_the_dmp_reach_its_clients(world: World, fault: str) -> None:
    found, pki = described(world.directory), world.pki
    control(world, "POST", "/control/faults", json={"where": "dmp", "fault": fault, "times": 1})

    def post() -> requests.Response:
        return requests.post(
            found["dmp"]["registry"],
            data=b"<not-soap/>",
            headers={"Content-Type": "application/soap+xml; charset=UTF-8"},
            cert=(str(pki.path("appliance_auth")), str(pki.key("appliance_auth"))),
            verify=str(pki.authority),
            timeout=10,
        )

    if fault == "drop_before_answer":
        with pytest.raises(requests.exceptions.ConnectionError):
            post()
    else:
        answer = post()
        said = {"http_500": b"internal error", "garbage": b"no SOAP", "busy": b"XDSRegistryBusy"}
        assert said[fault] in answer.content
    assert not world.faults.armed()["dmp"]


def test_a_dmp_that_holds_its_answer_does_not_hold_the_stop(tmp_path: Path) -> None:
    with World(tmp_path) as held:
        held.faults.arm("dmp", "timeout", 1)
        context = ssl.create_default_context(cafile=str(held.pki.authority))
        context.load_cert_chain(held.pki.path("appliance_auth"), held.pki.key("appliance_auth"))
        raw = socket.create_connection(("127.0.0.1", held.ports["dmp"]), timeout=10)
        with context.wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(
                b"POST /si-dmp-server/v2/services/registry HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/soap+xml\r\nContent-Length: 4\r\n\r\n<a/>"
            )
            deadline = time.monotonic() + 10
            while held.faults.peek("dmp") and time.monotonic() < deadline:
                time.sleep(0.01)
            started = time.monotonic()
            held.stop()
            assert time.monotonic() - started < 4
            assert client.recv(1) == b""


# --- restart ---


def spare_base() -> int:
    """A base whose ten ports are free."""
    for base in range(20000 + os.getpid() * 11 % 10000, 32000, 11):  # below the ephemeral ports
        held: list[socket.socket] = []
        try:
            held.extend(socket.create_server(("127.0.0.1", base + offset)) for offset in range(len(PORTS)))
        except OSError:
            continue
        finally:
            for taken in held:
                taken.close()
        return base
    raise AssertionError("no ten free ports in a row")


def test_a_restart_keeps_pki_documents_tokens_and_edits(tmp_path: Path) -> None:
    base = spare_base()
    with World(tmp_path, base) as first:
        first.dmp_state.add_document(document())
        token = control(first, "POST", "/control/psc/token", json={}).json()["access_token"]
        fingerprint = (tmp_path / "pki" / "appliance_sign.pem").read_bytes()
        files = {name: (tmp_path / name).read_text("utf-8") for name in ("simulators.json", "drimbox.toml")}
        first.stop()
        first.stop()
    edited = files["drimbox.toml"].replace("settle_after = 2", "settle_after = 9")
    (tmp_path / "drimbox.toml").write_text(edited, "utf-8")
    with World(tmp_path, base) as second:
        assert (tmp_path / "pki" / "appliance_sign.pem").read_bytes() == fingerprint
        assert [d["unique_id"] for d in control(second, "GET", "/control/dmp/documents").json()] == [
            "1.2.250.1.999.1"
        ]
        assert introspected(second, token)["active"] is True
        assert (tmp_path / "simulators.json").read_text("utf-8") == files["simulators.json"]
        assert load_settings(tmp_path / "drimbox.toml").policy.settle_after == 9


def test_other_ports_make_the_configuration_again(tmp_path: Path) -> None:
    for _ in range(2):
        with World(tmp_path) as world:
            found = tomllib.loads((tmp_path / "drimbox.toml").read_text("utf-8"))
            assert found["dicom"]["port"] == world.ports["appliance_dicom"]


def test_a_port_that_is_taken_stops_everything_else(tmp_path: Path) -> None:
    base = spare_base()
    with socket.create_server(("127.0.0.1", base + PORTS.index("control"))):
        with pytest.raises(OSError):
            World(tmp_path, base).start()
    with socket.create_server(("127.0.0.1", base)):
        assert not (tmp_path / "simulators.json").exists()


def test_main_says_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert main(tmp_path, 80) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert capsys.readouterr().err == "drimbox simulate: the port base must lie between 1024 and 65524\n"


RUN = """
import sys
from pathlib import Path
from drimbox.simulators.world import main
sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def started(directory: Path, base: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(directory), str(base)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_process_survives_sigkill_with_its_memory_and_ends_on_sigterm(tmp_path: Path) -> None:
    base = spare_base()
    killed = started(tmp_path, base)
    port = described(tmp_path)["control"]
    token = requests.post(port + "/control/psc/token", json={}, timeout=10).json()["access_token"]
    killed.kill()
    killed.communicate(timeout=10)
    again = started(tmp_path, base)
    with_world = described(tmp_path)
    pair = (str(tmp_path / "pki" / "appliance_auth.pem"), str(tmp_path / "pki" / "appliance_auth.key"))
    answer = requests.post(
        with_world["psc"]["issuer"] + "/protocol/openid-connect/token/introspect",
        data={"token": token, "client_id": "drimbox-simulee"},
        cert=pair,
        verify=with_world["ca"],
        timeout=10,
    )
    assert answer.json()["active"] is True
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=10)
    assert again.returncode == 0


def test_keys_are_private(world: World) -> None:
    keys = [*world.pki.directory.glob("*.key"), world.directory / "psc" / "signing.pem"]
    assert len(keys) >= 14
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    for key in keys:
        assert serialization.load_pem_private_key(key.read_bytes(), None)


# --- the audit record repository


def test_audit_messages_are_kept_and_told(world: World) -> None:
    pki, place = world.pki, described(world.directory)["syslog"]
    context = ssl.create_default_context(cafile=pki.authority)
    context.load_cert_chain(pki.path("appliance_auth"), pki.key("appliance_auth"))
    message = b"<85>1 2026-10-01T12:00:00Z node app - DICOM+RFC3881 - \xef\xbb\xbf<AuditMessage/>"
    with socket.create_connection((place["host"], place["port"]), 10) as plain:
        with context.wrap_socket(plain, server_hostname=place["host"]) as secured:
            secured.sendall(b"%d " % len(message) + message)
            secured.unwrap()
    (told,) = control(world, "GET", "/control/syslog/messages").json()
    assert told["message_id"] == "DICOM+RFC3881"
    assert any("children of AuditMessage" in fault for fault in told["faults"])
    assert control(world, "POST", "/control/syslog/messages").status_code == 405
