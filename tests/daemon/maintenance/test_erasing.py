"""What a task said and was told can be erased, and everything else still holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchd.config.settings import Settings
from orchd.executors.port import Failure, RunContext, Success
from orchd.ledger.bodies import ERASED
from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance import checkpoints, erasing
from orchd.maintenance.exporting import export
from orchd.maintenance.replay import check
from orchd.maintenance.verifying import verify_log
from orchd.operations import Caller, Operations
from orchd.operations.errors import Conflict, NotFound
from orchd.system import RealSystem
from orchd.tasks.erasing import ERASED_HASH, ERASED_TEXT
from orchd.verifiers.port import Rejected
from support.engines import Harness, ScriptedExecutor, ScriptedVerifier
from support.tampering import query, tamper

SYSTEM = RealSystem()
SECRET = "Rumpelstiltskin"
LARGE = f"{SECRET} " * 5_000
CALLER = Caller(actor="test", reason="asked for")


async def _work(context: RunContext) -> Any:
    if context.task_id.startswith("failing"):
        return Failure(error=f"cannot find {SECRET}")
    return Success(output=LARGE if context.task_id.startswith("large") else SECRET)


class State:
    """A state with finished tasks that are full of secrets, and who may erase them."""

    def __init__(self, url: str, harness: Harness) -> None:
        self.url = url
        self.harness = harness
        self.store: Any = harness.ledger.store  # type: ignore[attr-defined]  # it is SQL
        self.operations = Operations(
            ledger=harness.ledger,
            commit=harness.engine.requests,
            settings=Settings(database=url),
            system=SYSTEM,
        )

    async def submit(self, task_id: str, **more: Any) -> None:
        raw = msgspec.Raw(json.dumps({"name": SECRET}).encode())
        fields = {"description": SECRET, "payload": raw, "metadata": raw, **more}
        await self.harness.submit(task_id, **fields)

    async def erase(self, task_id: str) -> Any:
        now = await self.operations.now()
        return await self.operations.upkeep.erase(task_id, CALLER, now)

    async def sound(self) -> None:
        """Fail unless the chain holds and every row is what the log says."""
        verdict = await asyncio.to_thread(verify_log, self.url, system=SYSTEM)
        assert verdict.ok, verdict.problem
        wrong = await asyncio.to_thread(lambda: list(check(self.url, system=SYSTEM)))
        assert wrong == []

    def secrets(self) -> list[str]:
        """Return where a secret can still be read through SQL."""
        found = []
        for table, columns in (
            ("events", ("data", "meta")),
            ("tasks", _TEXTS),
            ("erasures", ("data",)),
        ):
            for column in columns:
                text = f"SELECT count(*) FROM {table} WHERE {column} LIKE '%%{SECRET}%%'"
                found += [f"{table}.{column}"] if query(self.url, text) != [(0,)] else []
        found += ["blobs"] if query(self.url, "SELECT 1 FROM blobs") else []
        return found


_TEXTS = ("description", "payload", "metadata", "result", "error", "feedback", "labels")


@pytest.fixture
async def state(database_url: str) -> AsyncIterator[State]:
    judge = ScriptedVerifier([Rejected(feedback=f"{SECRET}?", issues=(SECRET,))])
    harness = await Harness.open(database_url, [ScriptedExecutor(_work)], [judge])
    state = State(database_url, harness)
    yield state
    await harness.close()


async def fill(state: State) -> list[str]:
    """Let tasks of every fate finish, one after the other; return their ids."""
    await state.submit("plain", labels={"who": SECRET})
    await state.submit("judged", verifiers=("judge",))
    await state.submit("failing", max_attempts=2)
    await state.submit("large", description=LARGE)
    await state.harness.settle()
    return ["plain", "judged", "failing", "large"]


async def test_nothing_that_was_said_is_left_and_the_chain_stands(state: State) -> None:
    ids = await fill(state)
    head = (await asyncio.to_thread(verify_log, state.url, system=SYSTEM)).hash
    assert len(state.secrets()) > 5
    for task_id in ids:
        erased = await state.erase(task_id)
        assert erased.events > 0
        await state.sound()
    assert state.secrets() == []
    exported = b"".join(
        await asyncio.to_thread(lambda: list(export(state.url, system=SYSTEM)))
    )
    assert SECRET.encode() not in exported
    again = await asyncio.to_thread(verify_log, state.url, system=SYSTEM, known=head)
    assert again.ok
    assert (await state.harness.event_types("plain"))[-1] == "erased"


async def test_what_is_left_says_that_it_was_erased(state: State) -> None:
    await fill(state)
    for task_id in ("plain", "failing", "large"):
        await state.erase(task_id)
    view = await state.operations.task("plain")
    assert (view.description, view.result, view.status) == (ERASED, ERASED, "completed")
    assert json.loads(msgspec.json.encode(view))["payload"] == ERASED
    assert json.loads(msgspec.json.encode(view))["metadata"] == {}
    failing = await state.operations.task("failing")
    assert (failing.error, failing.error_class) == (ERASED_TEXT, "execution_failed")
    assert failing.attempts == 2
    large = await state.harness.task("large")
    assert large.result_blob == large.description_blob == ERASED_HASH


async def test_erasing_again_changes_nothing(state: State) -> None:
    await fill(state)
    first = await state.erase("large")
    assert (first.events, first.bodies) == (2, 1)
    position = await state.harness.ledger.log_position()
    again = await state.erase("large")
    assert (again.events, again.bodies) == (0, 0)
    assert await state.harness.ledger.log_position() == position


async def test_a_body_that_another_task_has_stays(state: State) -> None:
    await state.submit("large1", description="a")
    await state.submit("large2", description="b")
    await state.harness.settle()
    assert (await state.erase("large1")).bodies == 0
    assert (await state.operations.task("large2")).result == LARGE
    assert (await state.erase("large2")).bodies == 1
    assert query(state.url, "SELECT count(*) FROM blobs") == [(0,)]
    await state.sound()


async def test_only_what_is_finished_and_there_can_be_erased(state: State) -> None:
    await state.submit("waiting", run_at=10**17)
    with pytest.raises(Conflict, match="not finished"):
        await state.erase("waiting")
    for name in ("nobody", "a\0b", ""):
        with pytest.raises(NotFound):
            await state.erase(name)


async def test_an_erased_dead_letter_is_not_requeued(state: State) -> None:
    await fill(state)
    await state.erase("failing")
    with pytest.raises(Conflict, match="were erased"):
        await state.operations.act_on_dead_letters("requeue", {"ids": ["failing"]}, CALLER)


@pytest.mark.parametrize("step", ["_drop_bodies", "_replace"])
async def test_an_erasing_that_was_cut_short_is_finished_by_the_next(
    state: State, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(state)

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(erasing, step, die)
        with pytest.raises(RuntimeError):
            await state.erase("large")
    await state.sound()
    events = len(await state.harness.ledger.task_events("large"))
    erased = await state.erase("large")
    assert erased.events == 2
    assert len(await state.harness.ledger.task_events("large")) == events
    assert query(state.url, "SELECT count(*) FROM blobs") == [(0,)]
    await state.sound()


async def test_what_is_added_while_it_is_erased_is_erased_too(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state.submit("plain")
    await state.harness.settle()
    whole = erasing.prepare
    moved: list[bool] = []

    def prepare(store: Any, system: Any, task: Any) -> Any:
        prepared = whole(store, system, task)
        if not moved:
            moved.append(True)
            return prepared._replace(version=prepared.version - 1)
        return prepared

    monkeypatch.setattr(erasing, "prepare", prepare)
    await state.erase("plain")
    assert state.secrets() == []
    assert (await state.harness.event_types("plain")).count("erased") == 1
    await state.sound()


async def test_a_row_that_moves_in_the_middle_is_read_again(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state.submit("plain")
    await state.harness.settle()
    whole = erasing._replace
    calls = []

    def replace(store: Any, erasures: Any, task: Any) -> bool:
        calls.append(task.version)
        if len(calls) == 1:
            task = msgspec.structs.replace(task, version=task.version - 1)
        return whole(store, erasures, task)

    monkeypatch.setattr(erasing, "_replace", replace)
    await state.erase("plain")
    assert len(calls) == 2
    assert state.secrets() == []
    await state.sound()


async def test_commits_of_an_older_release_are_left_alone(state: State) -> None:
    await fill(state)
    await asyncio.to_thread(tamper, state.url, "UPDATE commits SET rules = 1")
    with pytest.raises(Conflict, match="older release"):
        await state.erase("plain")
    assert (await state.harness.event_types("plain"))[-1] != "erased"


async def test_nothing_is_left_in_the_file_of_a_sqlite_state(sqlite_url: str) -> None:
    harness = await Harness.open(sqlite_url, [ScriptedExecutor(_work)])
    state = State(sqlite_url, harness)
    for task_id in ("plain", "failing", "large"):
        await state.submit(task_id)
    await harness.settle()
    assert _bytes(sqlite_url).count(SECRET.encode()) > 100
    for task_id in ("plain", "failing", "large"):
        await state.erase(task_id)
    assert SECRET.encode() not in _bytes(sqlite_url)
    await harness.close()


def _bytes(url: str) -> bytes:
    path = sqlite_path(url)
    ends = ("", "-wal", "-journal")
    files = [Path(f"{path}{end}") for end in ends]
    return b"".join(file.read_bytes() for file in files if file.exists())


async def test_an_erased_state_goes_through_a_checkpoint(
    state: State, tmp_path: Path
) -> None:
    ids = await fill(state)
    for task_id in ids[:2]:
        await state.erase(task_id)
    place = tmp_path / "copy.orchd"
    await asyncio.to_thread(checkpoints.create, state.url, place, system=SYSTEM)
    url = f"sqlite:///{tmp_path}/restored.db"
    await asyncio.to_thread(checkpoints.restore, place, url, system=SYSTEM)
    copies = ("erasures", "tasks", "blobs")
    for table in copies:
        order = f"SELECT count(*) FROM {table}"
        assert query(url, order) == query(state.url, order)
    assert (await asyncio.to_thread(verify_log, url, system=SYSTEM)).ok
    assert await asyncio.to_thread(lambda: list(check(url, system=SYSTEM))) == []
    # What is erased before a checkpoint is made is in none of its pages.
    assert is_sqlite(url)
    plain = query(url, "SELECT data FROM events WHERE stream = 'task-plain'")
    assert SECRET not in str(plain)


async def test_a_checkpoint_beside_erasures_is_whole(state: State, tmp_path: Path) -> None:
    for number in range(30):
        await state.submit(f"plain{number}")
    await state.harness.settle()

    async def erase_all() -> None:
        for number in range(30):
            await state.erase(f"plain{number}")

    erasing_all = asyncio.create_task(erase_all())
    made = 0
    while not erasing_all.done():
        place = tmp_path / f"copy{made}.orchd"
        await asyncio.to_thread(
            checkpoints.create, state.url, place, system=SYSTEM, note=lambda _: True
        )
        checkpoints.verify(place)
        made += 1
    await erasing_all
    assert made > 1
    await state.sound()
