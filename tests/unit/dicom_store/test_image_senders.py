"""senders: who may call the DICOM door, what does not fit of the others, and how the settings say it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dicom_store.admission import Rejection, Terms
from dicom_store.senders import Misfit, Sender, callers, misfit
from dicom_store.sink import Peer
from drimbox.entrypoints.image_senders import make_image_senders
from drimbox.settings.dicom import DicomSettings
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import parse_settings
from fixtures.configuration import configuration

PIN, OTHER_PIN = "a" * 64, "b" * 64


def row(*networks: str, title: str = "CT1", pins: tuple[str, ...] = ()) -> Sender:
    return Sender(title, tuple(map(ip_network, networks)), frozenset(pins))


def peer(address: str = "10.0.0.5", title: str = "CT1", pin: str | None = None) -> Peer:
    return Peer(title, address, "an association", pin)


# --- the decision ---


@pytest.mark.parametrize(
    ("titles", "senders", "caller", "expected"),
    [
        ((), (), peer(), Misfit.TITLE),
        (("CT1",), (), peer(), None),
        (("CT1",), (), peer(title="ct1"), Misfit.TITLE),
        (("CT1",), (row(title="CT2"),), peer(), None),
        (("CT2",), (row("10.0.0.5"),), peer(title="CT3"), Misfit.TITLE),
        ((), (row(),), peer(), None),
        ((), (row("10.0.0.5"),), peer(), None),
        ((), (row("10.0.0.5"),), peer("10.0.0.6"), Misfit.ADDRESS),
        (("CT1",), (row("10.0.0.5"),), peer("10.0.0.6"), Misfit.ADDRESS),
        (("CT1",), (row(pins=(PIN,)),), peer(), Misfit.CLEAR),
        ((), (row(pins=(PIN,)),), peer(pin=PIN), None),
        ((), (row(pins=(PIN,)),), peer(pin=OTHER_PIN), Misfit.CERTIFICATE),
        ((), (row(pins=(PIN, OTHER_PIN)),), peer(pin=OTHER_PIN), None),
        ((), (row("10.0.0.5", pins=(PIN,)),), peer("10.0.0.6", pin=PIN), Misfit.ADDRESS),
        ((), (row("10.0.0.5", pins=(PIN,)),), peer(pin=OTHER_PIN), Misfit.CERTIFICATE),
        ((), (row("10.0.0.5"), row("10.1.0.0/16")), peer("10.1.2.3"), None),
        ((), (row("10.0.0.5"), row(pins=(PIN,))), peer("10.1.2.3", pin=PIN), None),
        ((), (row("10.0.0.5"), row(pins=(PIN,))), peer("10.1.2.3"), Misfit.CLEAR),
        ((), (row("10.0.0.5", pins=(PIN,)), row("10.0.0.6")), peer("10.0.0.5"), Misfit.CLEAR),
        ((), (row("10.0.0.5"),), peer(pin=PIN), None),
    ],
)
def test_who_fits(
    titles: tuple[str, ...], senders: tuple[Sender, ...], caller: Peer, expected: Misfit | None
) -> None:
    assert misfit(titles, senders, caller) is expected


@pytest.mark.parametrize(
    ("network", "address", "inside"),
    [
        ("10.0.0.0/24", "10.0.0.255", True),
        ("10.0.0.0/24", "10.0.1.0", False),
        ("10.0.0.5", "::ffff:10.0.0.5", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "10.0.0.5", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_networks_hold_addresses_of_both_kinds(network: str, address: str, inside: bool) -> None:
    assert row(network).is_at(address) is inside


def test_what_is_no_address_is_nowhere() -> None:
    assert row().is_at("")
    with pytest.raises(ValueError, match="does not appear to be"):
        row("0.0.0.0/0").is_at("")


def test_who_may_call_in_clear_from_here() -> None:
    senders = (row("10.0.0.5"), row("127.0.0.1", title="HERE"), row(pins=(PIN,), title="SECRET"))
    assert callers(("ANY", "CT1"), senders, "127.0.0.1") == ("ANY", "HERE")
    assert callers(("ANY", "CT1"), senders, "10.0.0.5") == ("ANY", "CT1")
    assert callers((), senders, "10.9.9.9") == ()


@pytest.mark.parametrize(
    ("caller", "rejection", "words"),
    [
        (peer(title="CT2"), Rejection.CALLING, "the calling AE title is not known"),
        (peer("10.0.0.6"), Rejection.ADDRESS, "the calling AE title is not known at this address"),
        (peer(), Rejection.CLEAR, "the calling AE title is known over TLS only"),
        (
            peer(pin=OTHER_PIN),
            Rejection.CERTIFICATE,
            f"the calling AE title is not known with certificate {OTHER_PIN}",
        ),
    ],
)
def test_each_misfit_is_a_permanent_rejection_with_its_reason(
    caller: Peer, rejection: Rejection, words: str
) -> None:
    """PS3.8 Table 9-21: rejected-permanent, service-user, calling-AE-title-not-recognized."""
    rows = (row("10.0.0.5", pins=(PIN,)),)
    terms = Terms("OURS", frozenset({"CT1"}), 1, 1, 1, open_sink=_nobody, senders=rows)
    assert terms.judge(1, "OURS", caller) is rejection
    assert (rejection.code, rejection.said_of(caller)) == ((1, 1, 3), words)
    assert terms.judge(1, "OTHER", caller) is Rejection.CALLED, (
        "a wrong called title tells nothing of the rows"
    )


def _nobody(_peer: Peer) -> Any:
    raise AssertionError


# --- the settings ---


def dicom(**changes: Any) -> DicomSettings:
    return parse_settings(configuration(Path("/srv"), dicom=changes)).dicom


TLS = {"tls_port": 2762, "tls_certificate": "x", "tls_key": "x", "tls_client_authority": "x"}


def test_rows_of_the_settings() -> None:
    rows = [
        {"ae_title": " CT1 ", "addresses": ["10.0.0.7/24"]},
        {"ae_title": "CT1", "certificate_sha256": [":".join(["AB"] * 32)]},
    ]
    assert make_image_senders(dicom(senders=rows, **TLS)) == (
        row("10.0.0.0/24"),
        row(pins=("ab" * 32,)),
    )
    assert make_image_senders(dicom()) == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"addresses": ["10.0.0.300"]}, "dicom.senders.0.addresses: "),
        ({"ae_title": ""}, "dicom.senders.0.ae_title: "),
        ({"ae_title": "  "}, "dicom.senders.0.ae_title: "),
        ({"ae_title": "A" * 17}, "dicom.senders.0.ae_title: "),
        ({"ae_title": "CT\\1"}, "dicom.senders.0.ae_title: "),
        ({"ae_title": "CT\t1"}, "dicom.senders.0.ae_title: "),
        ({"ae_title": "ÉCHO"}, "dicom.senders.0.ae_title: "),
        ({"certificate_sha256": ["ab"]}, "dicom.senders.0.certificate_sha256: "),
        ({"certificate_sha256": [""]}, "dicom.senders.0.certificate_sha256: "),
        ({"certificate_sha256": [PIN, "g" * 64]}, "dicom.senders.0.certificate_sha256: "),
        ({"typo": 1}, "dicom.senders.0.typo: unknown key"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        dicom(senders=[{"ae_title": "CT1", **changes}], **TLS)
    assert [one[: len(fault)] for one in caught.value.faults] == [fault]


def test_a_certificate_needs_a_tls_port_and_every_fault_is_said() -> None:
    with pytest.raises(ConfigurationError) as caught:
        dicom(senders=[{"ae_title": "CT1", "certificate_sha256": [PIN]}], peers=[_PEER, _PEER])
    (fault,) = caught.value.faults
    assert "two peers of the same ae_title" in fault
    assert "senders.0 (CT1) has a certificate_sha256, and there is no tls_port" in fault


_PEER = {"ae_title": "CT1", "host": "10.0.0.5", "port": 104}


def test_titles_that_may_call_from_anywhere_are_ae_titles_too() -> None:
    assert dicom(calling_ae_titles=["a ct [1]~"]).calling_ae_titles == ("a ct [1]~",)
    with pytest.raises(ConfigurationError) as caught:
        dicom(calling_ae_titles=["CT1", ""])
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["dicom.calling_ae_titles.1"]
