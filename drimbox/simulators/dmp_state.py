"""What the simulated DMP holds: patients, documents, every request. Durable: committed before the answer.

SQLite in WAL mode, synchronous FULL: a SIGKILL of the simulator loses nothing that was answered.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

INS_TEST_OID = "1.2.250.1.213.1.4.10"
# Test identities of the official examples (drim-m-data 5.3, 8).
TEST_PATIENTS = ("279035121518989", "162018885045327", "274075176079430")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS patient (
    ins TEXT NOT NULL, oid TEXT NOT NULL, PRIMARY KEY (ins, oid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS submission_set (unique_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document (
    number INTEGER PRIMARY KEY, unique_id TEXT NOT NULL UNIQUE, entry_uuid TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL, patient_id TEXT NOT NULL, mime_type TEXT NOT NULL, type_code TEXT NOT NULL,
    class_code TEXT NOT NULL, confidentiality TEXT NOT NULL, event_codes TEXT NOT NULL,
    reference_ids TEXT NOT NULL, replaced_by TEXT, sha1 TEXT NOT NULL, size INTEGER NOT NULL,
    structure TEXT NOT NULL, submission_set TEXT NOT NULL, metadata BLOB NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS request (
    number INTEGER PRIMARY KEY, "transaction" TEXT NOT NULL, at TEXT NOT NULL, message_id TEXT,
    outcome TEXT NOT NULL, content_type TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS request_message ON request (message_id);
"""
_LISTED = (
    "unique_id, entry_uuid, status, patient_id, mime_type, type_code, class_code, confidentiality,"
    " event_codes, reference_ids, replaced_by, sha1, size"
)
_LISTS = ("confidentiality", "event_codes", "reference_ids")


@dataclass(frozen=True)
class Document:
    """A registered document: its listing fields, the publishing structure, its entry as XML, its bytes.

    patient_id: CX `INS^^^&oid&ISO^NH`. metadata: the ExtrinsicObject as submitted. sha1: 40 lower hex digits.
    """

    unique_id: str
    entry_uuid: str
    status: str
    patient_id: str
    mime_type: str
    type_code: str
    class_code: str
    confidentiality: tuple[str, ...]
    event_codes: tuple[str, ...]
    reference_ids: tuple[str, ...]
    sha1: str
    structure: str
    submission_set: str
    metadata: bytes
    content: bytes


@dataclass(frozen=True)
class RequestRecord:
    """A request as received, and what became of it."""

    transaction: str
    at: datetime
    message_id: str | None
    outcome: str
    content_type: str
    body: bytes


def patient_key(patient_id: str) -> tuple[str, str]:
    """(INS, OID of its authority) of a CX `INS^^^&oid&ISO^NH`; empty strings for what is absent."""
    components = [*patient_id.split("^"), "", "", "", ""]
    return components[0], [*components[3].split("&"), "", ""][1]


class DmpState:
    """The DMP's memory in one SQLite file. Safe between threads; another process may read it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        for ins in TEST_PATIENTS:
            self.add_patient(ins)

    def close(self) -> None:
        """Close the file; the state stays on disk."""
        with self._lock:
            self._db.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One write transaction: all of it is committed together, or nothing when an error escapes."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def add_patient(self, ins: str, oid: str = INS_TEST_OID) -> None:
        """Open a DMP for that identity (INS of 15 characters and the OID that assigns it)."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO patient VALUES (?, ?)", (ins, oid))

    def knows_patient(self, patient_id: str) -> bool:
        """Whether that CX names a patient who has a DMP."""
        query = "SELECT 1 FROM patient WHERE ins = ? AND oid = ?"
        with self._lock:
            return self._db.execute(query, patient_key(patient_id)).fetchone() is not None

    def knows_submission_set(self, unique_id: str) -> bool:
        """Whether a SubmissionSet.uniqueId was registered before."""
        query = "SELECT 1 FROM submission_set WHERE unique_id = ?"
        with self._lock:
            return self._db.execute(query, (unique_id,)).fetchone() is not None

    def add_submission_set(self, unique_id: str) -> None:
        """Remember a SubmissionSet.uniqueId. Raises sqlite3.IntegrityError when it is known."""
        with self._lock:
            self._db.execute("INSERT INTO submission_set VALUES (?)", (unique_id,))

    def add_document(self, document: Document) -> None:
        """Hold a document. Raises sqlite3.IntegrityError when its uniqueId or entryUUID is known."""
        row = {name: getattr(document, name) for name in Document.__dataclass_fields__}
        row |= {name: json.dumps(row[name]) for name in _LISTS} | {"size": len(document.content)}
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        with self._lock:
            self._db.execute(f"INSERT INTO document ({names}) VALUES ({marks})", row)  # noqa: S608 - field names

    def set_status(self, entry_uuid: str, status: str, replaced_by: str | None = None) -> None:
        """Change the availabilityStatus; `replaced_by` is the uniqueId of the replacing document."""
        query = "UPDATE document SET status = ?, replaced_by = coalesce(?, replaced_by) WHERE entry_uuid = ?"
        with self._lock:
            self._db.execute(query, (status, replaced_by, entry_uuid))

    def document(self, *, unique_id: str = "", entry_uuid: str = "") -> Document | None:
        """The document of that uniqueId, else of that entryUUID, whatever its status."""
        query = "SELECT * FROM document WHERE unique_id = ? OR entry_uuid = ?"
        with self._lock:
            row = self._db.execute(query, (unique_id, entry_uuid)).fetchone()
        if row is None:
            return None
        values = {name: row[name] for name in Document.__dataclass_fields__}
        return Document(**(values | {name: tuple(json.loads(row[name])) for name in _LISTS}))

    def record(self, request: RequestRecord) -> None:
        """Keep a request: raw body, Content-Type, outcome."""
        at = request.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row = (
            request.transaction,
            at,
            request.message_id,
            request.outcome,
            request.content_type,
            request.body,
        )
        query = (
            'INSERT INTO request ("transaction", at, message_id, outcome, content_type, body)'
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        with self._lock:
            self._db.execute(query, row)

    def documents(self) -> list[dict[str, object]]:
        """Every document, oldest first, with the fields of the control port.

        confidentiality, event_codes: codes. reference_ids: CXi values. replaced_by: uniqueId or None.
        """
        with self._lock:
            rows = self._db.execute(f"SELECT {_LISTED} FROM document ORDER BY number").fetchall()  # noqa: S608
        return [{**dict(row), **{name: json.loads(row[name]) for name in _LISTS}} for row in rows]

    def content(self, unique_id: str) -> bytes | None:
        """The bytes of a document, None when the DMP does not hold it."""
        with self._lock:
            row = self._db.execute(
                "SELECT content FROM document WHERE unique_id = ?", (unique_id,)
            ).fetchone()
        return None if row is None else bytes(row["content"])

    def requests(self) -> list[dict[str, object]]:
        """Every request, oldest first: transaction, at (UTC, `Z`), message_id, outcome."""
        query = 'SELECT "transaction", at, message_id, outcome FROM request ORDER BY number'
        with self._lock:
            return [dict(row) for row in self._db.execute(query).fetchall()]

    def request_body(self, message_id: str) -> tuple[str, bytes] | None:
        """(Content-Type, raw HTTP body) of the last request with that wsa:MessageID, None when unknown."""
        query = "SELECT content_type, body FROM request WHERE message_id = ? ORDER BY number DESC LIMIT 1"
        with self._lock:
            row = self._db.execute(query, (message_id,)).fetchone()
        return None if row is None else (str(row["content_type"]), bytes(row["body"]))
