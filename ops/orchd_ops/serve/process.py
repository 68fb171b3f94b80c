"""The process around the daemon: signals, logging, the state, and the way out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from orchd.config import places
from orchd.config.settings import Settings
from orchd.executors.threads import in_thread
from orchd.system import RealSystem
from orchd_ops.serve.doors import require_safe
from orchd_ops.serve.log_lines import configure_logging
from orchd_ops.serve.notify import extend_timeout
from orchd_ops.serve.stopping import StopSignals

if TYPE_CHECKING:
    from orchd.ledger.sql import SQLLedger

logger = logging.getLogger(__name__)

STARTING_SECONDS = 10.0
"""How often systemd is told that starting takes longer."""
FILE_MODE_MASK = 0o077
PROGRAM_TYPES = frozenset(("command", "python"))
"""The executors that start programs."""


def serve(load: Callable[[], Settings], *, signals: StopSignals, until_idle: bool) -> None:
    """Run the daemon until it is told to stop, or with `until_idle` until it is idle.

    Args:
        load: reads the configuration; called again at each SIGHUP.

    Raises:
        OrchdError: it cannot start; the message and the exit code say why.
    """
    os.umask(FILE_MODE_MASK)
    settings = load()
    require_safe(settings, os.environ)
    configure_logging()
    asyncio.run(_serve(load, settings, signals, until_idle=until_idle))


async def _serve(
    load: Callable[[], Settings],
    settings: Settings,
    signals: StopSignals,
    *,
    until_idle: bool,
) -> None:
    from orchd.processes.launching import fork_server

    system = RealSystem()
    signals.attach()
    ledger = await _opened(settings, system, signals)
    if ledger is None:
        logger.info("stopped before the work began")
        return
    try:
        await ledger.open()
        if await _waits_for_programs(ledger, settings):
            # It gets ready while this process still imports.
            fork_server.prepare(places.state_hash(settings.database))
        from orchd_ops.serve.daemon import Daemon

        await asyncio.to_thread(_clean_up, settings, system)
        daemon = Daemon(
            ledger=ledger,
            settings=settings,
            system=system,
            load=load,
            signals=signals,
            release=version("orchd"),
        )
        signals.on_reload(daemon.reload)
        await daemon.run(until_idle=until_idle)
    finally:
        await asyncio.to_thread(fork_server.close)
        await ledger.close()


async def _waits_for_programs(ledger: SQLLedger, settings: Settings) -> bool:
    executors = settings.executors.values()
    names = tuple(one.name for one in executors if one.type in PROGRAM_TYPES)
    return bool(names) and await ledger.has_work(names, (), settings.worker.queues)


async def _opened(
    settings: Settings, system: RealSystem, signals: StopSignals
) -> SQLLedger | None:
    """Open the state, however long a migration takes; None when a signal comes first.

    What is under way then ends with the process: a migration is a transaction, and one
    that was interrupted is done by the next start.
    """
    opening = asyncio.create_task(in_thread(lambda: _open(settings, system), "open"))
    asked = asyncio.create_task(signals.drain.wait())
    try:
        while True:
            await asyncio.wait(
                (opening, asked),
                timeout=STARTING_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if opening.done():
                return opening.result()
            if asked.done():
                return None
            extend_timeout(3 * STARTING_SECONDS)
    finally:
        opening.cancel()
        asked.cancel()


def _open(settings: Settings, system: RealSystem) -> SQLLedger:
    from orchd.ledger.opening import open_ledger

    return open_ledger(
        settings.database, system=system, access="write", create=True, migrate=True
    )


def _clean_up(settings: Settings, system: RealSystem) -> None:
    """End whatever a daemon of this state that died left running on this machine."""
    from orchd.processes.leftovers import sweep

    killed = sweep(system, places.state_hash(settings.database))
    if killed:
        logger.warning("ended %d processes that a dead daemon had left behind", killed)
