"""The servers that `drimbox bench wado` compares: ours behind a declared proxy, ours with mutual TLS, and Orthanc."""

from __future__ import annotations

import http.client
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from drimbox.entrypoints.bench_orthanc import START_SECONDS, Orthanc, open_orthanc
from drimbox.entrypoints.bench_wado_clients import LOOPBACK
from drimbox.entrypoints.bench_wado_exam import Exam
from drimbox.entrypoints.bench_wado_processes import find_command
from drimbox.entrypoints.demo_stage import Stage, StepFailed, free_port, listens, start_world, wait_for
from drimbox.simulators.pacs import push_study
from drimbox.simulators.ris import send_hl7
from fixtures.reports import make_cda, make_oru

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PUBLISH_SECONDS = 120.0
TOKEN_SECONDS = 3600
DICOM = 'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
JSON = "Accept: application/dicom+json"
_ORTHANC = {
    "DicomServerEnabled": False,
    "SyncStorageArea": False,  # only how it was filled
    "KeepAlive": True,
    "TcpNoDelay": True,
    "Plugins": [str(PLUGIN)],
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, "Ssl": False},
}


@dataclass(frozen=True)
class Place:
    """One server. `images`, `search`: its WADO-RS and its QIDO-RS, without final slash, each with what to send."""

    name: str
    images: str
    image_headers: Sequence[str]
    search: str
    search_headers: Sequence[str]
    process: int
    options: Sequence[str] = ()  # of curl


@contextmanager
def orthanc_with(directory: Path, exams: Sequence[Exam], command: Sequence[str]) -> Iterator[Place]:
    """Orthanc with its DICOMweb plugin as a child, which holds the files of `exams`."""
    with open_orthanc(directory, _ORTHANC, command=command) as peer:
        _upload(urlsplit(peer.base).port, [file for exam in exams for file in exam.files])
        yield Place(
            "orthanc", f"{peer.base}/dicom-web", (DICOM,), f"{peer.base}/dicom-web", (JSON,), peer.process
        )


def orthanc_version(place: Place) -> dict[str, str]:
    """Versions of the server and of its plugin."""
    peer = Orthanc(place.images.removesuffix("/dicom-web"), 0, place.process)
    return {"orthanc": peer.version(), "dicomweb": peer.version("plugins/dicom-web")}


