"""The doctor sees each rule that is broken, and no other, and mends what can be mended."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchd.config import places
from orchd.config.settings import ExecutorSettings, Settings
from orchd.ledger.locking import WriterLock
from orchd.ledger.opening import open_ledger
from orchd.ledger.rows import task_row
from orchd.ledger.urls import sqlite_path
from orchd.maintenance import database_checks, erasing
from orchd.maintenance.checkpoints import default_directory
from orchd.maintenance.database_checks import is_safe_sqlite
from orchd.maintenance.doctor import CHECKS, examine, repair
from orchd.maintenance.findings import Finding
from orchd.maintenance.folding import TASKS, StoredEvent, expect
from orchd.processes.marks import run_mark
from orchd.processes.table import MARK_VARIABLE
from orchd.system import RealSystem
from orchd.tasks import events as e
from orchd_eventstore import Append, Blob, EventStore, NewEvent
from support.tampering import connected, query, tamper

SYSTEM = RealSystem()
HARMLESS = {
    # The server of the tests does not wait for its disk.
    "fsync is off",
    "full_page_writes is off",
}


@pytest.fixture(autouse=True)
def places_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short paths for sockets, and checkpoints below them."""
    with tempfile.TemporaryDirectory(prefix="orchd-") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        monkeypatch.setenv("XDG_STATE_HOME", directory)
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        yield Path(directory)


def examined(url: str, **options: Any) -> list[Finding]:
    found = list(examine(Settings(database=url), system=SYSTEM, **options))
    return [f for f in found if not any(f.detail.startswith(text) for text in HARMLESS)]


def repaired(url: str) -> list[Finding]:
    found = list(repair(Settings(database=url), system=SYSTEM))
    return [f for f in found if not any(f.detail.startswith(text) for text in HARMLESS)]


def broken(findings: list[Finding]) -> dict[str, str]:
    """Return check -> worst level, of the checks that are not content."""
    levels = ("warn", "fail")
    return {
        finding.check: level
        for level in levels
        for finding in findings
        if finding.level == level
    }


def test_a_sound_state_breaks_no_rule_and_every_check_looks(state_url: str) -> None:
    found = examined(state_url)
    assert broken(found) == {}, found
    looked = {finding.check for finding in found}
    expected = {"configuration", "state", *CHECKS}
    assert looked == expected - ({"disk"} if state_url.startswith("postgres") else set())
    assert len(found) == len({(f.check, f.detail) for f in found})


def test_a_server_that_does_not_wait_for_its_disk_is_named(postgres_url: str) -> None:
    open_ledger(
        postgres_url, system=SYSTEM, access="write", create=True, migrate=True
    ).close_blocking()
    found = list(examine(Settings(database=postgres_url), system=SYSTEM))
    failures = {f.detail.partition(":")[0]: f.hint for f in found if f.level == "fail"}
    assert failures.keys() == {"fsync is off", "full_page_writes is off"}
    assert all(failures.values())


def test_programs_and_targets_that_are_not_there_are_named(
    sqlite_state: str, tmp_path: Path
) -> None:
    script = tmp_path / "check.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)

    def command(name: str, program: str) -> ExecutorSettings:
        return ExecutorSettings(
            name=name, type="command", argv=(program,), cwd=str(tmp_path)
        )

    executors = {
        "there": command("there", "sh"),
        "beside": command("beside", "./check.sh"),
        "missing": command("missing", "no-such-program"),
        "path": command("path", "./missing.sh"),
        "target": ExecutorSettings(name="target", type="python", target="nonsense"),
    }
    settings = Settings(database=sqlite_state, executors=executors)
    told = [f for f in examine(settings, system=SYSTEM) if f.check == "programs"]
    assert [(f.level, f.detail) for f in told[:2]] == [
        ("warn", "executors.missing: there is no program no-such-program"),
        ("warn", "executors.path: there is no program ./missing.sh"),
    ]
    assert (told[2].level, len(told)) == ("fail", 3)
    assert "executors.target.target must have the form" in told[2].detail


# --- one broken rule at a time --------------------------------------------------------


def store_of(url: str) -> Any:
    return open_ledger(url, system=SYSTEM, access="write", create=False, migrate=False)


