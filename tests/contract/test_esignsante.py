"""eSignSanté by real TLS, against a server as strict as its API document; and the homologation file."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import stat
import threading
import time
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from fixtures.certificates import Credential, make_authority, make_leaf
from whitelist.bundle import bundle
from whitelist.document import TrustedList
from whitelist.esignsante import OPERATION, ESignSante, NoVerdict, Verdict, combine, verdict_step
from whitelist.proof import Request, build_proof, check_proof
from whitelist.proof_rules import Evidence
from whitelist.trust import Held, Report, Step
from whitelist.xades_signer import KeySigner

NOW = datetime.now(UTC).replace(microsecond=0)
DOCUMENT = b"<ListeBlancheDRIM-M>\r\n--drimbox-\xc3\xa9\r\n</ListeBlancheDRIM-M>"
ID = re.compile(r"[a-zA-Z_0-9\-]*")
ASKED = {
    "configuration_id": 1, "request_id": "REQ-1", "proof_tag": "liste-blanche", "applicant_id": "db156",
    "proof_configuration_id": 2,
}  # fmt: skip


def credential(name: str, authority: str = "TEST AC ESIGNSANTE", address: str | None = None) -> Credential:
    return make_leaf(
        make_authority(authority),
        common_name=name,
        address=address,
        extended=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=30),
    )


EDITOR = credential("Preuve eSignSante")


def report(document: bytes = DOCUMENT, failed: int | None = None) -> Report:
    steps = tuple(
        Step(n, f"step {n}", Held.FAILED if n == failed else Held.HELD, f"reason {n}") for n in range(1, 15)
    )
    trusted = None if failed else TrustedList("ns", "1.0.0", NOW, ())
    sha256 = hashlib.sha256(document).hexdigest()
    return Report(NOW, sha256, steps, trusted, None, EDITOR.certificate, NOW)


def proof(valid: bool = True, request: Request | None = None) -> bytes:
    signer = KeySigner(EDITOR.key, EDITOR.certificate)
    judged = report(failed=None if valid else 8)
    evidence = Evidence(EDITOR.certificate, (make_authority().certificate,))
    asked = request or Request("REQ-1", "liste-blanche", "db156")
    return build_proof(DOCUMENT, judged, evidence, signer, proof_id="P1", now=NOW, version="1", request=asked)


def verdict_json(**changes: object) -> bytes:
    answer: dict[str, object] = {
        "valide": True,
        "erreurs": [],
        "metaData": [],
        "preuve": b64encode(proof()).decode(),
    }
    return json.dumps(answer | changes).encode()


@dataclass
class Strict:
    """What the fake answers, and what it saw; `faults`: why it called a request malformed."""

    status: int = 200
    body: bytes = field(default_factory=verdict_json)
    content_type: str = "application/json;charset=UTF-8"
    configurations: tuple[str, str] = ("1", "2")
    requests: list[dict[str, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    clients: list[bytes | None] = field(default_factory=list)
    play: Callable[[BaseHTTPRequestHandler], None] | None = None

    def judge(self, handler: BaseHTTPRequestHandler) -> int:
        if handler.path != OPERATION:
            return 404
        if handler.headers.get("Accept") != "application/json":
            return 501
        form = self.form(handler)
        self.requests.append(form)
        ids = [form.get(name, b" ").decode() for name in ("requestId", "proofTag", "applicantId")]
        if set(form) != {"idVerifSignConf", "requestId", "proofTag", "applicantId", "idProofConf", "file"}:
            self.faults.append(f"parts {sorted(form)}")
        if not all(ID.fullmatch(text) for text in ids):
            self.faults.append(f"identifiers {ids}")
        if self.faults:
            return 400
        if (form["idVerifSignConf"].decode(), form["idProofConf"].decode()) != self.configurations:
            return 404
        return self.status

    def form(self, handler: BaseHTTPRequestHandler) -> dict[str, bytes]:
        kind, _, boundary = handler.headers.get("Content-Type", "").partition("; boundary=")
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if kind != "multipart/form-data" or not 1 <= len(boundary) <= 70 or "Expect" in handler.headers:
            self.faults.append("no multipart/form-data with a boundary of 1 to 70 characters (RFC 2046)")
            return {}
        pieces = (b"\r\n" + body).split(f"\r\n--{boundary}".encode())
        if pieces[0] or pieces[-1] != b"--\r\n":
            self.faults.append("the multipart does not begin or end as it should")
        form: dict[str, bytes] = {}
        for piece in pieces[1:-1]:
            head, _, content = piece.partition(b"\r\n\r\n")
            found = re.match(rb'\r\nContent-Disposition: form-data; name="(\w+)"(; filename="[\w.]+")?', head)
            if found is None or bool(found[2]) != (found[1] == b"file") or found[1].decode() in form:
                self.faults.append(f"part {head!r}")
            else:
                form[found[1].decode()] = content
        return form


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        strict: Strict = self.server.strict  # type: ignore[attr-defined]
        strict.clients.append(self.connection.getpeercert(binary_form=True))  # type: ignore[attr-defined]
        status = strict.judge(self)
        if strict.play is not None:
            strict.play(self)
            return
        body = strict.body if status == 200 else b'{"secret": "never quoted"}'
        self.send_response(status)
        self.send_header("Content-Type", strict.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests want."""


