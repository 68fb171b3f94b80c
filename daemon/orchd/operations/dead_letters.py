"""Requeueing and discarding dead letters: named ones, or all that match."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from orchd.config.instants import parse_past
from orchd.interfaces import TaskStatus
from orchd.ledger.port import Acted, ActOnTask, Ledger, Outcome, Refusal, TaskFilter
from orchd.operations.errors import Fault, OperationError, invalid
from orchd.operations.intake import Caller, Committer, refusal_error
from orchd.operations.json_text import canonical_json, shorten
from orchd.operations.names import is_id
from orchd.system import System
from orchd.tasks.commands import Discard, Requeue
from orchd.tasks.erasing import ERASED_HASH
from orchd.tasks.state import TaskState

IDS_MAX = 10_000
"""Most dead letters that one request acts on; the rest is behind `next_cursor`."""
COMMIT_TASKS = 500
"""Dead letters acted on in one commit."""
PACED_SECONDS = 5.0
"""How long a request with a `rate` takes at most, unless one task takes longer."""
RATE_MIN = 0.1

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?", re.ASCII)
_RATE_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class DeadLetterChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters, and how. Either `ids`, or a filter, or `all`."""

    ids: Annotated[list[str], Meta(max_length=IDS_MAX)] = []
    all: bool = False
    queue: str | None = None
    executor: str | None = None
    error_class: str | None = None
    older_than: Annotated[
        str | None, Meta(description="A duration or a time; by the last change.")
    ] = None
    dry_run: bool = False
    reason: Annotated[str, Meta(max_length=1000)] = ""
    rate: Annotated[str | None, Meta(description="Such as 10/s or 30/m.")] = None
    verify_only: Annotated[
        bool, Meta(description="Requeue: verify the stored result, do not execute.")
    ] = False
    cursor: str | None = None


class DeadLetterOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dead letter.

    `outcome` is `requeued`, `discarded`, `would_requeue`, `would_discard`, `not_found`,
    `conflict` or `invalid`.
    """

    id: str
    outcome: str
    detail: str | None = None


class DeadLetterPage(msgspec.Struct, frozen=True, kw_only=True):
    """Outcomes, and the cursor with which the same request goes on, or null."""

    items: list[DeadLetterOutcome]
    next_cursor: str | None
    dry_run: bool


def read_choice(body: Any) -> DeadLetterChoice:
    """Check a request's body; raises `Invalid`."""
    canonical_json(body)
    try:
        choice = msgspec.convert(body, DeadLetterChoice)
    except msgspec.ValidationError as error:
        raise invalid([Fault(field="", rule=str(error))]) from None
    filters = (choice.queue, choice.executor, choice.error_class, choice.older_than)
    filtered = any(value is not None for value in filters)
    if bool(choice.ids) == (choice.all or filtered):
        rule = "name ids, or a filter (queue, executor, error_class, older_than), or all"
        raise invalid([Fault(field="ids", rule=rule)])
    if choice.rate is not None:
        parse_rate(choice.rate)
    return choice


def parse_rate(text: str) -> float:
    """Return tasks per second; raises `Invalid`."""
    match = _RATE.fullmatch(text)
    rate = float(match[1]) / _RATE_SECONDS[match[2]] if match else 0.0
    if not RATE_MIN <= rate <= 1e6:
        rule = "must be a number per second, minute or hour such as 10/s, from 0.1/s"
        raise invalid([Fault(field="rate", rule=rule, value=shorten(text))])
    return rate


def dead_letter_filter(
    *,
    queue: str | None,
    executor: str | None,
    error_class: str | None,
    older_than: str | None,
    now: int,
) -> TaskFilter:
    """Return the ledger's filter for dead letters; raises `Invalid`."""
    before = None
    if older_than is not None:
        try:
            before = parse_past(older_than, now)
        except ValueError as error:
            value = shorten(older_than)
            fault = Fault(field="older_than", rule=str(error), value=value)
            raise invalid([fault]) from None
    return TaskFilter(
        statuses=(TaskStatus.FAILED.value,),
        queue=queue,
        executor=executor,
        error_class=error_class,
        updated_before=before,
    )


