"""A replay that was interrupted goes on where it was, but only on the same log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance import resuming
from orchd.maintenance.difference import Difference
from orchd.maintenance.replay import Options, check, mend
from orchd.maintenance.resuming import CHECK, MEND, Record, Resumption
from orchd.system import RealSystem
from support.tampering import query, tamper

SYSTEM = RealSystem()


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


@pytest.fixture(autouse=True)
def record_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the records of PostgreSQL states below the test's own directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many parts of a small log."""
    monkeypatch.setattr("orchd.maintenance.replay.SPAN_EVENTS", 4)
    monkeypatch.setattr("orchd.maintenance.resuming.SAVE_SECONDS", 0.0)


class Run:
    """One replay, and what it told of itself."""

    def __init__(self, url: str, mode: str = CHECK, system: Any = SYSTEM) -> None:
        self.url = url
        self.system = system
        self.mends = mode == MEND
        self.resumption = Resumption(url, system, mode)
        self.resumed: list[Record] = []
        self.examined: list[int] = []

    def all(self, until: Callable[[int, int], bool] | None = None) -> list[Difference]:
        """Replay; `until` ends it in the middle, given how much is done of how much."""

        def told(what: str, done: int, total: int | None) -> None:
            assert total is not None
            self.examined.append(done)
            if until is not None and until(done, total):
                raise Interrupted

        options = Options(
            jobs=1,
            progress=told,
            resumption=self.resumption,
            resumed=self.resumed.append,
        )
        work = mend if self.mends else check
        return list(work(self.url, system=self.system, options=options))


def halfway(done: int, total: int) -> bool:
    return done * 2 >= total


def interrupt(url: str, mode: str = CHECK) -> Run:
    """Begin a replay and end it in the middle."""
    run = Run(url, mode)
    with pytest.raises(Interrupted):
        run.all(halfway)
    assert run.resumption.path.exists()
    return run


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize("mode", [CHECK, MEND])
def test_an_interrupted_replay_goes_on_where_it_was(state_url: str, mode: str) -> None:
    first = interrupt(state_url, mode)
    second = Run(state_url, mode)
    assert second.all() == []
    [record] = second.resumed
    assert record.done
    assert min(second.examined) > first.examined[0]
    assert not second.resumption.path.exists()
    third = Run(state_url, mode)
    third.all()
    assert third.resumed == []


@pytest.mark.usefixtures("small_spans")
def test_what_differed_before_the_interruption_is_found_again(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET priority = 77")
    whole = {str(one) for one in Run(state_url).all()}
    interrupt(state_url)
    resumed = Run(state_url)
    assert {str(one) for one in resumed.all()} == whole


@pytest.mark.usefixtures("small_spans")
def test_nothing_is_left_wrong_by_a_mending_in_two_parts(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET priority = 77")
    tamper(state_url, "UPDATE counters SET value = 5")
    interrupt(state_url, MEND)
    resumed = Run(state_url, MEND)
    resumed.all()
    assert len(resumed.resumed) == 1
    assert Run(state_url).all() == []


def _change_release(url: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resuming, "release", lambda: "another")


def _change_commit(url: str, patch: pytest.MonkeyPatch) -> None:
    # Another log under the same name: its commits have other hashes.
    tamper(url, "UPDATE commits SET hash = hash || '0'")


def _change_database(url: str, patch: pytest.MonkeyPatch) -> None:
    if is_sqlite(url):
        path = sqlite_path(url)
        shutil.copy(path, f"{path}.copy")
        path.unlink()
        Path(f"{path}.copy").rename(path)
    else:
        # What a database that was dropped and made again would say.
        patch.setattr(resuming, "_DATABASE_ID", "SELECT 1")


def _damage_record(url: str, patch: pytest.MonkeyPatch) -> None:
    Resumption(url, SYSTEM, CHECK).path.write_bytes(b'{"log":')


def _forget(url: str, patch: pytest.MonkeyPatch) -> None:
    Resumption(url, SYSTEM, CHECK).forget()


def _wait_a_day(url: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resuming, "AGE_SECONDS_MAX", 0.0)


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize(
    "change",
    [
        _change_release,
        _change_commit,
        _change_database,
        _damage_record,
        _forget,
        _wait_a_day,
    ],
)
def test_a_record_that_may_be_of_another_log_counts_for_nothing(
    state_url: str,
    change: Callable[[str, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(state_url)
    change(state_url, monkeypatch)
    again = Run(state_url)
    again.all()
    assert again.resumed == []


@pytest.mark.usefixtures("small_spans")
def test_a_check_does_not_go_on_with_a_mending(state_url: str) -> None:
    interrupt(state_url, MEND)
    checking = Run(state_url)
    checking.all()
    assert checking.resumed == []


@pytest.mark.usefixtures("small_spans")
def test_what_was_not_looked_at_before_the_interruption_is_looked_at(
    state_url: str,
) -> None:
    interrupt(state_url)
    last = query(state_url, "SELECT max(id) FROM tasks")[0][0]
    tamper(state_url, "UPDATE tasks SET priority = 77 WHERE id = ?", (last,))
    assert [one.row for one in Run(state_url).all()] == [last]


@pytest.mark.usefixtures("small_spans")
def test_a_replay_goes_on_without_a_place_for_its_record(
    state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Path("/proc/nowhere/record")
    monkeypatch.setattr("orchd.config.places.replay_record", lambda *_: nowhere)
    assert Run(state_url).all() == []
