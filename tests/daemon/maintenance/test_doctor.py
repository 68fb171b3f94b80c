"""The doctor sees each rule that is broken, and mends what follows from the log."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.config.settings import Settings
from orchd.ledger.opening import open_ledger
from orchd.maintenance.doctor import Finding, examine, is_safe_sqlite, repair
from orchd.system import RealSystem
from support.tampering import tamper

SYSTEM = RealSystem()


def failures(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.level == "fail"}


def examined(url: str, **options: Any) -> list[Finding]:
    return list(examine(Settings(database=url), system=SYSTEM, **options))


def test_a_sound_state_breaks_no_rule(state_url: str) -> None:
    found = examined(state_url)
    assert failures(found) <= {"database"}
    assert {finding.check for finding in found} == {
        "configuration",
        "state",
        "database",
        "log",
        "projections",
        "runs",
        "attempts",
        "workers",
        "bodies",
    }
    if state_url.startswith("sqlite"):
        assert failures(found) == set()


def test_a_server_that_does_not_wait_for_its_disk_is_named(postgres_url: str) -> None:
    open_ledger(
        postgres_url, system=SYSTEM, access="write", create=True, migrate=True
    ).close_blocking()
    found = [f for f in examined(postgres_url) if f.level == "fail"]
    assert any(f.detail.startswith("fsync is off") and f.hint for f in found)


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE tasks SET priority = 9 WHERE id = 'plain'", "projections"),
        ("UPDATE tasks SET attempts = 99 WHERE id = 'plain'", "attempts"),
        ("UPDATE events SET data = '[]' WHERE type = 'queue.paused'", "log"),
        ("UPDATE events SET type = 'task.requeued' WHERE type = 'task.released'", "runs"),
        ("UPDATE blobs SET size = 3", "bodies"),
    ],
)
def test_a_broken_rule_is_found(state_url: str, statement: str, check: str) -> None:
    tamper(state_url, statement)
    assert check in failures(examined(state_url))


def test_a_lost_body_is_a_warning(state_url: str) -> None:
    tamper(state_url, "DELETE FROM blobs")
    found = [finding for finding in examined(state_url) if finding.check == "bodies"]
    assert [finding.level for finding in found] == ["warn"]
    assert "large" in found[0].detail


def test_a_repair_mends_what_follows_from_the_log(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET priority = 9")
    assert "projections" in failures(examined(state_url))
    found = list(repair(Settings(database=state_url), system=SYSTEM))
    assert found[0].check == "repair"
    assert "projections" not in failures(found)


def test_a_missing_state_is_a_warning_and_a_bad_configuration_a_failure(
    sqlite_url: str,
) -> None:
    found = examined(sqlite_url, config_problem="worker.concurrency must be positive")
    assert [(f.check, f.level) for f in found] == [
        ("configuration", "fail"),
        ("state", "warn"),
    ]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 54, 0), True),
        ((3, 6, 23), True),
    ],
)
def test_releases_of_sqlite_that_corrupt_are_known(
    version: tuple[int, int, int], safe: bool
) -> None:
    assert is_safe_sqlite(version) is safe