def forge(url: str, task_id: str, *events: e.TaskEvent, gap: int = 0) -> None:
    """Append what no daemon would, with a row that it adds up to: only its rule breaks."""
    if gap:
        tamper(url, "UPDATE tasks SET version = version + ? WHERE id = ?", (gap, task_id))
    ledger = store_of(url)
    store: EventStore = ledger.store
    stream = store.read_stream(f"task-{task_id}")
    before = stream[-1].version + gap
    meta = e.encode(e.EventMeta(schema=1, at=SYSTEM.now()))
    new = [NewEvent(e.event_name(event), e.encode(event), meta) for event in events]
    history = [StoredEvent(s.stream, s.version, s.type, s.data, s.meta) for s in stream]
    history += [
        StoredEvent(f"task-{task_id}", before + n, event.type, event.data, event.meta)
        for n, event in enumerate(new, start=1)
    ]
    old = expect(TASKS, task_id, history[: len(stream)]).task
    state = expect(TASKS, task_id, history).task
    assert state is not None
    assert old is not None
    counters: dict[str, int] = {}
    for event in new:
        counters[f"events/{event.type}"] = counters.get(f"events/{event.type}", 0) + 1
    for task, delta in ((old, -1), (state, 1)):
        name = f"queue/{task.queue}/{task.status.value}"
        counters[name] = counters.get(name, 0) + delta
    item = Append(
        stream=f"task-{task_id}",
        expected_version=before,
        events=new,
        projection="tasks",
        row=task_row(state),
        counters=counters,
    )
    commit = store.append([item], command_id=SYSTEM.new_id())
    assert commit.first_position is not None, commit
    ledger.close_blocking()


def _chain(url: str) -> None:
    # It means the same, but it is not what was written.
    tamper(url, "UPDATE events SET meta = replace(meta, '\"schema\":1', '\"schema\": 1')")


def _commits(url: str) -> None:
    first = "(SELECT min(last_position) FROM commits)"
    tamper(url, f"UPDATE commits SET events = events + 1 WHERE last_position = {first}")


def _head(url: str) -> None:
    tamper(url, "UPDATE log_head SET recorded_at = NULL")


def _gap(url: str) -> None:
    forge(url, "plain", e.TaskLateResultRejected(token=1, run=1, report="x"), gap=2)


def _row(url: str) -> None:
    tamper(url, "UPDATE tasks SET priority = 9 WHERE id = 'plain'")


def _ready(url: str) -> None:
    tamper(url, "DELETE FROM ready")


def _timers(url: str) -> None:
    tamper(url, "UPDATE timers SET due_at = 5")


def _counter(url: str) -> None:
    tamper(url, "UPDATE counters SET value = value + 1 WHERE name LIKE ?", ("events/%",))


def _version(url: str, task_id: str) -> int:
    text = f"SELECT version FROM tasks WHERE id = '{task_id}'"
    version: int = query(url, text)[0][0]
    return version


def _run_twice(url: str) -> None:
    version = _version(url, "dead")
    started = e.TaskStarted(
        run=2, attempt=1, phase="execute", token=version + 2, worker="w"
    )
    again = msgspec.structs.replace(started, run=3, token=version + 3, attempt=2)
    failed = e.TaskFailed(run=3, error_class="exception", error="x", fingerprint="")
    forge(url, "dead", e.TaskRequeued(round=2), started, again, failed)


def _wrong_token(url: str) -> None:
    version = _version(url, "dead")
    started = e.TaskStarted(
        run=2, attempt=1, phase="execute", token=version + 2, worker="w"
    )
    completed = e.TaskCompleted(run=2, token=1, result="done")
    forge(url, "dead", e.TaskRequeued(round=2), started, completed)


def _crashed_in_company(url: str) -> None:
    version = _version(url, "dead")
    started = e.TaskStarted(
        run=2, attempt=1, phase="execute", token=version + 2, worker="w"
    )
    failed = e.TaskFailed(run=2, error_class="crashed", error="x", fingerprint="")
    forge(url, "dead", e.TaskRequeued(round=2), started, failed)


def _unfinished_erasure(url: str) -> None:
    ledger = store_of(url)
    state = asyncio.run(ledger.task("plain"))
    prepared = erasing.prepare(ledger.store, SYSTEM, state)
    ledger.close_blocking()
    forge(url, "plain", e.TaskErased(erased=prepared.erased))


def _lost_body(url: str) -> None:
    tamper(url, "DELETE FROM blobs")


def _damaged_body(url: str) -> None:
    tamper(url, "UPDATE blobs SET body = ?", (b"x" * 10,))


def _orphan(url: str) -> None:
    ledger = store_of(url)
    blob = Blob.of(b"of nobody" * 5_000)
    event = NewEvent.of("daemon.stopped", {}, {"schema": 1, "at": 1})
    counters = {"events/daemon.stopped": 1}
    item = Append(stream="daemon-x", expected_version=-1, events=[event], counters=counters)
    ledger.store.append([item], command_id="orphan", blobs=[blob])
    ledger.close_blocking()