@dataclass(frozen=True)
class Peer:
    url: str
    authority: Path
    strict: Strict


def write(directory: Path, name: str, own: Credential) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(own.certificate_pem)
    key.write_bytes(own.key_pem())
    return certificate, key


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write(tmp_path, "server", credential("esignsante", address="127.0.0.1")))
    authority = tmp_path / "authority.pem"
    authority.write_bytes(make_authority("TEST AC ESIGNSANTE").certificate_pem)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = Server(("127.0.0.1", 0), Handler)
    server.strict = Strict()  # type: ignore[attr-defined]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Peer(f"https://127.0.0.1:{server.server_port}", authority, server.strict)  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join(5)


def ask(peer: Peer, **options: object) -> Verdict:
    settings: dict[str, object] = {"authority": peer.authority, "timeout": 10}
    return ESignSante(peer.url, **(settings | options)).validate(DOCUMENT, **ASKED)  # type: ignore[arg-type]


def refusal(peer: Peer, **options: object) -> NoVerdict:
    with pytest.raises(NoVerdict) as none:
        ask(peer, **options)
    assert "never quoted" not in str(none.value)
    return none.value


def test_strict_server_accepts_the_request(peer: Peer) -> None:
    verdict = ask(peer)
    assert peer.strict.faults == []
    assert peer.strict.requests == [
        {
            "idVerifSignConf": b"1", "requestId": b"REQ-1", "proofTag": b"liste-blanche", "applicantId": b"db156",
            "idProofConf": b"2", "file": DOCUMENT,
        }
    ]  # fmt: skip
    assert verdict.valid
    assert verdict.proof is not None
    assert check_proof(verdict.proof, certificate=EDITOR.certificate, candidate=DOCUMENT).valid


def test_our_certificate_is_shown_when_there_is_one(peer: Peer, tmp_path: Path) -> None:
    own = credential("drimbox")
    ask(peer, client=write(tmp_path, "client", own))
    ask(peer)
    shown = [octets and x509.load_der_x509_certificate(octets) for octets in peer.strict.clients]
    assert shown == [own.certificate, None]


