"""`orchd submit --file`: checked whole, then sent in chunks that can be repeated."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

from orchd.config.settings import Settings
from orchd.operations.errors import OperationError
from orchd.operations.json_text import read_json
from orchd.operations.submission import Known, read_submission, resolve
from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.invocation import Invocation
from orchd_ops.cli.output import as_json, clean, say, write
from orchd_ops.cli.reach import Reached, reached
from orchd_ops.cli.waiting import wait_for

FAULTS_SHOWN_MAX = 20
LINE_BYTES_MAX = 2 * 1024 * 1024
COPY_BYTES = 1024 * 1024
ID_DIGITS = 24
"""Hexadecimal digits of the file's hash that begin the ids made from it."""
CONFLICTS = ("conflict", "key_conflict")


class Line(NamedTuple):
    """A task of the file and the number of its line."""

    number: int
    body: dict[str, Any]


class TaskFile:
    """A file of tasks that can be read more than once; standard input is copied."""

    def __init__(self, name: str, defaults: Mapping[str, Any]) -> None:
        self.name = "standard input" if name == "-" else name
        self._defaults = dict(defaults)
        self._stack = ExitStack()
        self._file: IO[bytes] = self._stack.enter_context(_open(name))
        self._digest = ""

    def __enter__(self) -> TaskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, checker: Checker) -> int:
        """Check every line and return how many tasks there are.

        Raises:
            Failure: a line breaks a rule; the first of them are named.
        """
        faults: list[str] = []
        digest = hashlib.sha256(as_json(sorted(self._defaults.items())).encode())
        count = 0
        for number, text in self._lines():
            digest.update(text)
            try:
                checker.check(number, self._task(text))
                count += 1
            except OperationError as error:
                faults.append(f"{self.name}, line {number}: {clean(_sentence(error))}")
            if len(faults) == FAULTS_SHOWN_MAX:
                break
        self._digest = digest.hexdigest()[:ID_DIGITS]
        if faults:
            for fault in faults[:-1]:
                say(fault)
            raise Failure(f"{faults[-1]}; nothing was submitted", Exit.USAGE)
        return count

    def tasks(self) -> Iterator[Line]:
        """Yield the tasks; one without id and key gets an id that the file implies."""
        for number, text in self._lines():
            body = self._task(text)
            if body.get("id") is None and body.get("idempotency_key") is None:
                body["id"] = f"{self._digest}-{number}"
            yield Line(number, body)

    def _task(self, text: bytes) -> dict[str, Any]:
        body = read_json(text)
        if not isinstance(body, dict):
            return body  # type: ignore[no-any-return]  # refused by the checker
        given = {name: value for name, value in body.items() if value is not None}
        return {**self._defaults, **given}

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        number = 0
        while line := self._file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                message = f"{self.name}, line {number}: is longer than a task may be"
                raise Failure(f"{message}; nothing was submitted", Exit.USAGE)
            # Some editors begin a file with a byte order mark.
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text:
                yield number, text


def _open(name: str) -> IO[bytes]:
    if name != "-":
        try:
            file = open(name, "rb")  # noqa: SIM115  the caller's stack closes it
        except OSError as error:
            raise Failure(f"--file {name}: {error.strerror}", Exit.USAGE) from None
        if file.seekable():
            return file
        with file:
            return _copy(file)
    return _copy(sys.stdin.buffer)


def _copy(source: IO[bytes]) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  the caller's stack closes it
    while piece := source.read(COPY_BYTES):
        copy.write(piece)
    return copy


class Checker:
    """Knows what the other side would refuse, as far as it can be known here."""

    def __init__(self, settings: Settings | None, known: Known | None) -> None:
        self._settings = settings
        self._known = known
        self._ids: dict[str, tuple[int, int]] = {}

    def check(self, number: int, body: Any) -> None:
        """Check one task; raises `OperationError`."""
        submission, text = read_submission(body)
        if self._known is not None and self._settings is not None:
            resolve(submission, text, settings=self._settings, known=self._known, now=0)
        elif self._known is not None:
            self._check_names(body)
        if submission.id is not None:
            earlier, other = self._ids.setdefault(submission.id, (number, hash(text.whole)))
            if other != hash(text.whole):
                raise OperationError(
                    f"id {submission.id!r} is another task in line {earlier}"
                )

    def _check_names(self, body: Mapping[str, Any]) -> None:
        assert self._known is not None
        executor = body.get("executor")
        if executor is not None and executor not in self._known.executors:
            names = ", ".join(sorted(self._known.executors))
            raise OperationError(f"executor {executor!r} is not known; known are {names}")
        for verifier in body.get("verifiers") or ():
            if verifier not in self._known.verifiers:
                names = ", ".join(sorted(self._known.verifiers))
                raise OperationError(
                    f"verifier {verifier!r} is not known; known are {names}"
                )


