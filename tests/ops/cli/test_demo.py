"""The demonstration shows what it promises, and the log proves it."""

import json

from support.command_line import CommandLine


def test_the_demo_tells_a_retry_a_dead_letter_and_a_breaker(cli: CommandLine) -> None:
    directory = cli.directory / "demo"
    told = cli.ok("demo", "--keep", str(directory)).stdout
    assert f"The state is in {directory}" in told
    database = f"sqlite:///{directory}/orchd.db"
    lines = cli.ok("--database", database, "log", "export").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    types = [event["type"] for event in events]
    for wanted in (
        "breaker.opened",
        "breaker.half_opened",
        "breaker.closed",
        "task.failed",
    ):
        assert wanted in types
    retried = [event for event in events if event["type"] == "task.retried"]
    assert any(e["data"].get("feedback") == "a haiku has 3 lines, not 1" for e in retried)
    assert "a haiku has 3 lines, not 1" in told
    for event in events:
        if event["type"] == "task.completed":
            assert f"{event['position']:>4}  " in told
    cli.ok("--database", database, "replay", "--check")
    (dead,) = cli.ok("--database", database, "dlq", "list", "-o", "json").json["items"]
    assert dead["id"] == "hopeless"


def test_the_demo_never_touches_a_directory_in_use(cli: CommandLine) -> None:
    (cli.directory / "orchd.toml").write_text("mine")
    assert cli.run("demo", "--keep", str(cli.directory)).code == 4
    assert (cli.directory / "orchd.toml").read_text() == "mine"