def test_their_refusal_refuses(peer: Peer) -> None:
    errors = [{"codeErreur": "ERSIGN04", "message": "Le certificat est révoqué"}]
    preuve = b64encode(proof(valid=False)).decode()
    peer.strict.body = verdict_json(valide=False, erreurs=errors, preuve=preuve)
    verdict = ask(peer)
    assert (verdict.valid, verdict.codes) == (False, ("ERSIGN04",))
    assert verdict.proof is not None
    assert not combine(report(), verdict)
    assert "ERSIGN04" in verdict_step(verdict).why


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "bad-request"), (401, "unauthorised"), (404, "unknown-configuration"), (500, "internal-error"),
        (501, "not-supported"), (503, "not-ready"), (302, "unexpected-status"), (418, "unexpected-status"),
    ],
)  # fmt: skip
def test_each_status_is_told(status: int, code: str, peer: Peer) -> None:
    peer.strict.status = status
    none = refusal(peer)
    assert none.code == code
    assert combine(report(), None)
    assert verdict_step(none).outcome is Held.WARNED


def test_unknown_configuration_is_told(peer: Peer) -> None:
    peer.strict.configurations = ("7", "2")
    assert refusal(peer).code == "unknown-configuration"


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"<html>", "text/html", "malformed-answer"),
        (b"{}", "application/json", "malformed-answer"),
        (b"{", "application/json", "malformed-answer"),
        (b"", "application/json", "malformed-answer"),
    ],
)
def test_answer_that_is_no_verdict_is_told(body: bytes, content_type: str, code: str, peer: Peer) -> None:
    peer.strict.body, peer.strict.content_type = body, content_type
    assert refusal(peer).code == code


def test_answer_is_bounded(peer: Peer) -> None:
    peer.strict.body = b" " * 200_000
    assert refusal(peer, max_bytes=100_000).code == "too-large"


def test_cut_answer_is_no_verdict(peer: Peer) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        body = verdict_json()
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        handler.wfile.write(body[:-10])
        handler.close_connection = True

    peer.strict.play = cut
    assert refusal(peer).code == "broken-answer"


def drip(handler: BaseHTTPRequestHandler, octets: bytes) -> None:
    for octet in octets:
        handler.wfile.write(bytes([octet]))
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("where", ["silence", "head", "body"])
def test_time_of_the_whole_exchange_is_bounded(where: str, peer: Peer) -> None:
    """A drip of octets never meets the timeout of a socket; the deadline meets it."""
    released = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        if where == "silence":
            released.wait(20)
        elif where == "head":
            drip(handler, b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400)
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            drip(handler, b" " * 400)

    peer.strict.play = slow
    began = time.monotonic()
    assert refusal(peer, timeout=0.7).code == "timeout"
    assert time.monotonic() - began < 5
    released.set()


def test_silent_handshake_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoVerdict, match="timeout"):
            ESignSante(url, timeout=0.5).validate(DOCUMENT, **ASKED)  # type: ignore[arg-type]


def test_other_authority_is_refused(peer: Peer, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_authority("TEST AC AUTRE").certificate_pem)
    assert refusal(peer, authority=other).code == "tls"
    assert refusal(peer, authority=None).code == "tls"
    assert peer.strict.requests == []


def test_nobody_there_is_told(free_port: Callable[[], int]) -> None:
    with pytest.raises(NoVerdict, match="unreachable"):
        ESignSante(f"https://127.0.0.1:{free_port()}").validate(DOCUMENT, **ASKED)  # type: ignore[arg-type]


def test_missing_files_are_told(peer: Peer, tmp_path: Path) -> None:
    assert refusal(peer, authority=tmp_path / "absent.pem").code == "credentials"
    assert refusal(peer, client=(tmp_path / "absent.pem", tmp_path / "absent.key")).code == "credentials"


@pytest.mark.parametrize(
    "url",
    [
        "http://esignsante.example",
        "https://",
        "esignsante.example",
        "https://u@h",
        "https://h?x=1",
        "https://h:x",
    ],
)
def test_address_must_be_https(url: str) -> None:
    with pytest.raises(ValueError, match=r"https://host|[Pp]ort"):
        ESignSante(url)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": "a b"}, {"proof_tag": "é"}, {"applicant_id": "x\n"}, {"request_id": 'a"\r\nX: y'},
        {"configuration_id": -1}, {"proof_configuration_id": 2**63},
    ],
)  # fmt: skip
def test_identifiers_are_checked_before_anything_is_sent(changes: dict[str, object], peer: Peer) -> None:
    with pytest.raises(ValueError, match="not acceptable"):
        ESignSante(peer.url, peer.authority).validate(DOCUMENT, **(ASKED | changes))  # type: ignore[arg-type]
    assert peer.strict.clients == []


