"""The log as JSON lines."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from orchd.maintenance.checkpoints import create
from orchd.maintenance.exporting import export, tail
from orchd.system import RealSystem
from support.tampering import query

SYSTEM = RealSystem()


def test_an_export_is_the_whole_log_in_order(state_url: str) -> None:
    lines = [json.loads(line) for line in export(state_url, system=SYSTEM)]
    stored = query(
        state_url,
        "SELECT position, stream, version, type, data, meta FROM events ORDER BY position",
    )
    assert [line["position"] for line in lines] == list(range(1, len(stored) + 1))
    for line, (position, stream, version, kind, data, meta) in zip(
        lines, stored, strict=True
    ):
        assert line["position"] == position
        assert (line["stream"], line["version"], line["type"]) == (stream, version, kind)
        assert line["data"] == json.loads(data)
        assert line["meta"] == json.loads(meta)
        assert line["recorded_at"].endswith("Z")


def test_an_export_can_begin_and_end_within_the_log(state_url: str) -> None:
    lines = export(state_url, system=SYSTEM, after=2, until=5)
    assert [json.loads(line)["position"] for line in lines] == [3, 4, 5]


def test_the_tail_is_the_end_of_the_log(state_url: str) -> None:
    whole = list(export(state_url, system=SYSTEM))
    assert list(tail(state_url, system=SYSTEM, count=3)) == whole[-3:]
    assert list(tail(state_url, system=SYSTEM, after=len(whole) - 2)) == whole[-2:]


@pytest.mark.timeout(30)
def test_a_followed_tail_goes_on_with_what_is_appended(state_url: str) -> None:
    whole = len(list(export(state_url, system=SYSTEM)))
    following = tail(state_url, system=SYSTEM, count=1, follow=True)
    assert json.loads(next(following))["position"] == whole
    create(state_url, system=SYSTEM)
    [added] = islice(following, 1)
    assert json.loads(added)["type"] == "checkpoint.created"
