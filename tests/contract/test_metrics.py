"""`/metrics`: one page from the files of all processes; what dashboard, alerts and README name is really there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dicom_store.places import Places
from dicom_store.status import Outcome
from drimbox.adapters import meter_files
from drimbox.adapters.meters import Meters, exchange_counter
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.domain import measures as m
from drimbox.entrypoints import health
from drimbox.entrypoints.measuring import IngestMeter, ReportMeter, ServeMeter, verdict_of
from drimbox.entrypoints.meter_keeping import keep_meters, meter_directory
from drimbox.entrypoints.metrics import MetricsPage
from drimbox.entrypoints.web import _gauges
from drimbox.settings.whole import load_settings
from fixtures.newest_database import bring_to_newest

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = re.compile(r"drimbox_[a-z0-9_]+")
MATCHERS = re.compile(r"(drimbox_[a-z0-9_]+)\{([^}]*)\}")


@pytest.fixture
def foundation(tmp_path: Path, toml: tuple[Path, str]) -> Iterator[Foundation]:
    text = re.sub(r"^root = .*$", f'root = "{tmp_path / "storage"}"', toml[1], count=1, flags=re.M)
    text = re.sub(
        r'^url = "sqlite.*$', f'url = "sqlite:///{tmp_path / "drimbox.sqlite"}"', text, count=1, flags=re.M
    )
    (tmp_path / "drimbox.toml").write_text(text, "utf-8")
    settings = load_settings(tmp_path / "drimbox.toml")
    settings.storage.root.mkdir(parents=True)
    made = lay_foundation(settings)
    bring_to_newest(made.database)
    yield made
    made.archive.close()
    made.database.close()


def work(meters: Meters) -> None:
    """Something of everything."""
    ingest = IngestMeter(meters, "dicom")
    ingest.taken(Outcome.STORED, 524_288, 0.004)
    ingest.taken(Outcome.DUPLICATE, 524_288, 0.5)
    ingest.refused(Outcome.OUT_OF_RESOURCES)
    meters.watch(m.ASSOCIATIONS, lambda: 3)
    meters.watch(m.REPORT_CONNECTIONS, lambda: 1)
    meters.tally(m.PEERS_REFUSED, "dicom").add()
    ReportMeter(meters).answered("mllp", "AA", 14_000, 0.02)
    exchange_counter(meters)("TD2.1a", "registered", 1.5)
    told = ServeMeter(meters).told
    told({"event": "RETRIEVAL_SERVED", "actor": "partner:10.0.0.9", "bytes": 100}, 0.002)
    told({"event": "RETRIEVAL_REFUSED", "actor": "partner:10.0.0.9", "code": "kos-unknown"}, None)
    told({"event": "HEALTH_FORBIDDEN", "actor": "probe:10.0.0.9", "code": "address-not-listed"}, None)


def page(foundation: Foundation) -> MetricsPage:
    view = health.HealthView(health.Shared(1), foundation.settings.health, records=None)  # type: ignore[arg-type]
    places = (Places(4), Places(4))
    return MetricsPage(foundation, lambda: _gauges(view, places))


def samples(foundation: Foundation) -> list[Sample]:
    text = page(foundation).text().decode("utf-8")
    return [one for family in text_string_to_metric_families(text) for one in family.samples]


def value(found: list[Sample], name: str, **labels: str) -> float:
    (one,) = [s for s in found if s.name == name and labels.items() <= s.labels.items()]
    return one.value


def names_and_labels(foundation: Foundation) -> dict[str, set[str]]:
    """Every name that a scrape may have, with its labels."""
    text = page(foundation).text().decode("utf-8")
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        suffixes = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for suffix in suffixes:
            known[name + suffix] = {label for one in family.samples for label in one.labels}
    for measure in m.MEASURES:
        for name in (measure.name, f"{measure.name}_bucket", f"{measure.name}_count"):
            if name in known:
                known[name] |= {*measure.labels, "node", "process"}
    known["drimbox_exams"] |= {"state", "rule"}
    known["drimbox_submissions"] |= {"kind", "state"}
    for name in ("drimbox_health_status", "drimbox_health_age_seconds"):
        known[name] |= {"node", "probe"}
    return known


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "systemd/grafana-dashboard.json").read_text("utf-8"))
    panels = [one for panel in dashboard["panels"] for one in (panel, *panel.get("panels", ()))]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = (ROOT / "systemd/prometheus-alerts.yml").read_text("utf-8")
    return asked + [found.replace("''", "'") for found in re.findall(r"^ +expr: '(.*)'$", rules, re.M)]


def test_a_scrape_has_what_every_process_counted(foundation: Foundation) -> None:
    other = Meters()
    work(other)
    meter_files.write(meter_directory(foundation.settings), "dicom", other.samples())
    foundation.meters.process = "web-0"
    work(foundation.meters)
    found = samples(foundation)
    assert value(found, "drimbox_ingest_bytes_total", process="dicom", door="dicom") == 524_288
    assert (
        value(found, "drimbox_ingest_refused_total", process="web-0", code="out-of-resources", status="A700")
        == 1
    )
    assert value(found, "drimbox_ingest_answer_seconds_bucket", process="dicom", le="0.005") == 1
    assert value(found, "drimbox_ingest_answer_seconds_count", process="dicom") == 2
    assert value(found, "drimbox_serve_requests_total", process="dicom", slug="kos-unknown") == 1
    assert value(found, "drimbox_up", process="dicom") == 1
    assert value(found, "drimbox_up", process="worker") == 0
    assert {one.labels["node"] for one in found if one.name == "drimbox_up"} == {
        meter_directory(foundation.settings).name
    }


@pytest.mark.parametrize("way", ["stopped", "silent", "damaged", "alien"])
def test_a_process_that_is_gone_or_talks_nonsense_harms_no_scrape(foundation: Foundation, way: str) -> None:
    directory = meter_directory(foundation.settings)
    other = Meters()
    work(other)
    meter_files.write(directory, "dicom", other.samples(), stopped=way == "stopped")
    file = directory / "dicom.json"
    said = json.loads(file.read_text("utf-8"))
    if way == "silent":
        file.write_text(json.dumps(said | {"instant": said["instant"] - meter_files.STALE}), "utf-8")
    elif way == "damaged":
        file.write_text(file.read_text("utf-8")[:-40], "utf-8")
    elif way == "alien":
        file.write_text(json.dumps(said | {"samples": [["drimbox_of_another_version", [], 1]]}), "utf-8")
    found = samples(foundation)
    assert value(found, "drimbox_up", process="dicom") == (1 if way == "alien" else 0)
    names = {one.name for one in found if one.labels.get("process") == "dicom"}
    assert "drimbox_ingest_associations_open" not in names  # a gauge of the dead says nothing
    assert ("drimbox_ingest_bytes_total" in names) == (way in ("stopped", "silent"))


def test_a_process_writes_its_numbers_at_the_start_and_at_the_end(foundation: Foundation) -> None:
    directory = meter_directory(foundation.settings)
    with keep_meters(foundation, "dicom"):
        deadline = time.monotonic() + 5
        while not (told := meter_files.read(directory)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [(one.process, one.alive) for one in told] == [("dicom", True)]
        work(foundation.meters)
    (last,) = meter_files.read(directory)
    assert not last.alive
    assert ["drimbox_ingest_bytes_total", ["dicom"], 524_288] in last.samples
    assert [path.name for path in directory.iterdir()] == ["dicom.json"]


def test_dashboard_and_alerts_ask_for_what_there_is(foundation: Foundation) -> None:
    work(foundation.meters)
    foundation.meters.process = "web-0"
    known, asked = names_and_labels(foundation), expressions()
    assert len(asked) > 50
    assert {name for expr in asked for name in NAME.findall(expr)} - set(known) == set()
    for expr in asked:
        assert [expr.count(left) for left in "([{"] == [expr.count(right) for right in ")]}"], expr
        for name, matchers in MATCHERS.findall(expr):
            labels = set(re.findall(r'([a-z_]+)(?:=~|!~|!=|=)"', matchers))
            assert labels - known[name] == set(), expr
        named = {
            label.strip()
            for group in re.findall(r"\b(?:by|without|on) \(([^)]*)\)", expr)
            for label in group.split(",")
        }
        assert named - {"le"} - set().union(*known.values()) == set(), expr
    used = {name for expr in asked for name in NAME.findall(expr)}
    shown = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in known}
    assert shown - {name.removesuffix("_bucket") for name in used} == set(), "nobody looks at these"


def test_the_readme_has_every_metric(foundation: Foundation) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("## Metrics")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(drimbox_[a-z0-9_]+)`", table))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names_and_labels(foundation)}
    assert named == shown


def test_no_label_may_hold_an_exam_a_patient_or_a_peer(foundation: Foundation) -> None:
    foundation.meters.process = "web-0"
    work(foundation.meters)
    labels = {label for one in samples(foundation) for label in one.labels}
    assert labels <= {
        *(
            "node",
            "process",
            "door",
            "outcome",
            "code",
            "status",
            "verdict",
            "transaction",
            "slug",
            "le",
            "queue",
        ),
        *("state", "rule", "kind", "probe", "version", "setting", "role", "place"),
    }


def test_an_instance_costs_less_than_three_microseconds(foundation: Foundation) -> None:
    ingest = IngestMeter(foundation.meters, "dicom")
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(1000):
            ingest.taken(Outcome.STORED, 524_288, 0.004)
        best = min(best, (time.perf_counter() - begun) / 1000)
    assert best < 3e-6


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"MSH|^~\\&|A\rMSA|AE|1\r", "AE"),
        (b"MSH#^~\\&#A\rMSA#AR#1\r", "AR"),
        (b"MSH|", "none"),
        (None, "none"),
    ],
)
def test_the_verdict_is_read_from_the_answer(answer: Any, verdict: str) -> None:
    assert verdict_of(answer) == verdict
