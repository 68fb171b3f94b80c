"""One trace a task: `task` → `attempt` → `execute` and `verify`, and `chat` for a model.

Spans are made when what they describe has ended, with the times that are in the log or
were measured, so nothing is held open between a task's runs.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from orchd.engine.observer import Observer, PhaseTiming, TaskNews
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks import events as e
from orchd.tasks.state import TaskState
from orchd_ops.metrics.usage import Usage, usage_of
from orchd_ops.traces import identity
from orchd_ops.traces.identity import SpanPlace
from orchd_ops.traces.provider import ChosenIds

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""Longest time that closing waits for the exporter."""
EXECUTIONS_MAX = 10_000
"""Most executions whose times are remembered until their run ends."""
NANOSECONDS = 1_000
"""In a microsecond."""

RUN_ENDS: Mapping[type[object], str] = {
    e.TaskCompleted: "completed",
    e.TaskRetried: "retried",
    e.TaskFailed: "failed",
    e.TaskReleased: "released",
    e.TaskCancelled: "cancelled",
}
ROUND_ENDS = (e.TaskCompleted, e.TaskFailed, e.TaskCancelled)
BAD_ENDS = frozenset({"retried", "failed"})
BAD_PHASE_ENDS = frozenset({"failure", "final", "broken"})

Attributes = dict[str, AttributeValue]


class _Moments(NamedTuple):
    started_at: int
    ended_at: int


