"""What counts as a result's cost."""

from __future__ import annotations

import pytest

from orchd_ops.metrics.usage import Usage, usage_of


def test_the_usage_of_the_messages_api_is_read() -> None:
    text = (
        '{"model":"m","cost_usd":0.5,"usage":{"input_tokens":1,"output_tokens":2,'
        '"cache_read_input_tokens":3,"cache_creation_input_tokens":4}}'
    )
    tokens = {"input": 1, "output": 2, "cache_read": 3, "cache_write": 4}
    assert usage_of(text) == Usage(model="m", tokens=tokens, cost_usd=0.5)


def test_tokens_may_stand_in_the_metadata_themselves() -> None:
    found = usage_of('{"model":"m","output_tokens":2}')
    assert found == Usage(model="m", tokens={"output": 2}, cost_usd=None)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        "[]",
        "{}",
        '{"model":"m"}',
        '{"model":3,"output_tokens":2}',
        '{"output_tokens":2}',
        '{"model":"m","output_tokens":-2}',
        '{"model":"m","output_tokens":true,"cost_usd":"much"}',
        '{"model":"m","cost_usd":' + "9" * 400 + "}",
    ],
)
def test_what_is_no_cost_counts_nothing(text: str | None) -> None:
    assert usage_of(text) is None


def test_a_long_model_name_is_cut() -> None:
    found = usage_of('{"model":"' + "m" * 1000 + '","output_tokens":2}')
    assert found is not None
    assert len(found.model) == 100
