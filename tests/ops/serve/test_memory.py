"""The daemon's memory is looked through once, when nobody waits for its start any more."""

import pytest

from orchd_ops.serve import memory
from support.waiting import until


async def test_a_start_does_not_wait_for_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    monkeypatch.setattr(memory, "settle", lambda: looks.append(None))
    monkeypatch.setattr(memory, "SETTLE_SECONDS", 0.01)
    memory.settle_soon()
    assert not looks
    await until(lambda: bool(looks))
