"""The tables of the ledger; rows are the plain objects of `flow/records.py`, mapped imperatively."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Integer, String, Table, Text
from sqlalchemy.orm import registry

from drimbox.adapters.database import UtcDateTime
from drimbox.flow.records import (
    AuditCursor,
    Commitment,
    Exam,
    Gate,
    Heartbeat,
    Message,
    Receipt,
    ReceivedReport,
    ReportParent,
    ReportStudy,
    Submission,
    TraceEntry,
    Visit,
)

mapper = registry()
metadata = mapper.metadata

exam_table = Table(
    "exam",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("rule", String(64)),
    Column("reason", Text),
    Column("revision", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("last_instance_at", UtcDateTime),
    Column("reconcile_at", UtcDateTime, index=True),
    Column("judged", String(80)),
    Column("withdrawn_by", String(16)),
    Column("held_key", String(64)),
    Column("approved_key", String(64)),
)

report_table = Table(
    "report",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("document_id", String(200), nullable=False, unique=True),
    Column("set_id", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("operation", String(2), nullable=False),
    Column("cda", String(64), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("door", String(16), nullable=False),
    Column("flags", JSON, nullable=False),
    Column("destined_to_dmp", Boolean, nullable=False),
    Column("patient_class", String(16), nullable=False),
    Column("sender", JSON, nullable=False),
    Column("patient_ins", String(15)),
    Column("patient_oid", String(64)),
    Column("visit", String(320), index=True),
    Column("author_structure", String(64)),
    Column("state", String(16), nullable=False),
    Column("replaced_by", String(200)),
)

report_study_table = Table(
    "report_study",
    metadata,
    Column("report_id", String(36), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True, index=True),
)

report_parent_table = Table(
    "report_parent",
    metadata,
    Column("report_id", String(36), primary_key=True),
    Column("document_id", String(200), primary_key=True, index=True),
)

message_table = Table(
    "message",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("received_at", UtcDateTime, nullable=False, index=True),
    Column("door", String(16), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("control_id", String(200), nullable=False),
    Column("content", String(64), nullable=False),
    Column("verdict", String(8), nullable=False),
    Column("code", String(64)),
    Column("reason", Text),
    Column("report_id", String(36), index=True),
    Column("sender", String(64)),
    Column("kind", String(16), nullable=False),
    Column("document", String(64)),
    Column("document_id", String(200), index=True),
    Column("answer", Text),
    Column("violations", JSON, nullable=False),
    Column("studies", JSON, nullable=False),
    Column("replay_of", String(36)),
    Column("purged_at", UtcDateTime),
)

visit_table = Table(
    "visit",
    metadata,
    Column("visit", String(320), primary_key=True),
    Column("feeding", String(8), nullable=False),
    Column("said_at", UtcDateTime, nullable=False),
    Column("message_id", String(36), nullable=False),
)

receipt_table = Table(
    "receipt",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("report_id", String(36), nullable=False, index=True),
    Column("operation", String(2), nullable=False),
    Column("control_id", String(200), nullable=False),
    Column("sender", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime, index=True),
    Column("status", String(1)),
    Column("error", String(255)),
    Column("attempts", Integer, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("given_up_at", UtcDateTime),
    Column("last_error", Text),
)

commitment_table = Table(
    "commitment",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("transaction_uid", String(64), nullable=False, index=True),
    Column("ae_title", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("key", String(64), nullable=False),
    Column("duplicate", Boolean, nullable=False),
    Column("asked", JSON, nullable=False),
    Column("due_at", UtcDateTime, index=True),
    Column("results", JSON(none_as_null=True)),
    Column("attempts", Integer, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("given_up_at", UtcDateTime),
    Column("last_error", Text),
)

submission_table = Table(
    "submission",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("content_key", String(64), nullable=False),
    Column("kos_uid", String(64), unique=True),
    Column("submission_set_uid", String(64), nullable=False, unique=True),
    Column("signature_uid", String(64)),
    Column("kos", String(64)),
    Column("signature", String(64)),
    Column("request", String(64), nullable=False),
    Column("vihf", Text, nullable=False),
    Column("report_id", String(36)),
    Column("patient_ins", String(15), nullable=False),
    Column("patient_oid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("replaces_id", String(36)),
    Column("target_entry", String(64)),
    Column("origin", String(16), nullable=False),
    Column("cause", String(64)),
    Column("entry_uuid", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("ending", String(32)),
    Column("endings", Integer, nullable=False),
    Column("due_at", UtcDateTime, index=True),
    Column("lease_owner", String(128)),
    Column("lease_until", UtcDateTime),
    Column("last_error", Text),
)

gate_table = Table(
    "gate",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
)

trace_table = Table(
    "trace",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("event", String(64), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("study_instance_uid", String(64), index=True),
    Column("submission_id", String(36)),
    Column("before", String(16)),
    Column("after", String(16)),
    Column("detail", JSON, nullable=False),
)

audit_cursor_table = Table(
    "audit_cursor",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("last_id", Integer, nullable=False),
    Column("missing", JSON, nullable=False),
    Column("lease_owner", String(128)),
    Column("lease_until", UtcDateTime),
    Column("failures", Integer, nullable=False),
    Column("failing_since", UtcDateTime),
    Column("last_error", Text),
    Column("due_at", UtcDateTime),
)

heartbeat_table = Table(
    "heartbeats",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("process", String(32), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("detail", JSON, nullable=False),
)

duty_table = Table(
    "duties",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

mapper.map_imperatively(Exam, exam_table)
mapper.map_imperatively(ReceivedReport, report_table)
mapper.map_imperatively(ReportStudy, report_study_table)
mapper.map_imperatively(ReportParent, report_parent_table)
mapper.map_imperatively(Message, message_table)
mapper.map_imperatively(Visit, visit_table)
mapper.map_imperatively(Receipt, receipt_table)
mapper.map_imperatively(Commitment, commitment_table)
mapper.map_imperatively(Submission, submission_table)
mapper.map_imperatively(Gate, gate_table)
mapper.map_imperatively(TraceEntry, trace_table)
mapper.map_imperatively(AuditCursor, audit_cursor_table)
mapper.map_imperatively(Heartbeat, heartbeat_table)
