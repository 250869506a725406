"""What `/metrics` says of the node itself: the whitelist, the certificates, the disk, the version."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Generic, TypeVar

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.certificate_inventory import inventory
from drimbox.membership import make_mesh
from whitelist.decision import State

log = structlog.get_logger(__name__)

IMAGES_EVERY = 600.0  # seconds between two sums over the index of the images
CERTIFICATES_EVERY = 300.0  # seconds between two readings of the certificates

T = TypeVar("T")


class Seldom(Generic[T]):
    """What is dear to know, made again once it is `seconds` old."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make, self._seconds = make, seconds
        self._made: tuple[float, T] | None = None

    def __call__(self) -> T:
        """What is known."""
        instant = time.monotonic()
        if self._made is None or instant - self._made[0] >= self._seconds:
            self._made = (instant, self._make())
        return self._made[1]


class NodeMetrics:
    """One object per process: the whitelist is verified again only when it changed."""

    def __init__(self, foundation: Foundation) -> None:
        self._foundation, self._mesh = foundation, make_mesh(foundation.settings)
        self._images = Seldom(self._count_images, IMAGES_EVERY)
        read = partial(inventory, foundation.settings, mesh=self._mesh)
        self._inventory = Seldom(lambda: read(utc_now()), CERTIFICATES_EVERY)

    def families(self) -> Iterable[Metric]:
        """The gauges of one scrape."""
        yield _about()
        yield from self._whitelist()
        yield from self._certificates()
        yield from self._disk()

    def _certificates(self) -> Iterable[Metric]:
        """To the end of each; of several authorities in one file, the first that ends. Expired = below 0."""
        ends = GaugeMetricFamily(
            "drimbox_certificate_ends_seconds",
            "Until a certificate ends, by setting, role and place: own, chain, authority, list signer",
            labels=("setting", "role", "place"),
        )
        now, first, unread = utc_now(), dict[tuple[str, str, str], float](), 0
        for row in self._inventory():
            if row.not_after is None:
                unread += 1
            else:
                key = (row.setting, row.role, row.place.value)
                left = (row.not_after - now).total_seconds()
                first[key] = min(first.get(key, left), left)
        for key, left in first.items():
            ends.add_metric(key, left)
        yield ends
        words = "Configured certificates that this process cannot read or use"
        yield GaugeMetricFamily("drimbox_certificates_unread", words, unread)

    def _whitelist(self) -> Iterable[Metric]:
        """State (1 for the one that holds), age and last result; -1 = never had."""
        snapshot, now = self._mesh.current(), utc_now()
        loaded = self._mesh.loaded()
        states = GaugeMetricFamily("drimbox_whitelist_state", "1 for the state that holds", labels=("state",))
        for state in State:
            states.add_metric((state.value,), int(state is snapshot.state))
        yield states
        success = snapshot.last_success
        age = (now - success).total_seconds() if success else -1.0
        yield GaugeMetricFamily(
            "drimbox_whitelist_age_seconds", "Since the last list that was accepted; -1 = never", age
        )
        kept = loaded.kept if loaded else None
        yield GaugeMetricFamily(
            "drimbox_whitelist_failures", "Retrievals in a row without a list", kept.failures if kept else 0
        )
        last = kept.last_attempt if kept else None
        yield GaugeMetricFamily(
            "drimbox_whitelist_attempt_age_seconds",
            "Since the list was last asked for; -1 = never",
            (now - last).total_seconds() if last else -1.0,
        )

    def _disk(self) -> Iterable[Metric]:
        storage = self._foundation.settings.storage
        free = GaugeMetricFamily("drimbox_disk_free_bytes", "Free bytes where the images are")
        try:
            volume = os.statvfs(storage.root)
            free.add_metric((), volume.f_bavail * volume.f_frsize)
        except OSError as error:  # the health check says what is wrong; the number is missing
            log.warning("disk_not_looked_at", reason=error.strerror)
        yield free
        yield GaugeMetricFamily(
            "drimbox_disk_floor_bytes",
            "Free bytes below which images are refused",
            storage.minimum_free_bytes,
        )
        sizes = GaugeMetricFamily("drimbox_images_bytes", "Bytes of the DICOM files kept, as indexed")
        with suppress(Unavailable):  # `drimbox_ledger_readable` says so
            sizes.add_metric((), self._images())
        yield sizes

    def _count_images(self) -> int:
        with self._foundation.transactions.reading() as transaction:
            return transaction.storage.kept_bytes()


def _about() -> Metric:
    about = GaugeMetricFamily("drimbox_build_info", "1: what runs here", labels=("version",))
    about.add_metric((version("drimbox"),), 1)
    return about
