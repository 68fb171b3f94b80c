"""`orchd serve`."""

from __future__ import annotations

from pathlib import Path

import click

from orchd.config.settings import Settings
from orchd.errors import ConfigurationError
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.verbs import Verb, examples


@examples(
    "orchd serve",
    "orchd serve --listen 127.0.0.1:0 --concurrency 4",
    "orchd serve --until-idle",
    "orchd --database postgresql://orchd@db/orchd serve",
)
@click.command(cls=Verb)
@click.option(
    "--until-idle",
    is_flag=True,
    help="End when nothing can go on without a person; totals in the last line.",
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where to listen; port 0: any free one."
)
@click.option(
    "--drain-timeout", metavar="DURATION", help="How long running tasks may go on."
)
@click.option("--concurrency", metavar="N", help="How many tasks to run at once.")
@click.pass_context
def serve(context: click.Context, /, until_idle: bool, **options: str | None) -> None:
    """Run the daemon in the foreground.

    Creates and migrates the state at the first start. SIGTERM or Ctrl-C drains: running
    tasks get the drain timeout to end, what is left is returned uncharged. A second
    signal stops at once. SIGHUP reads the configuration anew.
    """
    from orchd_ops.serve.stopping import StopSignals

    signals = StopSignals()
    keys = {
        "listen": "server.listen",
        "drain_timeout": "worker.drain_timeout",
        "concurrency": "worker.concurrency",
    }
    flags = {
        keys[name]: (f"--{name.replace('_', '-')}", value)
        for name, value in options.items()
        if value is not None
    }

    file: Path | None = None

    def load() -> Settings:
        nonlocal file
        loaded = invocation(context, flags).loaded
        if file is not None and not file.is_file():
            # Without this a reload would do without it, or with another one.
            raise ConfigurationError("--config", f"{file}, which was read before, is gone")
        file = loaded.file
        return loaded.settings

    from orchd_ops.cli.running import explain
    from orchd_ops.serve.leaving import leave
    from orchd_ops.serve.process import serve as run

    try:
        run(load, signals=signals, until_idle=until_idle)
    except Exception as error:
        leave(explain(error))
    leave(Exit.DONE)
