"""`POST /reports`: a bare CDA from a RIS without HL7; same senders, same intake, same answers (design: contract)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import structlog
from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from drimbox.bootstrap import Foundation, make_reception, make_senders, utc_now
from drimbox.domain.errors import NoRoom, ReportRefused, Unavailable
from drimbox.domain.senders import SenderProfile, admitted
from drimbox.domain.violations import Violation
from drimbox.entrypoints.measuring import ReportMeter
from drimbox.entrypoints.metrics import Families, MetricsPage
from drimbox.flow.keep_report import Arrival

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"


def make_reports_app(foundation: Foundation, more: Families = tuple) -> Flask:
    """The WSGI application of the internal listener. `more`: what `/metrics` says beside the ledger."""
    app = Flask("drimbox")
    app.config["MAX_CONTENT_LENGTH"] = foundation.settings.web.max_report_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = foundation.settings.web.max_report_bytes
    reception = make_reception(foundation)
    senders = make_senders(foundation.settings)
    meter, page = ReportMeter(foundation.meters), MetricsPage(foundation, more)

    @app.post("/reports")
    def receive() -> tuple[Response, int]:
        if not _known(senders):  # before a byte of the body is read
            log.warning("report_refused", code="sender-unknown", peer=request.remote_addr)
            return _problem(403, "sender-unknown", "No sender of reports is known at your address."), 403
        content = request.get_data(cache=False)
        with _counted(meter, len(content)):
            arrival = Arrival(content, "http", request.remote_addr or "unknown", utc_now())
            accepted = reception.document(arrival)
        body = {
            "id": accepted.document_id,
            "studies": list(accepted.studies),
            "replay": accepted.replay,
            "warnings": _violations(accepted.warnings),
        }
        return jsonify(body), 200 if accepted.replay else 201

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(page.text(), content_type=CONTENT_TYPE_LATEST)

    @app.errorhandler(ReportRefused)
    def refused(refusal: ReportRefused) -> tuple[Response, int]:
        return _problem(422, refusal.code, refusal.reason, violations=_violations(refusal.violations)), 422

    @app.errorhandler(Unavailable)
    def unavailable(error: Unavailable) -> tuple[Response, int]:
        log.error("report_not_stored", reason=str(error))
        status, slug = (507, "insufficient-storage") if isinstance(error, NoRoom) else (503, "unavailable")
        response = _problem(status, slug, "The report cannot be kept now: send it again later.")
        response.headers["Retry-After"] = "30"
        return response, status

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        status = error.code or 500
        return _problem(status, error.name.lower().replace(" ", "-"), error.description or ""), status

    return app


@contextmanager
def _counted(meter: ReportMeter, size: int) -> Iterator[None]:
    """One answer, by the words of HL7v2."""
    started, verdict = perf_counter(), "AR"
    try:
        yield
        verdict = "AA"
    except ReportRefused:
        verdict = "AE"
        raise
    finally:
        meter.answered("http", verdict, size, perf_counter() - started)


def _known(senders: Iterable[SenderProfile]) -> bool:
    """Whether one of `mllp.senders` calls: by its address, and by its TLS certificate where it has one."""
    state = request.environ.get("asgi.scope", {}).get("state") or {}
    certificate = state.get("peer_certificate")
    digest = hashlib.sha256(certificate).hexdigest() if certificate else None
    return bool(request.remote_addr and admitted(senders, request.remote_addr, digest))


def _violations(violations: Iterable[Violation]) -> list[dict[str, str]]:
    return [
        {"rule": v.rule, "severity": v.severity, "message": v.message, "where": v.where, "clause": v.clause}
        for v in violations
    ]


def _problem(status: int, slug: str, detail: str, **more: Any) -> Response:
    """application/problem+json (RFC 9457), without internals or patient data."""
    body = {"type": slug, "title": slug.replace("-", " "), "status": status, "detail": detail}
    response = jsonify(body | more)
    response.content_type = PROBLEM
    return response