def _unknown_holder(url: str) -> None:
    version = _version(url, "ready")
    forge(
        url,
        "ready",
        e.TaskStarted(
            run=1, attempt=1, phase="execute", token=version + 1, worker="nobody"
        ),
    )


def _lease_ahead(url: str) -> None:
    far = SYSTEM.now() + 3_600_000_000
    with connected(url) as connection:
        connection.exec_driver_sql(
            "INSERT INTO workers VALUES ('w', 'h', 'b', 1, 1, '[]', '[]', 'r',"
            f" {far}, {far}, {far}, FALSE)"
        )


def _stale_socket(url: str) -> None:
    path = places.socket_path(url, os.environ)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def _stale_part(url: str) -> None:
    directory = default_directory(url)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "checkpoint-9.orchd.999999999.part").write_text("half")


BROKEN: dict[str, tuple[Callable[[str], None], dict[str, str]]] = {
    "chain": (_chain, {"log": "fail"}),
    "commits": (_commits, {"log": "fail"}),
    "head": (_head, {"log": "fail"}),
    "gap": (_gap, {"streams": "fail"}),
    "row": (_row, {"projections": "fail"}),
    "ready": (_ready, {"projections": "fail"}),
    "timers": (_timers, {"projections": "fail"}),
    "counter": (_counter, {"projections": "fail"}),
    "run-twice": (_run_twice, {"runs": "fail"}),
    "wrong-token": (_wrong_token, {"runs": "fail"}),
    "crashed-in-company": (_crashed_in_company, {"runs": "fail"}),
    "unfinished-erasure": (_unfinished_erasure, {"erasures": "warn"}),
    "lost-body": (_lost_body, {"bodies": "fail"}),
    "damaged-body": (_damaged_body, {"bodies": "fail"}),
    "orphan": (_orphan, {"bodies": "warn"}),
    "unknown-holder": (_unknown_holder, {"workers": "warn"}),
    "lease-ahead": (_lease_ahead, {"clock": "warn"}),
    "stale-socket": (_stale_socket, {"files": "warn"}),
    "stale-part": (_stale_part, {"files": "warn"}),
}
MENDABLE = (
    "row",
    "ready",
    "timers",
    "counter",
    "unfinished-erasure",
    "orphan",
    "stale-socket",
    "stale-part",
)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found_by_its_check_alone(state_url: str, name: str) -> None:
    break_it, expected = BROKEN[name]
    break_it(state_url)
    found = examined(state_url)
    assert broken(found) == expected, [f for f in found if f.level != "ok"]


@pytest.mark.parametrize("name", MENDABLE)
def test_what_can_be_mended_is_and_the_repair_says_what(state_url: str, name: str) -> None:
    break_it, expected = BROKEN[name]
    break_it(state_url)
    found = repaired(state_url)
    assert {f.check for f in found if f.level == "mended"} == set(expected)
    assert broken(found) == {}, [f for f in found if f.level != "ok"]
    assert [f for f in repaired(state_url) if f.level == "mended"] == []


