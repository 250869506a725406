"""The worker's job that sends business acknowledgements to the senders' own doors, from the settings."""

from __future__ import annotations

import random

import structlog

from drimbox.adapters.mllp_client import MllpClient
from drimbox.bootstrap import Foundation, make_senders, node_name, utc_now
from drimbox.domain.retry import RetryPolicy
from drimbox.flow.send_receipts import SendingReceipts


def make_receipts(foundation: Foundation) -> SendingReceipts:
    """What the worker calls for business acknowledgements that are due."""
    room, log = foundation.settings.mllp, structlog.get_logger("drimbox.flow.send_receipts")
    return SendingReceipts(
        foundation.transactions,
        MllpClient(),
        {sender.name: sender for sender in make_senders(foundation.settings)},
        room.application,
        room.facility,
        RetryPolicy(30, 600),
        f"worker:{node_name(foundation.settings)}",
        random.random,
        utc_now,
        log.info,
        log.error,
    )
