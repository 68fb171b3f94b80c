"""Builds the settings: command-line option > environment > file > default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orchd.config import keys, kinds, places
from orchd.config.keys import Key, Table
from orchd.config.layers import Given, Tree, lay_environment, lay_options, read_file
from orchd.config.masking import masked
from orchd.config.settings import (
    BUILT_IN_EXECUTORS,
    BUILT_IN_VERIFIERS,
    BreakerSettings,
    ExecutorSettings,
    QueueSettings,
    RetrySettings,
    Section,
    ServerSettings,
    Settings,
    TaskSettings,
    VerifierSettings,
    WorkerSettings,
)
from orchd.errors import ConfigurationError

SectionType = TypeVar("SectionType", bound=Section)


class Loaded(NamedTuple):
    """The settings, and where they came from."""

    settings: Settings
    file: Path | None
    """The configuration file that was read."""
    origins: Mapping[str, str]
    """Dotted key -> who gave it; keys that nobody gave have their default."""


def load(
    *,
    environ: Mapping[str, str],
    directory: Path,
    config: str | None = None,
    options: Mapping[str, tuple[str, str]] | None = None,
) -> Loaded:
    """Find, merge and check the configuration.

    Args:
        environ: the process's environment.
        directory: the current directory.
        config: what `--config` named.
        options: dotted key -> (name of the option, its text).

    Raises:
        ConfigurationError: an unknown key or a value that breaks a rule.
    """
    file = places.find_config_file(config, environ, directory)
    tree = {} if file is None else read_file(file)
    lay_environment(tree, environ)
    lay_options(tree, options or {})
    reader = _Reader(file, directory)
    return Loaded(reader.settings(tree, environ), file, reader.origins)


class _Reader:
    """Turns the merged tree into settings and remembers where each value came from."""

    def __init__(self, file: Path | None, directory: Path) -> None:
        self._file_origin = "" if file is None else str(file)
        # Relative paths in a file mean: relative to the file.
        self._base = directory if file is None else file.parent.absolute()
        self.origins: dict[str, str] = {}

    def settings(self, tree: Tree, environ: Mapping[str, str]) -> Settings:
        tables = dict(keys.ROOT.tables)
        named = {name: self._table(tree, name) for name in keys.NAMED_SECTIONS}
        database = self._values(keys.ROOT, tree, (), (*tables, *keys.NAMED_SECTIONS))
        retry = self._retry(self._table(tree, "retry"), "retry", RetrySettings())
        breaker = self._section(
            keys.BREAKER, self._table(tree, "breaker"), ("breaker",), BreakerSettings()
        )
        settings = Settings(
            database=str(database.get("database") or places.default_database(environ)),
            server=self._plain(tree, "server", ServerSettings()),
            worker=self._plain(tree, "worker", WorkerSettings()),
            tasks=self._plain(tree, "tasks", TaskSettings()),
            queues=self._queues(named["queues"]),
            executors=self._executors(named["executors"], retry, breaker),
            verifiers=self._verifiers(named["verifiers"]),
            retry=retry,
            breaker=breaker,
        )
        self._check_names(settings)
        return settings

    # --- sections ---------------------------------------------------------------------

    def _plain(self, tree: Tree, name: str, base: SectionType) -> SectionType:
        table = keys.ROOT.tables[name]
        section = self._section(table, self._table(tree, name), (name,), base)
        if isinstance(section, ServerSettings) and section.token_file is not None:
            path = str(self._base / section.token_file)
            return _replace(section, {"token_file": path})
        return section

    def _retry(self, tree: Tree, dotted: str, base: RetrySettings) -> RetrySettings:
        path = tuple(dotted.split("."))
        values = self._values(keys.RETRY, tree, path, ("backoff",))
        below = self._table(tree, "backoff", path)
        backoff = self._section(keys.BACKOFF, below, (*path, "backoff"), base.backoff)
        if backoff.max_seconds < backoff.initial_seconds:
            rule = f"must not be shorter than {dotted}.backoff.initial"
            raise ConfigurationError(f"{dotted}.backoff.max", rule)
        return _replace(base, {**values, "backoff": backoff})

    def _queues(self, tree: Tree) -> dict[str, QueueSettings]:
        queues = {}
        for name in self._names(tree, "queues"):
            below = self._table(tree, name, ("queues",))
            path = ("queues", name)
            queues[name] = self._section(keys.QUEUE, below, path, QueueSettings())
        return queues

    def _executors(
        self, tree: Tree, retry: RetrySettings, breaker: BreakerSettings
    ) -> dict[str, ExecutorSettings]:
        executors = {
            name: _replace(built_in, {"retry": retry, "breaker": breaker})
            for name, built_in in BUILT_IN_EXECUTORS.items()
        }
        for name in self._names(tree, "executors"):
            executors[name] = self._executor(tree, name, retry, breaker)
        return executors

    def _executor(
        self, tree: Tree, name: str, retry: RetrySettings, breaker: BreakerSettings
    ) -> ExecutorSettings:
        below, path = self._table(tree, name, ("executors",)), ("executors", name)
        usual = name if name in BUILT_IN_EXECUTORS else None
        type_name = self._type(below, path, keys.EXECUTOR_TYPES, usual)
        values = self._typed(keys.executor_table(type_name), type_name, below, path)
        own_breaker = self._table(below, "breaker", path)
        return ExecutorSettings(
            name=name,
            retry=self._retry(
                self._table(below, "retry", path), f"executors.{name}.retry", retry
            ),
            breaker=self._section(keys.BREAKER, own_breaker, (*path, "breaker"), breaker),
            **values,
        )

    def _verifiers(self, tree: Tree) -> dict[str, VerifierSettings]:
        verifiers = dict(BUILT_IN_VERIFIERS)
        for name in self._names(tree, "verifiers"):
            below, path = self._table(tree, name, ("verifiers",)), ("verifiers", name)
            usual = name if name in BUILT_IN_VERIFIERS else None
            type_name = self._type(below, path, keys.VERIFIER_TYPES, usual)
            table = keys.verifier_table(type_name)
            values = self._typed(table, type_name, below, path)
            if type_name == "schema":
                values["schema"] = self._schema(values, path)
            verifiers[name] = VerifierSettings(name=name, **values)
        return verifiers

    # --- what depends on the type -------------------------------------------------------

    def _type(
        self, tree: Tree, path: tuple[str, ...], types: tuple[str, ...], usual: str | None
    ) -> str:
        given = tree.get("type", usual)
        value = given.value if isinstance(given, Given) else given
        if value not in types:
            rule = "must be one of " + ", ".join(types)
            raise ConfigurationError(".".join((*path, "type")), rule, value or "missing")
        return str(value)

    def _typed(
        self, table: Table, type_name: str, tree: Tree, path: tuple[str, ...]
    ) -> dict[str, Any]:
        options = keys.OPTIONS.get(type_name, {})
        whole = Table(
            {**table.keys, **{key: Key(key, kind) for key, kind in options.items()}}
        )
        values = self._values(
            whole, tree, path, tuple(table.tables), f" of type {type_name}"
        )
        for key in keys.required_keys(type_name):
            if key not in values:
                dotted = ".".join((*path, key))
                raise ConfigurationError(dotted, f"must be set for type {type_name}")
        own = {key: values.pop(key) for key in options if key in values}
        nested = own.pop("options", {})
        if not isinstance(nested, Mapping):
            raise ConfigurationError(".".join((*path, "options")), "must be a table")
        self._resolve_paths(values)
        return {**values, "type": type_name, "options": {**nested, **own}}

    def _resolve_paths(self, values: dict[str, Any]) -> None:
        """Make a command's relative paths absolute, before anything changes directory."""
        argv, cwd = values.get("argv"), values.get("cwd")
        if cwd is not None:
            values["cwd"] = str(self._base / cwd)
        elif argv and "/" in argv[0]:
            values["argv"] = (str(self._base / argv[0]), *argv[1:])

    def _schema(self, values: dict[str, Any], path: tuple[str, ...]) -> str:
        file, schema = values.pop("schema_file", None), values.pop("schema", None)
        dotted = ".".join((*path, "schema"))
        if (file is None) == (schema is None):
            raise ConfigurationError(dotted, "or schema_file must be set, and not both")
        if schema is not None:
            return str(schema)
        try:
            text = (self._base / str(file)).read_text()
            return str(kinds.SCHEMA.read(text))
        except (OSError, ValueError) as error:
            rule = "must name a readable file with a JSON Schema"
            raise ConfigurationError(f"{dotted}_file", rule, file) from error

    # --- tables and values --------------------------------------------------------------

    def _table(self, tree: Tree, name: str, path: tuple[str, ...] = ()) -> Tree:
        below = tree.get(name, {})
        if not isinstance(below, dict):
            value = below.value if isinstance(below, Given) else below
            raise ConfigurationError(".".join((*path, name)), "must be a table", value)
        return below

    def _names(self, tree: Tree, section: str) -> list[str]:
        for name in tree:
            if keys.NAME_PATTERN.fullmatch(name) is None:
                raise ConfigurationError(section, keys.NAME_RULE, name)
        return list(tree)

    def _section(
        self, table: Table, tree: Tree, path: tuple[str, ...], base: SectionType
    ) -> SectionType:
        return _replace(base, self._values(table, tree, path, tuple(table.tables)))

    def _values(
        self,
        table: Table,
        tree: Tree,
        path: tuple[str, ...],
        elsewhere: tuple[str, ...],
        where: str = "",
    ) -> dict[str, Any]:
        """Return field -> value for the keys of one table.

        `elsewhere` names the tables within it that somebody else reads.
        """
        values = {}
        for name, found in tree.items():
            if name in elsewhere:
                continue
            dotted = ".".join((*path, name))
            given = _as_given(found, self._file_origin)
            if name not in table.keys:
                known = (*table.keys, *elsewhere)
                raise ConfigurationError(
                    dotted, _unknown(name, known, where), origin=given.origin
                )
            key = table.keys[name]
            values[key.field] = _read(dotted, key, given)
            self.origins[dotted] = given.origin
        return values

    def _check_names(self, settings: Settings) -> None:
        tasks = settings.tasks
        if tasks.executor is not None and tasks.executor not in settings.executors:
            rule = "must be one of " + ", ".join(sorted(settings.executors))
            raise ConfigurationError("tasks.executor", rule, tasks.executor)
        for name in tasks.verifiers:
            if name not in settings.verifiers:
                rule = "must be among " + ", ".join(sorted(settings.verifiers))
                raise ConfigurationError("tasks.verifiers", rule, name)


def _as_given(found: object, file_origin: str) -> Given:
    return found if isinstance(found, Given) else Given(found, file_origin, False)


def _read(dotted: str, key: Key, given: Given) -> object:
    try:
        typed = key.kind.from_text(given.value) if given.is_text else given.value
        return key.kind.read(typed)
    except (ValueError, TypeError, RecursionError):
        shown = masked(dotted, given.value)
        raise ConfigurationError(
            dotted, key.kind.rule, shown, origin=given.origin
        ) from None


def _unknown(name: str, known: tuple[str, ...], where: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
    return f"is no key that orchd knows{where}{hint}"


def _replace(section: SectionType, values: Mapping[str, Any]) -> SectionType:
    fields = {name: getattr(section, name) for name in section.__struct_fields__}
    return type(section)(**{**fields, **values})
