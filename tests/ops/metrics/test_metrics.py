"""The figures agree with the log, on a real engine and a real database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector as PrometheusCollector

from orchd.executors.port import Deferred, Failure, Final, RunContext, Success
from orchd.ledger.port import (
    ActOnTask,
    LedgerUnavailable,
    LogEntry,
    SetQueue,
)
from orchd.system import MICROSECONDS_PER_SECOND, RealSystem
from orchd.tasks.commands import Cancel, Requeue
from orchd.tasks.failures import ErrorClass
from orchd.verifiers.port import Broken, Passed, Rejected
from orchd_ops.metrics import Metrics
from support.engines import (
    ORIGIN,
    Harness,
    ScriptedExecutor,
    ScriptedVerifier,
    data_of,
    until,
)

FAMILIES = {
    "orchd_tasks_submitted_total": "counter",
    "orchd_tasks_started_total": "counter",
    "orchd_tasks_finished_total": "counter",
    "orchd_task_retries_total": "counter",
    "orchd_task_execution_seconds": "histogram",
    "orchd_task_verification_seconds": "histogram",
    "orchd_task_wait_seconds": "histogram",
    "orchd_queue_depth": "gauge",
    "orchd_queue_oldest_ready_age_seconds": "gauge",
    "orchd_worker_slots": "gauge",
    "orchd_dead_letters": "gauge",
    "orchd_breaker_state": "gauge",
    "orchd_leases_lost_total": "counter",
    "orchd_late_results_rejected_total": "counter",
    "orchd_log_events_total": "counter",
    "orchd_log_position": "gauge",
    "orchd_log_append_seconds": "histogram",
    "orchd_log_batch_size": "histogram",
    "orchd_llm_tokens_total": "counter",
    "orchd_llm_cost_usd_total": "counter",
    "orchd_build_info": "gauge",
}
USAGE = {
    "model": "claude-test",
    "usage": {"input_tokens": 5, "output_tokens": 7},
    "cost_usd": 0.25,
}
SUBMITTED = (
    "plain",
    "second",
    "retried",
    "dead",
    "final",
    "deferred",
    "judged",
    "far",
    "stopped",
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


LABELS = (
    "queue",
    "executor",
    "outcome",
    "error_class",
    "verifier",
    "model",
    "kind",
    "breaker",
    "type",
    "status",
    "state",
    "version",
    "python",
    "le",
)
"""In the order in which the figures are documented; a page sorts them by name."""


class Page:
    """A scraped page by family and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = self.samples.setdefault(sample.name, {})
                labels = sorted(sample.labels, key=LABELS.index)
                series[tuple(sample.labels[name] for name in labels)] = sample.value

    def __call__(self, name: str, *labels: str) -> float:
        return self.samples[name][labels]

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Return label values -> value, without zeros."""
        found = self.samples.get(name, {})
        return {labels: value for labels, value in found.items() if value}


async def scrape(metrics: Metrics) -> Page:
    metrics.forget_reading()
    _, body = await metrics.render()
    return Page(body.decode())


async def _work(context: RunContext) -> Any:
    plan = context.metadata.get("plan", [])
    step = plan[context.run - 1] if context.run <= len(plan) else "ok"
    if step == "fail":
        return Failure(error="no", error_class=ErrorClass.TIMEOUT)
    if step == "final":
        return Final(error="never")
    if step == "later":
        return Deferred(until=0, reason="not now")
    if step == "raise":
        raise RuntimeError("broken")
    if step == "wait":
        await asyncio.Event().wait()
    return Success(output="done", metadata=USAGE)


class Watched:
    """An engine whose metrics and log can be compared."""

    def __init__(self, harness: Harness, metrics: Metrics) -> None:
        self.harness = harness
        self.metrics = metrics

    async def submit(self, task_id: str, *plan: str, **more: Any) -> None:
        metadata = msgspec.Raw(msgspec.json.encode({"plan": plan}))
        await self.harness.submit(task_id, metadata=metadata, **more)

    async def log(self) -> list[LogEntry]:
        return await self.harness.ledger.log(after=0, limit=10_000)

    async def act(self, task_id: str, command: Any) -> None:
        request = ActOnTask(task_id=task_id, command=command, origin=ORIGIN)
        await self.harness.engine.request(request)

    @property
    def now(self) -> int:
        return self.harness.engine.clock.now()


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[Watched]:
    """One metrics observer around a ledger that does not exist before its engine."""
    executor = ScriptedExecutor(_work)
    judge = ScriptedVerifier(
        [Rejected(feedback="again"), Broken(error="down"), Passed(feedback="fine")]
    )
    harness = await Harness.open(database_url, [executor], [judge], start=False)
    metrics = Metrics(harness.ledger, system=RealSystem(), release="1.2.3")
    harness.engine.newsroom.add(metrics)
    metrics.set_slots(lambda: (harness.engine.running, harness.engine.slots))
    await harness.engine.start()
    yield Watched(harness, metrics)
    await harness.close()


async def _mixed_work(watched: Watched) -> None:
    await watched.submit("plain")
    await watched.submit("second", queue="other")
    await watched.submit("retried", "fail", "raise")
    await watched.submit("dead", "fail", "fail", "fail", queue="other")
    await watched.submit("final", "final")
    await watched.submit("deferred", "later")
    await watched.submit("judged", verifiers=("judge",))
    await watched.submit("far", run_at=watched.now + 10**12)
    await watched.submit("stopped", "wait")
    await until(lambda: watched.harness.engine.running > 0)
    await watched.act("far", Cancel(now=watched.now))
    await watched.act("stopped", Cancel(now=watched.now))
    await watched.harness.settle()
    await watched.act("dead", Requeue(now=watched.now))
    await watched.harness.settle()


def counted(log: list[LogEntry], *names: str) -> Counter[str]:
    return Counter(entry.type for entry in log if not names or entry.type in names)


async def test_every_counter_agrees_with_the_log(watched: Watched) -> None:
    await _mixed_work(watched)
    log, page = await watched.log(), await scrape(watched.metrics)
    queues, executors = {}, {}
    for entry in log:
        if entry.type == "task.submitted":
            queues[entry.stream] = data_of(entry).get("queue", "default")
            executors[entry.stream] = data_of(entry)["executor"]

    def by_queue(name: str) -> Counter[str]:
        return Counter(queues[entry.stream] for entry in log if entry.type == name)

    submitted = {(queue,): n for queue, n in by_queue("task.submitted").items()}
    assert page.series("orchd_tasks_submitted_total") == submitted
    started = {(queue, "work"): n for queue, n in by_queue("task.started").items()}
    assert page.series("orchd_tasks_started_total") == started
    finished = {
        (queue, "work", outcome): n
        for outcome in ("completed", "retried", "failed", "released", "cancelled")
        for queue, n in by_queue(f"task.{outcome}").items()
    }
    assert page.series("orchd_tasks_finished_total") == finished
    assert {outcome for _, _, outcome in finished} == {
        "completed",
        "retried",
        "failed",
        "released",
        "cancelled",
    }
    retries = Counter(
        (queues[entry.stream], "work", data_of(entry)["error_class"])
        for entry in log
        if entry.type == "task.retried"
    )
    assert page.series("orchd_task_retries_total") == retries
    assert set(executors.values()) == {"work"}


async def test_histograms_count_every_phase_and_every_wait(watched: Watched) -> None:
    await _mixed_work(watched)
    log, page = await watched.log(), await scrape(watched.metrics)
    starts = [data_of(entry) for entry in log if entry.type == "task.started"]
    executions = sum(start["phase"] == "execute" for start in starts)
    waits = page.series("orchd_task_wait_seconds_count")
    assert sum(waits.values()) == len(starts)
    counts = page.series("orchd_task_execution_seconds_count")
    assert sum(counts.values()) == executions
    assert page("orchd_task_verification_seconds_count", "judge") == 3


async def test_the_log_figures_agree_with_the_log(watched: Watched) -> None:
    await _mixed_work(watched)
    log, page = await watched.log(), await scrape(watched.metrics)
    by_type = {(name,): count for name, count in counted(log).items()}
    assert page.series("orchd_log_events_total") == by_type
    assert page("orchd_log_position") == log[-1].position == len(log)
    assert page("orchd_log_batch_size_sum") == len(log)
    assert page("orchd_log_append_seconds_count") == page("orchd_log_batch_size_count")


async def test_depths_and_dead_letters_describe_the_database(watched: Watched) -> None:
    await _mixed_work(watched)
    page = await scrape(watched.metrics)
    depth = page.series("orchd_queue_depth")
    states: Counter[tuple[str, str]] = Counter()
    for task_id in SUBMITTED:
        state = await watched.harness.task(task_id)
        states[(state.queue, state.status.value)] += 1
    assert depth == states
    assert page("orchd_dead_letters", "default") == states["default", "failed"]
    assert page("orchd_worker_slots", "used") == 0
    assert page("orchd_worker_slots", "free") == watched.harness.engine.slots


async def test_the_age_of_the_oldest_ready_task_is_shown(watched: Watched) -> None:
    pause = SetQueue(name="default", pause=True, now=watched.now, origin=ORIGIN)
    await watched.harness.engine.request(pause)
    await watched.submit("waits")
    await asyncio.sleep(0.05)
    ledger = watched.harness.ledger
    since = (await watched.harness.task("waits")).updated_at
    before = await ledger.now()
    page = await scrape(watched.metrics)
    after = await ledger.now()
    age = page("orchd_queue_oldest_ready_age_seconds", "default")
    assert before <= since + round(age * MICROSECONDS_PER_SECOND) <= after


async def test_cost_of_recorded_results_is_summed(watched: Watched) -> None:
    await watched.submit("a")
    await watched.submit("b", verifiers=("judge",))
    await watched.harness.settle()
    log, page = await watched.log(), await scrape(watched.metrics)
    results = sum("result" in data_of(entry) for entry in log)
    assert results == 3
    assert page("orchd_llm_tokens_total", "claude-test", "input") == 5 * results
    assert page("orchd_llm_tokens_total", "claude-test", "output") == 7 * results
    assert page("orchd_llm_cost_usd_total", "claude-test") == 0.25 * results


async def test_breakers_show_their_position(watched: Watched) -> None:
    from orchd.breakers import Close, Open
    from orchd.ledger.port import ActOnBreaker

    opened = Open(now=watched.now, failures=5, error="down", cooldown=10**12)
    request = ActOnBreaker(name="other", command=opened, origin=ORIGIN)
    await watched.harness.engine.request(request)
    assert (await scrape(watched.metrics))("orchd_breaker_state", "other") == 2
    closed = ActOnBreaker(name="other", command=Close(now=watched.now), origin=ORIGIN)
    await watched.harness.engine.request(closed)
    assert (await scrape(watched.metrics))("orchd_breaker_state", "other") == 0


async def test_every_family_is_exposed_before_anything_happened(watched: Watched) -> None:
    page = await scrape(watched.metrics)
    for name, kind in FAMILIES.items():
        assert f"# TYPE {name} {kind}\n" in page.text, name
        assert f"# HELP {name} " in page.text, name
    assert "_created" not in page.text


async def test_no_label_holds_a_task_id(watched: Watched) -> None:
    await watched.submit("very-special-id", "fail")
    await watched.harness.settle()
    assert "very-special-id" not in (await scrape(watched.metrics)).text


async def test_openmetrics_is_given_to_who_asks_for_it(watched: Watched) -> None:
    content_type, body = await watched.metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    strange = "application/openmetrics-text;version=abc"
    for accept in ("text/html", strange):
        content_type, _ = await watched.metrics.render(accept)
        assert content_type.startswith("text/plain; version=")


async def test_a_scrape_survives_a_database_that_is_away(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watched.submit("a")
    await watched.harness.settle()
    before = (await scrape(watched.metrics))("orchd_log_position")

    async def away() -> int:
        raise LedgerUnavailable("the database is away")

    monkeypatch.setattr(watched.harness.ledger, "look", away)
    page = await scrape(watched.metrics)
    assert page("orchd_log_position") == before
    assert page("orchd_log_reading_age_seconds") > 0


async def test_a_database_that_hangs_delays_a_scrape_by_the_patience_only(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()

    async def hangs() -> int:
        await release.wait()
        return 0

    monkeypatch.setattr("orchd_ops.metrics.metrics.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(watched.harness.ledger, "look", hangs)
    async with asyncio.timeout(5):
        pages = [await scrape(watched.metrics) for _ in range(3)]
    assert all("orchd_build_info" in page.samples for page in pages)
    release.set()


async def test_results_cannot_make_endless_series(watched: Watched) -> None:
    from orchd_ops.metrics.usage import Usage

    for number in range(200):
        usage = Usage(model=f"m{number}", tokens={"input": 1}, cost_usd=None)
        watched.metrics.count_usage(usage)
    series = (await scrape(watched.metrics)).series("orchd_llm_tokens_total")
    assert len(series) == 65
    assert series["other", "input"] == 200 - 64


def test_the_database_families_name_nothing_before_they_are_read() -> None:
    from orchd_ops.metrics.database import DatabaseFamilies

    families: PrometheusCollector = DatabaseFamilies(
        last=lambda: None,
        age_seconds=lambda: None,
        slots=lambda: None,
        executors=lambda: ("work",),
    )
    samples = {f.name: [s.value for s in f.samples] for f in families.collect()}
    assert samples["orchd_breaker_state"] == [0]
    assert samples["orchd_log_position"] == []
