"""`orchd bench`."""

from __future__ import annotations

import click

from orchd.system import RealSystem
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import clean, write
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.working import shown_progress


@examples("orchd bench", "orchd --database postgresql://… bench --tasks 10000")
@click.command(cls=Verb)
@click.option("--tasks", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--concurrency", type=click.IntRange(min=1), default=64, show_default=True)
@click.pass_context
def bench(context: click.Context, tasks: int, concurrency: int) -> None:
    """Measure throughput, latency and replay, in a place of its own that is dropped."""
    from orchd.maintenance.bench import run

    call = invocation(context)
    with shown_progress("measuring") as progress:
        report = run(
            call.loaded.settings.database,
            system=RealSystem(),
            tasks=tasks,
            concurrency=concurrency,
            progress=progress,
        )
    if call.output.form != "table":
        call.output.single(report.as_dict())
        return
    for line in report.lines():
        write(clean(line))
