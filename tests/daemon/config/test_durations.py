"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.durations import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("1.5m", 90),
        ("2h", 7_200),
        ("3d", 259_200),
        ("0s", 0),
        ("PT1H30M", 5_400),
        ("P1DT0.5S", 86_400.5),
        ("P2W", 1_209_600),
    ],
)
def test_a_duration_is_short_or_iso_8601(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "-1s",
        "1 s",
        "1h30",
        "P",
        "PT",
        "P1DT",
        "1y",
        "nan",
        "٣s",
        "99999999d",
    ],
)
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=3_000_000_000))
def test_a_formatted_duration_reads_back(milliseconds: int) -> None:
    seconds = milliseconds / 1_000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("512KiB", 524_288), ("32MiB", 33_554_432), ("1GB", 10**9), ("7B", 7)],
)
def test_a_size_has_a_decimal_or_binary_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1B", "1.5MiB", "1mb", "1TiB"])
def test_a_bad_size_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**40))
def test_a_formatted_size_reads_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