class Traces(Observer):
    """Exports what happened to the tasks that this process worked on.

    Args:
        provider: what exports; closed by `close`.
        ids: the provider's generator of ids.
    """

    def __init__(self, provider: TracerProvider, ids: ChosenIds) -> None:
        self._provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer("orchd")
        self._executions: OrderedDict[tuple[str, int], _Moments] = OrderedDict()

    def close(self) -> None:
        """Export what is left, for at most `CLOSE_SECONDS`. Idempotent."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            logger.warning("the last traces could not be exported in time")

    # --- where things belong ----------------------------------------------------------

    def traceparent(self, state: TaskState) -> str | None:
        """Return the trace context that a run hands on: its own span `attempt`."""
        place = self._root(state)
        span_id = identity.attempt_span_id(state.id, state.runs)
        return str(place._replace(span_id=span_id))

    def _root(self, state: TaskState) -> SpanPlace:
        # The sampler decides by the submitter's context and the trace id, which are the
        # same in every daemon, so all of them keep or drop the same traces.
        trace_id = identity.trace_id_of(state)
        parent = _context(identity.parse(state.traceparent))
        sampler = self._provider.sampler
        decision = sampler.should_sample(parent, trace_id, "task").decision
        span_id = identity.task_span_id(state.id, state.round)
        sampled = decision is Decision.RECORD_AND_SAMPLE
        return SpanPlace(trace_id, span_id, sampled)

    # --- news of the engine -----------------------------------------------------------

    def phase_ended(self, timing: PhaseTiming) -> None:
        """Export the span of an execution or a verification."""
        context = timing.context
        place = identity.parse(context.traceparent)
        ended_at = timing.started_at + round(timing.seconds * MICROSECONDS_PER_SECOND)
        moments = _Moments(timing.started_at, ended_at)
        if timing.phase == "execute":
            self._remember((context.task_id, context.run), moments)
            span_id = identity.execute_span_id(context.task_id, context.run)
        else:
            span_id = identity.verify_span_id(
                context.task_id, context.run, timing.verifier or ""
            )
        if place is None or not place.sampled:
            return
        attempt = identity.attempt_span_id(context.task_id, context.run)
        bad = timing.outcome in BAD_PHASE_ENDS
        self._export(
            timing.phase,
            place._replace(span_id=attempt),
            span_id,
            moments,
            _phase_attributes(timing),
            error=timing.outcome if bad else None,
        )

    def _remember(self, key: tuple[str, int], moments: _Moments) -> None:
        self._executions[key] = moments
        if len(self._executions) > EXECUTIONS_MAX:
            self._executions.popitem(last=False)

    def task_moved(self, news: TaskNews) -> None:
        """Export the spans of a run and of a round that ended."""
        for event in news.events:
            outcome = RUN_ENDS.get(type(event))
            root = self._root(news.after)
            if isinstance(event, e.TaskExecuted | e.TaskCompleted) and root.sampled:
                self._export_chat(news, event, root)
            if outcome is None:
                continue
            run = getattr(event, "run", None)
            if run is not None:
                self._executions.pop((news.after.id, run), None)
            if not root.sampled:
                continue
            if run is not None:
                self._export_attempt(news, run, outcome, root)
            if isinstance(event, ROUND_ENDS):
                self._export_task(news.after, outcome, root)

    def _export_attempt(
        self, news: TaskNews, run: int, outcome: str, root: SpanPlace
    ) -> None:
        before, after = news.before, news.after
        started_at = None if before is None else before.started_at
        error = after.error_class if outcome in BAD_ENDS else None
        attributes = _task_attributes(after) | {"orchd.run": run, "orchd.outcome": outcome}
        if before is not None:
            attributes["orchd.attempt"] = before.attempts
            attributes["orchd.phase"] = before.phase.value
        moments = _Moments(started_at or after.updated_at, after.updated_at)
        span_id = identity.attempt_span_id(after.id, run)
        self._export("attempt", root, span_id, moments, attributes, error=error)

    def _export_task(self, task: TaskState, outcome: str, root: SpanPlace) -> None:
        attributes = _task_attributes(task) | {
            "orchd.outcome": outcome,
            "orchd.round": task.round,
            "orchd.runs": task.runs,
            "orchd.attempts": task.attempts,
        }
        error = task.error_class if outcome in BAD_ENDS else None
        submitter = identity.parse(task.traceparent)
        self._ids.trace_id = root.trace_id
        moments = _Moments(task.created_at, task.updated_at)
        self._export("task", submitter, root.span_id, moments, attributes, error=error)

    def _export_chat(
        self, news: TaskNews, event: e.TaskExecuted | e.TaskCompleted, root: SpanPlace
    ) -> None:
        usage = usage_of(event.result_metadata)
        if usage is None:
            return
        task_id, run = news.after.id, event.run
        at = news.after.updated_at
        moments = self._executions.get((task_id, run), _Moments(at, at))
        parent = root._replace(span_id=identity.execute_span_id(task_id, run))
        self._export(
            f"chat {usage.model}",
            parent,
            identity.chat_span_id(task_id, run),
            moments,
            _chat_attributes(usage),
            kind=SpanKind.CLIENT,
        )

    def _export(
        self,
        name: str,
        parent: SpanPlace | None,
        span_id: int,
        moments: _Moments,
        attributes: Attributes,
        *,
        error: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        self._ids.span_id = span_id
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=kind,
            attributes=attributes,
            start_time=moments.started_at * NANOSECONDS,
        )
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(max(moments.started_at, moments.ended_at) * NANOSECONDS)


def _context(place: SpanPlace | None) -> Context:
    # Never the ambient context: what happens to run on this thread is not the parent.
    if place is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _task_attributes(task: TaskState) -> Attributes:
    attributes: Attributes = {
        "orchd.task.id": task.id,
        "orchd.queue": task.queue,
        "orchd.executor": task.executor,
    }
    if task.worker is not None:
        attributes["orchd.worker"] = task.worker
    return attributes


def _phase_attributes(timing: PhaseTiming) -> Attributes:
    context = timing.context
    attributes: Attributes = {
        "orchd.task.id": context.task_id,
        "orchd.queue": context.queue,
        "orchd.executor": timing.executor,
        "orchd.run": context.run,
        "orchd.attempt": context.attempt,
        "orchd.outcome": timing.outcome,
    }
    if timing.verifier is not None:
        attributes["orchd.verifier"] = timing.verifier
    return attributes


def _chat_attributes(usage: Usage) -> Attributes:
    # Names of the OpenTelemetry GenAI conventions; its input tokens include cached ones.
    tokens = usage.tokens
    cached = tokens.get("cache_read", 0), tokens.get("cache_write", 0)
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": usage.model,
        "gen_ai.response.model": usage.model,
        "gen_ai.usage.input_tokens": tokens.get("input", 0) + sum(cached),
        "gen_ai.usage.output_tokens": tokens.get("output", 0),
        "gen_ai.usage.cache_read.input_tokens": cached[0],
        "gen_ai.usage.cache_creation.input_tokens": cached[1],
    }
    if usage.model.startswith("claude"):
        attributes["gen_ai.provider.name"] = "anthropic"
    return attributes
