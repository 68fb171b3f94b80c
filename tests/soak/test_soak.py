"""The soak of `make soak`, in small, and what it would say of a daemon that grows."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from soak.growth import faults, growth
from soak.samples import Sample

TESTS = Path(__file__).parents[1]
TASKS = 3_000


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_small_soak_leaves_samples_and_a_picture(tmp_path: Path, kind: str) -> None:
    kept, picture = tmp_path / "soak.csv", tmp_path / "soak.svg"
    # So few tasks say nothing of memory; the numbers that must not rise are held to that.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "soak", "--database", kind, "--interval", "0.02"),
            *("--tasks", str(TASKS), "--warm-up", "500", "--growth-max", "100000"),
            *("--csv", str(kept), "--plot", str(picture)),
        ],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.startswith(f"{TASKS:,} tasks on {kind} in "), done.stdout
    with kept.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert rows[-1]["tasks"] == str(TASKS)
    assert all(float(row["resident_mb"]) > 10 for row in rows)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def _seen(**of_number: Callable[[int], float]) -> list[Sample]:
    """Return samples, 10,000 tasks apart, of a daemon that is steady but for these."""
    steady = Sample(0, 0, 80.0, 16, 12)
    samples = []
    for number in range(40):
        changes: dict[str, Any] = {name: of(number) for name, of in of_number.items()}
        samples.append(steady._replace(tasks=number * 10_000, **changes))
    return samples


def _faults(samples: list[Sample]) -> list[str]:
    return [*faults(growth(samples, 200_000))]


def test_a_daemon_that_stays_as_it_is_has_no_faults() -> None:
    def busy(number: int) -> float:
        return 12 + number * 7 % 60 if number % 4 else 12

    assert _faults(_seen(asyncio_tasks=busy)) == []


def test_what_grows_before_the_warm_up_is_over_does_not_count() -> None:
    assert _faults(_seen(resident_mb=lambda number: min(number, 20) * 10.0)) == []


@pytest.mark.parametrize(("mb", "is_fault"), [(0.09, False), (0.11, True)])
def test_a_megabyte_for_each_100_000_tasks_is_too_much(mb: float, is_fault: bool) -> None:
    def waving(number: int) -> float:
        return 80 + mb * number + (number % 2) * 0.2

    found = _faults(_seen(resident_mb=waving))
    assert bool(found) is is_fault
    assert all("memory grew by" in fault for fault in found)


@pytest.mark.parametrize("name", ["descriptors", "asyncio_tasks"])
def test_a_number_whose_floor_rises_is_a_leak(name: str) -> None:
    def leaking(number: int) -> float:
        return 16 + number // 4 + number * 7 % 30

    [fault] = _faults(_seen(**{name: leaking}))
    assert name.replace("_", " ") in fault


def test_too_few_samples_prove_nothing() -> None:
    with pytest.raises(ValueError, match="samples"):
        growth(_seen()[:22], 200_000)
