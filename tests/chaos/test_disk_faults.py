"""A disk that is full or fails costs nothing that was acknowledged, and no work.

The daemon stays up, says what is wrong, refuses what it cannot keep, and goes on by
itself when the disk is well again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.disk_faults import on_small_disk
from chaos.disk_outage import SCENARIOS
from chaos.sizes import FULL

TESTS = Path(__file__).parents[1]
SHOWN_CHARACTERS = 20_000


@pytest.mark.timeout(3600 if FULL else 240)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk_that_fails_loses_nothing(home: Path, scenario: str) -> None:
    disk = home / "disk"
    disk.mkdir()
    program = [sys.executable, "-m", "chaos.disk_outage", scenario, str(home)]
    done = subprocess.run(
        on_small_disk(disk, program),
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-SHOWN_CHARACTERS:]
