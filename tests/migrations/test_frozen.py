"""What was released stays as it was, and leads to a state that works."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command

import orchd_migrations
from migrations.test_migrations import engine_for
from orchd.interfaces import TaskStatus
from orchd_migrations.running import alembic_config
from support.engines import Harness, ScriptedExecutor

RELEASED = Path(__file__).with_name("frozen.sha256")
"""As sha256sum(1) writes it. States exist that these made; what they lack belongs into a
further migration."""


def test_no_released_migration_has_changed() -> None:
    folder = files("orchd_migrations") / "sql"
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    }
    lines = [line.split() for line in RELEASED.read_text().splitlines()]
    assert found == {name: digest for digest, name in lines}


@pytest.mark.parametrize("revision", orchd_migrations.REVISIONS)
async def test_a_state_of_any_release_is_upgraded_and_works(
    database_url: str, revision: str
) -> None:
    engine = engine_for(database_url)
    with engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()
    harness = await Harness.open(database_url, [ScriptedExecutor()])
    await harness.submit("a")
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED
    await harness.close()