def test_a_task_that_breaks_its_own_rules_is_named(
    state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No release writes such a row, and the database would refuse most of them.
    def violations(state: Any) -> list[str]:
        return ["completed with a result"] if state.id == "plain" else []

    monkeypatch.setattr("orchd.maintenance.task_checks.state_violations", violations)
    found = examined(state_url)
    assert broken(found) == {"tasks": "fail"}
    [failure] = [f for f in found if f.level == "fail"]
    assert "task plain: completed with a result" in failure.detail


def test_a_row_that_nobody_can_read_is_named_and_not_more(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET verifiers = 'nonsense' WHERE id = 'plain'")
    found = examined(state_url)
    assert broken(found) == {"tasks": "fail", "projections": "fail"}


def test_a_stream_that_cannot_be_read_is_named_by_whoever_meets_it(state_url: str) -> None:
    tamper(state_url, "UPDATE events SET data = '[]' WHERE type = 'task.started'")
    levels = broken(examined(state_url))
    assert levels == {"log": "fail", "projections": "fail", "runs": "fail"}


# --- the database and the machine -----------------------------------------------------


@pytest.fixture
def sqlite_state(histories: Any, tmp_path: Path) -> Iterator[str]:
    with histories.copy("sqlite", tmp_path) as url:
        yield url


def test_a_damaged_page_is_found(sqlite_state: str) -> None:
    path = sqlite_path(sqlite_state)
    content = bytearray(path.read_bytes())
    [(root,)] = query(
        sqlite_state, "SELECT rootpage FROM sqlite_master WHERE name = 'tasks_newest'"
    )
    start = (root - 1) * 4096
    content[start : start + 4096] = bytes(4096)
    path.write_bytes(content)
    found = examined(sqlite_state)
    assert any(f.check == "database" and "damaged" in f.detail for f in found)
    assert broken(found)["database"] == "fail"


def test_another_journal_is_a_warning(sqlite_state: str) -> None:
    with connected(sqlite_state) as connection:
        connection.connection.driver_connection.execute(  # type: ignore[union-attr]  # open
            "PRAGMA journal_mode = DELETE"
        )
    assert broken(examined(sqlite_state)) == {"database": "warn"}


def test_a_write_ahead_log_without_end_is_a_warning(
    sqlite_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_checks, "WAL_BYTES_MAX", -1)
    assert broken(examined(sqlite_state)) == {"database": "warn"}


@pytest.mark.parametrize(
    ("limit", "level"), [("FREE_BYTES_MIN", "fail"), ("FREE_BYTES_WANTED", "warn")]
)
def test_a_disk_that_is_nearly_full_is_told(
    sqlite_state: str, monkeypatch: pytest.MonkeyPatch, limit: str, level: str
) -> None:
    monkeypatch.setattr(database_checks, limit, 2**62)
    assert broken(examined(sqlite_state)) == {"disk": level}


def test_a_machine_whose_clock_is_off_is_told(
    state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By more than the state is old, which may be a copy of one made long ago.
    class Late(RealSystem):
        def now(self) -> int:
            return super().now() - 86_400_000_000

    settings = Settings(database=state_url)
    found = list(examine(settings, system=Late()))
    clocks = [f for f in found if f.check == "clock" and f.level == "warn"]
    if state_url.startswith("postgres"):
        assert "86400.0 s off" in clocks[0].detail
    else:
        # There the machine's clock is the database's; only the log lies in the future.
        assert "last event lies in the future" in clocks[0].detail


def test_processes_of_a_dead_daemon_are_found_and_ended(state_url: str) -> None:
    # Marked by a process that is gone, as the children of a killed daemon are.
    state = places.state_hash(state_url)
    script = (
        "from orchd.processes.marks import run_mark; import sys;"
        "print(run_mark(sys.argv[1], 't', 1))"
    )
    mark = subprocess.run(
        (sys.executable, "-c", script, f"{state}/w"), capture_output=True, text=True
    ).stdout.strip()
    own = run_mark(f"{state}/w", "t", 2)
    orphan = subprocess.Popen(("sleep", "100"), env={**os.environ, MARK_VARIABLE: mark})
    child = subprocess.Popen(("sleep", "100"), env={**os.environ, MARK_VARIABLE: own})
    try:
        found = examined(state_url)
        assert broken(found) == {"processes": "warn"}
        [warning] = [f for f in found if f.level == "warn"]
        assert str(orphan.pid) in warning.detail
        assert str(child.pid) not in warning.detail
        done = [f.detail for f in repaired(state_url) if f.level == "mended"]
        assert done == ["ended 1 process of a dead daemon"]
        assert orphan.wait(10) == -9
        assert child.poll() is None
    finally:
        for process in (orphan, child):
            process.kill()
            process.wait()


def test_a_daemon_that_does_not_answer_is_told(sqlite_state: str) -> None:
    with WriterLock(sqlite_path(sqlite_state)):
        found = examined(sqlite_state)
        assert broken(found) == {"files": "warn"}
        [warning] = [f for f in found if f.level == "warn"]
        assert f"process {os.getpid()}" in warning.detail
    lock = Path(f"{sqlite_path(sqlite_state)}.lock")
    lock.write_text(json.dumps({"host": "h", "pid": 999999999, "process_start": 1}))
    assert broken(examined(sqlite_state)) == {}


def test_a_repair_that_may_not_write_says_so(sqlite_state: str) -> None:
    _row(sqlite_state)
    with WriterLock(sqlite_path(sqlite_state)):
        found = repaired(sqlite_state)
    assert any(
        f.check == "projections" and "is in use by process" in f.detail for f in found
    )


def test_a_missing_state_is_a_warning_and_a_bad_configuration_a_failure(
    sqlite_url: str,
) -> None:
    found = examined(sqlite_url, config_problem="worker.concurrency must be positive")
    assert [(f.check, f.level) for f in found] == [
        ("configuration", "fail"),
        ("state", "warn"),
    ]
    assert [(f.check, f.level) for f in repaired(sqlite_url)] == [("state", "warn")]


def test_a_newer_schema_is_a_failure(state_url: str) -> None:
    tamper(state_url, "UPDATE alembic_version SET version_num = '9999'")
    found = examined(state_url)
    assert broken(found) == {"state": "fail"}
    assert "newer" in found[-1].detail


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
