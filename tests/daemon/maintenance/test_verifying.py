"""The hash chain tells of every change, beside whoever appends."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
import sqlalchemy as sa

from orchd.maintenance.verifying import verify_log
from orchd.system import RealSystem
from support.engines import Harness, ScriptedExecutor
from support.eventstores import unprotected
from support.tampering import query, tamper

SYSTEM = RealSystem()
TAMPERINGS = int(os.environ.get("ORCHD_TEST_TAMPERINGS", "60"))


def test_an_untouched_log_is_verified_to_its_end(state_url: str) -> None:
    verdict = verify_log(state_url, system=SYSTEM)
    assert verdict.ok, verdict.problem
    [(position, digest)] = query(state_url, "SELECT position, hash FROM log_head")
    assert (verdict.events, verdict.position, verdict.hash) == (position, position, digest)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 3",
        "UPDATE events SET stream = 'task-other' WHERE position = 3",
        "DELETE FROM events WHERE position = 3",
        "DELETE FROM commits WHERE last_position"
        " = (SELECT min(last_position) FROM commits)",
    ],
)
def test_a_changed_log_is_named(state_url: str, statement: str) -> None:
    tamper(state_url, statement)
    verdict = verify_log(state_url, system=SYSTEM)
    assert not verdict.ok
    assert "events" in verdict.problem


class Tamperer:
    """Changes one random thing of a log, and knows which commit that is."""

    def __init__(self, connection: sa.Connection, seed: int) -> None:
        self._connection = connection
        self._chance = random.Random(seed)
        rows = connection.exec_driver_sql(
            "SELECT last_position, events, command_id FROM commits"
        ).all()
        self._commits = {
            position: command_id
            for last, events, command_id in rows
            for position in range(last - events + 1, last + 1)
        }
        self._head = max(self._commits)

    def change(self) -> tuple[str, str]:
        """Change something; return what it was, and the first commit that is wrong."""
        kind = self._chance.choice((self._flip, self._delete, self._swap, self._insert))
        kind = self._chance.choice((kind, self._date))
        position = self._chance.randint(1, self._head)
        what, first = kind(position)
        return f"{what} at {position}", self._commits[first]

    def _run(self, text: str, **values: object) -> None:
        self._connection.execute(sa.text(text), values)

    def _flip(self, position: int) -> tuple[str, int]:
        column = self._chance.choice(("stream", "type", "data", "meta"))
        query = sa.text(f"SELECT {column} FROM events WHERE position = :p")
        value = self._connection.execute(query, {"p": position}).scalar_one()
        place = self._chance.randrange(len(value))
        flipped = chr(ord(value[place]) ^ 1)
        changed = value[:place] + flipped + value[place + 1 :]
        update = f"UPDATE events SET {column} = :v WHERE position = :p"
        self._run(update, v=changed, p=position)
        return f"flip in {column}", position

    def _delete(self, position: int) -> tuple[str, int]:
        self._run("DELETE FROM events WHERE position = :p", p=position)
        return "deletion", position

    def _swap(self, position: int) -> tuple[str, int]:
        other = self._chance.randint(1, self._head - 1)
        other += other >= position
        swap = "UPDATE events SET position = :new WHERE position = :old"
        for old, new in ((position, -1), (other, position), (-1, other)):
            self._run(swap, old=old, new=new)
        return f"swap with {other}", min(position, other)

    def _insert(self, position: int) -> tuple[str, int]:
        far = 10**6
        self._run(
            f"UPDATE events SET position = position + {far} WHERE position >= :p",
            p=position,
        )
        self._run(
            f"INSERT INTO events SELECT :p, stream, version + {far}, type, data, meta,"
            f" recorded_at FROM events WHERE position = :p + {far}",
            p=position,
        )
        self._run(
            f"UPDATE events SET position = position - {far} + 1 WHERE position > {far}"
        )
        return "insertion", position

    def _date(self, position: int) -> tuple[str, int]:
        other = self._chance.choice(("2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00Z"))
        cast = "CAST(:at AS timestamptz)"
        if self._connection.dialect.name == "sqlite":
            cast = ":at"
        update = f"UPDATE events SET recorded_at = {cast} WHERE position = :p"
        self._run(update, at=other, p=position)
        return "date", position


def test_any_change_is_found_and_its_commit_named(state_url: str) -> None:
    keep = "CREATE TABLE kept AS SELECT * FROM events"
    with unprotected(state_url) as connection:
        connection.exec_driver_sql(keep)
    for seed in range(TAMPERINGS):
        with unprotected(state_url) as connection:
            what, command_id = Tamperer(connection, seed).change()
        verdict = verify_log(state_url, system=SYSTEM)
        assert not verdict.ok, (seed, what)
        assert f"commit {command_id} " in verdict.problem, (seed, what, verdict.problem)
        with unprotected(state_url) as connection:
            connection.exec_driver_sql("DELETE FROM events")
            connection.exec_driver_sql("INSERT INTO events SELECT * FROM kept")
    assert verify_log(state_url, system=SYSTEM).ok


def test_a_log_that_was_cut_is_told_by_a_hash_kept_elsewhere(state_url: str) -> None:
    whole = verify_log(state_url, system=SYSTEM)
    assert verify_log(state_url, system=SYSTEM, known=whole.hash).ok
    last = "(SELECT max(last_position) FROM commits)"
    tamper(state_url, f"DELETE FROM events WHERE position > {last} - 1")
    tamper(state_url, f"DELETE FROM commits WHERE last_position = {last}")
    before = "(SELECT {} FROM commits ORDER BY last_position DESC LIMIT 1)"
    columns = ("last_position", "hash", "recorded_at")
    values = ", ".join(before.format(column) for column in columns)
    tamper(
        state_url,
        f"UPDATE log_head SET (position, hash, recorded_at) = ({values})",
    )
    tamper(state_url, "DELETE FROM events WHERE position > (SELECT position FROM log_head)")
    assert verify_log(state_url, system=SYSTEM).ok
    cut = verify_log(state_url, system=SYSTEM, known=whole.hash)
    assert not cut.ok
    assert "no commit has the hash" in cut.problem


async def test_a_log_that_grows_meanwhile_is_verified(database_url: str) -> None:
    harness = await Harness.open(database_url, [ScriptedExecutor()])
    working = asyncio.create_task(_keep_busy(harness))
    try:
        for _ in range(10):
            verdict = await asyncio.to_thread(verify_log, database_url, system=SYSTEM)
            assert verdict.ok, verdict.problem
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await harness.close()


async def _keep_busy(harness: Harness) -> None:
    for number in range(10_000):
        await harness.submit(f"t{number}")
