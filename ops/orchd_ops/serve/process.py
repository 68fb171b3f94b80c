"""The process around the daemon: signals, logging, the state, and the way out."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from orchd.config import places
from orchd.config.settings import Settings
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
    from orchd_ops.serve.daemon import Daemon

    system = RealSystem()
    signals.attach()
    ledger = await _patiently(settings, system)
    try:
        if signals.drain.is_set():
            logger.info("stopped before the work began")
            return
        await ledger.open()
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
        await ledger.close()


async def _patiently(settings: Settings, system: RealSystem) -> SQLLedger:
    """Open the state, however long a migration takes; a signal waits for its end."""
    opening = asyncio.create_task(asyncio.to_thread(_open, settings, system))
    while True:
        done, _ = await asyncio.wait((opening,), timeout=STARTING_SECONDS)
        if done:
            return opening.result()
        extend_timeout(3 * STARTING_SECONDS)


def _open(settings: Settings, system: RealSystem) -> SQLLedger:
    from orchd.ledger.opening import open_ledger

    return open_ledger(
        settings.database, system=system, access="write", create=True, migrate=True
    )


def _clean_up(settings: Settings, system: RealSystem) -> None:
    """End whatever a daemon of this state that died left running on this machine."""
    from orchd.processes.reaping import reaper
    from orchd.processes.tree import sweep

    reaper.adopt_orphans()
    killed = sweep(system, places.state_hash(settings.database))
    if killed:
        logger.warning("ended %d processes that a dead daemon had left behind", killed)


def leave(exit_code: int) -> None:
    """End the process now, whatever threads of user code still run in it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
