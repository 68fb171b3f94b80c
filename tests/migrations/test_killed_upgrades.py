"""An upgrade that is killed is as if it had never begun; the next one does all of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import orchd_migrations
from orchd.ledger.opening import open_ledger
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd_migrations import scripts
from support.eventstores import autocommitting

KILLED = 9
# Upgrades as a start does, and dies after so many statements of one transaction.
UPGRADER = """
import os, sys
import orchd_migrations
from orchd.ledger.opening import open_ledger
from orchd.system import RealSystem
from orchd_migrations import scripts
url, transaction, left = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
execute, begun = scripts.execute, 0
def stop(connection, statements):
    global begun
    begun += 1
    if begun == transaction:
        execute(connection, statements[:left])
        os._exit(9)
    execute(connection, statements)
scripts.execute = stop
open_ledger(url, system=RealSystem(), access="write", create=True, migrate=True)
"""


@pytest.mark.parametrize("statements", [1, 3, 1000])
@pytest.mark.parametrize(
    ("before", "transaction"), [(None, 1), ("0001", 1), ("0001", 2), ("0002", 1)]
)
def test_an_upgrade_that_is_killed_is_done_by_the_next(
    database_url: str, before: str | None, transaction: int, statements: int
) -> None:
    if before is not None:
        with autocommitting(database_url) as connection:
            dialect = orchd_migrations.dialect_of(connection)
            scripts.execute(connection, scripts.schema(dialect, before))
            connection.commit()
    command = [sys.executable, "-c", UPGRADER, database_url]
    killed = subprocess.run([*command, str(transaction), str(statements)], check=False)
    assert killed.returncode == KILLED
    ledger = open_ledger(
        database_url, system=RealSystem(), access="write", create=True, migrate=True
    )
    asyncio.run(_require_empty(ledger))


async def _require_empty(ledger: SQLLedger) -> None:
    await ledger.open()
    assert await ledger.log_position() == 0
    await ledger.close()
