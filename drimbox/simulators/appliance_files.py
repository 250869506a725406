"""What the simulators write for the appliance and for those who drive it: drimbox.toml, simulators.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from drimbox.simulators.lists import LIST_PATH
from drimbox.simulators.pki import Pki
from drimbox.simulators.ports import HOST
from drimbox.simulators.psc import REALM
from drimbox.simulators.viewer_account import ViewerAccount, viewer_account

AE_TITLE = "DRIMBOX"
PUBLIC_PATH = "/dicom-web-rs"
INTERNAL_PATH = "/dicomweb"
DMP_SERVICES = "/si-dmp-server/v2/services"
TEST_INS = ["1.2.250.1.213.1.4.10", "1.2.250.1.213.1.4.11"]


def addresses(ports: Mapping[str, int]) -> dict[str, str]:
    """Base address of each HTTP place, without a final slash."""
    clear = ("ans_crl", "control", "appliance_internal")
    return {name: f"http{'' if name in clear else 's'}://{HOST}:{port}" for name, port in ports.items()}


def simulators_json(ports: Mapping[str, int], pki: Pki, account: ViewerAccount) -> dict[str, Any]:
    """Where everything is (contract, "Simulators' control port"); what follows `appliance` is added."""
    urls = addresses(ports)
    return {
        "control": urls["control"],
        "ca": str(pki.authority),
        "appliance": {
            "dicom": {"host": HOST, "port": ports["appliance_dicom"], "ae_title": AE_TITLE},
            "mllp": {"host": HOST, "port": ports["appliance_mllp"]},
            "mllp_tls": {"host": HOST, "port": ports["appliance_mllp_tls"]},
            "public": urls["appliance_public"] + PUBLIC_PATH,
            "internal": urls["appliance_internal"],
            "dicomweb": urls["appliance_internal"] + INTERNAL_PATH,
            "account": {"name": account.name, "password": account.password},
        },
        "dmp": {name: f"{urls['dmp']}{DMP_SERVICES}/{name}" for name in ("repository", "registry")},
        "psc": {"issuer": urls["psc"] + REALM},
        "ans": {
            "list": urls["ans"] + LIST_PATH,
            "crl": [f"{urls['ans_crl']}/CRL/{name}.crl" for name in ("aci", "root")],
            "db": _name(pki.certificate("appliance_server"), NameOID.COMMON_NAME),
        },
        "betterstack": {name: f"{urls['betterstack']}/{name}" for name in ("ips.txt", "ips-by-cluster.json")},
        "syslog": {"host": HOST, "port": ports["syslog"]},
        "ris": {"certificate": str(pki.path("ris_auth")), "key": str(pki.key("ris_auth"))},
        "partner": {
            "certificate": str(pki.path("partner_auth")),
            "key": str(pki.key("partner_auth")),
            "client_id": _name(pki.certificate("partner_auth"), NameOID.COMMON_NAME),
        },
    }


def drimbox_toml(directory: Path, ports: Mapping[str, int], pki: Pki) -> str:
    """The configuration of an appliance that lives in this world; every path absolute.

    Makes DIR/account.json unless it is there.
    """
    rooms = _rooms(directory / "appliance", ports, pki)
    rooms["web"]["accounts"] = [_account(viewer_account(directory))]
    blocks = ["\n".join([f"[{room}]", *_lines(values)]) for room, values in rooms.items()]
    return "\n\n".join(blocks) + "\n"


def write_files(directory: Path, ports: Mapping[str, int], pki: Pki) -> None:
    """Write DIR/drimbox.toml and DIR/simulators.json, atomically.

    A drimbox.toml whose first line says that it was made from the same values is left as it is: edits made by
    hand survive a restart.
    """
    (directory / "appliance").mkdir(parents=True, exist_ok=True)
    text = drimbox_toml(directory, ports, pki)
    mark = f"# made by `drimbox simulate`, values {hashlib.sha256(text.encode('utf-8')).hexdigest()[:16]}\n"
    target = directory / "drimbox.toml"
    if not (target.is_file() and target.read_text("utf-8").startswith(mark)):
        _replace(target, mark + text)
    description = simulators_json(ports, pki, viewer_account(directory))
    _replace(directory / "simulators.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _rooms(data: Path, ports: Mapping[str, int], pki: Pki) -> dict[str, dict[str, Any]]:
    urls = addresses(ports)
    return {
        "storage": {"root": data / "storage", "minimum_free_bytes": 64 * 1024 * 1024},
        "database": {"url": f"sqlite:///{data / 'drimbox.sqlite'}"},
        "dicom": {
            "host": HOST,
            "port": ports["appliance_dicom"],
            "ae_title": AE_TITLE,
            "calling_ae_titles": ["PACS", "STORESCU", "ECHOSCU", "PYNETDICOM"],
        },
        "mllp": _mllp(ports, pki),
        "web": _web(ports, pki),
        "organisation": {
            "name": _name(pki.certificate("appliance_sign"), NameOID.ORGANIZATION_NAME),
            "structure_id": _name(pki.certificate("appliance_sign"), NameOID.ORGANIZATIONAL_UNIT_NAME),
            "uid_root": "1.2.250.1.999.7",
            "device_id": "DRIMBOX-SIMULEE",
        },
        "policy": {"ins_authorities": TEST_INS, "settle_after": 2},
        "deployment": {"hosting": "data-centre"},
        "dmp": _dmp(urls["dmp"] + DMP_SERVICES, pki),
        "psc": {
            "issuer": urls["psc"] + REALM,
            "authority": pki.authority,
            "client_id": _name(pki.certificate("appliance_psc"), NameOID.COMMON_NAME),
            "client_certificate": pki.path("appliance_psc"),
            "client_key": pki.key("appliance_psc"),
            "cache": 2,
        },
        "whitelist": _whitelist(urls, pki),
        "health": {
            "period": 3,
            "deadline": 2,
            "remote_period": 5,
            "list_urls": [f"{urls['betterstack']}/ips.txt", f"{urls['betterstack']}/ips-by-cluster.json"],
            "list_authority": pki.authority,
        },
        "audit": {
            "host": HOST,
            "port": ports["syslog"],
            "authority": pki.authority,
            "certificate": pki.path("appliance_auth"),
            "key": pki.key("appliance_auth"),
            "interval": 1,
        },
    }


def _mllp(ports: Mapping[str, int], pki: Pki) -> dict[str, Any]:
    """Both doors; the RIS is not held to a certificate, so that it may use either."""
    return {
        "host": HOST,
        "port": ports["appliance_mllp"],
        "senders": [{"name": "RIS", "addresses": ["127.0.0.1", "::1"]}],
        "tls_port": ports["appliance_mllp_tls"],
        "tls_certificate": pki.path("appliance_server"),
        "tls_key": pki.key("appliance_server"),
        "tls_client_authority": pki.authority,
    }


def _whitelist(urls: Mapping[str, str], pki: Pki) -> dict[str, Any]:
    return {
        "url": urls["ans"] + LIST_PATH,
        "authority": pki.authority,
        "environment": "test",
        "root": pki.path("root"),
        "intermediate": pki.path("aci"),
        "root_crl_url": urls["ans_crl"] + "/CRL/root.crl",
        "intermediate_crl_url": urls["ans_crl"] + "/CRL/aci.crl",
        "host": _name(pki.certificate("appliance_server"), NameOID.COMMON_NAME),
        "proof_certificate": pki.path("appliance_sign"),
        "proof_key": pki.key("appliance_sign"),
    }


def _web(ports: Mapping[str, int], pki: Pki) -> dict[str, Any]:
    return {
        "public_url": addresses(ports)["appliance_public"] + PUBLIC_PATH,
        "public_host": HOST,
        "public_port": ports["appliance_public"],
        "certificate": pki.path("appliance_server"),
        "key": pki.key("appliance_server"),
        "client_authority": pki.authority,
        "internal_host": HOST,
        "internal_port": ports["appliance_internal"],
    }


def _account(account: ViewerAccount) -> dict[str, Any]:
    return {
        "name": account.name,
        "addresses": ["127.0.0.1", "::1"],
        "password_scrypt": account.password_scrypt,
        "may": ["read", "store"],
    }


def _dmp(services: str, pki: Pki) -> dict[str, Any]:
    return {
        "repository_url": f"{services}/repository",
        "registry_url": f"{services}/registry",
        "authority": pki.authority,
        "client_certificate": pki.path("appliance_auth"),
        "client_key": pki.key("appliance_auth"),
        "signature_certificate": pki.path("appliance_sign"),
        "signature_key": pki.key("appliance_sign"),
        "lps_id": "DRIMBOX-SIMULEE-1",
        "lps_homologation": "SIMULATION-1.0",
        "connect_timeout": 5,
        "answer_timeout": 10,
        "lease": 20,
        "retry_base": 1,
        "retry_cap": 5,
    }


def _lines(values: Mapping[str, Any]) -> list[str]:
    """TOML of numbers, texts, lists and tables: the JSON form of the first is TOML, once U+007F is escaped."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return [f"{name} = {_toml(value)}" for name, value in plain.items()]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    return str(certificate.subject.get_attributes_for_oid(oid)[0].value)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
