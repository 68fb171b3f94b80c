"""Every key that the configuration knows: its kind, and the field that it fills."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from orchd.config import kinds
from orchd.config.kinds import Kind

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
NAME_RULE = "must be named with up to 100 letters, digits, dots, dashes and underscores"


class Key(NamedTuple):
    """One key: the field of its settings class, and its kind."""

    field: str
    kind: Kind


class Table(NamedTuple):
    """A section: its own keys, and the sections within it by name."""

    keys: Mapping[str, Key]
    tables: Mapping[str, Table] = {}


SERVER = Table(
    {
        "listen": Key("listen", kinds.LISTEN),
        "token_file": Key("token_file", kinds.NAME),
        "allowed_hosts": Key("allowed_hosts", kinds.TEXTS),
    }
)
WORKER = Table(
    {
        "concurrency": Key("concurrency", kinds.integer(1, 10_000)),
        "queues": Key("queues", kinds.ARGV._replace(rule="must be a list of queues")),
        "drain_timeout": Key("drain_timeout_seconds", kinds.duration()),
        "kill_grace": Key("kill_grace_seconds", kinds.duration()),
        "lease": Key("lease_seconds", kinds.duration("300ms")),
        "max_output": Key("max_output_bytes", kinds.SIZE),
    }
)
TASKS = Table(
    {
        "executor": Key("executor", kinds.NAME),
        "verifiers": Key("verifiers", kinds.TEXTS),
    }
)
QUEUE = Table({"concurrency": Key("concurrency", kinds.integer(0, 1_000_000))})
BACKOFF = Table(
    {
        "initial": Key("initial_seconds", kinds.duration()),
        "factor": Key("factor", kinds.number(1, 1_000)),
        "max": Key("max_seconds", kinds.duration()),
        "jitter": Key("jitter", kinds.FLAG),
    }
)
RETRY = Table(
    {
        "max_attempts": Key("max_attempts", kinds.integer(1, 10_000)),
        "max_crashes": Key("max_crashes", kinds.integer(1, 10_000)),
        "max_deferrals": Key("max_deferrals", kinds.integer(0, 1_000_000)),
        "max_verify_errors": Key("max_verify_errors", kinds.integer(1, 1_000_000)),
    },
    {"backoff": BACKOFF},
)
BREAKER = Table(
    {
        "failures": Key("failures", kinds.integer(1, 1_000_000)),
        "cooldown": Key("cooldown_seconds", kinds.duration("1ms")),
    }
)

EXECUTOR_TYPES = ("fake", "echo", "command", "python", "http", "claude")
VERIFIER_TYPES = (
    "always-pass",
    "command",
    "schema",
    "regex",
    "python",
    "http",
    "claude",
)

_EXECUTOR_COMMON = {
    "type": Key("type", kinds.choice(*EXECUTOR_TYPES)),
    "timeout": Key("timeout_seconds", kinds.duration("1ms")),
    "verify_timeout": Key("verify_timeout_seconds", kinds.duration("1ms")),
    "exclusive": Key("exclusive", kinds.FLAG),
}
_VERIFIER_COMMON = {
    "type": Key("type", kinds.choice(*VERIFIER_TYPES)),
    "timeout": Key("timeout_seconds", kinds.duration("1ms")),
}
_BY_TYPE: Mapping[str, Mapping[str, Key]] = {
    "command": {
        "argv": Key("argv", kinds.ARGV),
        "cwd": Key("cwd", kinds.NAME),
        "env": Key("env", kinds.TABLE),
        "pass_env": Key("pass_env", kinds.TEXTS),
    },
    "python": {
        "target": Key("target", kinds.NAME),
        "isolation": Key("isolation", kinds.choice("process", "thread")),
    },
    "claude": {"model": Key("model", kinds.NAME)},
    "schema": {
        "schema": Key("schema", kinds.SCHEMA),
        "schema_file": Key("schema_file", kinds.NAME),
    },
    "regex": {"pattern": Key("pattern", kinds.PATTERN)},
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "command": ("argv",),
    "python": ("target",),
    "regex": ("pattern",),
}

OPTIONS: Mapping[str, Mapping[str, Kind]] = {
    "python": {"options": kinds.ANYTHING},
    "http": {"url": kinds.NAME, "method": kinds.NAME, "headers": kinds.TABLE},
    "claude": {
        "max_tokens": kinds.integer(1, 1_000_000),
        "system": kinds.TEXT,
        "base_url": kinds.NAME,
        "api_key": kinds.NAME,
    },
}
"""Keys of a type that land in `options` under their own name."""


def executor_table(type_name: str) -> Table:
    """Return the keys of an executor of that type."""
    keys = {**_EXECUTOR_COMMON, **_BY_TYPE.get(type_name, {})}
    return Table(keys, {"retry": RETRY, "breaker": BREAKER})


def verifier_table(type_name: str) -> Table:
    """Return the keys of a verifier of that type."""
    return Table({**_VERIFIER_COMMON, **_BY_TYPE.get(type_name, {})})


def required_keys(type_name: str) -> tuple[str, ...]:
    """Return the keys without which a type makes no sense."""
    return _REQUIRED.get(type_name, ())


ROOT = Table(
    {"database": Key("database", kinds.DATABASE)},
    {
        "server": SERVER,
        "worker": WORKER,
        "tasks": TASKS,
        "retry": RETRY,
        "breaker": BREAKER,
    },
)
NAMED_SECTIONS = ("queues", "executors", "verifiers")
"""Sections whose tables are named by the user."""
