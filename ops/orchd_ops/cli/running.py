"""Runs a command and turns whatever happens into an exit code and one clear sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from orchd.errors import OrchdError
from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.output import clean, say

COMPLETION_VARIABLE = "_ORCHD_COMPLETE"
INTERRUPTED = 130
"""What shells expect of a program that ended at Ctrl-C."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `arguments` (default: the process's) name, and exit."""
    # Whatever is written here belongs to this user alone: states, tokens, checkpoints.
    os.umask(0o077)
    code = _invoke(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    sys.exit(code)


def _invoke(arguments: Sequence[str] | None) -> int:
    from orchd_ops.cli.root import orchd

    try:
        outcome = orchd.main(
            args=None if arguments is None else list(arguments),
            prog_name="orchd",
            standalone_mode=False,
        )
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except SystemExit:
        # click ends the program itself in two cases: when it has completed a word for a
        # shell, and at a broken pipe, which it takes for a failure.
        if COMPLETION_VARIABLE in os.environ:
            raise
        return _unread()
    except Exception as error:
        return explain(error)
    return outcome if isinstance(outcome, int) else Exit.DONE


def explain(error: Exception) -> int:
    """Say on stderr what happened and return the exit code for it."""
    known = _known(error)
    if known is not None:
        say(f"error: {known.message}")
        return known.exit_code
    place = traceback.extract_tb(error.__traceback__)[-1]
    say(
        f"error: unexpected {type(error).__name__} in {os.path.basename(place.filename)}:"
        f"{place.lineno}: {clean(str(error))}; this is a fault of orchd, please report it"
    )
    return Exit.FAILED


def _known(error: Exception) -> Failure | None:
    if isinstance(error, Failure):
        return error
    if isinstance(error, OrchdError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        where = f"{error.filename}: " if error.filename else ""
        return Failure(f"{where}{error.strerror or error}", Exit.FAILED)
    # Imported only now: a command that works does not need to know every way to fail.
    from orchd_ops.cli.problems import translate

    return translate(error)


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    say(f"error: {error.format_message()}")
    if context is not None:
        say(f"Try '{context.command_path} --help'.")
    return Exit.USAGE


def _unread() -> int:
    # Whoever read our output has seen enough; that is no failure.
    _forget_stdout()
    return Exit.DONE


def _forget_stdout() -> None:
    # The interpreter flushes stdout once more at its end; let that go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
