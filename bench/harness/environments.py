"""The environment of each peer: its pinned packages and nothing of anybody else's.

They are made below `bench/.environments` by the first run that needs them, and again when
their pins change. What a run installs comes from the pins with their hashes alone.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.paths import BENCH, ENVIRONMENTS, PEERS

STAMP = ".stamp"


class CannotSetUp(Exception):
    """An environment cannot be made; the text says why."""


def python_of(name: str) -> str:
    """Return the Python of an environment, which is made first if need be.

    Raises:
        CannotSetUp: its packages cannot be installed.
    """
    pins = PEERS / name / "requirements.txt"
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not _is_fresh(folder, [pins]):
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _install(python, pins)
        _mark_fresh(folder, [pins])
    return str(python)


def packages_of(name: str) -> Path:
    """Return the folder that holds the `node_modules` of an environment, made if need be.

    Raises:
        CannotSetUp: there is no Node, or the packages cannot be installed.
    """
    pins = [PEERS / name / file for file in ("package.json", "package-lock.json")]
    folder = ENVIRONMENTS / name
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotSetUp("there is no Node.js on the path")
    if not _is_fresh(folder, pins):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in pins:
            shutil.copy2(file, folder)
        # No package of another may run programs of its own while it is installed.
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
        _mark_fresh(folder, pins)
    return folder


def compile_checkout() -> None:
    """Compile orchd, as whatever is installed is.

    Python does it by itself, but not where $PYTHONDONTWRITEBYTECODE is set, and a checkout
    that was edited would compile itself at each start.
    """
    for name in ("daemon", "eventstore", "migrations", "ops"):
        compileall.compile_dir(BENCH.parent / name, quiet=1)


def _install(python: Path, pins: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        quietly = ["install", "--quiet", "--compile-bytecode"]
        install = [str(uv), "pip", *quietly, "--python", str(python)]
    else:
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        install = [*pip, "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "--require-hashes", "-r", str(pins)])


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise CannotSetUp(f"{os.path.basename(command[0])} failed: {' '.join(said)}")


def _digest(files: list[Path]) -> str:
    content = b"\0".join(file.read_bytes() for file in files)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def _is_fresh(folder: Path, pins: list[Path]) -> bool:
    stamp = folder / STAMP
    return stamp.exists() and stamp.read_text() == _digest(pins)


def _mark_fresh(folder: Path, pins: list[Path]) -> None:
    (folder / STAMP).write_text(_digest(pins))
