"""The measurement is real, and nothing of it stays."""

from __future__ import annotations

from pathlib import Path

from orchd.maintenance.bench import run
from orchd.system import RealSystem
from support.tampering import query


def test_the_figures_are_there_and_the_place_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    report = run(database_url, system=RealSystem(), tasks=200, concurrency=16)
    figures = report.as_dict()
    assert all(
        figures[name] > 0 for name in figures if name.endswith(("second", "seconds"))
    )
    assert len(report.lines()) == 5
    assert list(tmp_path.iterdir()) == []
    if database_url.startswith("postgresql"):
        names = query(database_url, "SELECT datname FROM pg_database")
        assert not [name for (name,) in names if name.startswith("orchd_bench_")]