def _upload(port: int | None, files: Sequence[Path]) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    try:
        for file in files:
            connection.request("POST", "/instances", file.read_bytes(), {"Content-Type": "application/dicom"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise StepFailed(f"Orthanc answered {answer.status} to an instance")
    finally:
        connection.close()


def start_appliance_behind_proxy(stage: Stage, psc: Mapping[str, Any] | None = None) -> None:
    """The world and every door; the public one speaks plain HTTP to the loopback, which plays the proxy.

    `psc`: other options of that room.
    """
    start_world(stage)
    set_options(Path(stage.config), {"web": {"proxies": [LOOPBACK]}, "psc": {"cache": 30, **(psc or {})}})
    stage.start("serve", "--config", stage.config)
    doors = stage.world["appliance"]
    for name in ("dicom", "mllp"):
        host, port = doors[name]["host"], doors[name]["port"]
        wait_for(lambda h=host, p=port: listens(h, p), START_SECONDS, f"the {name} door does not listen")  # type: ignore[misc]
    url = f"{_plain(doors['public'])}/studies/1.2.3"
    wait_for(lambda: _answers(url, 401), START_SECONDS, "the public door does not ask for a token")


def bring(stage: Stage, exams: Sequence[Exam]) -> str:
    """Push `exams` by C-STORE, report the first by MLLP; returns the UID of its manifest once it is published."""
    dicom, mllp = stage.world["appliance"]["dicom"], stage.world["appliance"]["mllp"]
    for exam in exams:
        statuses = push_study(exam.files, dicom["host"], dicom["port"], dicom["ae_title"], "PACS")
        if any(statuses):
            raise StepFailed(f"C-STORE answered {sorted(set(statuses))}")
    report = exams[0].report
    message = make_oru(make_cda(report), report, control_id="BENCH-1")
    acknowledgement = send_hl7(message, mllp["host"], mllp["port"], 20)
    if b"MSA|AA|BENCH-1" not in acknowledgement:
        raise StepFailed(f"the report was answered {acknowledgement[:300]!r}")
    return wait_for(lambda: _manifest(stage, exams[0].study), PUBLISH_SECONDS, "the exam is not published")


def _manifest(stage: Stage, study: str) -> str | None:
    exam = stage.ask("exams", "show", study)
    published = exam and exam["manifest"]["status"] == "published"
    return str(exam["manifest"]["sop_instance_uid"]) if published else None


def behind_proxy(stage: Stage, kos: str) -> Place:
    """Our appliance as a partner reaches it through a proxy that ended TLS and vouches for its certificate."""
    doors = stage.world["appliance"]
    certificate = Path(stage.world["partner"]["certificate"]).read_text("ascii")
    leaf = certificate[: certificate.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    proxied = ("X-Forwarded-For: 192.0.2.10", f"X-Client-Certificate: {quote(leaf, safe='')}")
    return Place(
        "drimbox",
        _plain(doors["public"]),
        (*image_headers(stage, kos), *proxied),
        doors["dicomweb"],
        (JSON, account_header(stage.world)),
        find_command(stage.processes[-1].pid, "web"),
    )


def with_mutual_tls(stage: Stage, kos: str) -> Place:
    """A second web process on the same stores, which ends TLS itself."""
    public, internal = free_port(), free_port()
    config = stage.directory / "tls.toml"
    config.write_text(Path(stage.config).read_text("utf-8"), "utf-8")
    set_options(config, {"web": {"proxies": [], "public_port": public, "internal_port": internal}})
    process = stage.start("web", "--config", str(config))
    base = f"https://{LOOPBACK}:{public}{urlsplit(stage.world['appliance']['public']).path}"
    partner, authority = stage.world["partner"], stage.world["ca"]
    wait_for(lambda: _answers(f"{base}/studies/1.2.3", 401, authority), START_SECONDS, "no TLS door")
    files = ("--cacert", authority, "--cert", partner["certificate"], "--key", partner["key"])
    return Place("drimbox_tls", base, image_headers(stage, kos), "", (), process.pid, files)


def image_headers(stage: Stage, kos: str) -> tuple[str, ...]:
    """What a partner sends with every retrieval (RAD-107): a living token, and the manifest that it read."""
    token = stage.control("/control/psc/token", {"claims": {}, "ttl": TOKEN_SECONDS})["access_token"]
    return (DICOM, f"Authorization: Bearer {token}", f"KOS-SOPInstanceUID: {kos}")


def account_header(world: Mapping[str, Any]) -> str:
    """The account of the department on the internal listener, as HTTP Basic (RFC 7617)."""
    account = world["appliance"]["account"]
    pair = f"{account['name']}:{account['password']}".encode()
    return f"Authorization: Basic {b64encode(pair).decode('ascii')}"


def set_options(config: Path, rooms: Mapping[str, Mapping[str, Any]]) -> None:
    """Give options of a configuration other values: the line of each is replaced, or added below its room."""
    text = config.read_text("utf-8")
    for room, options in rooms.items():
        for key, value in options.items():
            inside = rf"(^\[{room}\]\n(?:(?!\[).*\n)*?){key} = .*\n"
            text = re.sub(inside, r"\1", text, count=1, flags=re.M)
            text = text.replace(f"[{room}]\n", f"[{room}]\n{key} = {json.dumps(value)}\n", 1)
    config.write_text(text, "utf-8")


def _answers(url: str, status: int, authority: str | None = None) -> bool | None:
    """True when `url` answers `status`, None when not, or nobody listens yet."""
    try:
        answer = requests.get(url, timeout=10, verify=authority or True)
    except (requests.ConnectionError, requests.Timeout):
        return None
    return True if answer.status_code == status else None


def _plain(address: str) -> str:
    return address.replace("https://", "http://", 1)
