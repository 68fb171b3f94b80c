"""What has to be true when a storm is over, whatever happened in it.

Every check returns the violations that it found, in words. `require_all` runs them all;
the daemons have ended by then. The witness says what ran, the log what was recorded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from chaos.fleet import Fleet, all_pids
from chaos.job import Job
from chaos.state import LIVE, Event
from chaos.witness import Seen
from orchd.config.places import state_hash
from orchd.processes.table import marks_of

History = Sequence[Event]
RUN_ENDS = frozenset(
    f"task.{end}" for end in ("completed", "retried", "failed", "released", "cancelled")
)
ROUND_ENDS = frozenset(("task.completed", "task.failed", "task.cancelled"))
AFTER_A_ROUND = frozenset(("task.requeued", "task.discarded", "task.late_result_rejected"))
CHECK_SECONDS = 900
SHOWN_MAX = 20


def require_all(job: Job, *, crashed: Collection[str] = ()) -> None:
    """Check everything; fail with every violation.

    Args:
        job: what was handed in, and to whom.
        crashed: ids of poison tasks, which must be dead letters of the class `crashed`.
    """
    found = list(violations(job, crashed))
    shown = "\n".join(found[:SHOWN_MAX])
    assert not found, f"{len(found)} violations:\n{shown}"


def violations(job: Job, crashed: Collection[str] = ()) -> Iterator[str]:
    """Yield every violation of the invariants of a finished storm."""
    fleet = job.fleet
    events = fleet.state.events()
    histories: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.stream.startswith("task-"):
            histories[event.stream.removeprefix("task-")].append(event)
    rows = fleet.state.tasks()
    yield from tasks_lost(job, rows)
    yield from log_holes(events)
    yield from log_changes_allowed(fleet)
    for task, history in histories.items():
        yield from run_faults(task, history)
        yield from round_faults(task, history)
        yield from token_faults(task, history)
        yield from repeated_executions(task, history)
    yield from starts_of_the_dead(events)
    yield from witness_faults(histories, fleet.witness.runs())
    yield from wrong_ends(job, rows, histories, crashed)
    yield from results_of_others(rows, histories)
    yield from processes_left(fleet)
    yield from reports_refused(fleet)
    yield from deadlocks(fleet)
    yield from failed_commands(fleet)


def tasks_lost(job: Job, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Every accepted task exists and has come to its end; nobody else's exists."""
    for task in sorted(job.accepted - rows.keys()):
        yield f"{task} was accepted and is lost"
    for task in sorted(rows.keys() - job.orders.keys()):
        yield f"{task} was never handed in"
    for task, row in rows.items():
        if row["status"] in LIVE:
            yield f"{task} is still {row['status']}: {row}"
        if not 0 <= row["attempts"] <= row["max_attempts"]:
            yield f"{task} has {row['attempts']} attempts of {row['max_attempts']}"


def log_holes(events: History) -> Iterator[str]:
    """Positions are 1 to n, and so are the versions of each stream."""
    versions: Counter[str] = Counter()
    for expected, event in enumerate(events, start=1):
        if event.position != expected:
            yield f"position {event.position} stands where {expected} should"
            return
        versions[event.stream] += 1
        if event.version != versions[event.stream]:
            yield f"{event.stream} has no version {versions[event.stream]}"


def log_changes_allowed(fleet: Fleet) -> Iterator[str]:
    """The database itself refuses to change what is written once."""
    for change in ("DELETE FROM events", "UPDATE events SET data = ''"):
        refusal = fleet.state.refusal_of(change)
        if "written once" not in refusal:
            yield f"{change} is not refused: {refusal or 'nothing was said'}"


def run_faults(task: str, history: History) -> Iterator[str]:
    """Runs are numbered 1 to n; each ends exactly once, before the next begins."""
    runs, is_open = 0, False
    for event in history:
        run = event.data.get("run", 0)
        if event.type == "task.started":
            if is_open or run != runs + 1:
                yield f"{task}: run {run} begins after run {runs}, open: {is_open}"
            runs, is_open = run, True
        elif event.type in RUN_ENDS and run:
            if not is_open or run != runs:
                yield f"{task}: {event.type} ends run {run}, which is not going on"
            is_open = False
    if is_open:
        yield f"{task}: run {runs} never ended"


def round_faults(task: str, history: History) -> Iterator[str]:
    """A round ends once, and nothing but a late report follows its end."""
    if [event.type for event in history].count("task.submitted") != 1:
        yield f"{task} was submitted more than once"
    over = False
    for event in history:
        if event.type == "task.requeued":
            over = False
        elif over and event.type not in AFTER_A_ROUND:
            yield f"{task}: {event.type} follows the end of its round"
        elif event.type in ROUND_ENDS:
            over = True


def token_faults(task: str, history: History) -> Iterator[str]:
    """A start's token is its version; a completion's is that of the run it ends."""
    tokens: dict[int, int] = {}
    for event in history:
        if event.type == "task.started":
            tokens[event.data["run"]] = event.data["token"]
            if event.data["token"] != event.version:
                yield f"{task}: run {event.data['run']} has a token that is not its version"
        elif event.type == "task.completed" and (
            tokens.get(event.data["run"]) != event.data["token"]
        ):
            yield f"{task}: completed with the token of another run"


