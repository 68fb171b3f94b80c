"""The house rules that no linter knows: layers, sizes, words, pins, lazy imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("daemon", "eventstore", "migrations", "ops")
BUILT = (
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "build",
    "dist",
)
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# What the command line must not wait for: together they take seconds to import.
HEAVY_MODULES = ("anthropic", "sqlalchemy")
LIGHT_STATEMENTS = ("import orchd", "import orchd_ops")

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


def _files() -> list[Path]:
    """What belongs to the project: neither ignored nor built."""
    if not (ROOT / ".git").exists():
        # The sources came as an archive, so nothing but .venv has been added to them.
        found = (path for path in ROOT.rglob("*") if path.is_file())
        return [path for path in found if not _is_built(path.relative_to(ROOT))]
    # The checkout may belong to somebody else than the one who runs the tests.
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(
        [*git, "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def _is_built(path: Path) -> bool:
    return "__pycache__" in path.parts or path.parts[0] in BUILT


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _files():
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


@pytest.mark.parametrize("module", HEAVY_MODULES)
@pytest.mark.parametrize("statement", LIGHT_STATEMENTS)
def test_heavy_modules_stay_out_of_the_way(statement: str, module: str) -> None:
    program = f"import sys\n{statement}\nprint({module!r} in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "False\n"


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
