"""`orchd db`."""

from __future__ import annotations

from typing import Any

import click

from orchd.errors import SchemaTooOld
from orchd.ledger.urls import is_sqlite, masked_url
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import say, write
from orchd_ops.cli.verbs import VerbGroup, examples


@click.group(cls=VerbGroup)
def db() -> None:
    """Upgrade and inspect the database schema."""


@examples("orchd db upgrade")
@db.command()
@click.pass_context
def upgrade(context: click.Context) -> None:
    """Create the schema, or bring an older one up to date.

    Daemons of the release before may go on working meanwhile and afterwards; what is
    started from then on has to be of this release.
    """
    call = invocation(context)
    _open(call, create=True, migrate=True)
    item = _described(call)
    call.output.acted(item, f"the schema of {item['database']} is {item['revision']}")


@examples("orchd db current")
@db.command()
@click.pass_context
def current(context: click.Context) -> None:
    """Print the schema's revision."""
    call = invocation(context)
    _open(call, create=False, migrate=False, write=False)
    item = _described(call)
    call.output.acted(item, item["revision"])


@examples("orchd db check && echo 'up to date'")
@db.command()
@click.pass_context
def check(context: click.Context) -> int:
    """Say whether the schema is the one that this orchd needs; exit 1 when it is older."""
    call = invocation(context)
    try:
        _open(call, create=False, migrate=False, write=False)
    except SchemaTooOld as error:
        say(f"error: {error}")
        return Exit.FAILED
    item = _described(call)
    call.output.acted(item, f"the schema is up to date ({item['revision']})")
    return Exit.DONE


@examples("orchd db sql > schema.sql", "orchd --database postgresql://… db sql")
@db.command()
@click.option(
    "--dialect",
    type=click.Choice(["sqlite", "postgresql"]),
    help="Default: that of the configured database.",
)
@click.pass_context
def sql(context: click.Context, dialect: str | None) -> None:
    """Print the statements that build the whole schema, for a DBA to run."""
    import orchd_migrations

    call = invocation(context)
    if dialect is None:
        sqlite = is_sqlite(call.loaded.settings.database)
        dialect = "sqlite" if sqlite else "postgresql"
    for statement in orchd_migrations.statements(dialect):
        write(statement.strip().rstrip(";") + ";\n")


def _open(call: Invocation, *, create: bool, migrate: bool, write: bool = True) -> None:
    """Open the state and close it again: opening checks, and upgrades if asked to."""
    import asyncio

    from orchd.ledger.opening import open_ledger

    ledger = open_ledger(
        call.loaded.settings.database,
        system=RealSystem(),
        access="write" if write else "read",
        create=create,
        migrate=migrate,
        in_use=migrate,
    )

    async def close() -> None:
        await ledger.open()
        await ledger.close()

    asyncio.run(close())


def _described(call: Invocation) -> dict[str, Any]:
    import orchd_migrations

    # Opening succeeded, so the revision is the one this release needs.
    database = masked_url(call.loaded.settings.database)
    return {"database": database, "revision": orchd_migrations.HEAD}
