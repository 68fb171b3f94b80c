"""The house rules that no linter knows: layers, sizes, words, pins, lazy imports."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchd_ops.cli.root import orchd
from support import checkout

ROOT = checkout.ROOT
SOURCE_ROOTS = ("daemon", "eventstore", "migrations", "ops")
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# What the command line must not wait for: together they take seconds to import.
HEAVY_MODULES = ("anthropic", "rich", "sqlalchemy", "starlette")
LIGHT_STATEMENTS = ("import orchd", "import orchd_ops.cli")
# Runs the command line as a process would, and tells on standard error what it needed.
ASK_FOR_HELP = f"""
import sys
from orchd_ops.cli import main
sys.argv = ["orchd", *sys.argv[1:], "--help"]
try:
    main()
finally:
    print(sorted(set({HEAVY_MODULES}) & set(sys.modules)), file=sys.stderr)
"""

# Words that mark unfinished work, or a test that does not test. Each is written in two
# parts, so that this file does not hold what it looks for.
BANNED_IN_PYTHON = (
    r"\bTO" + r"DO\b",
    r"\bFIX" + r"ME\b",
    r"\bXX" + r"X\b",
    r"\bNotImplemented" + r"Error\b",
    r"\bpytest\.sk" + r"ip\b",
    r"\bpytest\.mark\.sk" + r"ip",
    r"\bxf" + r"ail\b",
    r"pragma: no co" + r"ver",
    # A silenced type error names its kind, and beside it stands the reason.
    r"type: ig" + r"nore(?!\[[a-z, -]+\]  # \w)",
)
REGISTRY_HOSTS = (
    r"\bpypi\." + r"org\b",
    r"\bpythonhosted\." + r"org\b",
    r"\bnpmjs\." + r"(org|com)\b",
    r"\bcrates\." + r"io\b",
    r"\bproxy\.gol" + r"ang\.org\b",
    r"\brubygems\." + r"org\b",
    r"\bconda\." + r"anaconda\.org\b",
)


def _texts() -> Iterator[tuple[Path, str]]:
    for path in checkout.files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path.relative_to(ROOT), content.decode()


def _modules(roots: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for path, text in _texts():
        if path.suffix == ".py" and path.parts[0] in roots:
            yield path, text


def _found(patterns: tuple[str, ...], texts: Iterator[tuple[Path, str]]) -> list[str]:
    wanted = re.compile("|".join(patterns))
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts
        for number, line in enumerate(text.splitlines(), 1)
        if wanted.search(line)
    ]


def _lines_without_docstring(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> int:
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def test_there_is_something_to_check() -> None:
    """The rules below are about files, so they would hold for no files at all."""
    roots = {path.parts[0] for path, _ in _modules(SOURCE_ROOTS)}
    assert roots == set(SOURCE_ROOTS)


def test_imports_follow_the_arrows_between_the_layers() -> None:
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program is not None
    checked = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 kept, 0 broken" in checked.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import subprocess",
        "import random",
        "import uuid",
        "from secrets import token_hex",
        "import time; time.time()",
        "from time import monotonic",
        "import asyncio; asyncio.sleep(1)",
        "import datetime; datetime.datetime.now()",
        "import os; os.urandom(8)",
    ],
)
def test_only_one_module_reaches_the_outer_world(statement: str) -> None:
    assert "TID251" in _ruff(statement, "daemon/orchd/engine/clockwork.py")
    assert "TID251" not in _ruff(statement, "daemon/orchd/system.py")


def _ruff(text: str, name: str) -> str:
    command = [str(Path(sys.executable).parent / "ruff"), "check", "--no-cache"]
    checked = subprocess.run(
        [*command, "--output-format=concise", "--stdin-filename", name, "-"],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode in (0, 1), checked.stderr
    return checked.stdout


@pytest.mark.parametrize("statement", LIGHT_STATEMENTS)
def test_importing_needs_no_heavy_module(statement: str) -> None:
    program = f"import sys\n{statement}\nprint(set({HEAVY_MODULES}) & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"


def _verbs() -> list[tuple[str, ...]]:
    """Return every verb and every verb's verbs, and the program itself."""
    found: list[tuple[str, ...]] = [()]
    for name, command in _commands(orchd):
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, verb) for verb, _ in _commands(command)]
    return found