class DeadLetters:
    """Acts on the dead letters of one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        commit: Committer,
        system: System,
        now: Callable[[], Awaitable[int]],
    ) -> None:
        self._ledger = ledger
        self._commit = commit
        self._system = system
        self._now = now

    async def act(
        self, verb: str, choice: DeadLetterChoice, caller: Caller
    ) -> DeadLetterPage:
        """Requeue or discard (`verb`) what the choice names, one page of it.

        Raises:
            NotFound, Conflict: every one of the named ids was refused; this is the
                reason for the first.
        """
        caller = caller._replace(reason=choice.reason)
        rate = None if choice.rate is None else parse_rate(choice.rate)
        size = IDS_MAX if rate is None else max(1, int(rate * PACED_SECONDS))
        page, cursor = await self._choose(choice, size)
        if choice.dry_run:
            items = [_would(verb, task_id, state, choice) for task_id, state in page]
            return DeadLetterPage(items=items, next_cursor=cursor, dry_run=True)
        step = COMMIT_TASKS if rate is None else max(1, int(rate / 10))
        items = []
        for start in range(0, len(page), step):
            part = [task_id for task_id, _ in page[start : start + step]]
            items += await self._act(verb, part, choice, caller)
            if rate is not None and (cursor or start + step < len(page)):
                await self._system.sleep(len(part) / rate)
        if choice.ids and choice.cursor is None:
            _raise_if_all_refused(items)
        return DeadLetterPage(items=items, next_cursor=cursor, dry_run=False)

    async def _choose(
        self, choice: DeadLetterChoice, size: int
    ) -> tuple[list[tuple[str, TaskState | None]], str | None]:
        if choice.ids:
            start = _offset(choice.cursor)
            ids = list(dict.fromkeys(choice.ids))
            part = ids[start : start + size]
            more = str(start + size) if start + size < len(ids) else None
            return [(task_id, await self._look(choice, task_id)) for task_id in part], more
        wanted = dead_letter_filter(
            queue=choice.queue,
            executor=choice.executor,
            error_class=choice.error_class,
            older_than=choice.older_than,
            now=await self._now(),
        )
        found: list[tuple[str, TaskState | None]] = []
        cursor = choice.cursor
        while True:
            limit = min(1000, size - len(found))
            try:
                page = await self._ledger.tasks(wanted, limit=limit, cursor=cursor)
            except ValueError as error:
                raise invalid([Fault(field="cursor", rule=str(error))]) from None
            found += [(state.id, state) for state in page.tasks]
            cursor = page.next_cursor
            if cursor is None or len(found) >= size:
                return found, cursor

    async def _look(self, choice: DeadLetterChoice, task_id: str) -> TaskState | None:
        # Only a dry run needs to know; otherwise the ledger decides as it acts.
        if not choice.dry_run or not is_id(task_id):
            return None
        return await self._ledger.task(task_id)

    async def _act(
        self,
        verb: str,
        ids: Sequence[str],
        choice: DeadLetterChoice,
        caller: Caller,
    ) -> list[DeadLetterOutcome]:
        now = await self._now()
        possible = [task_id for task_id in ids if is_id(task_id)]
        command: Requeue | Discard = Discard(now=now)
        if verb == "requeue":
            command = Requeue(now=now, verify_only=choice.verify_only)
        requests = [
            ActOnTask(task_id=task_id, command=command, origin=caller.origin())
            for task_id in possible
        ]
        outcomes = await self._commit(requests) if requests else []
        by_id = dict(zip(possible, outcomes, strict=True))
        return [_outcome(verb, task_id, by_id.get(task_id)) for task_id in ids]


def _outcome(verb: str, task_id: str, outcome: Outcome | None) -> DeadLetterOutcome:
    if isinstance(outcome, Acted):
        done = "requeued" if verb == "requeue" else "discarded"
        return DeadLetterOutcome(id=task_id, outcome=done)
    if isinstance(outcome, Refusal):
        error = refusal_error(outcome)
        return DeadLetterOutcome(id=task_id, outcome=error.code, detail=error.detail)
    return _unknown(task_id)


def _unknown(task_id: str) -> DeadLetterOutcome:
    return DeadLetterOutcome(id=task_id, outcome="not_found", detail="no such task")


def _would(
    verb: str, task_id: str, state: TaskState | None, choice: DeadLetterChoice
) -> DeadLetterOutcome:
    if state is None:
        return _unknown(task_id)
    allowed = {TaskStatus.FAILED}
    if verb == "requeue":
        allowed.add(TaskStatus.DISCARDED)
    detail = None
    if state.status not in allowed:
        detail = f"task {task_id} is {state.status.value}, not dead"
    elif verb == "requeue" and state.description_blob == ERASED_HASH:
        detail = f"the bodies of task {task_id} were erased"
    elif verb == "requeue" and choice.verify_only and not state.has_result:
        detail = f"task {task_id} holds no result to verify"
    outcome = f"would_{verb}" if detail is None else "conflict"
    return DeadLetterOutcome(id=task_id, outcome=outcome, detail=detail)


def _raise_if_all_refused(items: Sequence[DeadLetterOutcome]) -> None:
    if any(item.outcome in ("requeued", "discarded") for item in items):
        return
    first = items[0]
    code = "rejected" if first.outcome == "invalid" else first.outcome
    error: OperationError = refusal_error(Refusal(code=code, detail=first.detail or ""))
    raise error


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise invalid([Fault(field="cursor", rule="is none that was given here")])
    return int(cursor)
