"""The yardstick itself: it measures orchd and the bound, and the bound tells no lies."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from harness import loads, report
from harness.comparison import DRAIN, RAW, TO_ANCHOR, Comparison
from harness.goals import GOALS, verdicts
from harness.line_process import until
from harness.paths import PEERS
from harness.progress import Progress
from harness.roster import CONTESTANTS, by_name
from harness.samples import Samples
from harness.servers import Servers, SqlitePlace
from harness.sizes import SIZES
from orchd.maintenance.replay import check
from orchd.system import RealSystem
from peers.protocol import NOOP
from support.checkout import ROOT

TASKS = 200
PINNED = sorted(PEERS.glob("*/requirements.txt"))
LOCKED = sorted(PEERS.glob("*/package-lock.json"))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="ob") as folder:
        yield Path(folder)


def test_orchd_and_the_bound_are_measured_side_by_side(
    short_path: Path, tmp_path: Path
) -> None:
    sizes = msgspec.structs.replace(SIZES["tiny"], drain_tasks_min=TASKS)
    taking_part = [by_name("orchd-sqlite"), by_name("bound-sqlite")]
    with ExitStack() as stack:
        servers = Servers(stack, short_path)
        comparison = Comparison(
            taking_part, sizes, servers, short_path, Progress(), {RAW, DRAIN}
        )
        samples = comparison.run()
    assert samples.failures == []
    for name in ("orchd-sqlite", "bound-sqlite"):
        for metric in ("drain_per_second", "bulk_per_second", "bytes_per_task", TO_ANCHOR):
            [value] = samples.values(name, metric)
            assert value > 0
    assert len(samples.values("raw-sqlite", "lifecycles_per_second")) == len(taking_part)
    saved = json.loads(report.save(samples, {}, tmp_path).read_text())
    assert saved["samples"] == samples.as_dict()
    assert len(saved["goals"]) == len(GOALS)
    assert "orchd, SQLite FULL" in (tmp_path / "comparison.md").read_text()


def test_what_the_bound_writes_is_what_orchd_would_write(short_path: Path) -> None:
    """Else it would be no bound: less work is no measure of this work."""
    place = SqlitePlace(short_path)
    trial = by_name("bound-sqlite").open(place, short_path)
    try:
        trial.enqueue(NOOP, TASKS)
        trial.start_worker()
        assert until(lambda: trial.count_done() == TASKS, seconds=20)
    finally:
        trial.close()
    assert list(check(place.url, system=RealSystem())) == []


@pytest.mark.parametrize(
    ("sights", "rate"),
    [
        ([(0, 0), (1, 0), (2, 100), (3, 200), (4, 300), (5, 300)], 100),
        ([(0, 0), (1, 0), (2, 300), (3, 300)], 150),
        ([(0, 50), (1, 50), (2, 150), (4, 350)], 100),
    ],
    ids=["from first to last end", "all at once", "others were finished before"],
)
def test_the_rate_of_a_drain(sights: list[tuple[float, int]], rate: float) -> None:
    assert math.isclose(loads.drained_per_second(sights), rate)


def test_a_drain_that_never_begins_is_no_rate() -> None:
    with pytest.raises(loads.NoProgress):
        loads.drained_per_second([(0, 0), (60, 0)])


def _measured(drained: dict[str, float]) -> Samples:
    samples = Samples()
    for name, value in drained.items():
        samples.add(name, {"drain_per_second": value})
    return samples


@pytest.mark.parametrize(("ours", "reached"), [(999.0, False), (1000.0, True)])
def test_a_goal_is_reached_or_not_or_not_measured(ours: float, reached: bool) -> None:
    samples = _measured({"orchd-postgresql": ours, "graphile-worker": 1000.0})
    told = {verdict.goal: verdict.reached for verdict in verdicts(samples)}
    assert told["drain of orchd-postgresql to graphile-worker"] is reached
    assert told["drain of orchd-postgresql to pgqueuer"] is None


@pytest.mark.parametrize(("drained", "low"), [(3000.0, True), (3700.0, False)])
def test_a_peer_below_its_reference_is_marked(drained: float, low: bool) -> None:
    samples = _measured({"pgqueuer": drained})
    samples.add("pgqueuer", {TO_ANCHOR: drained / 8733})
    assert report.below_reference(by_name("pgqueuer"), samples) is low
    assert ("⚠" in report.text(samples, {})) is low


def test_everybody_has_a_name_of_their_own() -> None:
    names = [contestant.name for contestant in CONTESTANTS]
    assert len(set(names)) == len(names)


def test_peers_are_pinned() -> None:
    assert len(PINNED) >= 6
    assert len(LOCKED) >= 2


@pytest.mark.parametrize("path", PINNED, ids=lambda path: str(path.relative_to(ROOT)))
def test_peers_in_python_are_pinned_by_hash_and_name_no_address(path: Path) -> None:
    text = path.read_text()
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.match(
            r"[a-z0-9-]+(\[[a-z]+\])?==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", entry
        )
        assert "//" not in entry


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_peers_on_node_are_pinned_by_hash_and_name_no_address(path: Path) -> None:
    packages = json.loads(path.read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package
        assert not name or package["integrity"].startswith("sha512-")
