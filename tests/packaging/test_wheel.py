"""The wheel alone, installed as users install it, far from any checkout."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

import orchd_migrations
from support import checkout

PACKAGES = {"orchd", "orchd_eventstore", "orchd_migrations", "orchd_ops"}
# What the extra `postgres` adds to the requirements.
POSTGRES = {"psycopg", "psycopg-binary"}


@dataclasses.dataclass(frozen=True)
class Installed:
    """An environment that holds orchd's wheel and what it requires, and no more."""

    python: Path
    site: Path
    home: Path

    def run(self, *arguments: str) -> str:
        """Run a program of the environment as a stranger would; return its output."""
        program, *rest = arguments
        ran = subprocess.run(
            [str(self.python.with_name(program)), *rest],
            cwd=self.home,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def _environment(self) -> dict[str, str]:
        # Neither a home nor the tests' own paths; compiled modules go to one place,
        # because nothing may be written beside the installed ones.
        return {
            "PATH": "/usr/bin:/bin",
            "TMPDIR": str(self.home),
            "PYTHONPYCACHEPREFIX": str(self.home / "compiled"),
        }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the project's files."""
    copy = tmp_path_factory.mktemp("source")
    for path in checkout.files():
        target = copy / path.relative_to(checkout.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    _check([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], copy)
    (built,) = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel in an environment of its own, whose packages cannot be written."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    python = place / "venv" / "bin" / "python"
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    for name in _required():
        _copy_distribution(name, site)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    offline = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    _check([*pip, str(python), *offline, str(wheel)], place)
    home = place / "elsewhere"
    home.mkdir()
    _set_writable(site, False)
    yield Installed(python=python, site=site, home=home)
    _set_writable(site, True)


def _check(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _required() -> set[str]:
    """Return the names of the pinned requirements that apply to this machine."""
    text = (checkout.ROOT / "requirements" / "run.txt").read_text()
    pins = [
        Requirement(line.split(" \\")[0].split(" --hash")[0])
        for line in text.splitlines()
        if re.match(r"[a-z]", line)
    ]
    applying = {pin.name for pin in pins if pin.marker is None or pin.marker.evaluate()}
    assert applying
    return applying | POSTGRES


def _copy_distribution(name: str, site: Path) -> None:
    """Copy what the developers' environment holds of `name`: the same pins, no network."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # programs, which orchd does not start, and what Python makes anew
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(distribution.locate_file(file)), target)


def _set_writable(folder: Path, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755 if writable else 0o555)


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file, because root may write to what is read-only."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    tops = {name.parts[0] for name in names}
    (information,) = tops - PACKAGES
    assert information.endswith(".dist-info")
    assert tops & PACKAGES == PACKAGES
    assert not [name for name in names if "tests" in name.parts or name.suffix == ".pyc"]


def test_the_wheel_holds_the_data_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "orchd_ops/deploy/orchd.service" in names
    assert "orchd_migrations/script.py.mako" in names
    for kind in ("sqlite", "postgresql"):
        scripts = {
            name
            for name in names
            if name.startswith("orchd_migrations/sql/") and name.endswith(f".{kind}.sql")
        }
        assert len(scripts) == len(orchd_migrations.REVISIONS)


def test_every_file_of_the_source_roots_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        "/".join(path.relative_to(checkout.ROOT).parts[1:])
        for path in checkout.files()
        if path.relative_to(checkout.ROOT).parts[0]
        in ("daemon", "eventstore", "migrations", "ops")
    }
    assert sources
    assert sources - names == set()


def test_what_runs_is_the_wheel_and_not_the_checkout(installed: Installed) -> None:
    program = "import orchd, sys; print(orchd.__file__); print(*sys.path, sep='\\n')"
    module, *paths = installed.run("python", "-c", program).splitlines()
    assert Path(module).is_relative_to(installed.site)
    assert not [path for path in paths if path.startswith(str(checkout.ROOT))]


def test_the_installed_program_tells_its_version(installed: Installed) -> None:
    version = importlib.metadata.version("orchd")
    assert installed.run("orchd", "--version") == f"orchd {version}\n"


def test_the_demonstration_runs_from_the_wheel_and_writes_nothing_to_it(
    installed: Installed,
) -> None:
    before = _listing(installed.site)
    told = installed.run("orchd", "demo")
    assert "haiku      ✓ completed" in told
    assert "failed for good" in told
    _try_what_is_hinted(installed, told)
    assert _listing(installed.site) == before


def _try_what_is_hinted(installed: Installed, told: str) -> None:
    """Run a command that the demonstration names, where no `orchd` is on the path."""
    (hint,) = [line for line in told.splitlines() if line.endswith("replay --check")]
    program, *rest = shlex.split(hint)
    assert program == str(installed.python.with_name("orchd"))
    assert installed.run("orchd", *rest) == ""


def test_the_schema_is_made_from_the_wheel(installed: Installed, database_url: str) -> None:
    orchd = ("orchd", "--database", database_url, "db")
    assert orchd_migrations.HEAD in installed.run(*orchd, "upgrade")
    assert installed.run(*orchd, "current") == f"{orchd_migrations.HEAD}\n"
    assert "up to date" in installed.run(*orchd, "check")


def test_without_a_home_there_is_still_a_place_for_the_state(
    installed: Installed,
) -> None:
    lines = installed.run("orchd", "config", "show").splitlines()
    (shown,) = [line.split() for line in lines if line.startswith("database ")]
    assert re.fullmatch(r"sqlite:////.*/\.local/state/orchd/orchd\.db", shown[1])
    assert shown[2] == "default"
