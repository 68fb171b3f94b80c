"""What the demonstration runs: its configuration and its tasks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

FLAG = "service-is-up"
"""The file whose absence makes the demonstration's service unavailable."""

_POET = """
cat > /dev/null
if [ -z "$ORCHD_FEEDBACK" ]; then echo 'An old silent pond'; exit 0; fi
printf 'An old silent pond\\nA frog jumps into the pond\\nSplash! Silence again\\n'
"""
_CRITIC = """
lines=$(wc -l)
[ "$lines" -eq 3 ] && exit 0
echo "a haiku has 3 lines, not $lines"
exit 1
"""


def configuration(directory: Path) -> str:
    """Return the demonstration's configuration as TOML."""
    service = f"[ -e {shlex.quote(str(directory / FLAG))} ] || exit 75; tr a-z A-Z"
    return "\n".join(
        (
            f"database = {_text(f'sqlite:///{directory}/orchd.db')}",
            "",
            "[worker]",
            "concurrency = 4",
            'kill_grace = "1s"',
            "",
            "[retry]",
            "max_attempts = 3",
            'backoff = { initial = "200ms", max = "1s" }',
            "",
            "# Counts the words that it gets on stdin.",
            *_command("executors", "count", ["wc", "-w"]),
            "# Writes a haiku; only with the verifier's feedback it gets it right.",
            *_command("executors", "poet", ["sh", "-c", _POET]),
            "# A service that is down at first: exit code 75 means: try again later.",
            *_command("executors", "service", ["sh", "-c", service]),
            "[executors.service.breaker]",
            "failures = 2",
            'cooldown = "1s"',
            "",
            "# Refuses what has not three lines.",
            *_command("verifiers", "critic", ["sh", "-c", _CRITIC]),
        )
    )


def _command(section: str, name: str, argv: list[str]) -> tuple[str, ...]:
    words = ", ".join(map(_text, argv))
    return (f"[{section}.{name}]", 'type = "command"', f"argv = [{words}]", "")


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


TASKS: tuple[dict[str, Any], ...] = (
    {"id": "echo", "description": "Hello, orchestra", "executor": "echo"},
    {"id": "fake", "description": "Explain loops", "executor": "fake"},
    {
        "id": "count",
        "description": "count the words of this sentence",
        "executor": "count",
        "verifiers": ["always-pass"],
    },
    {
        "id": "haiku",
        "description": "Write a haiku",
        "executor": "poet",
        "verifiers": ["critic"],
    },
    {
        "id": "hopeless",
        "description": "Square the circle",
        "executor": "fake",
        "payload": {"success": False},
    },
    *(
        {"id": f"shout-{number}", "description": "louder, please", "executor": "service"}
        for number in (1, 2, 3)
    ),
)
