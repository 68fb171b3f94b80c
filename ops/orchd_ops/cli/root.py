"""The program itself: its verbs and where they live."""

from __future__ import annotations

import click

from orchd_ops.cli.verbs import Lazy, LazyGroup

_VERBS = {
    "serve": ("serving", "serve", "Run the daemon in the foreground."),
    "demo": ("demonstrating", "demo", "Show what orchd does, without any key."),
    "submit": ("submitting", "submit", "Submit one task, or a file of tasks."),
    "task": ("tasks", "task", "List, show, wait for, cancel and erase tasks."),
    "dlq": ("dead_letters", "dlq", "Look at dead letters; requeue or discard them."),
    "queue": ("queues", "queue", "List, pause and resume queues."),
    "breaker": ("breakers", "breaker", "List and reset circuit breakers."),
    "replay": ("replaying", "replay", "Rebuild the state from the log, or check it."),
    "checkpoint": ("checkpoints", "checkpoint", "Make, verify and restore checkpoints."),
    "log": ("logs", "log", "Follow, export and verify the event log."),
    "db": ("databases", "db", "Upgrade and inspect the database schema."),
    "doctor": ("diagnosing", "doctor", "Check the installation and every invariant."),
    "bench": ("benchmarking", "bench", "Measure throughput and latency here."),
    "config": ("configuration", "config", "Show or write the configuration."),
    "completion": ("completing", "completion", "Print a completion script for a shell."),
}


@click.command(
    cls=LazyGroup,
    lazy={
        name: Lazy(f"orchd_ops.cli.{module}", attribute, summary)
        for name, (module, attribute, summary) in _VERBS.items()
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  orchd demo\n  orchd serve\n"
    "  orchd submit 'count these words' --executor count --wait\n"
    "  orchd task list --status failed -o json",
)
def orchd() -> None:
    """Get work done durably: execute, verify, retry, and prove it."""
