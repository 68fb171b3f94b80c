"""Checkpoints from the command line: beside a daemon, and where work goes on from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine
from support.postgres import PostgresServer
from support.waiting import wait_until

# Each run leaves a line in a file, and goes on until it may end.
SCRIPT = """\
echo "$ORCHD_TASK_ID" >> {directory}/witness
while [ -e "{directory}/hold-$ORCHD_TASK_ID" ]; do sleep 0.05; done
cat
"""
TOML = """
[worker]
lease = "2s"
drain_timeout = "1s"
[executors.witness]
type = "command"
argv = ["sh", "{script}"]
"""


class Place:
    """A directory with a state of its own, and what its tasks say of themselves."""

    def __init__(self, directory: Path, database: str) -> None:
        directory.mkdir()
        script = directory / "witness.sh"
        script.write_text(SCRIPT.format(directory=directory))
        self.commands = CommandLine(directory, database)
        self.commands.configure(TOML.format(script=script))
        self.directory = directory
        self.witness = directory / "witness"

    def runs(self) -> Counter[str]:
        """Return how often each task was really run here."""
        text = self.witness.read_text() if self.witness.exists() else ""
        return Counter(text.split())

    def submit(self, task_id: str, *more: str) -> None:
        self.commands.ok("submit", "x", "--executor", "witness", "--id", task_id, *more)


@pytest.fixture
def old(tmp_path: Path, database_url: str) -> Iterator[Place]:
    place = Place(tmp_path / "old", database_url)
    yield place
    place.commands.close()


@pytest.fixture
def new(old: Place, tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Place]:
    """A place with a database of the other kind."""
    if old.commands.environ["ORCHD_DATABASE"].startswith("sqlite"):
        with postgres_server.database() as url:
            place = Place(tmp_path / "new", url)
            yield place
            place.commands.close()
    else:
        place = Place(tmp_path / "new", f"sqlite:///{tmp_path}/new/orchd.db")
        yield place
        place.commands.close()


def test_work_goes_on_from_a_backup_made_beside_a_busy_daemon(
    old: Place, new: Place
) -> None:
    old.commands.serve()
    for number in range(3):
        old.submit(f"done{number}", "--wait")
    (old.directory / "hold-busy").touch()
    old.submit("busy")
    wait_until(lambda: old.runs()["busy"])
    made = old.commands.ok("checkpoint", "create", str(old.directory / "copy.orchd"))
    assert "holds position" in made.stdout
    assert made.stderr == ""
    [listed] = old.commands.ok("checkpoint", "list", "-o", "json").json["items"]
    assert (listed["present"], listed["recorded"]) == (True, True)
    old.commands.ok("checkpoint", "verify", listed["path"])

    restored = new.commands.ok("checkpoint", "restore", listed["path"])
    assert "restored up to position" in restored.stdout
    new.commands.ok("replay", "--check")
    new.commands.ok("log", "verify")
    assert new.commands.run("checkpoint", "restore", listed["path"]).code == 4
    new.commands.serve()
    assert new.commands.ok("task", "wait", "busy", "--timeout", "60s").code == 0
    # What was finished is not run again; what was under way is.
    assert new.runs() == Counter(busy=1)
    types = [
        event["type"]
        for event in new.commands.ok("task", "events", "busy", "-o", "json").json["items"]
    ]
    assert types == [
        *("task.submitted", "task.started", "task.released"),
        *("task.started", "task.completed"),
    ]
    new.commands.ok("replay", "--check")


def test_a_restore_beside_a_daemon_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    cli.ok("submit", "a", "--executor", "echo", "--id", "x")
    copy = str(tmp_path / "copy.orchd")
    cli.ok("checkpoint", "create", copy)
    other = Place(tmp_path / "other", f"sqlite:///{tmp_path}/other/orchd.db")
    try:
        other.commands.serve()
        done = other.commands.run("checkpoint", "restore", copy)
        assert done.code == 75
        assert "is in use by process" in done.stderr
    finally:
        other.commands.close()


def test_what_is_no_checkpoint_is_named_in_one_line(cli: CommandLine) -> None:
    (cli.directory / "text").write_text("hello")
    for verb in ("verify", "restore"):
        for name, code in (("text", 1), ("missing", 3), (".", 1)):
            done = cli.run("checkpoint", verb, name)
            assert done.code == code, done
            assert name in done.stderr
            assert done.stderr.count("\n") == 1
