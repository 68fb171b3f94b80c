"""The merged configuration as a list of keys, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from orchd.config.durations import format_duration, format_size
from orchd.config.keys import (
    OPTIONS,
    ROOT,
    Table,
    executor_table,
    verifier_table,
)
from orchd.config.loading import Loaded
from orchd.config.masking import masked
from orchd.config.settings import ExecutorSettings, Section, VerifierSettings

DEFAULT_ORIGIN = "default"
BUILT_IN_ORIGIN = "built in"


class Shown(NamedTuple):
    """One key as it is shown."""

    key: str
    value: object
    origin: str


def show(loaded: Loaded) -> list[Shown]:
    """Return every key with its value, secrets masked, and where it came from."""
    settings = loaded.settings
    lines = list(_table(ROOT, settings, "", loaded))
    for name, queue in settings.queues.items():
        lines.append(
            _line(f"queues.{name}.concurrency", queue.concurrency, loaded, DEFAULT_ORIGIN)
        )
    for executor in settings.executors.values():
        lines.extend(_executor(executor, loaded))
    for verifier in settings.verifiers.values():
        lines.extend(_verifier(verifier, loaded))
    return lines


def _table(table: Table, section: Section, prefix: str, loaded: Loaded) -> Iterator[Shown]:
    for name, key in table.keys.items():
        value = _written(key.field, getattr(section, key.field))
        yield _line(prefix + name, value, loaded, DEFAULT_ORIGIN)
    for name, below in table.tables.items():
        yield from _table(below, getattr(section, name), f"{prefix}{name}.", loaded)


def _executor(executor: ExecutorSettings, loaded: Loaded) -> Iterator[Shown]:
    prefix = f"executors.{executor.name}."
    table = executor_table(executor.type)
    for line in _table(table, executor, prefix, loaded):
        # What an executor inherits is listed once, where it is set.
        inherited = line.origin == DEFAULT_ORIGIN
        if line.key == f"{prefix}type":
            origin = BUILT_IN_ORIGIN if inherited else line.origin
            yield line._replace(origin=origin)
        elif not inherited:
            yield line
    yield from _options(executor, prefix, loaded)


def _verifier(verifier: VerifierSettings, loaded: Loaded) -> Iterator[Shown]:
    prefix = f"verifiers.{verifier.name}."
    table = verifier_table(verifier.type)
    for name, key in table.keys.items():
        line = _line(
            prefix + name,
            _written(key.field, getattr(verifier, key.field, None)),
            loaded,
            BUILT_IN_ORIGIN if name == "type" else DEFAULT_ORIGIN,
        )
        if name == "type" or line.origin != DEFAULT_ORIGIN:
            yield line
    yield from _options(verifier, prefix, loaded)


def _options(
    section: ExecutorSettings | VerifierSettings, prefix: str, loaded: Loaded
) -> Iterator[Shown]:
    known = OPTIONS.get(section.type, {})
    for name, value in section.options.items():
        key = prefix + (name if name in known else f"options.{name}")
        origin = loaded.origins.get(key) or loaded.origins.get(f"{prefix}options")
        yield Shown(key, masked(key, value), origin or DEFAULT_ORIGIN)


def _line(key: str, value: object, loaded: Loaded, otherwise: str) -> Shown:
    return Shown(key, masked(key, value), loaded.origins.get(key, otherwise))


def _written(field: str, value: object) -> object:
    if field.endswith("_seconds") and isinstance(value, float | int):
        return format_duration(value)
    if field.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    return list(value) if isinstance(value, tuple) else value
