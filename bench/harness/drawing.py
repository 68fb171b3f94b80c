"""Has the results drawn, in the environment that holds matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.environments import CannotSetUp, python_of
from harness.paths import BENCH


def draw(kind: str, path: Path) -> None:
    """Draw `comparison` or `growth` beside its results, or say why not."""
    try:
        python = python_of("tools")
    except CannotSetUp as error:
        print(f"no pictures: {error}", file=sys.stderr)
        return
    command = [python, "-m", "harness.plots", kind, str(path), str(path.parent)]
    subprocess.run(command, cwd=BENCH, check=True)
    print(f"pictures are in {path.parent}", file=sys.stderr)
