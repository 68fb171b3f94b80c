"""An event that only a newer release knows stops whoever has to understand it, cleanly.

Releases N-1 and N share a database, so a daemon goes on: it lives by the rows, which the
newer release keeps, and shows the event as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.ledger.opening import open_ledger
from orchd.system import RealSystem
from orchd_eventstore import Append, NewEvent
from support.command_line import CommandLine, Done
from support.tampering import connected, query
from support.templates import StateTemplates

CONFIGURATION = 78


@pytest.fixture
def state(tmp_path: Path, database_url: str) -> Iterator[CommandLine]:
    """Commands on a state with two pending tasks, once for each kind of database."""
    command_line = CommandLine(tmp_path, database_url)
    for task in ("newer", "plain"):
        command_line.ok("submit", f"do {task}", "--id", task, "--executor", "echo")
    yield command_line
    command_line.close()


def write_newer(url: str, stream: str, *, row: tuple[str, str] | None = None) -> None:
    """Append an event as the release after this one might, and move the row along."""
    ledger = open_ledger(
        url, system=RealSystem(), access="write", create=False, migrate=False
    )
    try:
        events = ledger.store.read_stream(stream)
        newer = NewEvent.of("task.teleported", {"to": "mars"}, {"at": 1, "schema": 1})
        item = Append(stream=stream, expected_version=len(events), events=[newer])
        ledger.store.append([item], command_id="of the future")
    finally:
        ledger.close_blocking()
    if row is not None:
        table, key = row
        with connected(url) as connection:
            connection.exec_driver_sql(
                f"UPDATE {table} SET version = version + 1 WHERE id = '{key}'"
            )


def database(state: CommandLine) -> str:
    return state.environ["ORCHD_DATABASE"]


def require_clean_stop(done: Done) -> None:
    assert done.code == CONFIGURATION, done
    assert "unknown event 'task.teleported'" in done.stderr, done
    assert "a newer orchd wrote it: use that release" in done.stderr, done


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "--check"),
        ("replay", "--dry-run"),
        ("replay", "--task", "newer"),
        ("replay", "--at", "1000"),
    ],
    ids=" ".join,
)
def test_replay_stops_before_it_changes_anything(
    state: CommandLine, arguments: tuple[str, ...]
) -> None:
    write_newer(database(state), "task-newer", row=("tasks", "newer"))
    before = query(database(state), "SELECT * FROM tasks ORDER BY id")
    require_clean_stop(state.run(*arguments))
    assert query(database(state), "SELECT * FROM tasks ORDER BY id") == before
    state.ok("log", "verify")


def test_what_lies_before_the_event_can_still_be_seen(state: CommandLine) -> None:
    write_newer(database(state), "task-newer", row=("tasks", "newer"))
    seen = state.ok("replay", "--at", "2", "-o", "json").json
    assert {item["id"] for item in seen["items"]} == {"newer", "plain"}


def test_helpers_stop_as_one_process_does(
    tmp_path: Path, large_states: StateTemplates
) -> None:
    with large_states.copy("sqlite", tmp_path) as url:
        stream = str(query(url, "SELECT min(stream) FROM events")[0][0])
        write_newer(url, stream)
        command_line = CommandLine(tmp_path, url)
        require_clean_stop(command_line.run("replay", "--check", "--jobs", "3"))


def test_a_daemon_goes_on_and_shows_the_event_as_it_is(state: CommandLine) -> None:
    write_newer(database(state), "task-newer", row=("tasks", "newer"))
    daemon = state.start("serve", "--listen", "127.0.0.1:0", "--until-idle")
    assert daemon.wait() == 0, daemon.stderr
    assert "Traceback" not in "".join(daemon.stderr)
    assert query(database(state), "SELECT id, status FROM tasks ORDER BY id") == [
        ("newer", "completed"),
        ("plain", "completed"),
    ]
    shown = [json.loads(line) for line in state.ok("log", "export").stdout.splitlines()]
    [newer] = [event for event in shown if event["type"] == "task.teleported"]
    assert (newer["stream"], newer["data"]) == ("task-newer", {"to": "mars"})
    state.ok("log", "verify")
