"""Disables every safety mechanism, one after the other; `make mutate` calls this.

Usage: python -m mutation JOBS [NAME,NAME...]

Each mutation of the catalogue is applied to a copy of the project. A test of its own must
fail then, with its own message, and so must the simulation or a scenario of `tests/chaos`.
Before that, all of them must pass on a copy without a mutation. Ends with 1 when one does
not, or when a mutation survives.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from multiprocessing.pool import Pool

from mutation.judging import Judgement, Notice, judge, seeds_without, tests_without
from mutation.mutation import Mutation, chosen
from mutation.running import End, workers


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    jobs, names = int(arguments[0]), arguments[1] if len(arguments) > 1 else ""
    try:
        mutations = chosen([name for name in names.split(",") if name])
    except ValueError as error:
        _tell(str(error))
        return 2
    began = time.monotonic()
    with workers(jobs) as pool:
        if not _is_sound(pool, mutations, jobs):
            return 1
        judgements = []
        for judgement in pool.imap_unordered(judge, mutations):
            judgements.append(judgement)
            _tell(_shown(judgement, f"{len(judgements)}/{len(mutations)}"))
    _tell(_summary(judgements, time.monotonic() - began))
    return int(any(judgement.survives for judgement in judgements))


def _is_sound(pool: Pool, mutations: Sequence[Mutation], jobs: int) -> bool:
    """Tell whether nobody notices anything where nothing was changed."""
    verdicts = []
    for what, run in (("tests", tests_without), ("simulation", seeds_without)):
        _tell(f"without a mutation: the {what} must pass ...")
        verdicts.append(pool.apply(run, (mutations, jobs)))
        _tell(f"    {verdicts[-1].end} {verdicts[-1].message}".rstrip())
    return all(verdict.end is End.PASSED for verdict in verdicts)


# --- what is told ---------------------------------------------------------------------


def _shown(judgement: Judgement, number: str) -> str:
    mutation = judgement.mutation
    head = f"[{number}] {mutation.name}: {mutation.mechanism} ({judgement.seconds:.0f} s)"
    return "\n".join((head, _notice(judgement.unit), _notice(judgement.system)))


def _notice(notice: Notice) -> str:
    mark = "seen by" if notice.is_right else "NOT SEEN by"
    return f"    {mark} {notice.by}\n" + textwrap.indent(notice.said, " " * 8)


def _summary(judgements: Sequence[Judgement], seconds: float) -> str:
    rows = [("mutation", "its test", "the whole system")]
    rows += [
        (each.mutation.name, _short(each.unit), _short(each.system))
        for each in sorted(judgements, key=lambda each: each.mutation.name)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    survivors = [each.mutation.name for each in judgements if each.survives]
    end = f"{len(judgements)} mutations in {seconds:.0f} s, survivors: "
    return "\n".join(["", *map(str.rstrip, lines), "", end + (", ".join(survivors) or "0")])


def _short(notice: Notice) -> str:
    return f"{'' if notice.is_right else 'NOT SEEN by '}{notice.by.rpartition('::')[2]}"


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
