"""Canonical JSON has one spelling for each value and loses nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd_eventstore import canonical_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


@given(VALUES)
def test_what_was_written_is_read_back(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(VALUES)
def test_writing_what_was_read_gives_the_same_text(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(TEXTS, st.integers()))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    reordered = dict(reversed(value.items()))
    assert canonical_json(reordered) == canonical_json(value)


def test_the_spelling_is_sorted_narrow_and_utf8() -> None:
    assert canonical_json({"b": [1, "é\0"], "a": None}) == r'{"a":null,"b":[1,"é\u0000"]}'


def test_integers_keep_every_digit() -> None:
    assert canonical_json(2**200) == str(2**200)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "\ud800"])
def test_values_without_a_spelling_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        canonical_json({"value": [value]})


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, [{True: 1}], {"a": {1, 2}}])
def test_what_json_would_silently_change_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_nesting_that_is_too_deep_is_a_bad_value() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        canonical_json(deep)
