"""What each process counts and times, as one table: names by the rules of Prometheus, labels of few values only.

No label holds a patient, an exam, an address or what a peer may invent. Ingest, reports, publish and serve are what the
homologation looks at (facts/performance.md 3 and 4): how many, how much, how long, and why not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# Seconds: an answer on a LAN takes a millisecond, one of a national service up to a minute.
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric. `words`: its help; `bounds`: upper bounds of a histogram's buckets, in seconds."""

    name: str
    kind: Kind
    words: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _counter(name: str, words: str, *labels: str) -> Measure:
    return Measure(name, "counter", words, labels)


def _gauge(name: str, words: str, *labels: str) -> Measure:
    return Measure(name, "gauge", words, labels)


def _histogram(name: str, words: str, bounds: tuple[float, ...], *labels: str) -> Measure:
    return Measure(name, "histogram", words, labels, bounds)


INGEST_INSTANCES = _counter(
    "drimbox_ingest_instances_total",
    "Instances answered with success, by door and outcome: stored, duplicate",
    *("door", "outcome"),
)
INGEST_BYTES = _counter("drimbox_ingest_bytes_total", "Bytes of the data sets that were stored", "door")
INGEST_REFUSED = _counter(
    "drimbox_ingest_refused_total",
    "Instances refused, by door, reason and DIMSE status (PS3.4 B.2.3, hexadecimal)",
    *("door", "code", "status"),
)
INGEST_SECONDS = _histogram(
    "drimbox_ingest_answer_seconds",
    "From the command of an instance to the commit that its answer waits for",
    FAST,
    "door",
)
ASSOCIATIONS = _gauge("drimbox_ingest_associations_open", "DICOM associations open now")
PEERS_REFUSED = _counter(
    "drimbox_peers_refused_total", "Callers turned away, or that broke off, before anything was kept", "door"
)
MESSAGES = _counter(
    "drimbox_reports_messages_total",
    "Messages of the report doors by their answer: AA, AE, AR, none (an acknowledgement is not answered)",
    *("door", "verdict"),
)
MESSAGE_BYTES = _counter("drimbox_reports_bytes_total", "Bytes of these messages", "door")
ACK_SECONDS = _histogram(
    "drimbox_reports_ack_seconds", "From a whole message to its acknowledgement", FAST, "door"
)
REPORT_CONNECTIONS = _gauge("drimbox_reports_connections_open", "Connections of senders of reports open now")
ATTEMPTS = _counter(
    "drimbox_publish_attempts_total",
    "Exchanges with the DMP by transaction and outcome: registered, found, not-found, refused, no-answer, not-sent",
    *("transaction", "outcome"),
)
ATTEMPT_SECONDS = _histogram(
    "drimbox_publish_seconds", "Length of an exchange with the DMP", SLOW, "transaction"
)
RETRIEVALS = _counter(
    "drimbox_serve_requests_total",
    "Requests for images by door (partner, account), outcome (served, cut, refused) and slug of the refusal",
    *("door", "outcome", "slug"),
)
SERVED_BYTES = _counter("drimbox_serve_bytes_total", "Bytes of images that left", "door")
FIRST_BYTE = _histogram(
    "drimbox_serve_first_byte_seconds",
    "From a request for images to the first byte of its answer",
    FAST,
    "door",
)
RESIDENT = _gauge("drimbox_process_resident_bytes", "Memory that the process holds (RSS)")
CPU = _counter("drimbox_process_cpu_seconds_total", "Processor time of the process, user and system")
OPEN_FILES = _gauge("drimbox_process_open_files", "Descriptors that the process holds open")
THREADS = _gauge("drimbox_process_threads", "Threads of the process")
STARTED = _gauge("drimbox_process_start_time_seconds", "When the process started (Unix time)")

MEASURES: tuple[Measure, ...] = (
    *(INGEST_INSTANCES, INGEST_BYTES, INGEST_REFUSED, INGEST_SECONDS, ASSOCIATIONS, PEERS_REFUSED),
    *(MESSAGES, MESSAGE_BYTES, ACK_SECONDS, REPORT_CONNECTIONS, ATTEMPTS, ATTEMPT_SECONDS),
    *(RETRIEVALS, SERVED_BYTES, FIRST_BYTE, RESIDENT, CPU, OPEN_FILES, THREADS, STARTED),
)
BY_NAME = {measure.name: measure for measure in MEASURES}