# --- the homologation file


def crl() -> x509.CertificateRevocationList:
    authority = make_authority()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(NOW).next_update(NOW + timedelta(days=5))
    return builder.sign(authority.key, hashes.SHA256())


def certificates() -> tuple[x509.Certificate, ...]:
    return EDITOR.certificate, make_authority().certificate


def test_bundle_holds_everything(tmp_path: Path) -> None:
    revoked = crl()
    path = bundle(tmp_path / "dossier", DOCUMENT, report(), proof(), certificates(), [revoked])
    assert path.name == f"preuve-liste-blanche-{NOW:%Y%m%dT%H%M%SZ}-{report().sha256[:12]}.zip"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "LISTE.xml", "RAPPORT.json", "RAPPORT.txt", "PREUVE.xml", "CERTIFICAT-1-Preuve-eSignSante.pem",
            "CERTIFICAT-2-TEST-AC-ELEMENTAIRE-ORGANISATIONS.pem", "CRL-1-TEST-AC-ELEMENTAIRE-ORGANISATIONS.crl",
            "LISEZMOI.txt",
        ]  # fmt: skip
        held = {name: archive.read(name) for name in archive.namelist()}
    assert held["LISTE.xml"] == DOCUMENT
    assert json.loads(held["RAPPORT.json"])["accepted"] is True
    assert "ACCEPTÉE" in held["RAPPORT.txt"].decode()
    assert check_proof(held["PREUVE.xml"], certificate=EDITOR.certificate, candidate=DOCUMENT).valid
    assert x509.load_der_x509_crl(held["CRL-1-TEST-AC-ELEMENTAIRE-ORGANISATIONS.crl"]) == revoked
    loaded = x509.load_pem_x509_certificate(held["CERTIFICAT-1-Preuve-eSignSante.pem"])
    assert loaded == EDITOR.certificate
    readme = held["LISEZMOI.txt"].decode()
    others = {name: content for name, content in held.items() if name != "LISEZMOI.txt"}
    assert all(hashlib.sha256(content).hexdigest() in readme for content in others.values())


def test_bundle_of_the_same_verification_is_the_same(tmp_path: Path) -> None:
    arguments = (DOCUMENT, report(), proof(), certificates(), [crl()])
    first = bundle(tmp_path / "a.zip", *arguments)
    second = bundle(tmp_path / "b.zip", *arguments)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_bundle_of_a_refusal_without_proof_says_so(tmp_path: Path) -> None:
    judged = replace(report(failed=8), signer=None)
    path = bundle(tmp_path, DOCUMENT, judged, None, certificates()[1:], [], their_proof=proof(valid=False))
    with zipfile.ZipFile(path) as archive:
        names, readme = archive.namelist(), archive.read("LISEZMOI.txt").decode()
        text = archive.read("RAPPORT.txt").decode()
    assert "PREUVE.xml" not in names
    assert "PREUVE-ESIGNSANTE.xml" in names
    assert "Aucune preuve signée n'est jointe" in readme
    assert "REFUSÉE" in text
    assert "ERSIGN08 : étape 8 : reason 8" in text


def test_bundle_of_another_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another document"):
        bundle(tmp_path, b"<other/>", report(), proof(), certificates(), [])
    assert list(tmp_path.iterdir()) == []


def test_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken.zip").mkdir()
    with pytest.raises(OSError, match="taken"):
        bundle(tmp_path / "taken.zip", DOCUMENT, report(), proof(), certificates(), [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.zip"]
