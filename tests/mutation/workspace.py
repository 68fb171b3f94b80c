"""A copy of the project, with a Python of its own that imports nothing but the copy."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mutation.mutation import Edit
from support import checkout


class Workspace:
    """A directory that holds a copy of the project, for changes that nobody keeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tests = root / "tests"
        self.programs = root / ".venv" / "bin"
        self.python = self.programs / "python"

    def apply(self, edits: Iterable[Edit]) -> None:
        """Make the replacements; raises what `Edit.applied` raises."""
        for edit in edits:
            path = self.root / edit.file
            path.write_text(edit.applied(path.read_text()))


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Make a copy of the checkout, and remove it afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="orchd-mutation-", ignore_cleanup_errors=True
    ) as directory:
        made = Workspace(Path(directory))
        # Programs of other users, such as PostgreSQL's, read files in it.
        made.root.chmod(0o755)
        _copy_files(made)
        _make_python(made)
        yield made


def _copy_files(made: Workspace) -> None:
    for path in checkout.files():
        target = made.root / path.relative_to(checkout.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _make_python(made: Workspace) -> None:
    """Make an environment that finds the copy first, then whatever is installed here.

    What is installed is found as a plain directory: the file in it that leads to the
    checkout is not read, so that nothing of the checkout can be taken for the copy.
    """
    venv.EnvBuilder(symlinks=True).create(made.root / ".venv")
    paths = {"base": str(made.root / ".venv"), "platbase": str(made.root / ".venv")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    installed = sysconfig.get_path("purelib")
    roots = [str(made.root / folder) for folder in _source_roots(made.root)]
    (site / "copy.pth").write_text("\n".join([*roots, installed, ""]))
    for program in Path(sys.executable).parent.iterdir():
        own = made.programs / program.name
        if program.name == "orchd":
            own.write_text(program.read_text().replace(sys.executable, str(made.python)))
            own.chmod(0o755)
        elif not own.exists():
            own.symlink_to(program)


def _source_roots(root: Path) -> list[str]:
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    roots: list[str] = settings["tool"]["hatch"]["build"]["dev-mode-dirs"]
    return roots
