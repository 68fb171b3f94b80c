"""The configuration as one immutable value. `orchd.config.loading` builds it.

Spans of time are seconds (`float`) here; in files and variables they are durations such
as `250ms` or ISO 8601. Field names without their unit (`_seconds`, `_bytes`) are the keys
of the TOML file: `drain_timeout_seconds` is `worker.drain_timeout`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """The base of every part of the configuration."""


class ServerSettings(Section, frozen=True, kw_only=True):
    """The HTTP listener."""

    listen: str = "127.0.0.1:8470"
    token_file: str | None = None
    """Default: beside the state, made at the first start with mode 0600."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names besides loopback and the listening address that may be asked for."""


class WorkerSettings(Section, frozen=True, kw_only=True):
    """This daemon's worker."""

    concurrency: int = 16
    queues: tuple[str, ...] = ("*",)
    drain_timeout_seconds: float = 30.0
    kill_grace_seconds: float = 2.0
    """Between SIGTERM and SIGKILL for a command that is being stopped."""
    lease_seconds: float = 10.0
    max_output_bytes: int = 32 * 1024 * 1024


class Backoff(Section, frozen=True, kw_only=True):
    """Exponential waiting: `initial x factor^(n-1)`, at most `max`, with full jitter
    over the upper half when `jitter` is set."""

    initial_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 300.0
    jitter: bool = True


class RetrySettings(Section, frozen=True, kw_only=True):
    """How often what is tried."""

    max_attempts: int = 3
    max_crashes: int = 3
    max_deferrals: int = 100
    max_verify_errors: int = 10
    backoff: Backoff = Backoff()


class BreakerSettings(Section, frozen=True, kw_only=True):
    """When an executor's breaker opens and for how long."""

    failures: int = 5
    cooldown_seconds: float = 60.0


class TaskSettings(Section, frozen=True, kw_only=True):
    """Defaults of a submission."""

    executor: str | None = None
    verifiers: tuple[str, ...] = ()


class QueueSettings(Section, frozen=True, kw_only=True):
    """Limits of one queue."""

    concurrency: int = 0
    """Most tasks in progress over all daemons; 0 stands for no limit."""


class ExecutorSettings(Section, frozen=True, kw_only=True):
    """One executor. Which fields apply depends on `type`; `options` holds the rest."""

    name: str
    type: str
    """`fake`, `echo`, `command`, `python` or `claude`."""
    argv: tuple[str, ...] = ()
    cwd: str | None = None
    env: Mapping[str, str] = {}
    """Command: variables to set; nothing of the daemon's own secrets is passed on."""
    pass_env: tuple[str, ...] = ()
    """Command: names of variables to hand on from the daemon's environment."""
    target: str | None = None
    """Python: `package.module:name` of a class or function."""
    isolation: str = "process"
    """Python, sync code: `process` (killable) or `thread`."""
    model: str | None = None
    timeout_seconds: float | None = None
    verify_timeout_seconds: float | None = None
    exclusive: bool = False
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    options: Mapping[str, object] = {}


class VerifierSettings(Section, frozen=True, kw_only=True):
    """One verifier. Which fields apply depends on `type`; `options` holds the rest."""

    name: str
    type: str
    """`always-pass`, `command`, `schema`, `regex`, `python` or `claude`."""
    argv: tuple[str, ...] = ()
    cwd: str | None = None
    env: Mapping[str, str] = {}
    pass_env: tuple[str, ...] = ()
    schema: str | None = None
    """Schema: a JSON Schema as JSON text (from `schema` or `schema_file`)."""
    pattern: str | None = None
    """Regex: a Python regular expression that must be found in the result."""
    target: str | None = None
    isolation: str = "process"
    model: str | None = None
    timeout_seconds: float | None = 300.0
    options: Mapping[str, object] = {}


class Settings(Section, frozen=True, kw_only=True):
    """Everything that can be configured."""

    database: str
    server: ServerSettings = ServerSettings()
    worker: WorkerSettings = WorkerSettings()
    tasks: TaskSettings = TaskSettings()
    queues: Mapping[str, QueueSettings] = {}
    executors: Mapping[str, ExecutorSettings] = {}
    """By name; holds the built-in `fake` and `echo` too, unless overridden."""
    verifiers: Mapping[str, VerifierSettings] = {}
    """By name; holds the built-in `always-pass` too, unless overridden."""
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()


BUILT_IN_EXECUTORS: Mapping[str, ExecutorSettings] = {
    name: ExecutorSettings(name=name, type=name) for name in ("fake", "echo")
}
BUILT_IN_VERIFIERS: Mapping[str, VerifierSettings] = {
    "always-pass": VerifierSettings(name="always-pass", type="always-pass")
}
