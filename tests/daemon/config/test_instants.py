"""Instants as people write them."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.instants import format_instant, parse_instant, parse_past, parse_rfc3339

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-24T09:30:00Z", 1_795_512_600 * SECOND),
        ("2026-11-24T10:30:00+01:00", 1_795_512_600 * SECOND),
        ("2026-11-24 09:30:00.25z", 1_795_512_600 * SECOND + 250_000),
        ("2026-11-24T09:30:00.1234567Z", 1_795_512_600 * SECOND + 123_456),
    ],
)
def test_rfc_3339_names_one_instant(text: str, instant: int) -> None:
    assert parse_rfc3339(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T09:30:00",
        "2026-13-24T09:30:00Z",
        "1969-12-31T23:59:59Z",
        "2026-11-24T09:30:00+25:00",
        "tomorrow",
        "+",
        "+5",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_what_names_no_instant_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time such as"):
        parse_instant(text, NOW)


def test_relative_times_count_from_now() -> None:
    assert parse_instant("now", NOW) == NOW
    assert parse_instant("+5m", NOW) == NOW + 300 * SECOND
    assert parse_instant("-2h", NOW) == NOW - 7_200 * SECOND


def test_a_duration_in_a_filter_means_that_long_ago() -> None:
    assert parse_past("2h", NOW) == NOW - 7_200 * SECOND
    assert parse_past("1970-01-01T00:00:01Z", NOW) == SECOND


@given(st.integers(min_value=0, max_value=253_402_300_799_999_999))
def test_a_formatted_instant_reads_back(instant: int) -> None:
    assert parse_rfc3339(format_instant(instant)) == instant


@given(st.integers(-(2**63), 2**63))
def test_an_instant_is_written_to_the_microsecond_and_no_longer_than_needed(
    instant: int,
) -> None:
    first = -62_135_596_800 * SECOND
    last = 253_402_300_800 * SECOND - 1
    moment = datetime(1970, 1, 1) + timedelta(microseconds=max(first, min(instant, last)))
    text = moment.isoformat()
    if moment.microsecond:
        text = text.rstrip("0")
    assert format_instant(instant) == text + "Z"
