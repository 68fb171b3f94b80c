"""The project's own files, without what was built from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = (
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "build",
    "dist",
)


def files() -> list[Path]:
    """Return what belongs to the project: neither ignored nor built."""
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
    hidden = {"__pycache__", ".environments"} & set(path.parts)
    return bool(hidden) or path.parts[0] in BUILT