def _commands(group: click.Command) -> Iterator[tuple[str, click.Command]]:
    assert isinstance(group, click.Group)
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command


def test_there_are_verbs_to_ask_for_help() -> None:
    assert {("serve",), ("db", "upgrade"), ("task", "list")} <= set(_verbs())


@pytest.mark.parametrize("verb", _verbs(), ids=" ".join)
def test_help_needs_no_heavy_module(verb: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, *verb],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(" ".join(("Usage: orchd", *verb)))
    assert ran.stderr == "[]\n"


def test_no_file_names_a_package_registry() -> None:
    assert _found(REGISTRY_HOSTS, _texts()) == []


def test_no_module_holds_unfinished_work() -> None:
    roots = (*SOURCE_ROOTS, "tests", "bench", "examples")
    assert _found(BANNED_IN_PYTHON, _modules(roots)) == []


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = [
        f"{path}:{node.lineno}: {node.name} has {lines} lines"
        for path, text in _modules(SOURCE_ROOTS)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := _lines_without_docstring(node)) > FUNCTION_LINES_MAX
    ]
    assert too_long == []


def test_no_module_holds_more_than_one_subject() -> None:
    too_long = [
        f"{path} has {lines} lines"
        for path, text in _modules(SOURCE_ROOTS)
        if (lines := len(text.splitlines())) > MODULE_LINES_MAX
    ]
    assert too_long == []


@pytest.mark.parametrize("package", SOURCE_ROOTS)
def test_every_source_root_holds_one_typed_package(package: str) -> None:
    folders = [path for path in (ROOT / package).iterdir() if path.is_dir()]
    packages = [path for path in folders if path.name != "__pycache__"]
    assert len(packages) == 1
    assert (packages[0] / "py.typed").is_file()


@pytest.mark.parametrize("name", ["run", "dev", "build", "uv"])
def test_requirements_are_pinned_by_hash_and_name_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "//" not in entry


def test_requirements_hold_every_declared_dependency() -> None:
    """A dependency that is declared but not pinned would be missing when installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    assert _missing("run", project["dependencies"]) == set()
    assert _missing("dev", [*project["dependencies"], *optional["dev"]]) == set()
    for extra in ("postgres", "redis", "otlp"):
        assert _missing("dev", optional[extra]) == set()


def _missing(kind: str, declared: list[str]) -> set[str]:
    names = {re.split(r"[^a-z0-9-]", entry, maxsplit=1)[0] for entry in declared}
    text = (ROOT / "requirements" / f"{kind}.txt").read_text()
    return names - set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)) - {"orchd"}


def test_both_sets_of_requirements_agree() -> None:
    """One folder may hold the one and then the other."""
    pins = re.compile(r"^([a-z0-9-]+==[^ ]+)", re.MULTILINE)
    run, developers = (
        set(pins.findall((ROOT / "requirements" / f"{kind}.txt").read_text()))
        for kind in ("run", "dev")
    )
    assert run
    assert run <= developers


def test_the_scenarios_of_chaos_have_their_full_size() -> None:
    ran = subprocess.run(
        ["make", "--dry-run", "--always-make", "chaos"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ORCHD_CHAOS=full " in ran.stdout
    told = (ROOT / "tests" / "chaos" / "sizes.py").read_text()
    assert 'os.environ.get("ORCHD_CHAOS", "") == "full"' in told


def test_what_is_installed_is_compiled() -> None:
    """Otherwise each start compiles it, wherever nothing may be written later."""
    packages = ("sqlalchemy.sql.compiler", "uvicorn.config", "alembic.config")
    own = ("orchd.engine.engine", "orchd_eventstore.store", "orchd_ops.cli.root")
    for name in (*packages, *own):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.cached is not None
        assert Path(found.cached).is_file(), name
