"""Draws the state machine by walking through it, so that the drawing cannot be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from orchd.interfaces import TaskStatus
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.machine import Refused, Stamped, decide, evolve
from orchd.tasks.state import Phase, ReleaseReason, TaskState

_NOW = 1_000_000
_WORKER = "worker"
_VERIFIER = "verifier"
_LABELS = {
    "pending": "pending",
    "pending_verify": "pending, its result unverified",
    "executing": "in progress: execute",
    "verifying": "in progress: verify",
    "completed": "completed",
    "failed": "failed (dead letter)",
    "cancelled": "cancelled",
    "discarded": "discarded",
}
_SUBMITTED = e.TaskSubmitted(
    description="task", executor="executor", verifiers=(_VERIFIER,), max_attempts=2
)
_META = e.EventMeta(schema=e.SCHEMA_VERSION, at=_NOW)

Edge = tuple[str, str]


def diagram() -> str:
    """Return the machine as a Mermaid state diagram.

    Every command is tried in every state that can be reached. Rejected late results and
    erasures are left out: they change no state.
    """
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{label}" as {node}' for node, label in _LABELS.items()]
    lines.append("    [*] --> pending: submitted")
    for (source, target), names in sorted(_edges().items()):
        lines.append(f"    {source} --> {target}: {', '.join(sorted(names))}")
    lines += [f"    {node} --> [*]" for node in ("completed", "cancelled", "discarded")]
    return "\n".join(lines) + "\n"


def _edges() -> dict[Edge, set[str]]:
    edges: dict[Edge, set[str]] = {}
    first = _evolve(None, _SUBMITTED)
    seen, frontier = {_essence(first)}, [first]
    while frontier:
        state = frontier.pop()
        for command in _commands(state):
            reached = _follow(state, command, edges)
            if _essence(reached) not in seen:
                seen.add(_essence(reached))
                frontier.append(reached)
    return edges


def _follow(
    state: TaskState, command: c.TaskCommand, edges: dict[Edge, set[str]]
) -> TaskState:
    try:
        happened = decide(state, command)
    except Refused:
        return state
    for event in happened:
        after = _evolve(state, event)
        if not isinstance(event, e.TaskLateResultRejected):
            edge = (_node(state), _node(after))
            name = e.event_name(event).removeprefix("task.")
            edges.setdefault(edge, set()).add(name)
        state = after
    return state


def _evolve(state: TaskState | None, event: e.TaskEvent) -> TaskState:
    version = 1 if state is None else state.version + 1
    return evolve(state, Stamped("task", version, event, _META))


def _node(state: TaskState) -> str:
    verify = state.phase is Phase.VERIFY
    if state.status is TaskStatus.PENDING:
        return "pending_verify" if verify else "pending"
    if state.status is TaskStatus.IN_PROGRESS:
        return "verifying" if verify else "executing"
    name: str = state.status.value
    return name


def _essence(state: TaskState) -> TaskState:
    # Numbers that only grow tell no two states apart, or the walk would never end.
    return msgspec.structs.replace(
        state,
        version=0,
        round=0,
        runs=0,
        token=None,
        crashes=min(state.crashes, 1),
        deferrals=0,
        verify_errors=0,
        passed_verifiers=tuple(sorted(set(state.passed_verifiers))),
    )


def _commands(state: TaskState) -> Iterator[c.TaskCommand]:
    yield c.Start(now=_NOW, worker=_WORKER, max_crashes=1)
    yield c.Recover(now=_NOW, worker=_WORKER)
    yield c.Cancel(now=_NOW)
    yield c.Discard(now=_NOW)
    for verify_only in (False, True):
        yield c.Requeue(now=_NOW, verify_only=verify_only)
    yield from _reports(state.token or 0, state.runs)


def _reports(token: int, run: int) -> Iterator[c.TaskCommand]:
    output, verdict = c.Output(result="result"), c.Verdict(verifier=_VERIFIER)
    yield c.RecordResult(now=_NOW, token=token, run=run, output=output)
    yield c.RecordPass(now=_NOW, token=token, run=run, verdict=verdict)
    yield c.ConfirmCancel(now=_NOW, token=token, run=run)
    yield c.Release(now=_NOW, token=token, run=run, reason=ReleaseReason.DRAIN)
    yield c.Release(
        now=_NOW, token=token, run=run, reason=ReleaseReason.LATER, max_deferrals=0
    )
    for final in (False, True):
        yield c.Fail(
            now=_NOW,
            token=token,
            run=run,
            error_class=ErrorClass.EXECUTION_FAILED,
            error="error",
            retry_at=_NOW,
            final=final,
        )
    for given in (None, output):
        yield c.Complete(now=_NOW, token=token, run=run, output=given, verdict=verdict)
        yield c.Refuse(
            now=_NOW, token=token, run=run, verdict=verdict, retry_at=_NOW, output=given
        )
        for max_verify_errors in (1, 1_000_000):
            yield c.FailVerification(
                now=_NOW,
                token=token,
                run=run,
                verifier=_VERIFIER,
                error="error",
                retry_at=_NOW,
                max_verify_errors=max_verify_errors,
                output=given,
            )


def main() -> None:
    """Write the diagram to stdout."""
    sys.stdout.write(diagram())


if __name__ == "__main__":
    main()
