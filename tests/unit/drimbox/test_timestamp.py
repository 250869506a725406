"""HL7 TS: offset, fraction, partial precision, the zone of the house."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp

PARIS = "Europe/Paris"


@pytest.mark.parametrize(
    ("written", "digits", "utc"),
    [
        ("20210108111700+0100", "20210108111700", datetime(2021, 1, 8, 10, 17, tzinfo=UTC)),
        ("20230227102827+0200", "20230227102827", datetime(2023, 2, 27, 8, 28, 27, tzinfo=UTC)),  # as given
        ("20210409094914.827+0100", "20210409094914", datetime(2021, 4, 9, 8, 49, 14, 827000, tzinfo=UTC)),
        ("20210108102500", "20210108102500", datetime(2021, 1, 8, 9, 25, tzinfo=UTC)),  # winter in Paris
        ("20210708102500", "20210708102500", datetime(2021, 7, 8, 8, 25, tzinfo=UTC)),  # summer
        ("202107081025Z", "202107081025", datetime(2021, 7, 8, 10, 25, tzinfo=UTC)),
        ("202107081025-05:30", "202107081025", datetime(2021, 7, 8, 15, 55, tzinfo=UTC)),
        ("2021070810", "2021070810", datetime(2021, 7, 8, 8, 0, tzinfo=UTC)),
        ("19790328", "19790328", datetime(1979, 3, 27, 23, 0, tzinfo=UTC)),
        ("197903", "197903", datetime(1979, 2, 28, 23, 0, tzinfo=UTC)),
        (" 1979 ", "1979", datetime(1978, 12, 31, 23, 0, tzinfo=UTC)),
    ],
)
def test_reads_what_senders_write(written: str, digits: str, utc: datetime) -> None:
    read = parse_timestamp(written, PARIS)
    assert (read.digits, read.at.astimezone(UTC)) == (digits, utc)
    assert read.at.utcoffset() is not None


def test_offset_of_the_sender_is_kept() -> None:
    assert parse_timestamp("20210108111700-0400", PARIS).at.utcoffset() == timedelta(hours=-4)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "{{idMessage}}",
        "202101081",
        "20211301",
        "20210230",
        "2021010824",
        "20210108111700+1500",
        "20210108111700+0160",
        "20210108.5",
        "2021-01-08",
        "00000101",
        "٢٠٢١",
    ],
)
def test_refuses_the_rest(written: str) -> None:
    with pytest.raises(InvalidTimestamp):
        parse_timestamp(written, PARIS)


def test_the_refusal_does_not_quote() -> None:
    with pytest.raises(InvalidTimestamp) as refusal:
        parse_timestamp("DUPONT", PARIS)
    assert "DUPONT" not in str(refusal.value)
