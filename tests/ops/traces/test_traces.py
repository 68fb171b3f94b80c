"""A real engine on SQLite, exporting to a collector on a real socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from orchd.errors import ConfigurationError
from orchd.executors.port import Failure, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import Origin, SubmitTask
from orchd.verifiers.port import Rejected
from orchd_ops.traces import is_wanted, open_traces
from orchd_ops.traces.traces import Traces
from support.collector import Collector, collecting, values_of
from support.engines import Harness, ScriptedExecutor, ScriptedVerifier

GIVEN_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN_SPAN = "00f067aa0ba902b7"
GIVEN = f"00-{GIVEN_TRACE}-{GIVEN_SPAN}-01"
USAGE = {
    "model": "claude-test",
    "usage": {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 11},
    "cost_usd": 0.25,
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def traces(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    opened = open_traces(release="1.2.3")
    assert opened is not None
    yield opened
    opened.close()


async def _work(context: RunContext) -> Any:
    if context.metadata.get("fail") and context.attempt == 1:
        return Failure(error="the first try always fails")
    return Success(output="done", metadata=USAGE)


@pytest.fixture
async def executor() -> ScriptedExecutor:
    return ScriptedExecutor(_work)


@pytest.fixture
async def harness(
    sqlite_url: str, traces: Traces, executor: ScriptedExecutor
) -> AsyncIterator[Harness]:
    judge = ScriptedVerifier([Rejected(feedback="not yet")])
    running = await Harness.open(sqlite_url, [executor], [judge], observers=[traces])
    yield running
    await running.close()


async def submit(
    harness: Harness, task_id: str, traceparent: str | None, **more: Any
) -> None:
    request = harness.request(task_id, **more)
    origin = Origin(actor="test", traceparent=traceparent)
    await harness.engine.request(
        SubmitTask(task_id=task_id, command=request.command, origin=origin)
    )
    await harness.settle()


def trace_of(span: Span) -> str:
    return span.trace_id.hex()


async def test_a_tasks_spans_hang_together_below_the_submitters_span(
    harness: Harness, collector: Collector
) -> None:
    await submit(harness, "a", GIVEN, verifiers=("judge",))
    task = collector.named("task")[0]
    attempts = sorted(
        collector.named("attempt", 2), key=lambda span: span.start_time_unix_nano
    )
    executions = collector.named("execute", 2)
    verifications = collector.named("verify", 2)
    everything = [task, *attempts, *executions, *verifications]
    assert {trace_of(span) for span in everything} == {GIVEN_TRACE}
    assert task.parent_span_id.hex() == GIVEN_SPAN
    assert {span.parent_span_id for span in attempts} == {task.span_id}
    for parts in (executions, verifications):
        assert {span.parent_span_id for span in parts} == {a.span_id for a in attempts}
    outcomes = [values_of(span)["orchd.outcome"] for span in attempts]
    assert outcomes == ["retried", "completed"]
    assert [span.status.code for span in attempts] == [
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]


async def test_spans_lie_within_the_times_of_the_log(
    harness: Harness, collector: Collector
) -> None:
    await submit(harness, "a", GIVEN)
    state = await harness.task("a")
    task = collector.named("task")[0]
    attempt = collector.named("attempt")[0]
    assert task.start_time_unix_nano == state.created_at * 1000
    assert task.end_time_unix_nano == state.updated_at * 1000
    assert task.start_time_unix_nano <= attempt.start_time_unix_nano
    assert attempt.end_time_unix_nano <= task.end_time_unix_nano


async def test_without_a_submitters_trace_the_task_is_the_root(
    harness: Harness, collector: Collector
) -> None:
    await submit(harness, "a", None)
    task, attempt = collector.named("task")[0], collector.named("attempt")[0]
    assert task.parent_span_id == b""
    assert trace_of(attempt) == trace_of(task)


async def test_a_run_hands_on_its_own_span(
    harness: Harness, collector: Collector, executor: ScriptedExecutor
) -> None:
    await submit(harness, "a", GIVEN)
    attempt = collector.named("attempt")[0]
    expected = f"00-{GIVEN_TRACE}-{attempt.span_id.hex()}-01"
    assert [context.traceparent for context in executor.calls] == [expected]


async def test_a_trace_that_the_submitter_does_not_sample_is_not_exported(
    harness: Harness, collector: Collector, executor: ScriptedExecutor
) -> None:
    await submit(harness, "a", GIVEN.removesuffix("01") + "00")
    await submit(harness, "b", GIVEN)
    collector.named("task")
    collector.named("execute")
    collector.named("chat claude-test")
    names = sorted(span.name for span in collector.spans)
    assert names == ["attempt", "chat claude-test", "execute", "task"]
    assert values_of(collector.named("task")[0])["orchd.task.id"] == "b"
    assert str(executor.calls[0].traceparent).endswith("-00")


async def test_a_model_call_follows_the_genai_conventions(
    harness: Harness, collector: Collector
) -> None:
    await submit(harness, "a", GIVEN)
    chat = collector.named("chat claude-test")[0]
    values = values_of(chat)
    assert chat.parent_span_id == collector.named("execute")[0].span_id
    assert chat.kind == Span.SPAN_KIND_CLIENT
    assert values["gen_ai.provider.name"] == "anthropic"
    assert values["gen_ai.operation.name"] == "chat"
    assert values["gen_ai.usage.input_tokens"] == 16
    assert values["gen_ai.usage.output_tokens"] == 7


async def test_a_failure_is_an_error_on_its_spans(
    harness: Harness, collector: Collector
) -> None:
    import msgspec

    await submit(harness, "a", GIVEN, metadata=msgspec.Raw(b'{"fail":true}'))
    first = min(collector.named("execute", 2), key=lambda span: span.start_time_unix_nano)
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert values_of(first)["error.type"] == "failure"


async def test_the_resource_names_the_service(
    harness: Harness, collector: Collector
) -> None:
    await submit(harness, "a", GIVEN)
    collector.named("task")
    assert collector.resource["service.name"] == "orchd"
    assert collector.resource["service.version"] == "1.2.3"


async def test_a_collector_that_hangs_changes_nothing(
    harness: Harness, collector: Collector
) -> None:
    collector.release.clear()
    for number in range(20):
        await submit(harness, f"t{number}", GIVEN)
    assert collector.requested.is_set()
    states = [await harness.task(f"t{number}") for number in range(20)]
    assert {state.status for state in states} == {TaskStatus.COMPLETED}


async def test_a_collector_that_is_away_changes_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as gone:
        endpoint = gone.endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    opened = open_traces()
    assert opened is not None
    harness = await Harness.open(sqlite_url, [ScriptedExecutor(_work)], observers=[opened])
    await submit(harness, "a", GIVEN)
    state = await harness.task("a")
    await harness.close()
    opened.close()
    assert state.status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_an_exporter_that_orchd_lacks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER"):
        is_wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_TRACES_EXPORTER": "zipkin"})


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    missing = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "orchd_ops.traces.provider", raising=False)
    with pytest.raises(ConfigurationError, match=r"orchd\[otlp\]"):
        open_traces()


def test_nothing_of_opentelemetry_is_imported_when_off() -> None:
    program = (
        "import sys; from orchd_ops.traces import open_traces as o; assert o() is None;"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={}
    )
    assert ran.stdout.strip() == "[]"