def submit_file(
    call: Invocation, name: str, defaults: Mapping[str, Any], *, wait: bool
) -> int:
    """Submit the tasks of a file and return the exit code."""
    with TaskFile(name, defaults) as file:
        # The form is checked before anything is opened: a bad file makes no state.
        file.check(Checker(None, None))
        with reached(call, write=True) as found:
            total = file.check(_checker(call, found))
            sent = _Sent(call, file)
            sent.send(found, total)
        code = sent.report()
    if wait and sent.ids:
        done = wait_for(call, sent.ids)
        if any(task["status"] != "completed" for task in done):
            return Exit.FAILED
    return code


def _checker(call: Invocation, found: Reached) -> Checker:
    workers = [item for item in found.client.pages("/v1/workers") if item.get("live", True)]
    executors = {name for item in workers for name in item["executors"]}
    verifiers = {name for item in workers for name in item["verifiers"]}
    if call.url is None:
        settings = call.loaded.settings
        executors |= set(settings.executors)
        verifiers |= set(settings.verifiers)
        known = Known(frozenset(executors), frozenset(verifiers))
        # A daemon may have another default than this command's configuration.
        return Checker(settings if found.direct else None, known)
    return Checker(None, Known(frozenset(executors), frozenset(verifiers)))


class _Sent:
    """What became of the tasks that were sent."""

    def __init__(self, call: Invocation, file: TaskFile) -> None:
        self._call = call
        self._file = file
        self._counts = {"created": 0, "existing": 0, "refused": 0}
        self._codes: set[str] = set()
        self._items: list[dict[str, Any]] = []
        self.ids: list[str] = []

    def send(self, found: Reached, total: int) -> None:
        """Send the file's tasks."""
        if sys.stderr.isatty() and self._call.output.form == "table":
            from orchd_ops.cli.terminal import progress_bar

            with progress_bar("submitting") as advance:
                for done, _ in enumerate(self._outcomes(found), start=1):
                    advance(done, total)
        else:
            for _ in self._outcomes(found):
                pass

    def _outcomes(self, found: Reached) -> Iterator[None]:
        numbers = (line.number for line in self._file.tasks())
        bodies = (line.body for line in self._file.tasks())
        # Two readers of one file would disturb each other; numbers are kept aside.
        lines = list(numbers)
        for number, outcome in zip(lines, found.client.submit_many(bodies), strict=True):
            self._note(number, outcome)
            yield

    def _note(self, number: int, outcome: dict[str, Any]) -> None:
        kind = outcome["outcome"]
        self._counts[kind] += 1
        if kind != "refused":
            self.ids.append(outcome["id"])
        else:
            self._codes.add(str(outcome.get("code")))
            if self._counts["refused"] <= FAULTS_SHOWN_MAX:
                say(
                    f"{self._file.name}, line {number}: {clean(str(outcome.get('detail')))}"
                )
        item = {"id": outcome["id"], "outcome": kind, "line": number}
        if self._call.output.form == "jsonl":
            write(as_json(item))
        elif self._call.output.form == "json":
            self._items.append(item)

    def report(self) -> int:
        """Write the totals and return the exit code."""
        counts = self._counts
        totals = (
            f"submitted {counts['created']}, there before {counts['existing']}, "
            f"refused {counts['refused']}"
        )
        if self._call.output.form == "table":
            write(totals)
        elif self._call.output.form == "jsonl":
            say(totals)
        else:
            self._call.output.listing(self._items, (), None, **counts)
        if not counts["refused"]:
            return Exit.DONE
        return Exit.CONFLICT if self._codes <= set(CONFLICTS) else Exit.FAILED


def _sentence(error: OperationError) -> str:
    if not error.faults:
        return error.detail
    return "; ".join(
        f"{fault.field} {fault.rule}".strip()
        + ("" if fault.value is None else f", but it is {fault.value!r}")
        for fault in error.faults
    )
