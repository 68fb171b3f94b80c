"""The command line: `orchd VERB …`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from orchd_ops.cli.running import run

    run()
