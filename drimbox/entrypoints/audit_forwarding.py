"""The worker's job that passes the trace on to an audit record repository, from the settings."""

from __future__ import annotations

import random

import structlog

from drimbox.adapters.syslog_tls import SyslogEndpoint, SyslogTls
from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.domain.audit_events import Stage
from drimbox.domain.audit_message import AuditSource
from drimbox.domain.retry import RetryPolicy
from drimbox.flow.forward_audit import ForwardingAudit

RETRY = RetryPolicy(5, 300)  # seconds


def make_audit_forwarding(foundation: Foundation) -> ForwardingAudit | None:
    """What the worker calls to pass the trace on; None while no repository is set."""
    settings, room = foundation.settings, foundation.settings.audit
    if not room.host or room.authority is None:
        return None
    log, organisation = structlog.get_logger("drimbox.flow.forward_audit"), settings.organisation
    source = AuditSource(
        room.source_id or organisation.device_id,
        room.enterprise_site_id or organisation.structure_id,
        node_name(settings),
        settings.dicom.ae_title,
    )
    endpoint = SyslogEndpoint(
        room.host,
        room.port,
        room.authority,
        room.certificate,
        room.key,
        room.connect_timeout,
        room.answer_timeout,
        settings.keys.passphrase,
    )
    return ForwardingAudit(
        foundation.transactions,
        SyslogTls(endpoint, utc_now),
        Stage(source, settings.dmp.repository_url, settings.dmp.registry_url),
        RETRY,
        node_name(settings),
        random.random,
        utc_now,
        log.info,
        log.error,
    )
