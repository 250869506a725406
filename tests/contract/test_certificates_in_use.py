"""Certificates of the wrong kind in each place, deployments that are refused, the inventory, and the alarms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from drimbox.adapters import logs
from drimbox.bootstrap import lay_foundation
from drimbox.domain.certificate_levels import Level
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints import certificate_alarms, certificates_cli
from drimbox.entrypoints.certificate_alarms import endings, make_certificate_alarms
from drimbox.entrypoints.certificate_inventory import Place, Row, inventory
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.configuration import examine_configuration
from drimbox.entrypoints.credentials_in_use import credentials_in_use, judge_in_use
from drimbox.flow.certificate_alarms import CertificateAlarms, Ending
from drimbox.settings.health import PROBES
from drimbox.settings.whole import Settings, load_settings, parse_settings
from drimbox.simulators.pki import Pki
from fixtures.kept_pki import kept_pki

RUNNER = CliRunner()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def pki(toml: tuple[Path, str]) -> Pki:
    return kept_pki(toml[0] / "pki")


@pytest.fixture
def config(toml: tuple[Path, str], tmp_path: Path) -> Path:
    """A configuration with nothing to say of, whose store is its own."""
    directory, text = toml
    path = tmp_path / "drimbox.toml"
    path.write_text(text.replace(str(directory / "appliance"), str(tmp_path / "appliance")), "utf-8")
    (tmp_path / "appliance").mkdir()
    return path


def put(config: Path, room: str, **options: Any) -> Path:
    """Options of one room, instead of those that it has."""
    text = config.read_text("utf-8")
    head, _, rest = text.partition(f"[{room}]\n")
    lines, _, tail = rest.partition("\n\n")
    kept = [line for line in lines.splitlines() if line.partition(" =")[0] not in options]
    new = [f"{key} = {json.dumps(str(v) if isinstance(v, Path) else v)}" for key, v in options.items()]
    config.write_text(f"{head}[{room}]\n" + "\n".join([*kept, *new]) + f"\n\n{tail}", "utf-8")
    return config


def faults_of(config: Path, setting: str) -> tuple[str, ...]:
    """Of one setting, as `config check` looks at it: opening the keys of all the others takes its time."""
    settings = load_settings(config)
    (one,) = [one for one in credentials_in_use(settings) if one.name == setting]
    return judge_in_use(one, settings, datetime.now(UTC)).faults


AUTH, SIGN, SERVER, CA = "ris_auth", "appliance_sign", "appliance_server", "aci"
WORDS = {
    AUTH: "an ORG AUTH_CLI certificate",
    SIGN: "an ORG SIGN certificate",
    SERVER: "a SERV SSL certificate",
    CA: "an authority's certificate",
}
PLACES = (
    ("web", "certificate", "key", "a SERV SSL", (AUTH, SIGN, CA)),
    ("web", "internal_certificate", "internal_key", "a server", (AUTH, CA)),
    ("mllp", "tls_certificate", "tls_key", "a server", (SIGN,)),
    ("dicom", "tls_certificate", "tls_key", "a server", (AUTH,)),
    ("dmp", "client_certificate", "client_key", "an ORG AUTH_CLI", (SIGN, CA)),
    ("dmp", "signature_certificate", "signature_key", "an ORG SIGN", (AUTH, SERVER, CA)),
    ("psc", "client_certificate", "client_key", "an ORG AUTH_CLI", (SIGN,)),
    ("whitelist", "proof_certificate", "proof_key", "an ORG SIGN", (AUTH, SERVER)),
    ("audit", "certificate", "key", "a client", (SIGN,)),
    ("dmp", "authority", "", "an authority's", (SIGN,)),
    ("psc", "authority", "", "an authority's", (SERVER,)),
    ("web", "client_authority", "", "an authority's", (AUTH,)),
    ("health", "list_authority", "", "an authority's", (SERVER,)),
    ("whitelist", "root", "", "an authority's", (SIGN,)),
)


@pytest.mark.parametrize(
    ("room", "certificate", "key", "need", "wrong"),
    [(*place[:4], wrong) for place in PLACES for wrong in place[4]],
)
def test_a_certificate_of_the_wrong_kind_is_said(
    config: Path, pki: Pki, room: str, certificate: str, key: str, need: str, wrong: str
) -> None:
    files = {certificate: pki.path(wrong)} | ({key: pki.key(wrong)} if key else {})
    faults = faults_of(put(config, room, **files), f"{room}.{certificate}")
    assert any(f"this is {WORDS[wrong]}, {need} one is needed" in words for words in faults), faults


def test_signature_and_authentication_exchanged_are_both_named(config: Path, pki: Pki) -> None:
    put(config, "dmp", client_certificate=pki.path(SIGN), client_key=pki.key(SIGN))
    put(
        config,
        "dmp",
        signature_certificate=pki.path("appliance_auth"),
        signature_key=pki.key("appliance_auth"),
    )
    assert examine_configuration(config).faults == (
        "dmp.client_certificate: this is an ORG SIGN certificate, an ORG AUTH_CLI one is needed (extKeyUsage lacks"
        " clientAuth)",
        "dmp.signature_certificate: this is an ORG AUTH_CLI certificate, an ORG SIGN one is needed (keyUsage lacks"
        " nonRepudiation)",
    )


def test_what_a_certificate_says_must_be_what_the_settings_say(config: Path, pki: Pki) -> None:
    put(config, "web", public_url="https://db9.example.fr/dicom-web-rs")
    put(config, "organisation", structure_id="1999999999")
    put(config, "psc", client_id="another")
    faults = examine_configuration(config).faults
    assert [words.partition(":")[0] for words in faults] == [
        "web.certificate",
        "dmp.client_certificate",
        "dmp.signature_certificate",
        "psc.client_certificate",
    ]
    put(
        config, "organisation", legal_entity_id="1750803447"
    )  # mode EJ/EG: the certificates of the legal entity
    assert len(examine_configuration(config).faults) == 2


def test_a_certificate_of_the_other_environment_is_refused(config: Path) -> None:
    put(config, "whitelist", environment="production")
    found = examine_configuration(config)
    refused = {words.partition(":")[0] for words in found.faults if "test environment" in words}
    assert refused == {
        *("web.certificate", "dmp.client_certificate", "dmp.signature_certificate", "psc.client_certificate"),
        *("whitelist.root", "whitelist.intermediate"),
    }
    assert [words.partition(":")[0] for words in found.warnings] == ["whitelist.proof_certificate"]


def test_root_and_intermediate_exchanged_are_said(config: Path, pki: Pki) -> None:
    put(config, "whitelist", root=pki.path("aci"), intermediate=pki.path("root"))
    faults = examine_configuration(config).faults
    assert any("the root (ACR) is needed" in words for words in faults)
    assert any("the intermediate (ACI) is needed" in words for words in faults)
    assert any(words.startswith("whitelist.intermediate: it was not issued by") for words in faults)


def test_warnings_are_printed_and_refuse_nothing(config: Path, pki: Pki) -> None:
    """An OU that is no SIRET: the ANS asks for one, and nobody has said that Pro Santé Connect refuses others."""
    put(config, "psc", client_certificate=pki.path("appliance_auth"), client_key=pki.key("appliance_auth"))
    text = config.read_text("utf-8").replace('hosting = "data-centre"\n', "")
    config.write_text(text, "utf-8")
    done = RUNNER.invoke(app, ["config", "check", "--config", str(config)])
    first, second, last = done.stdout.splitlines()
    assert done.exit_code == 0
    assert first.startswith("warning: psc.client_certificate: its OU is 1750803447: 3 and the SIRET")
    assert second.startswith("warning: deployment.hosting: not set")
    assert last == "the configuration can be used"
    done = RUNNER.invoke(app, ["config", "check", "--json", "--config", str(config)])
    assert {name: len(said) for name, said in json.loads(done.stdout).items()} == {"faults": 0, "warnings": 2}


def test_refused_deployments_are_refused_by_name(config: Path, pki: Pki) -> None:
    put(config, "deployment", hosting="office")
    (fault,) = examine_configuration(config).faults
    assert fault.startswith("deployment.proxy: cas d'usage #4 Applications dédiées (hors SI)")
    assert "« Exemple 2 d'architecture non acceptée »" in fault
    ours = pki.certificate("appliance_psc").subject.rfc4514_string()
    operator = re.search(r"OU=(\d+)", ours).group(1)  # type: ignore[union-attr]
    shared = {"proxy": "externalised", "proxy_operator": operator}
    put(config, "deployment", **shared, proxy_client_certificate=pki.path("appliance_psc"))
    assert examine_configuration(config).faults == ()
    row = f'{{ name = "RIS", client_id = "ris-simule", certificate = "{pki.path("appliance_psc")}" }}'
    text = config.read_text("utf-8").replace(
        'hosting = "office"', f'hosting = "office"\napplications = [{row}]'
    )
    config.write_text(text, "utf-8")
    faults = examine_configuration(config).faults
    assert any("« Exemple 1 d'architecture non acceptée »" in words for words in faults)
    own = "deployment.applications.0 (RIS): its CN is drimbox-simulee, it must be the Client_ID ris-simule"
    assert own in faults
    assert examine_configuration(config, "dicom").faults == ()  # no affair of that door


# --- the inventory


def test_the_inventory_has_every_certificate_with_its_end(config: Path, pki: Pki) -> None:
    done = RUNNER.invoke(app, ["certificates", "--json", "--config", str(config)])
    rows = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    named = {one.name for one in credentials_in_use(load_settings(config))}
    assert {row["setting"] for row in rows} == named
    (psc,) = [row for row in rows if row["setting"] == "psc.client_certificate" and row["place"] == "own"]
    certificate = pki.certificate("appliance_psc")
    assert psc["serial"] == f"{certificate.serial_number:x}"
    assert (psc["kind"], psc["level"], psc["role"]) == ("ORG AUTH_CLI", "ok", "PSC client")
    assert psc["not_after"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert {row["place"] for row in rows} == {"own", "chain", "authority"}
    assert [row["days_left"] for row in rows] == sorted(row["days_left"] for row in rows)


def at(pki: Pki, left: timedelta) -> datetime:
    """The instant at which the certificates of the appliance have so long to go."""
    return pki.certificate("appliance_psc").not_valid_after_utc - left


@pytest.mark.parametrize(
    ("left", "level", "status"), [(50 * DAY, "notice", 0), (5 * DAY, "critical", 0), (-DAY, "expired", 1)]
)
def test_people_see_what_ends_first(
    config: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch, left: timedelta, level: str, status: int
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(certificates_cli, "utc_now", lambda: at(pki, left))
    done = RUNNER.invoke(app, ["certificates", "--config", str(config)])
    lines = [line for line in done.stdout.splitlines() if line.startswith("│ ")]
    assert done.exit_code == status
    assert lines[0].split("│")[1].strip() == level
    assert "psc.client_certificate" in done.stdout


def test_a_certificate_that_cannot_serve_is_unusable_and_says_why(config: Path, pki: Pki) -> None:
    put(config, "psc", client_certificate=pki.path(SIGN), client_key=pki.key(SIGN))
    put(config, "audit", certificate=config.parent / "absent.pem", key=pki.key(AUTH))
    put(config, "dmp", client_key=pki.key(SERVER))
    done = RUNNER.invoke(app, ["certificates", "--json", "--config", str(config)])
    rows = {row["setting"]: row for row in json.loads(done.stdout) if row["place"] == "own"}
    assert done.exit_code == 1
    assert {name for name, row in rows.items() if row["level"] == "unusable"} == {
        *("psc.client_certificate", "audit.certificate", "dmp.client_certificate")
    }
    assert rows["dmp.client_certificate"]["reason"] == "the key does not match the certificate"
    assert rows["audit.certificate"]["reason"].endswith("absent.pem: No such file or directory")
    settings = load_settings(config)
    (fast,) = [row for row in inventory(settings, datetime.now(UTC)) if is_own(row, "dmp.client_certificate")]
    assert fast.level is Level.OK  # without its key


def is_own(row: Row, setting: str) -> bool:
    return row.place is Place.OWN and row.setting == setting


def test_what_was_not_given_to_this_process_is_unseen(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The worker has no key of the web door, an operator none at all: that is no alarm."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    put(config, "web", key="credential:web.key")
    put(config, "psc", client_certificate="credential:psc.pem")
    rows = inventory(load_settings(config), datetime.now(UTC), with_keys=True)
    (web,) = [row for row in rows if is_own(row, "web.certificate")]
    (psc,) = [row for row in rows if row.setting == "psc.client_certificate"]
    assert (web.level, psc.level) == (Level.OK, Level.UNSEEN)
    assert "was not given to this process" in psc.reason
    assert endings(load_settings(config), None, datetime.now(UTC)) == []


def test_every_probe_of_a_certificate_is_of_the_table(config: Path) -> None:
    settings = load_settings(put(config, "dicom", tls_port=11113, tls_certificate="x", tls_key="x",
                                 tls_client_authority="x"))  # fmt: skip
    settings = _with_internal(settings, config)
    probes = {one.probe for one in credentials_in_use(settings) if one.probe}
    assert {f"certificates:{name}" for name in probes} == {
        name for name in PROBES if name.startswith("certificates:")
    }


def _with_internal(settings: Settings, config: Path) -> Settings:
    put(config, "web", internal_certificate="x", internal_key="x")
    assert settings.web.internal_certificate is None
    return parse_settings(config.read_text("utf-8"))


# --- the alarms


class Look:
    """What the alarms see, and what they say."""

    def __init__(self) -> None:
        self.endings: list[Ending] = []
        self.said: list[tuple[str, str, dict[str, object]]] = []

    def __call__(self, _now: datetime) -> list[Ending]:
        return self.endings

    def say(self, event: str, loudness: str, **fields: object) -> None:
        self.said.append((loudness, event, fields))


@pytest.fixture
def look() -> Iterator[Look]:
    yield Look()


def rows_of(box: Any, *events: str) -> list[dict[str, Any]]:
    with box.transactions.reading() as transaction:
        since = box.now - 400 * DAY
        return [row.detail for event in events for row in transaction.traces.of_event(event, since)]


def test_each_level_of_a_certificate_has_one_row_whoever_looks(box: Any, look: Look) -> None:
    def alarms() -> CertificateAlarms:
        return CertificateAlarms(box.transactions, lambda: box.now, "worker:a", look, look.say)

    end = box.now + 50 * DAY
    look.endings = [Ending("ab", ("psc.client_certificate",), Level.NOTICE, end)]
    one = alarms()
    assert [one.run_due(), one.run_due(), alarms().run_due()] == [1, 0, 0]  # the last: after a restart
    look.endings = [Ending("ab", ("psc.client_certificate",), Level.WARNING, end)]
    box.now += 25 * DAY
    assert [one.run_due(), alarms().run_due()] == [1, 0]
    look.endings = [
        Ending("psc.client_certificate", ("psc.client_certificate",), Level.UNUSABLE, None, "gone")
    ]
    assert one.run_due() == 1
    assert [(row["level"], row["settings"]) for row in rows_of(box, "CERTIFICATE_ENDS")] == [
        ("notice", ["psc.client_certificate"]),
        ("warning", ["psc.client_certificate"]),
    ]
    assert rows_of(box, "CERTIFICATE_UNUSABLE")[0]["reason"] == "gone"
    assert [(loudness, event) for loudness, event, _ in look.said] == [
        *[("info", "certificate_ends")] * 3,
        *[("warning", "certificate_ends")] * 2,
        ("error", "certificate_unusable"),
    ]
    assert look.said[0][2] == {
        "setting": "psc.client_certificate",
        "state": "notice",
        "until": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "reason": None,
    }


def test_a_row_that_could_not_be_written_is_written_at_the_next_look(box: Any, look: Look) -> None:
    look.endings = [Ending("ab", ("psc.client_certificate",), Level.EXPIRED, box.now)]
    alarms = CertificateAlarms(box.transactions, lambda: box.now, "worker:a", look, look.say)
    writing, box.transactions.writing = box.transactions.writing, unavailable
    with pytest.raises(Unavailable):
        alarms.run_due()
    assert [loudness for loudness, _, _ in look.said] == ["error"]  # the log says it all the same
    box.transactions.writing = writing
    assert alarms.run_due() == 1


def unavailable() -> Any:
    raise Unavailable("the database is away")


def test_the_worker_tells_what_ends(config: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is put together from the settings: log and trace."""
    foundation = lay_foundation(load_settings(config))
    foundation.database.migrate()
    monkeypatch.setattr(certificate_alarms, "utc_now", lambda: at(pki, 5 * DAY))
    with structlog.testing.capture_logs() as lines:
        assert make_certificate_alarms(foundation, "worker:a").run_due() == 4
    foundation.database.close()
    assert {(line["log_level"], line["event"], line["state"]) for line in lines} == {
        ("error", "certificate_ends", "critical")
    }
    assert "psc.client_certificate" in {line["setting"] for line in lines}
    assert {name for line in lines for name in line} - {"log_level", "event"} <= logs.ALLOWED


def test_the_signer_of_the_list_in_force_is_in_the_inventory(config: Path, pki: Pki) -> None:
    loaded = SimpleNamespace(report=SimpleNamespace(signer=pki.certificate("list_signer")))
    mesh: Any = SimpleNamespace(loaded=lambda: loaded)
    rows = inventory(load_settings(config), at(pki, 50 * DAY), mesh=mesh)
    (signer,) = [row for row in rows if row.place is Place.SIGNER]
    assert (signer.setting, signer.level, signer.kind) == ("whitelist.url", Level.NOTICE, "ORG SIGN")
    assert signer.subject.startswith("CN=Liste Blanche DRIM-M, OU=318751275100020, ")


def test_a_certificate_that_many_settings_name_is_one_alarm(config: Path, pki: Pki) -> None:
    """The two uses of one client certificate, and no authority, which lasts longer."""
    found = endings(load_settings(config), None, at(pki, 20 * DAY))
    assert {one.level for one in found} == {Level.WARNING}
    assert {one.settings for one in found} == {
        ("audit.certificate", "dmp.client_certificate"),
        ("dmp.signature_certificate", "whitelist.proof_certificate"),
        ("mllp.tls_certificate", "web.certificate"),
        ("psc.client_certificate",),
    }