def repeated_executions(task: str, history: History) -> Iterator[str]:
    """Nothing is executed again whose result is recorded."""
    recorded = False
    for event in history:
        if event.type in ("task.requeued", "task.retried"):
            recorded = False
        elif event.type == "task.executed":
            recorded = True
        elif recorded and event.data.get("phase") == "execute":
            yield f"{task}: executed again although its result was recorded"


def starts_of_the_dead(events: History) -> Iterator[str]:
    """Whoever was declared dead, so that its tasks were taken from it, starts nothing."""
    holders: dict[str, str] = {}
    dead: set[str] = set()
    for event in events:
        if event.type == "task.started":
            worker = holders[event.stream] = event.data["worker"]
            if worker in dead:
                yield f"{event.stream} was started by {worker}, which was declared dead"
        elif event.data.get("reason") == "worker_lost":
            holder = holders[event.stream]
            # One that lost a run by itself gives it back by itself.
            if event.meta.get("worker") != holder:
                dead.add(holder)


def witness_faults(
    histories: Mapping[str, History], seen: Mapping[str, Sequence[Seen]]
) -> Iterator[str]:
    """What the witness saw was started on record first: once, with the same figures."""
    for task, runs in seen.items():
        started = {
            event.data["run"]: (event.data["attempt"], event.data["token"])
            for event in histories.get(task, ())
            if event.type == "task.started" and event.data["phase"] == "execute"
        }
        if len(runs) > len(started):
            yield f"{task}: {len(runs)} starts were seen and {len(started)} are on record"
        counted = Counter(each.start.run for each in runs)
        for run, times in counted.items():
            if times > 1:
                yield f"{task}: run {run} was seen to start {times} times"
        for each in runs:
            found = (each.start.attempt, each.start.token)
            if started.get(each.start.run) != found:
                yield f"{task}: {each.start} does not fit the record {started}"


def wrong_ends(
    job: Job,
    rows: Mapping[str, Mapping[str, Any]],
    histories: Mapping[str, History],
    crashed: Collection[str],
) -> Iterator[str]:
    """Every task ends as ordered; only a run that was alone dies of a crash."""
    for task, row in rows.items():
        order = job.orders.get(task)
        if order is None:
            continue
        expected = {"failed" if task in crashed else order.end}
        if order.cancel:
            expected.add("cancelled")
        if task in job.cancelled:
            # Its run may have ended well before the request reached it.
            expected -= {"failed"}
        if row["status"] not in expected:
            yield f"{task} is {row['status']} and not {expected}: {row}"
        is_crashed = row["error_class"] == "crashed" and row["status"] == "failed"
        if is_crashed != (task in crashed):
            yield f"{task} is dead of {row['error_class']}: {row}"
        charged = row["attempts"] == row["max_attempts"]
        if row["status"] == "failed" and not (is_crashed or charged):
            yield f"{task} was given up early: {row}"
        if is_crashed and not _last_start(histories[task]).data.get("alone"):
            yield f"{task} is dead of a crash and was not alone"


def _last_start(history: History) -> Event:
    return [event for event in history if event.type == "task.started"][-1]


def results_of_others(
    rows: Mapping[str, Mapping[str, Any]], histories: Mapping[str, History]
) -> Iterator[str]:
    """The result of a task is what the run said that completed it."""
    for task, row in rows.items():
        if row["status"] != "completed":
            continue
        completed = histories[task][-1]
        for event in histories[task]:
            if event.type == "task.completed":
                completed = event
        said = f"{completed.data['run']} {completed.data['token']}"
        if row["result"] != said:
            yield f"{task} was completed by run and token {said}, not {row['result']}"


def processes_left(fleet: Fleet) -> Iterator[str]:
    """No process of a run is alive, by its mark and by the witness' own variable."""
    for pid in fleet.processes():
        yield f"process {pid} of a run is alive"
    state = state_hash(fleet.database)
    for pid in all_pids():
        if any(mark.startswith(f"{state}/") for mark in marks_of(pid)):
            yield f"process {pid} bears the mark of a run: {marks_of(pid)}"


def reports_refused(fleet: Fleet) -> Iterator[str]:
    """The database stored whatever a run reported; no row or event was in its way."""
    for daemon in fleet.daemons:
        for line in daemon.log.splitlines():
            if "was rejected" in line:
                yield f"a report was refused: {line}"


def deadlocks(fleet: Fleet) -> Iterator[str]:
    """PostgreSQL never had to end a transaction because two waited for each other."""
    if fleet.database.startswith("sqlite"):
        return
    text = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    [(count,)] = fleet.state.query(text)
    if count:
        yield f"PostgreSQL found {count} deadlocks"


def failed_commands(fleet: Fleet) -> Iterator[str]:
    """The program's own checks of rows and log agree."""
    for arguments in (("replay", "--check"), ("log", "verify")):
        done = fleet.installation.run(*arguments, timeout_seconds=CHECK_SECONDS)
        if done.returncode != 0:
            said = f"{done.stdout[-2000:]} {done.stderr[-2000:]}"
            yield f"orchd {' '.join(arguments)} ended with {done.returncode}: {said}"
